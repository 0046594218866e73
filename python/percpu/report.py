"""A report of a trace as one page: what is in it, memory over time, chunks, owners, and how it ends."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from percpu import _rich
from percpu._checks import integer, release
from percpu._svg import Svg, facts, page, table
from percpu.allocator import Allocator
from percpu.answers._machine import live_areas
from percpu.errors import InvalidRequest
from percpu.plot import _style
from percpu.plot._style import human_bytes
from percpu.plot.heatmap import ChunkHeat, chunk_heat, join_rows
from percpu.plot.timeline import reduce_timeline
from percpu.replay import Follow, Replay, replay
from percpu.steps import steps as _steps
from percpu.trace import Trace, read_trace

__all__ = ["Report", "report"]

_WIDTH = 960.0
_POINTS = 600  # of a curve
_STRETCHES = 240  # of the chunks over time
_ROWS = 160  # chunks of it
_OWNERS = 20
_CHUNKS = 40  # of the end
_MAPS = 6
_MAX_STEPS = 200
_CIVIDIS = np.array([[0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115], [138, 134, 120],
                     [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56]], dtype=float)  # fmt: skip
_ABSENT = (217, 219, 222)


class Section(NamedTuple):
    """A part of a report: its heading, and its body as HTML."""

    title: str
    body: str


class Report:
    """A page that says what is in a trace; made by `report`.

    Attributes
    ----------
    title : str
        Its heading.
    sections : list of Section
        ``title`` and ``body`` (HTML) of each part.
    summary : dict
        Counts: of the trace (`TraceSummary.totals`), and of the replay it is based on (``replay``).
    """

    def __init__(self, title: str, sections: list[Section], summary: dict[str, Any]) -> None:
        self.title = title
        self.sections = sections
        self.summary = summary

    @property
    def html(self) -> str:
        """The whole page. It loads nothing from elsewhere, and has no scripts."""
        return page(self.title, "".join(f"<h2>{html.escape(s.title)}</h2>{s.body}" for s in self.sections))

    def write(self, path: str | os.PathLike[str]) -> int:
        """Write the page.

        Parameters
        ----------
        path : path
            Where to.

        Returns
        -------
        int
            Its bytes.
        """
        data = self.html.encode()
        Path(path).write_bytes(data)
        return len(data)

    def __repr__(self) -> str:
        return f"Report({self.title!r}, {len(self.sections)} sections, {len(self.html):,} characters)"

    def _repr_html_(self) -> str:
        return "".join(f"<h3>{html.escape(s.title)}</h3>{s.body}" for s in self.sections)


def report(
    trace: Trace | str | os.PathLike[str],
    *,
    state: Allocator | str | os.PathLike[str] | None = None,
    kernel: str = "6.12",
    unit_size: int | None = None,
    stats: Any = None,
    stats_end: Any = None,
    steps: int = 0,
    title: str | None = None,
) -> Report:
    """Say what is in a trace, on one page.

    With the state in which the trace begins every placement is predicted, and memory, pages and chunks are exact;
    without it the trace is followed, and what it does not show stays unknown.

    Parameters
    ----------
    trace : Trace or path
        What is reported.
    state : Allocator, path, optional
        The state before the first event, or a state file. An allocator stays as it is.
    kernel : str, optional
        Release or engine of a state file.
    unit_size : int, optional
        Without a state: bytes of one CPU's share of a chunk, if known.
    stats, stats_end : PercpuStats, str or path, optional
        Without a state: ``percpu_stats`` from right before or after the trace.
    steps : int, optional
        With a state: show so many of the first requests and frees step by step, at most 200.
    title : str, optional
        The heading.

    Returns
    -------
    Report

    Raises
    ------
    InvalidRequest
        If arguments do not go together.
    TraceError, StateError
        If a file cannot be read.

    Examples
    --------
    >>> from importlib.resources import files
    >>> made = report(files("percpu") / "data/demo/workload/trace.txt.gz")
    >>> [section.title for section in made.sections]
    ['Summary', 'Memory over time', 'Chunks over time', 'Largest owners', 'At the end']
    >>> len(made.html) < 5_000_000
    True
    """
    name = "trace" if isinstance(trace, Trace) else Path(trace).name
    number = integer("steps", steps, 0, _MAX_STEPS)
    release(kernel)
    if state is None and number:
        raise InvalidRequest(f"steps={number}: they need the state before the trace (state=)", parameter="steps")
    if state is not None:
        for parameter, given in (("unit_size", unit_size), ("stats", stats), ("stats_end", stats_end)):
            if given is not None:
                text = f"{parameter}={given!r}: the state says what it would tell"
                raise InvalidRequest(text, parameter=parameter)
    whole = trace if isinstance(trace, Trace) else read_trace(trace)
    start = _start(state, kernel)
    if start is not None:
        run = replay(whole, start.copy())
    else:
        run = replay(whole, mode="follow", unit_size=unit_size, stats=stats, stats_end=stats_end)
    summary = whole.summary()
    sections = [_summary(whole, summary, run)]
    if len(whole):
        sections.append(_timeline(run))
        sections += _heat(whole, run)
        sections.append(_owners(summary, run))
    sections.append(_end(run))
    if number:
        assert start is not None
        found = _steps(whole, start, limit=number)
        sections.append(Section("Step by step", found.to_body()))
    totals = {**summary.totals, "replay": run.summary}
    return Report(f"Per-CPU memory: {name}" if title is None else title, sections, totals)


def _start(state: Any, kernel: str) -> Allocator | None:
    if state is None or isinstance(state, Allocator):
        return state
    return Allocator.from_state(state, kernel=kernel)


def _note(text: str) -> str:
    return f"<p class='note'>{html.escape(text)}</p>"


# -- sections ----------------------------------------------------------------------------


def _summary(trace: Trace, summary: Any, run: Any) -> Section:
    totals, counts = summary.totals, run.summary
    rows: list[tuple[str, Any]] = [
        ("events", totals["nr_events"]),
        ("span", _rich.span_of(trace) or "not timed"),
        ("CPUs in the events", totals["nr_cpus"] or None),
        ("chunks named", totals["nr_chunks"]),
        ("live at the end, of what was seen being allocated", f"{human_bytes(totals['live_bytes'])} of one CPU"),
        ("most at once, of the same", f"{human_bytes(totals['peak_live_bytes'])} of one CPU"),
        ("events lost", totals["lost_events"]),
        ("damaged lines", totals["damaged_lines"]),
    ]
    if "nr_predicted" in counts:
        requests = counts["nr_alloc"] + counts["nr_failed"]
        rows.append(("requests predicted from the state", f"{counts['nr_predicted']:,} of {requests:,}"))
        rows.append(("events that differ from the prediction", counts["nr_diverged"]))
    else:
        rows.append(("areas learnt of from their frees", counts["nr_freed_prior"]))
        rows.append(("events that no kernel can have written", counts["nr_illegal"]))
        rows.append(("bytes of which nothing is known", f"{100 * counts['unknown_share']:.1f} %"))
    first = getattr(run, "first_divergence", None) or getattr(run, "first_illegal", None)
    if first is not None:
        words = first.get("text") or ", ".join(f"{key} {value}" for key, value in first.items() if value is not None)
        rows.append(("the first of them", words))
    kinds = [
        (row["kind"], row["nr_events"], row["rate_per_second"], row["bytes"])
        for row in summary.rows()
        if row["nr_events"]
    ]
    shown = table(("event", "number", "a second", "bytes of one CPU"), kinds)
    return Section("Summary", facts(rows) + shown)


def _timeline(run: Any) -> Section:
    timeline = run.timeline
    body = str(_rich.timeline_svg(timeline, run._facts["page_size"], width=_WIDTH, height=220, limit=_POINTS))
    data = reduce_timeline(timeline, _POINTS)
    names = {"nr_chunks": "chunks", "nr_empty_pop_pages": "empty populated pages", "nr_live": "live areas"}
    for name, label in names.items():
        if name in timeline:
            body += str(_curve(data, name, label))
    note = (
        "Dark: allocated; light: populated. The difference of the two is what placement costs."
        if "populated_pages" in timeline
        else "What the trace shows being allocated and not freed again."
    )
    return Section("Memory over time", body + _note(note))


def _curve(data: dict[str, np.ndarray], name: str, label: str) -> Svg:
    """Draw one figure over events, with its band."""
    event = np.asarray(data["event"], dtype=float)
    low, high = (np.asarray(data.get(f"{end}_{name}", data[name]), dtype=float) for end in ("min", "max"))
    mean = np.asarray(data.get(f"mean_{name}", data[name]), dtype=float)
    left, top, tall = 70.0, 16.0, 50.0
    svg = Svg(_WIDTH, top + tall + 10)
    inner = _WIDTH - left - 12
    peak, span = max(float(high.max(initial=0)), 1.0), max(float(event[-1] - event[0]), 1.0)
    base = top + tall
    svg.text(left, 11, label, size=10.5)
    x = left + inner * (event - event[0]) / span

    def y(values: np.ndarray) -> np.ndarray:
        return base - tall * np.maximum(values, 0) / peak

    if (high > low).any():
        svg.path([*zip(x, y(high), strict=True), *zip(x[::-1], y(low)[::-1], strict=True)], "none", fill="#BFE3D6")
    svg.path(zip(x, y(mean), strict=True), _style.SCAN, width=1.3)
    for value in (0, peak):
        svg.text(left - 5, base - tall * value / peak + 4, f"{value:,.0f}", size=9.5, anchor="end")
        svg.path(
            [(left, base - tall * value / peak), (left + inner, base - tall * value / peak)], _style.GRID, width=0.6
        )
    return svg


def _heat(trace: Trace, run: Any) -> list[Section]:
    try:
        heat = chunk_heat(run if isinstance(run, Replay) else trace, _STRETCHES)
    except InvalidRequest:
        return []  # a trace of other events
    what = "share of the unit in use" if heat.exact else "live bytes of one CPU, as far as the trace shows them"
    note = f"A row is a chunk, time runs to the right; {what}. Grey: the chunk does not exist."
    return [Section("Chunks over time", str(heat_svg(heat)) + _note(note))]


def heat_svg(heat: ChunkHeat, *, width: float = _WIDTH) -> Svg:
    """Draw how full each chunk was over time."""
    values, per_row = join_rows(heat.bytes, _ROWS)
    top_value = float(heat.capacity) if heat.exact and heat.capacity else float(np.nanmax(values, initial=0)) or 1.0
    share = np.clip(np.nan_to_num(values) / top_value, 0, 1) * (len(_CIVIDIS) - 1)
    low = np.minimum(share.astype(int), len(_CIVIDIS) - 2)
    mixed = _CIVIDIS[low] + (share - low)[..., None] * (_CIVIDIS[low + 1] - _CIVIDIS[low])
    pixels = np.where(np.isnan(values)[..., None], _ABSENT, np.rint(mixed)).astype(np.uint8)
    rows = len(values)
    step = min(22.0, max(4.0, 420 / rows))
    left, right, top = 86.0, 96.0, 4.0
    inner, tall = width - left - right, rows * step
    svg = Svg(width, top + max(tall, 90) + 22)
    svg.image(left, top, inner, tall, pixels)
    every = max(1, int(np.ceil(12 / step)))
    for row in range(0, rows, every):
        svg.text(left - 6, top + (row + 0.5) * step + 3.5, heat.names[row * per_row], size=9.5, anchor="end")
    last = f"event {int(heat.event[-1]):,}"
    svg.text(left, top + tall + 14, "event 0", size=9.5)
    svg.text(left + inner, top + tall + 14, last, size=9.5, anchor="end")
    scale = np.rint(_CIVIDIS[::-1])[:, None, :].astype(np.uint8)
    x = left + inner + 14
    svg.image(x, top, 12, 80, scale)
    named = ("100 %", "0 %") if heat.exact else (human_bytes(round(top_value)), "0 B")
    svg.text(x + 17, top + 9, named[0], size=9.5)
    svg.text(x + 17, top + 80, named[1], size=9.5)
    return svg


def _owners(summary: Any, run: Any) -> Section:
    sites = summary.call_sites
    named = ~sites.missing("call_site") if len(sites) else np.zeros(0, dtype=bool)
    if not named.any():
        return Section("Largest owners", _by_size(run))
    order = np.lexsort((-sites.peak_live_bytes.astype(np.int64), -sites.live_bytes.astype(np.int64)))
    rows = [sites.row(int(i)) for i in order[:_OWNERS]]
    names = [row["call_site"] or "(not recorded)" for row in rows]
    body = table(
        ("call site", "live bytes of one CPU", "live areas", "most live bytes", "requests", "of them atomic"),
        [
            (name, row["live_bytes"], row["nr_live"], row["peak_live_bytes"], row["nr_alloc"], row["nr_atomic"])
            for name, row in zip(names, rows, strict=True)
        ],
    )
    rest = len(sites) - len(rows)
    more = _note(f"{rest:,} call sites more.") if rest > 0 else ""
    return Section("Largest owners", body + more + _note("Of what the trace shows being allocated, at its end."))


def _by_size(run: Any) -> str:
    """Sum live areas up by size, where call sites are not recorded."""
    note = "The trace has no call sites (kernels before 5.19 print none): by size instead."
    if isinstance(run, Follow):
        lengths = run.live().size_bytes
    else:
        _, _, lengths = live_areas(run.at(run.summary["nr_events"]))
    sizes, counts = np.unique(lengths, return_counts=True)
    order = np.argsort(-(sizes * counts.astype(np.uint64)).astype(np.int64), kind="stable")[:_OWNERS]
    rows = [(int(sizes[i]), int(counts[i]), int(sizes[i]) * int(counts[i])) for i in order]
    return table(("size, bytes", "live areas", "bytes of one CPU"), rows) + _note(note)


def _end(run: Any) -> Section:
    if isinstance(run, Follow):
        return Section("At the end", _end_of_follow(run))
    end = run.at(run.summary["nr_events"])
    body = _rich.allocator_html(end)
    # What keeps memory from being given back: chunks with few areas and many pages come first.
    chunks = [chunk for chunk in end.chunks.values() if not chunk.immutable]
    chunks.sort(key=lambda c: c.free_bytes / end.unit_size * c.nr_populated, reverse=True)
    maps = "".join(chunk._repr_html_() for chunk in chunks[:_MAPS])
    if len(chunks) > _MAPS:
        maps += _note(f"Of {len(chunks)} chunks the {_MAPS} with the most free memory are drawn.")
    return Section("At the end", body + maps)


_CELLS = np.array([[217, 219, 222], [247, 237, 208], [0, 114, 178], [230, 159, 0], [91, 95, 102]], dtype=float)
_CELL_NAMES = ("nothing known", "free", "allocated here", "in use since before", "serves no requests")


def _end_of_follow(run: Any) -> str:
    chunks = run.chunks
    there = np.flatnonzero(chunks.missing("destroyed_event")) if len(chunks) else np.zeros(0, dtype=int)
    there = there[np.argsort(-chunks.live_bytes[there].astype(np.int64), kind="stable")] if len(there) else there
    rows = []
    for i in there[:_CHUNKS].tolist():
        row = chunks.row(i)
        rows.append(
            (f"{row['base_addr']:x}", row["nr_live"], row["live_bytes"], row["free_bytes"], row["unknown_bytes"])
        )
    head = ("chunk", "live areas", "live bytes", "free bytes", "bytes not known")
    body = table(head, rows)
    if len(there) > _CHUNKS:
        body += _note(f"{len(there) - _CHUNKS:,} chunks more.")
    step, left, columns = 15.0, 130.0, 400
    drawn = there[:_CHUNKS].tolist()
    svg = Svg(_WIDTH, len(drawn) * step + 22)
    inner = _WIDTH - left - 10
    for place, i in enumerate(drawn):
        cells = run.cells(i)
        if not len(cells):
            continue
        edges = np.linspace(0, len(cells), min(columns, len(cells)) + 1).astype(int)
        counts = np.stack([np.add.reduceat(cells == code, edges[:-1]) for code in range(5)], axis=-1).astype(float)
        share = counts / counts.sum(axis=-1, keepdims=True)
        svg.image(left, place * step + 2, inner, step - 4, np.rint(share @ _CELLS)[None].astype(np.uint8))
        svg.text(left - 6, (place + 0.78) * step, f"{int(chunks.base_addr[i]):x}", size=10, anchor="end")
    x, y = left, len(drawn) * step + 6
    for colour, name in zip(_CELLS, _CELL_NAMES, strict=True):
        red, green, blue = (int(c) for c in colour)
        svg.rect(x, y, 10, 10, f"#{red:02X}{green:02X}{blue:02X}")
        svg.text(x + 14, y + 9, name, size=10)
        x += 34 + 6.2 * len(name)
    return body + (str(svg) if drawn else "")
