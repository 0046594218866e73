"""A sweep of 200 points over the packaged recording: the same bytes however it is run.

Run by `make sweep-check`. One thread, two threads, a dask cluster with a worker killed in the middle, and a process
killed with SIGKILL whose sweep is resumed; every way must give the digest of the first. The speed-up of two threads is
printed: the best of seven runs each, taken in turns.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import percpu as pc

TRACE = Path(pc.__file__).parent / "data" / "demo" / "workload" / "trace.txt.gz"
GRID = {
    "kernel": ["4.13", "4.19", "5.4", "6.1", "6.12"],
    "request.min_align": [4, 8, 16, 64, 256],
    "request.size_multiple": [4, 32],
    "geometry.nr_cpus": [2, 4],
    "policy.every": [1, 64],
}


def experiment(trace=None, **options):
    """The sweep."""
    return pc.sweep(trace or pc.read_trace(TRACE), GRID, **options)


def main() -> int:
    """Run all ways, and compare."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    digests = {}
    trace = pc.read_trace(TRACE)
    for _ in range(7):
        for threads, times in seconds.items():
            begin = time.perf_counter()
            result = experiment(trace, threads=threads)
            times.append(time.perf_counter() - begin)
            digests[f"{threads} thread{'s' * (threads > 1)}"] = result.digest()
    bad = sum(row["status"] != "ok" for row in result.rows())
    digests["killed -9 and resumed"] = killed_and_resumed()
    digests["dask, a worker killed"] = on_a_cluster()
    for how, digest in digests.items():
        print(f"{how:24} {digest}")
    best = {threads: min(times) for threads, times in seconds.items()}
    ratio = best[1] / best[2]
    print(f"1 thread {best[1]:.2f} s, 2 threads {best[2]:.2f} s: {ratio:.2f} times as fast on {os.cpu_count()} cores")
    same = len(set(digests.values())) == 1
    print(f"sweep-check: {len(result)} points, {bad} failed, {'all ways the same' if same else 'DIFFERENT'}")
    return 0 if same and not bad else 1


def killed_and_resumed() -> str:
    """Digest of a sweep whose process was killed twice on the way."""
    with tempfile.TemporaryDirectory() as path:
        command = [sys.executable, __file__, path]
        for told in (60, 50):
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                lines = [process.stdout.readline() for _ in range(told)]
                process.send_signal(signal.SIGKILL)
            print(f"killed when {lines[-1].split()[0]} points were finished")
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
        print(f"resumed with {len(done) - 1} points to go")
        return done[-1]


def on_a_cluster() -> str:
    """Digest of a sweep on two processes, one of which was killed on the way."""
    from distributed import Client, LocalCluster

    def kill(done: int, *_: object) -> None:
        if done == 50:
            os.kill(min(client.run(os.getpid).values()), signal.SIGKILL)

    options = {
        "n_workers": 2,
        "threads_per_worker": 1,
        "processes": True,
        "dashboard_address": None,
        "silence_logs": 50,
    }
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        return experiment(executor=client, progress=kill).digest()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(experiment(checkpoint=sys.argv[1], progress=lambda done, *_: print(done, flush=True)).digest())
    else:
        sys.exit(main())
