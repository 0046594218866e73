"""Layouts: groups and units, address space of two chunks, and maps of waste."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu.errors import InvalidRequest
from percpu.plot import _style
from percpu.plot._style import human_bytes, plural

__all__ = ["plot_address_space", "plot_layout", "plot_waste"]

_GROUPS = 24  # beyond this many rows the rest is left out
_ALLOCS = 16  # and beyond this many allocations of a group
_UNITS = 512  # cells of the whole picture
_STATIC, _RESERVED, _DYNAMIC, _TAIL = _style.HIDDEN, _style.FIRST_FREE, _style.AREA_B, _style.FREE
_CHUNKS = ((_style.AREA_A, "white"), (_style.OCHRE, "black"), (_style.SCAN, "black"), (_style.FIRST_FREE, "black"))
_MOST_CHUNKS = 16


def plot_layout(layout: Any, ax: Any = None, *, address_space: bool = True) -> Any:
    """Draw the units of a layout.

    A row is a group, a cell is a unit with its CPU; the bars within a cell are the static, reserved and dynamic part of
    the unit to scale, what is behind them is white; holes are hatched, spaces separate allocations. Below, two later
    chunks lie in address space, each with one area for a group (see `plot_address_space`).

    Parameters
    ----------
    layout : FirstChunkLayout
        What is drawn. Of many groups or units the first ones.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default. With an axes given, the address space is left out.
    address_space : bool, optional
        Whether the address space of two later chunks is drawn too.

    Returns
    -------
    matplotlib.axes.Axes
        The axes of the units.
    """
    _style.needs("layout", layout, "a FirstChunkLayout", "groups", "alloc_size", "topology")
    plt = _style.pyplot()
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Patch, Rectangle

    per_alloc = max(layout.alloc_size // layout.unit_size, 1)
    groups = layout.groups[:_GROUPS]
    widest = max(len(group.cpu_map) for group in groups)
    shown = min(
        widest, per_alloc * max(_ALLOCS // max(per_alloc // 4, 1), 1), max(_UNITS // len(groups), per_alloc), 64
    )
    with_space = ax is None and address_space and layout.first_chunk != "up"
    if ax is None:
        height = 1.7 + 0.42 * len(groups) + (2.3 if with_space else 0)
        figure = plt.figure(figsize=(9.5, min(height, 12)), layout="constrained")
        if with_space:
            ax, below = figure.subplots(2, 1, height_ratios=[max(0.42 * len(groups), 1), 1.6])
        else:
            ax = figure.subplots()
    sizes = ((layout.static_size, _STATIC), (layout.reserved_size, _RESERVED), (layout.dyn_size, _DYNAMIC))
    gap = 0.18
    parts: dict[str, list[Any]] = {colour: [] for _, colour in sizes}
    cells, holes = [], []
    font = 9 if shown <= 24 else 7 if shown <= 40 else 5.5
    for row, group in enumerate(groups):
        for unit, cpu in enumerate(group.cpu_map[:shown].tolist()):
            left = unit + gap * (unit // per_alloc)
            if cpu < 0:
                holes.append(Rectangle((left, row + 0.1), 0.94, 0.8))
                continue
            cells.append(Rectangle((left, row + 0.1), 0.94, 0.8))
            at = 0.0
            for size, colour in sizes:
                width = 0.94 * size / layout.unit_size
                parts[colour].append(Rectangle((left + at, row + 0.55), width, 0.35))
                at += width
            ax.text(left + 0.47, row + 0.34, str(cpu), ha="center", va="center", fontsize=font, color=_style.TEXT)
        if len(group.cpu_map) > shown:
            left = shown + gap * (shown // per_alloc)
            more = f" +{len(group.cpu_map) - shown}"
            ax.text(left, row + 0.5, more, ha="left", va="center", fontsize=9, color=_style.TEXT)
    with plt.rc_context({"hatch.linewidth": 0.7}):
        ax.add_collection(
            PatchCollection(holes, facecolor="white", edgecolor=_style.HATCH, hatch="////", linewidth=0.8)
        )
    ax.add_collection(PatchCollection(cells, facecolor="white", edgecolor=_style.GRID, linewidth=0.8))
    for colour, rectangles in parts.items():
        ax.add_collection(PatchCollection(rectangles, facecolor=colour, edgecolor="none"))
    ax.add_collection(PatchCollection(cells, facecolor="none", edgecolor=_style.TEXT, linewidth=0.6))
    ax.set_xlim(-0.2, shown + gap * (shown // per_alloc) + (1.2 if widest > shown else 0.1))
    ax.set_ylim(len(groups) + 0.05, -0.05)
    labels = [_group_label(layout, index) for index in range(len(groups))]
    ax.set_yticks(np.arange(len(groups)) + 0.5, labels, fontsize=9)
    ax.set_xticks([])
    for side in ax.spines.values():
        side.set_visible(False)
    ax.tick_params(length=0)
    hidden = len(layout.groups) - len(groups)
    left_out = f" ({plural(hidden, 'group')} more)" if hidden else ""
    ax.set_title(
        f"{plural(layout.topology.nr_cpus, 'CPU')}, units of {human_bytes(layout.unit_size)}, {per_alloc} in an "
        f"allocation of {human_bytes(layout.alloc_size)}, {plural(layout.nr_holes, 'hole')}{left_out}",
        fontsize=11,
        loc="left",
        color=_style.TEXT,
    )
    handles = [
        Patch(facecolor=colour, label=f"{name} {human_bytes(size)}")
        for (size, colour), name in zip(sizes, ("static", "reserved", "dynamic"), strict=True)
        if size
    ]
    tail = layout.unit_size - layout.static_size - layout.reserved_size - layout.dyn_size
    if tail:
        handles.append(Patch(facecolor=_TAIL, edgecolor=_style.TEXT, label=f"given back {human_bytes(tail)}"))
    if layout.nr_holes:
        handles.append(Patch(facecolor="white", edgecolor=_style.HATCH, hatch="////", label="hole"))
    _style.legend_below(ax, 0.05, handles, ncols=5, fontsize=9)
    if with_space:
        plot_address_space(layout, ax=below)
    return ax


def _group_label(layout: Any, index: int) -> str:
    cpus = layout.groups[index].cpu_map
    first = cpus[cpus >= 0]
    node = int(layout.topology.cpu_to_node[first[0]]) if len(first) else 0
    return f"group {index} (node {node})" if layout.topology.nr_nodes > 1 else f"group {index}"


def plot_address_space(layout: Any, ax: Any = None, *, nr_chunks: int = 2) -> Any:
    """Draw where later chunks lie in the vmalloc space.

    All areas of a chunk have the spacing of the first chunk's groups; where groups lie side by side, a chunk is one
    stretch, where they are apart, chunks interleave. Stretches of address space without an area are cut out, so the
    axis is to scale only between the marks.

    Parameters
    ----------
    layout : FirstChunkLayout
        Its groups and its vmalloc space.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    nr_chunks : int, optional
        How many chunks, 1 to 16.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    plt = _style.pyplot()
    from matplotlib.patches import Patch, Rectangle

    from percpu._checks import integer
    from percpu.errors import AllocError
    from percpu.layout import VmallocSpace

    nr_chunks = integer("nr_chunks", nr_chunks, 1, _MOST_CHUNKS)
    if ax is None:
        _, ax = plt.subplots(figsize=(9.5, 2.2), layout="constrained")
    space = VmallocSpace.for_layout(layout)
    areas: list[tuple[int, int, int, int]] = []
    sizes = layout._core.record()["group_sizes"]
    note = ""
    for chunk in range(nr_chunks):
        try:
            base = space.alloc(layout).base
        except AllocError as error:
            note, nr_chunks = f" (chunk {chunk + 1}: {error})", chunk
            break
        offsets = [group.base_offset for group in layout.groups]
        areas += [(base + o, base + o + s, chunk, g) for g, (o, s) in enumerate(zip(offsets, sizes, strict=True))]
    areas.sort()
    # Long stretches between areas are cut to a small part of the picture.
    used = sum(end - start for start, end, _, _ in areas) or 1
    cut = used / 24
    position, before = 0.0, None
    marks: list[tuple[float, int]] = []
    labelled, named = len(areas) <= 24, len(areas) <= 10
    for start, end, chunk, group in areas:
        if before is not None and start > before:
            step = min(start - before, cut)
            if start - before > cut:
                ax.text(position + step / 2, 0.5, "//", ha="center", va="center", fontsize=9, color=_style.TEXT)
            position += step
        colour, ink = _CHUNKS[chunk % len(_CHUNKS)]
        ax.add_patch(Rectangle((position, 0.2), end - start, 0.6, facecolor=colour, edgecolor="white", linewidth=0.8))
        if labelled:
            text = f"chunk {chunk + 1}\ngroup {group}" if named else f"{group}"
            middle = position + (end - start) / 2
            ax.text(middle, 0.5, text, ha="center", va="center", fontsize=9, color=ink)
        if before is None or start > before:
            marks.append((position, start))
        position += end - start
        before = end
    if before is not None:
        marks.append((position, before))
    ax.set_xlim(0, max(position, 1))
    ax.set_ylim(0, 1)
    ax.set_yticks([])
    ax.set_xlabel("address (hexadecimal, bytes)")
    _style.bare(ax, keep=("bottom",))
    _style.address_ticks(ax, marks)
    ax.set_title(
        f"{plural(nr_chunks, 'later chunk')} in address space, groups at the distances of the first{note}",
        fontsize=11,
        loc="left",
        color=_style.TEXT,
    )
    if not named:
        handles = [Patch(facecolor=_CHUNKS[i % len(_CHUNKS)][0], label=f"chunk {i + 1}") for i in range(nr_chunks)]
        _style.legend_below(ax, 0.6, handles, ncols=8, fontsize=9)
    return ax


def plot_waste(result: Any, ax: Any = None, *, x: str = "nr_cpus", y: str = "nr_nodes", value: str = "waste") -> Any:
    """Draw a map of waste over two parameters of a `layout_sweep`.

    Parameters
    ----------
    result : Result
        A sweep over a grid; of further parameters the first value is drawn.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    x, y : str, optional
        Parameters along the axes.
    value : str, optional
        Column that is drawn; with ``waste`` the share of units that are holes. Failed points stay grey.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    InvalidRequest
        If there is no such column, or it holds no numbers.
    """
    _style.needs("result", result, "a Result", "missing", "attrs")
    for parameter, name in (("x", x), ("y", y), ("value", value)):
        numbers = [column for column in result if column != "status" and result[column].dtype.kind in "iuf"]
        if name not in numbers:
            raise InvalidRequest(f"{parameter}={name!r}: must be one of {', '.join(numbers)}", parameter=parameter)
    plt = _style.pyplot()
    keep = np.ones(len(result), dtype=bool)
    dims = (
        "nr_nodes",
        "static_size_bytes",
        "reserved_size_bytes",
        "wanted_dyn_bytes",
        "atom_size_bytes",
        "page_size_bytes",
    )
    fixed = []
    for name in ("nr_cpus", *dims):
        values = np.unique(result[name])
        if name not in (x, y) and len(values) > 1:
            keep &= result[name] == result[name][0]
            fixed.append(f"{name} {result[name][0]}")
    keep &= result["status"] == "ok"
    xs, ys = np.unique(result[x]), np.unique(result[y])
    grid = np.full((len(ys), len(xs)), np.nan)
    grid[np.searchsorted(ys, result[y][keep]), np.searchsorted(xs, result[x][keep])] = result[value][keep]
    if ax is None:
        _, ax = plt.subplots(figsize=(9.5, 4.2), layout="constrained")
    ax.set_facecolor("#D9DBDE")
    share = value == "waste"
    shown = grid * 100 if share else grid
    image = ax.imshow(shown, origin="lower", aspect="auto", interpolation="nearest", cmap="cividis", vmin=0)
    for axis, values in ((ax.set_xticks, xs), (ax.set_yticks, ys)):
        places = np.unique(np.linspace(0, len(values) - 1, min(len(values), 9)).round().astype(int))
        axis(places, [f"{int(values[i]):,}" for i in places])
    ax.set_xlabel("possible CPUs" if x == "nr_cpus" else x)
    ax.set_ylabel("nodes" if y == "nr_nodes" else y)
    ax.figure.colorbar(image, ax=ax, label="units that are holes, %" if share else value)
    title = "Waste of the first chunk's rule" if share else value
    title += f", kernel {result.attrs['kernel']}" + (f" ({', '.join(fixed)})" if fixed else "")
    ax.set_title(title, loc="left", fontsize=11, color=_style.TEXT)
    ax.tick_params(length=0, colors=_style.TEXT, labelsize=9)
    return ax
