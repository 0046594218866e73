"""What a history needs at least, and what it costs other engines."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu import _core
from percpu.allocator import Allocator
from percpu.replay import replay
from percpu.results import Result
from percpu.trace import Trace

__all__ = ["chunks_at_least", "newest_of_engines", "pages_at_least", "peak", "rerun_on"]


def pages_at_least(size: np.ndarray, align: np.ndarray, granule: int, page_size: int) -> int:
    """Return how many pages hold these areas at least, wherever an allocator puts them.

    For each power of two ``a`` up to a page: an area that must be aligned to ``a`` or more begins at a multiple of
    ``a``, and so does the next one, so that it takes ``ceil(size / a)`` cells of ``a`` bytes of which no other such
    area has a byte. Cells do not cross pages. The pages that hold them are at least the sum of these cells times ``a``
    over the page size; the largest of these sums over all ``a`` is the bound. ``a`` = granule counts every area.
    """
    least = 0
    a = granule
    while a <= page_size:
        cells = -(-size[align >= a] // a) if a > granule else -(-size // a)
        least = max(least, -(-int(cells.sum()) * a // page_size))
        a *= 2
    return least


def chunks_at_least(size: np.ndarray, granule: int, unit_size: int) -> int:
    """Return how many units of `unit_size` bytes hold these areas at least, one unit a chunk.

    Bin packing, bound L2 of Martello and Toth (1990). For a threshold ``k`` up to half a unit: areas larger than
    ``unit - k`` and those larger than half a unit each need a chunk of their own; areas from ``k`` to half a unit fit
    into what the latter leave, or need more chunks. ``k`` = 0 gives the sum of sizes over the unit size.
    """
    size = -(-size[size > 0] // granule) * granule
    half = unit_size // 2
    steps = np.unique(np.concatenate([[0], size[size <= half]]))
    ordered = np.sort(size)
    sums = np.concatenate([[0], np.cumsum(ordered)])
    least = 0
    n = len(ordered)
    middle = int(np.searchsorted(ordered, half, "right"))  # areas up to half a unit
    for k in steps.tolist():
        alone = n - int(np.searchsorted(ordered, unit_size - k, "right"))
        large = n - alone - middle if n - alone > middle else 0
        room = large * unit_size - int(sums[n - alone] - sums[middle]) if large else 0
        begin = min(int(np.searchsorted(ordered, k, "left")), middle)
        small = int(sums[middle] - sums[begin])
        least = max(least, alone + large + max(0, -(-(small - room) // unit_size)))
    return least


def peak(trace: Trace, prior: Result | None, granule: int) -> tuple[int, np.ndarray, np.ndarray] | None:
    """Find the event after which the most bytes are live, and what is live there.

    Parameters
    ----------
    trace : Trace
        All of it. None is returned if it lost events: then what is live is not certain.
    prior : Result or None
        Areas that are live at the start (``base_addr``, ``off_bytes``, ``size_bytes``), where they are known.

    Returns
    -------
    (event, size, align) or None
        Sizes rounded to the granule; alignment 0 where it is not known.
    """
    from percpu.answers._page_model import pairs

    kinds = _core.EVENT_KINDS
    kind = trace["kind"]
    if (kind == kinds.index("lost")).any() or not len(trace):
        return None
    event, ends, until = pairs(trace)
    is_alloc = kind[event] == kinds.index("alloc")
    size = -(-trace["size_bytes"].astype(np.int64) // granule) * granule
    change = np.zeros(len(trace), dtype=np.int64)
    change[event[is_alloc]] = size[event[is_alloc]]
    change[event[ends >= 0]] -= size[ends[ends >= 0]]
    start_size = np.zeros(0, dtype=np.int64)
    start_end = np.zeros(0, dtype=np.int64)
    if prior is not None and len(prior):
        keys = zip(prior.base_addr.tolist(), prior.off_bytes.tolist(), strict=True)
        places = {key: row for row, key in enumerate(keys)}
        start_size = -(-prior.size_bytes.astype(np.int64) // granule) * granule
        start_end = np.full(len(prior), len(trace), dtype=np.int64)
        unseen = event[~is_alloc & (ends < 0)]
        for index, base, off in zip(
            unseen.tolist(), trace["base_addr"][unseen].tolist(), trace["off_bytes"][unseen].tolist(), strict=True
        ):
            row = places.pop((base, off), None)
            if row is not None:
                change[index] -= start_size[row]
                start_end[row] = index
    live = np.cumsum(change) + start_size.sum()
    at = int(np.argmax(live))
    if live[at] < start_size.sum():
        at = -1
    alloc = event[is_alloc]
    end = np.where(until[is_alloc] >= 0, until[is_alloc], len(trace))
    there = alloc[(alloc <= at) & (end > at)]
    stays = start_end > at
    sizes = np.concatenate([start_size[stays], size[there]])
    aligns = np.concatenate([np.zeros(int(stays.sum()), dtype=np.int64), trace["align_bytes"][there].astype(np.int64)])
    return at, sizes, aligns


def newest_of_engines() -> list[tuple[str, str]]:
    """Return engine and the newest release of each that was compared with a kernel."""
    newest: dict[str, str] = {}
    for release, engine, status in _core.kernels():
        if status != "assumed":
            newest[engine] = release
    return list(newest.items())


def rerun_on(trace: Trace, start: Allocator | None, kernel: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """Make the requests and frees of a trace on an engine, with what is live at its start if a state tells."""
    if start is None:
        fresh = Allocator(kernel=kernel, **sizes)
        run = replay(trace, fresh, mode="rerun")
    else:
        run = replay(trace, start.copy()).fork(0, kernel=kernel)
    end = run.allocator
    pages = sum(chunk.nr_populated for chunk in end.chunks.values())
    line = run.timeline
    carried = run.summary["nr_not_carried"]
    return {
        "nr_failed": run.summary["nr_failed"] + carried,
        "peak_chunks": max(int(line.max_nr_chunks.max(initial=0)), len(end.chunks)),
        "end_chunks": len(end.chunks),
        "peak_populated_pages": max(int(line.max_populated_pages.max(initial=0)), pages),
        "end_populated_pages": pages,
    }
