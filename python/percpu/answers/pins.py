"""What keeps per-CPU memory: the areas in each chunk and page, and the fewest whose freeing gives some back."""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from percpu._checks import integer, release
from percpu.allocator import Allocator
from percpu.answers import _ideal
from percpu.answers._freeing import MAX_CHOICES, PageCosts, fewest_for_pages
from percpu.answers._machine import Cpus, cpus_of_trace
from percpu.answers._pinned import (
    KINDS,
    LISTS,
    View,
    book,
    join,
    settled,
    tell_unseen,
    view_of_allocator,
    view_of_follow,
)
from percpu.answers._pins_table import main_of, page_costs, sum_of_least, table
from percpu.errors import InvalidRequest
from percpu.follow import Follow
from percpu.layout import FirstChunkLayout
from percpu.replay import replay
from percpu.results import Result
from percpu.stats import PercpuStats, read_percpu_stats
from percpu.trace import Trace, read_trace

__all__ = ["Freeing", "Pins", "pins"]

_SIZES = ("unit_size", "nr_units", "page_size")


class Freeing(Result):
    """Which areas to free, one row each; made by `Pins.smallest`, `Pins.cheapest` and `Pins.emptying`.

    Columns as of `Pins.areas`. In ``attrs``: ``nr_areas`` and ``areas_bytes`` (of one CPU), ``unseen_areas`` (how many
    of them are there since before the capture and have no row: statistics count them), ``chunks`` (those that are
    emptied, in the order in which to do it), ``nr_chunks`` (chunks that go away), ``nr_pages`` and ``returned_bytes``
    (memory that comes back at least, the latter of all CPUs, before the worker fills its stock of up to four pages).
    """


class Pins(Result):
    """What keeps each chunk: one row a chunk; made by `pins`.

    ======================  ==========================================================================================
    column                  says
    ======================  ==========================================================================================
    ``chunk``               its number: that of the allocator, -1 for the reserved chunk; row of `Follow.chunks` where
                            there is no state (int64)
    ``base_addr``           uint64
    ``kind``                category: ``reserved``, ``first``, ``ordinary``
    ``list``                category: ``searched``, ``free`` (no areas), ``sidelined`` and ``to_depopulate`` (isolated,
                            5.14 on), ``none`` (the reserved chunk)
    ``complete``            whether every area of it is known (bool)
    ``nr_areas``            live areas that are known (int64)
    ``used_bytes``          their bytes, of one CPU
    ``unknown_bytes``       bytes of one CPU that may be in use since before the capture
    ``unseen_areas``        areas that were there before the capture and still are; missing unless everything is known
                            or statistics from the end tell
    ``unseen_bytes``        their bytes, of one CPU; missing as before
    ``nr_pages``            pages of one CPU
    ``populated_pages``     those that are backed by memory (without a state: that are known to be)
    ``empty_pages``         populated, and no area on them
    ``populated_bytes``     memory of all CPUs
    ``release_areas``       areas to free until the whole chunk is free: all of them, unseen ones too; missing where
                            their number is not known, and in boot chunks
    ``verdict``             category, what becomes of the empty pages; below
    ``depopulate_areas``    fewest areas of this chunk to free until the worker takes pages from it; missing if it never
                            does. Where the chunk is not complete, at most so many
    ``depopulate_pages``    pages of one CPU that it takes then, at least; missing as before
    ``now_pages``           pages that the worker gives back on its own, in its next run
    ``main_site``           call site with the most bytes; missing if none is known
    ``main_bytes``          its bytes, of one CPU
    ``oldest_age_ns``       age of the oldest area that the capture placed; missing if none, or the clock only counts
    ======================  ==========================================================================================

    Verdicts, by specification 21 sections 3 to 5:

    =================  ===============================================================================================
    ``boot``           pages of the boot chunks are never given back
    ``whole_only``     before 5.14, and without an MMU: only chunks as a whole
    ``kept``           without areas, and the one that the worker keeps
    ``goes``           without areas, and not that one; or on the list to be depopulated: goes in the next run
    ``at_once``        isolated: a page goes as soon as it is empty
    ``next_free``      a quarter is empty, and more than four pages are empty elsewhere: goes after the next free in it
    ``few_elsewhere``  not more than four pages are empty elsewhere
    ``too_few_empty``  less than a quarter of the pages is empty
    ``last_area``      a quarter would be empty only after its last area is freed, and then it is a free chunk
    =================  ===============================================================================================

    Attributes
    ----------
    summary : dict
        ``source``, ``cpus`` and where that is from (``cpus_from``), where it is known from which pages are populated
        (``pages_from``), sizes, sums over all chunks, ``stock_pages`` (empty
        pages that requests may use), ``nr_diverged`` (with trace and state: events that were not predicted, else 0),
        ``nr_outside`` (areas of the trace that are in no chunk then, and in no table: the state is another one),
        ``now_pages`` and ``now_chunks`` (what the worker gives back on its own),
        ``waiting_pages`` (what it would give back after one more free in each chunk whose verdict is ``next_free``, as
        far as the stock allows), ``seen_share`` (of the bytes that serve requests).
    areas : Result
        One row an area.
    pages : Result
        One row a page.
    owners : Result
        One row a chunk and call site.
    """

    _facts: dict[str, Any]

    def __init__(self) -> None:
        raise TypeError("use pins(source)")

    @classmethod
    def _wrap(cls, parts: dict[str, Any], facts: dict[str, Any]) -> Pins:
        self = cls.__new__(cls)
        Result.__init__(self, **parts)
        self._facts = facts
        return self

    def __getitem__(self, key: Any) -> Any:
        """Return a column, a row, or a plain result with some of the rows."""
        if isinstance(key, str):
            return super().__getitem__(key)
        plain = Result(dict(self._columns), mask=self._mask, categories=self._categories, attrs=self.attrs)
        return plain[key]

    def __reduce__(self) -> tuple[Any, ...]:
        parts = {"columns": dict(self._columns), "mask": self._mask, "categories": self._categories,
                 "attrs": self.attrs}  # fmt: skip
        return Pins._wrap, (parts, self._facts)

    @property
    def summary(self) -> dict[str, Any]:
        """Sums and facts; see the class."""
        return dict(self._facts["summary"])

    @property
    def _view(self) -> View:
        return self._facts["view"]

    # -- what lies where -------------------------------------------------------------

    @property
    def areas(self) -> Result:
        """One row an area, by chunk and offset.

        ``chunk`` (int64), ``off_bytes``, ``size_bytes`` (int64, of one CPU), ``first_page``, ``last_page``,
        ``call_site`` (category), ``known`` (bool: placed by the capture; the others were there before),
        ``alloc_event``, ``age_events``, ``age_ns`` (int64, missing where not known).
        """
        view = self._view
        return self._areas(np.arange(len(view.areas["chunk"])))

    def _areas(self, rows: np.ndarray, attrs: Mapping[str, Any] | None = None, cls: type[Result] = Result) -> Any:
        view = self._view
        c = {name: values[rows] for name, values in view.areas.items()}
        columns = {"chunk": view.chunks["chunk"][c["chunk"]]}
        columns |= {name: c[name] for name in ("off_bytes", "size_bytes", "first_page", "last_page")}
        columns["call_site"] = np.maximum(c["site"], 0)
        columns["known"] = c["known"]
        mask = {"call_site": c["site"] < 0}
        for name in ("alloc_event", "age_events", "age_ns"):
            columns[name], mask[name] = np.maximum(c[name], 0), c[name] < 0
        mask = {name: flags for name, flags in mask.items() if flags.any()}
        sites = {"call_site": view.sites or [""]}
        return cls(columns, mask=mask, categories=sites, attrs=attrs)

    @property
    def pages(self) -> Result:
        """One row a page.

        ``chunk``, ``page`` (int64), ``populated`` (bool, missing where it is not known), ``nr_areas``, ``used_bytes``,
        ``unknown_bytes`` (int64, of one CPU), ``empty`` (bool: populated, no area on it, and all of it known),
        ``main_site`` (category: the call site with the most bytes on it; missing if none is known), ``main_bytes``,
        ``nr_sites`` (int64: call sites on it that are known), ``oldest_age_ns`` (int64, missing where not known).
        """
        view = self._view
        p, c = view.pages, view.areas
        n, unclear = len(p["chunk"]), p["populated"] < 0
        area, page, part = view.on_pages()
        oldest = np.full(n, -1, dtype=np.int64)
        np.maximum.at(oldest, page, c["age_ns"][area])
        site, most, sites = main_of(page, c["site"][area], part, n, len(view.sites))
        columns = {
            "chunk": view.chunks["chunk"][p["chunk"]],
            "page": p["page"],
            "populated": p["populated"] == 1,
            "nr_areas": p["nr_areas"],
            "used_bytes": p["used_bytes"],
            "unknown_bytes": p["unknown"],
            "empty": (p["populated"] == 1) & ~p["blocked"] & (p["nr_areas"] == 0),
            "main_site": np.maximum(site, 0),
            "main_bytes": most,
            "nr_sites": sites,
            "oldest_age_ns": np.maximum(oldest, 0),
        }
        mask = {"populated": unclear, "main_site": site < 0, "main_bytes": site < 0, "oldest_age_ns": oldest < 0}
        mask = {name: flags for name, flags in mask.items() if flags.any()}
        return Result(columns, mask=mask, categories={"main_site": view.sites or [""]})

    @property
    def owners(self) -> Result:
        """One row a chunk and call site, the most bytes of a chunk first.

        ``chunk``, ``call_site`` (category; missing: not recorded, or there before the capture), ``known`` (bool: placed
        by the capture), ``nr_areas``, ``used_bytes`` (int64, of one CPU), ``nr_pages`` (pages with an area of it),
        ``sole_pages`` (pages with no area of anyone else), ``oldest_age_ns``, ``median_age_ns`` (int64, missing where
        not known).
        """
        view = self._view
        c = view.areas
        width = len(view.sites) + 2
        code = np.where(c["known"], c["site"] + 1, width - 1)
        group, of = np.unique(c["chunk"] * width + code, return_inverse=True)
        n = len(group)
        chunk, code = group // width, group % width
        size = np.bincount(of, c["size_bytes"], n).astype(np.int64)
        # Pairs of page and owner: an area may lie on several pages.
        area, page, _ = view.on_pages()
        total = max(len(view.pages["chunk"]), 1)
        pairs = np.unique(of[area] * total + page)
        alone = np.bincount(pairs % total, minlength=total)[pairs % total] == 1
        if len(pairs):
            alone &= view.pages["unknown"][pairs % total] == 0
        oldest, median, aged = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
        order = np.lexsort((c["age_ns"], of))
        bounds = np.searchsorted(of[order], np.arange(n + 1))
        for row in range(n):
            ages = c["age_ns"][order[bounds[row] : bounds[row + 1]]]
            ages = ages[ages >= 0]
            if len(ages):
                oldest[row], median[row], aged[row] = ages[-1], ages[(len(ages) - 1) // 2], True
        columns = {
            "chunk": view.chunks["chunk"][chunk],
            "call_site": np.clip(code - 1, 0, max(len(view.sites) - 1, 0)),
            "known": code < width - 1,
            "nr_areas": np.bincount(of, minlength=n),
            "used_bytes": size,
            "nr_pages": np.bincount(pairs // total, minlength=n),
            "sole_pages": np.bincount(pairs[alone] // total, minlength=n),
            "oldest_age_ns": oldest,
            "median_age_ns": median,
        }
        unnamed = (code == 0) | (code == width - 1)
        mask = {"call_site": unnamed, "oldest_age_ns": ~aged, "median_age_ns": ~aged}
        found = Result(
            columns,
            mask={name: flags for name, flags in mask.items() if flags.any()},
            categories={"call_site": view.sites or [""]},
        )
        return found[np.lexsort((-size, chunk))]

    # -- what to free ----------------------------------------------------------------

    def _candidates(self) -> np.ndarray:
        """Rows of the chunks that can go: fewest areas first, then most pages, then fewest bytes in use."""
        able = np.flatnonzero(~self.missing("release_areas") & (self.release_areas > 0))
        used = self.used_bytes + self.unseen_bytes
        return able[np.lexsort((able, used[able], -self.populated_pages[able], self.release_areas[able]))]

    def smallest(self, chunks: int = 1) -> Freeing:
        """Find the fewest areas whose freeing makes chunks go away.

        Parameters
        ----------
        chunks : int, default 1
            How many chunks less there shall be, beyond what the worker frees on its own.

        Returns
        -------
        Freeing
            Chunk by chunk. One free chunk is kept by the worker; so if there was none before, one more is emptied than
            goes.

        Raises
        ------
        InvalidRequest
            If so many cannot go: too few chunks, or too few of which every area is known.

        Notes
        -----
        It is the minimum. A chunk goes away only when it is free from end to end, and of the free ones one always
        stays; so that, with ``f`` of them free already, ``chunks + 1 - f`` others have to lose all their areas. No area
        belongs to two chunks: those with the fewest areas make the least sum. It suffices where a unit has four pages
        or more; a smaller chunk alone cannot hold the four empty pages that the worker keeps ready.

        Examples
        --------
        >>> import percpu as pc
        >>> a = pc.Allocator(unit_size=32 << 10, nr_units=4)
        >>> p = a.alloc_many([30_000, 2_768, 30_000, 24, 24, 20_000]).ptr
        >>> a.free_many(p[[2, 5]])  # two small areas alone in one chunk, and a free one
        >>> found = pc.pins(a).smallest()
        >>> found.attrs["nr_areas"], found.attrs["chunks"]
        (2, [1])
        """
        wanted = integer("chunks", chunks, 1, 1 << 32)
        order = self._candidates()
        need = max(wanted + 1 - self._facts["free_chunks"], 1)
        if need > len(order):
            limit = max(len(order) - 1 + self._facts["free_chunks"], 0) if len(order) else 0
            raise InvalidRequest(f"chunks={wanted}: at most {limit} can go", parameter="chunks")
        chosen = order[:need]
        # Last the one with the fewest pages: if the worker is not late, that is the one that stays.
        chosen = chosen[np.argsort(-self.populated_pages[chosen], kind="stable")]
        return self._emptied(chosen.tolist())

    def cheapest(self, returned_bytes: int) -> Freeing:
        """Find the fewest areas whose freeing gives back memory, by emptying whole chunks.

        Parameters
        ----------
        returned_bytes : int
            Of all CPUs.

        Returns
        -------
        Freeing
            In the order in which to free them.

        Raises
        ------
        InvalidRequest
            If so much cannot come back.

        Notes
        -----
        Exact, a knapsack over all chunks: taking the chunks in the order of bytes an area can be wrong. What counts is
        what is certain: one of the free chunks stays, and it may be the one with the most pages. Of what comes back the
        worker may take up to four pages in each of its runs, to have some ready.
        """
        wanted = integer("returned_bytes", returned_bytes, 1)
        page = self.summary["page_size"] * self.summary["cpus"]
        need = -(-wanted // page)
        order = self._candidates()
        areas, pages = self.release_areas[order].tolist(), self.populated_pages[order].tolist()
        # A free chunk that is there already costs nothing, and may be the one that stays.
        areas, pages = [*areas, 0], [*pages, self._facts["free_pages"]]
        most = sum(pages) - max(pages)
        if need <= most and need * len(pages) > MAX_CHOICES:
            text = f"returned_bytes={wanted}: too many pages ({need}) and chunks ({len(pages)}) to try; use order()"
            raise InvalidRequest(text, parameter="returned_bytes")
        found = fewest_for_pages(areas, pages, need) if need <= most else None
        if found is None:
            text = f"returned_bytes={wanted}: at most {most * page} are certain"
            raise InvalidRequest(text, parameter="returned_bytes")
        rows = order[[row for row in found if row < len(order)]]
        return self._emptied(rows[np.argsort(-self.populated_pages[rows], kind="stable")].tolist())

    def order(self) -> Result:
        """Tell which chunks to empty first.

        Returns
        -------
        Result
            One row a chunk that can go, fewest areas first: ``chunk``, ``nr_areas``, ``used_bytes``,
            ``populated_bytes``, and with all rows before it ``total_areas``, ``gone_chunks`` (chunks less) and
            ``returned_bytes`` (at least, of all CPUs).
        """
        rows = self._candidates()
        pages = self.populated_pages[rows]
        n = len(rows)
        free, page = self._facts["free_chunks"], self.summary["page_size"] * self.summary["cpus"]
        most = np.maximum(np.maximum.accumulate(pages), self._facts["free_pages"]) if n else pages
        certain = self._facts["free_pages"] + np.cumsum(pages) - most
        return Result(
            {
                "chunk": self.chunk[rows],
                "nr_areas": self.release_areas[rows],
                "used_bytes": (self.used_bytes + self.unseen_bytes)[rows],
                "populated_bytes": self.populated_bytes[rows],
                "total_areas": np.cumsum(self.release_areas[rows]),
                "gone_chunks": np.maximum(np.arange(1, n + 1) + free - 1, 0),
                "returned_bytes": certain * page,
            }
        )

    def emptying(self, pages: int, chunk: int | None = None) -> Freeing:
        """Find the fewest areas whose freeing leaves more populated pages empty.

        Parameters
        ----------
        pages : int
            How many more, of one CPU.
        chunk : int, optional
            In this chunk (a value of the column ``chunk``); by default in all chunks but the boot chunks.

        Returns
        -------
        Freeing
            ``attrs["nr_pages"]`` pages become empty; whether the worker takes them is another matter (`verdict`).

        Raises
        ------
        InvalidRequest
            If so many cannot become empty.

        Notes
        -----
        It is the minimum, found page by page; an area may lie on two pages and more. Over several chunks the least sum
        is taken over all ways to divide the pages among them.
        """
        wanted = integer("pages", pages, 1, 1 << 32)
        if chunk is None:
            rows = np.flatnonzero((self.kind == KINDS.index("ordinary")) & (self.nr_areas > 0)).tolist()
        else:
            number = chunk if chunk == -1 else integer("chunk", chunk)
            rows = np.flatnonzero(self.chunk == number).tolist()
            if not rows:
                raise InvalidRequest(f"chunk={chunk}: there is no such chunk", parameter="chunk")
        costs = [self._costs(row, wanted) for row in rows]
        least = np.array([0])
        shares: list[np.ndarray] = []
        for cost in costs:
            least, share = sum_of_least(least, cost.cost, wanted)
            shares.append(share)
        if len(least) <= wanted:
            text = f"pages={wanted}: at most {len(least) - 1} can become empty"
            raise InvalidRequest(text, parameter="pages")
        left, found, emptied = wanted, [], []
        for row, cost, share in zip(rows[::-1], costs[::-1], shares[::-1], strict=True):
            mine = int(share[left])
            if mine:
                found.append(cost.areas(mine) + self._view.areas_of(row).start)
                emptied.append(int(self.chunk[row]))
                left -= mine
        areas = np.concatenate(found[::-1])
        size = int(self._view.areas["size_bytes"][areas].sum())
        attrs = {"nr_areas": len(areas), "unseen_areas": 0, "areas_bytes": size, "chunks": emptied[::-1],
                 "nr_chunks": 0, "nr_pages": wanted, "returned_bytes": 0}  # fmt: skip
        return self._areas(areas, attrs, Freeing)

    def _costs(self, row: int, most: int | None) -> PageCosts:
        return page_costs(self._view, row, most)

    def _emptied(self, rows: list[int]) -> Freeing:
        view = self._view
        areas = np.concatenate([np.arange(len(view.areas["chunk"]))[view.areas_of(row)] for row in rows])
        pages = self.populated_pages[rows]
        free = self._facts["free_pages"]
        certain = free + int(pages.sum()) - max(int(pages.max()), free)
        page = self.summary["page_size"] * self.summary["cpus"]
        unseen = int(self.unseen_areas[rows].sum())
        attrs = {
            "nr_areas": len(areas) + unseen,
            "unseen_areas": unseen,
            "areas_bytes": int(view.areas["size_bytes"][areas].sum() + self.unseen_bytes[rows].sum()),
            "chunks": self.chunk[rows].tolist(),
            "nr_chunks": len(rows) + self._facts["free_chunks"] - 1,
            "nr_pages": certain,
            "returned_bytes": certain * page,
        }
        return self._areas(areas, attrs, Freeing)

    # -- what it could have cost -----------------------------------------------------

    def ideal(self) -> Result:
        """Bound from below what the areas need, wherever an allocator puts them.

        Returns
        -------
        Result
            Rows ``end`` and, of a trace that lost no events, ``peak`` (the event after which the most bytes are live):
            ``moment``, ``event`` (missing for a state), ``nr_areas``, ``live_bytes`` (of one CPU, rounded to granules),
            ``least_pages``, ``least_chunks``, ``least_bytes`` (pages of all CPUs).

        Notes
        -----
        Areas are disjoint sets of granules, so that the sum of the rounded sizes is no more than the populated bytes.
        An area that must be aligned to ``a`` has ``ceil(size / a)`` cells of ``a`` bytes with no other such area in
        them; that gives a bound for each ``a``, and the largest counts. Chunks, the first one among them, are bins of a
        unit each: the bound L2 of Martello and Toth. It holds for what is known, and moving areas does not get below
        it. What the trace does not show, and alignments that are not known, can only make it larger.
        """
        view, trace = self._view, self._facts["trace"]
        size = -(-view.areas["size_bytes"] // view.granule) * view.granule
        align = np.zeros(len(size), dtype=np.int64)
        if trace is not None:
            told = np.flatnonzero(view.areas["alloc_event"] >= 0)
            align[told] = trace["align_bytes"][view.areas["alloc_event"][told]]
        moments: list[tuple[str, int | None, np.ndarray, np.ndarray]] = []
        moments.append(("end", None if trace is None else len(trace), size, align))
        if trace is not None:
            start: Allocator | None = self._facts["start"]
            prior = None
            if start is not None:
                known = view_of_allocator(start)
                base = known.chunks["base_addr"][known.areas["chunk"]]
                prior = Result({"base_addr": base, "off_bytes": known.areas["off_bytes"],
                                "size_bytes": known.areas["size_bytes"]})  # fmt: skip
            top = _ideal.peak(trace, prior, view.granule)
            if top is not None:
                moments.append(("peak", top[0] + 1, top[1], top[2]))
        rows = []
        for name, event, sizes, aligns in moments:
            pages = _ideal.pages_at_least(sizes, aligns, view.granule, view.page_size)
            rows.append(
                {
                    "moment": name,
                    "event": event or 0,
                    "nr_areas": len(sizes),
                    "live_bytes": int(sizes.sum()),
                    "least_pages": pages,
                    "least_chunks": _ideal.chunks_at_least(sizes, view.granule, view.unit_size),
                    "least_bytes": pages * view.page_size * view.cpus,
                }
            )
        mask = {} if trace is not None else {"event": np.array([True])}
        return Result({name: np.array([row[name] for row in rows]) for name in rows[0]}, mask=mask)

    def engines(self, kernels: Any = None) -> Result:
        """Make the same requests and frees on other engines.

        Parameters
        ----------
        kernels : sequence of str, optional
            Releases or engines; by default the newest release of each engine that was compared with a kernel.

        Returns
        -------
        Result
            One row a kernel: ``kernel``, ``engine``, ``nr_failed`` (requests that found no place), ``peak_chunks``,
            ``end_chunks``, ``peak_populated_pages``, ``end_populated_pages`` (of one CPU), ``peak_bytes``,
            ``end_bytes`` (memory of all CPUs).

        Raises
        ------
        InvalidRequest
            If there is no trace, or no such kernel.

        Notes
        -----
        Each begins with ordinary chunks of the same unit, without boot chunks, and with what is live at the start of
        the trace if a state tells, handed out anew; so that one's own kernel may do better here than it did. Where an
        engine keeps no total of its pages, the peak is that of a count every 256 events.
        """
        trace: Trace | None = self._facts["trace"]
        if trace is None:
            raise InvalidRequest("engines() needs the requests of a trace, not a state alone", parameter="kernels")
        given = [r for _, r in _ideal.newest_of_engines()] if kernels is None else list(kernels)
        names = [release(kernel) for kernel in given]
        s = self.summary
        sizes = {"unit_size": s["unit_size"], "nr_units": s["nr_units"], "page_size": s["page_size"]}
        rows = [_ideal.rerun_on(trace, self._facts["start"], name, sizes) for name, _, _ in names]
        columns: dict[str, Any] = {"kernel": [n for n, _, _ in names], "engine": [e for _, e, _ in names]}
        columns |= {name: np.array([row[name] for row in rows], dtype=np.int64) for name in rows[0]} if rows else {}
        page = s["page_size"] * s["cpus"]
        for moment in ("peak", "end"):
            columns[f"{moment}_bytes"] = columns[f"{moment}_populated_pages"] * page
        return Result(columns, dims=("kernel",))

    def plot(self, ax: Any = None, *, top: int = 24) -> Any:
        """Draw the chunks: what is used, empty and not populated in each, and how few areas keep it.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure by default.
        top : int, default 24
            At most so many chunks: those with the most memory for each area.

        Returns
        -------
        matplotlib.axes.Axes
            What it was drawn into.
        """
        from percpu.plot.pins import plot_pins

        return plot_pins(self, ax, top=top)

    def __repr__(self) -> str:
        s = self.summary
        chunks = f"{len(self)} chunk{'' if len(self) == 1 else 's'}"
        return (
            f"Pins({s['source']}: {chunks}, {s['nr_areas']} areas, {s['populated_pages']} populated pages, "
            f"{s['empty_pages']} of them empty, x {s['cpus']} CPUs)"
        )


def pins(
    source: Any,
    state: Any = None,
    *,
    stats: PercpuStats | str | os.PathLike[str] | None = None,
    stats_end: PercpuStats | str | os.PathLike[str] | None = None,
    layout: FirstChunkLayout | None = None,
    unit_size: int | None = None,
    cpus: int | None = None,
    kernel: str | None = None,
) -> Pins:
    """Say what keeps the chunks and pages of per-CPU memory, and what the fewest areas are that could give some back.

    Parameters
    ----------
    source : Trace, Follow, Allocator, str or path
        A capture, with a state or without; what came of following one; a live allocator; or the file of a trace or of a
        state.
    state : Allocator, str, path or bytes, optional
        The state in which the trace begins. Then every area is known.
    stats, stats_end : PercpuStats, str or path, optional
        Without a state: ``percpu_stats`` from right before the trace and right after it; more is known then.
    layout : FirstChunkLayout, optional
        Without a state: the machine.
    unit_size : int, optional
        Or only its unit size, in bytes; else it is taken from the statistics, or inferred.
    cpus : int, optional
        Possible CPUs; by default those of the state or layout, else what the events tell (see ``cpus_from``).
    kernel : str, optional
        Release or engine whose rules count; 6.12 by default, an allocator's own.

    Returns
    -------
    Pins
        One row a chunk.

    Raises
    ------
    InvalidRequest
        If the arguments do not go together, or the engine cannot tell its areas apart (cpu_alloc-2008).
    StateError, TraceError
        If a file cannot be used.

    Notes
    -----
    Of a state everything is known but who asked; with a trace also that, of what it placed. Without a state what was
    there before the capture is not known: chunks made in the capture are known from end to end, of the others only the
    areas that it placed. Which pages are backed by memory is then modelled from the requests and frees by the kernel's
    rules (specification 20 and 21), unless the trace tells of pages; a page that is not known to be populated does not
    count.

    Examples
    --------
    >>> from importlib.resources import files
    >>> from percpu import pins
    >>> run = files("percpu") / "data/demo/workload"
    >>> p = pins(run / "trace.txt.gz", run / "state-a.json.gz")
    >>> p.summary["nr_areas"] == len(p.areas)
    True
    """
    what = _opened(source, kernel)
    if cpus is not None and not isinstance(cpus, Cpus):
        integer("cpus", cpus, 1, 1 << 20)
    if isinstance(what, Allocator):
        for name, value in (
            ("state", state),
            ("stats", stats),
            ("stats_end", stats_end),
            ("layout", layout),
            ("unit_size", unit_size),
        ):
            if value is not None:
                raise InvalidRequest(f"{name}: a state as source does not take it", parameter=name)
        if kernel is not None and isinstance(source, Allocator) and release(kernel)[0] != what.kernel:
            raise InvalidRequest(f"kernel={kernel!r}: the allocator is of {what.kernel}", parameter="kernel")
        facts = _facts_of_allocator(what, cpus, "state")
        return _made(facts, None, None)
    if state is not None:
        for name, value in (("stats", stats), ("stats_end", stats_end), ("layout", layout), ("unit_size", unit_size)):
            if value is not None:
                raise InvalidRequest(f"{name}= and state= exclude each other", parameter=name)
        if not isinstance(what, Trace):
            raise InvalidRequest("state= goes with a trace", parameter="state")
        start = state if isinstance(state, Allocator) else Allocator.from_state(state, kernel=kernel or "6.12")
        end = start.copy()
        diverged = replay(what, end).nr_diverged
        followed = replay(what, mode="follow", unit_size=start.unit_size)
        # Where a prediction was wrong the places of the trace count; lists and pages are those of the prediction.
        booked = book(start, what, followed) if diverged else None
        facts = _facts_of_allocator(end, cpus, "trace and state", booked)
        facts["nr_diverged"] = diverged
        if booked is not None:
            facts["nr_outside"] = len(booked[0]) - len(facts["view"].areas["chunk"])
        join(facts["view"], followed)
        return _made(facts, what, start)
    path = source if isinstance(source, (str, os.PathLike)) else None
    return _made(_facts_of_trace(what, (stats, stats_end), layout, unit_size, cpus, kernel, path), _whole(what), None)


def _whole(what: Any) -> Trace | None:
    return what if isinstance(what, Trace) else None


def _opened(source: Any, kernel: str | None) -> Any:
    """Return a trace, what came of following one, or an allocator; files are told apart by their first byte."""
    if isinstance(source, (Trace, Follow, Allocator)):
        return source
    if not isinstance(source, (str, os.PathLike)):
        text = f"source must be a Trace, Follow, Allocator or a path, not {type(source).__name__}"
        raise TypeError(text)
    path = Path(source)
    if is_state(path):
        return Allocator.from_state(path, kernel=kernel or "6.12")
    return read_trace(path)


def is_state(path: Path) -> bool:
    """Whether a file looks like a state and not like a trace: JSON, plain or gzip."""
    with path.open("rb") as file:
        head = file.read(2)
        file.seek(0)
        if head != b"\x1f\x8b":
            return file.read(64).lstrip()[:1] == b"{"
        try:
            with gzip.open(file) as text:
                return text.read(64).lstrip()[:1] == b"{"
        except (OSError, EOFError):
            return False


def _facts_of_allocator(allocator: Allocator, cpus: int | None, source: str, booked: Any = None) -> dict[str, Any]:
    view = view_of_allocator(allocator, cpus, booked)
    after = settled(allocator)
    rest = {chunk.number: chunk for chunk in after.chunks.values()}
    now = np.zeros(len(view.chunks["chunk"]), dtype=np.int64)
    gone = 0
    for row, number in enumerate(view.chunks["chunk"].tolist()):
        if number < 0:
            continue
        before = view.pages["populated"][view.pages_of(row)] == 1
        left = rest[number].populated if number in rest else np.zeros(len(before), dtype=bool)
        gone += number not in rest
        now[row] = int((before & ~left).sum())
    whole = [c for c in rest.values() if c.nr_alloc == 0 and not c.info["is_first"] and not c.immutable]
    return {
        "view": view,
        "source": source,
        "cpus_from": "as given" if cpus is not None else "of the state",
        "nr_units": allocator.nr_units,
        "now_pages": now,
        "now_chunks": gone,
        "free_chunks": len(whole),
        "free_pages": sum(chunk.nr_populated for chunk in whole),
    }


def _facts_of_trace(
    what: Any,
    given: tuple[Any, Any],
    layout: Any,
    unit_size: int | None,
    cpus: int | None,
    kernel: str | None,
    path: str | os.PathLike[str] | None,
) -> dict[str, Any]:
    name = release(kernel or (layout.kernel if isinstance(layout, FirstChunkLayout) else "6.12"))[0]
    stats, stats_end = (one if one is None or isinstance(one, PercpuStats) else read_percpu_stats(one) for one in given)
    if isinstance(what, Follow):
        for parameter, value in (("stats", stats), ("unit_size", unit_size)):
            if value is not None:
                raise InvalidRequest(f"{parameter}: give it to replay, which followed the trace", parameter=parameter)
        followed, trace = what, None
    else:
        # Statistics of the end fix no more than the unit size here.
        unit = unit_size or (stats_end.sizes["unit_size"] if stats is None and stats_end is not None else None)
        followed = replay(what, mode="follow", stats=stats, layout=layout, unit_size=None if layout else unit)
        trace = what
    stock = None if stats is None else stats.totals.get("empty_pop_pages")
    if trace is not None:
        told, where = cpus_of_trace(trace, cpus, layout, path)
    elif isinstance(cpus, Cpus):
        told, where = int(cpus.number or 1), cpus.source
    elif cpus is not None:
        told, where = cpus, "as given"
    else:
        told, where = 1, "not known, taken for one: give cpus"
    page_size = followed._facts["page_size"]
    view = view_of_follow(followed, told, page_size, name, trace, stock)
    if stats_end is not None:
        tell_unseen(view, stats_end, pointers=not followed.summary["hashed"])
    whole = view.chunks["list"] == LISTS.index("free")
    populated = np.bincount(view.pages["chunk"][view.pages["populated"] == 1], minlength=len(whole))
    return {
        "view": view,
        "source": "trace",
        "cpus_from": where,
        "nr_units": told,
        "now_pages": np.zeros(len(whole), dtype=np.int64),
        "now_chunks": 0,
        "free_chunks": int(whole.sum()),
        "free_pages": int(populated[whole].sum()),
        "followed": followed.summary,
    }


def _made(facts: dict[str, Any], trace: Trace | None, start: Allocator | None) -> Pins:
    parts, summary = table(facts)
    return Pins._wrap(parts, {**facts, "summary": summary, "trace": trace, "start": start})
