"""How objects show themselves in a notebook: a table of facts and a small picture, bounded whatever they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from percpu import _core
from percpu._svg import Svg, facts, table
from percpu.plot import _style
from percpu.plot._style import human_bytes, plural
from percpu.plot.chunk import _scalar, picture
from percpu.plot.slots import slot_name
from percpu.plot.timeline import reduce_timeline

if TYPE_CHECKING:
    from percpu.allocator import Allocator, Chunk
    from percpu.compare import Comparison
    from percpu.layout import FirstChunkLayout, VmallocSpace
    from percpu.sweep import Sweep
    from percpu.trace import Trace

_WIDTH = 620
_STRIPS = 24  # chunks beyond these are only counted
_GROUPS, _UNITS = 12, 384
_PARTS = 120  # stretches of a trace, and points of a timeline
_SAMPLE = 4096  # events that stand for a stretch of a long trace


def _block(title: str, *parts: Any) -> str:
    import html

    return f"<div><p><b>{html.escape(title)}</b></p>{''.join(str(part) for part in parts)}</div>"


# -- chunks and allocators ---------------------------------------------------------------


def chunk_map(
    chunk: Chunk, *, rows: int = 32, columns: int = 256, width: float = _WIDTH, title: bool = False, key: bool = True
) -> Svg:
    """Draw the map of a chunk: a row a block (in large chunks several), its hints as frames."""
    pixels, row_bits = picture(chunk, rows, columns)
    nr_rows = len(pixels)
    step = min(16.0, max(6.0, 200 / nr_rows))
    left, top = 46.0, 6.0
    inner = width - left - 10
    height = nr_rows * step
    svg = Svg(width, top + height + (42 if key else 20))
    svg.image(left, top, inner, height, pixels)
    svg.rect(left, top, inner, height, stroke=_style.GRID)
    per_bit = inner / row_bits
    hints = getattr(chunk, "hints", None)
    shown = []
    for name, colour in (("contig_hint", _style.CONTIG), ("scan_hint", _style.SCAN)):
        length, start = _scalar(hints, name), _scalar(hints, f"{name}_start")
        if length and start is not None:
            outline(svg, start, length, row_bits, (left, top, per_bit, step), colour)
            shown.append((name, colour))
    for row in range(0, nr_rows, max(1, nr_rows // 8)):
        svg.text(left - 6, top + (row + 0.75) * step, row * (row_bits // chunk.block_bits), size=9, anchor="end")
    granule = chunk.min_alloc_size
    per_row = row_bits // chunk.block_bits
    what = "a block" if per_row == 1 else f"{per_row} blocks"
    svg.text(left, top + height + 13, f"a row is {what}, {human_bytes(row_bits * granule)} of one CPU", size=9.5)
    if key:
        x = left
        named = [("areas", _style.AREA_A), ("free, populated", _style.POPULATED), ("not populated", _style.FREE)]
        for name, colour in [*named, *shown]:
            frame = name.endswith("_hint")
            svg.rect(x, top + height + 20, 11, 9, "none" if frame else colour, stroke=colour if frame else _style.GRID)
            svg.text(x + 15, top + height + 28.5, name, size=9.5)
            x += 24 + 6 * len(name)
    return svg


def outline(
    svg: Svg, start: int, length: int, row_bits: int, place: tuple[float, float, float, float], colour: str
) -> None:
    """Frame a run of bits row by row: long ones only where they begin and end, and as a bar between."""
    left, top, per_bit, step = place
    first, last = start // row_bits, (start + length - 1) // row_bits
    a, b = start - first * row_bits, start + length - last * row_bits
    x0, x1, right = left + a * per_bit, left + b * per_bit, left + row_bits * per_bit
    y0, y1 = top + first * step, top + (last + 1) * step
    if first == last:
        points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
    else:
        points = [(x0, y0), (right, y0), (right, y1 - step), (x1, y1 - step), (x1, y1), (left, y1), (left, y0 + step),
                  (x0, y0 + step), (x0, y0)]  # fmt: skip
    svg.path(points, "white", width=3.2)
    svg.path(points, colour, width=1.7)


def chunk_html(chunk: Chunk) -> str:
    """Show a chunk."""
    from percpu.errors import StaleChunk

    try:
        info = chunk.info
    except StaleChunk:
        return _block(repr(chunk))
    name = "reserved chunk" if chunk.is_reserved else f"chunk {chunk.number}"
    empty = info["nr_empty_pop_pages"]
    rows: list[tuple[str, Any]] = [
        ("free", f"{human_bytes(info['free_bytes'])} of one CPU"),
        ("live areas", info["nr_alloc"]),
        ("populated pages", f"{info['nr_populated']:,} of {info['nr_pages']:,}"),
        ("of them empty", "not kept" if empty is None else empty),
        ("slot", "none" if info["slot"] is None else f"{info['slot']}"),
        ("address", f"{info['base_addr']:#x}"),
    ]
    if info["immutable"]:
        rows.append(("boot chunk", "its pages never change"))
    if info["isolated"]:
        rows.append(("isolated", "taken off the searched slots"))
    return _block(name, facts(rows), chunk_map(chunk))


def strips(chunks: Sequence[Chunk], labels: Sequence[str], *, width: float = _WIDTH, columns: int = 256) -> Svg:
    """Draw chunks as strips, one below the other."""
    step, left = 15.0, 190.0
    svg = Svg(width, max(len(chunks), 1) * step + 4)
    inner = width - left - 66
    for row, (chunk, label) in enumerate(zip(chunks, labels, strict=True)):
        nr_bits = len(chunk.alloc_map)
        pixels, row_bits = picture(chunk, 1, columns)
        kept = max(round(pixels.shape[1] * nr_bits / row_bits), 1)  # the row may be longer than the chunk
        svg.image(left, row * step + 2, inner, step - 4, pixels[:1, :kept])
        svg.rect(left, row * step + 2, inner, step - 4, stroke=_style.GRID)
        svg.text(left - 6, (row + 0.78) * step, label, size=10, anchor="end")
        svg.text(left + inner + 5, (row + 0.78) * step, human_bytes(nr_bits * chunk.min_alloc_size), size=10)
    return svg


def chunks_html(chunks: Mapping[int, Chunk]) -> str:
    """Show chunks as strips, by number."""
    numbers = list(chunks)
    found = [chunks[number] for number in numbers[:_STRIPS]]
    labels = [f"chunk {number} · {plural(chunks[number].nr_alloc, 'area')}" for number in numbers[:_STRIPS]]
    more = f"<p>{len(numbers) - _STRIPS:,} chunks more are not drawn</p>" if len(numbers) > _STRIPS else ""
    return _block(plural(len(numbers), "chunk"), strips(found, labels) if found else "", more)


def allocator_html(allocator: Allocator) -> str:
    """Show an allocator: its totals, and its chunks in the order of the slots."""
    stats = allocator.stats()
    ordered = [number for numbers in allocator.slots for number in numbers]
    rest = [number for number in allocator.chunks if number not in set(ordered)]
    found = [allocator.chunks[number] for number in [*ordered, *rest][:_STRIPS]]
    labels = []
    for chunk in found:
        slot = chunk.slot
        where = "" if slot is None else f" · slot {slot}, {slot_name(allocator, slot)}"
        labels.append(f"chunk {chunk.number}{where}")
    reserved = allocator.reserved_chunk
    if reserved is not None:
        found, labels = [*found, reserved], [*labels, "reserved chunk"]
    total = len(allocator.chunks)
    rows: list[tuple[str, Any]] = [
        ("engine", f"{allocator.engine} (kernel {allocator.kernel})"),
        ("unit", f"{human_bytes(allocator.unit_size)}, {plural(allocator.nr_units, 'unit')} a chunk"),
        ("live areas", stats["nr_cur_alloc"]),
        ("chunks", total),
    ]
    pages = (("nr_populated", "populated pages"), ("nr_empty_pop_pages", "of them empty"))
    rows += [(label, stats[name]) for name, label in pages if name in stats]
    more = f"<p>{total - _STRIPS:,} chunks more are not drawn</p>" if total > _STRIPS else ""
    return _block("Allocator", facts(rows), strips(found, labels) if found else "", more)


# -- layouts and address space -----------------------------------------------------------


def layout_html(layout: FirstChunkLayout) -> str:
    """Show a layout: a row a group, a cell a unit with its CPU, holes hatched grey."""
    groups = layout.groups[:_GROUPS]
    widest = min(max(len(group.cpu_map) for group in groups), _UNITS // len(groups))
    side = min(30.0, max(9.0, 520 / widest))
    left = 74.0
    svg = Svg(max(left + widest * side + 60, 480), len(groups) * 26 + 30)
    parts = (
        (layout.static_size, _style.HIDDEN, "static"),
        (layout.reserved_size, _style.FIRST_FREE, "reserved"),
        (layout.dyn_size, _style.AREA_B, "dynamic"),
    )
    pieces: dict[str, list[tuple[float, float, float, float]]] = {colour: [] for _, colour, _ in parts}
    for row, group in enumerate(groups):
        y = row * 26 + 2.0
        svg.text(left - 6, y + 14, f"group {row}", size=10, anchor="end")
        for unit, cpu in enumerate(group.cpu_map[:widest].tolist()):
            x = left + unit * side
            if cpu < 0:
                svg.rect(x, y, side - 2, 22, "#D9DBDE", tip="hole: memory that no one uses")
                continue
            svg.rect(x, y, side - 2, 22, "white", stroke=_style.GRID, tip=f"CPU {cpu}")
            at = 0.0
            for size, colour, _ in parts:
                wide = (side - 2) * size / layout.unit_size
                pieces[colour].append((x + at, y + 14, wide, 8))
                at += wide
            if side >= 14:
                svg.text(x + side / 2 - 1, y + 11, cpu, size=9, anchor="middle")
        if len(group.cpu_map) > widest:
            svg.text(left + widest * side + 4, y + 14, f"+{len(group.cpu_map) - widest}", size=10)
    for colour, places in pieces.items():
        svg.boxes(places, colour)
    x, y = left, len(groups) * 26 + 10
    for size, colour, name in parts:
        if size:
            label = f"{name} {human_bytes(size)}"
            svg.rect(x, y, 10, 10, colour)
            svg.text(x + 14, y + 9, label, size=10)
            x += 24 + 6.3 * len(label)
    rows: list[tuple[str, Any]] = [
        ("kernel", layout.release),
        ("made by", layout.first_chunk),
        ("CPUs", layout.topology.nr_cpus),
        ("unit", human_bytes(layout.unit_size)),
        ("units", f"{layout.nr_units:,} in {plural(len(layout.groups), 'group')}, {plural(layout.nr_holes, 'hole')}"),
        ("first chunk", f"{human_bytes(layout.nr_units * layout.unit_size)} asked for"),
    ]
    hidden = len(layout.groups) - len(groups)
    more = f"<p>{plural(hidden, 'group')} more not drawn</p>" if hidden else ""
    return _block("First chunk", facts(rows), svg, more)


def space_html(space: VmallocSpace) -> str:
    """Show a vmalloc space: what is taken, the last ranges first."""
    busy = space.busy
    start, end = space.bounds
    taken = sum(last - first for first, last, _ in busy)
    rows = [
        ("range", f"{start:#x} to {end:#x}"),
        ("search", space.search),
        ("taken", f"{human_bytes(taken)} in {plural(len(busy), 'range')}"),
        ("given back, not purged", f"{space.lazy_pages:,} pages"),
    ]
    shown = [(f"{a:#x}", f"{b:#x}", human_bytes(b - a), "lazy" if lazy else "") for a, b, lazy in reversed(busy[-10:])]
    more = f"<p>{len(busy) - 10:,} ranges below</p>" if len(busy) > 10 else ""
    return _block("Vmalloc space", facts(rows), table(("start", "end", "size", ""), shown) if shown else "", more)


# -- traces and replays ------------------------------------------------------------------


_KINDS = ("alloc", "free", "fail", "create", "destroy")
_KIND_COLOURS = (_style.AREA_A, _style.AREA_B, _style.CONTIG, _style.SCAN, _style.OCHRE)


def kinds_of(trace: Trace) -> tuple[np.ndarray, int]:
    """Count events by kind in stretches of a trace: (stretches, kinds), and how many events stand for a stretch.

    Of a long trace only the first events of each stretch are looked at; 0 if all of them were.
    """
    n = len(trace)
    cuts = _style.buckets(n, _PARTS)
    ends = np.append(cuts[1:], n)
    sampled = n > _PARTS * _SAMPLE
    counts = np.zeros((len(cuts), len(_core.EVENT_KINDS)), dtype=np.int64)
    if not sampled:
        kind = np.asarray(trace["kind"])
        part = np.repeat(np.arange(len(cuts)), ends - cuts)
        np.add.at(counts, (part, kind), 1)
        return counts, 0
    for row, first in enumerate(cuts.tolist()):
        kind = np.asarray(trace[first : first + _SAMPLE]["kind"])
        counts[row] = np.bincount(kind, minlength=counts.shape[1])
    return counts, _SAMPLE


def trace_html(trace: Trace) -> str:
    """Show a trace: its facts, and the mix of events along it."""
    n, info = len(trace), trace.info
    rows: list[tuple[str, Any]] = [
        ("events", n),
        ("form", info["format"] or "not from a file"),
        ("span", span_of(trace) or "not timed"),
        ("pointers", "hashed" if info["hashed"] else "plain"),
        ("events lost", info["lost_events"]),
        ("damaged lines", info["damaged_lines"]),
    ]
    if not n:
        return _block("Trace", facts(rows))
    counts, sampled = kinds_of(trace)
    named = [_core.EVENT_KINDS.index(kind) for kind in _KINDS]
    other = [i for i in range(counts.shape[1]) if i not in named]
    shares = np.column_stack([counts[:, named], counts[:, other].sum(axis=1)]) / counts.sum(axis=1, keepdims=True)
    colours = (*_KIND_COLOURS, "#9AA0A6")
    left, height = 46.0, 90.0
    svg = Svg(_WIDTH, height + 46)
    wide = (_WIDTH - left - 10) / len(shares)
    for part, row in enumerate(shares):
        y = 4.0
        for share, colour in zip(row, colours, strict=True):
            if share > 0:
                svg.rect(left + part * wide, y, wide, height * share, colour)
            y += height * share
    for share, label in ((0, "100 %"), (1, "0 %")):
        svg.text(left - 5, 4 + height * share + (8 if share == 0 else 0), label, size=9, anchor="end")
    svg.text(left, height + 16, "share of events, first to last event", size=9.5)
    x = left
    for name, colour in zip((*_KINDS, "others"), colours, strict=True):
        svg.rect(x, height + 26, 10, 10, colour)
        svg.text(x + 14, height + 35, name, size=10)
        x += 30 + 7 * len(name)
    note = f"<p>of each stretch the first {sampled:,} events are shown</p>" if sampled else ""
    return _block("Trace", facts(rows), svg, note)


def span_of(trace: Trace) -> str | None:
    """How long a trace took, from its first and last event; None if times only count events."""
    n = len(trace)
    if not n or trace.info["clock"] == "counter":
        return None
    first, last = (int(trace[at : at + 1]["time_ns"][0]) for at in (0, n - 1))
    seconds = (last - first) / 1e9
    return f"{seconds:.3g} s" if 0 <= seconds < 120 else f"{seconds / 60:.3g} min" if seconds >= 0 else None


def timeline_svg(timeline: Any, page_size: int, *, width: float = _WIDTH, height: float = 120, limit: int = 400) -> Svg:
    """Draw what is allocated, and what is populated where that is known, over events."""
    data = reduce_timeline(timeline, limit)
    event = np.asarray(data["event"], dtype=float)
    svg = Svg(width, height + 40)
    left, top = 70.0, 16.0
    inner = width - left - 12
    live = np.asarray(data.get("mean_live_bytes", data["live_bytes"]), dtype=float)
    curves = [("allocated", live, _style.AREA_A)]
    if "populated_pages" in data:
        curves.insert(0, ("populated", np.asarray(data["populated_pages"], dtype=float) * page_size, _style.AREA_B))
    peak = max(float(values.max(initial=0)) for _, values, _ in curves) or 1.0
    span = max(float(event[-1] - event[0]), 1.0) if len(event) else 1.0
    base = top + height - 12
    tall = base - top
    x = left
    for name, values, colour in curves:
        points = [
            (left + inner * (e - event[0]) / span, base - tall * v / peak) for e, v in zip(event, values, strict=True)
        ]
        if points:
            svg.path([(left, base), *points, (points[-1][0], base)], "none", fill=colour)
        svg.rect(x, 2, 10, 9, colour)
        svg.text(x + 14, 10.5, name, size=10)
        x += 36 + 6.5 * len(name)
    for share in (0, 0.5, 1):
        y = base - tall * share
        svg.path([(left, y), (left + inner, y)], _style.GRID, width=0.6)
        svg.text(left - 5, y + 4, human_bytes(round(peak * share)) if share else "0", size=9.5, anchor="end")
    last = int(event[-1]) if len(event) else 0
    svg.text(left, base + 15, f"event {int(event[0]) if len(event) else 0:,}", size=9.5)
    svg.text(left + inner, base + 15, f"{last:,}", size=9.5, anchor="end")
    svg.text(left + inner / 2, base + 28, "bytes of one CPU over events", size=9.5, anchor="middle")
    return svg


_SHOWN = (
    ("nr_events", "events"), ("nr_alloc", "requests served"), ("nr_failed", "requests failed"), ("nr_free", "frees"),
    ("nr_predicted", "predicted"), ("nr_diverged", "diverged"), ("nr_late", "lines overtaken"),
    ("nr_unexplained", "lines not explained"), ("nr_comparable", "comparable"), ("nr_same_place", "in the same place"),
    ("nr_live", "live areas at the end"), ("nr_freed_prior", "areas learnt of from frees"),
    ("nr_illegal", "illegal events"), ("nr_chunks", "chunks at the end"),
)  # fmt: skip


def run_html(run: Any) -> str:
    """Show a replay of any kind: its counts and its timeline."""
    summary = run.summary
    rows: list[tuple[str, Any]] = [(label, summary[name]) for name, label in _SHOWN if name in summary]
    if "unknown_share" in summary:
        rows.append(("bytes of which nothing is known", f"{100 * summary['unknown_share']:.1f} %"))
    first = getattr(run, "first_divergence", None) or getattr(run, "first_illegal", None)
    if first is not None:
        text = first.get("text") or ", ".join(f"{k} {v}" for k, v in first.items() if v is not None)
        rows.append(("the first one that differs", text))
    svg = timeline_svg(run.timeline, run._facts["page_size"]) if len(run.timeline) else ""
    return _block(type(run).__name__, facts(rows), svg)


# -- comparisons and sweeps --------------------------------------------------------------


def comparison_html(comparison: Comparison, rest: str) -> str:
    """Show a comparison: memory at the peak as bars, then the table."""
    column = "peak_memory_bytes"
    names = [str(name) for name in comparison[next(iter(comparison))]]
    if column not in comparison or not names:
        return rest
    values = np.where(comparison.missing(column), 0, comparison[column]).astype(float)
    return bars(names, values, "memory at the peak, all CPUs", human_bytes) + rest


def bars(names: Sequence[str], values: np.ndarray, title: str, text: Any) -> str:
    """Draw a bar for each name."""
    svg = Svg(_WIDTH, len(names) * 20 + 24)
    left, top = 150.0, float(values.max(initial=0)) or 1.0
    svg.text(left, 12, title, size=10.5, bold=True)
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        y = 20 + row * 20
        wide = (_WIDTH - left - 90) * value / top
        svg.text(left - 6, y + 12, name[:24], size=10.5, anchor="end")
        svg.rect(left, y + 1, wide, 15, _style.AREA_B)
        svg.text(left + wide + 5, y + 12, text(value), size=10)
    return str(svg)


def sweep_html(sweep: Sweep, rest: str) -> str:
    """Show a sweep: most memory at each point in their order, failed points left out, then the table."""
    column = "max_memory_bytes"
    if column not in sweep or not len(sweep):
        return rest
    there = ~sweep.missing(column)
    if not there.any():
        return rest
    at = np.flatnonzero(there)
    values = np.asarray(sweep[column])[there].astype(float)
    if len(at) > 400:
        cuts = _style.buckets(len(at), 400)
        at, values = at[cuts], np.maximum.reduceat(values, cuts)
    left, height, peak = 70.0, 100.0, values.max() or 1.0
    svg = Svg(_WIDTH, height + 34)
    inner = _WIDTH - left - 12
    for place, value in zip(at.tolist(), values.tolist(), strict=True):
        x = left + inner * (place + 0.5) / len(sweep)
        svg.rect(x - 2, height - (height - 12) * value / peak - 2, 4, 4, _style.AREA_A)
    for share in (0, 0.5, 1):
        y = height - (height - 12) * share
        svg.path([(left, y), (left + inner, y)], _style.GRID, width=0.6)
        svg.text(left - 5, y + 4, human_bytes(round(peak * share)) if share else "0", size=9.5, anchor="end")
    svg.text(left, height + 16, f"most memory of all CPUs, by point (0 to {len(sweep) - 1:,})", size=9.5)
    return str(svg) + rest


__all__ = [
    "allocator_html",
    "chunk_html",
    "chunk_map",
    "chunks_html",
    "comparison_html",
    "layout_html",
    "run_html",
    "space_html",
    "span_of",
    "strips",
    "sweep_html",
    "timeline_svg",
    "trace_html",
]
