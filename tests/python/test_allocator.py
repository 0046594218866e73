"""Requests, frees, views."""

from __future__ import annotations

import numpy as np
import pytest

import percpu as pc


def test_first_areas_follow_each_other(any_linux):
    a = any_linux
    p, q = a.alloc(64, align=8), a.alloc(4)
    assert a.locate(p) == pc.Area(chunk=0, off_bytes=0, unit_off_bytes=0, size_bytes=64)
    assert a.locate(q).off_bytes == 64
    assert p == 1 << 30
    assert q - p == 64
    a.verify()


def test_sizes_are_rounded_up_to_the_granule(any_linux):
    p = any_linux.alloc(5, 1)
    assert any_linux.locate(p).size_bytes == 8


def test_free_makes_room_again(any_linux):
    p = any_linux.alloc(128)
    any_linux.alloc(16)
    any_linux.free(p)
    assert any_linux.locate(any_linux.alloc(128)).off_bytes == 0
    any_linux.verify()


def test_null_is_freed_without_effect(allocator):
    before = allocator.snapshot()
    allocator.free(pc.NULL)
    allocator.free_many([0, 0])
    assert allocator.snapshot() == before
    assert pc.NULL == 0


def test_atomic_needs_populated_pages(any_linux):
    with pytest.raises(pc.AllocError) as caught:
        any_linux.alloc(8, atomic=True)
    assert caught.value.reason == "no_space"
    assert caught.value.atomic
    any_linux.alloc(8)
    assert any_linux.alloc(8, atomic=True)


def test_find_and_per_cpu_ptr(allocator):
    p = allocator.alloc(100)
    area = allocator.locate(p)
    assert allocator.find(p) == allocator.find(p + 99) == area
    assert allocator.find(p + 104) is None
    assert allocator.find(0) is None
    assert allocator.find(-1) is None
    address = allocator.per_cpu_ptr(p, cpu=1)
    assert address == p + (64 << 10)
    assert allocator.find(address + 3) == area


def test_batch_equals_single_requests():
    rng = np.random.default_rng(7)
    sizes = rng.integers(1, 3000, 2000)
    aligns = 1 << rng.integers(0, 9, 2000)
    one, many = (pc.Allocator(unit_size=256 << 10, nr_units=2) for _ in range(2))
    ptrs = [one.alloc(int(s), int(al)) for s, al in zip(sizes, aligns, strict=True)]
    batch = many.alloc_many(sizes, aligns)
    assert batch.ok.all()
    assert batch.ptr.dtype == np.uint64
    assert batch.ptr.tolist() == ptrs
    many.free_many(batch.ptr[::2])
    for p in ptrs[::2]:
        one.free(p)
    assert one.snapshot() == many.snapshot()
    many.verify()


def test_batch_reports_failures_as_rows(allocator):
    batch = allocator.alloc_many([8, 0, 40_000, 8], [8, 8, 8, 12])
    assert batch.ok.tolist() == [True, False, False, False]
    assert [pc.AllocBatch.reasons[code] for code in batch.reason] == ["ok", "illegal", "illegal", "illegal"]
    assert batch.row(1)["ptr"] is None
    assert batch.to_pandas()["chunk"].isna().tolist() == [False, True, True, True]


def test_scalars_are_broadcast(allocator):
    assert len(allocator.alloc_many(np.full(5, 16), 16)) == 5
    assert len(allocator.alloc_many(16, [4, 8, 16])) == 3
    assert len(allocator.alloc_many([])) == 0


def test_chunk_views(any_linux):
    a = any_linux
    p = a.alloc(10_000)
    a.alloc(12)
    chunk = a.chunks[0]
    assert list(a.chunks) == [0]
    assert chunk.number == 0
    assert chunk.alloc_map.dtype == bool
    assert chunk.alloc_map.shape == (16384,)
    assert chunk.alloc_map.sum() == 2503
    assert chunk.bound_map.shape == (16385,)
    assert np.flatnonzero(chunk.bound_map).tolist() == [0, 2500, 2503]
    assert chunk.populated.tolist()[:3] == [True] * 3
    assert np.array_equal(np.unpackbits(chunk.alloc_words.view(np.uint8), bitorder="little"), chunk.alloc_map)
    assert chunk.free_bytes == (64 << 10) - 10_012
    assert {"contig_hint", "contig_hint_start", "left_free", "right_free", "first_free"} <= set(
        chunk.blocks.dtype.names
    )
    assert chunk.blocks["contig_hint"][:4].tolist() == [0, 0, 1024 * 3 - 2503, 1024]
    assert chunk.blocks.shape == (16,)
    assert chunk.hints.shape == (1,)
    assert chunk.slot == next(i for i, numbers in enumerate(a.slots) if 0 in numbers)
    with pytest.raises(ValueError, match="read-only"):
        chunk.alloc_map[0] = True
    before = chunk.alloc_map
    a.free(p)
    assert before.sum() == 2503
    assert chunk.alloc_map.sum() == 3


def test_destroyed_chunk_is_stale():
    a = pc.Allocator(unit_size=32 << 10, nr_units=1, balance="manual")
    ptrs = [a.alloc(32 << 10) for _ in range(3)]
    doomed = [a.chunks[number] for number in a.chunks]
    a.free_many(ptrs)
    a.balance()
    gone = [chunk for chunk in doomed if chunk.number not in a.chunks]
    assert gone
    for read in (lambda c: c.alloc_map, lambda c: c.info, lambda c: c.blocks, lambda c: c.slot):
        with pytest.raises(pc.StaleChunk):
            read(gone[0])
    assert "destroyed" in repr(gone[0])
    with pytest.raises(KeyError):
        a.chunks[gone[0].number]


def test_manual_balance():
    a = pc.Allocator(unit_size=32 << 10, nr_units=1, balance="manual")
    a.alloc(4)
    assert a.balance_pending
    assert a.balance()
    assert not a.balance_pending
    assert a.stats()["nr_empty_pop_pages"] >= 4
    a.verify()


def test_every_k_operations():
    a = pc.Allocator(unit_size=32 << 10, nr_units=1, every=3)
    a.alloc(4)
    assert a.balance_pending
    a.alloc(4)
    assert a.balance_pending
    a.alloc(4)
    assert not a.balance_pending


def test_stats_count(any_linux):
    batch = any_linux.alloc_many([4, 8, 12, 300])
    any_linux.free(int(batch.ptr[1]))
    stats = any_linux.stats()
    assert (stats["nr_alloc"], stats["nr_dealloc"], stats["nr_cur_alloc"], stats["nr_max_alloc"]) == (4, 1, 3, 4)
    assert (stats["min_alloc_size"], stats["max_alloc_size"]) == (4, 300)
    assert any_linux.stats_text().startswith("Percpu Memory Statistics")


def test_on_a_layout(layout):
    a = pc.Allocator(layout)
    assert a.kernel == layout.kernel == "6.12"
    assert a.unit_size == layout.unit_size
    first = a.chunks[0]
    assert first.immutable
    assert a.reserved_chunk.is_reserved
    assert a.reserved_chunk.number is None
    p = a.alloc(64, 64)
    assert a.locate(p).chunk == 0
    q = a.alloc(64, 64, reserved=True)
    assert a.locate(q).chunk is None
    assert a.locate(q).unit_off_bytes >= layout.static_size
    offsets = layout.unit_offsets
    assert a.per_cpu_ptr(p, 7) - a.per_cpu_ptr(p, 0) == int(offsets[7]) - int(offsets[0])
    a.verify()


def test_supply_runs_dry(any_linux):
    any_linux.alloc(4)
    any_linux.limit_supply(pages=0)
    with pytest.raises(pc.AllocError) as caught:
        any_linux.alloc_many([30_000])  # a failure in a batch is a row
        any_linux.alloc(30_000)
    assert caught.value.reason == "no_page"
    any_linux.limit_supply()
    any_linux.alloc(30_000)
    any_linux.verify()


@pytest.mark.parametrize("block_size", [256, 1024, 4096, 16384])
def test_free_geometry(block_size):
    a = pc.Allocator(unit_size=64 << 10, nr_units=2, block_size=block_size)
    assert a.chunks == {} or len(a.chunks) == 0
    batch = a.alloc_many(np.arange(1, 400))
    assert batch.ok.all()
    a.free_many(batch.ptr[::3])
    a.verify()
    assert len(a.chunks[0].blocks) == (64 << 10) // block_size


def test_kernels():
    table = pc.kernels()
    assert {"4.13", "4.19", "5.4", "6.1", "6.12"} <= set(table.kernel)
    assert set(table.status) <= {"proven", "recorded", "assumed"}
    assert pc.Allocator(unit_size=32 << 10, nr_units=1).engine == "linux-5.14"
    assert pc.Allocator(unit_size=32 << 10, nr_units=1, kernel="linux-5.2").kernel == "5.4"


def test_assumed_kernel_warns_once():
    with pytest.warns(UserWarning, match=r"5\.15"):
        pc.Allocator(unit_size=32 << 10, nr_units=1, kernel="5.15")
    pc.Allocator(unit_size=32 << 10, nr_units=1, kernel="5.15")


@pytest.mark.parametrize("kernel", ["2008", "4.13", "rfc-v1", "4.19", "5.4", "6.1", "6.12"])
def test_every_engine(kernel):
    a = pc.Allocator(unit_size=64 << 10, nr_units=2, kernel=kernel)
    rng = np.random.default_rng(4)
    sizes = rng.integers(1, 1200, 80)
    batch = a.alloc_many(sizes, 8)
    assert batch.ok.all()
    ends: dict[int, int] = {}
    for row in sorted(range(80), key=lambda i: (batch.chunk[i], batch.off_bytes[i])):
        chunk, off = int(batch.chunk[row]), int(batch.off_bytes[row])
        assert off % 8 == 0
        assert off >= ends.get(chunk, 0)
        ends[chunk] = off + int(sizes[row])
    a.free_many(batch.ptr[::2], sizes[::2])
    a.verify()
    assert a.stats()["nr_cur_alloc"] == 40
    chunk = a.chunks[0]
    in_chunk = batch.chunk[1::2] == 0
    assert chunk.alloc_map.sum() * chunk.min_alloc_size >= sizes[1::2][in_chunk].sum()
    assert hasattr(chunk, "blocks") == (kernel not in ("2008", "4.13"))
    assert hasattr(chunk, "area_map") == (kernel == "4.13")
    assert a.copy().stats() == a.stats()


def test_two_names_of_one_address_are_one_area():
    layout = pc.FirstChunkLayout.build(
        static_size=60_000,
        dyn_size=20 << 10,
        atom_size=4096,
        topology=pc.Topology.from_nodes([2]),
        word_bits=32,
        kernel="6.12",
    )
    a = pc.Allocator(layout)
    p = a.alloc(8)
    with pytest.raises(pc.InvalidFree, match=r"ptrs\[1\].*twice"):
        a.free_many(np.array([p, p + 2**32], dtype=np.uint64))
    a.verify()
    a.free(p)
