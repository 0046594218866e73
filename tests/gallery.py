"""Renders every picture on recorded data: one PNG each, and all on one sheet as PNG and as HTML.

    python tests/gallery.py RECORDINGS [--out DIR]

Used by `make gallery`. The sheet is for eyes: what a picture shows is checked in tests/python.
"""

from __future__ import annotations

import argparse
import base64
import html
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import percpu as pc
from percpu import plot
from percpu._svg import page
from percpu.published.studies import mixed_workloads, over_workloads

Picture = Callable[[], Any]
MACHINE = {"unit_size": 256 << 10, "nr_units": 4}


class Recorded:
    """A recording: trace, start and replay."""

    def __init__(self, directory: Path) -> None:
        self.trace = pc.read_trace(directory / "trace.txt.gz")
        self.start = pc.Allocator.from_state(directory / "state-a.json.gz")
        self.replay = pc.replay(self.trace, self.start.copy())


def states(run: Recorded) -> Iterator[tuple[str, Picture]]:
    half = run.replay.at(len(run.trace) // 2)
    numbers = [number for number in half.chunks if not half.chunks[number].immutable]
    busiest = max(numbers, key=lambda number: half.chunks[number].nr_alloc)
    emptiest = min(numbers, key=lambda number: half.chunks[number].nr_populated)
    yield "chunk, boot", half.chunks[0].plot
    yield "chunk, most areas", half.chunks[busiest].plot
    yield "chunk, fewest pages", half.chunks[emptiest].plot
    yield "slots", lambda: plot.plot_slots(half)
    yield "timeline, predicted", run.replay.plot
    yield "timeline, followed", pc.replay(run.trace, mode="follow").plot
    yield "what keeps chunks, trace and state", pc.pins(run.trace, run.start).plot
    yield "what keeps chunks, trace", pc.pins(run.trace).plot
    yield "owners", pc.owners(run.trace).plot
    yield "statistics", lambda: plot.plot_stats(pc.read_percpu_stats(half.stats_text()), cpus=half.nr_units)
    yield "chunks over time, replay", lambda: plot.plot_heatmap(run.replay)
    yield "chunks over time, trace", lambda: plot.plot_heatmap(run.trace)


def small() -> Iterator[tuple[str, Picture]]:
    tiny = pc.Allocator(unit_size=16 << 10, nr_units=2, page_size=1024, block_size=1024)
    batch = tiny.alloc_many(np.random.default_rng(3).integers(4, 600, 60))
    tiny.free_many(batch.ptr[batch.ok][::3])
    yield "chunk, few blocks: brackets", tiny.chunks[0].plot
    large = pc.Allocator(unit_size=4 << 20, nr_units=2)
    batch = large.alloc_many(np.random.default_rng(3).integers(4, 4000, 1500))
    large.free_many(batch.ptr[1::2])
    yield "chunk, many blocks", large.chunks[0].plot
    for engine in ("cpu_alloc-2008", "areamap"):
        old = pc.Allocator(unit_size=64 << 10, nr_units=2, engine=engine)
        old.alloc_many(np.random.default_rng(3).integers(4, 900, 100))
        yield f"chunk, {engine}", old.chunks[0].plot
    many = pc.Allocator(unit_size=32 << 10, nr_units=2)
    batch = many.alloc_many(np.full(2600, 600))
    many.free_many(batch.ptr[:1400:1])
    many.free_many(batch.ptr[1400::7])
    yield "slots, many chunks", lambda: plot.plot_slots(many)
    yield "statistics, many chunks", lambda: plot.plot_stats(pc.read_percpu_stats(many.stats_text()))


def layouts() -> Iterator[tuple[str, Picture]]:
    sizes = {"static_size": 185_496, "reserved_size": 8_192}
    small = pc.FirstChunkLayout.build(**sizes, topology=pc.Topology.from_nodes([3, 5]))
    large = pc.FirstChunkLayout.build(**sizes, topology=pc.Topology.from_nodes([28] * 4))
    yield "layout, 3+5 CPUs", small.plot
    yield "layout, 4 nodes of 28", large.plot
    yield "address space of chunks", lambda: plot.plot_address_space(small)
    space = pc.VmallocSpace()
    bases = [space.alloc(small).base for _ in range(4)]
    space.free(small, bases[1])
    space.occupy(0xFFFFC900_00000000, 0xFFFFC900_00400000)
    yield "vmalloc space", lambda: plot.plot_vmalloc(space)
    waste = pc.layout_sweep(nr_cpus=range(1, 129), nr_nodes=[1, 2, 4, 8], static_size=185_496)
    yield "waste of layouts", lambda: plot.plot_waste(waste)


def experiments() -> Iterator[tuple[str, Picture]]:
    workload = pc.workloads.cgroups(400, live=60)
    compared = pc.compare(workload, timing=False)
    yield "comparison", compared.plot
    yield "work, by engine", lambda: plot.plot_costs(compared)
    one = pc.sweep(workload, {"engine": ["linux-4.14", "linux-5.14"], "request.align": [4, 8, 16, 32, 64]})
    yield "sweep, two engines", one.plot
    powers = [1024, 2048, 4096, 8192, 16384]
    both = pc.sweep(workload, {"block_size": powers, "request.align": [4, 8, 16, 32, 64, 128]})
    yield "sweep, two numbers", lambda: both.plot("peak_metadata_bytes")
    single = pc.Allocator(**MACHINE, engine="areamap")
    sizes = np.random.default_rng(5).integers(4, 400, 20_000)
    batch = single.alloc_many(sizes, costs=True)
    yield (
        "work, over requests",
        lambda: plot.plot_costs(batch, ["chunks_visited", "entries_scanned", "entries_moved", "pages_populated"]),
    )
    yield "work, totals", lambda: plot.plot_costs(single)
    makers = {
        engine: (lambda engine=engine: pc.Allocator(**MACHINE, engine=engine)) for engine in ("areamap", "linux-5.14")
    }
    mixed = over_workloads(mixed_workloads(20_000), makers, "engine")
    yield (
        "bars in groups",
        lambda: plot.plot_bars(mixed, "peak_populated_pages", by="workload", within="engine", log=False),
    )
    yield "published, worst case", plot.plot_published
    yield "published, half full", lambda: plot.plot_published(case="half full")


def main(argv: list[str] | None = None) -> int:
    """Render everything."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/gallery"))
    arguments = parser.parse_args(argv)
    runs = sorted(
        p.parent for p in arguments.recordings.rglob("trace.txt.gz") if (p.parent / "state-a.json.gz").exists()
    )
    if not runs:
        print(f"gallery: no recording below {arguments.recordings}", file=sys.stderr)
        return 1
    # The longest one has the most to show.
    run = Recorded(max(runs, key=lambda directory: (directory / "trace.txt.gz").stat().st_size))
    arguments.out.mkdir(parents=True, exist_ok=True)
    files: list[tuple[str, Path]] = []
    for part in (states(run), small(), layouts(), experiments()):
        for name, draw in part:
            begin = time.perf_counter()
            file = (
                arguments.out
                / f"{len(files) + 1:02}-{name.replace(', ', '-').replace(': ', '-').replace(' ', '-')}.png"
            )
            draw().figure.savefig(file, dpi=100)
            plt.close("all")
            files.append((name, file))
            print(f"{time.perf_counter() - begin:6.2f} s  {file}")
    sheet(files, objects(run), arguments.out)
    print(f"gallery: {len(files)} pictures, {arguments.out / 'sheet.png'}, {arguments.out / 'sheet.html'}")
    return 0


def objects(run: Recorded) -> Iterator[tuple[str, Any]]:
    """What shows itself in a notebook."""
    half = run.replay.at(len(run.trace) // 2)
    layout = pc.FirstChunkLayout.build(static_size=185_496, topology=pc.Topology.from_nodes([3, 5]))
    space = pc.VmallocSpace()
    space.alloc(layout)
    workload = pc.workloads.objects(2000, size=24)
    yield "Allocator", half
    yield "Chunk", half.chunks[max(half.chunks, key=lambda number: half.chunks[number].nr_populated)]
    yield "FirstChunkLayout", layout
    yield "VmallocSpace", space
    yield "Trace", run.trace
    yield "Replay", run.replay
    yield "Follow", pc.replay(run.trace, mode="follow")
    yield "Rerun", pc.replay(run.trace, run.start.copy(), mode="rerun")
    yield "Comparison", pc.compare(workload, timing=False)
    yield "Sweep", pc.sweep(workload, {"block_size": [1024, 2048, 4096], "request.align": [4, 16, 64]})
    yield "PercpuStats", pc.read_percpu_stats(half.stats_text())
    yield "Steps", pc.steps(run.trace, run.start, limit=12)


def sheet(files: list[tuple[str, Path]], shown: Iterator[tuple[str, Any]], out: Path) -> None:
    """Put all pictures on one sheet, on the page also what objects show of themselves."""
    import matplotlib.pyplot as plt

    columns = 3
    rows = -(-len(files) // columns)
    figure, cells = plt.subplots(rows, columns, figsize=(27, 5.4 * rows), layout="constrained")
    for cell in np.ravel(cells):
        cell.axis("off")
    body = []
    for cell, (name, file) in zip(np.ravel(cells), files, strict=False):
        cell.imshow(plt.imread(file), interpolation="lanczos")
        cell.set_title(name, fontsize=16, loc="left")
        data = base64.b64encode(file.read_bytes()).decode()
        body.append(f"<h2>{html.escape(name)}</h2><img style='max-width:100%' src='data:image/png;base64,{data}'>")
    body += [f"<h2>{name}</h2>{thing._repr_html_()}" for name, thing in shown]
    figure.savefig(out / "sheet.png", dpi=80)
    plt.close(figure)
    (out / "sheet.html").write_text(page("Pictures", "".join(body)))


if __name__ == "__main__":
    sys.exit(main())
