"""What an operation did, in words: from the state before and after it, and the rules that led from one to the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from percpu import _core
from percpu._rules import (
    Hint,
    Look,
    Records,
    broken,
    look,
    refreshes_chunk_on_free,
    runs,
    slot_of_size,
    walk,
)
from percpu.plot.slots import slot_name

__all__ = ["Request", "Rule", "of_free", "of_request", "of_worker"]

_LINUX = ("linux-4.14", "linux-5.2", "linux-5.14")
_RESERVED = _core.RESERVED
_SHOWN = 4  # chunks, blocks or runs that are named before the rest is counted


class Rule(NamedTuple):
    """Something that happened, or why it did.

    Attributes
    ----------
    kind : str
        ``round``, ``search``, ``reject``, ``create``, ``start``, ``skip``, ``place``, ``fail``, ``break``, ``keep``,
        ``hint``, ``join``, ``refresh``, ``hidden``, ``pages``, ``move``, ``chunk``, ``worker`` or ``note``.
    text : str
        In words. Offsets and sizes are bytes of one CPU.
    values : dict
        The numbers in it.
    """

    kind: str
    text: str
    values: dict[str, Any]


class Request(NamedTuple):
    """A request, and what came of it."""

    size: int
    align: int
    atomic: bool
    reserved: bool
    reason: int
    chunk: int
    off: int


def _bytes(n: int) -> str:
    return f"{n:,} byte{'' if n == 1 else 's'}"


def _name(chunk: int) -> str:
    return "the reserved chunk" if chunk == _RESERVED else f"chunk {chunk}"


def _chunk(allocator: Any, number: int) -> Any:
    return allocator.reserved_chunk if number == _RESERVED else allocator.chunks.get(number)


def _listed(items: Iterable[str], total: int) -> str:
    shown = list(items)
    more = total - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _slot(allocator: Any, index: int) -> str:
    return f"slot {index} ({slot_name(allocator, index)})"


def _ranges(flags: np.ndarray) -> str:
    """Name pages: page 3, pages 5 to 8."""
    found = runs(flags)
    return _listed(
        (f"page {a}" if b == a + 1 else f"pages {a} to {b - 1}" for a, b in found[:_SHOWN].tolist()), len(found)
    )


# -- requests ----------------------------------------------------------------------------


def of_request(before: Any, after: Any, request: Request) -> list[Rule]:
    """Say what a request did."""
    rules = [*_rounded(before, request)]
    linux = before.engine in _LINUX
    records = None
    skipped = (0, 0)
    if linux and _legal(before, request):
        found, records, skipped = _searched(before, after, request)
        rules += found
    elif before.engine in ("areamap", "rfc-v1") and _legal(before, request):
        rules += _search_start(before, request)
    if request.reason:
        name, text = _core.REASONS[request.reason - 1]
        rules.append(Rule("fail", f"The request fails: {text}.", {"reason": name}))
    else:
        rules.append(_placed(before, after, request))
        if linux and records is not None:
            rules += _hints_after_request(before, after, request, records, skipped)
        else:
            rules += _scalars(before, after, request.chunk)
    rules += [*_chunks_made(before, after, request), *_pages(before, after), *_moves(before, after)]
    rules += _scheduled(before, after, request)
    return rules


def _granule(allocator: Any) -> int:
    return 2 if allocator.engine == "areamap" else allocator.min_alloc_size


def _rounded_size(allocator: Any, size: int) -> int:
    granule = _granule(allocator)
    return -(-size // granule) * granule


def _legal(allocator: Any, request: Request) -> bool:
    return request.reason == 0 or _core.REASONS[request.reason - 1][0] != "illegal"


def _rounded(allocator: Any, request: Request) -> Iterator[Rule]:
    size = _rounded_size(allocator, request.size)
    if size != request.size and size and _legal(allocator, request):
        granule = _granule(allocator)
        text = f"{_bytes(request.size)} are rounded up to {size}: whole granules of {granule}."
        yield Rule("round", text, {"asked": request.size, "size": size})


def _slots_of(allocator: Any, size: int) -> tuple[int, int]:
    """First and last slot that a request of this size searches."""
    depopulates = allocator.engine == "linux-5.14"
    nr_slots = len(allocator.slots)
    last = nr_slots - (2 if depopulates else 1)
    return slot_of_size(size, allocator.unit_size, nr_slots, depopulates), last


def _search_start(allocator: Any, request: Request) -> Iterator[Rule]:
    if request.reserved and allocator.reserved_chunk is not None:
        yield Rule("search", "A reserved request: only the reserved chunk is looked at.", {"reserved": True})
        return
    first, last = _slots_of(allocator, _rounded_size(allocator, request.size))
    kind = "atomic: only populated pages count; " if request.atomic and allocator.engine in _LINUX else ""
    text = f"The search begins at {_slot(allocator, first)} and goes up to {_slot(allocator, last)}"
    yield Rule("search", f"{text}; {kind}the size alone decides." if kind else f"{text}: the size alone decides.",
               {"first_slot": first, "last_slot": last})  # fmt: skip


def _searched(before: Any, after: Any, request: Request) -> tuple[list[Rule], Records | None, tuple[int, int]]:
    """Follow the search by the rules; without what it finds where the engine did something else."""
    granule = before.min_alloc_size
    bits, align = _rounded_size(before, request.size) // granule, max(request.align, granule) // granule
    scan_hints = before.engine != "linux-4.14"
    if request.reserved and before.reserved_chunk is not None:
        one = look(Records(before.reserved_chunk, scan_hints), _RESERVED, -1, bits, align, request.atomic)
        seen = [one]
    else:
        first, last = _slots_of(before, bits * granule)
        seen = walk(before, bits, align, request.atomic, first, last)
    served = seen[-1] if seen and seen[-1].off is not None else None
    rules = list(_search_start(before, request))
    new = [number for number in after.chunks if number not in before.chunks]
    if request.reason == 0:
        expected = None if served is None else (served.chunk, served.off)
        actual = (request.chunk, request.off // granule)
        if expected is None and request.chunk in new:
            made = after.chunks[request.chunk]
            fresh = Records.fresh(len(made.alloc_map), made.block_bits, made.nr_pages, scan_hints)
            served = look(fresh, request.chunk, -1, bits, align, False)
            rejected = seen
            if (served.chunk, served.off) != actual:
                return rules, None, (0, 0)
            records = fresh
        elif expected == actual:
            assert served is not None
            rejected = seen[:-1]
            records = Records(_chunk(before, request.chunk), scan_hints)
        else:
            return rules, None, (0, 0)
        rules += _rejections(before, after, rejected, granule)
        if request.chunk in new:
            text = f"No chunk of these slots serves it: chunk {request.chunk} is made, and the search begins again."
            rules.append(Rule("create", text, {"chunk": request.chunk}))
        rules += _start_in_chunk(records, served, bits, granule)
        return rules, records, served.skipped
    if served is None:
        rules += _rejections(before, after, seen, granule)
    return rules, None, (0, 0)


_WHY = {
    "pad": "its contig_hint of {hint} at {start} has no room for it at this alignment",
    "hint": "its contig_hint is {hint}",
    "blocks": "the hints of its blocks promise no place",
    "pages": "no place that they promise is populated",
    "map": "the map has no place where its hints promise one",
}


def _rejections(before: Any, after: Any, seen: list[Look], granule: int) -> Iterator[Rule]:
    scan_hints = before.engine != "linux-4.14"
    plain = [one for one in seen if one.why == "hint"]
    for one in [*plain[:_SHOWN], *(o for o in seen if o.why != "hint")][: 2 * _SHOWN]:
        hint = Records(_chunk(before, one.chunk), scan_hints).chunk
        why = _WHY[one.why].format(hint=_bytes(hint.contig * granule), start=hint.contig_start * granule)
        where = "" if one.in_slot < 0 else f" (slot {one.in_slot})"
        hides = "; the map has one, which the hints hide" if one.hides else ""
        aside = _set_aside(after, one)
        text = f"{_name(one.chunk).capitalize()}{where} is passed over: {why}{hides}{aside}."
        yield Rule("reject", text, {"chunk": one.chunk, "why": one.why, "hides": one.hides, "aside": bool(aside)})
    named = min(len(plain), _SHOWN) + len(seen) - len(plain)
    rest = len(seen) - min(named, 2 * _SHOWN)
    if rest > 0:
        yield Rule("reject", f"{rest} chunks more are passed over.", {"more": rest})


def _threshold(allocator: Any, name: str, of_kernel: int) -> int:
    """Number at which something is done: that of the kernels, unless the allocator has another."""
    return allocator.thresholds[name] if allocator.engine in _LINUX else of_kernel


def _set_aside(after: Any, one: Look) -> str:
    if (
        0 < one.in_slot < _threshold(after, "slot_fail_threshold", 0)
        and one.why in ("hint", "pad", "blocks", "pages")
        and one.chunk in after.slots[0]
    ):
        return ", and set aside in slot 0, which is not searched"
    return ""


def _start_in_chunk(records: Records, served: Look, bits: int, granule: int) -> Iterator[Rule]:
    assert served.start is not None
    assert served.off is not None
    hint = records.chunk
    start, off = served.start, served.off
    size = records.block_bits
    block = start // size
    name = _name(served.chunk)
    behind = hint.next_hint(bits) != hint.first_free and records.scan_hints
    if behind:
        run = f"{_bytes(hint.scan * granule)} at {hint.scan_start * granule:,}"
        text = (
            f"In {name} all before {hint.next_hint(bits) * granule:,} is left out: its scan_hint of {run} is too "
            "small, and lies before the contig_hint."
        )
        yield Rule("start", text, {"level": "chunk", "from": hint.next_hint(bits) * granule})
    first_block = hint.next_hint(bits) // size if records.scan_hints else hint.first_free // size
    if block > first_block:
        left = f"Block {first_block} is" if block == first_block + 1 else f"Blocks {first_block} to {block - 1} are"
        text = f"{left} left out by hints: no promise of {_bytes(bits * granule)} there."
        yield Rule("skip", text, {"blocks": [first_block, block - 1]})
    record = records.blocks[block]
    at = start % size
    if at == record.first_free:
        why, reason = "first_free", f"the first_free of block {block}"
    elif records.scan_hints and record.scan > 0 and at == record.scan_start + record.scan == record.next_hint(bits):
        why = "scan_hint"
        reason = f"behind the scan_hint of block {block} ({_bytes(record.scan * granule)}), which is too small"
    else:
        why, reason = "run", f"in the free end of block {block}"
    text = f"The search of the map begins at {start * granule:,}, {reason}."
    yield Rule("start", text, {"level": "map", "from": start * granule, "why": why})
    gaps = runs(~records.map[start:off])
    if len(gaps):
        named = (f"{_bytes((b - a) * granule)} at {(start + a) * granule:,}" for a, b in gaps[:_SHOWN].tolist())
        text = f"Free, but too small or not aligned, and passed over: {_listed(named, len(gaps))}."
        yield Rule("skip", text, {"runs": [[(start + a) * granule, (b - a) * granule] for a, b in gaps.tolist()]})


def _placed(before: Any, after: Any, request: Request) -> Rule:
    size = _size_at(after, request)
    chunk = _chunk(after, request.chunk)
    bits = chunk.block_bits * chunk.min_alloc_size
    first, last = request.off // bits, (request.off + size - 1) // bits
    where = ""
    if after.engine not in ("areamap", "cpu_alloc-2008"):
        where = f", block {first}" if first == last else f", blocks {first} to {last}"
    text = f"It gets the bytes {request.off:,} to {request.off + size:,} of {_name(request.chunk)}{where}."
    return Rule("place", text, {"chunk": request.chunk, "off_bytes": request.off, "size_bytes": size})


def _size_at(after: Any, request: Request) -> int:
    """Bytes that the area takes."""
    return _rounded_size(after, request.size)


# -- hints -------------------------------------------------------------------------------


def _run(length: int, start: int, granule: int) -> str:
    return f"{_bytes(length * granule)} at {start * granule:,}" if length else "none"


def _hints_after_request(
    before: Any, after: Any, request: Request, old: Records, skipped: tuple[int, int]
) -> Iterator[Rule]:
    granule = before.min_alloc_size
    a = request.off // granule
    n = _rounded_size(before, request.size) // granule
    new = Records(_chunk(after, request.chunk), old.scan_hints)
    size = old.block_bits
    breaks = broken(old, a, n, skipped)
    told = skipped[1] > 0 and old.scan_hints and skipped[0] % size + skipped[1] <= size
    if told:
        text = f"The largest of them is told to block {skipped[0] // size}."
        yield Rule("hint", text, {"told": skipped[0] // size})
    for one in breaks:
        base = 0 if one.block is None else one.block * size
        now = new.chunk if one.block is None else new.blocks[one.block]
        what = f"the contig_hint of {'the chunk' if one.block is None else f'block {one.block}'}"
        how = "it is refreshed from the blocks" if one.block is None else "it is refreshed from the map"
        promoted = ", from behind the scan_hint, which takes its place first" if one.promoted else ""
        was = _run(one.was.contig, base + one.was.contig_start, granule)
        text = (
            f"It takes from {what} ({was}): {how}{promoted}. Now {_run(now.contig, base + now.contig_start, granule)}"
            + (f", scan_hint {_run(now.scan, base + now.scan_start, granule)}" if now.scan else "")
            + "."
        )
        values = {"block": one.block, "promoted": one.promoted, "was": one.was.contig * granule,
                  "now": now.contig * granule}  # fmt: skip
        yield Rule("break", text, values)
    if not breaks:
        yield Rule("keep", "It lies in none of the contig_hints: nothing is refreshed.", {})
    touched = range(a // size, (a + n - 1) // size + 1)
    done = {one.block for one in breaks}
    yield from _changed(old, new, [i for i in touched if i not in done], granule)
    if None not in done:
        yield from _changed_chunk(old.chunk, new.chunk, granule)
    yield from _hidden(new, granule)


def _changed(old: Records, new: Records, blocks: Iterable[int], granule: int) -> Iterator[Rule]:
    """Say which records of blocks are others than before."""
    size = old.block_bits
    changed = [i for i in blocks if old.blocks[i] != new.blocks[i]]
    for i in changed[:_SHOWN]:
        parts = _differences(old.blocks[i], new.blocks[i], i * size, granule)
        if parts:
            yield Rule("hint", f"Block {i}: {'; '.join(parts)}.", {"block": i})
    if len(changed) > _SHOWN:
        text = f"{len(changed) - _SHOWN} blocks more have other hints than before."
        yield Rule("hint", text, {"more": len(changed) - _SHOWN})


def _changed_chunk(was: Hint, now: Hint, granule: int) -> Iterator[Rule]:
    parts = _differences(was._replace(left=now.left, right=now.right), now, 0, granule)
    if parts:
        yield Rule("hint", f"Chunk: {'; '.join(parts)}.", {"block": None})


def _differences(was: Hint, now: Hint, base: int, granule: int) -> list[str]:
    parts = []
    for name in ("contig", "scan"):
        old = getattr(was, name), getattr(was, f"{name}_start")
        new = getattr(now, name), getattr(now, f"{name}_start")
        if old != new and (old[0] or new[0]):
            text = f"{name}_hint {_run(old[0], base + old[1], granule)}, now {_run(new[0], base + new[1], granule)}"
            parts.append(text)
    for name in ("left", "right"):
        a, b = getattr(was, name), getattr(now, name)
        if a != b:
            parts.append(f"{name}_free {a * granule:,}, now {b * granule:,}")
    if was.first_free != now.first_free:
        parts.append(f"first_free {(base + was.first_free) * granule:,}, now {(base + now.first_free) * granule:,}")
    return parts


def _hidden(records: Records, granule: int) -> Iterator[Rule]:
    """Say that the chunk's hint is less than the truth."""
    found = runs(~records.map)
    if not len(found):
        return
    lengths = found[:, 1] - found[:, 0]
    best = int(np.argmax(lengths))
    largest, known = int(lengths[best]) * granule, records.chunk.contig * granule
    if largest > known:
        text = (
            f"The chunk's contig_hint says {_bytes(known)}; {_bytes(largest)} are free at "
            f"{int(found[best, 0]) * granule:,}, and hidden from requests until the chunk is refreshed."
        )
        yield Rule("hidden", text, {"known": known, "largest": largest})


def _scalars(before: Any, after: Any, number: int) -> Iterator[Rule]:
    """Say which figures of a chunk changed, for engines without these hints."""
    old, new = _chunk(before, number), _chunk(after, number)
    if old is None or new is None:
        return
    names = ("contig_hint", "contig_hint_start", "first_free", "first_free_block", "map_alloc")
    was, now = old.info, new.info
    parts = [f"{name} {was[name]:,}, now {now[name]:,}" for name in names if name in was and was[name] != now[name]]
    if before.engine == "areamap":
        a, b = len(old.area_map) - 1, len(new.area_map) - 1
        if a != b:
            parts.append(f"entries in use {a}, now {b}")
    if parts:
        yield Rule("hint", f"{_name(number).capitalize()}: {'; '.join(parts)}.", {"chunk": number})


# -- frees -------------------------------------------------------------------------------


def of_free(before: Any, after: Any, chunk: int, off: int, size: int) -> list[Rule]:
    """Say what a free did."""
    rules = []
    old_chunk, new_chunk = _chunk(before, chunk), _chunk(after, chunk)
    text = f"The bytes {off:,} to {off + size:,} of {_name(chunk)} are given back."
    rules.append(Rule("place", text, {"chunk": chunk, "off_bytes": off, "size_bytes": size}))
    if new_chunk is not None:
        rules += _joined(old_chunk, new_chunk, off, size)
        if before.engine in _LINUX:
            rules += _hints_after_free(before, old_chunk, new_chunk, off, size)
        else:
            rules += _scalars(before, after, chunk)
    rules += [*_moves(before, after), *_isolation(before, after), *_scheduled(before, after, None)]
    return rules


def _joined(old: Any, new: Any, off: int, size: int) -> Iterator[Rule]:
    granule = new.min_alloc_size
    free = ~np.asarray(new.alloc_map)
    a = off // granule
    if not free[a]:
        return
    start, end = next((int(x), int(y)) for x, y in runs(free) if x <= a < y)
    head, tail = off - start * granule, end * granule - off - size
    if head or tail:
        with_what = " and ".join(
            part for part in (f"{_bytes(head)} before" * bool(head), f"{_bytes(tail)} behind" * bool(tail)) if part
        )
        text = f"They join the free {with_what}: {_bytes((end - start) * granule)} in one piece."
        yield Rule("join", text, {"start": start * granule, "length": (end - start) * granule})


def _hints_after_free(before: Any, old_chunk: Any, new_chunk: Any, off: int, size: int) -> Iterator[Rule]:
    granule = before.min_alloc_size
    scan_hints = before.engine != "linux-4.14"
    old, new = Records(old_chunk, scan_hints), Records(new_chunk, scan_hints)
    a, n = off // granule, size // granule
    per = old.block_bits
    yield from _changed(old, new, range(a // per, (a + n - 1) // per + 1), granule)
    if refreshes_chunk_on_free(old, a, n):
        why = "more than one block is touched" if a // per != (a + n - 1) // per else "a whole block is free now"
        if not scan_hints and a // per == (a + n - 1) // per:
            why = "a whole page is free now"
        text = f"The chunk is refreshed from its blocks: {why}. Now {_run(*new.chunk[:2], granule)}."
        yield Rule("refresh", text, {"contig": new.chunk.contig * granule})
    else:
        yield from _changed_chunk(old.chunk, new.chunk, granule)
        if scan_hints and a // per > 0 and old.chunk.contig == new.chunk.contig:
            text = "The hint of the chunk is left as it is: outside block 0 only an emptied block has it refreshed."
            yield Rule("keep", text, {})
    yield from _hidden(new, granule)


# -- chunks, slots, pages, worker --------------------------------------------------------


def _chunks_made(before: Any, after: Any, request: Request) -> Iterator[Rule]:
    if before.engine in _LINUX and request.reason == 0:
        return  # said with the search
    for number in after.chunks:
        if number not in before.chunks:
            yield Rule("create", f"Chunk {number} is made.", {"chunk": number})


def _places(allocator: Any) -> dict[int, tuple[int, int, int]]:
    """Slot, place in it and its length, of each chunk."""
    return {
        number: (index, place, len(numbers))
        for index, numbers in enumerate(allocator.slots)
        for place, number in enumerate(numbers)
    }


def _moves(before: Any, after: Any) -> Iterator[Rule]:
    """Say which chunks changed their slot."""
    old, new = _places(before), _places(after)
    for number, (index, place, length) in new.items():
        was = old.get(number)
        if was is not None and was[0] == index:
            continue
        end = "" if length == 1 else "the front of " if place == 0 else "the end of " if place == length - 1 else ""
        source = "" if was is None else f" from {_slot(before, was[0])}"
        verb = "comes" if was is None else "moves"
        text = f"Chunk {number} {verb}{source} to {end}{_slot(after, index)}."
        values = {"chunk": number, "from": None if was is None else was[0], "to": index, "place": place}
        yield Rule("move", text, values)


def _pages(before: Any, after: Any) -> Iterator[Rule]:
    """Say which pages were populated or depopulated."""
    numbers = [*after.chunks, *([_RESERVED] if after.reserved_chunk is not None else [])]
    for number in numbers:
        new = np.asarray(_chunk(after, number).populated)
        known = _chunk(before, number)
        old = np.zeros_like(new) if known is None else np.asarray(known.populated)
        if before.engine == "cpu_alloc-2008" or np.array_equal(old, new):
            continue
        units = after.nr_units
        times = "" if units == 1 else f" in each of {units} units"
        for flags, what in ((new & ~old, "populated"), (old & ~new, "depopulated")):
            if flags.any():
                verb = "is" if flags.sum() == 1 else "are"
                text = f"{_name(number).capitalize()}: {_ranges(flags)} {verb} {what}{times}."
                pages = np.flatnonzero(flags).tolist()
                yield Rule("pages", text, {"chunk": number, "gained": what == "populated", "pages": pages})


def _isolation(before: Any, after: Any) -> Iterator[Rule]:
    for number, chunk in after.chunks.items():
        if number in before.chunks and chunk.isolated and not before.chunks[number].isolated:
            text = (
                f"Chunk {number} is isolated: enough other pages are empty, and a quarter of its own; it is to shrink."
            )
            yield Rule("chunk", text, {"chunk": number, "isolated": True})


def _scheduled(before: Any, after: Any, request: Request | None) -> Iterator[Rule]:
    if not after.balance_pending or before.balance_pending:
        return
    why = ""
    if request is not None and request.reason == 0:
        empty = after.stats().get("nr_empty_pop_pages")
        low = _threshold(after, "empty_pop_pages_low", 2)
        if empty is not None and empty < low:
            why = f": {empty} empty populated page{'' if empty == 1 else 's'} left, fewer than {low}"
    elif request is not None and request.atomic:
        why = ": an atomic request failed"
    yield Rule("worker", f"The balance worker is scheduled{why}.", {})


def of_worker(before: Any, after: Any) -> list[Rule]:
    """Say what a run of the balance worker did."""
    rules = []
    for number in before.chunks:
        if number not in after.chunks:
            rules.append(Rule("chunk", f"Chunk {number} is destroyed.", {"chunk": number, "destroyed": True}))
    for number in after.chunks:
        if number not in before.chunks:
            rules.append(Rule("create", f"Chunk {number} is made.", {"chunk": number}))
    rules += [*_pages(before, after), *_moves(before, after)]
    a, b = (state.stats().get("nr_empty_pop_pages") for state in (before, after))
    if a is not None and b is not None and a != b:
        text = f"Empty populated pages: {a}, now {b}; {_threshold(after, 'empty_pop_pages_high', 4)} are kept ready."
        rules.append(Rule("worker", text, {"before": a, "after": b}))
    if not rules:
        rules.append(Rule("worker", "It finds nothing to do.", {}))
    return rules
