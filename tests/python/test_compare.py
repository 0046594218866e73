"""Comparisons of engines and releases."""

from __future__ import annotations

import copy
import pickle
import signal
import threading
import time

import numpy as np
import pytest

import percpu as pc

ENGINES = list(dict.fromkeys(pc.kernels().engine.tolist()))
OBJECTS = pc.workloads.objects(2000, size=24, free="random")


def without_times(result):
    return {name: result[name] for name in result if not name.endswith("_ns")}


def test_head_pinning_over_releases():
    """Objects on the first page of a chunk hide its free space from 5.2 on."""
    r = pc.compare(pc.workloads.head_pinning(), kernels=["4.13", "4.19", "5.4", "6.12"], timing=False)
    assert r.dims == ("kernel",)
    assert r.kernel.tolist() == ["4.13", "4.19", "5.4", "6.12"]
    last = r.phases.row(-1 + len(r.phases))["phase"]
    created = {row["kernel"]: row["nr_chunks_created"] for row in r.phases.rows() if row["phase"] == last}
    assert created == {"4.13": 0, "4.19": 0, "5.4": 5, "6.12": 5}
    assert r.nr_chunks_created.tolist() == [7, 7, 12, 12]
    assert r.nr_failed.tolist() == [0, 0, 0, 0]


def test_head_pinning_is_explained_by_counts():
    kernels = ["4.13", "4.19", "5.4", "6.12"]
    r = pc.compare(pc.workloads.head_pinning(), kernels=kernels, timing=False, costs="full")
    refill = {row["kernel"]: row for row in r.phases.rows() if row["phase"] == "refill"}
    for kernel, row in refill.items():
        hidden = row["cost_chunks_unseen_with_fit"]
        # Six chunks with room, on lists of full ones, for nearly every request.
        assert (hidden > 5 * row["nr_alloc"]) == (kernel in ("5.4", "6.12")), kernel
        assert (hidden == 0) == (kernel in ("4.13", "4.19")), kernel
    # In fresh chunks every request makes the chunk's hint anew, in old ones the gaps are in order.
    assert refill["6.12"]["cost_blocks_visited"] > 20 * refill["4.19"]["cost_blocks_visited"]


def test_figures_are_those_of_the_run():
    r = pc.compare(OBJECTS, timing=False)
    assert r.engine.tolist() == ENGINES
    for row in r.rows():
        layout = pc.FirstChunkLayout.build(
            static_size=185_496,
            dyn_size=28_672,
            topology=4,
            kernel=pc.Allocator(unit_size=4096 * 16, nr_units=1, engine=row["engine"]).kernel,
        )
        a = pc.Allocator(layout)
        run = pc.workloads.run(OBJECTS, a)
        assert row["nr_alloc"] == run.nr_alloc.sum()
        assert row["nr_failed"] == run.nr_failed.sum()
        assert row["nr_free"] == run.nr_free.sum()
        assert row["nr_chunks_created"] == run.nr_chunks_created.sum()
        assert row["requested_bytes"] == run.alloc_bytes.sum()
        assert row["nr_steps"] == run.attrs["nr_steps"]
        assert row["end_nr_objects"] == row["end_handed_out_bytes"] == 0
        if row["nr_failed"] == 0:
            assert row["peak_nr_objects"] == 2000
            assert row["peak_handed_out_bytes"] == 48_000
        assert row["peak_memory_bytes"] == 4 * row["peak_populated_bytes"] <= row["max_memory_bytes"]
        free = 1 - row["peak_handed_out_bytes"] / row["peak_populated_bytes"]
        assert row["peak_fragmentation"] == pytest.approx(free)


def test_metadata_of_a_bitmap_by_hand():
    r = pc.compare(OBJECTS, ["linux-5.14"], geometry={"unit_size": 64 << 10, "nr_units": 2}, timing=False)
    words = (64 << 10) // 4 // 64
    assert r.peak_metadata_bytes.tolist() == [8 * (words + words + 1) + 16 * 32 + 8]
    assert r.peak_metadata_per_object_bytes[0] == pytest.approx(r.peak_metadata_bytes[0] / 2000)


def test_a_trace_is_what_a_rerun_does(recordings):
    path = next(path for path in recordings if path.name == "cg-up")
    trace = pc.read_trace(path / "trace.txt.gz")
    r = pc.compare(trace, ["areamap", "linux-4.14", "linux-5.14"], timing=False)
    for row in r.rows():
        kernel = next(k for k, e, s in pc._core.kernels()[::-1] if e == row["engine"] and s != "assumed")
        layout = pc.FirstChunkLayout.build(static_size=185_496, dyn_size=28_672, topology=4, kernel=kernel)
        a = pc.Allocator(layout)
        again = pc.replay(trace, a, mode="rerun")
        assert row["nr_alloc"] == again.summary["nr_alloc"]
        assert row["nr_failed"] == again.summary["nr_failed"]
        assert row["end_nr_objects"] == sum(chunk.nr_alloc for chunk in a.chunks.values())
    assert r.attrs["nr_free_unseen"] == again.summary["nr_free_unseen"]


def test_everything_but_times_repeats():
    first, second = (pc.compare(OBJECTS, ["areamap", "linux-5.14"]) for _ in range(2))
    assert (first.alloc_ns > 0).all()
    assert (first.free_ns > 0).all()
    assert first.digest() == second.digest()
    for name, column in without_times(first).items():
        assert np.array_equal(column, second[name], equal_nan=column.dtype.kind == "f"), name
    quiet = pc.compare(OBJECTS, ["areamap", "linux-5.14"], timing=False)
    assert "alloc_ns" not in quiet
    assert "alloc_ns" not in quiet.phases
    assert quiet.digest() == first.digest()
    other = pc.compare(OBJECTS.replace(size=32), ["areamap", "linux-5.14"])
    assert other.digest() != first.digest()


def test_requests_and_machine_can_be_changed():
    plain = {"unit_size": 128 << 10, "nr_units": 8}
    base = pc.compare(OBJECTS, ["linux-5.14"], geometry=plain, timing=False)
    aligned = pc.compare(OBJECTS, ["linux-5.14"], geometry=plain, request={"min_align": 64}, timing=False)
    rounded = pc.compare(OBJECTS, ["linux-5.14"], geometry=plain, request={"request.size_multiple": 64}, timing=False)
    assert base.peak_handed_out_bytes[0] == 48_000
    assert aligned.peak_handed_out_bytes[0] == 48_000
    assert aligned.peak_populated_bytes[0] > 2 * base.peak_populated_bytes[0]
    assert rounded.peak_handed_out_bytes[0] == 128_000
    assert base.peak_memory_bytes[0] == 8 * base.peak_populated_bytes[0]
    layout = pc.FirstChunkLayout.build(static_size=100_000, dyn_size=40_000, topology=pc.Topology.from_nodes([2, 3]))
    on_layout = pc.compare(OBJECTS, kernels=["4.19", "6.12"], geometry=layout, timing=False)
    assert on_layout.peak_memory_bytes[0] == 5 * on_layout.peak_populated_bytes[0]
    lazy = pc.compare(OBJECTS, ["linux-5.14"], policy={"balance": "manual"}, timing=False)
    assert lazy.end_populated_bytes[0] >= lazy.peak_populated_bytes[0]


def test_timeline():
    r = pc.compare(OBJECTS, ["areamap", "linux-5.14"], sample_every=500, timing=False)
    assert r.timeline.engine.tolist() == ["areamap"] * 8 + ["linux-5.14"] * 8
    assert r.timeline.step.tolist() == 2 * [500 * k for k in range(1, 9)]
    assert r.timeline.handed_out_bytes.max() == 24 * 1999
    assert pc.compare(OBJECTS, ["areamap"]).timeline.keys() == ["engine", "step"]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"engines": ["areamap"], "kernels": ["6.12"]}, pc.InvalidRequest, "exclude each other"),
        ({"engines": []}, pc.InvalidRequest, "engines is empty"),
        ({"engines": ["areamap", "areamap"]}, pc.InvalidRequest, "twice"),
        ({"engines": ["linux-9"]}, pc.InvalidRequest, "engine='linux-9'"),
        ({"engines": "areamap"}, TypeError, "must be a sequence"),
        ({"kernels": [6.12]}, TypeError, "must hold names"),
        ({"geometry": {"unit": 3}}, pc.InvalidRequest, "name in geometry='unit'"),
        ({"geometry": {"unit_size": 4096, "dyn_size": 4096}}, pc.InvalidRequest, "exclude each other"),
        ({"geometry": {"block_size": 2048}, "engines": ["areamap"]}, pc.InvalidRequest, "always 4096"),
        ({"geometry": {"unit_size": 100}}, pc.InvalidRequest, "unit_size=100"),
        ({"request": {"align": 3}}, pc.InvalidRequest, "request.align=3"),
        ({"request": {"atomic": 1}}, TypeError, "request.atomic"),
        ({"policy": {"balance": "soon"}}, pc.InvalidRequest, "balance='soon'"),
        ({"costs": "some"}, pc.InvalidRequest, "costs='some'"),
        ({"sample_every": -1}, pc.InvalidRequest, "sample_every=-1"),
    ],
)
def test_bad_arguments(arguments, error, text):
    with pytest.raises(error, match=text):
        pc.compare(OBJECTS, **arguments)


def test_what_is_run_is_checked():
    with pytest.raises(TypeError, match="a Trace or a Workload is needed, not list"):
        pc.compare([1, 2])


def test_results_pickle_and_copy():
    r = pc.compare(OBJECTS, ["areamap", "linux-5.14"], sample_every=1000)
    for other in (pickle.loads(pickle.dumps(r)), copy.deepcopy(r)):
        assert other == r
        assert other.phases == r.phases
        assert other.timeline == r.timeline
        assert other.attrs == r.attrs
    assert len(r[1:]) == 1
    assert r[0]["engine"] == "areamap"


def test_to_xarray_and_pandas():
    r = pc.compare(OBJECTS, ["areamap", "linux-5.14"], timing=False)
    cube = pytest.importorskip("xarray") and r.to_xarray()
    assert cube.sizes == {"engine": 2}
    assert cube.peak_memory_bytes.attrs["units"] == "bytes"
    frame = r.to_pandas()
    assert frame["nr_max_chunks"].tolist() == r.nr_max_chunks.tolist()


@pytest.mark.slow
def test_interrupt_stops_soon():
    started = time.monotonic()
    timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        pc.compare(pc.workloads.objects(50_000_000, size=4), ["linux-5.14"], timing=False)
    assert time.monotonic() - started < 5


def test_engines_are_any_sequence():
    names = ["areamap", "rfc-v1"]
    w = pc.workloads.objects(20, size=24)
    assert pc.compare(w, np.array(names), timing=False) == pc.compare(w, names, timing=False)
    with pytest.raises(TypeError, match="engines must be a sequence, not int"):
        pc.compare(w, 3)
    with pytest.raises(pc.InvalidRequest, match="engines is empty"):
        pc.compare(w, [])
