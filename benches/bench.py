"""Every figure of docs/performance.md, measured: one dated record and a picture.

Rows are ``section, name, case, metric, value, unit``. What goes through Python is measured here, the rest by the
binary ``cases`` (``benches/cases``). Times are those of the thread, best of several runs: what else runs on the
machine takes no time of the thread, though it takes its cache. The record goes to
``benches/results/<cpu>/<date>.csv`` and ``.txt`` with commit, machine and versions, the picture next to it.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import mmap
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import percpu as pc

HERE = Path(__file__).parent
FIELDS = ["section", "name", "case", "metric", "value", "unit"]
# Size, alignment, order of the frees.
TABLE = [
    (4, 4, "in-order"),
    (16, 16, "in-order"),
    (64, 64, "in-order"),
    (64, 64, "alternate"),
    (64, 64, "random"),
    (256, 256, "alternate"),
    (1024, 1024, "in-order"),
    (1024, 1024, "alternate"),
    (4, 8, "in-order"),
]
ENGINES = ["4.19", "5.4", "6.12", "4.13", "rfc-v1", "2008"]
# Fewer objects where the model's own search is quadratic: the first posting looks at every fragment of every chunk,
# the proposal of 2008 at the rest of its one area for every request.
OBJECTS = {("rfc-v1", 8): 50_000, **{("2008", align): 5_000 for align in (4, 8, 16, 64, 256, 1024)}}

Row = dict[str, object]


def row(section: str, name: str, case: str, metric: str, value: float, unit: str) -> Row:
    return dict(zip(FIELDS, (section, name, case, metric, f"{value:.3f}", unit), strict=True))


def order_of(n: int, order: str) -> np.ndarray:
    everything = np.arange(n)
    if order == "alternate":
        return np.concatenate([everything[::2], everything[1::2]])
    return np.random.default_rng(1).permutation(n) if order == "random" else everything


def seconds(run: Callable[[], object]) -> float:
    begin = time.thread_time_ns()
    run()
    return (time.thread_time_ns() - begin) / 1e9


def allocator(kernel: str, n: int = 0, size: int = 0) -> pc.Allocator:
    """Return an empty allocator with one unit of 256 KiB; the proposal of 2008 has no second one."""
    unit = -(-n * max(size, 8) // 4096) * 4096 if kernel == "2008" else 256 << 10
    return pc.Allocator(unit_size=unit, nr_units=1, kernel=kernel)


def batch_once(kernel: str, size: int, align: int, order: np.ndarray) -> tuple[float, float]:
    """Return the seconds of all allocations and of all frees."""
    a = allocator(kernel, len(order), size)
    sizes = np.full(len(order), size)
    begin = time.thread_time_ns()
    batch = a.alloc_many(sizes, align)
    middle = time.thread_time_ns()
    assert batch.ok.all()
    ptrs = np.ascontiguousarray(batch.ptr[order])
    again = time.thread_time_ns()
    a.free_many(ptrs, size)
    end = time.thread_time_ns()
    assert a.stats()["nr_cur_alloc"] == 0
    return (middle - begin) / 1e9, (end - again) / 1e9


def batches(objects: int, repeat: int) -> Iterator[Row]:
    """Measure the published cases through `alloc_many` and `free_many`."""
    for kernel in ENGINES:
        for size, align, order in TABLE:
            n = min(objects, OBJECTS.get((kernel, align), objects))
            chosen = order_of(n, order)
            runs = [batch_once(kernel, size, align, chosen) for _ in range(repeat)]
            best = [min(times) for times in zip(*runs, strict=True)]
            case = f"{size}/{align} {order}"
            yield row("batch", kernel, case, "alloc", best[0] / n * 1e9, "ns")
            yield row("batch", kernel, case, "free", best[1] / n * 1e9, "ns")


def singles(repeat: int) -> Iterator[Row]:
    """Measure one call from Python at a time."""
    n = 100_000
    alloc = free = float("inf")
    for _ in range(repeat):
        a = allocator("6.12")
        ptrs: list[int] = []

        def allocate(call: Callable[[int, int], int] = a.alloc, ptrs: list[int] = ptrs) -> None:
            ptrs.extend([call(64, 64) for _ in range(n)])

        def give_back(call: Callable[[int], None] = a.free, ptrs: list[int] = ptrs) -> None:
            for ptr in ptrs:
                call(ptr)

        alloc, free = min(alloc, seconds(allocate)), min(free, seconds(give_back))
    yield row("single", "6.12", "64/64", "alloc", alloc / n * 1e9, "ns")
    yield row("single", "6.12", "64/64", "free", free / n * 1e9, "ns")
    a = allocator("6.12")
    sizes = np.full(1_000_000, 4)
    many = min(seconds(lambda: allocator("6.12").alloc_many(sizes, 4)) for _ in range(repeat))
    yield row("single", "6.12", "alloc_many of 10^6 at 4 bytes", "time", many * 1e3, "ms")


METADATA = """
import os, sys
import numpy as np
import percpu as pc

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

sizes, kept, n = np.full(100_000, 4), [], 0
pc.Allocator(unit_size=256 << 10, nr_units=1, kernel=sys.argv[1]).alloc_many(sizes, 4)
before = resident()
for _ in range(4):
    # Short batches keep no copy of the allocator.
    kept.append(pc.Allocator(unit_size=256 << 10, nr_units=1, kernel=sys.argv[1]))
    for _ in range(10):
        kept[-1].alloc_many(sizes, 4)
        n += len(sizes)
print((resident() - before) / n)
"""


def copy_to_new(data: bytes) -> None:
    """Copy bytes to pages that the system has yet to find: what a restored allocator needs at least."""
    with mmap.mmap(-1, len(data)) as new:
        new[:] = data


def memory(repeat: int) -> Iterator[Row]:
    """Measure metadata, in a process of its own, and the bandwidth of snapshots."""
    for kernel in ("4.13", "6.12"):
        value = float(output(sys.executable, "-c", METADATA, kernel))
        yield row("memory", kernel, "10^6 live objects of 4 bytes", "metadata", value, "bytes/object")
    for kernel in ("4.13", "6.12"):
        a = allocator(kernel)
        a.alloc_many(np.full(4_000_000, 16), 16)
        data = a.snapshot()
        # The first calls find the memory cold.
        taken = min(seconds(a.snapshot) for _ in range(repeat + 4))
        restored = min(seconds(lambda data=data: pc.Allocator.restore(data)) for _ in range(repeat + 4))
        raw = np.frombuffer(data, dtype=np.uint8)
        copied = min(seconds(raw.copy) for _ in range(repeat + 4))
        fresh = min(seconds(lambda data=data: copy_to_new(data)) for _ in range(repeat + 4))
        copies = (("copying as many bytes", copied), ("copying them to new memory", fresh))
        for metric, took in (("snapshot", taken), ("restore", restored), *copies):
            yield row("memory", kernel, f"snapshot of {len(data)} bytes", metric, len(data) / took / 1e9, "GB/s")


def recorded(repeat: int) -> Iterator[Row]:
    """Measure the prediction of the packaged recordings."""
    from percpu._demo import _Recording

    for name in ("boot", "workload"):
        recording = _Recording(name)
        took = min(
            seconds(lambda recording=recording: pc.replay(recording.trace, recording.start.copy()))
            for _ in range(repeat)
        )
        yield row("replay", "predict", name, "time", took / len(recording.trace) * 1e9, "ns/event")


def binary(*sections: str) -> Iterator[Row]:
    """Run the sections of ``benches/cases``."""
    command = ["cargo", "bench", "--quiet", "--bench", "cases", "--features", "testing", "--", "time", *sections]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE.parent)
    yield from csv.DictReader(done.stdout.splitlines())


def output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def cpu_model() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--objects", type=int, default=1_000_000, help="objects of a batch (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="runs, of which the best counts (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where records go (default: %(default)s)")
    parser.add_argument("--no-binary", action="store_true", help="only what goes through Python")
    arguments = parser.parse_args()
    about = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": output("git", "describe", "--always", "--dirty"),
        "cpu": cpu_model(),
        "rustc": output("rustc", "--version"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "percpu": pc.__version__,
        "objects": arguments.objects,
        "repeat": arguments.repeat,
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }
    print("\n".join(f"{key}: {value}" for key, value in about.items()), flush=True)
    begin = time.monotonic()
    rows: list[Row] = []
    sections = [
        batches(arguments.objects, arguments.repeat),
        singles(arguments.repeat),
        memory(arguments.repeat),
        recorded(arguments.repeat),
        *([] if arguments.no_binary else [binary()]),
    ]
    for section in sections:
        for line in section:
            rows.append(line)
            print(
                f"{line['section']:8}{line['name']:24}{line['case']:32}{line['metric']:24}"
                f"{line['value']:>14} {line['unit']}",
                flush=True,
            )
    about["seconds"] = round(time.monotonic() - begin)
    directory = arguments.out / re.sub(r"[^A-Za-z0-9]+", "-", about["cpu"]).strip("-").lower()
    directory.mkdir(parents=True, exist_ok=True)
    stem = directory / str(about["date"])[:10]
    with stem.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    stem.with_suffix(".txt").write_text("".join(f"{key}: {value}\n" for key, value in about.items()))
    print(f"written: {stem}.csv, {stem}.txt ({about['seconds']} s)")
    subprocess.run([sys.executable, str(HERE / "report.py"), str(stem.with_suffix(".csv"))], check=True)


if __name__ == "__main__":
    main()
