"""The course of a replay: memory in use, pages, chunks."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu.plot import _style

__all__ = ["plot_timeline"]


def plot_timeline(timeline: Any, ax: Any = None, *, page_size: int = 4096) -> Any:
    """Draw the timeline of a replay.

    Events run to the right. The upper part shows what is allocated and what is backed by memory, for one CPU; the
    gap between the two is what placement costs. The lower part counts chunks and empty populated pages.

    Parameters
    ----------
    timeline : Replay or Result
        Columns ``event``, ``live_bytes``, ``populated_pages``, ``nr_chunks``, ``nr_empty_pop_pages``, one row a
        sample.
    ax : matplotlib.axes.Axes, optional
        Where to draw; it is divided in two. A new figure by default.
    page_size : int, optional
        Bytes of a page.

    Returns
    -------
    matplotlib.axes.Axes
        The upper part.
    """
    plt = _style.pyplot()
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    data = getattr(timeline, "timeline", timeline)
    event = np.asarray(data["event"])
    if ax is None:
        _, ax = plt.subplots(figsize=(10, 5.4), layout="constrained")
    ax.axis("off")
    top = ax.inset_axes((0, 0.4, 1, 0.6))
    bottom = ax.inset_axes((0, 0, 1, 0.33), sharex=top)

    populated = np.asarray(data["populated_pages"], dtype=float) * page_size
    live = np.asarray(data["live_bytes"], dtype=float)
    top.fill_between(event, populated, step="post", color=_style.AREA_B, alpha=0.45, linewidth=0)
    top.step(event, populated, where="post", color=_style.AREA_B, linewidth=1.2, label="populated")
    top.fill_between(event, live, step="post", color=_style.AREA_A, alpha=0.85, linewidth=0)
    top.step(event, live, where="post", color=_style.AREA_A, linewidth=1.2, label="allocated")
    peak = float(max(populated.max(initial=0), live.max(initial=0), 1))
    step = 1024.0
    while peak / step > 6:
        step *= 2
    top.set_yticks(np.arange(0, peak + step, step))
    top.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _style.human_bytes(value) if value else "0"))
    top.set_ylim(0, peak * 1.08)
    top.set_ylabel("bytes per CPU")
    top.tick_params(labelbottom=False)

    bottom.step(event, data["nr_chunks"], where="post", color=_style.CONTIG, linewidth=1.4, label="chunks")
    bottom.step(
        event, data["nr_empty_pop_pages"], where="post", color=_style.SCAN, linewidth=1.2, label="empty populated pages"
    )
    bottom.set_ylim(bottom=0)
    bottom.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    bottom.set_ylabel("count")
    bottom.set_xlabel("event")
    bottom.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{int(value):,}"))
    if len(event) > 1:
        bottom.set_xlim(event[0], event[-1])
    for part, place in ((top, (1, 1.0)), (bottom, (1, 1.0))):
        part.grid(axis="y", color=_style.GRID, linewidth=0.5)
        part.set_axisbelow(True)
        part.tick_params(length=0, colors=_style.TEXT, labelsize=9)
        part.legend(frameon=False, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=place, borderaxespad=0.2)
        for side in ("top", "right"):
            part.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            part.spines[side].set_color(_style.GRID)
    return top
