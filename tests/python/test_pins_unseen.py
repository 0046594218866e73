"""Statistics of the end against what was seen in each chunk: as a plain loop over chunks and rows finds it."""

from __future__ import annotations

import io

import numpy as np
import pytest

import percpu as pc
from percpu.answers import _pinned
from percpu.answers import pins as module

from .conftest import RECORDINGS, ROOT

CHURN = ROOT / "tests" / "data" / "captures" / "record-churn.txt.gz"
COLUMNS = ("unseen_areas", "unseen_bytes")


def tell_by_loops(view, stats, pointers):
    """The rules one after the other: where one row alone is left for a chunk, or one chunk for a row."""
    c, n = view.chunks, len(view.chunks["chunk"])
    areas = [[i for i, own in enumerate(view.areas["chunk"].tolist()) if own == chunk] for chunk in range(n)]
    seen = [len(rows) for rows in areas]
    used = [sum(int(view.areas["size_bytes"][i]) for i in rows) for rows in areas]
    largest = [max((int(view.areas["size_bytes"][i]) for i in rows), default=0) for rows in areas]
    most = [used[i] + int(view.pages["unknown"][view.pages_of(i)].sum()) for i in range(n)]
    own_bytes = stats.table()["used_bytes"].tolist()
    printed = list(stats.chunks.rows())
    shown = pointers and stats.sizes["static_size"] > 0
    with_first = bool((c["kind"] == 1).any()) or not shown
    rows = [
        i for i, row in enumerate(printed) if row["label"] != "reserved" and (with_first or row["label"] != "first")
    ]
    left = list(range(n))

    def fits(chunk, i):
        row, boot, is_first = printed[i], printed[i]["label"] == "first", c["kind"][chunk] == 1
        if boot and not (is_first or (not shown and not c["created"][chunk])):
            return False
        if not boot and (is_first or own_bytes[i] > most[chunk]):
            return False
        if not boot and (row["first_free_bits"] or 0) > c["first_free"][chunk]:
            return False
        if row["nr_alloc"] < seen[chunk] or own_bytes[i] < used[chunk] or row["cur_max_alloc_bytes"] < largest[chunk]:
            return False
        return (row["nr_alloc"] == seen[chunk]) == (own_bytes[i] == used[chunk])

    def forced():
        for chunk in left:
            fitting = [i for i in rows if fits(chunk, i)]
            if fitting and len({(printed[i]["nr_alloc"], own_bytes[i]) for i in fitting}) == 1:
                return chunk, fitting[0]
        for i in rows if len(rows) == len(left) else []:
            fitting = [chunk for chunk in left if fits(chunk, i)]
            if len(fitting) == 1:
                return fitting[0], i
        return None

    while (pair := forced()) is not None:
        chunk, i = pair
        c["unseen_areas"][chunk] = printed[i]["nr_alloc"] - seen[chunk]
        c["unseen_bytes"][chunk] = own_bytes[i] - used[chunk]
        c["complete"][chunk] |= c["unseen_areas"][chunk] == 0 and c["kind"][chunk] == 2
        left.remove(chunk)
        rows.remove(i)


def both(monkeypatch, *arguments, **more):
    """What was told, found either way."""
    plain = pc.pins(*arguments, **more)
    with monkeypatch.context() as patch:
        patch.setattr(module, "tell_unseen", tell_by_loops)
        loops = pc.pins(*arguments, **more)
    for name in COLUMNS:
        assert plain.missing(name).tolist() == loops.missing(name).tolist()
        assert plain[name].tolist() == loops[name].tolist()
    assert plain.complete.tolist() == loops.complete.tolist()
    return int((~plain.missing("unseen_areas")).sum())


def test_recordings(monkeypatch):
    runs = [run for run in sorted(RECORDINGS.iterdir()) if (run / "percpu_stats-b.txt").exists()]
    assert runs
    told = [both(monkeypatch, run / "trace.txt.gz", stats_end=run / "percpu_stats-b.txt", cpus=4) for run in runs]
    assert any(told)
    for end in "bc":
        both(monkeypatch, CHURN, stats_end=CHURN.with_name(f"record-churn.percpu_stats-{end}.txt"))


def made(rng, nr_areas):
    """A trace in the middle of a life, and the statistics at its end."""
    a = pc.Allocator(unit_size=32 << 10, nr_units=2)
    before = a.alloc_many(rng.choice([16, 64, 64, 200, 4096], nr_areas)).ptr
    gone, freed = np.split(rng.permutation(before), [int(nr_areas * rng.random())])
    a.free_many(gone)
    freed = freed[: int(len(freed) * rng.random())]
    lines = []
    for kind, pointers in (("free", freed), ("alloc", None)):
        if pointers is None:
            pointers = a.alloc_many(rng.choice([16, 48, 2000], int(nr_areas * rng.random()) + 1)).ptr
        for ptr in pointers.tolist():
            area = a.locate(ptr)
            size = f" reserved=0 is_atomic=0 size={area.size_bytes} align=4" if kind == "alloc" else ""
            place = f"base_addr={a.chunks[area.chunk].base_addr:016x} off={area.off_bytes} ptr={ptr:016x}"
            lines.append(f"a-1 [000] d..2. {len(lines) / 1e6:.6f}: percpu_{kind}_percpu:{size} {place}\n")
        if kind == "free":
            a.free_many(freed)
    return pc.read_trace(io.BytesIO("".join(lines).encode())), a.stats_text()


@pytest.mark.parametrize("nr_areas", [30, 200])
def test_made_up_traces(monkeypatch, nr_areas):
    rng = np.random.default_rng(nr_areas)
    told = []
    for _ in range(40):
        trace, stats = made(rng, nr_areas)
        told.append(both(monkeypatch, trace, stats_end=stats))
    assert sum(told) > 20


def test_too_much_to_compare_is_not_told(monkeypatch):
    run = RECORDINGS / "cg-own-2+2"
    arguments = {"stats_end": run / "percpu_stats-b.txt", "cpus": 4}
    assert not pc.pins(run / "trace.txt.gz", **arguments).missing("unseen_areas").any()
    monkeypatch.setattr(_pinned, "_MAX_PAIRS", 1)
    assert pc.pins(run / "trace.txt.gz", **arguments).missing("unseen_areas").any()
