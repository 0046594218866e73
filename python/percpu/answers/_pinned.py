"""What lies in each chunk and page, from whatever is there: a state, a state and a trace, or a trace alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from percpu import _core
from percpu.allocator import Allocator, Chunk
from percpu.answers._page_model import PageModel, pairs
from percpu.errors import InvalidRequest, NotKept
from percpu.follow import Follow
from percpu.stats import _LABELS, PercpuStats
from percpu.trace import Trace

__all__ = ["KINDS", "LISTS", "View", "book", "join", "settled", "tell_unseen", "view_of_allocator", "view_of_follow"]

KINDS = ("reserved", "first", "ordinary")
LISTS = ("none", "searched", "free", "sidelined", "to_depopulate")
_DEPOPULATES = "linux-5.14"
# Cells of `Follow.cells`.
_UNKNOWN, _FREE, _HELD, _HIDDEN = 0, 1, 3, 4
_PASSES = 16
# Pages of all chunks of a trace together, as far as they are looked at one by one: 64 GiB of each CPU.
_MAX_PAGES = 1 << 24
# Chunks times rows of statistics that are compared; beyond that nothing is told.
_MAX_PAIRS = 1 << 24


@dataclass
class View:
    """Chunks, pages and areas, each as columns of equal length; pages and areas in the order of the chunks.

    Units: pages and areas by index, sizes and offsets in bytes of one CPU.
    """

    unit_size: int
    page_size: int
    granule: int
    cpus: int
    kernel: str
    depopulates: bool
    # Empty populated pages that requests may use: the kernel's global count. None if it cannot be known.
    stock: int | None
    chunks: dict[str, np.ndarray]
    pages: dict[str, np.ndarray]
    areas: dict[str, np.ndarray]
    sites: list[str] = field(default_factory=list)
    # Where it is known from which pages are populated.
    pages_from: str = "the state"

    def on_pages(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a row for each area and page it lies on: area, page (index in `pages`), and bytes of it there."""
        c = self.areas
        count = c["last_page"] - c["first_page"] + 1
        area = np.repeat(np.arange(len(count)), count)
        page = np.arange(len(area)) - np.repeat(np.cumsum(count) - count, count) + c["first_page"][area]
        begin = np.maximum(c["off_bytes"][area], page * self.page_size)
        end = np.minimum(c["off_bytes"][area] + c["size_bytes"][area], (page + 1) * self.page_size)
        return area, self.chunks["page_start"][c["chunk"][area]] + page, end - begin

    def pages_of(self, chunk: int) -> slice:
        """Return where the pages of a chunk are."""
        start = int(self.chunks["page_start"][chunk])
        return slice(start, start + int(self.chunks["nr_pages"][chunk]))

    def areas_of(self, chunk: int) -> slice:
        """Return where the areas of a chunk are."""
        first, last = np.searchsorted(self.areas["chunk"], [chunk, chunk + 1])
        return slice(int(first), int(last))


def settled(allocator: Allocator) -> Allocator:
    """Return a copy on which the balance worker has run until it changes nothing."""
    copy = allocator.copy()
    before = _marks(copy)
    for _ in range(_PASSES):
        copy.balance()
        after = _marks(copy)
        if after == before:
            break
        before = after
    return copy


def _marks(allocator: Allocator) -> tuple[Any, ...]:
    chunks = [chunk.info for chunk in allocator.chunks.values()]
    return allocator.slots, [(c["nr_populated"], c["isolated"]) for c in chunks], allocator.stats()


Booked = tuple[np.ndarray, np.ndarray, np.ndarray]


def view_of_allocator(allocator: Allocator, cpus: int | None = None, booked: Booked | None = None) -> View:
    """Look at an allocator. No area has a call site.

    With `booked` areas are taken from there: base address of the chunk, start and end in bytes, by address.
    """
    config = allocator._core.config()
    engine = config["engine"]
    chunks = list(allocator.chunks.values())
    if allocator.reserved_chunk is not None:
        chunks.insert(0, allocator.reserved_chunk)
    granule, page_size = config["min_alloc_size"], config["page_size"]
    lists = _lists(allocator)
    rows: list[dict[str, Any]] = []
    pages: list[dict[str, np.ndarray]] = []
    areas: list[tuple[np.ndarray, np.ndarray]] = []
    for number, chunk in enumerate(chunks):
        info = chunk.info
        kind = 0 if chunk.is_reserved else 1 if info["is_first"] else 2
        try:
            start, end = _areas(chunk, granule)
        except NotKept:
            text = f"source=Allocator of {engine}: its areas cannot be told apart, and its one chunk never goes away"
            raise InvalidRequest(text, parameter="source") from None
        to = info["start_offset"], len(chunk.alloc_map) * granule - info["end_offset"]
        if booked is not None:
            here = booked[0] == np.uint64(info["base_addr"])
            here &= (booked[1] >= info["start_offset"]) & (
                booked[1] < len(chunk.alloc_map) * granule - info["end_offset"]
            )
            start, end = booked[1][here], booked[2][here]
        areas.append((start, end))
        populated = chunk.populated
        n = len(populated)
        where = np.arange(n) * page_size
        hidden = (where < to[0]) | (where + page_size > to[1])
        nothing = np.zeros(n, dtype=np.int64)
        pages.append({"populated": populated.astype(np.int8), "blocked": hidden, "unknown": nothing})
        rows.append(
            {
                "chunk": number if chunk.number is None else chunk.number,
                "base_addr": info["base_addr"],
                "kind": kind,
                "list": LISTS.index(lists.get(chunk.number, "none")),
                "isolated": info["isolated"],
                "created": False,
                "complete": True,
                "empty_pages": int((populated & ~hidden & ~_touched(start, end, page_size, n)).sum()),
            }
        )
        if chunk.is_reserved:
            rows[-1]["chunk"] = -1
    stock = allocator.stats().get("nr_empty_pop_pages")
    if stock is None:
        stock = sum(row["empty_pages"] for row in rows if row["kind"] > 0)
    return _assemble(
        rows,
        pages,
        areas,
        unit_size=config["unit_size"],
        page_size=page_size,
        granule=granule,
        cpus=config["nr_cpus"] if cpus is None else cpus,
        kernel=config["kernel"],
        depopulates=engine == _DEPOPULATES and config["backend"] == "vm",
        stock=stock,
    )


def book(start: Allocator, trace: Trace, followed: Follow) -> Booked:
    """Return what is live after a trace: what is there at its start and not freed by it, and what it placed.

    That is bookkeeping, and does not depend on any prediction.
    """
    view = view_of_allocator(start)
    base = view.chunks["base_addr"][view.areas["chunk"]]
    begin, size = view.areas["off_bytes"], view.areas["size_bytes"]
    event, ends, _ = pairs(trace)
    prior = event[ends < 0]
    touched = set(zip(trace["base_addr"][prior].tolist(), trace["off_bytes"][prior].tolist(), strict=True))
    places = zip(base.tolist(), begin.tolist(), strict=True)
    stays = np.array([place not in touched for place in places], dtype=bool)
    live = followed.live()
    live = live[~live.prior]
    bases = np.concatenate([base[stays], live.base_addr])
    starts = np.concatenate([begin[stays], live.off_bytes.astype(np.int64)])
    stops = starts + np.concatenate([size[stays], live.size_bytes.astype(np.int64)])
    order = np.lexsort((starts, bases))
    return bases[order], starts[order], stops[order]


def _lists(allocator: Allocator) -> dict[int | None, str]:
    slots = allocator.slots
    named = {len(slots) - 1: "free"}
    if allocator.engine == _DEPOPULATES:
        named = {len(slots) - 3: "sidelined", len(slots) - 2: "free", len(slots) - 1: "to_depopulate"}
    return {number: named.get(slot, "searched") for slot, numbers in enumerate(slots) for number in numbers}


def _areas(chunk: Chunk, granule: int) -> tuple[np.ndarray, np.ndarray]:
    """Return start and end in bytes of the live areas of a chunk, without what is hidden before and behind it."""
    used, bounds = chunk.alloc_map, np.flatnonzero(chunk.bound_map)
    start = bounds[bounds < len(used)]
    start = start[used[start]]
    served = (start >= chunk.start_offset // granule) & (start < len(used) - chunk.end_offset // granule)
    start = start[served]
    end = bounds[np.searchsorted(bounds, start, "right")] if len(start) else start
    return start * granule, end * granule


def _touched(start: np.ndarray, end: np.ndarray, page_size: int, n: int) -> np.ndarray:
    change = np.zeros(n + 1, dtype=np.int64)
    np.add.at(change, start // page_size, 1)
    np.add.at(change, (end - 1) // page_size + 1, -1)
    return np.cumsum(change)[:n] > 0


def _assemble(
    rows: list[dict[str, Any]],
    pages: list[dict[str, np.ndarray]],
    areas: Sequence[tuple[np.ndarray, np.ndarray]],
    **facts: Any,
) -> View:
    page_size = facts["page_size"]
    types = {"chunk": np.int64, "base_addr": np.uint64, "kind": np.int64, "list": np.int64, "isolated": bool,
             "created": bool, "complete": bool, "empty_pages": np.int64}  # fmt: skip
    chunks = {name: np.array([row[name] for row in rows], dtype=kind) for name, kind in types.items()}
    lengths = np.array([len(part["populated"]) for part in pages], dtype=np.int64)
    chunks["unseen_areas"] = np.where(chunks["complete"], 0, -1)
    chunks["unseen_bytes"] = chunks["unseen_areas"].copy()
    chunks["nr_pages"] = lengths
    chunks["page_start"] = np.cumsum(lengths) - lengths
    start = _joined([part[0] for part in areas])
    end = _joined([part[1] for part in areas])
    own = np.repeat(np.arange(len(areas)), [len(part[0]) for part in areas])
    flat = {
        name: np.concatenate([np.zeros(0, dtype=kind), *(part[name] for part in pages)])
        for name, kind in (("populated", np.int8), ("blocked", bool), ("unknown", np.int64))
    }
    flat["chunk"] = np.repeat(np.arange(len(pages)), lengths)
    flat["page"] = np.arange(len(flat["chunk"])) - np.repeat(chunks["page_start"], lengths)
    first, last = start // page_size, (end - 1) // page_size
    columns: dict[str, np.ndarray] = {"chunk": own, "off_bytes": start, "size_bytes": end - start}
    columns |= {"first_page": first, "last_page": last}
    n = len(own)
    columns |= {"site": np.full(n, -1, dtype=np.int64), "known": np.zeros(n, dtype=bool)}
    columns |= {name: np.full(n, -1, dtype=np.int64) for name in ("alloc_event", "age_events", "age_ns")}
    view = View(chunks=chunks, pages=flat, areas=columns, **facts)
    _, page, part = view.on_pages()
    total = len(flat["chunk"])
    flat["nr_areas"] = np.bincount(page, minlength=total)
    flat["used_bytes"] = np.bincount(page, part, total).astype(np.int64)
    return view


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)


def join(view: View, followed: Follow) -> None:
    """Tell the areas of a state that a trace placed: call site, event and age."""
    live = followed.live()
    live = live[~live.prior]
    rows = {int(base): row for row, base in enumerate(view.chunks["base_addr"].tolist()) if view.chunks["kind"][row]}
    chunk = np.array([rows.get(base, -1) for base in live.base_addr.tolist()], dtype=np.int64)
    place = live.off_bytes.astype(np.int64)
    # A reserved chunk may share its base with the first one; its areas lie in front of those of the other.
    reserved = np.flatnonzero(view.chunks["kind"] == 0)
    if len(reserved) and live.reserved.any():
        at = int(reserved[0])
        chunk[live.reserved & (live.base_addr == view.chunks["base_addr"][at])] = at
    step = view.unit_size + view.page_size
    here = view.areas["chunk"] * step + view.areas["off_bytes"]
    there = chunk * step + place
    at = np.searchsorted(here, there)
    found = (chunk >= 0) & (at < len(here))
    found[found] = here[at[found]] == there[found]
    _tell(view, at[found], live[found])
    view.sites = list(live._categories["call_site"])


def _tell(view: View, at: np.ndarray, live: Any) -> None:
    view.areas["known"][at] = True
    view.areas["site"][at] = np.where(live.missing("call_site"), -1, live.call_site.astype(np.int64))
    for name in ("alloc_event", "age_events", "age_ns"):
        view.areas[name][at] = np.where(live.missing(name), -1, live[name].astype(np.int64))


def view_of_follow(
    followed: Follow, cpus: int, page_size: int, kernel: str, trace: Trace | None, stock: int | None
) -> View:
    """Look at what following a trace has shown; with the whole trace its pages are modelled."""
    summary = followed.summary
    granule, engine = summary["granule"], dict(zip(*_presets(), strict=True))[kernel]
    live = followed.live()
    live = live[~live.prior]
    order = np.lexsort((live.off_bytes, live.chunk))
    live = live[order]
    table = followed.chunks
    gone = ~table.missing("destroyed_event")
    unit_pages = max(summary["unit_size"] // page_size, 1)
    most = int((~gone).sum()) * unit_pages
    if most > _MAX_PAGES:
        text = f"{(~gone).sum()} chunks of it have {most} pages, the limit is {_MAX_PAGES}"
        raise InvalidRequest(f"unit_size={summary['unit_size']}: {text}", parameter="unit_size")
    if trace is not None and len(np.unique(trace["base_addr"])) * unit_pages > _MAX_PAGES:
        trace = None  # not modelled
    rows: list[dict[str, Any]] = []
    pages: list[dict[str, np.ndarray]] = []
    areas: list[tuple[np.ndarray, np.ndarray]] = []
    kept: list[np.ndarray] = []
    first_free: list[int] = []
    starts = live.off_bytes.astype(np.int64)
    ends = starts + live.size_bytes.astype(np.int64)
    present = np.flatnonzero(~gone)
    first_area, end_area = np.searchsorted(live.chunk, present), np.searchsorted(live.chunk, present, "right")
    for number, begin, stop in zip(present.tolist(), first_area.tolist(), end_area.tolist(), strict=True):
        cells = followed.cells(number)
        n = -(-max(len(cells) * granule, 1) // page_size)
        padded = np.full(n * (page_size // granule), _HIDDEN, dtype=np.uint8)
        padded[: len(cells)] = cells
        padded = padded.reshape(n, -1)
        unknown = ((padded == _UNKNOWN) | (padded == _HELD)).sum(axis=1)
        boot = bool(table.boot[number])
        is_free = cells == _FREE
        first_free.append(int(is_free.argmax()) if is_free.any() else len(cells))
        kept.append(np.arange(begin, stop))
        start, end = starts[begin:stop], ends[begin:stop]
        areas.append((start, end))
        hidden = (padded == _HIDDEN).any(axis=1)
        blocked = hidden | (unknown > 0)
        populated = np.where(_touched(start, end, page_size, n) | hidden, 1, -1).astype(np.int8)
        pages.append({"populated": populated, "blocked": blocked, "unknown": unknown * granule})
        rows.append(
            {
                "chunk": number,
                "base_addr": int(table.base_addr[number]),
                "kind": 1 if boot else 2,
                "list": 0,
                "isolated": False,
                "created": bool(table.created[number]),
                "complete": not unknown.any() and not boot,
                "empty_pages": 0,
            }
        )
    depopulates = engine == _DEPOPULATES
    model = None
    if trace is not None:
        known = {r["base_addr"]: ~part["blocked"] for r, part in zip(rows, pages, strict=True) if not r["created"]}
        fixed = {r["base_addr"] for r in rows if r["kind"] == 1}
        model = PageModel(trace, page_size, summary["unit_size"], depopulates, stock, known, fixed)
        for row, part in zip(rows, pages, strict=True):
            told = model.populated(row["base_addr"], len(part["populated"]))
            part["populated"] = np.where(part["populated"] == -1, told, part["populated"]).astype(np.int8)
            row["isolated"] = model.is_isolated(row["base_addr"])
    view = _assemble(
        rows,
        pages,
        areas,
        unit_size=summary["unit_size"],
        page_size=page_size,
        granule=granule,
        cpus=cpus,
        kernel=kernel,
        depopulates=depopulates,
        stock=None if model is None else model.stock,
        pages_from="live areas only" if model is None else "the trace" if model.recorded else "a model of the worker",
    )
    view.chunks["first_free"] = np.array(first_free, dtype=np.int64)
    if rows:
        _tell(view, np.arange(len(view.areas["chunk"])), live[np.concatenate(kept)])
        empty = (view.pages["populated"] == 1) & ~view.pages["blocked"] & (view.pages["nr_areas"] == 0)
        view.chunks["empty_pages"] = np.bincount(view.pages["chunk"][empty], minlength=len(rows))
        alone = view.chunks["complete"] & ~np.isin(np.arange(len(rows)), view.areas["chunk"])
        view.chunks["isolated"] &= ~alone
        isolated = np.where(view.chunks["isolated"], LISTS.index("sidelined"), LISTS.index("searched"))
        view.chunks["list"] = np.where(alone, LISTS.index("free"), isolated)
    view.sites = list(live._categories["call_site"])
    return view


def tell_unseen(view: View, stats: PercpuStats, pointers: bool) -> None:
    """Find in each chunk how many areas were not seen, where one row of statistics from the end is left for it.

    A row is none for a chunk if it counts fewer areas or bytes than were seen there, or more bytes than can be in use,
    or if what it says to be in use from the start on is known to be free.
    """
    c, n = view.chunks, len(view.chunks["chunk"])
    seen = np.bincount(view.areas["chunk"], minlength=n)
    used = np.bincount(view.areas["chunk"], view.areas["size_bytes"], n).astype(np.int64)
    most = used + np.bincount(view.pages["chunk"], view.pages["unknown"], n).astype(np.int64)
    largest = np.zeros(n, dtype=np.int64)
    np.maximum.at(largest, view.areas["chunk"], view.areas["size_bytes"])
    table = stats.table()
    label = stats.chunks["label"]
    # Pointers show which chunk is the first, unless they are hashed or not translated (one CPU, no static region).
    shown = pointers and stats.sizes["static_size"] > 0
    with_first = bool((c["kind"] == 1).any()) or not shown
    rows = np.flatnonzero((label != _LABELS.index("reserved")) & (with_first | (label != _LABELS.index("first"))))
    if n * len(rows) > _MAX_PAIRS:
        return
    boot = label[rows] == _LABELS.index("first")
    nr, own = stats.chunks["nr_alloc"][rows], table["used_bytes"][rows]

    def of(values: np.ndarray) -> np.ndarray:
        return values[:, None]

    # By chunk and row: whether the row may be of the chunk.
    maybe_first = (c["kind"] == 1) | (~c["created"] & (not shown))
    fits = np.where(boot, of(maybe_first), of(c["kind"] != 1)) & (nr >= of(seen)) & (own >= of(used))
    # What is left over is nothing, or some areas of some bytes each.
    fits &= (boot | (own <= of(most))) & ((nr == of(seen)) == (own == of(used)))
    fits &= boot | (stats.chunks["first_free_bits"][rows] <= of(c["first_free"]))
    fits &= stats.chunks["cur_max_alloc_bytes"][rows] >= of(largest)
    # Rows that leave the same over, whatever the chunk: how many of each sort fit, and how many sorts do.
    sort = np.unique(np.stack([nr, own]), axis=1, return_inverse=True)[1].reshape(-1)
    count = np.zeros((n, len(rows)), dtype=np.int32)
    for row in range(len(rows)):
        count[:, sort[row]] += fits[:, row]
    sorts, chunks = (count > 0).sum(axis=1), fits.sum(axis=0)
    left = [n, len(rows)]
    while True:
        if (found := np.flatnonzero(sorts == 1)).size:
            chunk = int(found[0])
            row = int(np.flatnonzero(fits[chunk])[0])
        elif left[0] == left[1] and (found := np.flatnonzero(chunks == 1)).size:
            # Where every chunk was seen, each row is of one of them.
            row = int(found[0])
            chunk = int(np.flatnonzero(fits[:, row])[0])
        else:
            return
        c["unseen_areas"][chunk], c["unseen_bytes"][chunk] = nr[row] - seen[chunk], own[row] - used[chunk]
        c["complete"][chunk] |= c["unseen_areas"][chunk] == 0 and c["kind"][chunk] == 2
        left = [left[0] - 1, left[1] - 1]
        chunks -= fits[chunk]
        fits[chunk], count[chunk], sorts[chunk] = False, 0, 0
        less = np.flatnonzero(fits[:, row])
        count[less, sort[row]] -= 1
        sorts[less] -= count[less, sort[row]] == 0
        fits[:, row], chunks[row] = False, 0


def _presets() -> tuple[list[str], list[str]]:
    releases, engines, _ = zip(*_core.kernels(), strict=True)
    return list(releases), list(engines)
