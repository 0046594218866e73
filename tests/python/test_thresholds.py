"""Numbers at which the allocator does something: constants of every kernel, parameters of an experiment."""

from __future__ import annotations

import copy
import pickle

import pytest

import percpu as pc

KERNEL = {"empty_pop_pages_low": 2, "empty_pop_pages_high": 4, "slot_fail_threshold": 3, "reclaim_divisor": 4}


def allocator(kernel: str = "6.12", **thresholds: int) -> pc.Allocator:
    return pc.Allocator(unit_size=128 << 10, nr_units=2, kernel=kernel, thresholds=thresholds)


@pytest.mark.parametrize("kernel", ["4.13", "rfc-v1", "4.19", "5.4", "6.12"])
def test_the_worker_keeps_as_many_pages_ready_as_it_is_told(kernel: str) -> None:
    assert pc.Allocator(unit_size=128 << 10, nr_units=2, kernel=kernel).thresholds == KERNEL
    for high in (2, 4, 9):
        a = allocator(kernel, empty_pop_pages_high=high)
        a.alloc(4096, 4096)
        assert a.thresholds == KERNEL | {"empty_pop_pages_high": high}
        # The posting counts a page that was populated for the request itself as empty.
        assert a.costs()["pages_populated"] == (high if kernel == "rfc-v1" else 1 + high)
        a.verify()
    idle = allocator(kernel, empty_pop_pages_low=0)
    idle.alloc(4096, 4096)
    assert idle.costs()["pages_populated"] == 1, "nothing is ever below 0"


def test_copies_and_snapshots_keep_them() -> None:
    a = allocator(empty_pop_pages_high=7, reclaim_divisor=16)
    a.alloc(8)
    for other in (copy.copy(a), pc.Allocator.restore(a.snapshot()), pickle.loads(pickle.dumps(a))):
        assert other.thresholds == a.thresholds != KERNEL


def test_a_chunk_is_given_back_when_so_much_of_it_is_empty() -> None:
    populated = []
    for divisor in (1, 2, 32):
        a = allocator(reclaim_divisor=divisor)
        ptrs = [a.alloc(4096, 4096) for _ in range(60)]
        for ptr in ptrs[8:60]:
            a.free(ptr)
        populated.append(sum(chunk.nr_populated for chunk in a.chunks.values()))
    assert populated[0] > populated[1] >= populated[2]


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"empty": 3}, pc.InvalidRequest, "name in thresholds='empty'"),
        ({"empty_pop_pages_low": 5}, pc.InvalidRequest, "empty_pop_pages_low=5: must be at most"),
        ({"empty_pop_pages_high": 5000}, pc.InvalidRequest, "empty_pop_pages_high=5000: must be at most 4096"),
        ({"slot_fail_threshold": 40}, pc.InvalidRequest, "slot_fail_threshold=40: must be at most"),
        ({"reclaim_divisor": 0}, pc.InvalidRequest, "reclaim_divisor=0: must be at least 1"),
        ({"reclaim_divisor": -1}, pc.InvalidRequest, "reclaim_divisor=-1"),
        ({"reclaim_divisor": 1.5}, TypeError, "reclaim_divisor"),
        ([1], TypeError, "thresholds must be a mapping"),
    ],
)
def test_bad_thresholds(given: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pc.Allocator(unit_size=128 << 10, nr_units=2, thresholds=given)


def test_the_proposal_of_2008_has_none() -> None:
    with pytest.raises(pc.NotKept):
        _ = pc.Allocator(unit_size=128 << 10, nr_units=2, kernel="2008").thresholds
    with pytest.raises(pc.InvalidRequest, match="has no balance worker"):
        allocator("2008", empty_pop_pages_high=9)


def test_sweeps_and_comparisons_take_them() -> None:
    w = pc.workloads.objects(3000, size=64, free="random")
    g = pc.sweep(w, {"empty_pop_pages_high": [4, 16, 64], "policy.slot_fail_threshold": [0, 3]})
    assert g.dims == ("policy.empty_pop_pages_high", "policy.slot_fail_threshold")
    assert [row["status"] for row in g.rows()] == ["ok"] * 6
    at_kernel = pc.compare(w, kernels=["6.12"], timing=False).row(0)
    row = g[(g["policy.empty_pop_pages_high"] == 4) & (g["policy.slot_fail_threshold"] == 3)].row(0)
    assert row["end_populated_bytes"] == at_kernel["end_populated_bytes"]
    assert row["cost_words_read"] == at_kernel["cost_words_read"]
    more = pc.compare(w, kernels=["6.12"], policy={"empty_pop_pages_high": 64}, timing=False).row(0)
    assert more["end_populated_bytes"] > at_kernel["end_populated_bytes"]
