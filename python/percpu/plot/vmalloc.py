"""The vmalloc space: what is taken, what is free."""

from __future__ import annotations

from typing import Any

from percpu.plot import _style
from percpu.plot._style import human_bytes, plural

__all__ = ["plot_vmalloc"]

_RANGES = 60  # ranges beyond these, the lowest ones, are left out


def plot_vmalloc(space: Any, ax: Any = None) -> Any:
    """Draw what is taken of a vmalloc space.

    Addresses run upwards to the right, up to the end of the space, where chunks are put first. Long stretches without
    a range are cut (marked by two strokes), so that the axis is to scale only between the cuts. Ranges that were given
    back and wait for a purge are hatched. Of many ranges the highest are drawn.

    Parameters
    ----------
    space : VmallocSpace
        Whose ranges are drawn.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Examples
    --------
    >>> from percpu import FirstChunkLayout, VmallocSpace
    >>> space = VmallocSpace()
    >>> placed = space.alloc(FirstChunkLayout.build(static_size=188_416, topology=4))
    >>> plot_vmalloc(space).get_title(loc="left")
    '1 range, 2 MiB taken, 0 B of it waiting for a purge'
    """
    _style.needs("space", space, "a VmallocSpace", "busy", "bounds")
    plt = _style.pyplot()
    from matplotlib.patches import Patch, Rectangle

    busy = space.busy
    start, end = space.bounds
    shown = busy[-_RANGES:]
    if ax is None:
        _, ax = plt.subplots(figsize=(9.5, 2.4), layout="constrained")
    used = sum(last - first for first, last, _ in shown) or 1
    cut = used / 12
    # From address to place: pieces of the axis, each with its first address.
    position = 0.0
    at = busy[-len(shown) - 1][1] if len(busy) > len(shown) else start
    marks: list[tuple[float, int]] = [(0.0, at)]

    def gap(upto: int) -> None:
        nonlocal position
        length = upto - at
        if length > cut:
            for shift in (0.42, 0.5):
                x = position + cut * shift
                ax.plot([x, x + cut * 0.08], [0.36, 0.64], color=_style.TEXT, linewidth=1)
        position += min(length, cut)

    for first, last, lazy in shown:
        gap(first)
        marks.append((position, first))
        ax.add_patch(
            Rectangle(
                (position, 0.2),
                last - first,
                0.6,
                facecolor="white" if lazy else _style.AREA_B,
                edgecolor=_style.HATCH if lazy else _style.AREA_A,
                hatch="////" if lazy else None,
                linewidth=0.8,
            )
        )
        if len(shown) <= 14:
            ax.text(position + (last - first) / 2, 0.5, human_bytes(last - first), ha="center", va="center", fontsize=9)
        position += last - first
        at = last
    gap(end)
    marks.append((position, end))
    ax.plot([0, position], [0.2, 0.2], color=_style.GRID, linewidth=0.8, zorder=0)
    ax.set_xlim(0, max(position, 1))
    ax.set_ylim(0, 1)
    ax.set_yticks([])
    ax.set_xlabel("address (hexadecimal, bytes)")
    _style.bare(ax, keep=("bottom",))
    _style.address_ticks(ax, marks)
    total, lazy_bytes = sum(b - a for a, b, _ in busy), sum(b - a for a, b, lazy in busy if lazy)
    ranges = plural(len(busy), "range")
    left_out = "" if len(shown) == len(busy) else f" (the highest {len(shown)} drawn)"
    title = f"{ranges}, {human_bytes(total)} taken, {human_bytes(lazy_bytes)} of it waiting for a purge{left_out}"
    ax.set_title(title, loc="left", fontsize=11, color=_style.TEXT)
    handles = [Patch(facecolor=_style.AREA_B, edgecolor=_style.AREA_A, label="taken")]
    if lazy_bytes:
        handles.append(Patch(facecolor="white", edgecolor=_style.HATCH, hatch="////", label="waiting for a purge"))
    _style.legend_below(ax, 0.6, handles, ncols=2, fontsize=9)
    return ax
