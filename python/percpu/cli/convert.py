"""`percpu convert`: from one form of a trace to another, whole or in part."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from percpu import _core, _parquet
from percpu.cli.arguments import Verbs
from percpu.cli.show import show
from percpu.cli.source import add_source, blocks
from percpu.errors import TraceError
from percpu.trace import Trace, compression_of, matching

__all__ = ["add", "run"]

_TOP = 2**64 - 1


def _seconds(text: str) -> int:
    """Return nanoseconds."""
    try:
        value = Decimal(text) * 10**9
        number = int(value)
    except (InvalidOperation, ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0 <= number <= _TOP or number != value:
        raise argparse.ArgumentTypeError(f"{text!r} must be from 0 to 1.8e10 seconds, with at most nine decimals")
    return number


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add(
        "convert", run, "convert a trace: to Parquet (.parquet) or ftrace text (else; .gz and .zst compress)"
    )
    add_source(parser, "input")
    parser.add_argument("output", metavar="OUTPUT", help="file to write; its suffix says the form")
    parser.add_argument(
        "--from",
        dest="first",
        type=_seconds,
        default=0,
        metavar="SECONDS",
        help="from this time on (default: from the first event)",
    )
    parser.add_argument(
        "--to",
        dest="end",
        type=_seconds,
        default=_TOP,
        metavar="SECONDS",
        help="before this time (default: to the last event)",
    )
    parser.add_argument(
        "--call-site", metavar="PATTERN", help="only allocations of these functions (bpf_*), and their frees"
    )
    parser.add_argument("--anonymise", action="store_true", help="other addresses; reads the whole into memory")
    parser.add_argument("--hide-call-sites", action="store_true", help="with --anonymise: numbers for call sites")
    parser.add_argument("--hide-times", action="store_true", help="with --anonymise: the order for times")
    parser.add_argument("--seed", type=int, metavar="N", help="of --anonymise (default: a new one each time)")
    parser.add_argument(
        "--state", metavar="FILE", help="with --anonymise: the state in which the trace begins, moved along"
    )
    parser.add_argument("--state-output", metavar="FILE", help="where to write that state")


def _selected(arguments: argparse.Namespace, stream: Iterator[Trace], counts: dict[str, Any]) -> Iterator[Trace]:
    """Yield what was asked for of each block."""
    sites = _core.CallSiteFilter()
    has_sites = False
    for block in stream:
        counts["events_read"] += len(block)
        for name in ("skipped_lines", "damaged_lines"):
            counts[name] += block.info[name]
        counts["first_damage"] = counts["first_damage"] or block.info["first_damage"]
        core = block._core
        if arguments.call_site is not None:
            known = core.call_sites()
            has_sites = has_sites or bool(known)
            core = sites.select(core, matching(known, arguments.call_site))
        if arguments.first > 0 or arguments.end < _TOP:
            if block.info["clock"] == "counter":
                raise TraceError("--from and --to need times; the clock of this trace counts events")
            core = core.within(arguments.first, arguments.end)
        yield block if core is block._core else Trace._wrap(core, block.geometry)
    if arguments.call_site is not None and counts["events_read"] and not has_sites:
        raise TraceError("--call-site: the trace has no call sites; kernels before 5.19 do not print them")


def _anonymous(arguments: argparse.Namespace, stream: Iterator[Trace], counts: dict[str, Any]) -> Iterator[Trace]:
    """Yield the whole with other addresses."""
    # Blocks of one stream agree in their dictionaries and are in order, so this puts them together again.
    whole = Trace.concatenate(list(stream))
    seed = secrets.randbits(63) if arguments.seed is None else arguments.seed
    options = {"call_sites": arguments.hide_call_sites, "times": arguments.hide_times}
    counts["seed"] = seed
    if arguments.state is None:
        yield whole.anonymise(seed, **options)
        return
    whole, state = whole.anonymise(seed, **options, state=arguments.state)
    if arguments.state_output:
        Path(arguments.state_output).write_bytes(state)
    yield whole


@contextlib.contextmanager
def _writer(output: Path, geometry: Any) -> Iterator[Any]:
    """Open a writer for the form that the name asks for; the file is there when it is whole, or not at all."""
    partial = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        if output.suffix == ".parquet":
            writer: Any = _parquet.Writer(partial, geometry)
        else:
            writer = _core.TraceWriter(partial, compression_of(output))
        yield writer
        writer.finish()
        os.replace(partial, output)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    needless = arguments.hide_call_sites or arguments.hide_times or arguments.seed is not None or arguments.state
    if needless and not arguments.anonymise:
        raise TraceError("--hide-call-sites, --hide-times, --seed and --state need --anonymise")
    counts: dict[str, Any] = {"events_read": 0, "events_written": 0, "skipped_lines": 0, "damaged_lines": 0}
    counts["first_damage"] = None
    stream = _selected(arguments, blocks(arguments, arguments.input, "convert"), counts)
    if arguments.anonymise:
        stream = _anonymous(arguments, stream, counts)
    output = Path(arguments.output)
    first = next(stream, None)
    with _writer(output, None if first is None else first.geometry) as writer:
        while first is not None:
            writer.write(first._core)
            counts["events_written"] += len(first)
            first = next(stream, None)
    counts["output"] = str(output)
    counts["output_bytes"] = output.stat().st_size
    if not arguments.json:
        counts = {name: value for name, value in counts.items() if value is not None}
    show(arguments, counts)
    return 0
