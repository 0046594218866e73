"""The chunks of a statistics text: what they hold, and what their hints say."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu._checks import integer
from percpu.plot import _style

__all__ = ["plot_stats"]


def plot_stats(stats: Any, cpus: int | None = None, pinned_below: float = 0.1, top: int = 30, ax: Any = None) -> Any:
    """Draw a bar a chunk, in the order of the text.

    A bar is divided into what is in use, the largest free run that the kernel believes in, what a longer run has beyond
    that (hidden from requests), and what else is free. Chunks that look pinned are marked.

    Parameters
    ----------
    stats : PercpuStats
        The text.
    cpus : int, optional
        Units of a chunk: bytes are then those of all CPUs.
    pinned_below : float, optional
        As of `PercpuStats.table`.
    top : int, optional
        At most so many chunks: those with the most free bytes.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    _style.needs("stats", stats, "a PercpuStats", "table")
    plt = _style.pyplot()
    from matplotlib.ticker import MaxNLocator

    top = integer("top", top, 1, 10_000)
    table = stats.table(cpus=cpus, pinned_below=pinned_below)
    if len(table) > top:
        table = table[np.sort((-table.free_bytes).argsort(kind="stable")[:top])]
    n = len(table)
    if ax is None:
        _, ax = plt.subplots(figsize=(9, 1.3 + 0.34 * max(n, 2)), layout="constrained")
    times = cpus or 1
    free = table.free_bytes
    hint = np.minimum(table.contig_bytes, free)
    hidden = np.minimum(table.hidden_bytes, free - hint)
    parts = (
        ("in use", table.used_bytes, _style.AREA_A),
        ("free: the hint", hint, _style.SCAN),
        ("free: hidden by the hint", hidden, _style.CONTIG),
        ("free: other runs", free - hint - hidden, _style.GRID),
    )
    place = np.arange(n)
    left = np.zeros(n)
    for name, values, color in parts:
        ax.barh(place, values * times, left=left, height=0.7, color=color, label=name)
        left = left + values * times
    width = max(float(left.max(initial=0)), 1.0)
    for row, pinned in enumerate(table.pinned.tolist()):
        if pinned:
            ax.text(left[row] + width * 0.01, row, "looks pinned", va="center", fontsize=8.5, color=_style.TEXT)
    labels = [f"{row['chunk']} {row['label']}" for row in table.rows()]
    ax.set_yticks(place, labels)
    ax.set_ylim(max(n, 1) - 0.45, -0.55)
    ax.set_ylabel("chunk")
    ax.set_xlim(0, width * (1.16 if table.pinned.any() else 1.02))
    step = _style.byte_ticks(ax.xaxis, 0, width)
    ax.set_xticks(np.arange(0, width + 1, step))
    if n > 40:
        ax.yaxis.set_major_locator(MaxNLocator(20, integer=True))
    ax.set_xlabel("bytes per CPU" if cpus is None else f"bytes, {cpus} CPUs")
    ax.tick_params(length=0, colors=_style.TEXT, labelsize=9)
    for side in ("top", "right", "bottom"):
        ax.spines[side].set_visible(False)
    ax.spines["left"].set_color(_style.GRID)
    ax.legend(frameon=False, fontsize=8.5, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0))
    return ax
