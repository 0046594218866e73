"""Following a trace without a start state."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu import _core
from percpu._checks import integer
from percpu._runs import Run
from percpu.results import Result

__all__ = ["Follow"]


class Follow(Run):
    """What came of following a trace: one row an event; made by `replay` with ``mode="follow"``.

    Columns: ``event`` (uint32, index in the trace) and ``outcome``, a category:

    - ``placed``, ``freed``, ``failed``, ``created``, ``destroyed``: as the line says; ``other``: no such line;
    - ``freed_prior``: a free of an area that the trace does not show being allocated: it was there before;
    - ``missing_free``: placed where a live area starts, whose free is not in the trace;
    - ``after_loss``: contradicts what was known from before a loss of events; ``no_base``: names no chunk;
    - illegal, as no kernel can have written them where they stand: ``overlap``, ``misaligned``, ``bad_size``,
      ``out_of_unit``, ``freed_inside``, ``freed_free``, ``wrong_pointer``, ``created_twice``, ``destroyed_live``.

    Of a trace that was read in blocks there are no rows, and only the areas that are live at the end are known.

    Attributes
    ----------
    summary : dict
        Counts of events by what they are (``nr_alloc``, ``nr_free``, ``nr_freed_prior``, ``nr_illegal``, ``nr_lost``,
        ...), ``nr_live`` and ``nr_chunks`` at the end; of the bytes of one unit of all chunks ``total_bytes``, and of
        these ``live_bytes`` (in areas that the trace placed), ``held_bytes`` (in use since before, by the
        statistics), ``free_bytes`` and ``unknown_bytes``; ``unknown_share``. With statistics ``unseen_objects`` and
        ``unseen_bytes`` (with least and most): live at the end, and not seen being allocated; else None.
        ``unit_size``, and ``unit_size_inferred`` if it is a guess from what was seen.
    first_illegal : dict or None
        ``event``, ``line`` and ``outcome`` of the first illegal event.
    chunks : Result
        One row a chunk in the order of first appearance: ``base_addr`` (uint64; the hash, where pointers are hashed),
        ``first_event``, ``created`` (whether by the trace), ``destroyed_event`` (missing while it exists), ``boot``
        (whether it is known to lie in the boot area), ``nr_live``, ``nr_freed_prior``, and the bytes as above.
    timeline : Result
        One row a sample: ``event`` (events read), ``time_ns``, and ``live_bytes``, ``nr_live``, ``nr_chunks``,
        ``nr_freed_prior`` (so far) after its last event, with ``min_``, ``mean_`` and ``max_`` over its events.
    """

    def __init__(self) -> None:
        raise TypeError("use replay(trace, mode='follow')")

    @classmethod
    def _wrap(cls, core: _core.Follow, times: Any, page_size: int) -> Follow:
        outcomes = core.outcomes()
        summary = core.summary()
        summary["unknown_share"] = summary["unknown_bytes"] / max(summary["total_bytes"], 1)
        illegal = core.first_illegal()
        if illegal is not None:
            event, line, outcome = illegal
            illegal = {"event": event, "line": line or None, "outcome": outcome}
        chunks = core.chunks()
        gone = ~chunks.pop("exists")
        facts = {
            "summary": summary,
            "first_illegal": illegal,
            "chunks": Result(chunks, mask={"destroyed_event": ~gone} if not gone.all() else {}),
            "timeline": Result(core.timeline()),
            "page_size": page_size,
            "times": times,
        }
        columns = {"event": np.arange(len(outcomes), dtype=np.uint32), "outcome": outcomes}
        return cls._make(core, columns, {}, facts, {"outcome": _core.OUTCOMES})

    @property
    def first_illegal(self) -> dict[str, Any] | None:
        """The first event that no kernel can have written where it stands; None if there is none."""
        return self._facts["first_illegal"]

    @property
    def chunks(self) -> Result:
        """One row a chunk."""
        return self._facts["chunks"]

    @property
    def nr_illegal(self) -> int:
        """Events that no kernel can have written where they stand."""
        return self._facts["summary"]["nr_illegal"]

    def live(self, event: int | None = None) -> Result:
        """List the live areas that are known, one row each.

        Parameters
        ----------
        event : int, optional
            After how many events; the end by default. Of a trace that was read in blocks only the end is known.

        Returns
        -------
        Result
            ``chunk`` (uint32, row of `chunks`), ``base_addr`` (uint64), ``off_bytes`` (uint64, from the chunk's base),
            ``size_bytes`` (uint64, of one CPU; exact where the allocation was seen, else a guess),
            ``max_size_bytes``, ``call_site`` (a category), ``prior`` (bool: there before the capture), ``atomic``,
            ``reserved``, ``alloc_event``, ``alloc_time_ns``, ``age_events`` and ``age_ns`` (missing if the allocation
            was not seen; times also where the clock only counts), ``free_event`` (missing if it is live at the end).
            Prior areas are those whose free lies ahead: of the others nothing is known.

        Examples
        --------
        >>> from importlib.resources import files
        >>> from percpu import read_trace, replay
        >>> r = replay(read_trace(files("percpu") / "data/demo/workload/trace.txt.gz"), mode="follow")
        >>> len(r.live()) == r.summary["nr_live"]
        True
        """
        core = self._living()
        end = self._facts["summary"]["nr_events"]
        at = end if event is None else self._event(event)
        times = self._facts["times"]
        if at < end and times is None:
            integer("event", at, end, end)
        c = core.live(at)
        unseen, counted = c["prior"], self._facts["summary"]["clock"] == "counter"
        now = self._facts["summary"]["last_time_ns"] if at == end else int(times[max(at - 1, 0)])
        unnamed, freed = ~c.pop("has_call_site"), c.pop("is_freed")
        free_event = c.pop("free_event")
        c["age_events"] = np.where(unseen, 0, at - 1 - c["alloc_event"].astype(np.int64)).astype(np.uint64)
        c["age_ns"] = np.where(unseen, 0, now - c["alloc_time_ns"].astype(np.int64)).astype(np.uint64)
        c["free_event"] = free_event
        mask = dict.fromkeys(("alloc_event", "age_events"), unseen)
        mask |= dict.fromkeys(("alloc_time_ns", "age_ns"), unseen | counted)
        mask |= {"call_site": unnamed, "free_event": ~freed}
        mask = {name: flags for name, flags in mask.items() if flags.any()}
        return Result(c, mask=mask, categories={"call_site": core.call_sites()}, attrs={"event": at})

    def cells(self, chunk: int) -> np.ndarray:
        """Say what is known of each granule of a chunk at the end.

        Parameters
        ----------
        chunk : int
            Row of `chunks`.

        Returns
        -------
        (n,) uint8 array
            0 nothing, 1 free, 2 in a live area that the trace placed, 3 in use since before the capture (by the
            statistics), 4 serves no requests. A granule is ``summary["granule"]`` bytes. Empty if the chunk went away.
        """
        core = self._living()
        return core.cells(integer("chunk", chunk, 0, max(len(self.chunks) - 1, 0)))

    def __repr__(self) -> str:
        s = self.summary
        return (
            f"Follow({s['nr_events']} events, {s['nr_live']} live areas, {s['nr_freed_prior']} learnt of before, "
            f"{s['nr_illegal']} illegal, {100 * s['unknown_share']:.1f} % unknown)"
        )
