"""`percpu compare`: the same requests and frees on several engines or releases."""

from __future__ import annotations

import argparse
from pathlib import Path

import percpu
from percpu.cli.arguments import Verbs
from percpu.cli.experiment import add_machine, add_source, machine_of, settings_of, source_of
from percpu.cli.show import save_picture, show, table
from percpu.results import Result

_SHORT = (
    "alloc_ns", "free_ns", "nr_failed", "nr_chunks_created", "nr_max_chunks", "peak_memory_bytes", "end_memory_bytes",
    "peak_handed_out_bytes", "peak_metadata_per_object_bytes", "end_fragmentation",
)  # fmt: skip


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add("compare", run, "make the same requests and frees on several engines or releases")
    add_source(parser)
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--engines", nargs="+", metavar="NAME", help="engines (default: all)")
    who.add_argument("--kernels", nargs="+", metavar="RELEASE", help="releases instead")
    add_machine(parser)
    parser.add_argument("--no-times", action="store_true", help="leave out what differs from run to run")
    parser.add_argument("--phases", action="store_true", help="a row an engine and phase of the workload")
    parser.add_argument(
        "--costs",
        choices=("totals", "full", "off"),
        help="print counts of work: what needs no work of its own, or everything (default: count totals, print none)",
    )
    parser.add_argument("--all", action="store_true", help="print every column, turned")
    parser.add_argument("--plot", metavar="FILE", help="draw the figures")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    result = percpu.compare(
        source_of(arguments),
        arguments.engines,
        kernels=arguments.kernels,
        geometry=machine_of(arguments),
        request=settings_of(arguments.request),
        policy=settings_of(arguments.policy),
        timing=not arguments.no_times and arguments.costs in (None, "off"),
        costs=arguments.costs or "totals",
    )
    chosen = result.phases if arguments.phases else result
    if arguments.json:
        show(arguments, chosen)
    elif arguments.all:
        rows = list(chosen.rows())
        heads = [str(next(iter(row.values()))) for row in rows]
        table(("", *heads), [(name, *(_cell(row[name]) for row in rows)) for name in list(chosen)[1:]])
    elif arguments.costs in ("totals", "full"):
        _print_costs(chosen)
    else:
        shown = [name for name in chosen if name in ("engine", "kernel", "phase", *_SHORT)]
        table(shown, [[_cell(row[name]) for name in shown] for row in chosen.rows()])
    if arguments.plot:
        save_picture(result.plot(), Path(arguments.plot))
    return 0


def _print_costs(result: Result) -> None:
    """Print how often what was done, without the counters that nobody has used."""
    costs = [name for name in result if name.startswith("cost_") and any(row[name] for row in result.rows())]
    shown = ("nr_alloc", "nr_free", "nr_chunks_created", *costs)
    for phase in dict.fromkeys(row.get("phase") for row in result.rows()):
        rows = [row for row in result.rows() if row.get("phase") == phase]
        heads = [str(next(iter(row.values()))) for row in rows]
        table((phase or "", *heads), [(name.removeprefix("cost_"), *(row[name] for row in rows)) for name in shown])


def _cell(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value
