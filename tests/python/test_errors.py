"""Wrong calls: the exception, its attributes, and that nothing changed."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import percpu as pc


@pytest.fixture
def used(allocator):
    batch = allocator.alloc_many([64, 300, 8, 4096])
    allocator.free(int(batch.ptr[2]))
    return allocator, [int(p) for p in batch.ptr]


WRONG = {
    "size zero": (pc.InvalidRequest, lambda a, p: a.alloc(0)),
    "size negative": (pc.InvalidRequest, lambda a, p: a.alloc(-4)),
    "size above the limit": (pc.InvalidRequest, lambda a, p: a.alloc(32_769)),
    "size huge": (pc.InvalidRequest, lambda a, p: a.alloc(1 << 64)),
    "size a float": (TypeError, lambda a, p: a.alloc(4.0)),
    "size a bool": (TypeError, lambda a, p: a.alloc(True)),
    "align not a power of two": (pc.InvalidRequest, lambda a, p: a.alloc(8, 12)),
    "align above a page": (pc.InvalidRequest, lambda a, p: a.alloc(8, 8192)),
    "no room for an atomic request": (pc.AllocError, lambda a, p: a.alloc(32_768, atomic=True)),
    "free twice": (pc.InvalidFree, lambda a, p: a.free(p[2])),
    "free inside an area": (pc.InvalidFree, lambda a, p: a.free(p[0] + 4)),
    "free unknown": (pc.InvalidFree, lambda a, p: a.free(12_345)),
    "free negative": (pc.InvalidFree, lambda a, p: a.free(-1)),
    "free a string": (TypeError, lambda a, p: a.free("p")),
    "free_many, last one wrong": (pc.InvalidFree, lambda a, p: a.free_many([p[0], p[1], p[2]])),
    "free_many, one twice": (pc.InvalidFree, lambda a, p: a.free_many([p[0], p[1], p[0]])),
    "free_many of floats": (TypeError, lambda a, p: a.free_many(np.array(p, dtype=float))),
    "free_many of a matrix": (pc.InvalidRequest, lambda a, p: a.free_many(np.zeros((2, 2), dtype=np.uint64))),
    "alloc_many, lengths differ": (pc.InvalidRequest, lambda a, p: a.alloc_many([4, 8, 12], [4, 8])),
    "alloc_many, negative": (pc.InvalidRequest, lambda a, p: a.alloc_many(np.array([4, -8]))),
    "alloc_many of floats": (TypeError, lambda a, p: a.alloc_many([4.5])),
    "locate unknown": (pc.InvalidAddress, lambda a, p: a.locate(p[2])),
    "per_cpu_ptr, no such cpu": (pc.InvalidRequest, lambda a, p: a.per_cpu_ptr(p[0], 2)),
    "per_cpu_ptr, negative cpu": (pc.InvalidRequest, lambda a, p: a.per_cpu_ptr(p[0], -1)),
    "per_cpu_ptr, no address": (pc.InvalidAddress, lambda a, p: a.per_cpu_ptr(-5, 0)),
    "no such chunk": (KeyError, lambda a, p: a.chunks[99]),
    "restore rubbish": (pc.StateError, lambda a, p: pc.Allocator.restore(b"rubbish")),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_call_changes_nothing(used, case):
    a, ptrs = used
    exception, call = WRONG[case]
    before = a.snapshot()
    # A failed request may schedule the worker, as in the kernel; a rejected one may not.
    with pytest.raises(exception) as caught:
        call(a, ptrs)
    if caught.type is not pc.AllocError:
        assert a.snapshot() == before
    a.verify()
    assert a.alloc(8)
    if issubclass(exception, pc.PercpuError):
        again = pickle.loads(pickle.dumps(caught.value))
        assert type(again) is caught.type
        assert str(again) == str(caught.value)
        assert again.__dict__ == caught.value.__dict__


CONSTRUCTOR = {
    "no size": {},
    "no units": {"unit_size": 65536},
    "unit not a multiple of a page": {"unit_size": 65537, "nr_units": 1},
    "unit zero": {"unit_size": 0, "nr_units": 1},
    "no unit": {"unit_size": 65536, "nr_units": 0},
    "block not a power of two": {"unit_size": 65536, "nr_units": 1, "block_size": 3000},
    "block larger than the unit": {"unit_size": 65536, "nr_units": 1, "block_size": 131072},
    "granule not a power of two": {"unit_size": 65536, "nr_units": 1, "min_alloc_size": 3},
    "unknown kernel": {"unit_size": 65536, "nr_units": 1, "kernel": "2.4"},
    "unknown policy": {"unit_size": 65536, "nr_units": 1, "balance": "never"},
    "every zero": {"unit_size": 65536, "nr_units": 1, "every": 0},
    "unknown backend": {"unit_size": 65536, "nr_units": 1, "backend": "disk"},
}


@pytest.mark.parametrize("case", CONSTRUCTOR)
def test_wrong_constructor(case):
    with pytest.raises(pc.InvalidRequest) as caught:
        pc.Allocator(**CONSTRUCTOR[case])
    assert caught.value.parameter
    assert isinstance(caught.value, ValueError)


def test_alloc_error_carries_the_request(allocator):
    with pytest.raises(MemoryError, match="atomic alloc failed, no space left") as caught:
        allocator.alloc(100, 32, atomic=True)
    e = caught.value
    assert (e.reason, e.size, e.align, e.atomic) == ("no_space", 100, 32, True)


def test_free_many_names_the_index(used):
    a, ptrs = used
    with pytest.raises(pc.InvalidFree) as caught:
        a.free_many([ptrs[0], ptrs[1], ptrs[0]])
    assert caught.value.index == 2
    assert caught.value.ptr == ptrs[0]


@pytest.mark.parametrize(
    "error",
    [
        pc.AllocError("x", reason="no_page", size=1, align=2, atomic=True),
        pc.InvalidRequest("x", parameter="size", index=3),
        pc.InvalidFree("x", ptr=5, index=None),
        pc.InvalidAddress("x", address=9),
        pc.LayoutError("x", log=("line",)),
        pc.TraceError("x", line=7, text="seven"),
        pc.StateError("x", path="chunks[3]"),
        pc.StaleChunk("x", chunk=4),
        pc.VerifyError("x", invariant="C1-free-bytes"),
        pc.PercpuError("x", anything=1),
    ],
    ids=lambda e: type(e).__name__,
)
def test_exceptions_pickle_with_their_attributes(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == "x"
    assert again.__dict__ == error.__dict__
    assert isinstance(error, pc.PercpuError)


def test_builtin_bases():
    assert issubclass(pc.AllocError, MemoryError)
    assert issubclass(pc.StaleChunk, LookupError)
    assert issubclass(pc.VerifyError, AssertionError)
    for cls in (pc.InvalidRequest, pc.InvalidFree, pc.InvalidAddress, pc.LayoutError, pc.TraceError, pc.StateError):
        assert issubclass(cls, ValueError)


def test_pointers_beyond_all_addresses():
    a = pc.Allocator(unit_size=65536, nr_units=1)
    for ptr in (-1, 1 << 64, 1 << 80):
        with pytest.raises(pc.InvalidFree, match="not an address"):
            a.free(ptr)
        with pytest.raises(pc.InvalidAddress, match="not an address"):
            a.locate(ptr)
        assert a.find(ptr) is None
