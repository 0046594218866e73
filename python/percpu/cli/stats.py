"""`percpu stats`: the debugfs text percpu_stats, of this kernel, a file or a state."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import percpu
from percpu._checks import integer
from percpu.cli.arguments import Verbs, add_kernel
from percpu.cli.files import add_out, read_input, writer
from percpu.cli.show import save_picture, show
from percpu.errors import InvalidRequest
from percpu.results import Result
from percpu.stats import PercpuStats, compare_chunks, compare_stats, is_percpu_stats, read_percpu_stats, read_text


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add("stats", run, "read percpu_stats: chunks, hints, what looks pinned; two snapshots compared")
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="percpu_stats text or state file; - is stdin; this kernel if none"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--text", action="store_true", help="print the text (the default for a state file)")
    form.add_argument("--table", action="store_true", help="print the tables (the default for a text)")
    parser.add_argument(
        "--cpus",
        type=int,
        metavar="N",
        help="units of a chunk, for sums over CPUs (default: this machine's, or the state's)",
    )
    parser.add_argument(
        "--pinned-below",
        type=float,
        default=10,
        metavar="PERCENT",
        help="a chunk that is filled less looks pinned (default: %(default)s)",
    )
    parser.add_argument("--top", type=int, metavar="N", help="only the N chunks with the most free bytes")
    parser.add_argument("--chunks", action="store_true", help="of two snapshots: the chunks that are not in both, too")
    add_out(parser)
    parser.add_argument("--plot", metavar="FILE", help="draw what each chunk holds, and what its hint hides")
    parser.add_argument("--mount", action="store_true", help="mount debugfs, for this reading only")
    parser.add_argument("--debugfs", metavar="DIR", help="where debugfs is (default: looked for)")
    add_kernel(parser)


def _live(arguments: argparse.Namespace) -> tuple[PercpuStats, int | None]:
    stats = read_percpu_stats(debugfs=arguments.debugfs, mount=arguments.mount)
    try:
        text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    except OSError:
        return stats, None
    # Holes of the layout hold no CPU, and are not shown; a range without gaps is what nearly every machine has.
    ranges = [part.partition("-") for part in text.split(",")]
    return stats, sum(int(last or first) - int(first) + 1 for first, _, last in ranges)


def _of_file(name: str, arguments: argparse.Namespace) -> tuple[PercpuStats | percpu.Allocator, int | None]:
    if name == "-":
        return read_percpu_stats(read_input() + "\n"), None
    path = Path(name)
    text = read_text(path)
    if is_percpu_stats(text) or not text.lstrip().startswith("{"):
        return read_percpu_stats(path), None
    allocator = percpu.Allocator.from_state(path, kernel=arguments.kernel)
    return allocator, allocator.nr_units


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    if len(arguments.files) > 2:
        raise InvalidRequest(f"{len(arguments.files)} files: one, or two to be compared", parameter="files")
    if arguments.top is not None and arguments.top < 1:
        raise InvalidRequest(f"--top {arguments.top}: must be at least 1", parameter="top")
    if not 0 <= arguments.pinned_below <= 100:
        text = f"--pinned-below {arguments.pinned_below:g}: must be from 0 to 100"
        raise InvalidRequest(text, parameter="pinned_below")
    if arguments.cpus is not None:
        integer("cpus", arguments.cpus, 1, 1 << 20)
    out = writer(arguments.out)
    sources = [_of_file(name, arguments) for name in arguments.files] or [_live(arguments)]
    if len(sources) == 2:
        before, after = (_as_stats(source) for source, _ in sources)
        _show_comparison(arguments, before, after, sources[1][1] if arguments.cpus is None else arguments.cpus, out)
        return 0
    source, cpus = sources[0]
    tables = arguments.table or arguments.out or arguments.plot
    if isinstance(source, percpu.Allocator) and not tables:
        show(arguments, source.stats() if arguments.json else source.stats_text())
        return 0
    stats = _as_stats(source)
    cpus = arguments.cpus if arguments.cpus is not None else cpus
    if arguments.plot:
        share = arguments.pinned_below / 100
        save_picture(stats.plot(cpus=cpus, pinned_below=share, top=arguments.top or 30), Path(arguments.plot))
    if arguments.text and not arguments.json:
        show(arguments, stats.to_text())
        return 0
    out(_show(arguments, stats, cpus, live=not arguments.files))
    return 0


def _as_stats(source: PercpuStats | percpu.Allocator) -> PercpuStats:
    return source if isinstance(source, PercpuStats) else read_percpu_stats(source.stats_text())


def _show(arguments: argparse.Namespace, stats: PercpuStats, cpus: int | None, live: bool) -> Result:
    """Show the tables of one snapshot; the table of all its chunks."""
    share = arguments.pinned_below / 100
    table = stats.table(cpus=cpus, pinned_below=share)
    summary = stats.summary(cpus=cpus, pinned_below=share)
    if live:
        summary |= _meminfo(cpus)
    whole, table = table, _first(table, arguments.top)
    if arguments.json:
        show(
            arguments,
            {
                "form": stats.form,
                "sizes": stats.sizes,
                "totals": stats.totals,
                "chunks": stats.chunks,
                "table": table,
                "summary": summary,
            },
        )
        return whole
    show(arguments, {**stats.sizes, **stats.totals})
    show(arguments, _for_people(table))
    show(arguments, summary)
    n = summary["nr_hidden"]
    if n:
        have = "1 chunk has a free run that is" if n == 1 else f"{n} chunks have free runs that are"
        print(f"{have} longer than the hint says: requests of a size between the two pass by.")
    return whole


def _first(table: Result, top: int | None) -> Result:
    """Only the rows with the most free bytes, if there are more than asked for."""
    if top is None or top >= len(table):
        return table
    return table[(-table.free_bytes).argsort(kind="stable")[:top]]


def _show_comparison(
    arguments: argparse.Namespace,
    before: PercpuStats,
    after: PercpuStats,
    cpus: int | None,
    out: Callable[[Result], Any],
) -> None:
    share = arguments.pinned_below / 100
    sums = compare_stats(before, after, cpus=cpus, pinned_below=share)
    if not arguments.chunks:
        show(arguments, sums)
        out(sums)
        return
    chunks = compare_chunks(before, after, cpus=cpus, pinned_below=share)
    shown = _first(chunks, arguments.top)
    if arguments.json:
        show(arguments, {"sums": sums, "chunks": shown, "nr_same": chunks.attrs["nr_same"]})
    else:
        show(arguments, sums)
        show(arguments, _for_people(shown))
        n = chunks.attrs["nr_same"]
        print(f"{n} chunk{' is' if n == 1 else 's are'} the same in both texts.")
    out(chunks)


def _for_people(table: Result) -> Result:
    """The table with words in place of true and false."""
    columns: dict[str, Any] = dict(table.items())
    for name in ("hidden", "pinned"):
        columns[name] = [name if flag else "" for flag in table[name]]
    for name in ("label", "moment"):
        if name in columns:
            columns[name] = [row[name] for row in table.rows()]
    for name in ("hidden_bytes", "max_frag_bytes", "all_free_bytes"):
        columns.pop(name, None)
    return Result(columns)


def _meminfo(cpus: int | None) -> dict[str, int]:
    """What the kernel says of its memory, and what part of it is in use."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    for line in lines:
        if line.startswith("Percpu:") and cpus:
            populated = int(line.split()[1]) << 10
            pages = populated // cpus // os.sysconf("SC_PAGE_SIZE")
            return {"all_populated_bytes": populated, "nr_populated_pages": pages}
    return {}
