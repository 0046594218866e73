"""The first chunk: sizes, groups, units and regions of a machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from percpu import _core
from percpu._checks import choice, integer, release, warn_assumed
from percpu.errors import InvalidRequest, LayoutError
from percpu.layout.topology import Topology, topology_of
from percpu.results import Result

if TYPE_CHECKING:
    from percpu.layout.explain import LayoutExplanation
    from percpu.layout.recover import Recovery

__all__ = ["FirstChunkLayout", "Group", "Region", "architectures"]

_KINDS = ("auto", "embed", "page", "lpage", "up")
_PADDING = (1 << 64) - 1  # a dynamic size of -1


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _size(name: str, value: Any, low: int = 0, high: int = 1 << 40) -> int | None:
    """Bytes, or None for the default; other types are a `LayoutError` too."""
    if value is None:
        return None
    try:
        return integer(name, value, low, high, LayoutError)
    except TypeError as error:
        raise LayoutError(str(error)) from None


def _list(name: str, values: Any, high: int) -> tuple[int | None, ...]:
    """Numbers, all of them given; other types are a `LayoutError` too."""
    if isinstance(values, (str, bytes, dict)) or not np.iterable(values):
        raise LayoutError(f"{name} must be a list of integers, not {type(values).__name__}")
    numbers = tuple(_size(name, value, 0, high) for value in values)
    if None in numbers:
        raise LayoutError(f"{name}[{numbers.index(None)}] must be an integer, not NoneType")
    return numbers


def _dyn_size(value: Any) -> int | None:
    return _PADDING if value == -1 and not isinstance(value, bool) else _size("dyn_size", value)


def _kernel(kernel: Any, warn: bool) -> tuple[str, str]:
    """Release whose engine a layout goes with, and the release itself."""
    exact = None
    try:
        preset = release(kernel)
    except InvalidRequest:
        name = _core.preset_of(kernel) if isinstance(kernel, str) else None
        if name is None:
            raise
        preset, exact = release(name), kernel
    if warn:
        warn_assumed(preset if exact is None else (exact, preset[1], "assumed"))
    return preset[0], exact or preset[0]


_SIZES = (
    "static_size",
    "reserved_size",
    "atom_size",
    "page_size",
    "early_size",
    "min_unit_size",
    "min_alloc_size",
    "block_size",
    "unit_size",
)
_POSITIVE = {"atom_size", "page_size", "min_alloc_size", "block_size"}
_CONSTANTS = {
    "reserved_size",
    "dyn_size",
    "atom_size",
    "early_size",
    "min_unit_size",
    "min_alloc_size",
    "block_size",
    "vmalloc_start",
    "vmalloc_size",
    "page_allocator",
    "group_addresses",
}
_DEFAULTS: dict[str, Any] = {
    "kernel": "6.12",
    "arch": None,
    "variant": None,
    "first_chunk": "auto",
    "static_size": None,
    "reserved_size": None,
    "dyn_size": None,
    "atom_size": None,
    "page_size": 4096,
    "early_size": None,
    "min_unit_size": None,
    "min_alloc_size": 4,
    "block_size": None,
    "unit_size": None,
    "word_bits": 64,
    "vmalloc_start": None,
    "vmalloc_size": None,
    "page_allocator": None,
    "large_blocks": True,
    "backend": "vm",
    "group_addresses": None,
    "dyn_shift": 10,
    "modules": True,
    "memory_profiling": False,
    "large_pages": True,
    "pae": False,
    "linear_4k": False,
    "offline_nodes": (),
    "remap_percent": 20,
}


class Group(NamedTuple):
    """CPUs that are laid out together.

    Attributes
    ----------
    base_offset : int
        Bytes from the base address to the group's first unit.
    cpu_map : (m,) int32 array
        CPU in each unit; -1 for a hole.
    """

    base_offset: int
    cpu_map: np.ndarray


class Region(NamedTuple):
    """Part of the boot area that becomes a chunk.

    Attributes
    ----------
    base_addr : int
        Address of the chunk, page aligned.
    start_offset, size_bytes, end_offset : int
        Bytes hidden before, served, and hidden behind.
    nr_pages : int
        Pages of the chunk.
    """

    base_addr: int
    start_offset: int
    size_bytes: int
    end_offset: int
    nr_pages: int


class FirstChunkLayout:
    """The first chunk: unit size, groups, units, regions. Made by `build`.

    Examples
    --------
    >>> layout = FirstChunkLayout.build(static_size=188_416, reserved_size=8_192, dyn_size=28_672,
    ...                                 atom_size=2 << 20, topology=Topology.from_nodes([3, 5]))
    >>> layout.unit_size, layout.nr_units
    (1048576, 10)
    >>> [group.cpu_map.tolist() for group in layout.groups]
    [[0, 1, 2, -1], [3, 4, 5, 6, 7, -1]]
    """

    _core: _core.FirstChunkLayout
    _arguments: dict[str, Any]
    _kernel: str
    _recovery: Recovery | None
    _record: dict[str, Any]

    def __init__(self) -> None:
        raise TypeError("use FirstChunkLayout.build(...)")

    @classmethod
    def build(
        cls,
        *,
        static_size: int,
        reserved_size: int = 0,
        dyn_size: int = 28 << 10,
        atom_size: int = 2 << 20,
        topology: Topology | int = 1,
        kernel: str = "6.12",
        first_chunk: str = "auto",
        page_size: int = 4096,
        early_size: int | None = None,
        min_alloc_size: int = 4,
        block_size: int | None = None,
        word_bits: int = 64,
        vmalloc_size: int | None = None,
        group_addresses: Sequence[int] | None = None,
        min_unit_size: int | None = None,
        vmalloc_start: int | None = None,
        page_allocator: bool | None = None,
    ) -> FirstChunkLayout:
        """Compute the layout that a kernel would choose, from sizes alone.

        `for_machine` fills most of them in for an architecture and a release.

        Parameters
        ----------
        static_size : int
            Bytes of the kernel image's per-CPU section, not rounded.
        reserved_size : int, optional
            Bytes kept for modules.
        dyn_size : int, optional
            Least bytes for the first dynamic region; the kernel's default is 28 KiB. Before 2.6.36 also -1: what the
            padding to a page leaves.
        atom_size : int, optional
            Bytes; first-chunk memory comes in multiples of it. 2 MiB on x86-64.
        topology : Topology or int, optional
            The machine; a number stands for so many CPUs on one node.
        kernel : str, optional
            Release or engine, see `kernels`; other releases from 2.6.30 on have the constants of the preset before.
        first_chunk : {"auto", "embed", "page", "lpage", "up"}, optional
            Which first-chunk allocator. "auto" and "embed" embed the units in the direct mapping and fall back to
            "page" as the kernel does, where the groups lie too far apart; "page" uses one group, pages as atoms and
            no dynamic size; "up" is a kernel built for one CPU, which ignores the sizes.
        page_size : int, optional
            Bytes.
        early_size : int, optional
            Bytes that the first dynamic region has at least; the release's own by default.
        min_alloc_size, block_size : int, optional
            Bytes of a granule and of a block; 4 and one page in the kernel.
        word_bits : {64, 32}, optional
            The machine's word; sizes and addresses that overflow it are errors.
        vmalloc_size : int, optional
            Bytes of the vmalloc space; that of x86 by default.
        group_addresses : sequence of int, optional
            Address of each group's memory, in the order of the groups; one after the other by default.
        min_unit_size : int, optional
            Bytes that a unit has at least; 32 KiB, 64 KiB before 2.6.37.
        vmalloc_start : int, optional
            Address where the vmalloc space starts.
        page_allocator : bool, optional
            Whether "page" is built in; without it groups too far apart are only warned about.

        Returns
        -------
        FirstChunkLayout

        Raises
        ------
        LayoutError
            If an argument is out of range, or the kernel would stop.

        Notes
        -----
        Rules: specification sections 30 and 31; see docs/fidelity.md for what was proven.
        """
        return cls._make(
            topology,
            kernel=kernel,
            first_chunk=first_chunk,
            static_size=static_size,
            reserved_size=reserved_size,
            dyn_size=dyn_size,
            atom_size=atom_size,
            page_size=page_size,
            early_size=early_size,
            min_unit_size=min_unit_size,
            min_alloc_size=min_alloc_size,
            block_size=block_size,
            word_bits=word_bits,
            vmalloc_start=vmalloc_start,
            vmalloc_size=vmalloc_size,
            page_allocator=page_allocator,
            group_addresses=group_addresses,
        )

    @classmethod
    def for_machine(
        cls,
        arch: str,
        kernel: str = "6.12",
        *,
        static_size: int,
        topology: Topology | int = 1,
        variant: str | None = None,
        page_size: int | None = None,
        first_chunk: str = "auto",
        dyn_shift: int = 10,
        modules: bool = True,
        memory_profiling: bool = False,
        large_pages: bool = True,
        pae: bool = False,
        linear_4k: bool = False,
        offline_nodes: Sequence[int] = (),
        remap_percent: int = 20,
        large_blocks: bool = True,
        **constants: Any,
    ) -> FirstChunkLayout:
        """Compute the layout with the constants of an architecture and a release.

        Parameters
        ----------
        arch : str
            As ``uname -m`` says or the kernel names it, see `architectures`; it decides the machine word too.
        kernel : str, optional
            Any release from 2.6.30 on, such as ``"5.10.0-11-amd64"``.
        static_size : int
            Bytes of the kernel image's per-CPU section, not rounded. It is in no table: every build has its own.
        topology : Topology or int, optional
            The machine; a number stands for so many CPUs on one node.
        variant : str, optional
            The kind of machine where an architecture has several; the first one by default.
        page_size : int, optional
            Bytes; the first that the architecture has by default, 4 KiB where it may have any.
        first_chunk : {"auto", "embed", "page", "lpage", "up"}, optional
            The boot parameter ``percpu_alloc``; "up" is a kernel built for one CPU. "lpage" was there in 2.6.30 and
            2.6.31 only.
        dyn_shift : {10, 12, 13}, optional
            ``PERCPU_DYNAMIC_SIZE_SHIFT``: 12 with randomised kmalloc caches (from 6.6 on), 13 with lockdep as well.
        modules, memory_profiling : bool, optional
            Build options that decide the reserve for modules.
        large_pages, pae, linear_4k : bool, optional
            The CPU has large pages, and 8-byte page table entries (x86 before 3.5); the linear map has 4 KiB pages
            (ppc64 with hash tables).
        offline_nodes : sequence of int, optional
            Nodes that are not online (x86-32).
        remap_percent : int, optional
            Share of the vmalloc space that remapped large pages may take (2.6.30 and 2.6.31).
        large_blocks : bool, optional
            False if memory is too short of whole atoms to embed.
        **constants
            Any of ``reserved_size``, ``dyn_size``, ``atom_size``, ``early_size``, ``min_unit_size``,
            ``min_alloc_size``, ``block_size``, ``vmalloc_start``, ``vmalloc_size``, ``page_allocator`` and
            ``group_addresses`` of `build`, in place of the architecture's.

        Returns
        -------
        FirstChunkLayout

        Raises
        ------
        LayoutError
            If the combination is not known, or the kernel would stop.

        Examples
        --------
        >>> layout = FirstChunkLayout.for_machine("ppc64le", "5.4", static_size=627_608, topology=8, page_size=1 << 16)
        >>> layout.atom_size, layout.reserved_size, layout.unit_size
        (1048576, 0, 1048576)
        """
        unknown = sorted(set(constants) - _CONSTANTS)
        if unknown:
            raise TypeError(f"for_machine() got an unexpected keyword argument {unknown[0]!r}")
        rows = [row for row in _core.architectures() if arch in row["arch"]]
        if not rows:
            names = ", ".join(dict.fromkeys(name for row in _core.architectures() for name in row["arch"]))
            raise LayoutError(f"arch={arch!r}: must be one of {names}")
        pages = next((row["page_sizes"] for row in rows if variant in (None, row["variant"])), [])
        return cls._make(
            topology,
            arch=arch,
            kernel=kernel,
            variant=variant,
            static_size=static_size,
            page_size=(pages[0] if pages else 4096) if page_size is None else page_size,
            first_chunk=first_chunk,
            dyn_shift=dyn_shift,
            modules=modules,
            memory_profiling=memory_profiling,
            large_pages=large_pages,
            pae=pae,
            linear_4k=linear_4k,
            offline_nodes=offline_nodes,
            remap_percent=remap_percent,
            large_blocks=large_blocks,
            word_bits=rows[0]["word_bits"],
            **constants,
        )

    @classmethod
    def from_boot_log(
        cls,
        text: str,
        *,
        kernel: str | None = None,
        arch: str | None = None,
        page_size: int | None = None,
        topology: Topology | int | None = None,
        first_chunk: str | None = None,
    ) -> FirstChunkLayout:
        """Recover a layout from a boot log.

        What the log shows is taken as input, the rest follows from it, from the arguments or from what is tried; then
        every line is computed again. `recovery` says where each input comes from and which lines differ.

        Parameters
        ----------
        text : str
            A kernel log, whole or in part: lines that begin with ``percpu:``, ``PERCPU:``, ``setup_percpu:`` or
            ``pcpu-alloc:`` matter.
        kernel : str, optional
            Release, if the log does not name it (``Linux version ...``).
        arch : str, optional
            Architecture; x86 is recognised by its line of CPU counts.
        page_size : int, optional
            Bytes; it follows from the summary line.
        topology : Topology or int, optional
            The machine, if the log has no layout dump.
        first_chunk : str, optional
            The boot parameter ``percpu_alloc``, if the log does not name it.

        Returns
        -------
        FirstChunkLayout
            Its `recovery` is set. Where the number of CPUs is not shown, it is the layout of one CPU with the printed
            unit.

        Raises
        ------
        LayoutError
            If the log shows too little (attribute ``missing`` says what), or no layout can be like that.

        Examples
        --------
        >>> layout = FirstChunkLayout.from_boot_log('''
        ... percpu: Embedded 56 pages/cpu s192512 r8192 d28672 u262144
        ... pcpu-alloc: s192512 r8192 d28672 u262144 alloc=1*2097152
        ... pcpu-alloc: [0] 00 01 02 03 04 05 06 07 [0] 08 09 10 11 -- -- -- --''')
        >>> layout.topology, layout.nr_holes, layout.recovery.ok
        (Topology(12 CPUs on 1 nodes), 4, True)
        """
        from percpu.layout.recover import recover

        return recover(
            cls,
            text,
            kernel=kernel,
            arch=arch,
            page_size=_size("page_size", page_size, 1),
            topology=None if topology is None else topology_of(topology),
            first_chunk=first_chunk,
        )

    @classmethod
    def _make(cls, topology: Any, *, warn: bool = True, **given: Any) -> FirstChunkLayout:
        """Check the settings, fill in the others, compute."""
        topology = topology_of(topology)
        settings = {**_DEFAULTS, **given}
        engine_kernel, exact = _kernel(settings["kernel"], warn)
        if settings["unit_size"] is None:  # else a given unit, of a log that does not show the CPUs
            choice("first_chunk", settings["first_chunk"], _KINDS)
        for name in _SIZES:
            settings[name] = _size(name, settings[name], 1 if name in _POSITIVE else 0)
        settings["dyn_size"] = _dyn_size(settings["dyn_size"])
        for name in ("vmalloc_start", "vmalloc_size"):
            settings[name] = _size(name, settings[name], 0, (1 << 64) - 1)
        choice("backend", settings["backend"], ("vm", "km"))
        for name in ("static_size", "page_size", "min_alloc_size", "remap_percent"):
            if settings[name] is None:
                raise LayoutError(f"{name}: must be given")
        for name in ("arch", "variant"):
            if settings[name] is not None and not isinstance(settings[name], str):
                raise LayoutError(f"{name} must be a str, not {type(settings[name]).__name__}")
        if settings["page_allocator"] is not None and not isinstance(settings["page_allocator"], (bool, np.bool_)):
            raise LayoutError(f"page_allocator must be a bool, not {type(settings['page_allocator']).__name__}")
        if settings["word_bits"] not in (32, 64):
            raise LayoutError(f"word_bits={settings['word_bits']}: must be 32 or 64")
        if settings["group_addresses"] is not None:
            settings["group_addresses"] = _list("group_addresses", settings["group_addresses"], (1 << 64) - 1)
        settings["offline_nodes"] = _list("offline_nodes", settings["offline_nodes"], (1 << 32) - 1)
        settings["remap_percent"] = _size("remap_percent", settings["remap_percent"], 0, 100)
        if settings["dyn_shift"] not in (10, 12, 13):
            raise LayoutError(f"dyn_shift={settings['dyn_shift']}: must be 10, 12 or 13")
        for name in ("modules", "memory_profiling", "large_pages", "pae", "linear_4k", "large_blocks"):
            settings[name] = bool(settings[name])
        if settings["first_chunk"] == "up" and topology.nr_cpus != 1:
            raise LayoutError(f"topology={topology!r}: a kernel without SMP has one CPU")
        self = cls.__new__(cls)
        settings["kernel"] = exact
        self._arguments = {"topology": topology, **settings}
        self._kernel = engine_kernel
        self._recovery = None
        self._core = _core.FirstChunkLayout.build(settings=settings, **topology._for_core())
        self._record = self._core.record()
        return self

    @property
    def recovery(self) -> Recovery | None:
        """Where the inputs come from, if the layout was made by `from_boot_log`."""
        return self._recovery

    def explain(self) -> LayoutExplanation:
        """Say why the layout came out as it did, what it costs, and what would change it.

        Returns
        -------
        LayoutExplanation
            ``print()`` it, or use its ``to_dict()`` and ``plot()``.

        Examples
        --------
        >>> layout = FirstChunkLayout.build(static_size=188_416, reserved_size=8_192, topology=4)
        >>> [(c["units_per_alloc"], c["verdict"]) for c in layout.explain().candidates]
        [(8, 'wasteful'), (4, 'taken'), (2, 'more_allocs'), (1, 'not_reached')]
        """
        from percpu.layout.explain import LayoutExplanation

        return LayoutExplanation(self, self._core.explain())

    def plot(self, ax: Any = None) -> Any:
        """Draw groups, units, holes and regions; see `percpu.plot.plot_layout`.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
            The axes.
        """
        from percpu.plot import plot_layout

        return plot_layout(self, ax=ax)

    @property
    def topology(self) -> Topology:
        """The machine."""
        return self._arguments["topology"]

    @property
    def kernel(self) -> str:
        """Preset of the engine that goes with the layout, see `kernels`."""
        return self._kernel

    @property
    def release(self) -> str:
        """The release that was asked for."""
        return self._arguments["kernel"]

    @property
    def arch(self) -> str | None:
        """The architecture, if its constants were used."""
        return self._arguments["arch"]

    @property
    def first_chunk(self) -> str:
        """Which allocator made the first chunk: "embed", "page", "lpage" or "up"."""
        return self._record["first_chunk"]

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return self._arguments["page_size"]

    @property
    def static_size(self) -> int:
        """Bytes of the static region, not rounded."""
        return self._record["static_size"]

    @property
    def reserved_size(self) -> int:
        """Bytes of the reserved region."""
        return self._record["reserved_size"]

    @property
    def dyn_size(self) -> int:
        """Bytes of the first dynamic region, padding included."""
        return self._record["dyn_size"]

    @property
    def unit_size(self) -> int:
        """Bytes of a unit, in this and every later chunk."""
        return self._record["unit_size"]

    @property
    def atom_size(self) -> int:
        """Bytes of an atom."""
        return self._record["atom_size"]

    @property
    def alloc_size(self) -> int:
        """Bytes taken from the boot allocator at once."""
        return self._record["alloc_size"]

    @property
    def nr_units(self) -> int:
        """Units of a chunk, holes counted."""
        return self._record["nr_units"]

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups in order."""
        return tuple(Group(base, _read_only(cpus)) for base, cpus in self._core.groups())

    @property
    def base_addr(self) -> int:
        """Address of the lowest group: unit offsets count from it."""
        return self._record["base_addr"]

    @property
    def first(self) -> Region:
        """What the first chunk serves."""
        return Region(*self._core.regions()[0])

    @property
    def reserved(self) -> Region | None:
        """What the reserved chunk serves; None without one."""
        region = self._core.regions()[1]
        return None if region is None else Region(*region)

    @property
    def unit_map(self) -> np.ndarray:
        """(n,) int32: unit of each CPU id; -1 where the id is not possible."""
        return _read_only(self._core.unit_map())

    @property
    def unit_offsets(self) -> np.ndarray:
        """(n,) uint64, bytes: offset of each CPU's unit from the base address."""
        return _read_only(self._core.unit_offsets())

    @property
    def nr_holes(self) -> int:
        """Units without a CPU: memory that no one uses."""
        return self.nr_units - self.topology.nr_cpus

    def boot_log(self) -> str:
        """Lines that the kernel prints about this layout.

        Returns
        -------
        str
            The summary and the layout dump, to the byte, without time stamps.
        """
        return self._core.boot_log()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FirstChunkLayout):
            return NotImplemented
        return self._arguments == other._arguments

    def __hash__(self) -> int:
        return hash(tuple(self._arguments.items()))

    def __repr__(self) -> str:
        return (
            f"FirstChunkLayout(kernel={self.kernel!r}, unit_size={self.unit_size}, nr_units={self.nr_units}, "
            f"nr_cpus={self.topology.nr_cpus}, nr_groups={self._record['nr_groups']}, nr_holes={self.nr_holes})"
        )

    def _repr_html_(self) -> str:
        from percpu._rich import layout_html

        return layout_html(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._arguments, self._recovery)


def _rebuild(arguments: dict[str, Any], recovery: Any = None) -> FirstChunkLayout:
    settings = dict(arguments)
    if settings["dyn_size"] == _PADDING:
        settings["dyn_size"] = -1
    layout = FirstChunkLayout._make(settings.pop("topology"), warn=False, **settings)
    layout._recovery = recovery
    return layout


def architectures() -> Result:
    """List what architectures ask for, by kind of machine and release.

    Returns
    -------
    Result
        One row an architecture, kind of machine and stretch of releases; text unless noted.
        ``arch``, ``variant`` : names, as for `FirstChunkLayout.for_machine`.
        ``since``, ``until`` : first release, and first one for which it is no longer so; empty if it still is.
        ``word_bits`` : int64.
        ``page_sizes`` : bytes, separated by blanks; empty if it may have any.
        ``atom`` : what first-chunk memory comes in multiples of.
        ``distances`` : what groups CPUs: ``none``, ``same node``, or the ``table`` of distances.
        ``page_since`` : first release with the page first-chunk allocator; empty without it.
        ``automatic`` : what ``percpu_alloc=auto`` does.
        ``has_reserved`` : bool, whether the reserve for modules is a region of its own.

    Examples
    --------
    >>> rows = architectures()
    >>> rows[rows.arch == "sparc64"].atom.tolist()
    ['4 MiB']
    """
    rows = [(name, row) for row in _core.architectures() for name in row["arch"]]
    text = {
        "arch": [name for name, _ in rows],
        **{key: [row[key] or "" for _, row in rows] for key in ("variant", "since", "until")},
    }
    pages = [" ".join(str(size) for size in row["page_sizes"]) for _, row in rows]
    more = {key: [row[key] or "" for _, row in rows] for key in ("atom", "distances", "page_since", "automatic")}
    return Result(
        {
            **{name: np.array(values) for name, values in text.items()},
            "word_bits": np.array([row["word_bits"] for _, row in rows]),
            "page_sizes": np.array(pages),
            **{name: np.array(values) for name, values in more.items()},
            "has_reserved": np.array([row["has_reserved"] for _, row in rows]),
        }
    )
