"""Step by step: a short run, each operation with its picture and the rules that led to its outcome, in words."""

from __future__ import annotations

import copy
import html
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from percpu import _core, _words
from percpu._checks import integer
from percpu._step_picture import Scene, draw
from percpu._svg import page
from percpu._words import Rule
from percpu.allocator import Allocator
from percpu.errors import InvalidAddress, NotKept
from percpu.trace import Trace
from percpu.workloads import Workload

__all__ = ["Rule", "Step", "Steps", "steps"]

_MOST = 10_000
_EACH = 3  # steps for each request and free: itself, the worker by its policy, and where a workload says so
_SHOWN = 25  # steps that a notebook shows
_KEY = (
    "Vermilion: the area that is taken; pink: the area that is given back; ochre: contig_hint; green: scan_hint; "
    "crosses: passed over; the mark above: where the search of the map begins. Shaded: free, populated; white: "
    "not populated."
)


@dataclass(frozen=True)
class Step:
    """One operation of a run; from `Steps`.

    Attributes
    ----------
    number : int
        From 0.
    kind : str
        ``alloc``, ``free`` or ``balance``.
    operation : str
        In words.
    ok : bool
        False for a request that failed.
    chunk : int or None
        Where the area is; None for the reserved chunk, and where there is no area.
    off_bytes, size_bytes : int or None
        Of the area, from the chunk's base; None where there is none.
    event : int or None
        Of the trace; None for steps of a workload, and for the worker.
    rules : tuple of Rule
        What happened and why: ``kind``, ``text`` and ``values``.
    costs : dict or None
        Counted work by the names of `counters`; None for the worker, and where the engine counts nothing.
    svg : str
        The picture: the chunk after the step, a stretch of it enlarged, and the slots.
    """

    number: int
    kind: str
    operation: str
    ok: bool
    chunk: int | None
    off_bytes: int | None
    size_bytes: int | None
    event: int | None
    rules: tuple[Rule, ...]
    costs: dict[str, int] | None
    svg: str = field(repr=False)

    @property
    def outcome(self) -> str:
        """Where the area is, in words; why there is none."""
        if not self.ok:
            return "fails"
        if self.off_bytes is None or self.size_bytes is None:
            return ""
        where = "reserved chunk" if self.chunk is None else f"chunk {self.chunk}"
        return f"{where}, bytes {self.off_bytes:,} to {self.off_bytes + self.size_bytes:,}"

    def __str__(self) -> str:
        head = f"{self.number:>4}  {self.operation}"
        if self.outcome:
            head += f"  ->  {self.outcome}"
        return "\n".join([head, *(f"      {rule.text}" for rule in self.rules)])

    def _repr_html_(self) -> str:
        return _step_html(self, opened=True)


class Steps(Sequence[Step]):
    """A run, step by step; made by `steps`.

    ``print()`` gives text, a notebook shows pictures, `to_html` writes a page. A slice is a `Steps` too.

    Attributes
    ----------
    allocator : Allocator
        The state after the last step.
    truncated : bool
        Whether there were more operations than the limit.
    nr_skipped : int
        Frees of a trace that were left out, since nothing is known of their areas.
    """

    def __init__(
        self, found: Sequence[Step], allocator: Allocator, *, truncated: bool = False, nr_skipped: int = 0
    ) -> None:
        self._steps = tuple(found)
        self.allocator = allocator
        self.truncated = truncated
        self.nr_skipped = nr_skipped

    def __len__(self) -> int:
        return len(self._steps)

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> Steps: ...
    def __getitem__(self, index: int | slice) -> Step | Steps:
        if isinstance(index, slice):
            return Steps(self._steps[index], self.allocator, truncated=self.truncated, nr_skipped=self.nr_skipped)
        return self._steps[index]

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps)

    def __repr__(self) -> str:
        kinds = [step.kind for step in self._steps]
        more = ", cut" if self.truncated else ""
        return (
            f"Steps({kinds.count('alloc')} requests, {kinds.count('free')} frees, {kinds.count('balance')} runs of the "
            f"worker{more})"
        )

    def __str__(self) -> str:
        return "\n".join(map(str, self._steps))

    def _notes(self) -> str:
        notes = []
        if self.truncated:
            notes.append("There are more operations than these.")
        if self.nr_skipped:
            notes.append(f"{self.nr_skipped:,} frees of areas of which nothing is known were left out.")
        return f"<p class='note'>{' '.join([_KEY, *notes])}</p>"

    def _repr_html_(self) -> str:
        body = "".join(_step_html(step, opened=i < 3) for i, step in enumerate(self._steps[:_SHOWN]))
        rest = len(self) - _SHOWN
        more = f"<p>{rest:,} steps more: use a slice, or to_html()</p>" if rest > 0 else ""
        return f"<div>{body}{more}{self._notes()}</div>"

    def to_html(self, path: str | os.PathLike[str] | None = None, *, title: str = "Step by step") -> str:
        """Make a page of its own, which loads nothing from elsewhere.

        Parameters
        ----------
        path : path, optional
            Where to write it.
        title : str, optional
            Its heading.

        Returns
        -------
        str
            The page.

        Examples
        --------
        >>> import percpu as pc
        >>> run = pc.steps(pc.workloads.objects(2, size=24), pc.Allocator(unit_size=32 << 10, nr_units=2))
        >>> run.to_html().startswith("<!DOCTYPE html>")
        True
        """
        text = page(title, self.to_body())
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def to_body(self) -> str:
        """Make a part of a page.

        Returns
        -------
        str
            HTML without a head.
        """
        return self._notes() + "".join(_step_html(step, opened=True) for step in self._steps)


def _step_html(step: Step, *, opened: bool) -> str:
    rules = "".join(f"<li>{html.escape(rule.text)}</li>" for rule in step.rules)
    outcome = f" → {html.escape(step.outcome)}" if step.outcome else ""
    head = f"<summary><b>{step.number}</b> {html.escape(step.operation)}{outcome}</summary>"
    return f"<details{' open' if opened else ''}>{head}<ul>{rules}</ul>{step.svg}</details>"


# -- running -----------------------------------------------------------------------------


class _Operation(NamedTuple):
    """What is asked: of a free, ``key`` names the object."""

    kind: str
    key: Any
    size: int = 0
    align: int = 0
    atomic: bool = False
    reserved: bool = False
    event: int | None = None
    ptr: int | None = None
    failed: bool = False


def steps(what: Trace | Workload, allocator: Allocator, *, limit: int = 100) -> Steps:
    """Run something short, and say of each operation what it did and why.

    The rules are found by following the search of the engine on its public state before and after each operation; for
    the engines from 4.14 on down to the block where a search of the map begins, what it passes over, and the hints
    that an area breaks.

    Parameters
    ----------
    what : Trace or Workload
        Requests and frees. Of a trace they are made anew, as in `replay` with ``mode="rerun"``; a free of what was
        there before the trace is made if an area of the allocator lies at the recorded address, else left out.
    allocator : Allocator
        Where it begins, of any engine. It stays as it is. The balance worker runs by its policy, as a step of its own.
    limit : int, optional
        Most requests and frees; what comes after them is left out. Of all steps, those of the worker included, there
        are three times as many at most.

    Returns
    -------
    Steps

    Raises
    ------
    InvalidRequest
        If an argument is out of range, or the steps of a workload depend on where objects lie.

    Examples
    --------
    >>> import percpu as pc
    >>> a = pc.Allocator(unit_size=32 << 10, nr_units=2)
    >>> run = steps(pc.workloads.objects(2, size=24), a, limit=2)
    >>> run
    Steps(2 requests, 0 frees, 1 runs of the worker, cut)
    >>> for rule in run[2].rules[1:3]:
    ...     print(rule.text)
    The search of the map begins at 24, the first_free of block 0.
    It gets the bytes 24 to 48 of chunk 0, block 0.
    """
    if not isinstance(allocator, Allocator):
        raise TypeError(f"allocator must be an Allocator, not {type(allocator).__name__}")
    most = integer("limit", limit, 1, _MOST)
    if isinstance(what, Trace):
        operations = _of_trace(what)
    elif isinstance(what, Workload):
        operations = _of_workload(what)
    else:
        raise TypeError(f"what must be a Trace or a Workload, not {type(what).__name__}")
    return _Run(allocator).all(operations, most)


def _of_workload(workload: Workload) -> Iterator[_Operation]:
    for batch in workload.steps():
        for row in batch.rows():
            if row["kind"] == "alloc":
                yield _Operation(
                    "alloc", row["id"], row["size_bytes"], row["align_bytes"], row["atomic"], row["reserved"]
                )
            elif row["kind"] != "phase":
                yield _Operation(row["kind"], row["id"])


def _of_trace(trace: Trace) -> Iterator[_Operation]:
    hashed = trace.info["hashed"]
    for event in range(len(trace)):
        row = trace.row(event)
        kind = row["kind"]
        if kind in ("alloc", "fail"):
            yield _Operation(
                "alloc",
                (row.get("base_addr"), row.get("off_bytes")),
                row["size_bytes"],
                row["align_bytes"] or 4,
                bool(row["atomic"]),
                bool(row["reserved"]),
                event,
                failed=kind == "fail",
            )
        elif kind == "free":
            ptr = None if hashed else row.get("ptr")
            yield _Operation("free", (row.get("base_addr"), row.get("off_bytes")), event=event, ptr=ptr)


class _Run:
    """An allocator that is led through operations one by one, its worker apart from them."""

    def __init__(self, allocator: Allocator) -> None:
        config = allocator._core.config()
        self.every, self.since = config["balance_every"], config["since_balance"]
        self.now = _with_policy(allocator, 0, self.since)
        self.live: dict[Any, tuple[int, int]] = {}
        self.failed: set[Any] = set()
        self.found: list[Step] = []
        self.nr_skipped = 0

    def all(self, operations: Iterator[_Operation], most: int) -> Steps:
        done, truncated = 0, False
        for operation in operations:
            worker = operation.kind == "balance"
            if len(self.found) >= _EACH * most or (done == most and not worker):
                truncated = True
                break
            if worker:
                self.since = 0
                self.worker()
                continue
            if operation.kind == "free":
                done += self.free(operation)
            else:
                self.request(operation)
                done += 1
        end = _with_policy(self.now, self.every, self.since)
        return Steps(self.found, end, truncated=truncated, nr_skipped=self.nr_skipped)

    def request(self, operation: _Operation) -> None:
        before = self.now.copy()
        size, align = operation.size, operation.align
        batch, costs = _costed(self.now, size, align, operation.atomic, operation.reserved)
        reason = int(batch.reason[0])
        chunk, off = (int(batch.chunk[0]), int(batch.off_bytes[0])) if reason == 0 else (0, 0)
        request = _words.Request(size, align, operation.atomic, operation.reserved, reason, chunk, off)
        rules = _words.of_request(before, self.now, request)
        words = [f"alloc {size:,} byte{'' if size == 1 else 's'}, align {align}"]
        words += [name for name in ("atomic", "reserved") if getattr(operation, name)]
        taken = next((rule.values["size_bytes"] for rule in rules if rule.kind == "place"), size)
        scene = Scene(chunk, off, taken, "alloc", rules) if reason == 0 else Scene(None, 0, 0, "alloc", rules)
        self.add("alloc", ", ".join(words), reason == 0, scene, operation.event, costs)
        if reason == 0:
            self.live[operation.key] = int(batch.ptr[0]), size
            self.failed.discard(operation.key)
        else:
            self.failed.add(operation.key)
        self.tick()
        if reason == 0 and operation.failed:
            # It failed in the recording, so that nothing there frees it.
            self.free(operation._replace(kind="free", ptr=None))

    def free(self, operation: _Operation) -> int:
        """Free an object; return whether there was one."""
        ptr, size = self.live.pop(operation.key, (operation.ptr, 0))
        if operation.key in self.failed:
            self.failed.discard(operation.key)
            return 0
        try:
            area = None if ptr is None else self._area(ptr, size)
        except InvalidAddress:
            area = None
        if area is None:
            self.nr_skipped += 1
            return 0
        before = self.now.copy()
        chunk, off, taken = area
        costs = _freed(self.now, ptr, size)
        rules = _words.of_free(before, self.now, chunk, off, taken)
        scene = Scene(chunk, off, taken, "free", rules)
        self.add("free", f"free {taken:,} bytes", True, scene, operation.event, costs)
        self.tick()
        return 1

    def _area(self, ptr: int, size: int) -> tuple[int, int, int]:
        """Chunk, offset and size of the area at a pointer; cpu_alloc-2008 stores no sizes."""
        if self.now.engine == "cpu_alloc-2008":
            (number,) = self.now.chunks
            off = ptr - self.now.chunks[number].base_addr
            return number, off, -(-size // self.now.min_alloc_size) * self.now.min_alloc_size
        found = self.now.locate(ptr)
        return _core.RESERVED if found.chunk is None else found.chunk, found.off_bytes, found.size_bytes

    def tick(self) -> None:
        """Count an operation, and run the worker where the policy says so."""
        if not self.every:
            return
        self.since += 1
        if self.since >= self.every:
            self.since = 0
            if self.now.balance_pending:
                self.worker()

    def worker(self) -> None:
        before = self.now.copy()
        self.now.balance()
        rules = _words.of_worker(before, self.now)
        chunk = next((r.values["chunk"] for r in rules if r.values.get("chunk") in self.now.chunks), None)
        self.add("balance", "the balance worker runs", True, Scene(chunk, 0, 0, "balance", rules), None, None)

    def add(
        self,
        kind: str,
        operation: str,
        ok: bool,
        scene: Scene,
        event: int | None,
        costs: dict[str, int] | None,
    ) -> None:
        area = scene.size > 0
        number = None if scene.chunk == _core.RESERVED or not area else scene.chunk
        self.found.append(
            Step(
                len(self.found),
                kind,
                operation,
                ok,
                number,
                scene.off if area else None,
                scene.size if area else None,
                event,
                tuple(scene.rules),
                costs,
                draw(self.now, scene),
            )
        )


def _with_policy(allocator: Allocator, every: int, since: int) -> Allocator:
    """Copy an allocator, with another policy for its worker: nothing else of it changes."""
    other = copy.copy(allocator)
    other._core.set_balance_policy(every, since)
    return other


def _costed(now: Allocator, size: int, align: int, atomic: bool, reserved: bool) -> tuple[Any, dict[str, int] | None]:
    """Make a request, with its costs where they are counted."""
    arguments: dict[str, Any] = {"atomic": bool(atomic), "reserved": bool(reserved)}
    try:
        batch = now.alloc_many([size], [align], costs=True, **arguments)
    except NotKept:
        return now.alloc_many([size], [align], **arguments), None
    assert batch.costs is not None
    return batch, {name: int(batch.costs[name][0]) for name in batch.costs}


def _freed(now: Allocator, ptr: int | None, size: int) -> dict[str, int] | None:
    """Free an area, with the costs where they are counted."""
    ptrs = np.array([ptr], dtype=np.uint64)
    sizes = [size] if now.engine == "cpu_alloc-2008" else None
    try:
        row = now.free_many(ptrs, sizes, costs=True)
    except NotKept:
        now.free_many(ptrs, sizes)
        return None
    assert row is not None
    return {name: int(row[name][0]) for name in row}
