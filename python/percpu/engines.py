"""Engines written in Python: the protocol, the machine that they are told about, and a judge.

An engine is any object with ``alloc(size, align)`` and ``free(offset)``. It manages offsets, of which chunk k has
those from ``k * unit_size`` on; as in the kernel's allocator, whatever it hands out exists once for every CPU.
`compare`, `sweep` and ``replay(..., mode="rerun")`` take such engines beside the built-in ones, and check every answer.

Examples
--------
The lowest offset that fits, in a dozen lines:

>>> class FirstFit:
...     def __init__(self, geometry):
...         self.unit_size, self.areas = geometry.unit_size, {}
...     def alloc(self, size, align):
...         offset = 0
...         for start, end in sorted(self.areas.items()):
...             if offset + size <= start and offset % self.unit_size + size <= self.unit_size:
...                 break
...             offset = max(offset, -(-end // align) * align)
...             if offset % self.unit_size + size > self.unit_size:
...                 offset = (offset // self.unit_size + 1) * self.unit_size
...         self.areas[offset] = offset + size
...         return offset
...     def free(self, offset):
...         del self.areas[offset]
>>> import percpu as pc
>>> r = pc.compare(pc.workloads.objects(500, size=24), engines=["linux-5.14", FirstFit], timing=False)
>>> r.peak_handed_out_bytes.tolist()
[12000, 12000]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from percpu import _core
from percpu._checks import integer
from percpu.errors import VerifyError
from percpu.results import Result
from percpu.trace import Trace

__all__ = ["Checked", "Engine", "Factory", "Geometry"]


@dataclass(frozen=True)
class Geometry:
    """The sizes of the machine that an engine is made for.

    Attributes
    ----------
    unit_size : int
        Bytes of one CPU's share of a chunk. Offset ``k * unit_size`` is the first byte of chunk k, and no area may
        cross the end of a chunk.
    nr_units : int
        Copies of everything: what an engine hands out costs its size times this.
    page_size : int
        Bytes of a page, the unit in which memory comes.
    min_alloc_size : int
        Bytes of a granule, as far as the engine wants to know.
    block_size : int
        Bytes of a block of metadata, as far as the engine wants to know.
    """

    unit_size: int = 512 << 10
    nr_units: int = 4
    page_size: int = 4096
    min_alloc_size: int = 4
    block_size: int = 4096


@runtime_checkable
class Engine(Protocol):
    """What an engine must be able to do.

    A method ``stats()`` is optional. It returns a mapping from names to numbers; each becomes a column ``stats.NAME``
    of comparisons and sweeps, and ``metadata_bytes``, if it is there, is taken for the columns about metadata.
    """

    def alloc(self, size: int, align: int) -> int | None:
        """Serve a request.

        Parameters
        ----------
        size, align : int
            Bytes.

        Returns
        -------
        int or None
            The offset of the area, a multiple of `align` that overlaps no live area; None if the request fails.
        """

    def free(self, offset: int) -> None:
        """Take an area back.

        Parameters
        ----------
        offset : int
            What `alloc` returned.
        """


Factory = Callable[[Geometry], Engine]
"""What `compare` and `sweep` take: a class, or a function, that makes an engine for a machine."""


class Checked:
    """An engine and a judge, who raises when an answer is illegal.

    Parameters
    ----------
    engine : Engine
        The engine, without live areas.
    geometry : Geometry, optional
        The machine.

    Examples
    --------
    >>> class Forgetful:
    ...     def alloc(self, size, align):
    ...         return 0
    ...     def free(self, offset):
    ...         pass
    >>> a = Checked(Forgetful())
    >>> a.alloc(8, 4)
    0
    >>> a.alloc(8, 4)
    Traceback (most recent call last):
    ...
    percpu.errors.VerifyError: alloc(8, 4) returned 0, which overlaps the live area from 0 to 8
    """

    def __init__(self, engine: Engine, geometry: Geometry | None = None) -> None:
        geometry = geometry or Geometry()
        self.engine = check_engine("engine", engine)
        self._judge = _core.Judge(geometry.unit_size, geometry.nr_units, geometry.page_size)

    def alloc(self, size: int, align: int = 4) -> int | None:
        """Serve a request, and judge the answer.

        Parameters
        ----------
        size, align : int
            Bytes.

        Returns
        -------
        int or None
            The offset in bytes, or None if the engine has no room.

        Raises
        ------
        VerifyError
            If the area overlaps a live one, is not aligned, or crosses the end of a chunk.
        """
        size, align = integer("size", size), integer("align", align)
        offset = self.engine.alloc(size, align)
        if offset is None:
            return None
        if isinstance(offset, bool) or not isinstance(offset, int) or not 0 <= offset < 1 << 63:
            raise VerifyError(
                f"alloc({size}, {align}) returned {offset!r}, which is no offset", invariant="legal-answer"
            )
        objection = self._judge.take(offset, size, align)
        if objection is not None:
            raise VerifyError(objection, invariant="legal-answer")
        return offset

    def free(self, offset: int) -> None:
        """Take an area back.

        Parameters
        ----------
        offset : int
            What `alloc` returned.

        Raises
        ------
        VerifyError
            If no live area starts there.
        """
        if not self._judge.give_back(integer("offset", offset)):
            raise VerifyError(f"free({offset}): no live area starts there", invariant="legal-answer")
        self.engine.free(offset)

    def held(self) -> dict[str, int]:
        """What is live.

        Returns
        -------
        dict of str to int
            ``nr_objects``, ``handed_out_bytes``, ``populated_bytes`` (of one unit: pages under live areas) and
            ``nr_chunks``.
        """
        names = ("nr_objects", "handed_out_bytes", "populated_bytes", "nr_chunks")
        return dict(zip(names, self._judge.held(), strict=True))


def check_engine(parameter: str, engine: Any) -> Any:
    """Return `engine` if it keeps the protocol."""
    for method in ("alloc", "free"):
        if not callable(getattr(engine, method, None)):
            raise TypeError(f"{parameter}: {type(engine).__name__} has no method {method}()")
    return engine


def rerun(trace: Trace, engine: Any, sample_every: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Make the requests and frees of a trace with an engine: columns, mask and facts of a `Rerun`."""
    geometry = getattr(engine, "geometry", None)
    geometry = geometry if isinstance(geometry, Geometry) else Geometry()
    source = _core.Source.of_trace(trace._core)
    nr_steps = source.info()["nr_steps"]
    every = sample_every or max(1, nr_steps // 1000)
    machine = (check_engine("allocator", engine), geometry.unit_size, geometry.nr_units, geometry.page_size)
    columns, row = _core.rerun_engine(source, machine, every)
    event, ok, kind = columns["event"], columns["reason"] == 0, np.asarray(trace["kind"])
    recorded_ok = kind[event] == _core.EVENT_KINDS.index("alloc")
    frees = _frees(source, ok, kind)
    columns = {
        "event": event,
        "recorded_ok": recorded_ok,
        "ok": ok,
        "reason": columns["reason"],
        "chunk": columns["chunk"],
        "off_bytes": columns["off_bytes"],
        "unit_off_bytes": columns["off_bytes"].copy(),
        "recorded_unit_off_bytes": np.zeros(len(event), dtype=np.uint64),
    }
    mask = {name: ~ok for name in ("chunk", "off_bytes", "unit_off_bytes") if not ok.all()}
    mask["recorded_unit_off_bytes"] = np.ones(len(event), dtype=bool)
    summary = {
        "nr_events": len(trace),
        "nr_alloc": row["nr_alloc"],
        "nr_failed": row["nr_failed"],
        "nr_free": frees[True],
        "nr_free_unseen": source.info()["nr_free_unseen"],
        "nr_free_of_failed": frees[False],
        "nr_free_lost": source.info()["nr_free_lost"],
        "nr_served_only_here": int((ok & ~recorded_ok).sum()),
        "nr_comparable": 0,
        "nr_same_place": 0,
    }
    steps, origin = row["samples"], source.events()
    values = {
        "event": [int(origin[sample["step"] - 1]) + 1 for sample in steps],
        "nr_cur_alloc": [sample["nr_objects"] for sample in steps],
        "live_bytes": [sample["handed_out_bytes"] for sample in steps],
        "populated_pages": [sample["populated_bytes"] // geometry.page_size for sample in steps],
        "nr_chunks": [sample["nr_chunks"] for sample in steps],
        # A page is populated while it is used, so that there is no stock of empty ones.
        "nr_empty_pop_pages": [0] * len(steps),
    }
    timeline = Result({name: np.array(column, dtype=np.int64) for name, column in values.items()})
    return columns, mask, {"summary": summary, "timeline": timeline, "page_size": geometry.page_size}


def _frees(source: _core.Source, ok: np.ndarray, kind: np.ndarray) -> dict[bool, int]:
    """Count the recorded frees of objects that were served here, and of those that were not."""
    steps, events = source.columns(), source.events()
    assert steps is not None
    served: dict[int, bool] = {}
    answers, counts = iter(ok.tolist()), {True: 0, False: 0}
    recorded = (kind[events] == _core.EVENT_KINDS.index("free")).tolist()
    for op, id_, is_recorded in zip((steps["op"] & 3).tolist(), steps["id"].tolist(), recorded, strict=True):
        if op == 0:
            served[id_] = next(answers)
        elif op == 1 and is_recorded:
            counts[served[id_]] += 1
    return counts


def stats_of(engine: Any) -> dict[str, float]:
    """Return what the engine says about itself, as numbers by column name."""
    stats = getattr(engine, "stats", None)
    if stats is None:
        return {}
    found = stats()
    if not isinstance(found, Mapping):
        raise TypeError(f"{type(engine).__name__}.stats() must return a mapping, not {type(found).__name__}")
    numbers = {}
    for name, value in found.items():
        number = value.item() if hasattr(value, "item") else value
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise TypeError(f"{type(engine).__name__}.stats()[{name!r}] must be a number, not {type(value).__name__}")
        numbers[f"stats.{name}"] = number
    return numbers
