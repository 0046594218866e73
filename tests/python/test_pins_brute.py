"""`pins` against brute force: every subset of the areas of small states, freed on a copy, with the worker run."""

from __future__ import annotations

import random
from itertools import combinations, permutations

import numpy as np
import pytest

import percpu as pc
from percpu.answers._freeing import PageCosts, fewest_for_pages
from percpu.answers._pinned import settled

ENGINES = ["areamap", "rfc-v1", "linux-4.14", "linux-5.2", "linux-5.14"]
SEEDS = range(80)


def small_state(seed, kernel):
    """An allocator with a few areas in a few chunks of 4 to 8 pages, after a random life; the worker is at rest."""
    rng = random.Random(seed)
    policy = rng.choice(["eager", "manual"])
    a = pc.Allocator(unit_size=rng.choice([4, 4, 5, 6, 8]) << 12, nr_units=2, kernel=kernel, balance=policy)
    ptrs: list[int] = []
    most = rng.randint(4, 8)
    for _ in range(rng.randint(10, 60)):
        if ptrs and (len(ptrs) >= 16 or rng.random() < 0.4):
            a.free(ptrs.pop(rng.randrange(len(ptrs))))
        else:
            try:
                size = rng.choice([16, 200, 2000, 4000, 4096, 5000, 9000])
                ptrs.append(a.alloc(size, rng.choice([4, 64]), atomic=rng.random() < 0.1))
            except pc.AllocError:
                pass
        if rng.random() < 0.2:
            a.balance()
    rng.shuffle(ptrs)
    while len(ptrs) > most:
        a.free(ptrs.pop())
    return settled(a), ptrs


def without(allocator, ptrs):
    copy = allocator.copy()
    copy.free_many(np.array(ptrs, dtype=np.uint64))
    return settled(copy)


def pointers(allocator, ptrs, freeing):
    """The pointers of the areas of an answer."""
    places = {(allocator.locate(p).chunk, allocator.locate(p).off_bytes): p for p in ptrs}
    return [places[place] for place in zip(freeing.chunk.tolist(), freeing.off_bytes.tolist(), strict=True)]


def taken_pages(before, after):
    """Pages that had memory before and have none after."""
    total = 0
    for number, chunk in before.chunks.items():
        left = after.chunks[number].populated if number in after.chunks else np.zeros(chunk.nr_pages, dtype=bool)
        total += int((chunk.populated & ~left).sum())
    return total


@pytest.mark.parametrize("kernel", ENGINES)
def test_the_smallest_set_that_releases_chunks_is_minimal(kernel):
    answers = set()
    for seed in SEEDS:
        a, ptrs = small_state(seed, kernel)
        p = pc.pins(a)
        for wanted in (1, 2):
            least = None
            for n in range(len(ptrs) + 1):
                if any(len(without(a, s).chunks) <= len(a.chunks) - wanted for s in combinations(ptrs, n)):
                    least = n
                    break
            answers.add(least)
            if least is None:
                with pytest.raises(pc.InvalidRequest, match=f"chunks={wanted}: at most"):
                    p.smallest(wanted)
                continue
            found = p.smallest(wanted)
            assert len(found) == found.attrs["nr_areas"] == least, seed
            after = without(a, pointers(a, ptrs, found))
            assert len(a.chunks) - len(after.chunks) == found.attrs["nr_chunks"] == wanted
            assert taken_pages(a, after) >= found.attrs["nr_pages"]
    assert {None, 1, 2, 3} <= answers


@pytest.mark.parametrize("kernel", ENGINES)
def test_the_cheapest_way_to_memory_by_whole_chunks(kernel):
    tried = 0
    for seed in SEEDS:
        a, ptrs = small_state(seed, kernel)
        p = pc.pins(a)
        page = 2 * a.page_size
        free = [c.nr_populated for c in a.chunks.values() if c.nr_alloc == 0]
        used = {n: c.nr_populated for n, c in a.chunks.items() if c.nr_alloc}
        for pages in (1, 3, 6):
            sums = []
            for n in range(1, len(used) + 1):
                for some in combinations(used, n):
                    held = [used[number] for number in some] + free
                    if sum(held) - max(held) >= pages:
                        sums.append(sum(a.chunks[number].nr_alloc for number in some))
            if not sums:
                with pytest.raises(pc.InvalidRequest, match="are certain"):
                    p.cheapest(pages * page)
                continue
            found = p.cheapest(pages * page)
            assert len(found) == min(sums)
            assert found.attrs["returned_bytes"] >= pages * page
            assert taken_pages(a, without(a, pointers(a, ptrs, found))) >= found.attrs["nr_pages"]
            tried += 1
    assert tried > 50


def test_the_fewest_areas_until_the_worker_takes_pages():
    """All orders of all subsets of the areas of each chunk, the worker right behind each free that schedules it."""
    verdicts = set()
    for seed in range(250):
        a, ptrs = small_state(seed, "linux-5.14")
        for row in pc.pins(a).rows():
            number = row["chunk"]
            own = [ptr for ptr in ptrs if a.locate(ptr).chunk == number]
            if len(own) > 4:
                continue
            before = a.chunks[number].populated
            least, most = None, 0
            for n in range(1, len(own) + 1):
                for order in permutations(own, n):
                    copy = a.copy()
                    for ptr in order:
                        copy.free(ptr)
                        if copy.balance_pending:
                            copy.balance()
                    if number not in copy.chunks or (before & ~copy.chunks[number].populated).any():
                        pages = before.sum() - (copy.chunks[number].nr_populated if number in copy.chunks else 0)
                        least, most = n, max(most, int(pages))
                if least:
                    break
            assert row["depopulate_areas"] == least, (seed, row)
            if least is not None:
                assert row["depopulate_pages"] <= most
            verdicts.add(row["verdict"])
    assert verdicts == {"kept", "next_free", "few_elsewhere", "too_few_empty", "at_once", "last_area"}


@pytest.mark.parametrize("kernel", ["linux-4.14", "linux-5.14"])
def test_the_fewest_areas_on_pages(kernel):
    """Every subset of all areas: how many pages it leaves without any."""
    for seed in SEEDS:
        a, ptrs = small_state(seed, kernel)
        p = pc.pins(a)
        pages = {}
        for ptr in ptrs:
            area = a.locate(ptr)
            first, last = area.off_bytes // 4096, (area.off_bytes + area.size_bytes - 1) // 4096
            pages[ptr] = {(area.chunk, page) for page in range(first, last + 1)}
        busy = set().union(*pages.values())
        least = {}
        for n in range(1, len(ptrs) + 1):
            for some in combinations(ptrs, n):
                left = set().union(*(pages[ptr] for ptr in ptrs if ptr not in some))
                for gained in range(1, len(busy - left) + 1):
                    least.setdefault(gained, n)
        for gained, n in least.items():
            found = p.emptying(gained)
            assert len(found) == n
            left = set().union(*(pages[ptr] for ptr in ptrs if ptr not in pointers(a, ptrs, found)))
            assert len(busy - left) >= gained
        with pytest.raises(pc.InvalidRequest, match=f"at most {len(busy)} can become empty"):
            p.emptying(len(busy) + 1)


def test_page_costs_with_pages_that_cannot_become_empty():
    rng = random.Random(5)
    for _ in range(400):
        n, most = rng.randint(1, 6), rng.choice([None, 0, 1, 2, 5])
        spans, at = [], 0
        while True:
            at += rng.choice([0, 0, 1, 2, 3])
            size = rng.choice([1, 1, 2, 3, 5, 9])
            if at + size > 4 * n or len(spans) == 8:
                break
            spans.append((at // 4, (at + size - 1) // 4))
            at += size
        populated = np.array([rng.random() < 0.85 for _ in range(n)])
        blocked = np.array([rng.random() < 0.15 for _ in range(n)])
        first, last = (np.array([span[side] for span in spans], dtype=int) for side in (0, 1))
        costs = PageCosts(first, last, populated, blocked, most)

        def empty(kept, n=n, populated=populated, blocked=blocked, spans=spans):
            on = {page for i in kept for page in range(spans[i][0], spans[i][1] + 1)}
            return sum(populated[page] and not blocked[page] and page not in on for page in range(n))

        everything = set(range(len(spans)))
        least = {}
        for k in range(len(spans) + 1):
            for some in combinations(range(len(spans)), k):
                for gained in range(empty(everything - set(some)) - empty(everything) + 1):
                    least.setdefault(gained, k)
        least = [least[j] for j in range(len(least)) if most is None or j <= most]
        assert costs.cost.tolist() == least
        for gained, k in enumerate(least):
            found = costs.areas(gained).tolist()
            assert len(found) == len(set(found)) == k
            assert empty(everything - set(found)) - empty(everything) >= gained


def test_bytes_an_area_is_a_wrong_order_for_memory():
    """Chunks of 4, 3 and 3 pages with 5, 4 and 4 areas, and one that stays: 6 pages are cheapest without the best."""
    areas, pages = [5, 4, 4, 0], [4, 3, 3, 8]
    assert pages[0] / areas[0] > pages[1] / areas[1]
    assert sorted(fewest_for_pages(areas, pages, 6)) == [1, 2, 3]
    assert fewest_for_pages(areas, pages, 11) is None
