"""`percpu steps`: the first requests and frees of a trace, each with what it did and why."""

from __future__ import annotations

import argparse
from typing import Any

import percpu
from percpu.cli.arguments import Verbs, add_kernel, byte_size
from percpu.cli.show import show
from percpu.cli.source import add_source
from percpu.errors import InvalidRequest


def add(verbs: Verbs) -> None:
    """Add the verb."""
    text = "go through the first requests and frees of a trace, and say of each what it did and why"
    parser = verbs.add("steps", run, text)
    add_source(parser)
    parser.add_argument("--state", metavar="FILE", help="state file at the start of the trace")
    parser.add_argument(
        "--unit-size",
        type=byte_size,
        metavar="BYTES",
        help="without a state: begin with an empty allocator, whose units have so many bytes, as 32K",
    )
    parser.add_argument(
        "--nr-units", type=int, default=1, metavar="N", help="without a state: units of a chunk (default: %(default)s)"
    )
    parser.add_argument(
        "--first", type=int, default=0, metavar="EVENT", help="begin at this event (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="requests and frees (default: %(default)s)")
    parser.add_argument("-o", "--out", metavar="FILE", help="write a page with pictures instead")
    add_kernel(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    if (arguments.state is None) == (arguments.unit_size is None):
        raise InvalidRequest("one of --state and --unit-size is needed", parameter="state")
    trace = percpu.read_trace(arguments.trace, strict=not arguments.lenient, max_events=arguments.max_events)
    allocator = _start(arguments)
    if arguments.first:
        if not 0 <= arguments.first <= len(trace):
            raise InvalidRequest(f"--first {arguments.first}: the trace has {len(trace)} events", parameter="first")
        way = "rerun" if arguments.state is None else "predict"
        percpu.replay(trace[: arguments.first], allocator, mode=way)
    found = percpu.steps(trace[arguments.first :], allocator, limit=arguments.limit)
    if arguments.out:
        found.to_html(arguments.out, title=f"Step by step: {arguments.trace}")
    if arguments.json:
        show(arguments, [_plain(step, arguments.first) for step in found])
    else:
        show(arguments, f"{arguments.out}: {found!r}" if arguments.out else str(found))
    return 0


def _start(arguments: argparse.Namespace) -> percpu.Allocator:
    if arguments.state is not None:
        return percpu.Allocator.from_state(arguments.state, kernel=arguments.kernel, balance="eager")
    return percpu.Allocator(unit_size=arguments.unit_size, nr_units=arguments.nr_units, kernel=arguments.kernel)


def _plain(step: percpu.Step, first: int) -> dict[str, Any]:
    names = ("number", "kind", "operation", "ok", "chunk", "off_bytes", "size_bytes", "costs")
    event = None if step.event is None else step.event + first
    rules = [rule._asdict() for rule in step.rules]
    return {**{name: getattr(step, name) for name in names}, "event": event, "rules": rules}
