"""The map of a chunk: areas, free space, hints, pages."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu.plot import _style

__all__ = ["plot_chunk"]

_FREE, _HIDDEN, _AREA_A, _AREA_B, _SHARED = range(5)
_ROWS = 64  # beyond this many blocks, several stand in one row
_BRACKET_ROWS = 20  # beyond this many rows there is no room for the brackets of the blocks
_COLUMNS = 512  # beyond this many bits in a row, several stand in one cell


def _scalar(hints: Any, name: str) -> int | None:
    """Field of the chunk's own hints; None where the engine has no such hint."""
    if hints is None:
        return None
    names = getattr(getattr(hints, "dtype", None), "names", None)
    if names is not None:
        return int(np.asarray(hints[name]).reshape(-1)[0]) if name in names else None
    return int(hints[name]) if name in hints else None


def _classify(chunk: Any) -> np.ndarray:
    """One code a bit: free, hidden, or an area in one of two alternating colours."""
    alloc = np.asarray(chunk.alloc_map, dtype=bool)
    bound_map = getattr(chunk, "bound_map", None)
    bound = np.zeros_like(alloc) if bound_map is None else np.asarray(bound_map, dtype=bool)[: len(alloc)]
    previous = np.concatenate(([False], alloc[:-1]))
    starts = alloc & (bound | ~previous)
    codes = np.where(alloc, _AREA_A + (np.cumsum(starts) & 1), _FREE).astype(np.uint8)
    granule = int(getattr(chunk, "min_alloc_size", 4))
    head, tail = int(getattr(chunk, "start_offset", 0)) // granule, int(getattr(chunk, "end_offset", 0)) // granule
    codes[:head] = _HIDDEN
    if tail and bound_map is not None:  # else the map ends where the area does
        codes[-tail:] = _HIDDEN
    return codes


def _pieces(start: int, length: int, row_bits: int) -> list[tuple[int, int, int]]:
    """Cut the range [start, start + length) at row ends into (row, first column, end column)."""
    pieces = []
    end = start + length
    while start < end:
        row, column = divmod(start, row_bits)
        stop = min(end - row * row_bits, row_bits)
        pieces.append((row, column, stop))
        start = (row + 1) * row_bits
    return pieces


def _not_populated(chunk: Any, nr_bits: int) -> np.ndarray:
    """Whether each bit lies in a page that is not populated."""
    populated = np.asarray(chunk.populated, dtype=bool)
    return ~np.repeat(populated, nr_bits // max(len(populated), 1))[:nr_bits]


def _reduce(codes: np.ndarray, row_bits: int, columns: int, bare: np.ndarray) -> np.ndarray:
    """Colour a cell of several bits: mixed towards its ground by its free share; the areas' own colours where pure.

    The ground of populated pages is shaded, that of `bare` ones white. Returns (rows, columns, 3) from 0 to 1.
    """
    colours = (_style.FREE, _style.HIDDEN, _style.AREA_A, _style.AREA_B, _style.SHARED, _style.POPULATED)
    palette = np.array([_style.rgb(c) for c in colours])
    backed = len(palette) - 1
    rows = -(-len(codes) // row_bits)
    padded = np.full(rows * row_bits, _FREE, dtype=np.uint8)
    padded[: len(codes)] = np.where((codes == _FREE) & ~bare, backed, codes)
    cells = padded.reshape(rows, columns, row_bits // columns)
    share = np.stack([(cells == code).mean(axis=2) for code in range(len(palette))], axis=-1)
    both = (share[..., _AREA_A] > 0) & (share[..., _AREA_B] > 0)
    share[..., _SHARED] = np.where(both, share[..., _AREA_A] + share[..., _AREA_B], 0)
    share[both, _AREA_A] = share[both, _AREA_B] = 0
    # A sparse cell must not fade to nothing: any used bit tints it by at least a quarter.
    ground = share[..., _FREE] + share[..., backed]
    sparse = (ground < 1) & (ground > 0.75)
    fade = np.where(sparse, 0.75 / np.maximum(ground, 1e-9), 1.0)
    lift = np.where(sparse, 0.25 / np.maximum(1 - ground, 1e-9), 1.0)
    scale = np.repeat(lift[..., None], len(palette), axis=-1)
    scale[..., _FREE] = scale[..., backed] = fade
    return np.clip((share * scale) @ palette, 0, 1)


def grid_of(nr_bits: int, block_bits: int, rows: int, columns: int) -> tuple[int, int]:
    """Bits of a row and cells of a row, so that there are no more than `rows` rows of `columns` cells.

    Examples
    --------
    >>> grid_of(8 * 1024, 1024, 64, 512), grid_of(256 * 1024, 1024, 64, 512)
    ((1024, 512), (4096, 512))
    """
    per_row = 1
    while -(-nr_bits // block_bits) > rows * per_row:
        per_row *= 2
    row_bits = block_bits * per_row
    cells = min(row_bits, columns)
    while row_bits % cells:
        cells -= 1
    return row_bits, cells


def picture(chunk: Any, rows: int = _ROWS, columns: int = _COLUMNS) -> tuple[np.ndarray, int]:
    """Reduce the map of a chunk to few cells: colours (rows, columns, 3) from 0 to 1, and the bits of a row."""
    codes = _classify(chunk)
    row_bits, cells = grid_of(len(codes), int(chunk.block_bits), rows, columns)
    return _reduce(codes, row_bits, cells, _not_populated(chunk, len(codes))), row_bits


def plot_chunk(chunk: Any, ax: Any = None) -> Any:
    """Draw the map of a chunk.

    One row is one block (in large chunks several), one cell is one granule (or several). Neighbouring areas
    have alternating blues, hidden parts of boot chunks are grey; free space is shaded where the page is populated,
    else white and hatched. The chunk's own hints are drawn over it: the largest known free run
    (``contig_hint``) and the smaller one before it (``scan_hint``) as frames, ``first_free`` as a mark. Where a row is
    one block, and there are few, brackets below it show the block's own ``contig_hint`` and ``scan_hint``. The bar at
    the right shows how full each row is, and a line the block's ``contig_hint``, measured from the right: the further
    it is from the end of the bar, the more the free space of the block is split up.

    Parameters
    ----------
    chunk : Chunk
        Anything with the attributes ``alloc_map``, ``bound_map``, ``populated``, ``blocks``, ``hints`` and
        ``block_bits``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    _style.needs("chunk", chunk, "a Chunk", "alloc_map", "populated", "block_bits")
    plt = _style.pyplot()
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch, Rectangle

    codes = _classify(chunk)
    nr_bits, block_bits = len(codes), int(chunk.block_bits)
    granule = int(getattr(chunk, "min_alloc_size", 4))
    row_bits, columns = grid_of(nr_bits, block_bits, _ROWS, _COLUMNS)
    per_row = row_bits // block_bits
    rows = -(-nr_bits // row_bits)

    if ax is None:
        # No taller than wide, so that on a page or a screen the text stays readable.
        _, ax = plt.subplots(figsize=(9, 2.1 + min(0.19 * max(rows, 6), 6.4)), layout="constrained")
    ax.set_facecolor(_style.PAPER)
    image = _reduce(codes, row_bits, columns, _not_populated(chunk, nr_bits))
    ax.imshow(image, extent=(0, row_bits, rows, 0), aspect="auto", interpolation="nearest", zorder=1)

    # What the last row does not have.
    if nr_bits % row_bits:
        ax.add_patch(Rectangle((nr_bits % row_bits, rows - 1), row_bits, 1, color=_style.PAPER, zorder=3))

    # Pages that are not populated.
    populated = np.asarray(chunk.populated, dtype=bool)
    page_bits = nr_bits // max(len(populated), 1)
    edges = np.flatnonzero(np.diff(np.concatenate(([True], populated, [True])).astype(np.int8)))
    with plt.rc_context({"hatch.linewidth": 0.7}):
        for first, end in edges.reshape(-1, 2):
            for row, left, right in _pieces(first * page_bits, (end - first) * page_bits, row_bits):
                ax.add_patch(
                    Rectangle(
                        (left, row),
                        right - left,
                        1,
                        fill=False,
                        hatch="////",
                        edgecolor=_style.HATCH,
                        linewidth=0,
                        zorder=2,
                    )
                )

    # Rows, and blocks within a row.
    ax.hlines(np.arange(1, rows), 0, row_bits, color=_style.GRID, linewidth=0.5, zorder=3)
    if 1 < per_row <= 16:
        ax.vlines(np.arange(1, per_row) * block_bits, 0, rows, color=_style.GRID, linewidth=0.5, zorder=3)

    # Hints.
    told_apart = getattr(chunk, "bound_map", None) is not None
    handles = [
        (Patch(facecolor=_style.AREA_A), Patch(facecolor=_style.AREA_B)),
        Patch(facecolor=_style.POPULATED, edgecolor=_style.GRID, label="free (populated)"),
    ]
    if told_apart and columns < row_bits:
        handles.append(Patch(facecolor=_style.SHARED, label="several areas in a cell"))
    if (codes == _HIDDEN).any():
        handles.append(Patch(facecolor=_style.HIDDEN, label="hidden"))
    if not populated.all():
        handles.append(
            Patch(facecolor="white", edgecolor=_style.HATCH, hatch="////", linewidth=0, label="not populated")
        )
    hints = getattr(chunk, "hints", None)  # engines before 4.14 have none, or in another form
    for name, colour in (("contig_hint", _style.CONTIG), ("scan_hint", _style.SCAN)):
        length, start = _scalar(hints, name), _scalar(hints, f"{name}_start")
        if not length or start is None:
            continue
        _frame(ax, _pieces(start, length, row_bits), row_bits, rows, colour)
        handles.append(
            Patch(
                facecolor="none",
                edgecolor=colour,
                linewidth=2,
                label=f"{name} {_style.human_bytes(length * granule)} @ {start * granule:,}",
            )
        )
    if per_row == 1 and rows <= _BRACKET_ROWS:
        _brackets(ax, chunk, handles)
    first_free = _scalar(hints, "first_free")
    if first_free is None:
        first_free = _scalar(hints, "first_bit")
    if first_free is not None and first_free < nr_bits:
        row, column = divmod(first_free, row_bits)
        handles.append(
            ax.scatter(
                [column],
                [row + 0.5],
                marker=">",
                s=46,
                color=_style.FIRST_FREE,
                edgecolor="white",
                linewidth=0.8,
                zorder=6,
                clip_on=False,
                label=f"first_free @ {first_free * granule:,}",
            )
        )

    if _row_bars(ax, codes, chunk, row_bits, rows, per_row == 1):
        mark = {"marker": "|", "linestyle": "none", "markersize": 9, "markeredgewidth": 1.8}
        handles.append(Line2D([], [], color=_style.CONTIG, label="contig_hint of the block, from 100 % down", **mark))

    # Axes in bytes; pages named where a block is one.
    ticks = np.linspace(0, row_bits, 5)
    ax.set_xticks(ticks, [f"{int(t) * granule:,}" for t in ticks])
    row_bytes = row_bits * granule
    what = "block" if per_row == 1 else f"{per_row} blocks"
    ax.set_xlabel(f"bytes within the row ({what}, {_style.human_bytes(row_bytes)})")
    step = next(s for s in (1, 2, 4, 8, 16) if rows / s <= 17)
    ax.set_yticks(np.arange(0, rows, step) + 0.5, [str(r * per_row) for r in range(0, rows, step)])
    ax.set_ylabel("block")
    ax.tick_params(length=0, colors=_style.TEXT, labelsize=9.5)
    ax.set_xlim(0, row_bits)
    ax.set_ylim(rows, 0)
    for spine in ax.spines.values():
        spine.set_color(_style.GRID)
    ax.set_title(_title(chunk, codes, granule, populated), loc="left", fontsize=11, color=_style.TEXT)
    _style.legend_below(
        ax,
        0.52,
        handles,
        ["areas, alternating" if told_apart else "runs in use", *(h.get_label() for h in handles[1:])],
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
        ncols=3,
        fontsize=9.5,
        handlelength=1.6,
        columnspacing=1.6,
    )
    return ax


def _brackets(ax: Any, chunk: Any, handles: list[Any]) -> None:
    """Draw the hints of each block as brackets at the bottom of its row."""
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    blocks = getattr(chunk, "blocks", None)
    names = getattr(getattr(blocks, "dtype", None), "names", None) or ()
    for name, colour, foot in (("contig_hint", _style.CONTIG, 0.93), ("scan_hint", _style.SCAN, 0.8)):
        if name not in names:
            continue
        shapes = []
        for row, block in enumerate(blocks):
            length, start = int(block[name]), int(block[f"{name}_start"])
            if length > 0:
                left, right, low, high = start, start + length, row + foot, row + foot - 0.14
                shapes.append([(left, high), (left, low), (right, low), (right, high)])
        if shapes:
            ax.add_collection(LineCollection(shapes, colors=colour, linewidths=1.3, zorder=4, label=f"block {name}"))
            handles.append(Line2D([], [], color=colour, linewidth=1.3, label=f"{name} of each block"))


def _frame(ax: Any, pieces: list[tuple[int, int, int]], row_bits: int, rows: int, colour: str) -> None:
    """Outline a range of bits that may span rows: the outer edges only, with a light edge to stand off the map."""
    import matplotlib.patheffects as effects

    inset = 0.06
    lines_x: list[float] = []
    lines_y: list[float] = []

    def segment(x0: float, y0: float, x1: float, y1: float) -> None:
        lines_x.extend((x0, x1, np.nan))
        lines_y.extend((y0, y1, np.nan))

    for k, (row, left, right) in enumerate(pieces):
        top, bottom = row + inset, row + 1 - inset
        above = pieces[k - 1] if k else None
        below = pieces[k + 1] if k + 1 < len(pieces) else None
        y0 = row if above else top
        y1 = row + 1 if below else bottom
        segment(left, y0, left, y1)
        segment(right, y0, right, y1)
        for other, y in ((above, top), (below, bottom)):
            covered = (other[1], other[2]) if other else None
            y = y if covered is None else (row if other is above else row + 1)
            for x0, x1 in _minus(left, right, covered):
                segment(x0, y, x1, y)
    (line,) = ax.plot(
        lines_x, lines_y, color=colour, linewidth=1.9, solid_capstyle="projecting", zorder=5, clip_on=False
    )
    line.set_path_effects([effects.Stroke(linewidth=3.4, foreground="white", alpha=0.85), effects.Normal()])


def _minus(left: float, right: float, covered: tuple[float, float] | None) -> list[tuple[float, float]]:
    """Return [left, right) without [covered)."""
    if covered is None or covered[1] <= left or covered[0] >= right:
        return [(left, right)]
    parts = [(left, covered[0]), (covered[1], right)]
    return [(a, b) for a, b in parts if a < b]


def _row_bars(ax: Any, codes: np.ndarray, chunk: Any, row_bits: int, rows: int, with_hints: bool) -> bool:
    """Draw at the right how full each row is; return whether the blocks' own hints were drawn as well."""
    side = ax.inset_axes((1.012, 0, 0.09, 1))
    padded = np.full(rows * row_bits, _FREE, dtype=np.uint8)
    padded[: len(codes)] = codes
    width = np.minimum(row_bits, len(codes) - np.arange(rows) * row_bits)
    used = (padded.reshape(rows, row_bits) != _FREE).sum(axis=1) / width
    middle = np.arange(rows) + 0.5
    side.barh(middle, used, height=0.72, color=_style.AREA_A, alpha=0.85, zorder=2)
    blocks = getattr(chunk, "blocks", None)
    names = getattr(getattr(blocks, "dtype", None), "names", None) or ()
    with_hints = with_hints and "contig_hint" in names
    if with_hints:
        known = blocks["contig_hint"] / width
        side.plot(1 - known, middle, "|", color=_style.CONTIG, markersize=max(min(300 / rows, 9), 3), mew=1.6, zorder=3)
    side.set_xlim(0, 1)
    side.set_ylim(rows, 0)
    side.set_yticks([])
    side.set_xticks([1], ["100 %"], fontsize=9, ha="right")
    side.tick_params(length=0, colors=_style.TEXT)
    side.set_xlabel("used", fontsize=9)
    side.set_facecolor(_style.PAPER)
    for spine in side.spines.values():
        spine.set_visible(False)
    return with_hints


def _title(chunk: Any, codes: np.ndarray, granule: int, populated: np.ndarray) -> str:
    number = getattr(chunk, "number", None)
    name = (
        "chunk" if number is None else ("reserved chunk" if getattr(chunk, "is_reserved", False) else f"chunk {number}")
    )
    used = int((codes >= _AREA_A).sum()) * granule
    free = int((codes == _FREE).sum()) * granule
    return (
        f"{name}: {_style.human_bytes(used)} allocated, {_style.human_bytes(free)} free, "
        f"{int(populated.sum())} of {len(populated)} pages populated"
    )
