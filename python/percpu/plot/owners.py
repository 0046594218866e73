"""What the owners of per-CPU memory held over time, one above the other."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu._checks import integer
from percpu.answers._owners_table import BEFORE
from percpu.plot import _style

__all__ = ["plot_owners"]

_COLORS = (
    _style.AREA_A,
    "#E69F00",
    _style.SCAN,
    _style.AREA_B,
    _style.CONTIG,
    _style.FIRST_FREE,
    "#F0E442",
    "#8C6D31",
    "#661100",
    "#1B4F72",
)
_OTHERS = _style.GRID


def plot_owners(owners: Any, top: int = 8, ax: Any = None) -> Any:
    """Draw what the largest owners held over time.

    Time runs to the right, or events where the clock only counts. What was there before the capture is at the
    bottom, if it is known, then the owner with the highest peak. Bytes are times possible CPUs where their number is
    known.

    Parameters
    ----------
    owners : Owners
        Whose.
    top : int, optional
        How many owners, by their peaks, ten at most; the rest is grey.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    _style.needs("owners", owners, "an Owners", "course", "summary")
    top = integer("top", top, 0)
    plt = _style.pyplot()
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    course = owners.course(min(top, len(_COLORS)))
    names = list(course._categories["owner"])
    if ax is None:
        _, ax = plt.subplots(figsize=(10, 4.6), layout="constrained")
    n = max(len(names), 1)
    held = course["live_bytes"].astype(np.float64).reshape(-1, n) * (owners.summary["cpus"] or 1)
    timed = owners.summary["seconds"] is not None
    at = course["time_ns" if timed else "event"][::n].astype(np.float64)
    if timed and len(at):
        first = at[-1] - owners.summary["seconds"] * 1e9
        at = (at - first) / 1e9
    # What is live at the end of a sample stays until something changes in the next one.
    start = np.array([[owners._facts["prior_bytes"] * (owners.summary["cpus"] or 1) if name == BEFORE else 0.0
                       for name in names] or [0.0]])  # fmt: skip
    at, held = np.concatenate(([0.0], at)), np.concatenate((start, held))
    top_edge = np.zeros(len(at))
    fixed = {"(others)": _OTHERS, BEFORE: _style.HIDDEN}
    colors = iter(_COLORS)
    # What was there before lies at the bottom.
    for index, name in sorted(enumerate(names), key=lambda place: place[1] != BEFORE):
        color = fixed[name] if name in fixed else next(colors)
        below, top_edge = top_edge, top_edge + held[:, index]
        ax.fill_between(
            at, below, top_edge, step="post", facecolor=color, edgecolor=color, linewidth=0.3, label=_short(name)
        )
    peak = max(float(top_edge.max(initial=0)), 1.0)
    _style.byte_ticks(ax.yaxis, 0, peak)
    ax.set_ylim(0, peak * 1.06)
    if at[-1] > 0:
        ax.set_xlim(0, at[-1])
    cpus = owners.summary["cpus"]
    ax.set_ylabel("live bytes per CPU" if cpus is None else f"live bytes, {cpus} CPUs")
    ax.set_xlabel("seconds" if timed else "event")
    if not timed:
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.grid(axis="y", color=_style.GRID, linewidth=0.5)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, colors=_style.TEXT, labelsize=9)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(_style.GRID)
    handles, labels = ax.get_legend_handles_labels()
    # In the order in which they lie.
    ax.legend(handles[::-1], labels[::-1], frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def _short(name: str) -> str:
    """A call site without the size of its function, cut where it is long."""
    name = "+".join(part.partition("/0x")[0] if index else part for index, part in enumerate(name.split("+", 1)))
    return name if len(name) <= 36 else name[:35] + "…"
