"""Topology of a machine, and the layout of the first chunk on it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from percpu import _core
from percpu._checks import choice, integer, release, warn_assumed
from percpu.errors import LayoutError

__all__ = ["FirstChunkLayout", "Group", "Topology"]

LOCAL, REMOTE = 10, 20
_MAX_CPUS = 1 << 16


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _cpu_list(text: str) -> list[int]:
    """Numbers of a list such as ``0-3,8,10-11``."""
    cpus: list[int] = []
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            cpus.extend(range(int(first), int(last or first) + 1))
    return cpus


class Topology:
    """Possible CPUs, their nodes and their distances.

    Distances are those of the firmware tables: 10 is local, anything larger is remote. Only whether two CPUs are near
    each other matters to the layout.

    Parameters
    ----------
    cpu_to_node : sequence of int or None
        Node of each CPU id; None (or -1) where the id is not possible.
    distances : (n, n) array of int, optional
        Distance from CPU to CPU in both directions; by default 10 within a node and 20 between nodes.

    Examples
    --------
    >>> t = Topology.from_nodes([2, 3])
    >>> t.nr_cpus, t.cpu_to_node.tolist()
    (5, [0, 0, 1, 1, 1])
    """

    def __init__(self, cpu_to_node: Sequence[int | None] | np.ndarray, distances: Any = None) -> None:
        nodes = np.array([-1 if node is None else node for node in cpu_to_node], dtype=np.int32)
        if nodes.ndim != 1 or not 0 < len(nodes) <= _MAX_CPUS:
            raise LayoutError(f"cpu_to_node: {nodes.shape} entries; there must be 1 to {_MAX_CPUS}")
        if not (nodes >= 0).any():
            raise LayoutError("cpu_to_node: no CPU is possible")
        self._cpu_to_node = _read_only(nodes)
        self._distances: np.ndarray | None = None
        if distances is not None:
            matrix = np.asarray(distances)
            if matrix.shape != (len(nodes), len(nodes)):
                raise LayoutError(f"distances: shape {matrix.shape}, must be {(len(nodes), len(nodes))}")
            if matrix.dtype.kind not in "iu" or matrix.min() < 0 or matrix.max() > 2**31 - 1:
                raise LayoutError("distances: must be integers from 0 to 2147483647")
            self._distances = _read_only(np.ascontiguousarray(matrix, dtype=np.uint32))

    @classmethod
    def from_nodes(cls, nodes: Iterable[int | Sequence[int]]) -> Topology:
        """Make a topology from CPUs per node.

        Parameters
        ----------
        nodes : iterable of int or of sequences of int
            For each node the number of its CPUs, ids ascending; or the ids themselves.

        Returns
        -------
        Topology

        Examples
        --------
        >>> Topology.from_nodes([[0, 2], [1, 3]]).cpu_to_node.tolist()
        [0, 1, 0, 1]
        """
        by_cpu: dict[int, int] = {}
        following = 0
        for node, cpus in enumerate(nodes):
            if isinstance(cpus, (int, np.integer)):
                count = integer("nodes", cpus, 0, _MAX_CPUS, LayoutError)
                ids: Iterable[int] = range(following, following + count)
            else:
                ids = [integer("nodes", cpu, 0, _MAX_CPUS - 1, LayoutError) for cpu in cpus]
            for cpu in ids:
                if cpu in by_cpu:
                    raise LayoutError(f"nodes: CPU {cpu} is on two nodes")
                by_cpu[cpu] = node
                following = max(following, cpu + 1)
        return cls([by_cpu.get(cpu) for cpu in range(following)])

    @classmethod
    def from_distances(cls, distances: Any, *, possible: Iterable[int] | None = None) -> Topology:
        """Make a topology from a matrix of distances between CPUs.

        Parameters
        ----------
        distances : (n, n) array of int
            Distance from CPU to CPU; 10 is local. It need not be symmetric.
        possible : iterable of int, optional
            The possible CPU ids; all n by default.

        Returns
        -------
        Topology
            Nodes are numbered by the first CPU that is at distance 10 both ways; they are for information, the
            matrix decides.
        """
        matrix = np.asarray(distances)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise LayoutError(f"distances: shape {matrix.shape}, must be square")
        allowed = set(range(len(matrix))) if possible is None else set(possible)
        if not allowed <= set(range(len(matrix))):
            raise LayoutError(f"possible: must be ids from 0 to {len(matrix) - 1}")
        near = (matrix == LOCAL) & (matrix.T == LOCAL)
        nodes: list[int | None] = []
        firsts: list[int] = []
        for cpu in range(len(matrix)):
            if cpu not in allowed:
                nodes.append(None)
                continue
            node = next((k for k, first in enumerate(firsts) if near[first, cpu]), len(firsts))
            if node == len(firsts):
                firsts.append(cpu)
            nodes.append(node)
        return cls(nodes, matrix)

    @classmethod
    def from_sysfs(cls, root: str | os.PathLike[str] = "/sys") -> Topology:
        """Read the topology of the running machine.

        Parameters
        ----------
        root : path, optional
            Where sysfs is mounted, or a copy of its ``devices/system`` part.

        Returns
        -------
        Topology
            A possible CPU that is on no node (not plugged in) is put on node 0.
        """
        system = Path(root) / "devices/system"
        try:
            possible = _cpu_list((system / "cpu/possible").read_text())
        except OSError as error:
            raise LayoutError(f"{system / 'cpu/possible'}: {error.strerror}") from error
        nodes: list[int | None] = [None] * (max(possible) + 1)
        for cpu in possible:
            nodes[cpu] = 0
        for path in sorted((system / "node").glob("node[0-9]*/cpulist")):
            for cpu in _cpu_list(path.read_text()):
                if cpu < len(nodes) and nodes[cpu] is not None:
                    nodes[cpu] = int(path.parent.name.removeprefix("node"))
        return cls(nodes)

    @classmethod
    def from_boot_log(cls, text: str) -> Topology:
        """Take the groups that a kernel printed at boot as nodes.

        Parameters
        ----------
        text : str
            A boot log with the lines ``pcpu-alloc: [0] 0 1 2 3 [1] ...``.

        Returns
        -------
        Topology
        """
        groups = _core.parse_boot_log(text)["groups"]
        if groups is None:
            raise LayoutError("text: no pcpu-alloc lines with groups")
        return cls.from_nodes([[cpu for cpu in group if cpu is not None] for group in groups])

    @property
    def cpu_to_node(self) -> np.ndarray:
        """(n,) int32: node of each CPU id; -1 where the id is not possible."""
        return self._cpu_to_node

    @property
    def distances(self) -> np.ndarray | None:
        """(n, n) uint32: distances between CPUs as given; None where only nodes are known."""
        return self._distances

    @property
    def possible(self) -> np.ndarray:
        """Ids of the possible CPUs, ascending, int64."""
        return np.flatnonzero(self._cpu_to_node >= 0)

    @property
    def nr_cpus(self) -> int:
        """Number of possible CPUs."""
        return int((self._cpu_to_node >= 0).sum())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Topology):
            return NotImplemented
        return np.array_equal(self._cpu_to_node, other._cpu_to_node) and (
            (self._distances is None and other._distances is None)
            or (
                self._distances is not None
                and other._distances is not None
                and np.array_equal(self._distances, other._distances)
            )
        )

    def __hash__(self) -> int:
        return hash(self._cpu_to_node.tobytes())

    def __repr__(self) -> str:
        nodes = self._cpu_to_node[self._cpu_to_node >= 0]
        return f"Topology({self.nr_cpus} CPUs on {len(np.unique(nodes))} nodes)"

    def __reduce__(self) -> tuple[Any, ...]:
        return Topology, (self._cpu_to_node.tolist(), self._distances)


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
    ) -> FirstChunkLayout:
        """Compute the layout that a kernel would choose.

        Parameters
        ----------
        static_size : int
            Bytes of the kernel image's per-CPU section, not rounded.
        reserved_size : int, optional
            Bytes kept for modules.
        dyn_size : int, optional
            Least bytes for the first dynamic region; the kernel's default is 28 KiB.
        atom_size : int, optional
            Bytes; first-chunk memory comes in multiples of it. 2 MiB on x86-64.
        topology : Topology or int, optional
            The machine; a number stands for so many CPUs on one node.
        kernel : str, optional
            Release or engine, see `kernels`.
        first_chunk : {"auto", "embed", "page", "up"}, optional
            Which first-chunk allocator. "auto" and "embed" embed the units in the direct mapping and fall back to
            "page" as the kernel does, where the groups lie too far apart; "page" uses one group, pages as atoms and
            no dynamic size; "up" is a kernel built for one CPU, which ignores the sizes.
        page_size : int, optional
            Bytes.
        early_size : int, optional
            Bytes that the first dynamic region has at least; the release's own by default.
        min_alloc_size, block_size : int, optional
            Bytes of a granule and of a metadata block; 4 and one page in the kernel.
        word_bits : {64, 32}, optional
            The machine's word; sizes and addresses that overflow it are errors.
        vmalloc_size : int, optional
            Bytes of the vmalloc space; that of x86 by default.
        group_addresses : sequence of int, optional
            Address of each group's memory, in the order of the groups; one after the other by default.

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
        if not isinstance(topology, Topology):
            topology = Topology.from_nodes([integer("topology", topology, 1, _MAX_CPUS, LayoutError)])
        preset = release(kernel)
        warn_assumed(preset)
        sizes = {
            "static_size": integer("static_size", static_size, 0, 1 << 40, LayoutError),
            "reserved_size": integer("reserved_size", reserved_size, 0, 1 << 40, LayoutError),
            "dyn_size": integer("dyn_size", dyn_size, 0, 1 << 40, LayoutError),
            "atom_size": integer("atom_size", atom_size, 1, 1 << 40, LayoutError),
            "page_size": integer("page_size", page_size, 1, 1 << 40, LayoutError),
            "early_size": None if early_size is None else integer("early_size", early_size, 0, 1 << 40, LayoutError),
        }
        large = (1 << 64) - 1
        more = {
            "min_alloc_size": integer("min_alloc_size", min_alloc_size, 1, 1 << 40, LayoutError),
            "block_size": None if block_size is None else integer("block_size", block_size, 1, 1 << 40, LayoutError),
            "word_bits": integer("word_bits", word_bits, 32, 64, LayoutError),
            "vmalloc_size": None
            if vmalloc_size is None
            else integer("vmalloc_size", vmalloc_size, 0, large, LayoutError),
            "group_addresses": None
            if group_addresses is None
            else tuple(integer("group_addresses", address, 0, large, LayoutError) for address in group_addresses),
        }
        choice("first_chunk", first_chunk, ("auto", "embed", "page", "up"))
        if more["word_bits"] not in (32, 64):
            raise LayoutError(f"word_bits={word_bits}: must be 32 or 64")
        if first_chunk == "up" and topology.nr_cpus != 1:
            raise LayoutError(f"topology={topology!r}: a kernel without SMP has one CPU")
        self = cls.__new__(cls)
        self._arguments = {"topology": topology, "kernel": preset[0], "first_chunk": first_chunk, **sizes, **more}
        self._core = _core.FirstChunkLayout.build(
            kernel=preset[0],
            first_chunk=first_chunk,
            cpu_to_node=topology.cpu_to_node,
            cpu_distances=topology.distances,
            **sizes,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in more.items()},
        )
        self._record = self._core.record()
        return self

    @property
    def topology(self) -> Topology:
        """The machine."""
        return self._arguments["topology"]

    @property
    def kernel(self) -> str:
        """Release whose rules were used."""
        return self._arguments["kernel"]

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
            f"nr_groups={self._record['nr_groups']}, nr_holes={self.nr_holes})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._arguments,)


def _rebuild(arguments: dict[str, Any]) -> FirstChunkLayout:
    return FirstChunkLayout.build(**arguments)
