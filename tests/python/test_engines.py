"""All six engines through the same calls, and where they part."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import percpu as pc

ENGINES = ["cpu_alloc-2008", "areamap", "rfc-v1", "linux-4.14", "linux-5.2", "linux-5.14"]
NEWEST = dict(zip(ENGINES, ["2008", "4.13", "rfc-v1", "4.19", "5.4", "6.12"], strict=True))


def bare(engine, **more):
    return pc.Allocator(unit_size=64 << 10, nr_units=2, engine=engine, **more)


def machine(engine):
    layout = pc.FirstChunkLayout.build(
        static_size=98_304,
        reserved_size=8_192,
        dyn_size=28_672,
        atom_size=2 << 20,
        topology=pc.Topology.from_nodes([2, 2]),
        kernel=engine,
    )
    return pc.Allocator(layout)


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


@pytest.fixture(params=[bare, machine], ids=["bare", "layout"])
def fresh(request, engine):
    return request.param(engine)


def test_an_engine_stands_for_its_newest_proven_release(engine):
    a = bare(engine)
    assert (a.engine, a.kernel) == (engine, NEWEST[engine])
    assert bare(None, kernel=engine).kernel == NEWEST[engine]
    assert bare(engine, kernel=NEWEST[engine]).engine == engine
    assert machine(engine).engine == engine


def test_engine_and_kernel_must_agree(engine):
    other = "6.1" if engine == "linux-5.2" else "5.4"
    with pytest.raises(pc.InvalidRequest, match="does not go with kernel"):
        bare(engine, kernel=other)
    with pytest.raises(pc.InvalidRequest, match="must be one of"):
        bare("6.12")
    layout = pc.FirstChunkLayout.build(static_size=98_304, topology=2, kernel=other, reserved_size=0, dyn_size=28_672)
    with pytest.raises(pc.LayoutError, match="does not go with the layout"):
        pc.Allocator(layout, engine=engine)
    with pytest.raises(pc.LayoutError, match="does not go with the layout"):
        pc.Allocator(layout, kernel=NEWEST[engine])


def test_an_engine_keeps_a_release_that_is_given():
    assert bare("linux-5.14", kernel="6.1").kernel == "6.1"


def test_geometry_that_an_engine_has_not():
    assert bare("areamap").min_alloc_size == 2
    for more in ({"min_alloc_size": 4}, {"block_size": 1024}):
        with pytest.raises(pc.InvalidRequest, match="always"):
            bare("areamap", **more)
    for name in ("rfc-v1", "cpu_alloc-2008"):
        with pytest.raises(pc.InvalidRequest, match="block_size"):
            bare(name, block_size=1024)


def test_requests_and_frees(fresh):
    a = fresh
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 300, 100)
    batch = a.alloc_many(sizes, 8)
    assert batch.ok.all()
    p = a.alloc(40, 8)
    a.verify()
    assert a.stats()["nr_cur_alloc"] == 101
    a.free(p, size=40)
    a.free_many(batch.ptr[::2], sizes[::2])
    a.balance()
    a.verify()
    assert a.stats()["nr_cur_alloc"] == 50
    assert 0 in a.chunks
    assert a.per_cpu_ptr(p, 1) != p


def test_areas(fresh):
    a = fresh
    if a.engine == "cpu_alloc-2008":
        p = a.alloc(40)
        for call in (lambda: a.locate(p), lambda: a.find(a.per_cpu_ptr(p, 0))):
            with pytest.raises(pc.InvalidAddress, match="cannot tell areas apart"):
                call()
        return
    batch = a.alloc_many([40, 100, 8], 8)
    for i, p in enumerate(batch.ptr.tolist()):
        area = a.locate(p)
        assert area.unit_off_bytes == batch.unit_off_bytes[i]
        assert area.off_bytes == batch.off_bytes[i]
        assert a.find(a.per_cpu_ptr(p, 1) + area.size_bytes - 1) == area
    assert (np.diff(batch.unit_off_bytes.astype(np.int64)) == [40, 104]).all()


def test_snapshots_copies_and_pickles(fresh):
    a = fresh
    batch = a.alloc_many(np.arange(1, 120))
    a.free_many(batch.ptr[::3], np.arange(1, 120)[::3])
    others = [copy.copy(a), copy.deepcopy(a), pickle.loads(pickle.dumps(a)), pc.Allocator.restore(a.snapshot())]
    for b in others:
        assert b.snapshot() == a.snapshot()
        assert (b.engine, b.kernel, b.stats(), b.slots) == (a.engine, a.kernel, a.stats(), a.slots)
        b.verify()
        assert b.alloc(24) == copy.copy(a).alloc(24)
    before = a.snapshot()
    others[0].alloc(8)
    assert a.snapshot() == before


def test_damaged_snapshots_are_refused(engine):
    a = bare(engine)
    a.alloc_many(np.arange(1, 60))
    good = a.snapshot()
    for bad in (b"", good[:-1], good[: len(good) // 2], good.replace(b'"kernel"', b'"kernle"')):
        with pytest.raises(pc.StateError):
            pc.Allocator.restore(bad)
    rng = np.random.default_rng(5)
    for _ in range(150):
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
        with pytest.raises(pc.StateError):
            pc.Allocator.restore(bytes(bad))


def test_statistics(fresh):
    a = fresh
    a.alloc(64)
    assert {"nr_alloc", "nr_cur_alloc", "nr_chunks", "backing_pages"} <= set(a.stats())
    if a.engine == "cpu_alloc-2008":
        with pytest.raises(pc.InvalidRequest, match="statistics file"):
            a.stats_text()
    else:
        assert a.stats_text().startswith("Percpu Memory Statistics")


KEPT = {
    "cpu_alloc-2008": set(),
    "areamap": {"bound_map", "area_map"},
    "rfc-v1": {"bound_map", "blocks", "nr_empty_pop_pages"},
    **{name: {"bound_map", "blocks", "hints", "nr_empty_pop_pages"} for name in ENGINES[3:]},
}


def test_a_chunk_shows_what_its_engine_keeps(fresh):
    a = fresh
    a.alloc(100)
    chunk = a.chunks[0]
    assert chunk.alloc_map.dtype == bool
    assert chunk.free_bytes > 0
    assert chunk.nr_alloc == 1
    assert chunk.info["max_alloc_size"] == 100
    assert chunk.populated.any()
    for name in ("bound_map", "blocks", "hints", "area_map", "nr_empty_pop_pages"):
        assert hasattr(chunk, name) == (name in KEPT[a.engine]), name
        if name not in KEPT[a.engine]:
            with pytest.raises(pc.NotKept, match=f"{a.engine} keeps no {name}") as caught:
                getattr(chunk, name)
            assert (caught.value.field, caught.value.engine) == (name, a.engine)
            assert pickle.loads(pickle.dumps(caught.value)).__dict__ == caught.value.__dict__


def test_the_area_map_shows_its_boundaries():
    a = bare("areamap")
    p, _ = a.alloc(10, 2), a.alloc(6, 2)
    a.free(p)
    areas = a.chunks[0].area_map
    assert areas["off_bytes"].tolist() == [0, 10, 16, 64 << 10]
    assert areas["in_use"].tolist() == [False, True, False, True]
    assert areas["off_bytes"].dtype == np.uint32
    with pytest.raises(ValueError, match="read-only"):
        areas["in_use"][0] = True
    info = a.chunks[0].info
    assert (info["contig_hint"], info["first_free"], info["map_alloc"]) == (64 << 10, 0, 128)  # an upper bound


def test_fields_that_one_engine_has():
    a = bare("rfc-v1")
    a.alloc(5000)
    info = a.chunks[0].info
    assert (info["contig_hint"], info["first_free_block"]) == (((64 << 10) - 5000) // 4, 1)
    a = bare("cpu_alloc-2008")
    a.alloc(10)
    info = a.chunks[0].info
    assert (info["nr_units"], info["first_free"], info["cpu_bytes"]) == (16384, 3, 12)
    assert a.chunks[0].alloc_map.shape == (16384,)


def test_sizes_and_the_zero_size_pointer_of_2008():
    a = bare("cpu_alloc-2008")
    zero = a.alloc(0)
    assert zero not in (pc.NULL, a.alloc(8))
    a.free(zero)
    a.free_many([zero, zero], [0, 0])
    p = a.alloc(64)
    with pytest.raises(pc.InvalidFree, match="size is missing"):
        a.free(p)
    a.free(p, size=64)
    with pytest.raises(pc.InvalidFree):
        a.free(p, size=64)
    with pytest.raises(pc.AllocError) as caught:
        a.alloc(1 << 20)
    assert caught.value.reason == "no_room"
    assert a.chunks[0].info["cpu_bytes"] == 8


def test_the_same_requests_on_all_six():
    places = {name: bare(name).alloc_many([6, 6, 20, 64], [2, 2, 4, 64]).unit_off_bytes.tolist() for name in ENGINES}
    assert places.pop("areamap") == [0, 6, 12, 64]  # a granule of 2 bytes
    assert set(map(tuple, places.values())) == {(0, 8, 16, 64)}
    # A free that no hint tells of since 5.2: a new chunk is made.
    part = {}
    for name in ENGINES:
        a = pc.Allocator(unit_size=8192, nr_units=1, engine=name, balance="manual")
        _, p = a.alloc(5120), a.alloc(1024)
        a.free(p, size=1024)
        part[name] = int(a.alloc_many(3072).unit_off_bytes[0])
    assert part == dict.fromkeys(ENGINES[:4], 5120) | dict.fromkeys(ENGINES[4:], 0)


def test_plots(fresh):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fresh.alloc_many([4, 100, 5000])
    fresh.chunks[0].plot()
    plt.close("all")


def trace_of(a, tmp_path):
    lines = ["# tracer: nop\n#\n"]
    line = "    task-1 [000] ..... {t}: percpu_{what}_percpu: "
    made = []
    for n, size in enumerate([48, 6, 300, 64, 12]):
        p = a.alloc(size, 8)
        made.append((p, a.locate(p), a.chunks[0].base_addr))
        _, area, base = made[-1]
        lines.append(
            line.format(t=f"1.{n:06}", what="alloc")
            + f"call_site=f+0x1/0x2 reserved=0 is_atomic=0 size={size} align=8 "
            f"base_addr={base:016x} off={area.off_bytes} ptr={p:016x} bytes_alloc=0 gfp_flags=GFP_KERNEL\n"
        )
    for n, (p, area, base) in enumerate(made[::2]):
        text = f"base_addr={base:016x} off={area.off_bytes} ptr={p:016x}\n"
        lines.append(line.format(t=f"2.{n:06}", what="free") + text)
    lines.append(line.format(t="3.000000", what="free") + "base_addr=ffff000000000000 off=0 ptr=0000000000000001\n")
    path = tmp_path / "trace.txt"
    path.write_text("".join(lines))
    return pc.read_trace(path)


def test_rerun(engine, tmp_path):
    a = machine(engine)
    trace = trace_of(machine("linux-5.14"), tmp_path)
    result = pc.replay(trace, a, mode="rerun", sample_every=1)
    assert isinstance(result, pc.Rerun)
    assert len(result) == 5
    assert result.ok.all()
    assert result.recorded_ok.all()
    summary = result.summary
    assert (summary["nr_alloc"], summary["nr_free"], summary["nr_free_unseen"]) == (5, 3, 1)
    assert summary["nr_comparable"] == 5
    if engine == "linux-5.14":
        assert summary["nr_same_place"] == 5
        assert result.unit_off_bytes.tolist() == result.recorded_unit_off_bytes.tolist()
    assert result.timeline.nr_cur_alloc.tolist() == [1, 2, 3, 4, 5, 4, 3, 2, 2]
    assert pickle.loads(pickle.dumps(result)) == result
    assert "5 served" in repr(result)
    assert a.stats()["nr_cur_alloc"] == 2
    a.verify()


def test_predict_is_for_linux_only(engine, tmp_path):
    trace = trace_of(machine("linux-5.14"), tmp_path)
    a = machine(engine)
    if engine.startswith("linux"):
        assert len(pc.replay(trace, a)) == 5
        return
    before = a.snapshot()
    with pytest.raises(pc.InvalidRequest, match="rerun"):
        pc.replay(trace, a)
    assert a.snapshot() == before


def test_recordings_rerun(engine, recordings):
    path = next(path for path in sorted(recordings[0].iterdir()) if path.name.startswith("trace"))
    trace = pc.read_trace(path)
    a = bare(engine)
    result = pc.replay(trace, a, mode="rerun")
    summary = result.summary
    assert summary["nr_events"] == len(trace)
    assert summary["nr_alloc"] + summary["nr_failed"] == len(result) > 0
    a.verify()
