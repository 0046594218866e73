"""`percpu owners`: who owns per-CPU memory, by a capture; two captures compared."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import percpu
from percpu import _core
from percpu.answers._machine import cpus_of_head
from percpu.answers._owners_text import SORTS, head, lines, order, rows, signed
from percpu.answers.owners import Owners
from percpu.answers.owners_compare import OwnersComparison
from percpu.cli.arguments import Verbs, add_kernel
from percpu.cli.files import add_out, writer
from percpu.cli.show import plain, save_picture, table
from percpu.cli.source import add_known, add_source, blocks
from percpu.errors import InvalidRequest
from percpu.results import Result
from percpu.trace import Trace

_TOP = 20


def add(verbs: Verbs) -> None:
    """Add the verb."""
    text = "say who owns per-CPU memory: live bytes by call site, times CPUs, over a capture; compare two captures"
    parser = verbs.add("owners", run, text)
    add_source(parser)
    add_known(parser)
    parser.add_argument(
        "--by", choices=_core.OWNERS_BY, default="site", help="what areas are grouped by (default: %(default)s)"
    )
    parser.add_argument("--top", type=int, default=_TOP, metavar="N", help="rows of the table (default: %(default)s)")
    parser.add_argument("--sort", choices=tuple(SORTS), default="live", help="what comes first (default: %(default)s)")
    parser.add_argument("--against", metavar="TRACE2", help="an earlier capture: what is new, gone, grown since")
    parser.add_argument("--cpus", type=int, metavar="N", help="possible CPUs (default: as the capture tells)")
    parser.add_argument(
        "--meminfo", metavar="FILE|KB", help="Percpu: of /proc/meminfo after it: an upper limit of what it cannot see"
    )
    parser.add_argument("--kallsyms", metavar="FILE", help="copy of /proc/kallsyms, for call sites that are addresses")
    parser.add_argument(
        "--window",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="growth over this share of the events, at the end (default: %(default)s)",
    )
    parser.add_argument("--ages", choices=("seconds", "events"), help="show how old what is live is, by owner")
    parser.add_argument("--sizes", action="store_true", help="show the sizes of what is live, by owner")
    parser.add_argument("--stream", action="store_true", help="read in blocks, for captures larger than memory")
    add_out(parser)
    parser.add_argument("--plot", metavar="FILE", help="draw what the largest owners held over time")
    add_kernel(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    if arguments.top < 1:
        raise InvalidRequest(f"--top {arguments.top}: must be at least 1", parameter="top")
    out = writer(arguments.out)
    held = _owners(arguments, arguments.trace, first=False)
    result: Owners | OwnersComparison = held
    if arguments.against is not None:
        result = percpu.compare_owners(_owners(arguments, arguments.against, first=True), held)
    if arguments.json:
        print(json.dumps(plain(_as_json(arguments, held, result))))
    elif isinstance(result, OwnersComparison):
        _show_comparison(result, arguments.top)
    else:
        _show(arguments, held)
    out(result)
    if arguments.plot:
        save_picture(held.plot(min(arguments.top, 10)), Path(arguments.plot))
    return 0


def _owners(arguments: argparse.Namespace, path: str, first: bool) -> Owners:
    """Owners of a capture; what comes with the other one, as statistics, is of no use for an earlier one."""
    trace: str | Iterator[Trace] | Trace = path
    # Blocks and traces that are read here have no head any more.
    cpus = cpus_of_head(path) if arguments.cpus is None and (first or arguments.state is None) else arguments.cpus
    if arguments.stream:
        trace = blocks(arguments, path, "reading")
    elif arguments.max_events is not None or path == "-":
        trace = percpu.read_trace(path, strict=not arguments.lenient, max_events=arguments.max_events)
    meminfo = arguments.meminfo
    extra: dict[str, Any] = {}
    if not first:
        extra = {
            "stats": arguments.stats,
            "stats_end": arguments.stats_end,
            "meminfo": int(meminfo) if meminfo is not None and meminfo.isdecimal() else meminfo,
        }
    return percpu.owners(
        trace,
        None if first else arguments.state,
        by=arguments.by,
        cpus=cpus,  # type: ignore[arg-type]
        kallsyms=arguments.kallsyms,
        unit_size=arguments.unit_size,
        window=arguments.window,
        strict=not arguments.lenient,
        kernel=arguments.kernel,
        **extra,
    )


def _as_json(arguments: argparse.Namespace, held: Owners, result: Result) -> dict[str, Any]:
    if isinstance(result, OwnersComparison):
        return {"summary": result.attrs, "owners": result[: arguments.top]}
    shown = held[order(held, arguments.sort)[: arguments.top]]
    facts: dict[str, Any] = {"summary": held.summary, "unseen": held.unseen, "owners": shown, "sizes": held.sizes}
    if arguments.ages:
        facts["ages"] = held.ages(arguments.ages)
    return facts


def _show(arguments: argparse.Namespace, held: Owners) -> None:
    for line in lines(held):
        print(line)
    table(head(held), rows(held, arguments.top, arguments.sort))
    hidden = held.summary["nr_owners"] - arguments.top
    if hidden > 0:
        print(f"and {hidden:,} more (--top)")
    for name, wanted in (("ages", arguments.ages), ("sizes", arguments.sizes)):
        if wanted:
            part = held.ages(arguments.ages) if name == "ages" else held.sizes
            part = part[np.isin(part["owner"], order(held, arguments.sort)[: arguments.top])]
            table(part.keys(), [list(row.values()) for row in part.rows()])


def _show_comparison(change: OwnersComparison, top: int) -> None:
    facts = change.attrs
    for word in ("before", "after"):
        seconds = facts[f"{word}_seconds"]
        print(
            f"{word + ':':<8}{facts[f'{word}_nr_events']:,} events"
            + ("" if seconds is None else f" in {seconds:.1f} s")
            + f", {facts[f'{word}_live_bytes']:,} bytes live and seen being allocated, on each CPU."
        )
    print(", ".join(f"{facts[f'nr_{name}']} {name}" for name in ("new", "gone", "grown", "shrunk", "same")) + ".")
    names = ("owner", "change", "bytes", "all CPUs", "live", "before", "after", "peak before", "after",
             "requests/1000", "after")  # fmt: skip
    cells = []
    for row in change[:top].rows():
        total = row.get("all_change_bytes")
        cells.append(
            [
                row["owner"],
                row["change"],
                signed(row["change_bytes"]),
                "-" if total is None else signed(total),
                signed(row["change_nr_live"]),
                *(row[f"{word}_{name}"] for name in ("live_bytes", "peak_bytes") for word in ("before", "after")),
                *(_rate(row[f"{word}_nr_alloc_per_1000_events"]) for word in ("before", "after")),
            ]
        )
    table(names, cells)
    if len(change) > top:
        print(f"and {len(change) - top:,} more (--top)")


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
