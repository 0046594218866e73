"""Work counters from Python. What they count is tested in Rust; here: names, totals, rows, errors."""

from __future__ import annotations

import copy
from importlib.resources import files

import numpy as np
import pytest

import percpu as pc


def allocator(engine: str = "areamap", **more: object) -> pc.Allocator:
    return pc.Allocator(unit_size=64 << 10, nr_units=3, engine=engine, **more)


def test_counters_are_a_table() -> None:
    table = pc.counters()
    assert table.keys() == ["name", "unit", "text", "full_only"]
    assert len(set(table.name.tolist())) == len(table) == 15
    assert table[table.full_only].name.tolist() == ["chunks_rejected_with_fit", "chunks_unseen_with_fit", "cache_lines"]


@pytest.mark.parametrize("engine", ["cpu_alloc-2008", "areamap", "rfc-v1", "linux-4.14", "linux-5.2", "linux-5.14"])
def test_rows_add_up_to_the_totals(engine: str) -> None:
    a = allocator(engine)
    sizes = np.arange(4, 404, 4)
    batch = a.alloc_many(sizes, 8, costs=True)
    assert batch.ok.all()
    assert batch.costs is not None
    freed = a.free_many(batch.ptr[::-1], sizes[::-1], costs=True)
    assert freed is not None
    assert batch.costs.keys() == freed.keys() == pc.counters().name.tolist()
    assert len(batch.costs) == len(freed) == len(sizes)
    totals = a.costs()
    for name in batch.costs:
        both = int(batch.costs[name].sum() + freed[name].sum())
        assert totals[name] in (both, None)
    assert batch.costs["cache_lines"].dtype == np.uint64
    assert (batch.costs["chunks_visited"] >= 1).all()


@pytest.mark.parametrize("engine", ["areamap", "linux-4.14", "linux-5.14"])
def test_a_batch_with_costs_places_as_one_without(engine: str) -> None:
    sizes = np.random.default_rng(3).integers(1, 3000, 400)
    with_costs, without = allocator(engine), allocator(engine)
    first, second = with_costs.alloc_many(sizes, 16, costs=True), without.alloc_many(sizes, 16)
    np.testing.assert_array_equal(first.ptr, second.ptr)
    assert second.costs is None
    assert with_costs.costs() == without.costs()


@pytest.mark.parametrize("kernel", ["4.19", "5.4", "6.12"])
@pytest.mark.parametrize(("size", "align"), [(4, 4), (4, 8), (24, 8), (24, 32), (64, 64), (1024, 1024)])
def test_runs_count_what_single_requests_count(kernel: str, size: int, align: int) -> None:
    batch, single = (pc.Allocator(unit_size=64 << 10, nr_units=3, kernel=kernel) for _ in range(2))
    ptrs = batch.alloc_many(np.full(3000, size), align).ptr
    assert [single.alloc(size, align) for _ in ptrs] == ptrs.tolist()
    assert batch.costs() == single.costs()
    batch.free_many(ptrs[::2])
    for ptr in ptrs[::2].tolist():
        single.free(ptr)
    assert batch.costs() == single.costs()


def test_full_counters_are_there_only_under_full_counting() -> None:
    a = allocator()
    a.alloc(8)
    assert a.counting == "totals"
    assert a.costs()["cache_lines"] is None
    a.counting = "full"
    a.alloc(8)
    full = a.costs()["cache_lines"]
    assert isinstance(full, int)
    assert full > 0
    a.counting = "off"
    before = a.costs()
    a.alloc(8)
    assert a.costs() == before


def test_costs_are_no_state() -> None:
    a = allocator()
    a.alloc_many(np.full(100, 8))
    assert copy.copy(a).costs() == a.costs()
    restored = pc.Allocator.restore(a.snapshot())
    assert set(restored.costs().values()) <= {0, None}
    assert restored.snapshot() == a.snapshot()


def test_mappings_and_cleared_bytes_are_times_the_units() -> None:
    a = allocator()
    a.alloc(4096, 4096)
    costs = a.costs()
    assert costs["page_mappings"] == 3 * costs["pages_populated"]
    assert costs["cleared_bytes"] == 3 * 4096


def test_errors() -> None:
    a = allocator()
    with pytest.raises(pc.InvalidRequest, match="counting='some'"):
        a.counting = "some"
    p = a.alloc(8)
    before = a.costs()
    with pytest.raises(pc.InvalidFree) as caught:
        a.free_many([p, p], costs=True)
    assert caught.value.index == 1
    assert a.costs() == before


@pytest.mark.parametrize("engine", ["areamap", "linux-4.14", "linux-5.14"])
def test_a_rerun_says_what_it_has_cost(engine: str) -> None:
    trace = pc.read_trace(files("percpu") / "data/demo/workload/trace.txt.gz")
    a = pc.Allocator(unit_size=256 << 10, nr_units=2, engine=engine)
    a.alloc(8)
    before = a.costs()["cleared_bytes"]
    result = pc.replay(trace, a, mode="rerun")
    assert result.costs is not None
    after = a.costs()["cleared_bytes"]
    assert before is not None
    assert after is not None
    assert result.costs["cleared_bytes"] == after - before > 0


def test_a_prediction_costs_what_its_requests_cost() -> None:
    folder = files("percpu") / "data/demo/workload"
    trace = pc.read_trace(folder / "trace.txt.gz")
    begin = pc.Allocator.from_state(folder / "state-a.json.gz")
    result = pc.replay(trace, begin)
    nr_alloc = sum(row["kind"] == "alloc" for row in trace.rows())
    assert result.costs is not None
    assert result.costs == begin.costs()
    assert result.costs["chunks_visited"] >= nr_alloc > 0
    assert result.costs["cache_lines"] is None
