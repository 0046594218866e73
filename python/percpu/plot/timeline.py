"""The course of a replay: memory in use, pages, objects, chunks."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu._checks import integer
from percpu.errors import InvalidRequest
from percpu.plot import _style

__all__ = ["plot_timeline"]

_POINTS = 2000  # samples beyond these are joined: no screen shows more


def plot_timeline(timeline: Any, ax: Any = None, *, page_size: int = 4096) -> Any:
    """Draw the timeline of a replay.

    Events run to the right; of more than 2000 samples neighbours are joined. The upper part shows what is allocated,
    for one CPU, as the mean of each sample with a band from the least to the largest. Of a replay
    on an engine it shows what is backed by memory too (the difference is what placement costs), and below the
    stock of empty populated pages; of one that follows a trace, below, the live areas, and those learnt to have been
    there before and not freed yet. At the bottom is the number of chunks.

    Parameters
    ----------
    timeline : Replay, Rerun, Follow or Result
        Columns ``event``, ``live_bytes``, ``nr_chunks`` and either ``populated_pages`` and ``nr_empty_pop_pages`` or
        ``nr_live`` and ``nr_freed_prior``, one row a sample; where there are ``min_``, ``mean_`` and ``max_`` of them,
        these are drawn as well.
    ax : matplotlib.axes.Axes, optional
        Where to draw; it is divided in three. A new figure by default.
    page_size : int, optional
        Bytes of a page.

    Returns
    -------
    matplotlib.axes.Axes
        The upper part.

    Raises
    ------
    InvalidRequest
        If a column is missing.
    """
    plt = _style.pyplot()
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    given = getattr(timeline, "timeline", timeline)
    if not callable(getattr(given, "keys", None)):
        raise TypeError(f"timeline must be a Replay, Rerun, Follow or Result, not {type(timeline).__name__}")
    needed = ("populated_pages", "nr_empty_pop_pages") if "populated_pages" in given else ("nr_live", "nr_freed_prior")
    absent = [name for name in ("event", "live_bytes", "nr_chunks", *needed) if name not in given]
    if absent:
        raise InvalidRequest(f"timeline: it has no column {', '.join(absent)}", parameter="timeline")
    page_size = integer("page_size", page_size, 1)
    data = reduce_timeline(given, _POINTS)
    event = np.asarray(data["event"])
    on_engine = "populated_pages" in data
    if ax is None:
        _, ax = plt.subplots(figsize=(10, 5.8), layout="constrained")
    ax.axis("off")
    top = ax.inset_axes((0, 0.47, 1, 0.53))
    middle = ax.inset_axes((0, 0.2, 1, 0.18), sharex=top)
    bottom = ax.inset_axes((0, 0, 1, 0.11), sharex=top)

    populated = np.asarray(data["populated_pages"], dtype=float) * page_size if on_engine else np.zeros(len(event))
    live = _values(data, "live_bytes")
    if on_engine:
        top.fill_between(event, populated, step="pre", color=_style.AREA_B, alpha=0.45, linewidth=0)
        top.step(event, populated, where="pre", color=_style.AREA_B, linewidth=1.2, label="populated")
    top.fill_between(event, live[1], step="pre", color=_style.AREA_A, alpha=0.85, linewidth=0)
    top.step(event, live[1], where="pre", color=_style.AREA_A, linewidth=1.2, label="allocated")
    _band(top, event, live, _style.AREA_A)
    peak = float(max(populated.max(initial=0), live[2].max(initial=0), 1))
    _style.byte_ticks(top.yaxis, 0, peak)
    top.set_ylim(0, peak * 1.08)
    top.set_ylabel("bytes per CPU")
    top.tick_params(labelbottom=False)

    if on_engine:
        pages = _values(data, "nr_empty_pop_pages")
        middle.step(event, pages[1], where="pre", color=_style.SCAN, linewidth=1.1, label="empty populated pages")
        _band(middle, event, pages, _style.SCAN)
        middle.set_ylim(bottom=min(0, pages[0].min(initial=0)))
        middle.set_ylabel("pages")
    else:
        areas = _values(data, "nr_live")
        middle.step(event, areas[1], where="pre", color=_style.SCAN, linewidth=1.1, label="live areas")
        _band(middle, event, areas, _style.SCAN)
        freed = np.asarray(data["nr_freed_prior"])
        if len(freed) and freed[-1] > 0:
            before = freed[-1] - freed
            text = "there before, freed later"
            middle.step(event, before, where="pre", color=_style.FIRST_FREE, linewidth=1.1, label=text)
        middle.set_ylim(bottom=0)
        middle.set_ylabel("areas")
    middle.tick_params(labelbottom=False)
    chunks = np.asarray(data["nr_chunks"])
    bottom.step(event, chunks, where="pre", color=_style.CONTIG, linewidth=1.6, label="chunks")
    bottom.set_ylim(0, max(chunks.max(initial=1), 1) * 1.25)
    bottom.set_ylabel("count")
    bottom.set_xlabel("event")
    bottom.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if len(event) > 1:
        bottom.set_xlim(event[0], event[-1])
    for part, ticks in ((middle, 4), (bottom, 2)):
        part.yaxis.set_major_locator(MaxNLocator(ticks, integer=True))
        part.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    for part in (top, middle, bottom):
        part.grid(axis="y", color=_style.GRID, linewidth=0.5)
        part.set_axisbelow(True)
        part.tick_params(length=0, colors=_style.TEXT, labelsize=9)
        part.legend(frameon=False, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
        for side in ("top", "right"):
            part.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            part.spines[side].set_color(_style.GRID)
    return top


def _values(data: Any, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return least, mean and largest of each sample; the value itself where a timeline has no more."""
    kinds = (f"min_{name}", f"mean_{name}", f"max_{name}")
    found = [np.asarray(data[kind if kind in data else name], dtype=float) for kind in kinds]
    return found[0], found[1], found[2]


def _band(part: Any, event: np.ndarray, values: tuple[np.ndarray, np.ndarray, np.ndarray], color: str) -> None:
    low, _, high = values
    if (high > low).any():
        part.fill_between(event, low, high, step="pre", color=color, alpha=0.25, linewidth=0)


def reduce_timeline(timeline: Any, limit: int) -> dict[str, np.ndarray]:
    """Join neighbouring samples until there are at most `limit`: the least of least, the largest of largest."""
    names = list(timeline)
    columns = {name: np.asarray(timeline[name]) for name in names}
    n = len(columns["event"])
    if n <= limit:
        return columns
    cuts = _style.buckets(n, limit)
    last = np.append(cuts[1:], n) - 1
    counts = np.diff(np.append(cuts, n))
    reduced = {}
    for name, values in columns.items():
        if name.startswith("min_"):
            reduced[name] = np.minimum.reduceat(values, cuts)
        elif name.startswith("max_"):
            reduced[name] = np.maximum.reduceat(values, cuts)
        elif name.startswith("mean_"):
            reduced[name] = np.add.reduceat(values, cuts) / counts
        else:
            reduced[name] = values[last]
            # What was one value a sample has a least, mean and largest now.
            if name not in ("event", "time_ns") and f"min_{name}" not in columns:
                reduced[f"min_{name}"] = np.minimum.reduceat(values, cuts)
                reduced[f"max_{name}"] = np.maximum.reduceat(values, cuts)
                reduced[f"mean_{name}"] = np.add.reduceat(values.astype(float), cuts) / counts
    return reduced
