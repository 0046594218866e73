"""`percpu replay`: predict every placement of a recording."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import percpu
from percpu.cli.arguments import Verbs, add_kernel
from percpu.cli.show import save_picture, show


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add("replay", run, "replay a recording from its start state and compare every placement")
    parser.add_argument("trace", help="ftrace, perf, bpftrace or column form")
    parser.add_argument("--state", required=True, help="state file at the start of the trace")
    parser.add_argument("--end-state", help="state file at its end, to be compared whole")
    parser.add_argument("--plot", metavar="FILE", help="draw the timeline")
    add_kernel(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
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
    show(arguments, report)
    if arguments.plot:
        save_picture(result.plot(), Path(arguments.plot))
    if not arguments.json and result.first_divergence is not None:
        print(f"first divergence: {result.first_divergence['text']}")
    return 1 if result.nr_diverged or not report.get("end_state_equal", True) else 0
