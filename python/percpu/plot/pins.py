"""What keeps each chunk: used, empty and not populated memory, and how few areas hold it."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu._checks import integer
from percpu.plot import _style

__all__ = ["plot_pins"]


def plot_pins(pins: Any, ax: Any = None, *, top: int = 24) -> Any:
    """Draw the chunks, those with the most memory for each area first.

    A bar is the populated memory of a chunk, of all CPUs: live areas, the rest of the pages that they lie on, and empty
    pages. What a chunk could still populate is hatched. Beside it stands how many areas have to be freed until it is
    free, or that not all of them are known.

    Parameters
    ----------
    pins : Pins
        What `percpu.pins` returned.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    top : int, default 24
        At most so many chunks.

    Returns
    -------
    matplotlib.axes.Axes
        What it was drawn into.
    """
    _style.needs("pins", pins, "a Pins", "summary", "populated_bytes")
    top = integer("top", top, 0)
    plt = _style.pyplot()
    from matplotlib.ticker import MaxNLocator

    summary = pins.summary
    cpus, page = summary["cpus"], summary["page_size"]
    each = np.maximum(pins.nr_areas + pins.unseen_areas, 1)
    order = np.lexsort((pins.chunk, -pins.populated_bytes / each))
    order = np.concatenate([order[pins.kind[order] == 2], order[pins.kind[order] != 2]])[:top]
    n = len(order)
    if ax is None:
        _, ax = plt.subplots(figsize=(9, 1.6 + 0.34 * max(n, 2)), layout="constrained")
    at = np.arange(n)[::-1]
    used = pins.used_bytes[order] * cpus
    empty = pins.empty_pages[order] * page * cpus
    held = np.maximum(pins.populated_bytes[order] - used - empty, 0)
    absent = np.maximum(pins.nr_pages[order] * page * cpus - pins.populated_bytes[order], 0)
    left = np.zeros(n)
    told = not pins.pages.missing("populated").any()
    not_there = "not populated" if told else "not populated or not known"
    hatched = {"facecolor": _style.FREE, "edgecolor": _style.GRID, "hatch": "////", "linewidth": 0.6}
    for label, width, how in (
        ("live areas", used, {"color": _style.AREA_A}),
        ("rest of their pages", held, {"color": _style.AREA_B}),
        ("empty pages", empty, {"color": _style.CONTIG}),
        (not_there, absent, hatched),
    ):
        ax.barh(at, width, left=left, height=0.72, label=label, **how)
        left = left + width
    end = float(left.max(initial=1.0))
    rows = [pins.row(int(row)) for row in order]
    for y, row in zip(at, rows, strict=True):
        ax.text(end * 1.015, y, _note(row), va="center", fontsize=8.5, color=_style.TEXT)
    ax.set_yticks(at, [_name(row) for row in rows])
    step = _style.byte_ticks(ax.xaxis, 0, end)
    ax.set_xticks(np.arange(0, end + 1, step))
    ax.set_xlim(0, end * 1.42)
    ax.set_ylim(-0.7, max(n, 1) - 0.3)
    ax.set_xlabel(f"memory of {_style.plural(cpus, 'CPU')}")
    ax.tick_params(length=0, colors=_style.TEXT, labelsize=9)
    ax.grid(axis="x", color=_style.GRID, linewidth=0.5)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(_style.GRID)
    ax.legend(frameon=False, fontsize=9, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    if n == 0:
        ax.yaxis.set_major_locator(MaxNLocator(1))
    return ax


def _name(row: dict[str, Any]) -> str:
    return {"reserved": "reserved", "first": "first"}.get(row["kind"], f"chunk {row['chunk']}")


def _note(row: dict[str, Any]) -> str:
    number = row["nr_areas"] + (row["unseen_areas"] or 0)
    count = _style.plural(number, "area")
    if row["kind"] != "ordinary":
        return f"{count}; stays for ever"
    if row["release_areas"] is None:
        return f"{count}, and unseen ones"
    if number == 0:
        return "free"
    few = row["depopulate_areas"]
    return f"held by {count}" + (f"; {few:,} for pages" if few is not None and few < number else "")
