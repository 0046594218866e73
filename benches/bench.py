"""Time of one allocation and one free through `alloc_many` and `free_many`.

A million objects of one size, freed in the order of the published measurements: in order, every other one, in
reverse; and at random. Figures go to `benches/results/<cpu>/<date>.csv` and `.txt`, with commit, machine and versions.
Each figure is the best of several runs: other work on the machine only ever adds.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import platform
import re
import subprocess
import time
from pathlib import Path

import numpy as np

import percpu as pc

CASES = [(4, 4), (16, 16), (64, 64), (256, 256), (1024, 1024), (4, 8)]
KERNELS = ["4.19", "5.4", "6.12"]


def orders(n: int) -> dict[str, np.ndarray]:
    everything = np.arange(n)
    return {
        "in-order": everything,
        "alternate": np.concatenate([everything[::2], everything[1::2]]),
        "reverse": everything[::-1],
        "random": np.random.default_rng(1).permutation(n),
    }


def measure(kernel: str, size: int, align: int, order: np.ndarray) -> tuple[int, int, int]:
    """Nanoseconds of all allocations and of all frees, and the number of chunks between them."""
    a = pc.Allocator(unit_size=256 << 10, nr_units=4, kernel=kernel)
    sizes = np.full(len(order), size, dtype=np.uint64)
    begin = time.perf_counter_ns()
    batch = a.alloc_many(sizes, align)
    middle = time.perf_counter_ns()
    assert batch.ok.all()
    nr_chunks = len(a.chunks)
    ptrs = np.ascontiguousarray(batch.ptr[order])
    again = time.perf_counter_ns()
    a.free_many(ptrs)
    end = time.perf_counter_ns()
    assert a.stats()["nr_cur_alloc"] == 0
    return middle - begin, end - again, nr_chunks


def output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
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
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--kernels", nargs="+", default=KERNELS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
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
    }
    rows = []
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    print(f"{'kernel':8}{'size':>6}{'align':>6}  {'order':10}{'alloc_ns':>9}{'free_ns':>9}{'chunks':>8}")
    for kernel in arguments.kernels:
        for size, align in CASES:
            for name, order in orders(arguments.objects).items():
                runs = [measure(kernel, size, align, order) for _ in range(arguments.repeat)]
                alloc, free = (min(run[i] for run in runs) / arguments.objects for i in (0, 1))
                row = {
                    "kernel": kernel,
                    "size_bytes": size,
                    "align_bytes": align,
                    "order": name,
                    "alloc_ns": round(alloc, 1),
                    "free_ns": round(free, 1),
                    "nr_chunks": runs[0][2],
                }
                rows.append(row)
                print(f"{kernel:8}{size:6}{align:6}  {name:10}{alloc:9.1f}{free:9.1f}{runs[0][2]:8}", flush=True)
    directory = arguments.out / re.sub(r"[^A-Za-z0-9]+", "-", about["cpu"]).strip("-").lower()
    directory.mkdir(parents=True, exist_ok=True)
    stem = directory / about["date"][:10]
    with stem.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    stem.with_suffix(".txt").write_text("".join(f"{key}: {value}\n" for key, value in about.items()))
    print(f"written: {stem}.csv, {stem}.txt")


if __name__ == "__main__":
    main()
