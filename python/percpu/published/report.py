"""The comparison as text: Markdown tables, each for a marked place in the documentation."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import percpu
from percpu.published import studies
from percpu.published.runs import machine, measure
from percpu.published.shapes import EXPLAINS, explain, is_counted, judge, pairs, rows_of
from percpu.published.tables import CONTRIVED_SECONDS, letters
from percpu.results import Result
from percpu.workloads import Workload, fit, recorded

_NOT_COUNTED = "`{}` does not count its work in this build."
_NUMBER = re.compile(r"(-|[0-9][0-9.,e+-]*( [kMGT%s])?)$")
_SUFFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(value: float) -> str:
    """Three digits and a suffix.

    Parameters
    ----------
    value : float
        At least 0.

    Returns
    -------
    str

    Examples
    --------
    >>> count(68_719_476_736), count(1234), count(12), count(0.25)
    ('68.7 G', '1.23 k', '12', '0.25')
    """
    for size, suffix in _SUFFIXES:
        if value >= size * 0.9995:
            return f"{value / size:.3g} {suffix}"
    return f"{value:.3g}"


def cell(row: dict[str, Any], counter: str, each: int = 1) -> str:
    """One counter of a row, or a dash.

    Parameters
    ----------
    row : dict
        Of a measurement.
    counter : str
        Without ``cost_``.
    each : int, optional
        Divide by this.

    Returns
    -------
    str

    Examples
    --------
    >>> cell({"cost_words_read": 3000}, "words_read"), cell({"cost_words_read": None}, "words_read")
    ('3 k', '-')
    """
    value = row.get(f"cost_{counter}")
    return "-" if value is None else count(value / each)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Make a Markdown table; numbers stand right.

    Parameters
    ----------
    head : sequence of str
        Titles.
    rows : iterable of sequences
        Cells: texts as they are, floats with three digits.

    Returns
    -------
    str

    Examples
    --------
    >>> print(table(["a", "b"], [["x", 1.0]]))
    | a | b |
    |---|--:|
    | x | 1 |
    """
    body = list(rows)
    numbers = [all(not isinstance(row[i], str) or _NUMBER.match(row[i]) for row in body) for i in range(len(head))]
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join("--:" if number else "---" for number in numbers) + "|"]
    lines += ["| " + " | ".join(c if isinstance(c, str) else f"{c:.3g}" for c in row) + " |" for row in body]
    return "\n".join(lines)


def fill(document: str, name: str, text: str) -> str:
    """Put `text` between the markers ``<!-- name -->`` and ``<!-- /name -->``.

    Parameters
    ----------
    document, name, text : str
        What to change, where, and what to put there.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the document has no such markers.

    Examples
    --------
    >>> fill("<!-- a -->old<!-- /a -->", "a", "new").split()
    ['<!--', 'a', '-->', 'new', '<!--', '/a', '-->']
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head, found, rest = document.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"no markers {begin} and {end}")
    return f"{head}{begin}\n{text}\n{end}{tail}"


def _judged(measured: Result) -> str:
    rows = judge(measured).rows()

    def within(row: dict[str, Any]) -> str:
        return f"{row['low']:g} to {row['high']:g}" if math.isfinite(row["high"]) else f"at least {row['low']:g}"

    def number(value: float) -> str:
        return "-" if math.isnan(value) else f"{value:.3g}"

    def verdict(row: dict[str, Any]) -> str:
        if math.isnan(row["model"]):
            return "not counted"
        return "yes" if row["ok"] else "**no**"

    head = ["criterion", "published, by time", "model, by count", "must be", ""]
    cells = [[r["criterion"], number(r["published"]), number(r["model"]), within(r), verdict(r)] for r in rows]
    return table(head, cells)


_COUNTED = (
    ("entries_moved", "entries moved"),
    ("entries_scanned", "entries scanned"),
    ("words_read", "words read"),
    ("blocks_visited", "blocks visited"),
    ("block_refreshes", "block refreshes"),
    ("chunk_refreshes", "chunk refreshes"),
    ("chunks_visited", "chunks visited"),
    ("chunks_created", "chunks made"),
    ("pages_populated", "pages populated"),
)


def _rows(measured: Result, phases: tuple[str, ...]) -> str:
    """The logged rows of tests 1 to 3 and of test 5, with what the model counts."""
    shown = []
    for engine in ("areamap", "linux-4.14"):
        for published, ms, row in pairs(measured, "v2 log 3", engine):
            half = row["test"] == "fill level"
            if row["phase"] not in phases or (half and (row["level"] != 2 or row["order"] != "in-order")):
                continue
            if row["phase"] == "alloc" and row["order"] != "in-order":
                continue
            what = "half full, in-order" if half else row["order"]
            if row["phase"].startswith("alloc"):
                what = "half full" if half else "fresh"
            size = published["size_bytes"]
            shown.append((size, half, what, engine, ms, [cell(row, name) for name, _ in _COUNTED]))
    shown.sort(
        key=lambda cells: (
            cells[0],
            cells[1],
            ("fresh", "in-order", "alternate", "reverse").index(cells[2]) if not cells[1] else 0,
            cells[3],
        )
    )
    return table(
        ["bytes", "pages, order", "engine", "ms", *(title for _, title in _COUNTED)],
        [[str(size), what, engine, f"{ms:g}", *counts] for size, _, what, engine, ms, counts in shown],
    )


def _explained(measured: Result) -> str:
    parts = []
    for log, engine in (
        ("v2 log 3", "areamap"),
        ("v2 log 3", "linux-4.14"),
        ("v1 log", "areamap"),
        ("v1 log", "rfc-v1"),
    ):
        if not is_counted(measured, engine):
            continue
        weights, rows = explain(measured, log, engine)
        ratio = rows.explained_ms / rows.published_ms
        shown = ", ".join(
            f"{w['work'].replace('_', ' ')} {w['each_ns']:.3g}" for w in weights.rows() if w["each_ns"] > 0
        )
        parts.append([log, engine, str(len(rows)), shown, *np.quantile(ratio, [0, 0.25, 0.5, 0.75, 1])])
    head = ["log", "engine", "rows", "ns each", "lowest", "1st quartile", "median", "3rd quartile", "highest"]
    return table(head, parts)


def _ratios(measured: Result) -> str:
    """Published and explained ratios of bitmap to area map."""
    rows = {}
    for engine in ("areamap", "linux-4.14"):
        if not is_counted(measured, engine):
            return _NOT_COUNTED.format(engine)
        for row in explain(measured, "v2 log 3", engine)[1].rows():
            key = (row["size_bytes"], row["test"], row["level"], row["phase"], row["order"])
            rows.setdefault(key, {})[engine] = row
    shown = []
    for (size, test, level, phase, order), both in sorted(rows.items()):
        if len(both) < 2 or order == "alternate" or (phase.startswith("alloc") and order == "reverse"):
            continue
        if test == "fill level" and level != 2:
            continue
        a, b = both["areamap"], both["linux-4.14"]
        what = f"{phase}, {order}" if phase.startswith("free") else phase
        name = what if test == "plain" else f"half full: {what}"
        shown.append([str(size), name, a["published_ms"] / b["published_ms"], a["explained_ms"] / b["explained_ms"]])
    return table(["bytes", "phase", "area map / bitmap, published", "explained by counts"], shown)


def _contrived(measured: Result) -> str:
    shown = []
    for engine in ("areamap", "linux-4.14"):
        row = rows_of(measured, test="4 at 8", engine=engine, phase="alloc").row(0)
        each = row["nr_alloc"]
        names = ("entries_scanned", "words_read", "blocks_visited", "chunks_visited")
        cells = [cell(row, name, each) for name in names]
        shown.append([engine, count(each), *cells, f"{CONTRIVED_SECONDS[engine]} s"])
    head = ["engine", "objects", "entries scanned", "words read", "blocks visited", "chunks visited"]
    return table([*head, "published, a million"], shown)


def recordings(directory: Path | None) -> dict[str, Workload]:
    """Recorded workloads.

    Parameters
    ----------
    directory : Path or None
        With a directory for each run that holds ``trace.txt.gz``; None for those that are part of the package.

    Returns
    -------
    dict of str to Workload
        By name of the run.

    Examples
    --------
    >>> sorted(recordings(None))
    ['packaged boot', 'packaged workload']
    """
    from importlib.resources import files

    if directory is None:
        packaged = files("percpu") / "data" / "demo"
        paths = {f"packaged {name}": packaged / name / "trace.txt.gz" for name in ("boot", "workload")}
    else:
        paths = {p.parent.name: p for p in sorted(directory.glob("*/trace.txt.gz"))}
    return {name: recorded(percpu.read_trace(path)) for name, path in paths.items()}


def _work_ns(
    weights: Result, rows: Result, prefix: str = "cost_", requests: bool = True, frees: bool = True
) -> np.ndarray:
    """Explained nanoseconds of each row."""
    each = dict(zip(weights.work, weights.each_ns, strict=True))
    total = np.zeros(len(rows))
    if requests:
        total += each.get("request", 0) * rows.nr_alloc
    if frees:
        total += each.get("free", 0) * rows.nr_free
    for name, ns in each.items():
        if f"{prefix}{name}" in rows:
            total += ns * rows[f"{prefix}{name}"]
    return total


def _geometric(values: np.ndarray) -> float:
    return float(np.exp(np.log(values).mean()))


def _block_sizes(measured: Result, groups: dict[str, dict[str, Workload]]) -> str:
    """Work by block size, and the time that it stands for relative to a page, by group of workloads."""
    if not is_counted(measured, "linux-4.14"):
        return _NOT_COUNTED.format("linux-4.14")
    weights = explain(measured, "v2 log 3", "linux-4.14")[0]
    makes = {size: lambda size=size: machine("linux-4.14", size) for size in studies.BLOCK_SIZES}
    shown = []
    for group, workloads in groups.items():
        rows = studies.over_workloads(workloads, makes, "block_size")
        base = rows_of(rows, block_size=4096)
        for size in studies.BLOCK_SIZES:
            these = rows_of(rows, block_size=size)
            ops = float((these.nr_alloc + these.nr_free).sum())
            names = ("words_read", "blocks_visited", "block_refreshes")
            cells = [count(float(these[f"cost_{name}"].sum()) / ops) for name in names]
            modelled = _work_ns(weights, these) / _work_ns(weights, base)
            cells += [f"{_geometric(modelled):.3f}", f"{modelled.min():.3f} to {modelled.max():.3f}"]
            shown.append([group, str(size), *cells, f"{_metadata(size):.0f}"])
    head = ["workloads", "block, bytes", "words read", "blocks visited", "block refreshes", "modelled time / page's"]
    return table([*head, "lowest to highest", "metadata of a chunk, KiB"], shown)


def _metadata(block_size: int) -> float:
    allocator = machine("linux-4.14", block_size)
    before = studies.metadata_bytes(allocator)
    allocator.alloc(32768)
    return (studies.metadata_bytes(allocator) - before) / 1024


def _average(measured: Result, workloads: dict[str, Workload]) -> str:
    """Work of a request and of a free in mixes and recordings."""
    logs = {"areamap": "v2 log 3", "rfc-v1": "v1 log", "linux-4.14": "v2 log 3"}
    makes = {engine: lambda engine=engine: machine(engine) for engine in logs if is_counted(measured, engine)}
    weights = {engine: explain(measured, logs[engine], engine)[0] for engine in makes}
    rows = studies.over_workloads(workloads, makes, "engine")
    shown = []
    for index in range(len(rows)):
        row = rows[index : index + 1]
        engine = str(row.engine[0])
        requests, frees = int(row.nr_alloc[0]), int(row.nr_free[0])
        if not requests or not frees:
            continue
        alloc = float(_work_ns(weights[engine], row, "alloc_cost_", frees=False)[0])
        both = float(_work_ns(weights[engine], row)[0])
        scan, work = ("blocks_visited", "words_read")
        if engine == "areamap":
            scan, work = ("entries_scanned", "entries_moved")
        cells = []
        for name in (scan, work):
            asked, together = int(row[f"alloc_cost_{name}"][0]), int(row[f"cost_{name}"][0])
            cells += [count(asked / requests), count((together - asked) / frees)]
        times = [f"{alloc / requests:.0f}", f"{(both - alloc) / frees:.0f}", f"{100 * alloc / both:.0f} %"]
        shown.append([str(row.workload[0]), engine, *cells, *times])
    head = ["workload", "engine", "scanned or visited: request", "free", "moved or read: request", "free"]
    return table([*head, "modelled ns: request", "free", "requests' share"], shown)


def _v1(measured: Result) -> str:
    """Work of a request in v1, v2 and the area map."""
    shown = []
    names = ("words_read", "blocks_visited", "block_refreshes", "chunk_refreshes", "chunks_visited")
    for size in (4, 16, 64, 1024):
        for engine in ("areamap", "rfc-v1", "linux-4.14"):
            fixed = {"test": "plain", "engine": engine, "size_bytes": size, "order": "in-order", "phase": "alloc"}
            row = rows_of(measured, **fixed).row(0)
            logs = ("v1 log", "v2 log 3")
            ms = []
            for log in logs:
                found = [
                    ms
                    for p, ms, c in pairs(measured, log, engine)
                    if p["phase"] == "alloc"
                    and c["test"] == "plain"
                    and p["size_bytes"] == size
                    and p["order"] == "in-order"
                ]
                ms.append(f"{found[0]:g}" if found else "-")
            cells = [cell(row, name, row["nr_alloc"]) for name in names]
            shown.append([str(size), engine, *ms, *cells])
    head = ["bytes", "engine", "ms, v1 log", "ms, v2 log", "words read", "blocks visited", "block refreshes"]
    return table([*head, "chunk refreshes", "chunks visited"], shown)


def _metadata_table() -> str:
    kernels = {"areamap": "4.13", "rfc-v1": "rfc-v1", "linux-4.14": "4.14", "linux-5.2": "5.4", "linux-5.14": "6.12"}
    makes = {engine: (lambda kernel=kernel: machine(kernel)) for engine, kernel in kernels.items()}
    # The proposal of 2008 has one area of fixed size: as large as the objects, so that its bitmap is full.
    sizes = (4, 8, 16, 32, 64, 128, 256, 1024)
    rows = studies.metadata_per_object(1 << 18, sizes, makes)
    shown = []
    for size in sizes:
        per = {row["engine"]: row["per_object"] for row in rows.rows() if row["size_bytes"] == size}
        shown.append([str(size), f"{size / 32:.3g}", *(f"{per[engine]:.3g}" for engine in makes)])
    return table(["bytes of an object", "cpu_alloc-2008", *makes], shown)


def _letters(measured: Result) -> str:
    """The tables of the letters, and the shortest account of each row in counts."""
    shown = []
    for row in letters().rows():
        if row["letter"] != "v2":
            continue
        size, half = row["size_bytes"], row["case"] == "half full"
        fixed: dict[str, Any] = {"size_bytes": size, "test": "fill level" if half else "plain"}
        if half:
            fixed |= {"level": 2, "order": "in-order"}
        alloc, free = ("alloc 2", "free 1") if half else ("alloc", "free")

        def worst(engine: str, phase: str, name: str, fixed: dict[str, Any] = fixed) -> str:
            rows = rows_of(measured, engine=engine, phase=phase, **fixed)
            return count(int(rows[f"cost_{name}"].max())) if is_counted(measured, engine) else "-"

        shown.append(
            [
                row["case"],
                str(size),
                f"{row['areamap_alloc_ms']:g}",
                worst("areamap", alloc, "entries_moved"),
                worst("areamap", alloc, "chunks_visited"),
                f"{row['areamap_free_ms']:g}",
                worst("areamap", free, "entries_moved"),
                f"{row['bitmap_alloc_ms']:g}",
                worst("linux-4.14", alloc, "blocks_visited"),
                worst("linux-4.14", alloc, "chunks_visited"),
                f"{row['bitmap_free_ms']:g}",
                worst("linux-4.14", free, "words_read"),
            ]
        )
    head = ["case", "bytes", "area map: alloc, ms", "entries moved", "chunks visited", "free, ms", "entries moved"]
    return table([*head, "bitmap: alloc, ms", "blocks visited", "chunks visited", "free, ms", "words read"], shown)


def sections(n: int, contrived: int, traces: Path | None, study: int, threads: int = 1) -> dict[str, str]:
    """Measure, and make the text of every marked place.

    Parameters
    ----------
    n : int
        Objects of a batch.
    contrived : int
        Objects of the contrived case.
    traces : Path or None
        Directory of further recordings.
    study : int
        Objects of the published workloads in the study of block sizes.
    threads : int, optional
        Runs at a time.

    Returns
    -------
    dict of str to str
        By name of the marker.
    """
    measured = measure(n, contrived, threads=threads)
    known = recordings(traces)
    fitted = {
        f"fitted to {name}": fit(percpu.read_trace(traces / name / "trace.txt.gz"))
        for name in known
        if traces is not None and not name.startswith("packaged")
    }
    groups = {
        "published": studies.published_workloads(study),
        "recorded": known,
        "fitted to recordings": fitted,
        "kernel mixes": studies.mixed_workloads(study),
    }
    groups = {name: workloads for name, workloads in groups.items() if workloads}
    average = studies.mixed_workloads(study) | known
    return {
        "setting": f"percpu {percpu.__version__}; {n:,} objects a batch, {contrived:,} in the contrived case; 4 CPUs, "
        f"unit size 524288 bytes, 28672 bytes free in the first chunk; {len(known)} recordings.",
        "letters": _letters(measured),
        "judged": _judged(measured),
        "allocating": _rows(measured, ("alloc", "alloc 2")),
        "freeing": _rows(measured, ("free", "free 1")),
        "contrived": _contrived(measured),
        "explained": _explained(measured),
        "ratios": _ratios(measured),
        "block sizes": _block_sizes(measured, groups),
        "average": _average(measured, average),
        "v1": _v1(measured),
        "metadata": _metadata_table(),
    }


__all__ = ["EXPLAINS", "count", "fill", "recordings", "sections", "table"]
