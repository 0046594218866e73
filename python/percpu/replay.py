"""Replays: a trace predicted, made anew on any engine, or followed without a start state."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from percpu import _core
from percpu._checks import choice, engine_release, integer
from percpu._runs import Run, diff
from percpu.allocator import Allocator
from percpu.costs import spent
from percpu.errors import InvalidRequest
from percpu.follow import Follow
from percpu.layout import FirstChunkLayout
from percpu.results import Result
from percpu.stats import PercpuStats, read_percpu_stats
from percpu.trace import Trace

__all__ = ["Follow", "Replay", "Rerun", "replay"]

Progress = Callable[[int], Any]
_MODES = ("predict", "rerun", "follow", "closed_world")
_PAGE = 4096


class _OnEngine(Run):
    """A replay on an engine: it has an allocator at every event."""

    _served: str

    @property
    def costs(self) -> dict[str, int | None] | None:
        """Work of the modelled algorithm from the first event to the last.

        By the names of `counters`, as `Allocator.costs`; None for a fork, and where the engine counts nothing.
        """
        return self._facts.get("costs")

    def at(self, event: int) -> Allocator:
        """Return the allocator as it was after some events.

        Parameters
        ----------
        event : int
            How many events were read; 0 is the start.

        Returns
        -------
        Allocator
            A new one. In a replay that predicts, what is under way there is ended, as at the end of a trace: a request
            that has taken its area has its pages, and the balance worker is scheduled anew for what it had not done.

        Raises
        ------
        InvalidRequest
            If there are not so many events, or the trace was read in blocks.

        Notes
        -----
        Copies were kept on the way; from the nearest one the events are replayed.
        """
        core = self._living()
        return Allocator._wrap(core.at(self._event(event, self._facts["summary"].get("first_event", 0))))

    def fork(
        self,
        event: int,
        *,
        allocator: Allocator | None = None,
        kernel: str | None = None,
        engine: str | None = None,
        sample_every: int = 0,
        progress: Progress | None = None,
        **geometry: Any,
    ) -> Rerun:
        """Rerun the rest of the trace from an event on, on this engine or another.

        What is live at the event goes over into another allocator in the order in which the trace allocated it, what
        was there before the trace first, by address.

        Parameters
        ----------
        event : int
            How many events come before the fork.
        allocator : Allocator, optional
            Where to go on, empty or not; it stays as it is.
        kernel, engine : str, optional
            Or the release or engine of a new one.
        sample_every : int, optional
            Events of a sample of the timeline; 0 chooses.
        progress : callable, optional
            Called now and then with the number of events read.
        **geometry
            Sizes of the new one, as of `Allocator`: ``unit_size``, ``nr_units``, ``page_size``, ``min_alloc_size``,
            ``block_size``, ``balance``; those of this replay where not given.

        Returns
        -------
        Rerun
            Of the events from the fork on. Without another allocator, kernel, engine or size it goes on from the state
            of this replay, on requests and frees alone.

        Raises
        ------
        InvalidRequest
            If an argument is out of range, or both an allocator and an engine or sizes are given.
        """
        core = self._living()
        at = self._event(event, self._facts["summary"].get("first_event", 0))
        made = kernel is not None or engine is not None or bool(geometry)
        if made and allocator is not None:
            raise InvalidRequest("allocator= excludes kernel=, engine= and sizes", parameter="allocator")
        if allocator is not None and not isinstance(allocator, Allocator):
            raise TypeError(f"allocator must be an Allocator, not {type(allocator).__name__}")
        if made:
            own = self._facts["config"]
            sizes = {name: own[name] for name in ("unit_size", "nr_units", "page_size")}
            if kernel is None and engine is None:
                kernel = own["kernel"]
            allocator = Allocator(kernel=kernel, engine=engine, **(sizes | geometry))
        every = integer("sample_every", sample_every, 0, 2**63 - 1)
        target = None if allocator is None else allocator._core
        forked = core.fork(at, target, every, progress)
        config = self._facts["config"] if allocator is None else allocator._core.config()
        return Rerun._wrap(forked, config)

    def diff(self, other: Replay | Rerun) -> Result:
        """Compare the placements with those of another replay of the same trace.

        Parameters
        ----------
        other : Replay or Rerun
            The other one.

        Returns
        -------
        Result
            One row a request that was placed otherwise: ``event``, and of each (``first_``, ``second_``) ``ok``,
            ``chunk``, ``off_bytes``, and ``unit_off_bytes`` where both are reruns; then this is what is compared,
            because it means the same in all engines. ``attrs`` has the totals: ``nr_compared``, ``nr_equal``,
            ``nr_different``, ``nr_only_first``, ``nr_only_second`` and ``first_event``.
        """
        if not isinstance(other, _OnEngine):
            raise TypeError(f"other must be a Replay or Rerun, not {type(other).__name__}")
        return diff(self, other, (self._served, other._served))


class Replay(_OnEngine):
    """What came of a replay: one row a request; made by `replay`.

    Columns: ``event`` (index in the trace), ``ok`` (whether the recorded request was served), ``predicted`` (whether
    the model said the same: chunk and offset, or failure), and the prediction itself: ``predicted_ok``, ``chunk``,
    ``off_bytes`` (missing where a failure was predicted).

    Attributes
    ----------
    summary : dict
        Counts of requests (``nr_alloc``, ``nr_failed``, ``nr_predicted``), ``nr_events``, ``nr_free``, ``nr_diverged``,
        ``nr_late`` (lines that other CPUs overtook), ``nr_background`` (lines of the worker, of pages and of chunks
        that were predicted) and ``nr_unexplained`` (such lines that were not).
    first_divergence : dict or None
        The first event where model and recording differ: ``event``, ``line`` and all of it as ``text``; of a request
        also ``size_bytes``, ``align_bytes``, ``atomic``, ``predicted`` and ``recorded``.
    timeline : Result
        One row a sample, int64: ``event`` (events read), ``time_ns``, and ``nr_cur_alloc``, ``live_bytes`` and
        ``populated_pages`` (of one CPU), ``nr_chunks``, ``nr_empty_pop_pages`` after its last event, with ``min_``,
        ``mean_`` and ``max_`` over its events.
    """

    _served = "predicted_ok"

    def __init__(self) -> None:
        raise TypeError("use replay(trace, allocator)")

    @classmethod
    def _wrap(cls, core: _core.Replay, config: dict[str, Any]) -> Replay:
        columns = core.events()
        failed = ~columns["predicted_ok"]
        mask = {name: failed for name in ("chunk", "off_bytes") if failed.any()}
        facts = {
            "summary": core.summary(),
            "first_divergence": core.first_divergence(),
            "timeline": Result(core.timeline()),
            "page_size": config["page_size"],
            "config": config,
        }
        return cls._make(core, columns, mask, facts)

    @property
    def first_divergence(self) -> dict[str, Any] | None:
        """The first event where model and recording differ; None if there is none."""
        return self._facts["first_divergence"]

    @property
    def nr_predicted(self) -> int:
        """Requests whose outcome was predicted."""
        return self._facts["summary"]["nr_predicted"]

    @property
    def nr_diverged(self) -> int:
        """Events where model and recording differ.

        Requests with another outcome, frees of what is not live, chunks made or destroyed that were not predicted.
        """
        return self._facts["summary"]["nr_diverged"]

    def __repr__(self) -> str:
        s = self._facts["summary"]
        return f"Replay({s['nr_events']} events, {self.nr_predicted} predicted, {self.nr_diverged} diverged)"


class Rerun(_OnEngine):
    """What came of a rerun: one row a request; made by `replay` with ``mode="rerun"``, and by `Replay.fork`.

    Columns: ``event`` (uint32, index in the trace), ``recorded_ok`` (bool, whether the recorded request was served),
    ``ok`` (bool, whether it was served here), ``reason`` (uint8, 0 or a code of `AllocBatch.reasons`), ``chunk``
    (uint32), ``off_bytes`` (uint64, from the chunk's base), ``unit_off_bytes`` (uint64, from the start of the unit;
    these three missing where it failed) and ``recorded_unit_off_bytes`` (uint64, missing where the trace does not
    tell). Of a trace that was read in blocks there are no rows.

    Attributes
    ----------
    summary : dict
        Counts: ``nr_events``; of requests ``nr_alloc`` and ``nr_failed`` (here) and ``nr_served_only_here`` (they
        failed in the recording, and were given back at once); of frees ``nr_free``, ``nr_free_unseen`` (of objects
        that the trace does not show being allocated), ``nr_free_of_failed`` (of objects whose request failed here)
        and ``nr_free_lost`` (not in the trace, which allocates the place again); ``nr_comparable`` (requests served
        in both, with both unit offsets known) and ``nr_same_place``; of a fork ``first_event``, ``nr_carried`` and
        ``nr_not_carried`` (what was live there and found a place, or none).
    timeline : Result
        As of `Replay`.
    """

    _served = "ok"

    def __init__(self) -> None:
        raise TypeError("use replay(trace, allocator, mode='rerun')")

    @classmethod
    def _wrap(cls, core: _core.Rerun, config: dict[str, Any]) -> Rerun:
        columns = core.events()
        failed, unknown = ~columns["ok"], ~columns.pop("recorded_known")
        mask = {name: failed for name in ("chunk", "off_bytes", "unit_off_bytes") if failed.any()}
        if unknown.any():
            mask["recorded_unit_off_bytes"] = unknown
        facts = {
            "summary": core.summary(),
            "timeline": Result(core.timeline()),
            "page_size": config["page_size"],
            "config": config,
        }
        return cls._make(core, columns, mask, facts)

    @property
    def allocator(self) -> Allocator:
        """A copy of the allocator after the last event."""
        return Allocator._wrap(self._living().allocator())

    def __repr__(self) -> str:
        s = self._facts["summary"]
        return f"Rerun({s['nr_events']} events, {s['nr_alloc']} served, {s['nr_failed']} failed)"


def replay(
    trace: Trace | Iterable[Trace],
    allocator: Any = None,
    *,
    mode: str = "predict",
    sample_every: int = 0,
    layout: FirstChunkLayout | None = None,
    unit_size: int | None = None,
    nr_units: int = 1,
    granule: int | None = None,
    stats: PercpuStats | str | os.PathLike[str] | None = None,
    stats_end: PercpuStats | str | os.PathLike[str] | None = None,
    kernel: str | None = None,
    progress: Progress | None = None,
) -> Any:
    """Run a trace through an allocator, or without one.

    A given allocator is moved on: afterwards it has the state at the end of the trace. Copy it before to keep it.

    Whatever the trace says, the allocator is whole afterwards. Where a trace contradicts itself or the start state,
    what is written wins and is counted; what is under way at its end is ended (see :meth:`Replay.at`).

    Parameters
    ----------
    trace : Trace or iterable of Trace
        n events. Sizes and alignments in bytes. Blocks of a trace that is larger than memory may be given one after the
        other, to rerun and to follow; then what came of single events is not kept.
    allocator : Allocator or engine in Python, optional
        To predict, in the state in which the trace begins: a recorded state, or an empty allocator on a layout. To
        rerun, any, also an engine in Python without live areas (`percpu.engines`), on the machine that its attribute
        ``geometry`` names. The other modes take none.
    mode : {"predict", "rerun", "follow", "closed_world"}, optional
        "predict" predicts every placement and compares; after a divergence it resynchronises and goes on. Only for
        the engines from 4.14 on.
        "rerun" makes the trace's requests and frees on any engine, whatever that does with them; the balance worker
        runs by the allocator's own policy, and frees of what the trace does not show being allocated are skipped.
        "follow" needs no start state: it places what the trace says, checks that it is legal, and learns what was there
        before.
        "closed_world" predicts without a start state, from one that it makes from the trace: what the trace does not
        show to be free counts as in use.
    sample_every : int, optional
        Events of a sample of the timeline; 0 chooses about 1000 samples, some thousand of blocks.
    layout : FirstChunkLayout, optional
        To follow and in a closed world: tells the unit size and where requests are served in the boot area.
    unit_size : int, optional
        Or only the unit size, in bytes. Without either it is taken from the statistics, else, to follow, inferred from
        what is seen.
    nr_units : int, optional
        In a closed world: units of a chunk. No placement depends on it.
    granule : int, optional
        To follow: bytes of a granule; by default 4, or 2 if the trace shows a kernel before 4.14.
    stats, stats_end : PercpuStats, str or path, optional
        To follow: ``percpu_stats`` (read, its text, or the path of a file with it) from right before the first event,
        or right after the last. They fix the totals, so that what stays unseen is known. In a closed world the first
        one tells more of the start.
    kernel : str, optional
        In a closed world: release or engine; 6.12 by default.
    progress : callable, optional
        Called now and then, and at the end, with the number of events read.

    Returns
    -------
    Replay, Rerun or Follow
        One row a request: a `Replay`, or a `Rerun` if ``mode="rerun"``. One row an event: a `Follow` if
        ``mode="follow"``.

    Raises
    ------
    InvalidRequest
        If the mode does not exist, is not for this engine, or an argument does not go with it.
    VerifyError
        If an engine in Python gives an illegal answer.
    TraceError
        If the trace cannot be replayed at all, or a statistics text is none.

    Notes
    -----
    Rules: specification section 50; see docs/fidelity.md for what was proven. Ctrl-C stops it, and leaves the
    allocator as it was.

    Examples
    --------
    >>> from importlib.resources import files
    >>> from percpu import read_trace
    >>> trace = read_trace(files("percpu") / "data/demo/workload/trace.txt.gz")
    >>> replay(trace, mode="follow").nr_illegal
    0
    """
    choice("mode", mode, _MODES)
    if mode == "rerun" and isinstance(trace, Trace) and callable(getattr(type(allocator), "free", None)):
        from percpu.engines import rerun

        if not isinstance(allocator, Allocator):
            return Rerun._make(None, *rerun(trace, allocator, integer("sample_every", sample_every, 0, 2**63 - 1)))
    _check_arguments(mode, allocator, layout=layout, unit_size=unit_size, granule=granule, stats=stats,
                     stats_end=stats_end, kernel=kernel)  # fmt: skip
    whole, blocks = _events(trace)
    if whole is None and mode not in ("rerun", "follow"):
        raise InvalidRequest(f"trace=blocks: mode={mode!r} needs the whole trace", parameter="trace")
    every = integer("sample_every", sample_every, 0, 2**63 - 1)
    if whole is not None:
        every = every or max(1, len(whole) // 1000)
    if mode == "follow":
        return _follow(whole, blocks, layout, unit_size, granule, stats, stats_end, every, progress)
    if mode == "closed_world":
        assert whole is not None
        allocator = _closed_world(whole, layout, unit_size, nr_units, stats, kernel)
    assert allocator is not None
    config = allocator._core.config()
    before = allocator._core.costs()
    result: Replay | Rerun
    if mode != "rerun":
        assert whole is not None
        result = Replay._wrap(_core.replay(whole._core, allocator._core, every, progress), config)
    elif whole is None:
        result = Rerun._wrap(_core.rerun_blocks(blocks, allocator._core, every, progress), config)
    else:
        result = Rerun._wrap(_core.rerun(whole._core, allocator._core, every, progress), config)
    result._facts["costs"] = spent(allocator._core, before)
    return result


def _events(trace: Any) -> tuple[Trace | None, Iterator[_core.Trace]]:
    """Return the whole trace, or its blocks."""
    if isinstance(trace, Trace):
        return trace, iter(())
    if isinstance(trace, (str, Result)) or not isinstance(trace, Iterable):
        raise TypeError(f"trace must be a Trace or an iterable of Trace, not {type(trace).__name__}")
    return None, _cores(trace)


def _cores(blocks: Iterable[Any]) -> Iterator[_core.Trace]:
    for block in blocks:
        if not isinstance(block, Trace):
            raise TypeError(f"trace must yield Trace, not {type(block).__name__}")
        yield block._core


def _check_arguments(mode: str, allocator: Any, **others: Any) -> None:
    needs = mode in ("predict", "rerun")
    if needs and not isinstance(allocator, Allocator):
        hint = "; mode='follow' and 'closed_world' need none" if allocator is None else ""
        raise TypeError(f"allocator must be an Allocator for mode={mode!r}, not {type(allocator).__name__}{hint}")
    if not needs and allocator is not None:
        raise InvalidRequest(f"allocator={allocator!r}: mode={mode!r} takes none", parameter="allocator")
    allowed = {
        "predict": (),
        "rerun": (),
        "follow": ("layout", "unit_size", "granule", "stats", "stats_end"),
        "closed_world": ("layout", "unit_size", "stats", "kernel"),
    }[mode]
    for name, value in others.items():
        if value is not None and name not in allowed:
            raise InvalidRequest(f"{name}={value!r}: mode={mode!r} does not take it", parameter=name)
    layout = others["layout"]
    if layout is not None and not isinstance(layout, FirstChunkLayout):
        raise TypeError(f"layout must be a FirstChunkLayout, not {type(layout).__name__}")
    unit_size = others["unit_size"]
    if layout is not None and unit_size is not None and unit_size != layout.unit_size:
        text = f"unit_size={unit_size}: the layout has {layout.unit_size}"
        raise InvalidRequest(text, parameter="unit_size")


def _statistics(parameter: str, value: Any) -> PercpuStats | None:
    """Return statistics that are given themselves, as a text or by the path of a file."""
    if value is None or isinstance(value, PercpuStats):
        return value
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{parameter} must be a PercpuStats, a text or a path, not {type(value).__name__}")
    return read_percpu_stats(value)


def _boot(layout: FirstChunkLayout | None) -> tuple[int, int, int] | None:
    """Return where the first chunk lies: offset of its base in the unit, hidden bytes before it, size."""
    if layout is None:
        return None
    region = layout.first
    return region.base_addr - layout.base_addr, region.start_offset, region.size_bytes


def _follow(
    whole: Trace | None,
    blocks: Iterator[_core.Trace],
    layout: FirstChunkLayout | None,
    unit_size: int | None,
    granule: int | None,
    stats: Any,
    stats_end: Any,
    every: int,
    progress: Progress | None,
) -> Follow:
    if layout is not None:
        unit_size = layout.unit_size
    unit = None if unit_size is None else integer("unit_size", unit_size, 1, 2**30)
    cell = 0 if granule is None else integer("granule", granule, 1, 64)
    given = (_statistics("stats", stats), _statistics("stats_end", stats_end))
    texts = tuple(None if one is None else one.to_text() for one in given)
    page = _PAGE if layout is None else layout.page_size
    if whole is None:
        core = _core.follow_blocks(blocks, unit, cell, _boot(layout), page, *texts, every, progress)
        return Follow._wrap(core, None, page)
    core = _core.follow(whole._core, unit, cell, _boot(layout), page, *texts, every, progress)
    return Follow._wrap(core, whole["time_ns"], page)


def _closed_world(
    whole: Trace, layout: FirstChunkLayout | None, unit_size: int | None, nr_units: int, stats: Any, kernel: str | None
) -> Allocator:
    start = _statistics("stats", stats)
    if layout is not None:
        unit_size, nr_units = layout.unit_size, layout.nr_units
        kernel = layout.kernel if kernel is None else kernel
    if unit_size is None and start is not None:
        unit_size = start.sizes["unit_size"]
    if unit_size is None:
        raise InvalidRequest("unit_size=None: a closed world needs it, layout= or stats=", parameter="unit_size")
    unit = integer("unit_size", unit_size, 1, 2**30)
    units = integer("nr_units", nr_units, 1, 2**20)
    page = _PAGE if layout is None else layout.page_size
    name = engine_release(kernel, None, "6.12")[0]
    text = None if start is None else start.to_text()
    return Allocator._wrap(_core.closed_world(whole._core, name, unit, units, page, text, 1))
