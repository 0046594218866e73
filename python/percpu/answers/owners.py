"""Who owns per-CPU memory: live bytes by call site, function, size or chunk, over a capture; two captures compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from percpu import _core
from percpu._checks import choice, integer, release
from percpu.allocator import Allocator
from percpu.answers._machine import Cpus, live_areas, meminfo_bytes, possible_cpus
from percpu.answers._owners_table import Making
from percpu.errors import InvalidRequest
from percpu.follow import Follow
from percpu.kallsyms import Kallsyms, read_kallsyms
from percpu.layout import FirstChunkLayout
from percpu.replay import _boot, _events, _statistics
from percpu.results import Result
from percpu.stats import PercpuStats
from percpu.trace import Trace, read_trace

__all__ = ["Owners", "owners"]

_PAGE = 4096
# Ages are counted in classes with these bounds.
_SECONDS = (0, 0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 86_400)
_EVENTS = (0, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)


class Owners(Result):
    """One row an owner, the one that holds most first; made by `owners`.

    Bytes are of one CPU; columns that begin with ``all_`` are times possible CPUs, and there if their number is known.

    =====================================  ====================================================================
    column                                 means
    =====================================  ====================================================================
    ``owner``                              category: call site, function, size or chunk
    ``size_bytes`` or ``base_addr``        uint64, by size or by chunk only
    ``nr_live``, ``live_bytes``            uint64: live at the end, and seen being allocated
    ``all_live_bytes``                     the same times CPUs
    ``share_percent``                      float64, of what is known to be live
    ``peak_bytes``, ``all_peak_bytes``     uint64: most at any time
    ``peak_event``, ``peak_time_ns``       uint64: when that was reached first
    ``growth_bytes_per_1000_events``       float64: change over the window (``summary["window_first_event"]`` on)
    ``growth_bytes_per_second``            float64: the same by time; missing where the clock only counts
    ``all_growth_bytes_per_second``        the same times CPUs
    ``age_median_events``, ``age_max_..``  uint64: of what is live, events since it was allocated (lower median)
    ``age_median_seconds``, ``age_max_..`` float64
    ``nr_sizes``, ``main_size_bytes``      uint64: sizes of what is live, and the one that makes up most of the bytes
    ``nr_alloc``, ``nr_free``              uint64: areas placed, and ended
    ``nr_atomic``                          uint64: placed by requests that may not sleep
    ``alloc_bytes``                        uint64: placed in all
    ``mean_life_events``, ``.._seconds``   float64: from placing to ending, of those that ended
    ``before``                             bool: the row of what was there before the capture
    =====================================  ====================================================================

    The last row may be that of what was there before the capture: exact with a start state; the areas that the
    statistics count and the capture does not show with statistics; else only ``nr_free`` of it is known.

    Attributes
    ----------
    summary : dict
        ``by``; ``nr_events``, ``seconds`` (None where the clock only counts); ``cpus``, ``cpus_least``,
        ``cpus_most``, ``cpus_source`` (how the number was found); ``nr_owners``, ``nr_live``, ``live_bytes``,
        ``all_live_bytes``, ``peak_bytes`` (of all that is known together), ``peak_event``;
        ``growth_bytes_per_1000_events``, ``growth_bytes_per_second``, ``window_first_event``, ``window_events``,
        ``window_seconds``; ``nr_freed_prior`` (frees of what was there before); ``nr_lost``, ``nr_illegal``,
        ``hashed``; what `unseen` says.
    unseen : dict
        Live at the end, and not seen being allocated: ``source`` (``state``, ``stats_end``, ``stats``, ``meminfo``,
        None), ``objects_least``, ``objects_most``, ``bytes_least``, ``bytes_most`` (None = no limit is known),
        ``share_least``, ``share_most`` (of all that is live), ``unknown_bytes`` (of the chunks that the capture
        names: neither seen nor known to be free).
    sizes : Result
        One row an owner and size: ``owner``, ``size_bytes``, ``nr_live``, ``live_bytes``.
    follow : Follow
        The replay behind it: every chunk, every live area.
    """

    _facts: dict[str, Any]

    def __init__(self) -> None:
        raise TypeError("use owners(trace)")

    @classmethod
    def _wrap(cls, columns: Any, mask: Any, categories: Any, facts: dict[str, Any]) -> Owners:
        self = cls.__new__(cls)
        mask = {name: flags for name, flags in mask.items() if flags.any()}
        Result.__init__(self, columns, mask=mask, categories=categories, attrs=facts["summary"])
        self._facts = facts
        return self

    @property
    def summary(self) -> dict[str, Any]:
        """Totals; their names are in the documentation of the class."""
        return dict(self._facts["summary"])

    @property
    def unseen(self) -> dict[str, Any]:
        """What is live and was not seen being allocated."""
        return dict(self._facts["unseen"])

    @property
    def follow(self) -> Follow:
        """The replay behind it."""
        return self._facts["follow"]

    @property
    def sizes(self) -> Result:
        """One row an owner and size of what is live."""
        return self._facts["sizes"]

    def ages(self, unit: str = "seconds") -> Result:
        """Count what is live by age.

        Parameters
        ----------
        unit : {"seconds", "events"}, optional
            What age is counted in.

        Returns
        -------
        Result
            One row an owner and class of ages that is not empty, the youngest first: ``owner``, ``from_seconds`` and
            ``to_seconds`` (float64; ``..._events``, uint64) with the second not included and missing in the last class,
            ``nr_live``, ``live_bytes``.

        Raises
        ------
        InvalidRequest
            If the trace has no times and seconds are asked for.
        """
        choice("unit", unit, ("seconds", "events"))
        live = self._facts["live"]
        if unit == "seconds" and live["age_ns"] is None:
            raise InvalidRequest("unit='seconds': the clock of this trace only counts events", parameter="unit")
        bounds = np.array(_SECONDS if unit == "seconds" else _EVENTS, dtype=np.float64)
        age = live["age_ns"] / 1e9 if unit == "seconds" else live["age_events"].astype(np.float64)
        place = np.searchsorted(bounds, age, side="right") - 1
        keys, rows = np.unique(live["row"].astype(np.int64) * len(bounds) + place, return_inverse=True)
        row, place = keys // len(bounds), keys % len(bounds)
        last = place == len(bounds) - 1
        tops = bounds[np.minimum(place + 1, len(bounds) - 1)]
        kind = np.float64 if unit == "seconds" else np.uint64
        columns = {
            "owner": self["owner"][row],
            f"from_{unit}": bounds[place].astype(kind),
            f"to_{unit}": tops.astype(kind),
            "nr_live": np.bincount(rows, minlength=len(keys)).astype(np.uint64),
            "live_bytes": np.bincount(rows, weights=live["size_bytes"], minlength=len(keys)).astype(np.uint64),
        }
        mask = {f"to_{unit}": last} if last.any() else {}
        return Result(columns, mask=mask, categories={"owner": self._categories["owner"]})

    def course(self, top: int = 8) -> Result:
        """Say what the largest owners held over time.

        Parameters
        ----------
        top : int, optional
            How many of them, by their peaks; the rest together is called ``(others)``.

        Returns
        -------
        Result
            One row a sample and owner: ``event`` (events read, uint64), ``time_ns``, ``owner`` (category),
            ``live_bytes`` (after the last event of the sample). At most 1024 samples.
        """
        top = integer("top", top, 1, 1 << 20)
        course, group = self._facts["course"], self._facts["group"]
        known = group >= 0
        order = np.argsort(np.where(known, -self["peak_bytes"].astype(np.float64), np.inf), kind="stable")
        shown = order[: min(top, int(known.sum()))]
        nr_samples, nr_shown = len(course["event"]), len(shown)
        column = np.full(self._facts["nr_groups"], nr_shown, dtype=np.int64)
        column[group[shown]] = np.arange(nr_shown)
        held = np.zeros((nr_samples, nr_shown + 1), dtype=np.int64)
        # Changes of each group from entry to entry, added up over the samples.
        by_group = np.argsort(course["entry_group"], kind="stable")
        groups, values = course["entry_group"][by_group], course["entry_bytes"][by_group].astype(np.int64)
        first = np.concatenate(([True], groups[1:] != groups[:-1])) if len(groups) else np.zeros(0, dtype=bool)
        begin = np.zeros(self._facts["nr_groups"], dtype=np.int64)
        begin[0] = self._facts["prior_bytes"]
        steps = values - np.where(first, begin[groups], np.concatenate(([0], values[:-1])))
        np.add.at(held, (course["entry_sample"][by_group], column[groups]), steps)
        held[:1] += np.bincount(column, weights=begin, minlength=nr_shown + 1).astype(np.int64)
        held = np.cumsum(held, axis=0)
        others = [nr_shown] if len(shown) < int(known.sum()) else []
        kept = [*range(nr_shown), *others]
        names = [self._categories["owner"][code] for code in self["owner"][shown]] + (["(others)"] if others else [])
        return Result(
            {
                "event": np.repeat(course["event"], len(kept)),
                "time_ns": np.repeat(course["time_ns"], len(kept)),
                "owner": np.tile(np.arange(len(kept), dtype=np.uint32), nr_samples),
                "live_bytes": held[:, kept].reshape(-1).astype(np.uint64),
            },
            categories={"owner": names},
        )

    def plot(self, top: int = 8, ax: Any = None) -> Any:
        """Draw what the largest owners held over time, one above the other.

        Parameters
        ----------
        top : int, optional
            How many of them.
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
            The axes.
        """
        from percpu.plot.owners import plot_owners

        return plot_owners(self, top, ax)

    def __getitem__(self, key: Any) -> Any:
        """Return a column, a row, or a plain result with some of the rows."""
        if isinstance(key, str):
            return super().__getitem__(key)
        return Result(dict(self._columns), mask=self._mask, categories=self._categories, attrs=self.attrs)[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return Owners._wrap, (dict(self._columns), self._mask, self._categories, self._facts)

    def __repr__(self) -> str:
        s = self._facts["summary"]
        times = "" if s["cpus"] is None else f", {s['all_live_bytes']:,} on {s['cpus']} CPUs"
        return f"Owners({len(self)} by {s['by']}: {s['nr_live']:,} live areas, {s['live_bytes']:,} bytes{times})"

    def __str__(self) -> str:
        from percpu.answers._owners_text import report

        return report(self)

    def _repr_html_(self) -> str:
        import html

        from percpu.answers._owners_text import lines

        return f"{super()._repr_html_()}<p>{'<br>'.join(html.escape(line) for line in lines(self))}</p>"


def owners(
    trace: Trace | str | os.PathLike[str] | Iterable[Trace],
    state: Allocator | str | os.PathLike[str] | None = None,
    *,
    by: str = "site",
    cpus: int | None = None,
    layout: FirstChunkLayout | None = None,
    stats: PercpuStats | str | os.PathLike[str] | None = None,
    stats_end: PercpuStats | str | os.PathLike[str] | None = None,
    meminfo: int | str | os.PathLike[str] | None = None,
    kallsyms: Kallsyms | str | os.PathLike[str] | None = None,
    unit_size: int | None = None,
    granule: int | None = None,
    window: float = 0.5,
    strict: bool = True,
    kernel: str = "6.12",
    progress: Callable[[int], Any] | None = None,
) -> Owners:
    """Say who owns the per-CPU memory that a capture shows.

    No start state is needed: what the capture shows being allocated has an owner, what was there before it does not,
    and how much that is is said as far as anything tells.

    Parameters
    ----------
    trace : Trace, path or iterable of Trace
        The capture. Blocks of one that is larger than memory (`iter_trace`) may be given one after the other.
    state : Allocator or path, optional
        The state in which the capture begins: then what was there before is known exactly, though not whose it is.
    by : {"site", "function", "size", "chunk"}, optional
        What areas are grouped by. A function is a call site without the place in it, which is what two builds of a
        kernel have in common.
    cpus : int, optional
        Possible CPUs. By default taken from `layout`, `state`, the head that `percpu record` writes, or ``bytes_alloc``
        of the events; ``summary["cpus_source"]`` says which.
    layout : FirstChunkLayout, optional
        Of that machine: unit size, boot area, CPUs.
    stats, stats_end : PercpuStats, str or path, optional
        ``percpu_stats`` from right before the first event, or right after the last: they fix the totals, and so what
        the capture cannot see.
    meminfo : int, str or path, optional
        ``Percpu:`` of ``/proc/meminfo`` at the end, in KiB, or its text: an upper limit of what is live.
    kallsyms : Kallsyms or path, optional
        Symbols of that kernel: addresses and incomplete call sites are written in full.
    unit_size, granule : int, optional
        As of `replay` with ``mode="follow"``. Bytes.
    window : float, optional
        Over which share of the events, at the end of the capture, growth is taken. The beginning is left out since
        what is freed then was mostly there before, so that everything seems to grow.
    strict : bool, optional
        As of `read_trace`, if `trace` is a path.
    kernel : str, optional
        Release of a state file.
    progress : callable, optional
        Called now and then, and at the end, with the number of events read.

    Returns
    -------
    Owners
        One row an owner, the largest first; what cannot be seen is in its ``summary``.

    Raises
    ------
    InvalidRequest
        If an argument is out of range.
    TraceError
        If a file cannot be used, with line and text.

    Notes
    -----
    What is live is decided as in `replay` with ``mode="follow"``. The start of the window is the end of a sample of the
    course, of which there are 512 to 1024 in a long capture. Ctrl-C stops it.

    Examples
    --------
    >>> from importlib.resources import files
    >>> import percpu as pc
    >>> held = pc.owners(files("percpu") / "data/demo/workload/trace.txt.gz")
    >>> held
    Owners(1 by site: 4,125 live areas, 271,104 bytes, 1,084,416 on 4 CPUs)
    >>> held.row(0)["owner"], held.summary["cpus_source"].partition(":")[0]
    ('pw+0xe1/0xff0 [pclab]', 'bytes_alloc is 6 times the size')
    """
    choice("by", by, _core.OWNERS_BY)
    release(kernel)
    if layout is not None and not isinstance(layout, FirstChunkLayout):
        raise TypeError(f"layout must be a FirstChunkLayout, not {type(layout).__name__}")
    if isinstance(window, bool) or not isinstance(window, (int, float)):
        raise TypeError(f"window must be a number, not {type(window).__name__}")
    if not 0 < window <= 1:
        raise InvalidRequest(f"window={window}: must be above 0 and at most 1", parameter="window")
    path = trace if isinstance(trace, (str, os.PathLike)) else None
    allocator = _allocator(state, kernel)
    table = read_kallsyms(kallsyms) if isinstance(kallsyms, (str, os.PathLike)) else kallsyms
    if table is not None and not isinstance(table, Kallsyms):
        raise TypeError(f"kallsyms must be a Kallsyms or a path, not {type(kallsyms).__name__}")
    given = (_statistics("stats", stats), _statistics("stats_end", stats_end))
    start, end = (None if one is None else one.to_text() for one in given)
    populated = meminfo_bytes(meminfo)
    if cpus is not None and not isinstance(cpus, Cpus):
        cpus = integer("cpus", cpus, 1, 1 << 20)
    if layout is not None:
        if unit_size is not None and unit_size != layout.unit_size:
            text = f"unit_size={unit_size}: the layout has {layout.unit_size}"
            raise InvalidRequest(text, parameter="unit_size")
        unit_size = layout.unit_size
    elif unit_size is None and allocator is not None:
        unit_size = allocator.unit_size
    if granule is None and allocator is not None:
        granule = allocator.min_alloc_size
    whole, blocks = _events(read_trace(path, strict=strict) if path is not None else trace)
    page = layout.page_size if layout is not None else allocator.page_size if allocator is not None else _PAGE
    follow, core = _core.owners(
        iter([whole._core]) if whole is not None else blocks,
        whole is not None,
        _core.OWNERS_BY.index(by),
        None if allocator is None else live_areas(allocator),
        None if table is None else table._core,
        None if unit_size is None else integer("unit_size", unit_size, 1, 2**30),
        0 if granule is None else integer("granule", granule, 1, 64),
        _boot(layout),
        page,
        start,
        end,
        progress,
    )
    geometry = None if whole is None else whole.geometry
    known = possible_cpus(cpus, layout, allocator, path, geometry, core.factor(), follow.call_sites())
    making = Making(Follow._wrap(follow, None, page), core, by, known, window, given, populated)
    return Owners._wrap(*making.parts())


def _allocator(state: Any, kernel: str) -> Allocator | None:
    if state is None or isinstance(state, Allocator):
        return state
    if not isinstance(state, (str, os.PathLike)):
        raise TypeError(f"state must be an Allocator or a path, not {type(state).__name__}")
    return Allocator.from_state(state, kernel=kernel)
