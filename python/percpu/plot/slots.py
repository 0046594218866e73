"""The slots of an allocator: which chunks are in which, in their order."""

from __future__ import annotations

from typing import Any

from percpu.plot import _style

__all__ = ["plot_slots", "slot_name"]

_CHUNKS = 24  # beyond this many chunks of a slot the rest is counted


def slot_name(allocator: Any, slot: int) -> str:
    """What a slot is for: the sizes that begin their search there, or its special purpose.

    Parameters
    ----------
    allocator : Allocator
        Its engine and number of slots count.
    slot : int
        Index of the slot.

    Returns
    -------
    str
        A few words.

    Examples
    --------
    >>> import percpu as pc
    >>> a = pc.Allocator(unit_size=32 << 10, nr_units=2)
    >>> [slot_name(a, s) for s in (0, 1, 4, 14, 15, 16)]
    ['not searched', '1 to 15 B', '64 to 127 B', 'sidelined', 'fully free', 'to depopulate']
    """
    last = len(allocator.slots) - 1
    engine = allocator.engine
    special = {last - 2: "sidelined", last - 1: "fully free", last: "to depopulate"}
    if engine != "linux-5.14":
        special = {last: "fully free"}
    if slot in special:
        return special[slot]
    if slot == 0:
        return "not searched"
    if slot == 1:
        return "1 to 15 B"
    low = 1 << (slot + 2)
    if low < 1024:
        return f"{low} to {2 * low - 1} B"
    return f"from {_style.human_bytes(low)}"


def plot_slots(allocator: Any, ax: Any = None) -> Any:
    """Draw the slots of an allocator.

    A row is a slot that holds chunks, from those that are searched first (top) to the fully free ones; a box is a
    chunk, in the order in which a search meets them, filled from below by the share of its bytes in use. Boot chunks
    have a thick frame, isolated ones a broken one.

    Parameters
    ----------
    allocator : Allocator
        In any state, of any engine.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Examples
    --------
    >>> import percpu as pc
    >>> a = pc.Allocator(unit_size=32 << 10, nr_units=2)
    >>> p = a.alloc(64)
    >>> ax = plot_slots(a)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['slot 12: from 16 KiB']
    """
    _style.needs("allocator", allocator, "an Allocator", "slots", "chunks")
    plt = _style.pyplot()
    from matplotlib.patches import Patch, Rectangle

    lists: list[tuple[int | None, Any]]
    lists = [(slot, numbers) for slot, numbers in enumerate(allocator.slots) if numbers]
    if not allocator.slots:  # one chunk and no slots: cpu_alloc-2008
        lists = [(None, list(allocator.chunks))]
    widest = max((min(len(numbers), _CHUNKS) for _, numbers in lists), default=1)
    if ax is None:
        size = (min(max(4.6 + 0.42 * widest, 6.4), 13), 1.5 + 0.52 * max(len(lists), 1))
        _, ax = plt.subplots(figsize=size, layout="constrained")
    marked: set[str] = set()
    for row, (_, numbers) in enumerate(lists):
        for place, number in enumerate(numbers[:_CHUNKS]):
            info = allocator.chunks[number].info
            capacity = _capacity(allocator, info)
            used = 1 - info["free_bytes"] / capacity if capacity else 0.0
            kind = "isolated" if info.get("isolated") else "boot" if info.get("immutable") else ""
            marked.add(kind)
            ax.add_patch(Rectangle((place + 0.06, row + 0.1), 0.88, 0.8, facecolor="white", linewidth=0, zorder=1))
            fill = Rectangle(
                (place + 0.06, row + 0.9), 0.88, -0.8 * used, facecolor=_style.AREA_B, linewidth=0, zorder=2
            )
            fill.set_gid(f"chunk {number}")
            ax.add_patch(fill)
            ax.add_patch(
                Rectangle(
                    (place + 0.06, row + 0.1),
                    0.88,
                    0.8,
                    fill=False,
                    edgecolor=_style.CONTIG if kind == "isolated" else _style.TEXT,
                    linewidth=2.2 if kind == "boot" else 1.4 if kind else 0.8,
                    linestyle="--" if kind == "isolated" else "-",
                    zorder=3,
                )
            )
            ax.text(
                place + 0.5, row + 0.52, str(number), ha="center", va="center", fontsize=9, color=_style.TEXT, zorder=4
            )
        if len(numbers) > _CHUNKS:
            ax.text(_CHUNKS + 0.15, row + 0.52, f"+{len(numbers) - _CHUNKS:,}", va="center", fontsize=9)
    ax.set_xlim(0, max(widest, 8) + (1.4 if any(len(numbers) > _CHUNKS for _, numbers in lists) else 0.1))
    ax.set_ylim(max(len(lists), 1) + 0.05, 0)
    labels = ["no slots" if slot is None else f"slot {slot}: {slot_name(allocator, slot)}" for slot, _ in lists]
    ax.set_yticks([row + 0.5 for row in range(len(lists))], labels)
    step = 1 if widest <= 12 else 4
    ax.set_xticks([place + 0.5 for place in range(0, widest, step)], [str(place) for place in range(0, widest, step)])
    ax.set_xlabel("place in the slot, head first (chunks)", loc="left")
    _style.bare(ax, keep=())
    total = sum(len(numbers) for _, numbers in lists)
    where = f" in {len(lists)} of {len(allocator.slots)} slots" if allocator.slots else ""
    ax.set_title(_style.plural(total, "chunk") + where, loc="left", fontsize=11, color=_style.TEXT)
    handles = [Patch(facecolor=_style.AREA_B, label="share of its bytes in use")]
    if "boot" in marked:
        handles.append(Patch(facecolor="white", edgecolor=_style.TEXT, linewidth=2.2, label="boot chunk"))
    if "isolated" in marked:
        handles.append(Patch(facecolor="white", edgecolor=_style.CONTIG, linestyle="--", label="isolated"))
    _style.legend_below(ax, 0.55, handles, ncols=3, fontsize=9)
    return ax


def _capacity(allocator: Any, info: dict[str, Any]) -> int:
    """Bytes of one unit that a chunk serves."""
    return int(info["nr_pages"]) * allocator.page_size - int(info["start_offset"]) - int(info["end_offset"])
