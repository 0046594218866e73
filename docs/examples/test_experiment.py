"""A researcher's hypotheses as tests.

Run it with `pytest docs/examples`. The fixtures `engine`, `allocator` and `recorded_trace` come with the package; the
strategies for hypothesis are functions of `percpu.testing`.

The question here: *would blocks of half a page be a better choice than a page?* The author of the bitmap allocator
"tested 2KB blocks and they seemed to perform marginally worse". Worse in what?
"""

from itertools import pairwise

import pytest
from hypothesis import given, settings

import percpu as pc
from percpu.testing import geometries, layouts, operations, run_operations


@pytest.fixture(scope="module")
def blocks(recorded_trace):
    """The recording, on blocks of half a page, one page and two pages."""
    return pc.sweep(recorded_trace, {"block_size": [2048, 4096, 8192]}).to_xarray()


def test_smaller_blocks_need_more_metadata(blocks):
    metadata = blocks.peak_metadata_bytes / blocks.peak_nr_chunks
    # The maps are the same; what halves with every doubling of the block is the number of records.
    saved = -metadata.diff("geometry.block_size").values
    assert saved[0] == pytest.approx(2 * saved[1])
    assert saved[1] > 0


def test_larger_blocks_cost_no_memory(blocks):
    memory = blocks.max_memory_bytes
    assert memory.sel({"geometry.block_size": 8192}) == memory.sel({"geometry.block_size": 4096})


# Every engine in turn; verify() runs in the end.
@pytest.mark.percpu(unit_size=32 << 10, nr_units=2)
def test_what_was_freed_can_be_had_again(allocator):
    batch = allocator.alloc_many([64] * 512)
    assert batch.ok.all()
    allocator.free_many(batch.ptr, 64)
    again = allocator.alloc_many([64] * 512)
    assert sorted(again.unit_off_bytes) == sorted(batch.unit_off_bytes)


# Engines by choice.
@pytest.mark.parametrize("engine", ["linux-4.14", "linux-5.14"], indirect=True)
@settings(max_examples=25, deadline=None)
@given(ops=operations(max_size=512, max_length=80))
def test_areas_are_disjoint_and_aligned(engine, ops):
    a = pc.Allocator(unit_size=64 << 10, nr_units=2, engine=engine)
    places = sorted((a.locate(ptr), align) for ptr, _, align in run_operations(a, ops))
    for (area, _), (other, _) in pairwise(places):
        assert area.chunk != other.chunk or area.off_bytes + area.size_bytes <= other.off_bytes
    assert all(area.off_bytes % align == 0 for area, align in places)
    a.verify()


@settings(max_examples=25, deadline=None)
@given(machine=geometries(max_unit_size=256 << 10, free=True), ops=operations(max_size=1024, max_length=60))
def test_invariants_hold_where_no_kernel_has_been(machine, ops):
    a = pc.Allocator(**machine)
    run_operations(a, ops)
    a.verify()


@settings(max_examples=25, deadline=None)
@given(layout=layouts())
def test_every_cpu_has_a_unit_of_its_own(layout):
    units = layout.unit_map[layout.unit_map >= 0]
    assert len(set(units.tolist())) == layout.topology.nr_cpus
    assert layout.unit_size % layout.page_size == 0


class NextFit:
    """An idea to be tried: go on where the last area ended, and round the whole space once."""

    def __init__(self, geometry):
        self.unit, self.areas, self.at, self.chunks = geometry.unit_size, {}, 0, 1

    def alloc(self, size, align):
        for start in (self.at, 0):
            offset = start
            for begin, end in [*sorted(a for a in self.areas.items() if a[1] > start), (self.chunks * self.unit,) * 2]:
                offset = -(-offset // align) * align
                if offset % self.unit + size > self.unit:
                    offset = (offset // self.unit + 1) * self.unit
                if offset + size <= begin:
                    return self._take(offset, size)
                offset = max(offset, end)
        self.chunks += 1
        return self._take((self.chunks - 1) * self.unit, size)

    def _take(self, offset, size):
        self.areas[offset] = self.at = offset + size
        return offset

    def free(self, offset):
        del self.areas[offset]


class FirstFit(NextFit):
    """What it is compared with: always from the beginning."""

    def alloc(self, size, align):
        self.at = 0
        return super().alloc(size, align)


def test_next_fit_spreads_objects_over_more_pages():
    """Going on where the last area ended leaves the gaps behind: more pages for as many bytes."""
    w = pc.workloads.random(600, sizes=[16, 48, 200], aligns=[8], free_percent=48)
    machine = {"unit_size": 64 << 10, "nr_units": 2}
    r = pc.compare(w, ["cpu_alloc-2008", FirstFit, NextFit], geometry=machine, timing=False)
    kernel, first, following = r.peak_handed_out_bytes
    assert kernel == first == following
    assert r.peak_fragmentation[2] > r.peak_fragmentation[1]
