"""`percpu report`: a trace as one page."""

from __future__ import annotations

import argparse
from pathlib import Path

import percpu
from percpu.cli.arguments import Verbs, add_kernel
from percpu.cli.show import show
from percpu.cli.source import add_known, add_source


def add(verbs: Verbs) -> None:
    """Add the verb."""
    text = "write what is in a trace as one HTML page: memory over time, chunks, owners, the end"
    parser = verbs.add("report", run, text)
    add_source(parser)
    parser.add_argument("-o", "--out", default="report.html", metavar="FILE", help="default: %(default)s")
    add_known(parser)
    parser.add_argument(
        "--steps",
        type=int,
        default=0,
        metavar="N",
        help="with a state: the first N step by step (default: %(default)s)",
    )
    parser.add_argument("--title", help="heading (default: the name of the file)")
    add_kernel(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    trace = percpu.read_trace(arguments.trace, strict=not arguments.lenient, max_events=arguments.max_events)
    made = percpu.report(
        trace,
        state=arguments.state,
        kernel=arguments.kernel,
        unit_size=arguments.unit_size,
        stats=arguments.stats,
        stats_end=arguments.stats_end,
        steps=arguments.steps,
        title=arguments.title or f"Per-CPU memory: {Path(arguments.trace).name}",
    )
    size = made.write(arguments.out)
    facts = {"out": arguments.out, "bytes": size, "sections": [section.title for section in made.sections]}
    if arguments.json:
        show(arguments, facts | {"nr_events": made.summary["nr_events"], "replay": made.summary["replay"]})
    else:
        print(f"{arguments.out}: {size:,} bytes; {', '.join(facts['sections'])}")
    return 0
