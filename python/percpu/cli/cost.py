"""`percpu cost`: what objects for every CPU cost."""

from __future__ import annotations

import argparse

from percpu.answers.cost import cost
from percpu.cli.arguments import Verbs, add_kernel, byte_size
from percpu.cli.show import show, table


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add("cost", run, "say what objects for every CPU cost: chunks, pages, memory, waste")
    parser.add_argument("--size", type=byte_size, nargs="+", required=True, metavar="BYTES", help="of an object")
    parser.add_argument("--count", type=int, required=True, metavar="N", help="how many of them")
    parser.add_argument("--cpus", type=int, required=True, metavar="C", help="possible CPUs (x86-64, one node)")
    parser.add_argument("--align", type=byte_size, default=8, metavar="BYTES", help="default: %(default)s")
    parser.add_argument("--atomic", action="store_true", help="ask as one that may not sleep")
    add_kernel(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    result = cost(
        arguments.size,
        arguments.count,
        cpus=arguments.cpus,
        align=arguments.align,
        kernel=arguments.kernel,
        atomic=arguments.atomic,
    )
    if arguments.json:
        show(arguments, result)
    else:
        # A column for each size.
        head, *rows = ([name, *values.tolist()] for name, values in result.items())
        table([head[0], *(f"{size:,}" for size in head[1:])], rows)
    return 0
