"""Ctrl-C in long calls: it stops them, and nothing is half done."""

from __future__ import annotations

import subprocess
import sys

import pytest

import percpu as pc

from .conftest import RECORDINGS

SCRIPT = """
import os, signal, sys, threading, time
import numpy as np
import percpu as pc

signal.signal(signal.SIGINT, signal.default_int_handler)
what, path, delay, size = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
trace = pc.read_trace(path)
while len(trace) < size:
    trace = pc.Trace.concatenate([trace] * 8)
a = pc.Allocator(unit_size=2 << 20, nr_units=2)
a.alloc(8)
before = a.snapshot()
sizes = np.random.default_rng(1).integers(1, 100, 20 * size)
calls = {
    "merge": lambda: pc.Trace.merge([trace, trace]),
    "concatenate": lambda: pc.Trace.concatenate([trace] * 4),
    "anonymise": lambda: trace.anonymise(7),
    "alloc_many": lambda: a.alloc_many(sizes),
    "alloc_many of a list": lambda: a.alloc_many(sizes[: size * 4].tolist()),
}
call, sent = calls[what], []

def interrupt():
    time.sleep(delay)
    sent.append((time.perf_counter(), time.process_time()))
    os.kill(os.getpid(), signal.SIGINT)

thread = threading.Thread(target=interrupt)
try:
    thread.start()
    for _ in range(200):
        call()
    sys.exit("was not stopped")
except KeyboardInterrupt:
    late = (time.perf_counter() - sent[0][0], time.process_time() - sent[0][1])
thread.join()
a.verify()
if "alloc" in what and what != "alloc_many of a list":
    assert delay > 1 or a.snapshot() == before
print(*(f"{seconds * 1000:.0f}" for seconds in late))
"""

CALLS = ["merge", "concatenate", "anonymise", "alloc_many", "alloc_many of a list"]


@pytest.mark.parametrize("what", CALLS)
def test_ctrl_c(what, capsys):
    path = next(file for file in sorted(RECORDINGS.rglob("trace*.txt.gz")))
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, what, str(path), "0.05", "300000"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    elapsed, spent = run.stdout.split()
    with capsys.disabled():
        print(f" {what}: {elapsed} ms, {spent} ms of them of the processor;", end="")


def test_pieces_of_a_column_are_the_column():
    import numpy as np

    from percpu._checks import SLICE, column

    values = np.arange(2 * SLICE + 5)
    assert np.array_equal(column("sizes", values), values.astype(np.uint64))
    assert np.array_equal(column("sizes", values.tolist()), values.astype(np.uint64))
    values[SLICE + 3] = -7
    with pytest.raises(pc.InvalidRequest, match=rf"^sizes\[{SLICE + 3}\]=-7 is negative$") as caught:
        column("sizes", values)
    assert caught.value.index == SLICE + 3
    huge = [1] * (SLICE + 4) + [1 << 64]
    with pytest.raises(pc.InvalidRequest, match=rf"^sizes\[{SLICE + 4}\] is out of range$"):
        column("sizes", huge)
    with pytest.raises(TypeError, match="sizes must hold integers"):
        column("sizes", [1] * SLICE + [1.5])
