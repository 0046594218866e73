"""`percpu replay`: a recording, predicted from its start state or followed without one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import percpu
from percpu.cli.arguments import Verbs, byte_size
from percpu.cli.show import save_picture, show
from percpu.cli.source import add_source, blocks
from percpu.errors import InvalidRequest
from percpu.replay import Progress

_LIVE_ROWS = 12


def add(verbs: Verbs) -> None:
    """Add the verb."""
    text = "replay a recording: predict every placement from its start state, or follow it without one"
    parser = verbs.add("replay", run, text)
    add_source(parser)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--state", metavar="FILE", help="state file at the start of the trace: predict")
    how.add_argument("--follow", action="store_true", help="no state: check, and learn what was there before")
    how.add_argument(
        "--closed-world", action="store_true", help="no state: predict from what the trace shows (needs a unit size)"
    )
    parser.add_argument("--stats", metavar="FILE", help="percpu_stats from right before the trace")
    parser.add_argument("--stats-end", metavar="FILE", help="percpu_stats from right after it (with --follow)")
    parser.add_argument("--unit-size", type=byte_size, metavar="BYTES", help="one CPU's share of a chunk, as 1M")
    parser.add_argument("--end-state", metavar="FILE", help="state file at its end, to be compared whole")
    parser.add_argument(
        "--stream", action="store_true", help="with --follow: read in blocks, for traces larger than memory"
    )
    parser.add_argument("--at", type=int, metavar="EVENT", help="with --follow: live areas after so many events")
    parser.add_argument("--plot", metavar="FILE", help="draw the timeline")
    parser.add_argument(
        "--sample-every", type=int, default=0, metavar="N", help="events of a sample (default: about 1000 samples)"
    )
    parser.add_argument("--timeline", action="store_true", help="with --json: the samples as well")
    parser.add_argument("--kernel", help="release or engine (default: 6.12)")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    if arguments.stream:
        if not arguments.follow:
            raise InvalidRequest("--stream goes with --follow only: the others look ahead", parameter="stream")
        return _follow(arguments, blocks(arguments, arguments.trace, "replaying"), None)
    trace = percpu.read_trace(arguments.trace, strict=not arguments.lenient, max_events=arguments.max_events)
    with _bar(len(trace)) as progress:
        if arguments.follow:
            return _follow(arguments, trace, progress)
        return _predict(arguments, trace, progress)


@contextmanager
def _bar(total: int) -> Iterator[Progress | None]:
    """Show how many events were replayed, on standard error and only where that is a terminal."""
    if not sys.stderr.isatty() or total < 100_000:
        yield None
        return
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        yield lambda events: print(
            f"\rreplaying: {100 * events // total} % of {total:,} events ", end="", file=sys.stderr
        )
        print(file=sys.stderr)
        return
    columns = (progress.TextColumn("replaying"), progress.BarColumn(), progress.TaskProgressColumn())
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replaying", total=total)
        yield lambda events: bar.update(task, completed=events)


def _predict(arguments: argparse.Namespace, trace: percpu.Trace, progress: Progress | None) -> int:
    allocator = None
    if arguments.state:
        allocator = percpu.Allocator.from_state(arguments.state, kernel=arguments.kernel or "6.12")
        result = percpu.replay(trace, allocator, sample_every=arguments.sample_every, progress=progress)
    else:
        if arguments.unit_size is None and arguments.stats is None:
            raise percpu.InvalidRequest("--closed-world needs --unit-size or --stats", parameter="unit_size")
        result = percpu.replay(
            trace,
            mode="closed_world",
            unit_size=arguments.unit_size,
            stats=arguments.stats and Path(arguments.stats),
            kernel=arguments.kernel,
            sample_every=arguments.sample_every,
            progress=progress,
        )
    report: dict[str, Any] = dict(result.summary)
    if arguments.end_state:
        end = allocator if allocator is not None else result.at(report["nr_events"])
        differences = end.differences(arguments.end_state)
        report["end_state_equal"] = not differences
        report["end_state_differences"] = differences if arguments.json else len(differences)
    if arguments.json:
        report["first_divergence"] = result.first_divergence
        if arguments.timeline:
            report["timeline"] = result.timeline
    show(arguments, report)
    _plot(arguments, result)
    if not arguments.json and result.first_divergence is not None:
        print(f"first divergence: {result.first_divergence['text']}")
    return 1 if result.nr_diverged or not report.get("end_state_equal", True) else 0


def _follow(
    arguments: argparse.Namespace, trace: percpu.Trace | Iterator[percpu.Trace], progress: Progress | None
) -> int:
    result = percpu.replay(
        trace,
        mode="follow",
        unit_size=arguments.unit_size,
        stats=arguments.stats and Path(arguments.stats),
        stats_end=arguments.stats_end and Path(arguments.stats_end),
        sample_every=arguments.sample_every,
        progress=progress,
    )
    live = result.live(arguments.at)
    report: dict[str, Any] = dict(result.summary)
    if arguments.json:
        report["first_illegal"] = result.first_illegal
        report["chunks"] = result.chunks
        report["live"] = live
        if arguments.timeline:
            report["timeline"] = result.timeline
        show(arguments, report)
        _plot(arguments, result)
        return 1 if result.nr_illegal else 0
    show(arguments, {name: f"{v:.3f}" if isinstance(v, float) else v for name, v in report.items() if v is not None})
    if len(live):
        print(_headline(live, arguments.at))
        show(arguments, _by_site(live))
    _plot(arguments, result)
    if result.first_illegal is not None:
        first = result.first_illegal
        line = f" (line {first['line']})" if first["line"] else ""
        print(f"first illegal: event {first['event']}{line}: {first['outcome']}")
    return 1 if result.nr_illegal else 0


def _headline(live: percpu.Result, at: int | None) -> str:
    when = "at the end" if at is None else f"after {at:,} events"
    return f"live {when}: {len(live):,} areas, {int(live.size_bytes.sum()):,} bytes of each CPU"


def _by_site(live: percpu.Result) -> percpu.Result:
    """Sum live areas up by call site, the largest first."""
    sums: dict[str, list[int]] = {}
    missing, names = live.missing("call_site"), live._categories["call_site"]
    for code, size, unnamed, prior in zip(live.call_site, live.size_bytes, missing, live.prior, strict=True):
        name = "(there before)" if prior else "(not recorded)" if unnamed else names[code]
        entry = sums.setdefault(name, [0, 0])
        entry[0] += int(size)
        entry[1] += 1
    rows = sorted(sums.items(), key=lambda item: (-item[1][0], item[0]))
    if len(rows) > _LIVE_ROWS:
        rest = [entry for _, entry in rows[_LIVE_ROWS:]]
        rows = rows[:_LIVE_ROWS]
        rows.append((f"({len(rest)} others)", [sum(r[0] for r in rest), sum(r[1] for r in rest)]))
    return percpu.Result(
        {
            "call_site": [name for name, _ in rows],
            "live_bytes": [entry[0] for _, entry in rows],
            "nr_live": [entry[1] for _, entry in rows],
        }
    )


def _plot(arguments: argparse.Namespace, result: Any) -> None:
    if arguments.plot:
        save_picture(result.plot(), Path(arguments.plot))
