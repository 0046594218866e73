"""`percpu record`: the events of the kernel that this runs on."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
from threading import Event

from percpu.cli.arguments import Verbs, byte_size
from percpu.cli.show import show
from percpu.errors import InvalidRequest
from percpu.record import CLOCKS, Signals, bpftrace_program, run_capture


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add("record", run, "record the percpu:* events of this kernel (needs root)")
    parser.add_argument(
        "-o", "--out", metavar="FILE", help="needed: text, or compressed if named .gz or .zst; - is stdout"
    )
    parser.add_argument("--seconds", type=float, metavar="N", help="how long (default: until Ctrl-C)")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="mono",
        help="mono gives times, counter a strict order of all CPUs in their place (default: %(default)s)",
    )
    parser.add_argument(
        "--buffer",
        type=byte_size,
        metavar="BYTES",
        help="kernel buffer for each CPU (default: 1M to 8M, all below 256M)",
    )
    parser.add_argument("--stats", action="store_true", help="save percpu_stats of start and end beside FILE")
    parser.add_argument("--mount", action="store_true", help="mount tracefs and debugfs, for this recording only")
    parser.add_argument("--tracefs", metavar="DIR", help="where tracefs is (default: looked for)")
    parser.add_argument("--debugfs", metavar="DIR", help="where debugfs is (default: looked for)")
    parser.add_argument(
        "--print-bpftrace", action="store_true", help="print a bpftrace program whose output is read as well, and end"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    if arguments.print_bpftrace:
        show(arguments, {"program": bpftrace_program()} if arguments.json else bpftrace_program())
        return 0
    if arguments.out is None:
        raise InvalidRequest("-o FILE is needed", parameter="out")
    to_stdout = arguments.out == "-"
    report = sys.stderr if to_stdout else sys.stdout
    terminal = sys.stderr.isatty() and not arguments.json

    def progress(seconds: float, nr_events: int) -> None:
        print(f"\r{seconds:8.1f} s  {nr_events:12,} events", end="", file=sys.stderr, flush=True)

    with Signals(Event()) as signals:
        capture = run_capture(
            sys.stdout.buffer if to_stdout else arguments.out,
            arguments.seconds,
            clock=arguments.clock,
            buffer_size=arguments.buffer,
            stats=arguments.stats,
            mount=arguments.mount,
            tracefs=arguments.tracefs,
            debugfs=arguments.debugfs,
            progress=progress if terminal else None,
            signals=signals,
        )
    if terminal:
        print("\r", end="", file=sys.stderr)
    for name in capture.removed:
        print(f"percpu: removed {name}, left behind by a recording that was killed", file=sys.stderr)
    for note in capture.notes:
        print(f"percpu: {note}", file=sys.stderr)
    if capture.nr_lost:
        cpus = ", ".join(f"cpu {cpu}: {count:,}" for cpu, count in capture.lost_by_cpu.items())
        print(f"percpu: {capture.nr_lost:,} events were lost ({cpus}); a larger --buffer helps", file=sys.stderr)
    if capture.unseen and any(capture.unseen.values()):
        what = (("nr_alloc", "handed out"), ("nr_dealloc", "taken back"))
        counts = [f"{capture.unseen[name]:,} areas {done}" for name, done in what if capture.unseen[name]]
        print(f"percpu: no event for at least {' and '.join(counts)}", file=sys.stderr)
    if arguments.json:
        facts = dataclasses.asdict(capture)
        # Where standard output is the capture itself, everything else goes to standard error.
        print(json.dumps(facts), file=report)
    else:
        text = f"{capture.nr_events:,} events in {capture.seconds:.1f} s, {capture.nr_lost:,} lost"
        where = "" if to_stdout else f" -> {capture.path}"
        print(f"{text}{where}", file=report)
        for path in capture.stats_paths:
            print(f"statistics -> {path}", file=report)
    # Ctrl-C is how a recording without --seconds ends.
    ended = capture.signal
    return 0 if ended is None or ended == signal.SIGINT else 128 + ended
