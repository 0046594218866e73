"""The allocator: requests, frees, the balance worker, and views of its chunks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from percpu import _core
from percpu import costs as _costs
from percpu._checks import (
    U64,
    balance_policy,
    choice,
    column,
    engine_release,
    integer,
    release,
    warn_assumed,
    whole_number,
)
from percpu.errors import InvalidAddress, InvalidRequest, LayoutError, NotKept, StaleChunk, StateError
from percpu.layout import FirstChunkLayout, VmallocSpace
from percpu.results import Result

__all__ = ["AllocBatch", "Allocator", "Area", "Chunk", "Chunks", "kernels"]

_ORDINARY, _ATOMIC = 0, 2
_UP_TO_U64 = U64 - 1


def kernels() -> Result:
    """List the presets: kernel releases and how well each is shown to be right.

    Returns
    -------
    Result
        ``kernel``, ``engine`` and ``status``: ``proven`` (compared with what the kernel's own code did, whole state),
        ``recorded`` (also with recordings of running kernels) or ``assumed``.

    Examples
    --------
    >>> [k["status"] for k in kernels().rows() if k["kernel"] == "6.12"]
    ['recorded']
    """
    release_, engine, status = zip(*_core.kernels(), strict=True)
    return Result(
        {"kernel": np.array(release_), "engine": np.array(engine), "status": np.array(status)}, dims=("kernel",)
    )


class Area(NamedTuple):
    """Where an allocation is.

    Attributes
    ----------
    chunk : int or None
        Creation number of its chunk; None for the reserved chunk.
    off_bytes : int
        From the chunk's base.
    unit_off_bytes : int
        From the start of the unit; comparable between engines.
    size_bytes : int
        Bytes that it occupies, rounding included.
    """

    chunk: int | None
    off_bytes: int
    unit_off_bytes: int
    size_bytes: int


class AllocBatch(Result):
    """What `Allocator.alloc_many` did: one row a request.

    Columns: ``ptr`` (uint64, 0 where it failed), ``chunk`` (uint32), ``off_bytes`` (uint64, from the chunk's base) and
    ``unit_off_bytes`` (uint64, from the start of the unit; comparable between engines; all missing where it failed),
    ``reason`` (uint8, 0 or the code of `reasons`), ``ok`` (bool). The reserved chunk
    has the number `AllocBatch.RESERVED`.

    Attributes
    ----------
    RESERVED : int
        Chunk number that stands for the reserved chunk.
    reasons : tuple of str
        Name of each reason code; element 0 stands for success.
    costs : Result or None
        What each request has cost, one column a counter (`counters`), if ``costs=True`` was given.
    """

    costs: Result | None = None

    RESERVED = _core.RESERVED
    reasons: tuple[str, ...] = ("ok", *(name for name, _ in _core.REASONS))


def _area(found: tuple[int, int, int, int]) -> Area:
    chunk, off, unit_off, size = found
    return Area(None if chunk == _core.RESERVED else chunk, off, unit_off, size)


class Chunk:
    """A live view of one chunk, from `Allocator.chunks` or `Allocator.reserved_chunk`.

    Every array is a fresh read-only copy, so that it costs time proportional to its length and does not change
    afterwards. Once the chunk is destroyed, everything but `number` raises `StaleChunk`. What the engine does not keep
    raises `NotKept`, which is an `AttributeError`:

    ==================  ==========================================================================================
    engine              keeps
    ==================  ==========================================================================================
    ``cpu_alloc-2008``  `alloc_map` only; in `info`: ``nr_units``, ``first_free`` (units), ``cpu_bytes`` (bytes)
    ``areamap``         `area_map`; `alloc_map` and `bound_map` are made from it; in `info`: ``contig_hint`` (bytes),
                        ``first_free`` (index), ``map_alloc`` (entries), ``has_reserved``
    ``rfc-v1``          `bound_map`, `blocks`; in `info`: ``contig_hint``, ``contig_hint_start`` (bits),
                        ``first_free_block`` (index), ``has_reserved``
    ``linux-...``       `bound_map`, `blocks`, `hints`
    ==================  ==========================================================================================
    """

    __slots__ = ("_core", "_number")

    def __init__(self, core: _core.Allocator, number: int) -> None:
        self._core = core
        self._number = number

    @property
    def number(self) -> int | None:
        """Creation number; None for the reserved chunk."""
        return None if self.is_reserved else self._number

    @property
    def is_reserved(self) -> bool:
        """Whether this is the reserved chunk."""
        return self._number == _core.RESERVED

    @property
    def info(self) -> dict[str, Any]:
        """All scalars at once, under the kernel's names, also those that only one engine has."""
        return self._core.chunk_info(self._number)

    @property
    def alloc_map(self) -> np.ndarray:
        """(n,) bool: whether each granule is in use; in cpu_alloc-2008 from the end of the static region on."""
        return self._fresh(self._core.chunk_alloc_map(self._number))

    @property
    def alloc_words(self) -> np.ndarray:
        """(ceil(n / 64),) little-endian uint64: `alloc_map`, packed, lowest bit first."""
        return self._fresh(self._core.chunk_alloc_words(self._number))

    @property
    def bound_map(self) -> np.ndarray:
        """(n + 1,) bool: whether an area begins or ends at each granule; stale in free space.

        Raises
        ------
        NotKept
            In cpu_alloc-2008.
        """
        return self._fresh(self._core.chunk_bound_map(self._number))

    @property
    def populated(self) -> np.ndarray:
        """(nr_pages,) bool: whether memory is behind each page."""
        return self._fresh(self._core.chunk_populated(self._number))

    @property
    def blocks(self) -> np.ndarray:
        """(nr_blocks,) structured array of int32: the hints of each block, kernel field names, in bits.

        Raises
        ------
        NotKept
            In areamap and cpu_alloc-2008.
        """
        return self._records(*self._core.chunk_blocks(self._number))

    @property
    def hints(self) -> np.ndarray:
        """(1,) structured array of int32: the chunk's own hints, in bits.

        Raises
        ------
        NotKept
            Before 4.14, where the hints of a chunk have another form; see `info`.
        """
        return self._records(*self._core.chunk_hints(self._number))

    @property
    def area_map(self) -> np.ndarray:
        """(map_used + 1,) structured array: ``off_bytes`` (uint32) and ``in_use`` (bool) of each area, ascending.

        The last row is the end of the last area and counts as in use.

        Raises
        ------
        NotKept
            In every engine but areamap.
        """
        off, in_use = self._core.chunk_area_map(self._number)
        areas = np.empty(len(off), dtype=[("off_bytes", off.dtype), ("in_use", in_use.dtype)])
        areas["off_bytes"], areas["in_use"] = off, in_use
        return self._fresh(areas)

    @property
    def block_bits(self) -> int:
        """Bits that one block describes."""
        config = self._core.config()
        return config["block_size"] // config["min_alloc_size"]

    @property
    def min_alloc_size(self) -> int:
        """Bytes that one bit of the map stands for."""
        return self._core.config()["min_alloc_size"]

    @property
    def base_addr(self) -> int:
        """Simulated address of the chunk's first byte in unit 0."""
        return self.info["base_addr"]

    @property
    def slot(self) -> int | None:
        """List that the chunk is on; None for the reserved chunk."""
        return self.info["slot"]

    @property
    def free_bytes(self) -> int:
        """Free bytes of one unit."""
        return self.info["free_bytes"]

    @property
    def start_offset(self) -> int:
        """Bytes hidden before the chunk's region."""
        return self.info["start_offset"]

    @property
    def end_offset(self) -> int:
        """Bytes hidden behind the chunk's region."""
        return self.info["end_offset"]

    @property
    def nr_alloc(self) -> int:
        """Number of live areas."""
        return self.info["nr_alloc"]

    @property
    def nr_pages(self) -> int:
        """Pages of one unit."""
        return self.info["nr_pages"]

    @property
    def nr_populated(self) -> int:
        """Pages of one unit that are backed by memory."""
        return self.info["nr_populated"]

    @property
    def nr_empty_pop_pages(self) -> int:
        """Populated pages without an allocated bit, as the kernel counts them.

        Raises
        ------
        NotKept
            In areamap and cpu_alloc-2008, which do not count them for each chunk.
        """
        count = self.info["nr_empty_pop_pages"]
        if count is None:
            engine = self._core.config()["engine"]
            text = f"engine {engine} keeps no nr_empty_pop_pages"
            raise NotKept(text, field="nr_empty_pop_pages", engine=engine)
        return count

    @property
    def immutable(self) -> bool:
        """Whether it is a boot chunk, whose pages never change."""
        return self.info["immutable"]

    @property
    def isolated(self) -> bool:
        """Whether it was taken off the searched lists to be depopulated (5.14 and later)."""
        return self.info["isolated"]

    def plot(self, ax: Any = None) -> Any:
        """Draw the map of the chunk.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
            The axes.
        """
        from percpu.plot import plot_chunk

        return plot_chunk(self, ax)

    def _repr_html_(self) -> str:
        from percpu._rich import chunk_html

        return chunk_html(self)

    @staticmethod
    def _fresh(array: np.ndarray) -> np.ndarray:
        array.flags.writeable = False
        return array

    @classmethod
    def _records(cls, names: Sequence[str], rows: np.ndarray) -> np.ndarray:
        dtype = np.dtype([(name, rows.dtype) for name in names])
        return cls._fresh(np.ascontiguousarray(rows).view(dtype).reshape(-1))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chunk) and self._core is other._core and self._number == other._number

    def __hash__(self) -> int:
        return hash((id(self._core), self._number))

    def __repr__(self) -> str:
        name = "reserved" if self.is_reserved else str(self._number)
        try:
            info = self.info
        except StaleChunk:
            return f"Chunk({name}, destroyed)"
        return (
            f"Chunk({name}, slot={info['slot']}, nr_alloc={info['nr_alloc']}, free_bytes={info['free_bytes']}, "
            f"populated={info['nr_populated']}/{info['nr_pages']})"
        )


class Chunks(Mapping[int, Chunk]):
    """The chunks that exist, by creation number; live and read-only. The reserved chunk is not among them."""

    def __init__(self, core: _core.Allocator) -> None:
        self._core = core

    def __getitem__(self, number: int) -> Chunk:
        if isinstance(number, (int, np.integer)) and not isinstance(number, bool) and int(number) in self._numbers():
            return Chunk(self._core, int(number))
        raise KeyError(number)

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers())

    def __len__(self) -> int:
        return len(self._core.chunk_numbers())

    def __repr__(self) -> str:
        return f"Chunks({', '.join(map(str, self))})"

    def _repr_html_(self) -> str:
        from percpu._rich import chunks_html

        return chunks_html(self)

    def _numbers(self) -> list[int]:
        return self._core.chunk_numbers().tolist()


class Allocator(_core.Calls):
    """A per-CPU allocator, bit for bit that of a kernel.

    Parameters
    ----------
    layout : FirstChunkLayout, optional
        First chunk to start from. Without one there are no boot chunks and no static region: chunk 0 is an ordinary
        chunk, made when it is needed, and addresses start at 2**30.
    unit_size : int, optional
        Bytes of one CPU's share of a chunk. Needed without a layout, and only then.
    nr_units : int, optional
        Number of units. Needed without a layout, and only then.
    kernel : str, optional
        Release or engine, see `kernels`. With a layout its own (a different one raises), else 6.12.
    engine : str, optional
        Engine, see `kernels`; stands for its newest proven release unless ``kernel`` or the layout names another
        of its releases. One that does not go with them raises.
    page_size : int, optional
        Bytes of a page.
    min_alloc_size : int, optional
        Bytes of a granule, which one bit of the map stands for: 4 by default, and always 2 in ``areamap``.
    block_size : int, optional
        Mapped bytes that one block of hints describes; one page in every kernel, and always in the engines before 4.14.
    balance : {"eager", "manual"}, optional
        When the balance worker runs: right after the operation that scheduled it, or only at `balance`.
    every : int, optional
        Instead: run it after every k-th operation, if it is scheduled.
    backend : {"vm", "km"}, optional
        Where chunks come from: mapped page by page, or contiguous memory (kernels without an MMU or SMP).
    vmalloc : VmallocSpace, optional
        With a layout: later chunks get the addresses that the kernel would give them in this space, and fail where
        it finds none. The space is copied; see `vmalloc_space`. Without one, chunks lie one after the other.
    thresholds : mapping of str to int, optional
        Numbers at which the allocator does something, which are constants of every kernel: ``empty_pop_pages_low`` (2;
        fewer empty populated pages schedule the worker), ``empty_pop_pages_high`` (4; up to so many it populates, and
        from so many on it gives back), ``slot_fail_threshold`` (3; since 5.2: chunks in slots below that fail a
        request leave the searched lists), ``reclaim_divisor`` (4; since 5.14: a chunk is depopulated if at least one
        page in so many is empty). See `thresholds`.

    Raises
    ------
    InvalidRequest, LayoutError
        If an argument is out of range, or does not go with the layout.

    Notes
    -----
    After any exception but `AllocError` the allocator is as it was before the call; a request that fails leaves behind
    what it does in the kernel. Calls from several threads are serialised.
    Rules: specification sections 10 to 13, 20 and 21; see docs/fidelity.md for what was proven.

    Examples
    --------
    >>> a = Allocator(unit_size=256 << 10, nr_units=8)
    >>> p = a.alloc(64, align=8)
    >>> a.locate(p)
    Area(chunk=0, off_bytes=0, unit_off_bytes=0, size_bytes=64)
    >>> a.free(p)
    >>> a.stats()["nr_cur_alloc"]
    0
    """

    def __new__(  # noqa: D102 (the class says it)
        cls,
        layout: FirstChunkLayout | None = None,
        *,
        unit_size: int | None = None,
        nr_units: int | None = None,
        kernel: str | None = None,
        engine: str | None = None,
        page_size: int | None = None,
        min_alloc_size: int | None = None,
        block_size: int | None = None,
        balance: str = "eager",
        every: int | None = None,
        backend: str = "vm",
        vmalloc: VmallocSpace | None = None,
        thresholds: Mapping[str, int] | None = None,
    ) -> Allocator:
        policy = balance_policy(balance, every)
        choice("backend", backend, ("vm", "km"))
        if layout is not None:
            if not isinstance(layout, FirstChunkLayout):
                raise TypeError(f"layout must be a FirstChunkLayout, not {type(layout).__name__}")
            fixed = {
                "unit_size": (unit_size, layout.unit_size),
                "nr_units": (nr_units, layout.nr_units),
                "page_size": (page_size, layout.page_size),
                "min_alloc_size": (min_alloc_size, None),
                "block_size": (block_size, layout.page_size),
            }
            for name, (given, own) in fixed.items():
                if given is not None and given != own:
                    raise LayoutError(f"{name}={given} does not go with the layout" + (f" ({own})" if own else ""))
            if kernel is not None and release(kernel)[0] != layout.kernel:
                raise LayoutError(f"kernel={kernel!r} does not go with the layout, which is of {layout.kernel}")
            if engine is not None and engine_release(kernel, engine, layout.kernel)[1] != release(layout.kernel)[1]:
                own = f"{layout.kernel} ({release(layout.kernel)[1]})"
                raise LayoutError(f"engine={engine!r} does not go with the layout, which is of {own}")
            space = None
            if vmalloc is not None:
                if not isinstance(vmalloc, VmallocSpace):
                    raise TypeError(f"vmalloc must be a VmallocSpace, not {type(vmalloc).__name__}")
                space = vmalloc._core
            return cls._wrap(_core.Allocator.on_layout(layout._core, policy, backend, space))._with(thresholds)
        if vmalloc is not None:
            raise InvalidRequest("vmalloc needs a layout, whose groups it spaces", parameter="vmalloc")
        if unit_size is None or nr_units is None:
            raise InvalidRequest("without a layout, unit_size= and nr_units= are needed", parameter="unit_size")
        preset = engine_release(kernel, engine, "6.12")
        warn_assumed(preset)
        page = 4096 if page_size is None else integer("page_size", page_size)
        self = cls._wrap(
            _core.Allocator.plain(
                kernel=preset[0],
                unit_size=integer("unit_size", unit_size),
                nr_units=integer("nr_units", nr_units, 0, 2**32 - 1),
                page_size=page,
                min_alloc_size=4 if min_alloc_size is None else integer("min_alloc_size", min_alloc_size),
                block_size=page if block_size is None else integer("block_size", block_size),
                balance_every=policy,
                backend=backend,
            )
        )
        for name, given in (("min_alloc_size", min_alloc_size), ("block_size", block_size)):
            fixed = getattr(self, name)
            if given is not None and given != fixed:
                raise InvalidRequest(f"{name}={given}: is always {fixed} in engine {preset[1]}", parameter=name)
        return self._with(thresholds)

    def _with(self, thresholds: Mapping[str, int] | None) -> Allocator:
        if thresholds is not None:
            if not isinstance(thresholds, Mapping):
                raise TypeError(f"thresholds must be a mapping, not {type(thresholds).__name__}")
            known = dict(_core.THRESHOLDS)
            for name in thresholds:
                choice("name in thresholds", name, tuple(known))
            given = {name: integer(name, value, 0, 2**32 - 1) for name, value in thresholds.items()}
            self._core.set_thresholds(list((known | given).values()))
        return self

    @property
    def thresholds(self) -> dict[str, int]:
        """Numbers at which the allocator does something; a snapshot keeps them.

        Raises
        ------
        NotKept
            In cpu_alloc-2008, which has no balance worker.

        Examples
        --------
        >>> Allocator(unit_size=64 << 10, nr_units=2, thresholds={"empty_pop_pages_high": 8}).thresholds
        {'empty_pop_pages_low': 2, 'empty_pop_pages_high': 8, 'slot_fail_threshold': 3, 'reclaim_divisor': 4}
        """
        values = self._core.thresholds()
        if values is None:
            raise NotKept(f"{self.engine} has no thresholds", field="thresholds", engine=self.engine)
        return {name: value for (name, _), value in zip(_core.THRESHOLDS, values, strict=True)}

    @classmethod
    def _wrap(cls, core: _core.Allocator) -> Allocator:
        # `alloc` and `free` are inherited; everything else goes through `core`, which is the same allocator.
        self = super().__new__(cls, core)
        self._core = core
        return self

    @property
    def vmalloc_space(self) -> VmallocSpace | None:
        """A copy of the vmalloc space that later chunks lie in; None if they lie one after the other."""
        core = self._core.vmalloc()
        return None if core is None else VmallocSpace._wrap(core)

    # -- requests --------------------------------------------------------------------

    def alloc_many(
        self,
        sizes: Any,
        aligns: Any = 4,
        *,
        atomic: Any = False,
        reserved: bool = False,
        nowarn: bool = False,
        accounted: bool = False,
        costs: bool = False,
    ) -> AllocBatch:
        """Allocate many areas, one after the other.

        Parameters
        ----------
        sizes : (n,) array of int, or int
            Bytes for each CPU.
        aligns : (n,) array of int, or int
            Alignments in bytes.
        atomic : (n,) array of bool, or bool, optional
            As for `alloc`.
        reserved, nowarn, accounted : bool, optional
            As for `alloc`, for all of them.
        costs : bool, optional
            Count everything, for each request apart: `AllocBatch.costs`. Slower: requests are served one at a time.

        Returns
        -------
        AllocBatch
            One row a request, failed ones included: a failure is a row, not an exception.

        Raises
        ------
        InvalidRequest
            If the arrays do not go together.

        Examples
        --------
        >>> a = Allocator(unit_size=32 << 10, nr_units=2)
        >>> a.alloc_many([4, 40_000, 8]).ok.tolist()
        [True, False, True]
        >>> a = Allocator(unit_size=32 << 10, nr_units=2, engine="areamap")
        >>> a.alloc_many([4, 4, 8], 8, costs=True).costs.entries_scanned.tolist()
        [1, 1, 3]
        """
        size, align = column("sizes", sizes), column("aligns", aligns)
        sleep = np.atleast_1d(np.asarray(atomic))
        if sleep.dtype.kind != "b" or sleep.ndim != 1:
            raise TypeError("atomic must be a bool or an array of bool")
        lengths = {len(array) for array in (size, align, sleep)} - {1}
        if len(lengths) > 1:
            raise InvalidRequest(
                f"sizes, aligns and atomic have lengths {len(size)}, {len(align)} and {len(sleep)}", parameter="aligns"
            )
        kind = np.where(sleep, np.uint8(_ATOMIC), np.uint8(_ORDINARY))
        flags = (bool(reserved), bool(nowarn), bool(accounted))
        rows = None
        if costs:
            self._counts()
            each = [np.ascontiguousarray(array) for array in np.broadcast_arrays(size, align, kind)]
            (ptr, chunk, off, unit_off, reason), rows = self._core.alloc_many_costed(*each, flags)
        else:
            ptr, chunk, off, unit_off, reason = self._core.alloc_many(size, align, kind, *flags)
        ok = reason == 0
        failed = {} if ok.all() else dict.fromkeys(("ptr", "chunk", "off_bytes", "unit_off_bytes"), ~ok)
        batch = AllocBatch(
            {"ptr": ptr, "chunk": chunk, "off_bytes": off, "unit_off_bytes": unit_off, "reason": reason, "ok": ok},
            mask=failed,
        )
        batch.costs = None if rows is None else _costs.columns(rows)
        return batch

    def free_many(self, ptrs: Any, sizes: Any = None, *, costs: bool = False) -> Result | None:
        """Free many areas in the given order: all of them, or none.

        Parameters
        ----------
        ptrs : (n,) array of int
            Pointers; `NULL` among them does nothing.
        sizes : (n,) array of int, or int, optional
            Bytes; for ``cpu_alloc-2008`` only.
        costs : bool, optional
            Count everything, for each free apart.

        Returns
        -------
        Result or None
            With ``costs=True`` what each free has cost, one column a counter (`counters`).

        Raises
        ------
        InvalidFree
            If one of them is not the start of a live area, or occurs twice; ``index`` says which.
        """
        array = column("ptrs", ptrs)
        given = None if sizes is None else column("sizes", sizes)
        if given is not None and len(given) not in (1, len(array)):
            raise InvalidRequest(f"sizes has {len(given)} elements, ptrs {len(array)}", parameter="sizes")
        if costs:
            self._counts()
            return _costs.columns(self._core.free_many_costed(array, given))
        self._core.free_many(array, given)
        return None

    def _counts(self) -> list[int]:
        """Return the totals, or say that there are none."""
        values = self._core.costs()
        if values is None:
            raise NotKept(f"{self.engine} counts no costs", field="costs", engine=self.engine)
        return values

    def costs(self) -> dict[str, int | None]:
        """Work of the modelled algorithm so far: requests, frees, and runs of the balance worker.

        Returns
        -------
        dict of str to int or None
            By the names of `counters`; None for those that are counted only where everything is, unless
            `counting` is ``"full"``. They are no part of the state: a snapshot does not hold them, a copy begins
            with those of its original.

        Examples
        --------
        >>> a = Allocator(unit_size=32 << 10, nr_units=2, engine="areamap")
        >>> p = a.alloc(8)
        >>> a.costs()["pages_populated"], a.costs()["page_mappings"], a.costs()["cleared_bytes"]
        (5, 10, 16)
        """
        return _costs.totals(self._counts(), full=self.counting == "full")

    @property
    def counting(self) -> str:
        """What is counted: ``"off"``, ``"totals"`` (what costs little, the default) or ``"full"``."""
        self._counts()
        return _costs.COUNTING[self._core.counting() or 0]

    @counting.setter
    def counting(self, value: str) -> None:
        choice("counting", value, _costs.COUNTING)
        self._counts()
        self._core.set_counting(_costs.COUNTING.index(value))

    def balance(self) -> bool:
        """Run the balance worker once.

        Returns
        -------
        bool
            Whether it was scheduled.
        """
        return self._core.balance()

    @property
    def balance_pending(self) -> bool:
        """Whether the balance worker is scheduled."""
        return self._core.balance_pending()

    def limit_supply(
        self,
        *,
        pages: int | None = None,
        mappings: int | None = None,
        chunks: int | None = None,
        extensions: int | None = None,
    ) -> None:
        """Let the machine run out of something: what is left, from now on.

        Each fault of the kernel's allocator can be had by one of these, by a full `VmallocSpace` or by
        `alloc_killed`; ``docs/how-to/faults.md`` lists them, and what is undone.

        Parameters
        ----------
        pages : int, optional
            Pages (of one CPU each) that can still be had; None for no limit.
        mappings : int, optional
            Mapping calls (one range of one CPU each) that still succeed.
        chunks : int, optional
            Chunks that can still be made: for the next one there is neither memory for its records nor address space.
        extensions : int, optional
            Times that the area map of a chunk can still grow (engine ``areamap``; the others have none).

        Examples
        --------
        >>> a = Allocator(unit_size=32 << 10, nr_units=2)
        >>> a.limit_supply(chunks=0)
        >>> a.alloc(8)
        Traceback (most recent call last):
        ...
        percpu.errors.AllocError: failed to allocate new chunk
        """
        limits = {"pages": pages, "mappings": mappings, "chunks": chunks, "extensions": extensions}
        self._core.set_supply(**{k: None if v is None else integer(k, v, 0, 2**63 - 1) for k, v in limits.items()})

    def alloc_killed(
        self,
        size: int,
        align: int = 4,
        *,
        atomic: bool = False,
        reserved: bool = False,
        nowarn: bool = False,
        nofail: bool = False,
    ) -> int:
        """Make a request whose task is killed while it waits for the allocator's mutex.

        It gets nothing, in silence: no warning, no counter, no run of the balance worker. Requests that are not
        killed there are served as by `alloc`: atomic ones, which do not wait, those that may not fail, and all of the
        engines before 4.14. A request that may not fail can still fail for every other reason.

        Parameters
        ----------
        size, align : int
            Bytes for each CPU; alignment in bytes.
        atomic, reserved, nowarn : bool, optional
            As for `alloc`.
        nofail : bool, optional
            The request may not fail: its task waits on, though it was killed.

        Returns
        -------
        int
            The pointer, where the request was served.

        Raises
        ------
        AllocError
            With ``reason`` ``"killed"``, or as `alloc`.
        InvalidRequest
            As `alloc`: before it waits.

        Examples
        --------
        >>> a = Allocator(unit_size=32 << 10, nr_units=2)
        >>> a.alloc_killed(8)
        Traceback (most recent call last):
        ...
        percpu.errors.AllocError: killed while waiting for the allocator
        >>> a.alloc_killed(8, nofail=True) == a.alloc(8) - 8
        True
        """
        flags = (bool(atomic), bool(reserved), bool(nowarn), bool(nofail))
        return self._core.alloc_killed(integer("size", size), integer("align", align), flags)

    # -- addresses -------------------------------------------------------------------

    def locate(self, ptr: int) -> Area:
        """Find the area that starts at a pointer.

        Parameters
        ----------
        ptr : int
            What `alloc` returned.

        Returns
        -------
        Area
            Chunk, offset from its base and from the start of the unit, and size, in bytes.

        Raises
        ------
        InvalidAddress
            If no live area starts there, or the engine cannot tell (cpu_alloc-2008 stores no sizes).
        """
        return _area(self._core.locate(self._address("ptr", ptr)))

    def find(self, addr: int) -> Area | None:
        """Find the area that contains an address.

        Parameters
        ----------
        addr : int
            Address in any CPU's copy. Without a layout a pointer is the address of the first copy.

        Returns
        -------
        Area or None
            The area, or None where there is none.

        Raises
        ------
        InvalidAddress
            If the engine cannot tell areas apart (cpu_alloc-2008 stores no sizes).
        """
        number = whole_number("addr", addr)
        found = self._core.find(number) if 0 <= number < U64 else None
        return None if found is None else _area(found[:4])

    def per_cpu_ptr(self, ptr: int, cpu: int) -> int:
        """Address of one CPU's copy.

        Parameters
        ----------
        ptr : int
            A per-CPU pointer: from `alloc`, into an area, or of a static variable. It is not looked at.
        cpu : int
            CPU id; without a layout, the unit.

        Returns
        -------
        int
            The simulated address of that CPU's copy.

        Raises
        ------
        InvalidRequest
            If the CPU is not possible.
        """
        return self._core.per_cpu_ptr(self._address("ptr", ptr), integer("cpu", cpu, 0, 2**32 - 1))

    @staticmethod
    def _address(parameter: str, value: Any) -> int:
        number = whole_number(parameter, value)
        if not 0 <= number < U64:
            raise InvalidAddress(f"{parameter}={number}: not an address", address=number)
        return number

    # -- views -----------------------------------------------------------------------

    @property
    def chunks(self) -> Chunks:
        """The chunks that exist, by creation number."""
        return Chunks(self._core)

    @property
    def reserved_chunk(self) -> Chunk | None:
        """The reserved chunk, if there is one."""
        return Chunk(self._core, _core.RESERVED) if self._core.has_reserved() else None

    @property
    def slots(self) -> tuple[tuple[int, ...], ...]:
        """Creation numbers of the chunks on each list, head first."""
        return tuple(tuple(numbers.tolist()) for numbers in self._core.slots())

    @property
    def kernel(self) -> str:
        """Release of the preset."""
        return self._core.config()["kernel"]

    @property
    def engine(self) -> str:
        """Name of the engine."""
        return self._core.config()["engine"]

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return self._core.config()["page_size"]

    @property
    def min_alloc_size(self) -> int:
        """Bytes of a granule."""
        return self._core.config()["min_alloc_size"]

    @property
    def block_size(self) -> int:
        """Mapped bytes that one block of hints describes."""
        return self._core.config()["block_size"]

    @property
    def unit_size(self) -> int:
        """Bytes of a unit."""
        return self._core.config()["unit_size"]

    @property
    def nr_units(self) -> int:
        """Units of a chunk."""
        return self._core.config()["nr_units"]

    def stats(self) -> dict[str, int]:
        """Global counters, under the kernel's names.

        Returns
        -------
        dict of str to int
            ``nr_alloc``, ``nr_dealloc``, ``nr_cur_alloc``, ``nr_max_alloc``, ``nr_chunks``, ``nr_max_chunks``,
            ``min_alloc_size``, ``max_alloc_size`` (bytes), ``nr_empty_pop_pages``, ``nr_populated`` (pages), ...
        """
        return self._core.stats()

    def stats_text(self) -> str:
        """Text of the debugfs file ``percpu_stats``, to the byte.

        Returns
        -------
        str
            The text, with its last line end.

        Raises
        ------
        InvalidRequest
            In cpu_alloc-2008, which had no such file.
        """
        return self._core.stats_text()

    def verify(self) -> None:
        """Rescan everything and check the invariants of docs/design.md.

        Raises
        ------
        VerifyError
            With the name of the broken invariant.
        """
        self._core.verify()

    # -- states ----------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """Save the complete state.

        Returns
        -------
        bytes
            For `restore`; equal states give equal bytes. The form is binary: maps, hints and lists as words, with
            checksums.
            For other tools `to_state` writes the state file of an engine from 4.14 on.
        """
        return self._core.snapshot()

    @classmethod
    def restore(cls, snapshot: bytes) -> Allocator:
        """Make an allocator from what `snapshot` returned.

        Parameters
        ----------
        snapshot : bytes-like
            A snapshot.

        Returns
        -------
        Allocator

        Raises
        ------
        StateError
            If it is damaged, or of another version.
        """
        return cls._wrap(_core.Allocator.restore(_bytes("snapshot", snapshot)))

    @classmethod
    def from_state(
        cls,
        state: str | os.PathLike[str] | bytes | Mapping[str, Any],
        *,
        kernel: str = "6.12",
        balance: str = "manual",
        every: int | None = None,
    ) -> Allocator:
        """Make an allocator from the recorded state of a kernel.

        Nothing is recomputed: stale hints and the order of the lists are taken as they are.

        Parameters
        ----------
        state : path, bytes or dict
            A state file (JSON), plain or gzip, or its content; what `to_state` returned. A snapshot of an engine from
            4.14 on serves as well.
        kernel : str, optional
            Release or engine.
        balance : {"manual", "eager"}, optional
            As for the constructor; by default the worker runs only when told.
        every : int, optional
            As for the constructor.

        Returns
        -------
        Allocator

        Raises
        ------
        StateError
            If the state cannot be used; ``path`` says where.
        """
        policy = balance_policy(balance, every)
        preset = release(kernel)
        warn_assumed(preset)
        try:
            core = _core.Allocator.from_state(_content("state", state), preset[0], policy)
        except StateError as error:
            if isinstance(state, (str, os.PathLike)):
                raise StateError(f"{os.fspath(state)}: {error}", path=error.path) from None
            raise
        return cls._wrap(core)

    def to_state(self) -> dict[str, Any]:
        """Write the complete state in the form of the recorded state files.

        Returns
        -------
        dict
            ``globals``, ``slots``, ``md_fields``, ``chunks``.

        Raises
        ------
        StateError
            If the engine has no state files: before 4.14.
        """
        import json

        return json.loads(self._core.state_json())

    def differences(
        self, other: Allocator | str | os.PathLike[str] | bytes | Mapping[str, Any], limit: int = 20
    ) -> list[str]:
        """Compare two complete states: maps, hints, lists, counters.

        Parameters
        ----------
        other : Allocator, path, bytes or dict
            The other one; or a state file or its content, as for `from_state`. What a state file does not record is not
            compared.
        limit : int, optional
            Most lines that are returned.

        Returns
        -------
        list of str
            Empty if the states are equal. Chunks are matched by address, so that their numbers do not matter.

        Raises
        ------
        StateError
            If the engine has no state files (before 4.14; there equal states have equal snapshots).
        """
        data = other.snapshot() if isinstance(other, Allocator) else _content("other", other)
        return self._core.differences(data, integer("limit", limit, 1, 2**32 - 1))

    def __copy__(self) -> Allocator:
        return self._wrap(self._core.copy())

    def __deepcopy__(self, memo: dict[int, Any]) -> Allocator:
        return self._wrap(self._core.copy())

    def copy(self) -> Allocator:
        """Make an independent copy.

        Returns
        -------
        Allocator
            A whole copy: nothing is shared.
        """
        return self._wrap(self._core.copy())

    def __reduce__(self) -> tuple[Any, ...]:
        return Allocator.restore, (self.snapshot(),)

    def __repr__(self) -> str:
        config = self._core.config()
        return (
            f"Allocator(kernel={config['kernel']!r}, unit_size={config['unit_size']}, nr_units={config['nr_units']}, "
            f"{len(self.chunks)} chunks, {self.stats()['nr_cur_alloc']} live)"
        )

    def _repr_html_(self) -> str:
        from percpu._rich import allocator_html

        return allocator_html(self)


def _content(parameter: str, state: Any) -> bytes:
    """Return the content of a state: of a file, as given, or as JSON."""
    if isinstance(state, (str, os.PathLike)):
        return Path(state).read_bytes()
    if not isinstance(state, Mapping):
        return _bytes(parameter, state, "a path, bytes or a dict")
    import json

    try:
        return json.dumps(state).encode()
    except (TypeError, ValueError) as error:
        raise StateError(f"{parameter}: {error}") from None


def _bytes(parameter: str, value: Any, wanted: str = "bytes") -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return bytes(memoryview(value))
    except TypeError:
        raise StateError(f"{parameter} must be {wanted}, not {type(value).__name__}") from None
