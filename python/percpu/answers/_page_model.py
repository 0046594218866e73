"""Which pages of a followed trace are backed by memory: from its lines about pages, or modelled where it has none.

The kernel's own events do not tell of pages. What is certain without them: under a live area there is memory. The rest
is modelled by the rules of specification 20 and 21, with the worker right behind the event that schedules it:

- a request populates the pages under it;
- a page whose last area is freed stays populated, as an empty page in stock;
- from 5.14 on a free isolates its chunk if a quarter of the pages is empty and more than four empty pages are left
  elsewhere; the worker then gives the empty pages back, and later frees there do so at once until a request is served
  from the chunk;
- fewer than two empty pages in stock, and every other run of the worker, make it populate until there are four: in
  the chunk with the shortest free run, then in isolated ones (where they do not count as stock), then in free ones.
  While a chunk from before the capture may be the one, these pages are counted without a place, and taken first.

In chunks from before the capture only pages of which everything is known at the end are followed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from percpu import _core
from percpu.trace import Trace

__all__ = ["PageModel", "pairs"]

_KIND = {name: code for code, name in enumerate(_core.EVENT_KINDS)}
_LOW, _HIGH = 2, 4


def pairs(trace: Trace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find where each allocation begins and ends.

    Returns
    -------
    event : (n,) int64
        Allocations and frees, in the order of the trace.
    ends : (n,) int64
        The allocation that the event ends: by freeing it, or, where the free is not in the trace, by being placed where
        it begins; -1 if it ends none that the trace shows.
    until : (n,) int64
        Of an allocation the event that ends it; -1 if none does.
    """
    kind = trace["kind"]
    event = np.flatnonzero((kind == _KIND["alloc"]) | (kind == _KIND["free"]))
    is_alloc = kind[event] == _KIND["alloc"]
    base = np.where(trace.missing("base_addr")[event], np.uint64(0), trace["base_addr"][event])
    order = np.lexsort((event, trace["off_bytes"][event], base))
    same = np.zeros(len(event), dtype=bool)
    if len(event):
        keys = (base[order], trace["off_bytes"][event][order])
        same[1:] = (keys[0][1:] == keys[0][:-1]) & (keys[1][1:] == keys[1][:-1])
    pair = np.zeros(len(event), dtype=bool)  # the event at this place of the order ends what is right before it
    pair[1:] = same[1:] & is_alloc[order][:-1]
    ends, until = np.full((2, len(event)), -1, dtype=np.int64)
    at = np.flatnonzero(pair)
    ends[order[at]] = event[order[at - 1]]
    until[order[at - 1]] = event[order[at]]
    return event, ends, until


class _ChunkPages:
    """Pages of one chunk: areas on each, whether there is memory behind, and the empty ones."""

    __slots__ = ("areas", "empty", "followed", "isolated", "live", "longest", "populated", "since", "whole")

    def __init__(self, n: int, followed: list[bool] | None, whole: bool) -> None:
        self.areas = [0] * n
        self.populated = [False] * n
        self.followed = [True] * n if followed is None else followed
        self.empty: set[int] = set()  # pages with memory and without areas
        self.live = 0
        self.longest: int | None = None  # free run, in pages; None after a change
        self.isolated = False
        self.since = 0  # place among the isolated ones
        self.whole = whole


class PageModel:
    """Pages at the end of a trace.

    Parameters
    ----------
    trace : Trace
        All of it.
    page_size, unit_size : int
        Bytes.
    depopulates : bool
        Whether the kernel gives back single pages (5.14 on).
    stock : int or None
        Empty populated pages at the start, if statistics tell.
    known : mapping of int to (p,) bool array
        Of each chunk from before the capture, by address: pages of which everything is known at the end.
    boot : set of int
        Addresses of chunks whose pages never change.

    Attributes
    ----------
    recorded : bool
        Whether the trace itself tells of pages.
    stock : int
        Empty populated pages at the end that requests may use.
    """

    def __init__(
        self,
        trace: Trace,
        page_size: int,
        unit_size: int,
        depopulates: bool,
        stock: int | None,
        known: Mapping[int, np.ndarray],
        boot: set[int],
    ) -> None:
        self._n = max(unit_size // page_size, 1)
        self._page = page_size
        self._depopulates = depopulates
        self._known, self._boot = known, boot
        self._chunks: dict[int, _ChunkPages] = {}
        self._turn = 0
        # Where more are is not known; those of a chunk itself do not count for it, so that the least is assumed.
        self._elsewhere = _HIGH if stock is None else min(stock, _HIGH)
        # Chunks from before the capture in which pages may come and go unseen.
        self._unseen = len(known.keys() - boot)
        self._ready = self._elsewhere  # in stock, of all chunks that are not isolated
        kind = trace["kind"]
        self.recorded = bool(np.isin(kind, [_KIND["populated"], _KIND["depopulated"]]).any())
        self._run(trace)
        self.stock = self._ready

    def populated(self, base: int, n: int) -> np.ndarray:
        """Whether there is memory behind each page: 1, 0, or -1 where nothing is known."""
        found = np.full(n, -1, dtype=np.int8)
        chunk = self._chunks.get(base)
        if chunk is not None:
            m = min(n, len(chunk.populated))
            told = np.array(chunk.followed[:m]) | np.array(chunk.populated[:m])
            found[:m] = np.where(told, np.array(chunk.populated[:m], dtype=np.int8), -1)
        return found

    def is_isolated(self, base: int) -> bool:
        """Whether the chunk was isolated by its last frees."""
        chunk = self._chunks.get(base)
        return chunk is not None and chunk.isolated

    def _chunk(self, base: int) -> _ChunkPages:
        chunk = self._chunks.get(base)
        if chunk is None:
            known = self._known.get(base)
            followed = None
            if known is not None:
                followed = known.tolist()
            chunk = self._chunks[base] = _ChunkPages(self._n if known is None else len(known), followed, known is None)
        return chunk

    def _run(self, trace: Trace) -> None:
        event, ends, _ = pairs(trace)
        size = np.zeros(len(trace), dtype=np.int64)
        ended = ends >= 0
        size[event[ended]] = trace["size_bytes"][ends[ended]]
        wanted = [_KIND[name] for name in ("alloc", "free", "create", "destroy", "populated", "depopulated")]
        failed = (trace["kind"] == _KIND["fail"]) & trace["atomic"] & ~trace.missing("atomic")
        rows = np.flatnonzero(np.isin(trace["kind"], wanted) & ~trace.missing("base_addr") | failed)
        off, asked = trace["off_bytes"].astype(np.int64), trace["size_bytes"].astype(np.int64)
        first, last = off // self._page, (off + np.maximum(asked, 1) - 1) // self._page
        gone = (off + np.maximum(size, 1) - 1) // self._page
        columns = (trace["kind"], trace["base_addr"], first, last, trace["first_page"], trace["end_page"], size, gone)
        alloc, free, create, destroy, populated = wanted[:5]
        fail = _KIND["fail"]
        for kind, base, a, b, p, q, n, z in zip(*(column[rows].tolist() for column in columns), strict=True):
            if kind in (alloc, free):
                if n:
                    self._give(self._chunk(base), a, z, base)
                if kind == alloc:
                    self._take(self._chunk(base), a, b, base in self._boot)
            elif kind == create:
                made = self._chunks.get(base)
                if made is None or any(made.areas):  # without an MMU its pages are told before
                    self._chunks[base] = _ChunkPages(self._n, None, whole=True)
            elif kind == destroy:
                gone = self._chunks.pop(base, None)
                if gone is not None and not gone.isolated:
                    self._ready -= len(gone.empty)
            elif kind == fail:
                self._work(_HIGH)
            else:
                self._tell(self._chunk(base), p, q, kind == populated)

    def _take(self, chunk: _ChunkPages, a: int, b: int, boot: bool) -> None:
        if chunk.isolated:
            chunk.isolated = False
            self._ready += len(chunk.empty)
        chunk.live += 1
        self._reach(chunk, b)
        for page in range(a, b + 1):
            if chunk.areas[page] == 0:
                chunk.longest = None
                if chunk.populated[page]:
                    if chunk.followed[page] and page in chunk.empty:
                        chunk.empty.remove(page)
                        self._ready -= 1
                else:
                    chunk.populated[page] = True
                    if self._elsewhere > 0 and (self._unseen or boot) and not self.recorded:
                        self._elsewhere -= 1
                        self._ready -= 1
            chunk.areas[page] += 1
        if self._ready < _LOW:
            self._work()

    def _give(self, chunk: _ChunkPages, a: int, b: int, base: int) -> None:
        chunk.live -= 1
        self._reach(chunk, b)
        for page in range(a, b + 1):
            chunk.areas[page] -= 1
            if chunk.areas[page] == 0:
                chunk.longest = None
                if chunk.followed[page] and chunk.populated[page]:
                    chunk.empty.add(page)
                    if not chunk.isolated:
                        self._ready += 1
        if not self._depopulates or self.recorded or base in self._boot:
            return
        if chunk.whole and chunk.live == 0 and not chunk.isolated:
            return
        if chunk.isolated:
            if chunk.empty:
                self._release(chunk)
                self._work()
        elif self._ready > _HIGH + len(chunk.empty) and len(chunk.empty) >= self._n // 4:
            chunk.isolated = True
            self._ready -= len(chunk.empty)
            self._release(chunk)
            self._work()

    def _release(self, chunk: _ChunkPages) -> None:
        """Give back the empty pages of an isolated chunk, or take it back if there are too few in stock."""
        if self._ready >= _HIGH:
            for page in chunk.empty:
                if chunk.followed[page] and chunk.areas[page] == 0:
                    chunk.populated[page] = False
            chunk.empty.clear()
        if self._ready < _HIGH or (chunk.whole and chunk.live == 0):
            chunk.isolated = False
            self._ready += len(chunk.empty)
        else:
            self._turn += 1
            chunk.since = self._turn

    def _work(self, want: int | None = None) -> None:
        """Populate pages until there are enough empty ones in stock."""
        if self.recorded:
            return
        left = min(max(_HIGH - self._ready, 0), _HIGH)
        if want is not None and not self._unseen:
            left = want
        if left and self._unseen:
            self._elsewhere += left
            self._ready += left
            return
        if not left:
            return
        seen: set[tuple[int, int]] = set()
        lacking = ((base, chunk) for base, chunk in self._chunks.items() if False in chunk.populated)
        ranked = sorted((self._rank(chunk), chunk.since, base) for base, chunk in lacking if base not in self._boot)
        for rank, _, base in ranked:
            chunk = self._chunks[base]
            if left == 0:
                return
            if rank in seen:
                continue
            seen.add(rank)
            for page in [page for page, there in enumerate(chunk.populated) if not there][:left]:
                chunk.populated[page] = True
                chunk.empty.add(page)
                left -= 1
                if not chunk.isolated:
                    self._ready += 1

    @staticmethod
    def _rank(chunk: _ChunkPages) -> tuple[int, int]:
        """Return about where in the lists a chunk is: searched ones by their longest free run, isolated, free."""
        if chunk.isolated:
            return (1, 0)
        if chunk.live == 0:
            return (2, 0)
        if chunk.longest is None:
            used = bytes(map(bool, chunk.areas))
            chunk.longest = max(map(len, used.split(b"\1")))
        return (0, chunk.longest.bit_length())

    def _tell(self, chunk: _ChunkPages, first: int, end: int, populated: bool) -> None:
        self._reach(chunk, end - 1)
        if not populated and chunk.live > 0 and not chunk.isolated:
            # Only what is isolated loses single pages.
            chunk.isolated = True
            self._ready -= len(chunk.empty)
        for page in range(first, end):
            if chunk.populated[page] == populated:
                continue
            chunk.populated[page] = populated
            if chunk.areas[page] == 0 and chunk.followed[page]:
                before = len(chunk.empty)
                (chunk.empty.add if populated else chunk.empty.discard)(page)
                if not chunk.isolated:
                    self._ready += len(chunk.empty) - before

    @staticmethod
    def _reach(chunk: _ChunkPages, page: int) -> None:
        """Make room for a page behind the unit size that was guessed."""
        more = page + 1 - len(chunk.areas)
        if more > 0:
            chunk.areas += [0] * more
            chunk.populated += [False] * more
            chunk.followed += [False] * more
            chunk.longest = None
