"""Every fault on command: what a request gets, that nothing is lost, and that it works again afterwards."""

from __future__ import annotations

import re

import numpy as np
import pytest

import percpu as pc

from .conftest import LINUX, ROOT

PAGED = [*LINUX, "rfc-v1", "areamap"]


def machine(engine, **more):
    return pc.Allocator(unit_size=64 << 10, nr_units=2, engine=engine, balance="manual", **more)


def live(a):
    """What is in use, chunk by chunk, and the counters of what is live."""
    chunks = {number: a.chunks[number].alloc_map.tobytes() for number in a.chunks}
    used = {number: words for number, words in chunks.items() if any(words)}
    return used, a.stats()["nr_cur_alloc"]


def refused(a, reason, *args, **kwargs):
    before = live(a)
    with pytest.raises(pc.AllocError) as caught:
        a.alloc(*args, **kwargs)
    assert caught.value.reason == reason
    a.verify()
    assert live(a) == before
    return caught.value


def works_again(a, *args):
    a.limit_supply()
    ptr = a.alloc(*args)
    assert a.locate(ptr).size_bytes >= args[0]
    a.verify()
    a.free(ptr)
    a.verify()


@pytest.mark.parametrize("limit", [{"pages": 0}, {"pages": 3}, {"mappings": 0}, {"mappings": 1}], ids=str)
@pytest.mark.parametrize("engine", PAGED)
def test_population_fails(engine, limit):
    a = machine(engine)
    a.alloc(64)
    a.limit_supply(**limit)
    refused(a, "no_page", 8192, 4096)
    works_again(a, 8192, 4096)


@pytest.mark.parametrize("engine", PAGED)
def test_what_was_populated_before_the_failure_stays(engine):
    a = machine(engine)
    a.limit_supply(pages=2)
    a.free(a.alloc(64))
    populated = int(a.chunks[0].populated.sum())
    a.limit_supply(pages=0)
    refused(a, "no_page", 8192, 4096)
    assert int(a.chunks[0].populated.sum()) == populated == 1


@pytest.mark.parametrize("engine", PAGED)
def test_no_chunk_can_be_made(engine):
    a = machine(engine)
    a.limit_supply(chunks=0)
    refused(a, "no_chunk", 8)
    assert len(a.chunks) == 0
    works_again(a, 8)


@pytest.mark.parametrize("kernel", ["4.13", "5.4", "6.12"])
def test_no_address_space(kernel):
    layout = pc.FirstChunkLayout.build(static_size=98_304, dyn_size=28_672, topology=2, kernel=kernel)
    size = 32_768
    full = pc.VmallocSpace(0xFFFF_C900_0000_0000, 0xFFFF_C900_0000_0000 + (4 << 20) - 1)
    a = pc.Allocator(layout, vmalloc=full, balance="manual")
    with pytest.raises(pc.AllocError) as caught:
        for _ in range(1000):
            a.alloc(size)
    assert caught.value.reason == "no_chunk"
    a.verify()
    assert a.stats()["nr_cur_alloc"] > 10
    before = live(a)
    with pytest.raises(pc.AllocError):
        a.alloc(size)
    assert live(a) == before


def test_an_area_map_cannot_grow():
    a = machine("areamap")
    a.alloc(8)
    a.limit_supply(extensions=0)
    with pytest.raises(pc.AllocError) as caught:
        for _ in range(200):
            a.alloc(4, 16)
    assert caught.value.reason == "map_extend"
    a.verify()
    before = a.chunks[0].area_map
    refused(a, "map_extend", 4, 16)
    assert np.array_equal(a.chunks[0].area_map, before)
    # What ran dry goes along.
    refused(pc.Allocator.restore(a.snapshot()), "map_extend", 4, 16)
    works_again(a, 4, 16)


def test_the_worker_cannot_extend_maps_and_goes_on():
    a = machine("areamap")
    a.alloc(8)
    a.limit_supply(extensions=0)
    served = a.alloc_many(np.full(60, 4), 16, atomic=True)
    assert served.ok.any()
    a.balance()
    a.verify()
    a.limit_supply()
    a.balance()
    a.verify()


@pytest.mark.parametrize("limit", [{"pages": 0}, {"mappings": 0}, {"chunks": 0}], ids=str)
@pytest.mark.parametrize("engine", PAGED)
def test_the_worker_stops_where_it_cannot_go_on(engine, limit):
    a = machine(engine)
    a.alloc(64)
    a.limit_supply(**limit)
    before = live(a)
    a.balance()
    a.verify()
    assert live(a) == before


@pytest.mark.parametrize("engine", LINUX)
def test_a_waiter_is_killed(engine):
    a = machine(engine)
    a.alloc(64)
    before = a.snapshot()
    for _ in range(20):
        with pytest.raises(pc.AllocError) as caught:
            a.alloc_killed(8192, 64)
        assert (caught.value.reason, caught.value.size, caught.value.align) == ("killed", 8192, 64)
    # Not even the budget of warnings is touched.
    assert a.snapshot() == before
    with pytest.raises(pc.InvalidRequest):
        a.alloc_killed(0)
    assert a.snapshot() == before


@pytest.mark.parametrize("engine", [*PAGED, "cpu_alloc-2008"])
def test_who_is_not_killed(engine):
    plain, killed = machine(engine), machine(engine)
    for a, alloc in ((plain, plain.alloc), (killed, killed.alloc_killed)):
        a.alloc(64)
        alloc(8, 8, atomic=True)
        if engine not in LINUX:
            alloc(4096)
    ptr = plain.alloc(300, 4)
    assert killed.alloc_killed(300, 4, nofail=True) == ptr
    assert killed.snapshot() == plain.snapshot()


@pytest.mark.parametrize("engine", LINUX)
def test_what_may_not_fail_can_fail_otherwise(engine):
    a = machine(engine)
    a.limit_supply(chunks=0)
    with pytest.raises(pc.AllocError) as caught:
        a.alloc_killed(8, nofail=True)
    assert caught.value.reason == "no_chunk"


@pytest.mark.parametrize("engine", PAGED)
def test_an_atomic_request_finds_no_page(engine):
    a = machine(engine)
    a.alloc(64)
    assert not a.balance_pending or a.balance()
    a.limit_supply(pages=0)
    while a.alloc_many([1024], atomic=True).ok.all():
        pass
    # The posting of 2017 looks at other pages than those of the area, and serves until the chunk is full.
    refused(a, "no_space", 1024, atomic=True)
    assert a.balance_pending


@pytest.mark.parametrize("kernel", ["4.13", "4.19", "5.4", "6.12"])
def test_the_reserved_chunk_is_full(kernel):
    layout = pc.FirstChunkLayout.build(static_size=4096, reserved_size=8192, topology=2, kernel=kernel)
    a = pc.Allocator(layout, balance="manual")
    while a.alloc_many([1024], reserved=True).ok.all():
        pass
    refused(a, "reserved_full", 1024, reserved=True)
    a.alloc(1024)


def test_the_page():
    text = (ROOT / "docs" / "how-to" / "faults.md").read_text()
    for reason in ("no_page", "no_chunk", "map_extend", "no_space", "reserved_full", "killed"):
        assert f"`{reason}`" in text
    blocks = re.findall(r"```python\n(.*?)```\n\n```text title=\"prints\"\n(.*?)```", text, re.DOTALL)
    assert blocks
    for code, prints in blocks:
        lines = []
        exec(
            compile(code, "faults.md", "exec"), {"print": lambda *words, to=lines: to.append(" ".join(map(str, words)))}
        )
        assert lines == prints.splitlines()
