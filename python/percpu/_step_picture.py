"""The picture of a step: the chunk with what changed, a stretch of it enlarged, and the slots."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from percpu import _core
from percpu._rich import outline
from percpu._svg import Svg
from percpu._words import Rule
from percpu.plot import _style
from percpu.plot._style import human_bytes
from percpu.plot.chunk import _classify, _not_populated, _reduce, _scalar, grid_of

__all__ = ["Scene", "draw"]

_WIDTH, _LEFT = 620.0, 46.0
_ROWS, _COLUMNS = 16, 256
_ZOOM = 128  # granules of the enlarged stretch


class Scene(NamedTuple):
    """What a step is about: an area of a chunk, or none, and the rules that are said of it."""

    chunk: int | None
    off: int
    size: int
    kind: str
    rules: list[Rule]


def draw(allocator: Any, scene: Scene) -> str:
    """Draw the state after a step."""
    chunk = None
    if scene.chunk is not None:
        chunk = allocator.reserved_chunk if scene.chunk == _core.RESERVED else allocator.chunks.get(scene.chunk)
    svg = Svg(_WIDTH, 0)
    y = 4.0
    if chunk is not None:
        y = _map(svg, chunk, scene, y)
        if scene.size:
            y = _zoom(svg, chunk, scene, y)
    y = _slots(svg, allocator, scene, y)
    svg.height = y + 4
    return str(svg)


def _colour(scene: Scene) -> str:
    return _style.CONTIG if scene.kind == "alloc" else _style.FIRST_FREE


def _map(svg: Svg, chunk: Any, scene: Scene, y: float) -> float:
    """Draw the rows of the chunk around the area."""
    codes = _classify(chunk)
    granule = chunk.min_alloc_size
    row_bits, columns = grid_of(len(codes), chunk.block_bits, 64, _COLUMNS)
    pixels = _reduce(codes, row_bits, columns, _not_populated(chunk, len(codes)))
    middle = scene.off // granule // row_bits
    first = max(min(middle - _ROWS // 2, len(pixels) - _ROWS), 0)
    pixels = pixels[first : first + _ROWS]
    step = 13.0 if len(pixels) < 12 else 10.0
    inner = _WIDTH - _LEFT - 10
    name = "reserved chunk" if chunk.is_reserved else f"chunk {chunk.number}"
    per_row = row_bits // chunk.block_bits
    what = "a block" if per_row == 1 else f"{per_row} blocks"
    svg.text(_LEFT, y + 10, f"{name}; a row is {what}, {human_bytes(row_bits * granule)} of one CPU", size=9.5)
    top = y + 15
    svg.image(_LEFT, top, inner, len(pixels) * step, pixels)
    svg.rect(_LEFT, top, inner, len(pixels) * step, stroke=_style.GRID)
    right = _LEFT + inner
    svg.lines([(_LEFT, top + r * step, right, top + r * step) for r in range(1, len(pixels))], _style.GRID)
    for row in range(0, len(pixels), max(1, len(pixels) // 8)):
        svg.text(_LEFT - 6, top + (row + 0.8) * step, (first + row) * per_row, size=9, anchor="end")
    place = (_LEFT, top - first * step, inner / row_bits, step)
    hints = getattr(chunk, "hints", None)
    for hint, colour in (("contig_hint", _style.OCHRE), ("scan_hint", _style.SCAN)):
        length, start = _scalar(hints, hint), _scalar(hints, f"{hint}_start")
        if hints is not None and length is None and hint == "contig_hint":
            length, start = _scalar(hints, "contig_bits"), _scalar(hints, "contig_bits_start")
        if length and start is not None:
            low, high = max(start, first * row_bits), min(start + length, (first + len(pixels)) * row_bits)
            if high > low:
                outline(svg, low, high - low, row_bits, place, colour)
    if scene.size:
        bits = max(scene.size // granule, 1)
        end = min(scene.off // granule + bits, (first + len(pixels)) * row_bits)
        outline(svg, scene.off // granule, end - scene.off // granule, row_bits, place, _colour(scene))
    return top + len(pixels) * step + 6


def _zoom(svg: Svg, chunk: Any, scene: Scene, y: float) -> float:
    """Draw the granules around the area, and the hints of their blocks below."""
    codes = _classify(chunk)
    granule = chunk.min_alloc_size
    bits = max(scene.size // granule, 1)
    start = scene.off // granule
    wide = max(_ZOOM, 2 * bits)
    first = max(min(start + bits // 2 - wide // 2, len(codes) - wide), 0)
    end = min(first + wide, len(codes))
    bare = _not_populated(chunk, len(codes))[first:end]
    columns = min(end - first, 512)
    span = -(-(end - first) // columns) * columns  # may reach beyond the end of the chunk, where it stays white
    pixels = _reduce(codes[first:end], span, columns, bare)
    inner = _WIDTH - _LEFT - 10
    per_bit = inner / span
    svg.text(_LEFT, y + 9, f"enlarged: bytes {first * granule:,} to {end * granule:,}", size=9.5)
    top = y + 20
    svg.image(_LEFT, top, inner, 16, pixels)
    if span <= _ZOOM:
        svg.lines([(_LEFT + per_bit * i, top, _LEFT + per_bit * i, top + 16) for i in range(1, span)], _style.GRID)

    def x(bit: float) -> float:
        return _LEFT + per_bit * (min(max(bit, first), end) - first)

    tall = 16.0
    svg.path([(x(start), top), (x(start + bits), top), (x(start + bits), top + tall), (x(start), top + tall),
              (x(start), top)], _colour(scene), width=2)  # fmt: skip
    for rule in scene.rules:
        if rule.kind == "skip" and "runs" in rule.values:
            for off, length in rule.values["runs"]:
                a, b = x(off / granule), x((off + length) / granule)
                if b > a:
                    svg.path([(a, top + 2), (b, top + tall - 2)], _style.TEXT, width=1)
                    svg.path([(a, top + tall - 2), (b, top + 2)], _style.TEXT, width=1)
        if rule.kind == "start" and rule.values["level"] == "map" and first <= rule.values["from"] // granule < end:
            at = x(rule.values["from"] / granule)
            svg.path(
                [(at - 4, top - 6), (at + 4, top - 6), (at, top - 1), (at - 4, top - 6)], _style.TEXT, fill=_style.TEXT
            )
    below = top + tall + 5
    names = getattr(getattr(_blocks(chunk), "dtype", None), "names", None) or ()
    for name, colour in (("contig_hint", _style.OCHRE), ("scan_hint", _style.SCAN)):
        if name not in names:
            continue
        drawn = False
        for block, record in enumerate(_blocks(chunk)):
            base = block * chunk.block_bits
            a, length = base + int(record[f"{name}_start"]), int(record[name])
            if length and a < end and a + length > first:
                drawn = True
                svg.path([(x(a), below - 3), (x(a), below), (x(a + length), below), (x(a + length), below - 3)], colour)
        if drawn:
            svg.text(_LEFT - 4, below + 2, name.partition("_")[0], size=9, anchor="end")
            below += 8
    return below + 4


def _blocks(chunk: Any) -> Any:
    return getattr(chunk, "blocks", None)


def _slots(svg: Svg, allocator: Any, scene: Scene, y: float) -> float:
    """Draw the slots that hold chunks, in one line; the moved chunks marked."""
    moved = {rule.values["chunk"] for rule in scene.rules if rule.kind == "move"}
    x = _LEFT
    y += 12
    for index, numbers in enumerate(allocator.slots):
        if not numbers:
            continue
        label = f"slot {index}:"
        width = 6.2 * len(label) + sum(8 + 6.4 * len(str(number)) for number in numbers[:12]) + 24
        if x + width > _WIDTH and x > _LEFT:
            x, y = _LEFT, y + 19
        svg.text(x, y, label, size=10)
        x += 6.2 * len(label) + 3
        for number in numbers[:12]:
            wide = 5 + 6.4 * len(str(number))
            colour = _style.CONTIG if number in moved else _style.TEXT
            svg.rect(x, y - 10, wide, 13, "white", stroke=colour)
            svg.text(x + wide / 2, y, number, size=10, anchor="middle", fill=colour)
            x += wide + 3
        if len(numbers) > 12:
            more = f"+{len(numbers) - 12}"
            svg.text(x, y, more, size=10)
            x += 7 * len(more)
        x += 14
    return y + 4 if np.any([len(numbers) for numbers in allocator.slots]) else y - 12
