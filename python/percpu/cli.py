"""The command line: one verb for each function.

Parsing needs nothing beyond the standard library; tables are drawn by `rich` where it is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import percpu
from percpu.errors import InvalidRequest, PercpuError
from percpu.results import Result

__all__ = ["main"]


def _size(text: str) -> int:
    """Bytes from ``4096``, ``4K``, ``2M`` or ``1G``."""
    factor = {"K": 10, "M": 20, "G": 30}.get(text[-1:].upper())
    try:
        return int(text, 0) if factor is None else int(text[:-1]) << factor
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes") from None


def _plain(value: Any) -> Any:
    """Return what JSON can hold."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Result):
        return [_plain(row) for row in value.rows()]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _show(arguments: argparse.Namespace, value: Any) -> None:
    """Print a result: JSON if asked for, else a table."""
    if arguments.json:
        print(json.dumps(_plain(value)))
    elif isinstance(value, str):
        print(value, end="" if value.endswith("\n") else "\n")
    elif isinstance(value, Result):
        _table(value.keys(), [list(row.values()) for row in value.rows()])
    else:
        _table(("", ""), list(value.items()))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    cells = [[_cell(value) for value in row] for row in rows]
    right = [
        bool(rows) and all(isinstance(row[i], (int, np.integer, type(None))) for row in rows) for i in range(len(head))
    ]
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(head)]
        for row in [list(head), *cells] if any(head) else cells:
            parts = (f"{c:>{w}}" if r else f"{c:<{w}}" for c, w, r in zip(row, widths, right, strict=True))
            print("  ".join(parts).rstrip())
        return
    table = Table(box=box.SIMPLE_HEAD, show_header=any(head), pad_edge=False)
    for name, to_right in zip(head, right, strict=True):
        table.add_column(name, justify="right" if to_right else "left", no_wrap=True)
    for row in cells:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)


# -- verbs ---------------------------------------------------------------------------


def _kernels(arguments: argparse.Namespace) -> int:
    _show(arguments, percpu.kernels())
    return 0


def _topology(arguments: argparse.Namespace) -> percpu.Topology:
    if arguments.sysfs:
        return percpu.Topology.from_sysfs()
    return percpu.Topology.from_nodes(arguments.nodes)


def _layout(arguments: argparse.Namespace) -> int:
    layout = percpu.FirstChunkLayout.build(
        static_size=arguments.static,
        reserved_size=arguments.reserved,
        dyn_size=arguments.dyn,
        atom_size=arguments.atom,
        topology=_topology(arguments),
        kernel=arguments.kernel,
        first_chunk=arguments.first_chunk,
        page_size=arguments.page_size,
    )
    facts = {
        "unit_size_bytes": layout.unit_size,
        "dyn_size_bytes": layout.dyn_size,
        "alloc_size_bytes": layout.alloc_size,
        "nr_units": layout.nr_units,
        "nr_groups": len(layout.groups),
        "nr_holes": layout.nr_holes,
        "hole_bytes": layout.nr_holes * layout.unit_size,
    }
    if arguments.json:
        groups = [{"base_offset": g.base_offset, "cpu_map": g.cpu_map} for g in layout.groups]
        _show(arguments, {**facts, "groups": groups, "boot_log": layout.boot_log()})
    else:
        _show(arguments, layout.boot_log())
        _show(arguments, facts)
    return 0


def _replay(arguments: argparse.Namespace) -> int:
    trace = percpu.read_trace(arguments.trace)
    allocator = percpu.Allocator.from_state(arguments.state, kernel=arguments.kernel)
    result = percpu.replay(trace, allocator)
    report: dict[str, Any] = dict(result.summary)
    if arguments.end_state:
        differences = allocator.differences(arguments.end_state)
        report["end_state_equal"] = not differences
        report["end_state_differences"] = differences if arguments.json else len(differences)
    if arguments.json:
        report["first_divergence"] = result.first_divergence
    _show(arguments, report)
    if arguments.plot:
        _save(result.plot(), Path(arguments.plot))
    if not arguments.json and result.first_divergence is not None:
        print(f"first divergence: {result.first_divergence['text']}")
    return 1 if result.nr_diverged or not report.get("end_state_equal", True) else 0


def _stats(arguments: argparse.Namespace) -> int:
    allocator = percpu.Allocator.from_state(arguments.state, kernel=arguments.kernel)
    _show(arguments, allocator.stats() if arguments.json else allocator.stats_text())
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    percpu.Allocator.from_state(arguments.state, kernel=arguments.kernel).verify()
    _show(arguments, {"verify": "ok"})
    return 0


def _chunks(arguments: argparse.Namespace) -> int:
    allocator = percpu.Allocator.from_state(arguments.state, kernel=arguments.kernel)
    chunks = [*allocator.chunks.values(), *filter(None, [allocator.reserved_chunk])]
    if arguments.plot is not None:
        by_name = {"reserved" if chunk.number is None else str(chunk.number): chunk for chunk in chunks}
        if arguments.plot not in by_name:
            raise InvalidRequest(f"--plot {arguments.plot}: the chunks are {', '.join(by_name)}", parameter="plot")
        _save(by_name[arguments.plot].plot(), Path(arguments.out))
        _show(arguments, {"out": arguments.out} if arguments.json else arguments.out)
        return 0
    rows = [chunk.info for chunk in chunks]
    columns: dict[str, Any] = {"chunk": np.array([chunk.number or 0 for chunk in chunks], dtype=np.int64)}
    for name in ("nr_alloc", "free_bytes", "nr_populated", "nr_empty_pop_pages", "immutable", "isolated"):
        columns[name] = np.array([row[name] for row in rows])
    columns["slot"] = np.array([row["slot"] or 0 for row in rows], dtype=np.int64)
    mask = {
        "chunk": [chunk.number is None for chunk in chunks],
        "slot": [row["slot"] is None for row in rows],
    }
    _show(arguments, Result(columns, mask=mask))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from percpu._demo import demo

    return demo(Path(arguments.out))


def _save(ax: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ax.figure.savefig(path, dpi=120)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="percpu", description=percpu.__doc__.partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"percpu {percpu.__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(function=function)
        sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    def with_state(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub.add_argument("state", help="state file (JSON), plain or gzip")
        sub.add_argument("--kernel", default="6.12", help="release or engine (default: %(default)s)")
        return sub

    verb("kernels", _kernels, "list the kernel releases and how well each is shown to be right")

    sub = verb("layout", _layout, "compute the first chunk for CPUs and nodes")
    cpus = sub.add_mutually_exclusive_group(required=True)
    cpus.add_argument("--nodes", type=int, nargs="+", metavar="CPUS", help="CPUs of each node")
    cpus.add_argument("--sysfs", action="store_true", help="take the machine that this runs on")
    sub.add_argument("--static", type=_size, required=True, metavar="BYTES", help="static section, not rounded")
    sub.add_argument("--reserved", type=_size, default=8 << 10, metavar="BYTES", help="default: 8K")
    sub.add_argument("--dyn", type=_size, default=28 << 10, metavar="BYTES", help="default: 28K")
    sub.add_argument("--atom", type=_size, default=2 << 20, metavar="BYTES", help="default: 2M")
    sub.add_argument("--page-size", type=_size, default=4096, metavar="BYTES", help="default: 4K")
    sub.add_argument("--first-chunk", choices=("auto", "embed", "page", "up"), default="auto")
    sub.add_argument("--kernel", default="6.12", help="release or engine (default: %(default)s)")

    sub = verb("replay", _replay, "replay a recording from its start state and compare every placement")
    sub.add_argument("trace", help="ftrace, perf, bpftrace or column form")
    sub.add_argument("--state", required=True, help="state file at the start of the trace")
    sub.add_argument("--end-state", help="state file at its end, to be compared whole")
    sub.add_argument("--kernel", default="6.12", help="release or engine (default: %(default)s)")
    sub.add_argument("--plot", metavar="FILE", help="draw the timeline")

    with_state(verb("stats", _stats, "print the debugfs percpu_stats text of a state"))
    with_state(verb("verify", _verify, "check the invariants of a state"))
    sub = with_state(verb("chunks", _chunks, "list the chunks of a state, or draw one"))
    sub.add_argument("--plot", metavar="CHUNK", help="draw the map of this chunk: a number, or reserved")
    sub.add_argument("--out", default="chunk.png", metavar="FILE", help="default: %(default)s")

    sub = verb("demo", _demo, "replay the packaged recording and draw pictures")
    sub.add_argument("--out", default="demo-out", metavar="DIR", help="default: %(default)s")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        0; 1 if something differs or fails; 2 for wrong arguments.
    """
    arguments = _parser().parse_args(argv)
    try:
        code = arguments.function(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has gone: nothing is left to say, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (PercpuError, OSError, ImportError) as error:
        print(f"percpu: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
