"""The trace that a verb reads, block by block and with progress."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from percpu.cli.arguments import byte_size
from percpu.cli.progress import Progress, file_size
from percpu.trace import Trace, blocks_with_position

__all__ = ["add_known", "add_source", "blocks"]


def add_source(parser: Any, name: str = "trace") -> None:
    """Add the trace to read, and how."""
    text = "ftrace, trace-cmd, perf or bpftrace text, column form (plain, gzip, zstd), or Parquet; - is standard input"
    parser.add_argument(name, metavar=name.upper(), help=text)
    parser.add_argument("--lenient", action="store_true", help="count lines that cannot be read instead of stopping")
    parser.add_argument(
        "--max-events", type=int, metavar="N", help="stop with an error at more events (default: no limit)"
    )


def add_known(parser: Any) -> None:
    """Add what may be known beside the trace: the state at its start, or statistics from both ends."""
    parser.add_argument("--state", metavar="FILE", help="state file at the start of the trace: then all is known")
    parser.add_argument("--stats", type=Path, metavar="FILE", help="percpu_stats from right before the trace")
    text = "percpu_stats from right after it: what the trace does not show"
    parser.add_argument("--stats-end", type=Path, metavar="FILE", help=text)
    parser.add_argument("--unit-size", type=byte_size, metavar="BYTES", help="one CPU's share of a chunk, as 1M")


def blocks(arguments: argparse.Namespace, path: str, what: str) -> Iterator[Trace]:
    """Yield the trace in blocks, and show how far it has come."""
    with Progress(what, file_size(path)) as progress:
        events = 0
        for block, done in blocks_with_position(path, strict=not arguments.lenient, max_events=arguments.max_events):
            events += len(block)
            yield block
            progress.update(done, events)
