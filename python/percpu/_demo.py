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
        end = (directory / "state-b.json.gz").read_bytes()
        text = (directory / "percpu_stats-b.txt").read_text()
    print(f"recording    {meta['run']}: {meta['description']}, Linux {meta['kernel']}, {len(trace):,} events")

    nr_live = allocator.stats()["nr_cur_alloc"]
    print(f"start state  {nr_live:,} areas in {len(allocator.chunks)} chunk(s), read out of the kernel's memory")
    halfway = allocator.copy()
    begin = time.perf_counter()
    result = percpu.replay(trace, allocator)
    seconds = time.perf_counter() - begin
    s = result.summary
    print(f"replayed     {s['nr_alloc']:,} allocations and {s['nr_free']:,} frees in {seconds * 1e3:.0f} ms")
    print(f"worker       {s['nr_background']:,} events of pages and chunks predicted; {s['nr_unexplained']} not")
    differences = allocator.differences(end)
    verdict = "equal, to the bit" if not differences else f"{len(differences)} differences"
    print(f"end state    {verdict}: maps, hints, list order, counters")
    same_text = allocator.stats_text() == text
    print(f"statistics   the kernel's percpu_stats text {'' if same_text else 'not '}reproduced to the byte")
    allocator.verify()

    out.mkdir(parents=True, exist_ok=True)
    try:
        import matplotlib as mpl
    except ImportError:
        pictures = "none, for want of matplotlib: pip install 'percpu[analysis]'"
    else:
        mpl.use("Agg")
        percpu.replay(trace[: len(trace) // 2], halfway)
        fullest = max(halfway.chunks.values(), key=lambda chunk: chunk.nr_alloc)
        fullest.plot().figure.savefig(out / "chunk.png", dpi=120)
        result.plot().figure.savefig(out / "timeline.png", dpi=120)
        pictures = f"{out / 'chunk.png'}, {out / 'timeline.png'}"
    counts = f"{result.nr_predicted:,} of {len(result):,} placements predicted, {result.nr_diverged} diverged"
    print(f"demo: {counts}; pictures: {pictures}")
    return 0 if same_text and not differences and not result.nr_diverged else 1
