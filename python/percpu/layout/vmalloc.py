"""Address space for chunks: congruent areas and the search for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from percpu import _core
from percpu._checks import choice, integer
from percpu.layout.first_chunk import FirstChunkLayout

__all__ = ["PlacedAreas", "VmallocSpace"]

_SEARCHES = ("free_blocks", "busy_areas", "declarative")
_START = 0xFFFF_C900_0000_0000
_END = _START + (1 << 45) - 1


class PlacedAreas(NamedTuple):
    """Where the areas of a chunk were put.

    Attributes
    ----------
    base : int
        Address from which the offsets of the groups count.
    nr_tests : int
        Areas that the search looked at.
    purged : bool
        Whether lazily freed ranges had to be given up for it.
    """

    base: int
    nr_tests: int
    purged: bool


class VmallocSpace:
    """Address space for mapped memory, and what is taken of it.

    A chunk needs one area for each group, all with the spacing of the first chunk. The kernel takes the highest base at
    which every area fits. What is freed stays in the way until a purge.

    Parameters
    ----------
    start, end : int, optional
        ``VMALLOC_START`` and ``VMALLOC_END``; those of x86-64 by default, where the end is the last byte. Areas
        end at or below the end rounded down to their alignment.
    search : {"free_blocks", "busy_areas", "declarative"}, optional
        The walk of 5.2 and later, from the top along free blocks; that of 2.6.32 to 5.1, along busy areas from a hint;
        or the rule that both follow on fresh space.
    page_size : int, optional
        Bytes.
    lazy_free : bool, optional
        Whether freed ranges wait for a purge, as in the kernel.
    lazy_threshold : int, optional
        Purge when more pages than this are lazy; by default only when a search finds nothing.

    Raises
    ------
    InvalidRequest
        If an argument is out of range.

    Notes
    -----
    Rules: specification section 32.

    Examples
    --------
    >>> space = VmallocSpace()
    >>> layout = FirstChunkLayout.build(static_size=188_416, topology=4)
    >>> placed = space.alloc(layout)
    >>> hex(placed.base), [hex(start) for start, _, _ in space.busy]
    ('0xffffe8ffffc00000', ['0xffffe8ffffc00000'])
    >>> space.free(layout, placed.base)
    >>> space.lazy_pages, hex(space.find(layout))
    (512, '0xffffe8ffffa00000')
    """

    _core: _core.VmallocSpace

    def __init__(
        self,
        start: int = _START,
        end: int = _END,
        *,
        search: str = "free_blocks",
        page_size: int = 4096,
        lazy_free: bool = True,
        lazy_threshold: int | None = None,
    ) -> None:
        self._core = _core.VmallocSpace(
            choice("search", search, _SEARCHES),
            integer("start", start),
            integer("end", end),
            integer("page_size", page_size),
            bool(lazy_free),
            None if lazy_threshold is None else integer("lazy_threshold", lazy_threshold),
        )

    @classmethod
    def _wrap(cls, core: _core.VmallocSpace) -> VmallocSpace:
        self = cls.__new__(cls)
        self._core = core
        return self

    @classmethod
    def for_layout(cls, layout: FirstChunkLayout, *, search: str | None = None) -> VmallocSpace:
        """Make the empty space of the machine that a layout is for.

        Parameters
        ----------
        layout : FirstChunkLayout
            Its space, its page size and, for the search, its release count. The area of a first chunk that is mapped
            page by page is not taken yet; an `Allocator` takes it.
        search : str, optional
            Another search than that of the release.

        Returns
        -------
        VmallocSpace
        """
        if not isinstance(layout, FirstChunkLayout):
            raise TypeError(f"layout must be a FirstChunkLayout, not {type(layout).__name__}")
        record = layout._core.record()
        if search is None:
            search = _core.search_of(layout.release)
        start = record["vmalloc_start"]
        return cls(start, start + max(record["vmalloc_size"], 1) - 1, search=search, page_size=layout.page_size)

    def _areas(self, areas: Any) -> _core.Areas:
        if isinstance(areas, FirstChunkLayout):
            return _core.Areas.of_layout(areas._core)
        try:
            offsets, sizes, align = areas
            offsets, sizes = list(offsets), list(sizes)
        except (TypeError, ValueError):
            raise TypeError(
                f"areas must be a FirstChunkLayout or (offsets, sizes, align), not {type(areas).__name__}"
            ) from None
        return _core.Areas(
            [integer("offsets", offset) for offset in offsets],
            [integer("sizes", size) for size in sizes],
            integer("align", align),
            self.page_size,
        )

    @property
    def search(self) -> str:
        """How the base is looked for."""
        return self._core.config()[0]

    @property
    def bounds(self) -> tuple[int, int]:
        """``VMALLOC_START`` and ``VMALLOC_END``."""
        return self._core.config()[1:3]

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return self._core.config()[3]

    @property
    def hint(self) -> int:
        """Where the walk along busy areas starts (``vmap_area_pcpu_hole``)."""
        return self._core.config()[6]

    @property
    def lazy_pages(self) -> int:
        """Pages that the next purge would free."""
        return self._core.config()[7]

    @property
    def busy(self) -> list[tuple[int, int, bool]]:
        """Start, end and whether it is lazy, of each range that is taken, upwards."""
        return self._core.busy()

    @property
    def free_blocks(self) -> list[tuple[int, int]]:
        """Start and end of each free block of the whole address space, upwards."""
        return self._core.free_blocks()

    def find(self, areas: FirstChunkLayout | tuple[Sequence[int], Sequence[int], int]) -> int | None:
        """Find the base that `alloc` would take without a purge; nothing changes.

        Parameters
        ----------
        areas : FirstChunkLayout or (offsets, sizes, align)
            The groups of a layout; or offsets from the base and sizes in bytes, and the alignment.

        Returns
        -------
        int or None
            None if the areas fit nowhere.
        """
        return self._core.find(self._areas(areas))

    def alloc(self, areas: FirstChunkLayout | tuple[Sequence[int], Sequence[int], int]) -> PlacedAreas:
        """Take areas where the kernel would.

        Parameters
        ----------
        areas : FirstChunkLayout or (offsets, sizes, align)
            As in `find`.

        Returns
        -------
        PlacedAreas
            The areas, one a group.

        Raises
        ------
        AllocError
            If they fit nowhere, even after a purge; ``reason`` is ``too_far_apart``, ``no_room`` or ``fault``.
        InvalidRequest
            If the areas overlap or are not aligned.
        """
        return PlacedAreas(*self._core.alloc(self._areas(areas)))

    def free(self, areas: FirstChunkLayout | tuple[Sequence[int], Sequence[int], int], base: int) -> None:
        """Give areas back; they are in the way until the next purge.

        Parameters
        ----------
        areas : FirstChunkLayout or (offsets, sizes, align)
            As they were taken.
        base : int
            Where they were put.
        """
        self._core.free(self._areas(areas), integer("base", base))

    def occupy(self, start: int, end: int) -> None:
        """Take a range for something else.

        Parameters
        ----------
        start, end : int
            Addresses; the end is excluded.

        Raises
        ------
        InvalidRequest
            If it is empty or overlaps what is taken.
        """
        self._core.occupy(integer("start", start), integer("end", end))

    def release(self, start: int) -> None:
        """Give back the range that starts at `start`.

        Parameters
        ----------
        start : int
            Address.
        """
        self._core.release(integer("start", start))

    def purge(self) -> int:
        """Free what is lazy.

        Returns
        -------
        int
            Number of ranges.
        """
        return self._core.purge()

    def inject(self, fault: str, *, area: int = 0, calls: int = 1) -> None:
        """Let calls of `alloc` fail.

        Parameters
        ----------
        fault : {"objects", "split", "shadow"}
            No memory for the objects that describe the areas, for splitting the free block of an area, or for its
            shadow memory.
        area : int, optional
            Index of the area that fails.
        calls : int, optional
            How many attempts fail; one after a purge counts too.
        """
        choice("fault", fault, ("objects", "split", "shadow"))
        self._core.inject(fault, integer("area", area, 0, 2**32), integer("calls", calls, 0, 2**32 - 1))

    def verify(self) -> None:
        """Rescan everything.

        Raises
        ------
        VerifyError
            With the name of the broken invariant.
        """
        self._core.verify()

    def __copy__(self) -> VmallocSpace:
        return self._wrap(self._core.copy())

    def __deepcopy__(self, memo: dict[int, Any]) -> VmallocSpace:
        return self._wrap(self._core.copy())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VmallocSpace):
            return NotImplemented
        return self._core.equals(other._core)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        start, end = self.bounds
        return f"VmallocSpace({start:#x}, {end:#x}, search={self.search!r}, {len(self.busy)} ranges taken)"

    def _repr_html_(self) -> str:
        from percpu._rich import space_html

        return space_html(self)

    def __reduce__(self) -> tuple[Any, ...]:
        search, start, end, page_size, lazy_free, threshold, hint, _ = self._core.config()
        return _rebuild, (search, start, end, page_size, lazy_free, threshold, hint, self.busy)


def _rebuild(
    search: str,
    start: int,
    end: int,
    page_size: int,
    lazy_free: bool,
    threshold: int | None,
    hint: int,
    busy: list[tuple[int, int, bool]],
) -> VmallocSpace:
    space = VmallocSpace(start, end, search=search, page_size=page_size, lazy_free=lazy_free, lazy_threshold=threshold)
    for first, last, _ in busy:
        space.occupy(first, last)
    space._core.restore([first for first, _, lazy in busy if lazy], hint)
    return space
