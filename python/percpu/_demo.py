"""The demo: the packaged recording of a real kernel, replayed, and two pictures."""

from __future__ import annotations

import json
import time
from importlib.resources import as_file, files
from pathlib import Path

import percpu


def demo(out: Path) -> int:
    """Replay the packaged recording; return 0 if every placement and the end state agree."""
    recording = files("percpu") / "data" / "demo"
    with as_file(recording) as directory:
        meta = json.loads((directory / "meta.json").read_text())
        trace = percpu.read_trace(next(directory.glob("trace*.gz")))
        allocator = percpu.Allocator.from_state(directory / "state-a.json.gz")
        end = percpu.Allocator.from_state(directory / "state-b.json.gz")
    print(f"recording    {meta['run']}: {meta['description']}, Linux {meta['kernel']}, {len(trace):,} events")

    begin = time.perf_counter()
    result = percpu.replay(trace, allocator)
    seconds = time.perf_counter() - begin
    s = result.summary
    print(f"start state  {len(end.chunks)} chunks at the end, {end.unit_size >> 10} KiB units on {end.nr_units} CPUs")
    print(f"replayed     {s['nr_alloc']:,} allocations and {s['nr_free']:,} frees in {seconds * 1e3:.0f} ms")
    print(f"predicted    {result.nr_predicted:,} of {len(result):,} placements; {result.nr_diverged} diverged")
    differences = allocator.differences(end)
    what = "maps, hints, list order, counters"
    print(f"end state    {'equal, to the bit' if not differences else f'{len(differences)} differences'} ({what})")
    allocator.verify()

    out.mkdir(parents=True, exist_ok=True)
    try:
        import matplotlib as mpl
    except ImportError:
        print("pictures     none: pip install 'percpu[analysis]'")
    else:
        mpl.use("Agg")
        busiest = max(allocator.chunks.values(), key=lambda chunk: chunk.nr_alloc)
        busiest.plot().figure.savefig(out / "chunk.png", dpi=120)
        result.plot().figure.savefig(out / "timeline.png", dpi=120)
        print(f"pictures     {out / 'chunk.png'}, {out / 'timeline.png'}")
    return 0 if not differences and not result.nr_diverged else 1
