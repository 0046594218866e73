"""A chunk made of plain arrays: what the figures need, without an allocator."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

FIELDS = [
    "scan_hint", "scan_hint_start", "contig_hint", "contig_hint_start",
    "left_free", "right_free", "first_free", "nr_bits",
]  # fmt: skip
RECORD = np.dtype([(name, "<i4") for name in FIELDS])


def runs(free):
    """Start and end of each maximal run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], free, [False])).astype(np.int8)))
    return edges.reshape(-1, 2)


def record(free):
    """The hints of one stretch, exact, with the longest earlier run as scan hint."""
    row = np.zeros((), dtype=RECORD)
    row["nr_bits"] = len(free)
    row["first_free"] = int(np.argmax(free)) if free.any() else len(free)
    found = runs(free)
    if len(found):
        lengths = found[:, 1] - found[:, 0]
        best = int(np.argmax(lengths))
        row["contig_hint"], row["contig_hint_start"] = lengths[best], found[best, 0]
        if best:
            scan = int(np.argmax(lengths[:best]))
            row["scan_hint"], row["scan_hint_start"] = lengths[scan], found[scan, 0]
        row["left_free"] = lengths[0] if found[0, 0] == 0 else 0
        row["right_free"] = lengths[-1] if found[-1, 1] == len(free) else 0
    return row


def chunk(nr_blocks=32, block_bits=1024, *, fill=0.6, churn=0.45, populated=None, head=0, tail=0, seed=1):
    """Areas of random sizes packed from the front until `fill`, then `churn` of them freed again."""
    rng = np.random.default_rng(seed)
    nr_bits = nr_blocks * block_bits
    alloc = np.zeros(nr_bits, dtype=bool)
    bound = np.zeros(nr_bits + 1, dtype=bool)
    at = head // 4
    alloc[:at] = True
    bound[[0, at]] = True
    if tail:
        alloc[-tail // 4 :] = True
        bound[[-tail // 4 - 1, -1]] = True
    while at < fill * nr_bits:
        size = int(min(2 ** rng.integers(0, 9) * rng.integers(1, 9), nr_bits - tail // 4 - at))
        if rng.random() > churn:
            alloc[at : at + size] = True
        bound[at] = bound[at + size] = True
        at += size
    pages = np.ones(nr_blocks, dtype=bool)
    if populated is not None:
        pages[populated:] = False
    return SimpleNamespace(
        number=1, alloc_map=alloc, bound_map=bound, populated=pages, block_bits=block_bits,
        blocks=np.array([record(~part) for part in alloc.reshape(nr_blocks, block_bits)], dtype=RECORD),
        hints=np.array([record(~alloc)], dtype=RECORD), start_offset=head, end_offset=tail, min_alloc_size=4,
    )  # fmt: skip
