"""Workloads: recipes, steps as columns, runs on every engine."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest

import percpu as pc

from .conftest import ROOT

ENGINES = ["cpu_alloc-2008", "areamap", "rfc-v1", "linux-4.14", "linux-5.2", "linux-5.14"]


def plain(engine="linux-5.14", **options):
    return pc.Allocator(unit_size=256 << 10, nr_units=2, engine=engine, **options)


def head_pinning_layout(kernel):
    topology = pc.Topology.from_nodes([4])
    sizes = {"static_size": 185_496, "reserved_size": 0, "dyn_size": 28_672, "atom_size": 2 << 20}
    return pc.FirstChunkLayout.build(**sizes, topology=topology, kernel=kernel)


@pytest.mark.parametrize(("kernel", "created"), [("4.13", 0), ("4.19", 0), ("5.4", 5), ("6.12", 5)])
def test_head_pinning_makes_the_chunks_that_the_kernel_made(kernel, created):
    r = pc.workloads.run(pc.workloads.head_pinning(), pc.Allocator(head_pinning_layout(kernel)))
    assert r.nr_chunks_created.tolist() == [7, 0, created]
    assert r.nr_alloc[2] == r.nr_free[1]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_agrees_with_a_shadow_of_its_steps(engine):
    w = pc.workloads.random(5000, sizes=[4, 60, 500, 9000], free_percent=40, seed=5)
    live, requested, peak, peak_bytes = {}, 0, 0, 0
    for batch in w.steps(batch=700):
        for step in batch.rows():
            if step["kind"] == "alloc":
                live[step["id"]] = step["size_bytes"]
                requested += step["size_bytes"]
            elif step["kind"] == "free":
                del live[step["id"]]
            peak, peak_bytes = max(peak, len(live)), max(peak_bytes, sum(live.values()))
    a = plain(engine)
    r = pc.workloads.run(w, a, places=True)
    if engine == "cpu_alloc-2008":
        # One area only: requests fail when it is full, and their frees are skipped.
        assert r.nr_failed.sum() == r.nr_free_skipped.sum() > 0
        assert list(r.failures) == ["no_room"]
    else:
        assert not r.nr_failed.any()
        assert not r.failures
        assert r.alloc_bytes.sum() == requested
        assert (r.nr_live_peak.max(), r.peak_live_bytes.max()) == (peak, peak_bytes)
        assert r.nr_live.tolist()[-1] == 0 == a.stats()["nr_cur_alloc"]
    assert r.nr_alloc.sum() + r.nr_failed.sum() == len(r.requests)
    assert (r.requests.missing("chunk") == (r.requests.reason != 0)).all()
    a.verify()


def test_places_are_those_of_single_calls():
    a, b = plain(), plain()
    rows = pc.workloads.run(pc.workloads.objects(500, size=24, align=8), a, places=True).requests
    single = [b.locate(b.alloc(24, align=8)) for _ in range(500)]
    assert rows.off_bytes.tolist() == [area.off_bytes for area in single]
    assert rows.unit_off_bytes.tolist() == [area.unit_off_bytes for area in single]


def test_steps_come_in_batches_of_any_length():
    w = pc.workloads.cgroups(20, live=5, leftover_percent=50)
    whole = next(w.steps())
    parts = list(w.steps(batch=97))
    assert {len(part) for part in parts[:-1]} == {97}
    for name in whole:
        assert np.array_equal(np.concatenate([part[name] for part in parts]), whole[name])
    assert next(w.steps()) == whole
    assert whole.phase.max() == 3
    assert (whole.id.dtype, whole.size_bytes.dtype) == (np.uint32, np.uint64)


def test_equal_workloads_have_equal_fingerprints():
    w = pc.workloads.objects(100, size=8)
    same = pc.workloads.make("objects", size=8, n=100)
    assert (w, hash(w), w.fingerprint) == (same, hash(same), same.fingerprint)
    others = [w.replace(size=16), w.replace(free="reverse"), w.replace(seed=2), pc.workloads.four_at_eight(100)]
    assert len({w.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert w not in others
    for name in pc.workloads.names().workload:
        if name in ("steps", "head_pinning"):
            continue
        given = (
            {} if name in ("size_ladder", "atomic_burst", "vmalloc_test", "cgroups", "netns", "bpf_maps") else {"n": 50}
        )
        one = pc.workloads.make(name, **given)
        for other in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
            assert (other, other.fingerprint, repr(other)) == (one, one.fingerprint, repr(one))


def test_a_run_pickles():
    r = pc.workloads.run(pc.workloads.objects(100), plain(), places=True)
    again = pickle.loads(pickle.dumps(r))
    assert (again, again.requests, again.failures) == (r, r.requests, r.failures)
    assert repr(again) == repr(r) == "WorkloadRun(202 steps, 100 served, 0 failed)"
    assert r[:1].nr_alloc.tolist() == [100]
    assert r.attrs["fingerprint"] == pc.workloads.objects(100).fingerprint
    assert r.row(1)["phase"] == "free"


@pytest.mark.parametrize(
    ("call", "parameter"),
    [
        (lambda w: w.objects(-1), "n"),
        (lambda w: w.objects(1 << 40), "n"),
        (lambda w: w.objects(10, free="backwards"), "free"),
        (lambda w: w.objects(10).replace(bytes=4), "parameter"),
        (lambda w: w.make("object", n=1), "name"),
        (lambda w: w.make("objects"), "n"),
        (lambda w: w.random(10, sizes=[]), "sizes"),
        (lambda w: w.random(10, sizes=[8, -8]), "sizes"),
        (lambda w: w.random(10, free_percent=101), "free_percent"),
        (lambda w: w.cgroups(sizes=[8, 8]), "aligns"),
        (lambda w: w.cgroups(leftover=[16]), "leftover"),
        (lambda w: w.bpf_maps(live=1 << 20), "live"),
        (lambda w: w.mixture(10, weights=[0]), "weights"),
        (lambda w: w.mixture(10, sizes=[8, 16], aligns=8), "aligns"),
        (lambda w: w.steps([0, 0], [0, 0], [8, 8], [8, 8], [0, 0]), "id"),
        (lambda w: w.steps([1], [0], [8], [8], [0]), "id"),
        (lambda w: w.head_pinning(10).steps(), "workload"),
        (lambda w: w.objects(10).steps(batch=0), "batch"),
        (lambda w: w.run(w.objects(1), plain()).requests, "places"),
        (lambda w: w.fit(pc.read_trace(ROOT / "tests/data/captures/perf-script.txt.gz"), n=-1), "n"),
    ],
)
def test_bad_arguments_are_named(call, parameter):
    with pytest.raises(pc.InvalidRequest) as raised:
        call(pc.workloads)
    assert raised.value.parameter == parameter


def test_wrong_types_are_named():
    for call in (
        lambda: pc.workloads.objects(1.5),
        lambda: pc.workloads.objects(10, free=3),
        lambda: pc.workloads.random(10, sizes=[1.5]),
        lambda: pc.workloads.run("objects", plain()),
        lambda: pc.workloads.run(pc.workloads.objects(1), None),
        lambda: pc.workloads.fit([1]),
        pc.workloads.Workload,
        pc.workloads.WorkloadRun,
    ):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("run", ["cg-own-2+2", "fork-612-4cpu", "netns-612-3+1"])
def test_a_fit_has_the_mix_of_its_recording(run):
    trace = pc.read_trace(ROOT / "tests" / "data" / "recordings" / run / "trace.txt.gz")
    w = pc.workloads.fit(trace)
    kinds = np.array(pc._core.EVENT_KINDS)[trace.kind]
    allocs = kinds == "alloc"
    pairs, counts = np.unique(
        np.stack([trace.size_bytes[allocs], trace.align_bytes[allocs]]), axis=1, return_counts=True
    )
    recorded = {(int(s), int(a)): int(c) for (s, a), c in zip(pairs.T, counts, strict=True)}
    p = w.parameters
    fitted = {}
    for size, align, weight in zip(p["sizes"], p["aligns"], p["weights"], strict=True):
        fitted[int(size), int(align)] = fitted.get((int(size), int(align)), 0) + int(weight)
    assert fitted == recorded
    assert p["n"] == sum(recorded.values())
    # As many bytes live on average as in the recording, of what it shows being allocated.
    places = list(zip(trace.base_addr.tolist(), trace.off_bytes.tolist(), strict=True))
    live, sum_live, now = {}, 0, 0
    for index in np.flatnonzero(allocs | (kinds == "free")):
        if allocs[index]:
            live[places[index]] = int(trace.size_bytes[index])
            now += live[places[index]]
            sum_live += now
        else:
            now -= live.pop(places[index], 0)
    mean = sum_live / allocs.sum()
    made = sum_made = 0
    live, now = {}, 0
    for batch in w.steps():
        for kind, phase, number, size in zip(
            batch.kind.tolist(), batch.phase.tolist(), batch.id.tolist(), batch.size_bytes.tolist(), strict=True
        ):
            if phase == 0 and kind == 0:
                live[number] = size
                now += size
                made += 1
                sum_made += now
            elif phase == 0 and kind == 1:
                now -= live.pop(number)
    assert 0.6 < sum_made / made / mean < 1.7


def test_a_trace_without_requests_has_no_fit():
    trace = pc.read_trace(ROOT / "tests/data/captures/perf-script.txt.gz")
    with pytest.raises(pc.TraceError):
        pc.workloads.fit(trace[:0])


def test_ctrl_c_stops_a_run_and_leaves_the_allocator_as_it_was():
    a = plain("areamap")
    a.alloc(64)
    before = a.snapshot()
    w = pc.workloads.four_at_eight(2_000_000)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            pc.workloads.run(w, a)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, old)
    assert a.snapshot() == before


def test_the_interpreter_is_free_during_a_run():
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.wait(0.001):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    pc.workloads.run(pc.workloads.four_at_eight(100_000), plain())
    stop.set()
    thread.join()
    assert len(ticks) > 3


def test_cpu_alloc_counts_its_work():
    r = pc.workloads.run(pc.workloads.objects(1000, size=8), plain("cpu_alloc-2008"))
    assert r.cost_words_read[0] >= 1000


@pytest.mark.parametrize("run", ["cg-own-2+2", "boot-up"])
def test_a_recorded_workload_is_a_rerun(run):
    trace = pc.read_trace(ROOT / "tests" / "data" / "recordings" / run / "trace.txt.gz")
    a, b = plain("linux-5.2"), plain("linux-5.2")
    rerun = pc.replay(trace, a, mode="rerun")
    ours = pc.workloads.run(pc.workloads.recorded(trace), b, places=True).requests
    assert np.array_equal(ours.chunk, rerun.chunk)
    assert np.array_equal(ours.unit_off_bytes, rerun.unit_off_bytes)
    assert a.stats() == b.stats()


def test_requests_and_frees_are_told_apart():
    w = pc.workloads.random(2000)
    parts = pc.workloads.run(w, plain("cpu_alloc-2008"), split=True)
    whole = pc.workloads.run(w, plain("cpu_alloc-2008"))
    assert parts.cost_words_read.tolist() == whole.cost_words_read.tolist()
    assert 0 < parts.alloc_cost_words_read[0] < parts.cost_words_read[0]
    assert parts.alloc_time_ns[0] <= parts.time_ns[0]
    assert parts.alloc_cost_words_read[1] == 0
    assert "alloc_time_ns" not in list(whole)


def test_a_namespace_is_made_and_removed_as_in_the_recording():
    trace = pc.read_trace(ROOT / "tests" / "data" / "recordings" / "netns-own0-4cpu" / "trace.txt.gz")
    rows = next(pc.workloads.recorded(trace).steps())
    p = pc.workloads.netns().parameters
    made = np.flatnonzero(rows.kind == 0)[:20]
    assert rows.size_bytes[made].tolist() == p["sizes"].tolist()
    assert rows.align_bytes[made].tolist() == p["aligns"].tolist()
    # Each number's first free is that of the first namespace's object.
    freed = [number for number in rows.id[rows.kind == 1].tolist() if number < 20]
    assert list(dict.fromkeys(freed)) == p["order"].tolist()
