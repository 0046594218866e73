"""The course of a replay: memory in use, pages, chunks."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu.plot import _style

__all__ = ["plot_timeline"]


def plot_timeline(timeline: Any, ax: Any = None, *, page_size: int = 4096) -> Any:
    """Draw the timeline of a replay.

    Events run to the right. The upper part shows what is allocated and what is backed by memory, for one CPU; the
    gap between the two is what placement costs. Below are the stock of empty populated pages and the number of chunks.

    Parameters
    ----------
    timeline : Replay or Result
        Columns ``event``, ``live_bytes``, ``populated_pages``, ``nr_chunks``, ``nr_empty_pop_pages``, one row a
        sample.
    ax : matplotlib.axes.Axes, optional
        Where to draw; it is divided in three. A new figure by default.
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
        _, ax = plt.subplots(figsize=(10, 5.8), layout="constrained")
    ax.axis("off")
    top = ax.inset_axes((0, 0.47, 1, 0.53))
    middle = ax.inset_axes((0, 0.2, 1, 0.18), sharex=top)
    bottom = ax.inset_axes((0, 0, 1, 0.11), sharex=top)

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

    pages = np.asarray(data["nr_empty_pop_pages"])
    middle.step(event, pages, where="post", color=_style.SCAN, linewidth=1.1, label="empty populated pages")
    middle.set_ylim(bottom=min(0, pages.min(initial=0)))
    middle.set_ylabel("pages")
    middle.tick_params(labelbottom=False)
    chunks = np.asarray(data["nr_chunks"])
    bottom.step(event, chunks, where="post", color=_style.CONTIG, linewidth=1.6, label="chunks")
    bottom.set_ylim(0, max(chunks.max(initial=1), 1) * 1.25)
    bottom.set_ylabel("count")
    bottom.set_xlabel("event")
    bottom.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{int(value):,}"))
    if len(event) > 1:
        bottom.set_xlim(event[0], event[-1])
    for part, ticks in ((middle, 4), (bottom, 2)):
        part.yaxis.set_major_locator(MaxNLocator(ticks, integer=True))
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
