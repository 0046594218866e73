"""The rules of the bitmap allocator (4.14 on), one by one, on public state: why a request ends where it ends.

Slow and literal: it follows the search over slots, chunks, blocks and map as specification sections 10 and 20 tell it,
and says which hints an operation breaks. It predicts nothing that is shown: `percpu.steps` compares what it finds with
what the engine did, and drops it where the two differ. Everything is in granules (bits) unless bytes are named.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = ["Hint", "Look", "Records", "broken", "refreshes_chunk_on_free", "runs", "slot_of_size", "walk"]


def up(value: int, step: int) -> int:
    """Round up to a multiple."""
    return -(-value // step) * step


def runs(flags: np.ndarray) -> np.ndarray:
    """Start and end of each run of True: (n, 2)."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return edges.reshape(-1, 2)


def slot_of_size(size: int, unit_size: int, nr_slots: int, depopulates: bool) -> int:
    """Slot where the search of a request begins, or in which a chunk with so large a free run is.

    Examples
    --------
    >>> [slot_of_size(size, 32768, 17, True) for size in (4, 16, 64, 4096, 32768)]
    [1, 2, 4, 10, 15]
    """
    if size == unit_size:
        return nr_slots - (2 if depopulates else 1)
    return max(size.bit_length() - 5 + 2, 1)


class Hint(NamedTuple):
    """A record of hints: of a block, or of a whole chunk."""

    contig: int
    contig_start: int
    scan: int
    scan_start: int
    first_free: int
    left: int = 0
    right: int = 0

    def next_hint(self, alloc: int) -> int:
        """Where a search for so many granules may begin."""
        if self.scan > 0 and self.contig_start > self.scan_start and alloc > self.scan:
            return self.scan_start + self.scan
        return self.first_free


def _overlap(a: int, b: int, c: int, d: int) -> bool:
    return a < d and c < b


class Records:
    """The map, hints and pages of a chunk, in plain integers."""

    def __init__(self, chunk: Any, scan_hints: bool) -> None:
        self.scan_hints = scan_hints
        self.map = np.asarray(chunk.alloc_map)
        self.block_bits = chunk.block_bits
        self.populated = np.asarray(chunk.populated)
        self.page_bits = len(self.map) // max(len(self.populated), 1)
        self.blocks = [_of_block(row) for row in chunk.blocks]
        row = chunk.hints[0]
        names = row.dtype.names
        if "contig_bits" in names:
            self.chunk = Hint(int(row["contig_bits"]), int(row["contig_bits_start"]), 0, 0, int(row["first_bit"]))
        else:
            self.chunk = _of_block(row)

    @classmethod
    def fresh(cls, nr_bits: int, block_bits: int, nr_pages: int, scan_hints: bool) -> Records:
        """Make those of a chunk that was just made."""
        self = cls.__new__(cls)
        self.scan_hints = scan_hints
        self.map = np.zeros(nr_bits, dtype=bool)
        self.block_bits = block_bits
        self.populated = np.zeros(nr_pages, dtype=bool)
        self.page_bits = nr_bits // nr_pages
        self.blocks = [Hint(block_bits, 0, 0, 0, 0, block_bits, block_bits)] * (nr_bits // block_bits)
        self.chunk = Hint(nr_bits, 0, 0, 0, 0, nr_bits, nr_bits)
        return self

    # -- searching -----------------------------------------------------------------------

    def _fit(self, off: int, alloc: int, align: int) -> tuple[int, int]:
        """Next place from `off` on that hints of blocks promise: offset and length; the end of the map if none."""
        size = self.block_bits
        within, length = off % size, 0
        for i in range(off // size, len(self.blocks)):
            block = self.blocks[i]
            if length:
                length += block.left
                if length >= alloc:
                    return off, length
                if block.left == size:
                    continue
            pad = up(block.contig_start, align) - block.contig_start
            length = pad
            if block.contig and block.contig_start >= within and block.contig >= pad + alloc:
                start = block.next_hint(alloc) if self.scan_hints else block.first_free
                return i * size + start, pad + alloc + block.contig_start - start
            within = 0
            edge = up(size - block.right, align)
            length, off = size - edge, i * size + edge
            if length >= alloc:
                return off, length
        return len(self.map), 0

    def find(self, alloc: int, align: int, atomic: bool) -> tuple[int | None, str]:
        """Where the search of the map begins; None and why, if the chunk is passed over."""
        hint = self.chunk
        pad = up(hint.contig_start, align) - hint.contig_start
        if pad + alloc > hint.contig:
            return None, "pad" if alloc <= hint.contig else "hint"
        off = hint.next_hint(alloc) if self.scan_hints else hint.first_free
        n, page = len(self.map), self.page_bits
        while True:
            off, length = self._fit(off, alloc, align)
            if off >= n:
                return None, "pages" if atomic else "blocks"
            if not atomic:
                return off, ""
            first, end = off // page, -(-(off + length) // page)
            bare = np.flatnonzero(~self.populated[first:end])
            if not len(bare):
                return off, ""
            after = np.flatnonzero(self.populated[first + bare[0] : end])
            off = (first + int(bare[0]) + int(after[0]) if len(after) else end) * page

    def place(self, alloc: int, align: int, start: int) -> tuple[int | None, tuple[int, int]]:
        """Search the map: where the area goes, and the largest free stretch that was passed over on the way."""
        end = start + alloc + self.block_bits
        if self.scan_hints:
            end = min(end, len(self.map))
        best = (0, 0)
        while True:
            free = np.flatnonzero(~self.map[start:end])
            i = up(start + int(free[0]) if len(free) else end, align)
            if i + alloc > end:
                return None, (0, 0)
            used = np.flatnonzero(self.map[i : i + alloc])
            if not len(used):
                return (i, best) if i + alloc <= len(self.map) else (None, (0, 0))
            j = i + int(used[0])
            length = j - i
            if length > best[1] or (length == best[1] and best[0] != 0 and (i == 0 or _ctz(i) > _ctz(best[0]))):
                best = (i, length)
            start = j + 1

    def has_place(self, alloc: int, align: int, atomic: bool) -> bool:
        """Whether the map has a place, whatever the hints say."""
        free = ~self.map
        if atomic:
            free &= np.repeat(self.populated, self.page_bits)[: len(free)]
        return any(up(int(a), align) + alloc <= b for a, b in runs(free))


def _of_block(row: Any) -> Hint:
    names = row.dtype.names
    scan = ("scan_hint", "scan_hint_start")
    values = [int(row[name]) if name in names else 0 for name in ("contig_hint", "contig_hint_start", *scan)]
    return Hint(*values, int(row["first_free"]), int(row["left_free"]), int(row["right_free"]))


def _ctz(value: int) -> int:
    return (value & -value).bit_length() - 1


class Look(NamedTuple):
    """A chunk that a search looks at.

    ``why`` is "" where the request is served, else "hint", "pad", "blocks", "pages" or "map": what it fails by.
    """

    chunk: int
    in_slot: int
    why: str
    start: int | None
    off: int | None
    skipped: tuple[int, int]
    hides: bool


def look(records: Records, chunk: int, in_slot: int, alloc: int, align: int, atomic: bool) -> Look:
    """Look at one chunk."""
    start, why = records.find(alloc, align, atomic)
    off, skipped = (None, (0, 0)) if start is None else records.place(alloc, align, start)
    if start is not None and off is None:
        why = "map"
    hides = off is None and records.has_place(alloc, align, atomic)
    return Look(chunk, in_slot, why, start, off, skipped, hides)


def walk(allocator: Any, alloc: int, align: int, atomic: bool, first_slot: int, last_slot: int) -> list[Look]:
    """Search as the engine does: the chunks it looks at in order, the last one that serves the request if any does."""
    scan_hints = allocator.engine != "linux-4.14"
    seen = []
    for index in range(first_slot, last_slot + 1):
        for number in allocator.slots[index]:
            found = look(Records(allocator.chunks[number], scan_hints), number, index, alloc, align, atomic)
            seen.append(found)
            if found.off is not None:
                return seen
    return seen


# -- which hints an operation breaks -----------------------------------------------------


class Break(NamedTuple):
    """A record that an allocation makes untrue, so that it is refreshed; ``block`` is None for that of the chunk.

    ``promoted`` is whether the smaller run takes the place of the largest, so that the scan starts behind it.
    """

    block: int | None
    was: Hint
    promoted: bool


def _better(start: int, than: int) -> bool:
    return than != 0 and (start == 0 or _ctz(start) > _ctz(than))


def _recorded(hint: Hint, start: int, end: int) -> Hint:
    """A record after a free run was told to it (5.2 on)."""
    length = end - start
    c, cs, s, ss = hint.contig, hint.contig_start, hint.scan, hint.scan_start
    if length > c:
        if start > cs and c > s:
            s, ss = c, cs
        elif start <= cs or start < ss:
            s = 0
        c, cs = length, start
    elif length == c:
        if _better(start, cs):
            cs = start
            if start < ss and c > s:
                s = 0
        elif start > ss or c > s:
            s, ss = length, start
    elif start < cs and (length > s or (length == s and start > ss)):
        s, ss = length, start
    return hint._replace(contig=c, contig_start=cs, scan=s, scan_start=ss, first_free=min(hint.first_free, start))


def _after_skip(records: Records, skipped: tuple[int, int]) -> list[Hint]:
    """The blocks' records after the largest stretch that was passed over was told to its block (5.2 on)."""
    blocks = list(records.blocks)
    off, length = skipped
    size = records.block_bits
    if not records.scan_hints or length == 0:
        return blocks
    index, start = divmod(off, size)
    end = start + length
    if end <= size:
        used = np.flatnonzero(records.map[index * size : index * size + start])
        blocks[index] = _recorded(blocks[index], int(used[-1]) + 1 if len(used) else 0, end)
    return blocks


def broken(records: Records, a: int, n: int, skipped: tuple[int, int]) -> list[Break]:
    """Which records an allocation of `n` granules at `a` breaks; `records` are those before it."""
    size, scan = records.block_bits, records.scan_hints
    blocks = _after_skip(records, skipped)
    si, ei = a // size, (a + n - 1) // size
    so, eo = a % size, (a + n - 1) % size + 1
    found = []
    first = blocks[si]
    end = so + n
    if scan:
        kept = first.scan if not _overlap(first.scan_start, first.scan_start + first.scan, so, end) else 0
        hit = _overlap(first.contig_start, first.contig_start + first.contig, so, end)
    else:
        kept, hit = 0, first.contig_start <= so < first.contig_start + first.contig
    if hit:
        found.append(Break(si, first, scan and kept > 0))
    if ei != si and eo != size:
        last = blocks[ei]
        kept = last.scan if scan and eo <= last.scan_start else 0
        if eo > last.contig_start:
            found.append(Break(ei, last, kept > 0))
    whole = records.chunk
    if scan:
        kept = whole.scan if not _overlap(whole.scan_start, whole.scan_start + whole.scan, a, a + n) else 0
        hit = _overlap(whole.contig_start, whole.contig_start + whole.contig, a, a + n)
    else:
        kept, hit = 0, whole.contig_start <= a < whole.contig_start + whole.contig
    if hit:
        found.append(Break(None, whole, kept > 0))
    return found


def refreshes_chunk_on_free(before: Records, a: int, n: int) -> bool:
    """Whether a free of `n` granules at `a` has the hint of the chunk recomputed; `before` is the state before it."""
    size = before.block_bits
    si, ei = a // size, (a + n - 1) // size
    if si != ei:
        return True
    so, eo = a % size, (a + n - 1) % size + 1
    free = ~before.map[si * size : (si + 1) * size]
    free[so:eo] = True
    start, end = next((int(x), int(y)) for x, y in runs(free) if x <= so < y)
    if before.scan_hints:
        return end - start >= size
    unit = min(before.page_bits, size)
    return end // unit * unit > up(start, unit)
