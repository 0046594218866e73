"""`percpu summary`: what is in a trace, in numbers."""

from __future__ import annotations

import argparse

from percpu import _core
from percpu.cli.arguments import Verbs
from percpu.cli.show import plain, show
from percpu.cli.source import add_source, blocks
from percpu.summary import TraceSummary

__all__ = ["add", "run"]


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add("summary", run, "sum up a trace of any size: events, rates, bytes, call sites, CPUs, losses")
    add_source(parser)
    parser.add_argument(
        "--top", type=int, default=10, metavar="N", help="call sites to show, 0 for all (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    core = _core.TraceSummary()
    for block in blocks(arguments, arguments.trace, "summary"):
        core.add(block._core)
    summary = TraceSummary._wrap(core)
    top = len(summary.call_sites) if arguments.top <= 0 else arguments.top
    if arguments.json:
        report = {
            "totals": summary.totals,
            "events": plain(summary),
            "call_sites": plain(summary.call_sites[:top]),
            "nr_call_sites": len(summary.call_sites),
            "cpus": plain(summary.cpus),
        }
        show(arguments, report)
        return 0
    totals = {name: value for name, value in summary.totals.items() if value is not None}
    show(arguments, totals)
    for part in (summary, summary.call_sites[:top], summary.cpus):
        if len(part):
            print()
            show(arguments, part)
    hidden = len(summary.call_sites) - top
    if hidden > 0:
        print(f"{hidden} more call sites: --top 0 shows all")
    return 0
