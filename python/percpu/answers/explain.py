"""What a message of the kernel means, and what it means on a given state or trace."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from percpu import _core
from percpu._checks import integer, release
from percpu.allocator import Allocator, Chunk
from percpu.answers._explain_checks import check_state, check_trace
from percpu.answers.messages import Message, conditions, messages
from percpu.errors import AllocError, InvalidRequest, NotKept
from percpu.replay import replay
from percpu.trace import Trace, read_trace

__all__ = ["Explained", "Explanation", "check_request", "explain"]

_WIDTH = 116
# How far before the event of a failure its search is looked for: events, and points between them.
_BEFORE, _POINTS = 256, 16
_FAILURES = ("no_space", "no_chunk", "no_page", "reserved_full", "reserved_map", "map_extend", "failed", "fail_event")


@dataclass(frozen=True)
class Explanation:
    """One message, explained.

    Attributes
    ----------
    text : str
        The message, without what a log puts around it.
    kind : str
        For programs: ``no_space``, ``illegal_size``, ``max_distance``, ...
    values : dict
        The numbers in it. Sizes in bytes.
    lines : tuple of int
        Where it stands in the text, counted from 1: more than one place if it was repeated.
    means, limit, rule, likely : str
        What happened, the limit that was reached, the rule behind it, what makes it likely; may be empty.
    look, change : tuple of str
        What to look at, and what to change.
    findings : tuple of str
        What can be said of these very values, of the state and of the trace.
    check : dict or None
        The request tried on the state, see `check_request`; of other messages what the state has to compare with them.
    in_trace : dict or None
        What the trace says of such failures; of other messages what it has to compare with them.
    """

    text: str
    kind: str
    values: dict[str, Any]
    lines: tuple[int, ...]
    means: str
    limit: str
    rule: str
    likely: str
    look: tuple[str, ...]
    change: tuple[str, ...]
    findings: tuple[str, ...] = ()
    check: dict[str, Any] | None = None
    in_trace: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values.

        Returns
        -------
        dict
            Plain values, ready for JSON.
        """
        return dict(self.__dict__)

    def __str__(self) -> str:
        times = len(self.lines)
        where = f"line {self.lines[0]}" if times == 1 else f"{times} times, first in line {self.lines[0]}"
        out = [f"{self.text.strip()}   ({where})", "", textwrap.fill(self.means, _WIDTH)]
        parts = [
            ("here", self.findings),
            ("limit", (self.limit,)),
            ("rule", (self.rule,)),
            ("likely", (self.likely,)),
            ("look at", self.look),
            ("change", self.change),
        ]
        for name, texts in parts:
            there = [text for text in texts if text]
            for index, text in enumerate(there):
                out.append(_paragraph(f"{name}:" if index == 0 else "", text, bullet=len(there) > 1))
        return "\n".join(out)


def _paragraph(name: str, text: str, bullet: bool) -> str:
    first = f"  {name:<9}" + ("- " if bullet else "")
    return textwrap.fill(text, _WIDTH, initial_indent=first, subsequent_indent=" " * len(first))


@dataclass(frozen=True)
class Explained(Sequence[Explanation]):
    """What `explain` found; a sequence of `Explanation`, equal messages once.

    Attributes
    ----------
    messages : tuple of Explanation
        In the order of the text.
    unknown : tuple of (int, str)
        Lines that speak of per-CPU memory and are no message known here.
    nr_other : int
        Lines about something else.
    """

    messages: tuple[Explanation, ...] = ()
    unknown: tuple[tuple[int, str], ...] = ()
    nr_other: int = field(default=0)

    def __getitem__(self, index: Any) -> Any:
        return self.messages[index]

    def __len__(self) -> int:
        return len(self.messages)

    def __iter__(self) -> Iterator[Explanation]:
        return iter(self.messages)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values.

        Returns
        -------
        dict
            Plain values, ready for JSON.
        """
        unknown = [{"line": line, "text": text} for line, text in self.unknown]
        return {"messages": [m.to_dict() for m in self], "unknown": unknown, "nr_other": self.nr_other}

    def __str__(self) -> str:
        parts = [str(message) for message in self]
        parts += [
            f"{text}   (line {line})\n\nNot a message of the per-CPU allocator that is known here "
            "(those of Linux 2.6.30 to 6.18 are)."
            for line, text in self.unknown
        ]
        if not parts:
            parts = ["No message of the per-CPU allocator."]
        return "\n\n".join(parts)


def explain(
    text: str,
    state: Allocator | str | os.PathLike[str] | None = None,
    trace: Trace | str | os.PathLike[str] | None = None,
    *,
    kernel: str = "6.12",
    page_size: int | None = None,
) -> Explained:
    """Say what messages of the per-CPU allocator mean.

    Parameters
    ----------
    text : str
        A line as the kernel printed or as somebody quoted it, or a whole log. Messages are found in it.
    state : Allocator or path, optional
        An allocator in the state of that machine, or a state file. A failed request is tried on it (on a copy); every
        other message is held against it: sizes, CPUs, memory, what could still be served.
    trace : Trace or path, optional
        A recording. Failures of the same request are looked for in it; with `state` too, which is then the state at its
        start, the trace is replayed up to the first of them, and the request tried there. Every other message is held
        against what the trace shows.
    kernel : str, optional
        Release of a state file.
    page_size : int, optional
        Bytes of a page of that machine: 4096 by default, or that of the state.

    Returns
    -------
    Explained
        Prints as a text; ``to_dict()`` for programs.

    Raises
    ------
    StateError, TraceError
        If a file cannot be used.

    Examples
    --------
    >>> import percpu as pc
    >>> told = pc.explain("percpu: allocation failed, size=64 align=8 atomic=1, atomic alloc failed, no space left")
    >>> told[0].kind, told[0].values["size"]
    ('no_space', 64)
    >>> a = pc.Allocator(unit_size=32 << 10, nr_units=2)
    >>> told = pc.explain("allocation failed, size=64 align=8 atomic=1, atomic alloc failed, no space left", a)
    >>> print(told[0].findings[0])
    On this state the request fails: atomic alloc failed, no space left.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, not {type(text).__name__}")
    release(kernel)
    allocator = state
    if state is not None and not isinstance(state, Allocator):
        allocator = Allocator.from_state(state, kernel=kernel)
    events = read_trace(trace) if trace is not None and not isinstance(trace, Trace) else trace
    if page_size is not None:
        page_size = integer("page_size", page_size, 1024, 1 << 20)
    if isinstance(allocator, Allocator):
        page_size = allocator.page_size
    found, unknown, nr_other = _core.find_messages(text)
    places: dict[tuple[str, str, str], list[int]] = {}
    for line, message, kind, values in found:
        places.setdefault((message, kind, values), []).append(line)
    messages = tuple(
        _explanation(message, kind, json.loads(values), tuple(lines), allocator, events, page_size or 4096)
        for (message, kind, values), lines in places.items()
    )
    return Explained(messages, tuple(unknown), nr_other)


def _explanation(
    text: str,
    kind: str,
    values: dict[str, Any],
    lines: tuple[int, ...],
    allocator: Any,
    trace: Trace | None,
    page_size: int,
) -> Explanation:
    entry: Message = messages()[kind]
    findings = list(_of_values(kind, values, page_size))
    check = in_trace = None
    if kind in _FAILURES:
        request = {name: values[name] for name in ("size", "align")}
        request |= {name: bool(values.get(name)) for name in ("atomic", "reserved")}
        before = None
        if trace is not None:
            in_trace = _look_up(trace, request)
            findings += _of_trace(in_trace)
            before = in_trace["first_event"]
        if allocator is not None:
            if before is not None:
                allocator, told = _at_failure(allocator, trace, before, request)
                findings += told
            check = check_request(allocator, **request)
            findings += check.pop("texts")
    else:
        if trace is not None:
            in_trace, told = check_trace(kind, values, trace)
            findings += told
        if allocator is not None and kind == "illegal_size":
            check = check_request(allocator, values["size"], values["align"])
            findings += check.pop("texts")
        elif allocator is not None:
            check, told = check_state(kind, values, allocator)
            findings += told
    texts = {name: _fill(getattr(entry, name), values) for name in ("means", "limit", "rule", "likely")}
    lists = {name: tuple(_fill(text, values) for text in getattr(entry, name)) for name in ("look", "change")}
    return Explanation(
        text, kind, values, lines, **texts, **lists, findings=tuple(findings), check=check, in_trace=in_trace
    )


def _fill(text: str, values: dict[str, Any]) -> str:
    return text.format(**{name: "?" if value is None else value for name, value in values.items()}) if text else ""


# -- what values alone say ---------------------------------------------------------------


def _of_values(kind: str, values: dict[str, Any], page_size: int) -> Iterator[str]:
    if kind == "illegal_size":
        yield from _illegal(values["size"], values["align"], page_size)
    elif kind in ("no_space", "fail_event") and values["size"] >= page_size and values.get("atomic"):
        pages = -(-values["size"] // page_size)
        yield f"{values['size']} bytes need {pages} populated pages in a row; the stock is 2 to 4 pages in all."
    elif kind == "no_page":
        pages = -(-values["size"] // page_size) + 1
        yield f"{values['size']} bytes touch at most {pages} pages, each needed once for every possible CPU."
    elif kind == "failed_to_initialize":
        known = conditions().get(" ".join(values["condition"].split()))
        yield f"It says: {known}." if known else "The condition is none that kernels from 2.6.32 to 6.18 print here."
    elif kind == "max_distance":
        limit = values["vmalloc_total"] * 3 // 4
        if values["vmalloc_total"] == 0:
            yield "The space is 0: a kernel without an MMU, which prints this always."
        else:
            over = values["distance"] - limit
            yield f"Three quarters of the space are {limit} bytes; the groups exceed it by {over}."
    elif kind == "setup" and values["nr_cpu_ids"] > values["nr_cpumask_bits"]:
        yield "There are more CPU numbers than bits in use, which cannot be: the line is damaged."
    elif kind in ("embedded", "dump_head") and values["unit_size"] and values["dyn_size"] is not None:
        used = values["static_size"] + (values["reserved_size"] or 0) + values["dyn_size"]
        rest = values["unit_size"] - used
        share = rest / values["unit_size"]
        yield f"Of each unit {used} bytes are used by the first chunk; {rest} were given back ({share:.0%})."
    elif kind == "dump_row" and values["nr_holes"]:
        share = values["nr_holes"] / values["nr_units"]
        yield f"{share:.0%} of these units are holes: address space in every chunk, for nobody."
    elif kind == "falling_back":
        meaning = {-12: "no memory", -22: "an impossible or too spread layout"}.get(values["errno"])
        if meaning:
            yield f"Error {values['errno']}: {meaning}."


def _illegal(size: int, align: int, page_size: int) -> Iterator[str]:
    largest = -(-(32 << 10) // page_size) * page_size
    if size == 0:
        yield "The size is 0 (a size near the top of the address range becomes 0 when it is rounded up)."
    elif size > largest:
        yield f"The size is above the limit of {largest} bytes (for pages of {page_size} bytes), by {size - largest}."
    if align > page_size:
        yield f"The alignment is above one page of {page_size} bytes."
    if align & (align - 1) or align == 0:
        yield "The alignment is not a power of two."
    if 0 < size <= largest and 0 < align <= page_size and not align & (align - 1):
        yield (
            f"With pages of {page_size} bytes this request is legal; the line is of a machine with other pages, "
            "or damaged."
        )


# -- what a trace says -------------------------------------------------------------------


def _look_up(trace: Trace, request: dict[str, Any]) -> dict[str, Any]:
    """Failures of the same request in a trace, and what was going on."""
    kinds = {name: code for code, name in enumerate(_core.EVENT_KINDS)}
    kind = trace["kind"]
    failed = kind == kinds["fail"]
    allocs = kind == kinds["alloc"]
    same = (trace["size_bytes"] == request["size"]) & (trace["align_bytes"] == request["align"])
    same &= trace["atomic"] == request["atomic"]
    if request["reserved"]:
        # Other messages do not tell: without a reserved chunk such a request is like any other.
        same &= trace["reserved"]
    events = np.flatnonzero(failed & same)
    unit = {"nanoseconds": 1, "microseconds": 1000}.get(trace.info["clock"])
    facts: dict[str, Any] = {
        "nr_events": len(trace),
        "nr_failed": int(failed.sum()),
        "nr_same_request": len(events),
        "first_event": int(events[0]) if len(events) else None,
        "nr_served_same_request": int((allocs & same).sum()),
    }
    if len(events) and unit is not None:
        time = trace["time_ns"].astype(np.int64)
        at = time[events[0]]
        second = (time <= at) & (time > at - 1_000_000_000)
        second[events[0] :] = False
        facts["atomic_allocs_in_the_second_before"] = int((second & allocs & trace["atomic"]).sum())
        facts["allocs_in_the_second_before"] = int((second & allocs).sum())
        facts["chunks_created_in_the_second_before"] = int((second & (kind == kinds["create"])).sum())
    return facts


def _of_trace(facts: dict[str, Any]) -> Iterator[str]:
    if not facts["nr_same_request"]:
        n = facts["nr_failed"]
        others = f"{n} other request{' fails' if n == 1 else 's fail'} in it" if n else "no request fails in it"
        yield f"The trace has no failure of this request; {others}."
        return
    yield (
        f"In the trace this request fails {_times(facts['nr_same_request'])} (first at event {facts['first_event']}) "
        f"and is served {_times(facts['nr_served_same_request'])}."
    )
    if "allocs_in_the_second_before" in facts:
        yield (
            f"In the second before the first failure: {facts['allocs_in_the_second_before']} areas handed out, "
            f"{facts['atomic_allocs_in_the_second_before']} of them atomically, "
            f"{facts['chunks_created_in_the_second_before']} chunks made."
        )


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


def _at_failure(
    allocator: Allocator, trace: Trace, failed: int, request: dict[str, Any]
) -> tuple[Allocator, list[str]]:
    """Replay a trace to where the request failed; a copy in that state, and what is to be said of it.

    Kernel: the event of a failure is written after the search, so pages may have been populated between the two (spec
    50 section 2). So the points before such events are tried as well, the latest first.
    """
    result = replay(trace, allocator.copy())
    start = max(0, failed - _BEFORE)
    populated = np.flatnonzero(trace["kind"][start:failed] == _core.EVENT_KINDS.index("populated")) + start
    for point in [failed, *populated[::-1][:_POINTS].tolist()]:
        there = result.at(point)
        if _try(there, **request)[0] is not None:
            break
    else:
        there, point = result.at(failed), failed
    texts = []
    divergence = result.first_divergence
    if divergence is not None and divergence["event"] < failed:
        texts.append(
            f"The replay diverged from the trace at event {divergence['event']}: the state below is only near the real "
            "one."
        )
    if point < failed:
        texts.append(
            f"The state below is of event {point}: the event of a failure comes after the search, and pages were "
            "populated in between."
        )
    return there, texts


# -- what a state says -------------------------------------------------------------------


def check_request(
    allocator: Allocator, size: int, align: int = 4, *, atomic: bool = False, reserved: bool = False
) -> dict[str, Any]:
    """Try a request on a copy of an allocator, and say what decides about it.

    Parameters
    ----------
    allocator : Allocator
        Left as it is.
    size, align : int
        Bytes.
    atomic, reserved : bool, default False
        As of `Allocator.alloc`.

    Returns
    -------
    dict
        ``served`` (bool), ``reason`` (None if served, else as of `AllocError`, or ``illegal``), ``needs_chunk`` and
        ``needs_pages`` (whether it is served only by making a chunk or populating pages), ``largest_fit_bytes``
        (largest free run at that alignment, in any chunk that the request may use), ``largest_populated_fit_bytes``
        (the same on populated pages only), ``free_bytes``, ``nr_populated_pages``, ``nr_empty_pop_pages`` (None where
        not counted), ``nr_chunks``, ``nr_chunks_passed_by`` (chunks with a run that fits, which the search does not
        find because of their hints or their place in the lists), ``chunks`` (list of dict, one a chunk: ``chunk``,
        ``free_bytes``, ``contig_bytes``, ``fit_bytes``, ``populated_fit_bytes``), ``texts`` (list of str: the same in
        words).

    Examples
    --------
    >>> import percpu as pc
    >>> a = pc.Allocator(unit_size=32 << 10, nr_units=2)
    >>> facts = check_request(a, 64, atomic=True)
    >>> facts["served"], facts["reason"], facts["largest_populated_fit_bytes"]
    (False, 'no_space', 0)
    """
    if not isinstance(allocator, Allocator):
        raise TypeError(f"allocator must be an Allocator, not {type(allocator).__name__}")
    integer("size", size, 0)
    integer("align", align, 0)
    reason, wording = _try(allocator, size, align, atomic, reserved)
    facts: dict[str, Any] = {"served": reason is None, "reason": reason}
    facts["needs_chunk"] = reason is None and _try(allocator, size, align, atomic, reserved, chunks=0)[0] is not None
    facts["needs_pages"] = reason is None and _try(allocator, size, align, atomic, reserved, pages=0)[0] is not None
    own = allocator.reserved_chunk
    chunks = [own] if reserved and own is not None else list(allocator.chunks.values())
    rows = [_chunk_facts(chunk, max(align, allocator.min_alloc_size), allocator) for chunk in chunks]
    facts["largest_fit_bytes"] = max((row["fit_bytes"] for row in rows), default=0)
    facts["largest_populated_fit_bytes"] = max((row["populated_fit_bytes"] for row in rows), default=0)
    facts["free_bytes"] = sum(row["free_bytes"] for row in rows)
    facts["nr_populated_pages"] = sum(chunk.nr_populated for chunk in chunks)
    facts["nr_empty_pop_pages"] = _empty_pages(chunks)
    facts["nr_chunks"] = len(chunks)
    usable = "populated_fit_bytes" if atomic else "fit_bytes"
    rounded = -(-size // allocator.min_alloc_size) * allocator.min_alloc_size
    fitting = sum(row[usable] >= rounded for row in rows) if rounded else 0
    found_none = facts["needs_chunk"] or reason in ("no_space", "no_chunk", "reserved_full")
    facts["nr_chunks_passed_by"] = fitting if found_none else 0
    facts["chunks"] = rows
    facts["texts"] = list(_of_state(facts, rounded, align, atomic, reserved and own is not None, wording, allocator))
    return facts


def _try(
    allocator: Allocator, size: int, align: int, atomic: bool, reserved: bool, **supply: int
) -> tuple[str | None, str]:
    """Name of the reason for which a copy refuses the request, None if it serves it; and the kernel's words."""
    copy = allocator.copy()
    if supply:
        copy.limit_supply(**supply)
    try:
        copy.alloc(size, align, atomic=atomic, reserved=reserved)
    except AllocError as error:
        return error.reason, str(error)
    except InvalidRequest as error:
        return "illegal", str(error)
    return None, ""


def _chunk_facts(chunk: Chunk, align: int, allocator: Allocator) -> dict[str, Any]:
    """Largest runs of a chunk that begin at a multiple of the alignment. Bytes."""
    free = ~chunk.alloc_map
    granule = chunk.nr_pages * allocator.page_size // max(len(free), 1) if len(free) else allocator.min_alloc_size
    try:
        populated = np.repeat(chunk.populated, len(free) // max(chunk.nr_pages, 1))
    except NotKept:
        populated = np.ones(len(free), dtype=bool)
    try:
        contig: int | None = int(
            chunk.hints["contig_hint" if "contig_hint" in chunk.hints.dtype.names else "contig_bits"][0]
        )
        contig *= granule
    except NotKept:
        contig = None
    return {
        "chunk": chunk.number,
        "free_bytes": chunk.free_bytes,
        "contig_bytes": contig,
        "fit_bytes": _largest(free, align // granule, granule),
        "populated_fit_bytes": _largest(free & populated, align // granule, granule),
    }


def _largest(free: np.ndarray, step: int, granule: int) -> int:
    """Longest stretch of True that begins at a multiple of `step`, in bytes."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], free, [False])).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    step = max(step, 1)
    lengths = ends - -(-starts // step) * step
    return int(max(lengths.max(initial=0), 0)) * granule


def _empty_pages(chunks: list[Chunk]) -> int | None:
    try:
        return sum(int(chunk.nr_empty_pop_pages) for chunk in chunks)
    except NotKept:
        return None


def _of_state(
    facts: dict[str, Any], size: int, align: int, atomic: bool, reserved: bool, wording: str, allocator: Allocator
) -> Iterator[str]:
    where = "the reserved chunk" if reserved else f"{facts['nr_chunks']} chunk{'' if facts['nr_chunks'] == 1 else 's'}"
    if facts["reason"] == "illegal":
        yield f"On this state the request is refused: {wording}."
        return
    if facts["served"]:
        with_ = [
            text
            for name, text in (("needs_chunk", "a new chunk"), ("needs_pages", "pages that are not populated yet"))
            if facts[name]
        ]
        how = ", with " + " and ".join(with_) if with_ else " from populated memory"
        yield f"On this state the request is served{how}."
    else:
        yield f"On this state the request fails: {wording}."
    pages = facts["nr_empty_pop_pages"]
    stock = "" if pages is None else f", {pages} of them without any area"
    yield (
        f"There are {facts['free_bytes']} free bytes in {where}; {facts['nr_populated_pages']} pages are "
        f"populated{stock}. The largest run at alignment {max(align, allocator.min_alloc_size)} has "
        f"{facts['largest_fit_bytes']} bytes, on populated pages {facts['largest_populated_fit_bytes']}."
    )
    passed = facts["nr_chunks_passed_by"]
    if passed == 1:
        yield (
            "1 of them holds a run that would do, and is passed by: its hints are too low, or it stands in a list that "
            "is not searched for this size."
        )
    elif passed:
        yield (
            f"{passed} of them hold a run that would do, and are passed by: their hints are too low, or they stand in "
            "a list that is not searched for this size."
        )
    elif facts["served"]:
        return
    elif facts["largest_fit_bytes"] < size:
        need = "a new chunk is needed, which an atomic request must not make" if atomic else "a new chunk is needed"
        need = "only freeing areas helps" if reserved else need
        yield f"No free run has {size} bytes at that alignment, populated or not: {need}."
    elif atomic and facts["largest_populated_fit_bytes"] < size:
        yield (
            "Free runs of that size lie on pages without memory, which an atomic request must not populate: the "
            "limit is the stock of populated pages, not the room."
        )
