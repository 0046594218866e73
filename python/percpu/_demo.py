"""The demo: the packaged recordings of a real kernel, replayed, and two pictures."""

from __future__ import annotations

import json
import time
from importlib.resources import as_file, files
from pathlib import Path

import percpu


class _Recording:
    """A packaged recording."""

    def __init__(self, name: str) -> None:
        with as_file(files("percpu") / "data" / "demo" / name) as directory:
            self.meta = json.loads((directory / "meta.json").read_text())
            self.trace = percpu.read_trace(directory / "trace.txt.gz")
            self.start = percpu.Allocator.from_state(directory / "state-a.json.gz")
            self.end = (directory / "state-b.json.gz").read_bytes()

    def replay(self, title: str) -> tuple[percpu.Replay, bool]:
        """Predict every placement and compare the end; print three lines."""
        allocator = self.start.copy()
        begin = time.perf_counter()
        result = percpu.replay(self.trace, allocator)
        seconds = time.perf_counter() - begin
        s = result.summary
        counts = f"{result.nr_predicted:,} of {len(result):,} requests predicted, {result.nr_diverged} diverged"
        print(f"{title:12} {len(self.trace):,} events: {counts} ({seconds * 1e3:.0f} ms)")
        differences = allocator.differences(self.end)
        verdict = "equal to the bit" if not differences else f"{len(differences)} differences"
        worker = f"{s['nr_background']:,} lines of pages, chunks and the worker predicted, {s['nr_unexplained']} not"
        print(f"{'':12} {worker}")
        print(f"{'':12} end state {verdict}: maps, hints, list order, counters")
        allocator.verify()
        return result, not differences and not result.nr_diverged


def _boot_lines(recording: _Recording) -> bool:
    """Recompute the kernel's boot lines from sizes and CPUs; print one line."""
    meta = recording.meta
    shown = meta["layout"]["pcpu_alloc"]
    layout = percpu.FirstChunkLayout.build(
        static_size=shown["static"],
        reserved_size=shown["reserved"],
        dyn_size=shown["dyn"],
        atom_size=shown["atom"],
        topology=percpu.Topology.from_nodes([len(node) for node in meta["topology"]["nodes"]]),
    )
    lines = [line.split("] ", 1)[1].rstrip() for line in meta["dmesg"]]
    kernel = [line for line in lines if line.startswith(("percpu:", "pcpu-alloc:"))]
    ours = [line.rstrip() for line in layout.boot_log().splitlines()]
    same = kernel == ours
    print(f"{'boot lines':12} {ours[0]}")
    print(f"{'':12} {len(ours)} lines {'' if same else 'not '}as the kernel printed them")
    return same


def demo(out: Path) -> int:
    """Replay the packaged recordings; return 0 if every line, placement and state agrees."""
    boot, workload = _Recording("boot"), _Recording("workload")
    nr_cpus = workload.meta["topology"]["possible"]
    print(f"{'machine':12} Linux {workload.meta['kernel']}, {nr_cpus} CPUs, recorded")
    good = _boot_lines(workload)
    first, equal = boot.replay("boot")
    good &= equal
    second, equal = workload.replay("workload")
    good &= equal

    out.mkdir(parents=True, exist_ok=True)
    try:
        import matplotlib as mpl
    except ImportError:
        pictures = "none, for want of matplotlib: pip install 'percpu[analysis]'"
    else:
        mpl.use("Agg")
        halfway = workload.start.copy()
        percpu.replay(workload.trace[: len(workload.trace) * 4 // 5], halfway)
        busy = max(
            (chunk for chunk in halfway.chunks.values() if not chunk.immutable), key=lambda chunk: chunk.nr_alloc
        )
        busy.plot().figure.savefig(out / "chunk.png", dpi=120)
        second.plot().figure.savefig(out / "timeline.png", dpi=120)
        pictures = f"{out / 'chunk.png'}, {out / 'timeline.png'}"
    predicted, requests = first.nr_predicted + second.nr_predicted, len(first) + len(second)
    diverged = first.nr_diverged + second.nr_diverged
    print(f"demo: {predicted:,} of {requests:,} requests predicted, {diverged} diverged; pictures: {pictures}")
    return 0 if good else 1
