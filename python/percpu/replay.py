"""Replays: a trace through an allocator, every placement predicted, or made anew on any engine."""

from __future__ import annotations

from typing import Any

from percpu import _core
from percpu._checks import choice, integer
from percpu.allocator import Allocator
from percpu.results import Result
from percpu.trace import Trace

__all__ = ["Replay", "Rerun", "replay"]


class Replay(Result):
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
        One row a sample, int64: ``event``, ``nr_cur_alloc``, ``live_bytes`` and ``populated_pages`` (of one CPU),
        ``nr_chunks``, ``nr_empty_pop_pages``.
    """

    def __init__(self) -> None:
        raise TypeError("use replay(trace, allocator)")

    @classmethod
    def _wrap(cls, core: _core.Replay, page_size: int) -> Replay:
        self = cls.__new__(cls)
        columns = core.events()
        failed = ~columns["predicted_ok"]
        mask = {name: failed for name in ("chunk", "off_bytes") if failed.any()}
        summary = core.summary()
        Result.__init__(self, columns, mask=mask, attrs=summary)
        self._facts = {
            "summary": summary,
            "first_divergence": core.first_divergence(),
            "timeline": Result(core.timeline()),
            "page_size": page_size,
        }
        return self

    @property
    def summary(self) -> dict[str, Any]:
        """Counts of events, predictions and divergences."""
        return dict(self._facts["summary"])

    @property
    def first_divergence(self) -> dict[str, Any] | None:
        """The first event where model and recording differ; None if there is none."""
        return self._facts["first_divergence"]

    @property
    def timeline(self) -> Result:
        """One row a sample."""
        return self._facts["timeline"]

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

    def plot(self, ax: Any = None) -> Any:
        """Draw the timeline.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
        """
        from percpu.plot import plot_timeline

        return plot_timeline(self.timeline, ax, page_size=self._facts["page_size"])

    def __getitem__(self, key: Any) -> Any:
        """Return a column, a row, or a plain result with some of the rows."""
        if isinstance(key, str):
            return super().__getitem__(key)
        return Result(dict(self._columns), mask=self._mask, attrs=self.attrs)[key]

    def __repr__(self) -> str:
        s = self._facts["summary"]
        return f"Replay({s['nr_events']} events, {self.nr_predicted} predicted, {self.nr_diverged} diverged)"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (dict(self._columns), self._mask, self._facts)


def _rebuild(columns: Any, mask: Any, facts: dict[str, Any]) -> Replay:
    self = Replay.__new__(Replay)
    Result.__init__(self, columns, mask=mask, attrs=facts["summary"])
    self._facts = facts
    return self


class Rerun(Result):
    """What came of a rerun: one row a request; made by `replay` with ``mode="rerun"``.

    Columns: ``event`` (uint32, index in the trace), ``recorded_ok`` (bool, whether the recorded request was served),
    ``ok`` (bool, whether it was served here), ``reason`` (uint8, 0 or a code of `AllocBatch.reasons`), ``chunk``
    (uint32), ``off_bytes`` (uint64, from the chunk's base), ``unit_off_bytes`` (uint64, from the start of the unit;
    these three missing where it failed) and ``recorded_unit_off_bytes`` (uint64, missing where the trace does not
    tell).

    Attributes
    ----------
    summary : dict
        Counts: ``nr_events``; of requests ``nr_alloc`` and ``nr_failed`` (here) and ``nr_served_only_here`` (they
        failed in the recording, and were given back at once); of frees ``nr_free``, ``nr_free_unseen`` (of objects
        that the trace does not show being allocated), ``nr_free_of_failed`` (of objects whose request failed here)
        and ``nr_free_lost`` (not in the trace, which allocates the place again); ``nr_comparable`` (requests served
        in both, with both unit offsets known) and ``nr_same_place``.
    timeline : Result
        One row a sample, int64: ``event``, ``nr_cur_alloc``, ``live_bytes`` and ``populated_pages`` (of one CPU),
        ``nr_chunks``, ``nr_empty_pop_pages``.
    """

    def __init__(self) -> None:
        raise TypeError("use replay(trace, allocator, mode='rerun')")

    @classmethod
    def _wrap(cls, core: _core.Rerun, page_size: int) -> Rerun:
        columns = core.events()
        failed, unknown = ~columns["ok"], ~columns.pop("recorded_known")
        mask = {name: failed for name in ("chunk", "off_bytes", "unit_off_bytes") if failed.any()}
        if unknown.any():
            mask["recorded_unit_off_bytes"] = unknown
        facts = {"summary": core.summary(), "timeline": Result(core.timeline()), "page_size": page_size}
        return _rebuild_rerun(columns, mask, facts)

    @property
    def summary(self) -> dict[str, Any]:
        """Counts of events, requests, frees and places."""
        return dict(self._facts["summary"])

    @property
    def timeline(self) -> Result:
        """One row a sample."""
        return self._facts["timeline"]

    def plot(self, ax: Any = None) -> Any:
        """Draw the timeline.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
        """
        from percpu.plot import plot_timeline

        return plot_timeline(self.timeline, ax, page_size=self._facts["page_size"])

    def __getitem__(self, key: Any) -> Any:
        """Return a column, a row, or a plain result with some of the rows."""
        if isinstance(key, str):
            return super().__getitem__(key)
        return Result(dict(self._columns), mask=self._mask, attrs=self.attrs)[key]

    def __repr__(self) -> str:
        s = self._facts["summary"]
        return f"Rerun({s['nr_events']} events, {s['nr_alloc']} served, {s['nr_failed']} failed)"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_rerun, (dict(self._columns), self._mask, self._facts)


def _rebuild_rerun(columns: Any, mask: Any, facts: dict[str, Any]) -> Rerun:
    self = Rerun.__new__(Rerun)
    Result.__init__(self, columns, mask=mask, attrs=facts["summary"])
    self._facts = facts
    return self


def replay(trace: Trace, allocator: Allocator, *, mode: str = "predict", sample_every: int = 0) -> Replay | Rerun:
    """Run a trace through an allocator.

    The allocator is moved on: afterwards it has the state at the end of the trace. Copy it before to keep it.

    Parameters
    ----------
    trace : Trace
        n events. Sizes and alignments in bytes.
    allocator : Allocator
        To predict, in the state in which the trace begins: a recorded state, or an empty allocator on a layout. To
        rerun, any.
    mode : {"predict", "rerun"}, optional
        "predict" predicts every placement and compares; after a divergence it resynchronises and goes on. Only for
        the engines from 4.14 on.
        "rerun" makes the trace's requests and frees on any engine, whatever that does with them; the balance worker
        runs by the allocator's own policy, and frees of what the trace does not show being allocated are skipped.
    sample_every : int, optional
        Events between two samples of the timeline; 0 chooses about 1000 samples.

    Returns
    -------
    Replay or Rerun
        One row a request; a `Rerun` if ``mode="rerun"``.

    Raises
    ------
    InvalidRequest
        If the mode does not exist, or is not for this engine.
    TraceError
        If the trace cannot be replayed on this allocator at all.

    Notes
    -----
    Rules: specification section 50; see docs/fidelity.md for what was proven. Ctrl-C stops it, and leaves the
    allocator as it was.
    """
    if not isinstance(trace, Trace):
        raise TypeError(f"trace must be a Trace, not {type(trace).__name__}")
    if not isinstance(allocator, Allocator):
        raise TypeError(f"allocator must be an Allocator, not {type(allocator).__name__}")
    choice("mode", mode, ("predict", "rerun"))
    every = integer("sample_every", sample_every, 0, 2**63 - 1) or max(1, len(trace) // 1000)
    if mode == "rerun":
        return Rerun._wrap(_core.rerun(trace._core, allocator._core, every), allocator.page_size)
    core = _core.replay(trace._core, allocator._core, every)
    return Replay._wrap(core, allocator.page_size)
