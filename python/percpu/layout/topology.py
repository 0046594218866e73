"""Topology: which CPUs are possible, where they live, how far apart they are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from percpu import _core
from percpu._checks import integer
from percpu.errors import LayoutError

__all__ = ["MAX_CPUS", "Topology", "topology_of"]

LOCAL = 10
MAX_CPUS = 1 << 16
_MAX_DISTANCE = 2**31 - 1
_MAX_NODES = 1 << 10
"""Of Linux, where texts and files number them."""


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _cpu_list(name: str, text: str) -> list[int]:
    """Numbers of a list such as ``0-3,8,10-11`` or, with strides, ``0-6:2``."""
    cpus: list[int] = []
    for part in text.strip().split(","):
        if not part.strip():
            continue
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?(?::(\d{1,9}))?\s*", part)
        if match is None:
            raise LayoutError(f"{name}: {part!r} is not a number or a range in the list {text.strip()[:60]!r}")
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if last < first or last >= MAX_CPUS or step == 0:
            raise LayoutError(f"{name}: {part!r} must ascend and stay below {MAX_CPUS}")
        cpus.extend(range(first, last + 1, step))
        if len(cpus) > MAX_CPUS:
            raise LayoutError(f"{name}: the list names more than {MAX_CPUS} CPUs")
    return cpus


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise LayoutError(f"{name} must be text, not {type(value).__name__}")
    return value


def _matrix(name: str, values: Any, size: int | None = None) -> np.ndarray:
    """Distances as a square uint32 array."""
    try:
        matrix = np.asarray(values)
    except ValueError:
        raise LayoutError(f"{name}: rows differ in length; must be square") from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise LayoutError(f"{name}: shape {matrix.shape}, must be square")
    if size is not None and len(matrix) < size:
        raise LayoutError(f"{name}: shape {matrix.shape}, must be {(size, size)}")
    if matrix.dtype.kind not in "iu" or matrix.size == 0 or matrix.min() < 0 or matrix.max() > _MAX_DISTANCE:
        raise LayoutError(f"{name}: must be integers from 0 to {_MAX_DISTANCE}")
    return _read_only(np.ascontiguousarray(matrix, dtype=np.uint32))


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))


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
    node_distances : (m, m) array of int, optional
        Instead: distance from node to node (the SLIT of the firmware); it covers every node that has a CPU.
    online : iterable of int, optional
        The CPUs that are plugged in and running; all possible ones by default. It changes no layout, only what is
        said about waste.
    flat : bool, optional
        No distances at all, as on machines without NUMA: all CPUs are in one group.

    Raises
    ------
    LayoutError
        If no CPU is possible, or the arguments contradict each other.

    Examples
    --------
    >>> t = Topology.from_nodes([2, 3])
    >>> t.nr_cpus, t.cpu_to_node.tolist()
    (5, [0, 0, 1, 1, 1])
    """

    def __init__(
        self,
        cpu_to_node: Sequence[int | None] | np.ndarray,
        distances: Any = None,
        *,
        node_distances: Any = None,
        online: Iterable[int] | None = None,
        flat: bool = False,
    ) -> None:
        try:
            given = [-1 if node is None else node for node in cpu_to_node]
        except TypeError:
            raise LayoutError(f"cpu_to_node must be a sequence, not {type(cpu_to_node).__name__}") from None
        if not 0 < len(given) <= MAX_CPUS:
            raise LayoutError(f"cpu_to_node: {len(given)} entries; there must be 1 to {MAX_CPUS}")
        try:
            values = [integer("cpu_to_node", node, -1, MAX_CPUS - 1, LayoutError) for node in given]
        except TypeError as error:
            raise LayoutError(str(error)) from None
        nodes = np.array(values, dtype=np.int32)
        if not (nodes >= 0).any():
            raise LayoutError("cpu_to_node: no CPU is possible")
        self._cpu_to_node = _read_only(nodes)
        if sum((distances is not None, node_distances is not None, bool(flat))) > 1:
            raise LayoutError("distances, node_distances and flat exclude each other")
        self._distances = None
        if distances is not None:
            self._distances = _matrix("distances", distances)
            if len(self._distances) != len(nodes):
                shape = self._distances.shape
                raise LayoutError(f"distances: shape {shape}, must be {(len(nodes), len(nodes))}")
        self._node_distances = None
        if node_distances is not None:
            self._node_distances = _matrix("node_distances", node_distances, int(nodes.max()) + 1)
        self._flat = bool(flat)
        possible = set(np.flatnonzero(nodes >= 0).tolist())
        self._online = tuple(sorted(possible)) if online is None else tuple(sorted(set(map(int, online))))
        if not set(self._online) <= possible:
            raise LayoutError(f"online: {sorted(set(self._online) - possible)[:8]} are not possible CPUs")

    @classmethod
    def from_nodes(
        cls, nodes: Iterable[int | Sequence[int]], *, node_distances: Any = None, online: Iterable[int] | None = None
    ) -> Topology:
        """Make a topology from CPUs per node.

        Parameters
        ----------
        nodes : iterable of int or of sequences of int
            For each node the number of its CPUs, ids ascending; or the ids themselves, as numbers or as a text such
            as ``"0-3,8"``.
        node_distances : (m, m) array of int, optional
            Distance from node to node; by default 10 within a node and 20 between nodes.
        online : iterable of int, optional
            The CPUs that are running; all by default.

        Returns
        -------
        Topology

        Raises
        ------
        LayoutError
            If a CPU is on two nodes, or a number is out of range.

        Examples
        --------
        >>> Topology.from_nodes([[0, 2], "1,3"]).cpu_to_node.tolist()
        [0, 1, 0, 1]
        """
        by_cpu: dict[int, int] = {}
        following = 0
        if isinstance(nodes, str):
            raise LayoutError(f"nodes: must be counts or lists of CPUs, one for each node, not the text {nodes[:40]!r}")
        try:
            for node, cpus in enumerate(nodes):
                if isinstance(cpus, (int, np.integer)) and not isinstance(cpus, bool):
                    count = integer("nodes", cpus, 0, MAX_CPUS, LayoutError)
                    ids: Iterable[int] = range(following, following + count)
                elif isinstance(cpus, str):
                    ids = _cpu_list("nodes", cpus)
                else:
                    ids = [integer("nodes", cpu, 0, MAX_CPUS - 1, LayoutError) for cpu in cpus]
                for cpu in ids:
                    if cpu in by_cpu:
                        raise LayoutError(f"nodes: CPU {cpu} is on two nodes")
                    by_cpu[cpu] = node
                    following = max(following, cpu + 1)
        except TypeError as error:
            raise LayoutError(f"nodes: must be counts or lists of CPUs, one for each node ({error})") from None
        return cls([by_cpu.get(cpu) for cpu in range(following)], node_distances=node_distances, online=online)

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

        See Also
        --------
        Topology.from_slit : Distances between nodes, as the firmware gives them.
        """
        matrix = _matrix("distances", distances)
        allowed = set(range(len(matrix))) if possible is None else {_cpu("possible", cpu) for cpu in possible}
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
    def from_slit(cls, matrix: Any, nodes: Iterable[int | Sequence[int]]) -> Topology:
        r"""Make a topology from the distances between nodes (the firmware's SLIT) and the CPUs of each node.

        Parameters
        ----------
        matrix : (m, m) array of int, or str
            Distance from node to node, 10 on the diagonal; as text, a row a line.
        nodes : iterable of int or of sequences of int
            CPUs of each node, as in `from_nodes`.

        Returns
        -------
        Topology

        Examples
        --------
        >>> t = Topology.from_slit("10 21\n21 10", [2, 2])
        >>> t.node_distances.tolist()
        [[10, 21], [21, 10]]
        """
        if isinstance(matrix, str):
            rows = [line.split() for line in matrix.splitlines() if line.strip()]
            if not all(word.isdecimal() for row in rows for word in row):
                raise LayoutError("matrix: must be lines of distances")
            matrix = [[int(word) for word in row] for row in rows]
        return cls.from_nodes(nodes, node_distances=_matrix("matrix", matrix))

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
            With the distances of the nodes where sysfs has them. A possible CPU that is on no node (not plugged in) is
            put on the first node; which one it is on does not show in sysfs.

        Raises
        ------
        LayoutError
            If files are missing or make no sense.
        """
        system = Path(root) / "devices/system"

        def read(path: Path) -> str:
            try:
                return path.read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise LayoutError(f"{path}: {getattr(error, 'strerror', None) or error}") from error

        possible = _cpu_list(str(system / "cpu/possible"), read(system / "cpu/possible"))
        if not possible:
            raise LayoutError(f"{system / 'cpu/possible'}: no CPU")
        online = None
        if (system / "cpu/online").exists():
            online = set(_cpu_list(str(system / "cpu/online"), read(system / "cpu/online"))) & set(possible)
        cpus: dict[int, list[int]] = {}
        rows: dict[int, list[int]] = {}
        for directory in (system / "node").glob("node[0-9]*"):
            number = directory.name.removeprefix("node")
            if not number.isdecimal() or not (directory / "cpulist").exists():
                continue
            _node(str(directory), int(number))
            cpus[int(number)] = _cpu_list(str(directory / "cpulist"), read(directory / "cpulist"))
            if (directory / "distance").exists():
                words = read(directory / "distance").split()
                if not all(word.isdecimal() for word in words):
                    raise LayoutError(f"{directory / 'distance'}: must be distances")
                rows[int(number)] = [int(word) for word in words]
        nodes: list[int | None] = [None] * (max(possible) + 1)
        for cpu in possible:
            nodes[cpu] = min(cpus, default=0)
        for node in sorted(cpus):
            for cpu in cpus[node]:
                if cpu < len(nodes) and nodes[cpu] is not None:
                    nodes[cpu] = node
        return cls(nodes, node_distances=_by_node(rows, cpus), online=online)

    @classmethod
    def from_lscpu(cls, text: str) -> Topology:
        r"""Read the output of ``lscpu -p`` (any columns that include CPU and, if there are several, node).

        Parameters
        ----------
        text : str
            The whole output, with its comment lines; ``lscpu -p -a`` has the offline CPUs too.

        Returns
        -------
        Topology
            CPUs without a node are on the first one.

        Examples
        --------
        >>> Topology.from_lscpu("# CPU,Core,Socket,Node\n0,0,0,0\n1,1,1,1\n").cpu_to_node.tolist()
        [0, 1]
        """
        columns = ["cpu", "core", "socket", "node"]
        found: dict[int, int | None] = {}
        online: set[int] = set()
        for number, line in enumerate(_text("text", text).splitlines(), 1):
            stripped = line.strip()
            if stripped.startswith("#"):
                names = [name.strip().lower() for name in stripped.lstrip("# ").split(",")]
                if "cpu" in names:
                    columns = names
                continue
            if not stripped:
                continue
            words = stripped.split(",")
            values = dict(zip(columns, words, strict=False))
            cpu, node = values.get("cpu", ""), values.get("node", "")
            if not cpu.isdecimal() or not (node.isdecimal() or node in ("", "-")) or int(cpu) >= MAX_CPUS:
                raise LayoutError(f"text: line {number} is no row of lscpu -p: {stripped[:60]!r}")
            if int(cpu) in found:
                raise LayoutError(f"text: line {number}: CPU {cpu} occurs twice")
            found[int(cpu)] = int(node) if node.isdecimal() else None
            if values.get("online", "Y").upper().startswith("Y"):
                online.add(int(cpu))
        if not found:
            raise LayoutError("text: no rows of lscpu -p")
        first = min((node for node in found.values() if node is not None), default=0)
        by_cpu = {cpu: first if node is None else node for cpu, node in found.items()}
        return cls([by_cpu.get(cpu) for cpu in range(max(by_cpu) + 1)], online=online)

    @classmethod
    def from_numactl(cls, text: str) -> Topology:
        """Read the output of ``numactl -H``: CPUs of the nodes, and their distances.

        Parameters
        ----------
        text : str
            Lines such as ``node 0 cpus: 0 1 2 3`` and the table ``node distances:``.

        Returns
        -------
        Topology
        """
        cpus: dict[int, list[int]] = {}
        rows: dict[int, list[int]] = {}
        columns: list[int] | None = None
        for number, line in enumerate(_text("text", text).splitlines(), 1):
            try:
                if match := re.fullmatch(r"\s*node\s+(\d+)\s+cpus:\s*([\d ]*)", line):
                    cpus[_node("cpus", int(match[1]))] = [_cpu("text", int(word)) for word in match[2].split()]
                elif re.match(r"\s*node distances:", line):
                    columns = []
                elif columns == [] and (match := re.fullmatch(r"\s*node\s+([\d ]+)", line)):
                    columns = [_node("distances", int(word)) for word in match[1].split()]
                elif columns and (match := re.fullmatch(r"\s*(\d+):\s+([\d ]+)", line)):
                    values = [int(word) for word in match[2].split()]
                    if len(values) != len(columns):
                        raise LayoutError(f"{len(values)} distances for {len(columns)} nodes")
                    row = [LOCAL * 2] * (max(columns) + 1)
                    for column, value in zip(columns, values, strict=True):
                        row[column] = value
                    rows[int(match[1])] = row
            except (LayoutError, ValueError) as error:
                raise LayoutError(f"text: line {number} of numactl -H: {error}") from None
        if not any(cpus.values()):
            raise LayoutError("text: no lines 'node N cpus: ...'")
        by_node = [cpus.get(node, []) for node in range(max(cpus) + 1)]
        return cls.from_nodes(by_node, node_distances=_by_node(rows, cpus))

    @classmethod
    def from_boot_log(cls, text: str) -> Topology:
        """Take the groups that a kernel printed at boot as nodes.

        Parameters
        ----------
        text : str
            A boot log with the lines ``pcpu-alloc: [0] 0 1 2 3 [1] ...``; without them one that says that there is
            one node, and how many CPUs.

        Returns
        -------
        Topology

        Raises
        ------
        LayoutError
            If the log does not show it.
        """
        log = _core.parse_boot_log(_text("text", text))
        if log["groups"] is not None:
            return cls.from_nodes([[cpu for cpu in group if cpu is not None] for group in log["groups"]])
        if log["nr_node_ids"] == 1 and log["nr_cpu_ids"]:
            return cls.from_nodes([log["nr_cpu_ids"]])
        raise LayoutError("text: no pcpu-alloc lines with groups")

    @property
    def cpu_to_node(self) -> np.ndarray:
        """(n,) int32: node of each CPU id; -1 where the id is not possible."""
        return self._cpu_to_node

    @property
    def distances(self) -> np.ndarray | None:
        """(n, n) uint32: distances between CPUs as given; None where only nodes are known."""
        return self._distances

    @property
    def node_distances(self) -> np.ndarray | None:
        """(m, m) uint32: distances between nodes as given; None where they are 10 and 20."""
        return self._node_distances

    @property
    def flat(self) -> bool:
        """Whether there are no distances at all."""
        return self._flat

    @property
    def possible(self) -> np.ndarray:
        """Ids of the possible CPUs, ascending, int64."""
        return np.flatnonzero(self._cpu_to_node >= 0)

    @property
    def online(self) -> np.ndarray:
        """Ids of the CPUs that are running, ascending, int64."""
        return np.array(self._online, dtype=np.int64)

    @property
    def nr_cpus(self) -> int:
        """Number of possible CPUs."""
        return int((self._cpu_to_node >= 0).sum())

    @property
    def nr_online(self) -> int:
        """Number of CPUs that are running."""
        return len(self._online)

    @property
    def nr_nodes(self) -> int:
        """Number of nodes with a possible CPU."""
        return len(np.unique(self._cpu_to_node[self._cpu_to_node >= 0]))

    def _for_core(self) -> dict[str, Any]:
        return {
            "cpu_to_node": self._cpu_to_node,
            "cpu_distances": self._distances,
            "node_distances": self._node_distances,
            "flat": self._flat,
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Topology):
            return NotImplemented
        return (
            np.array_equal(self._cpu_to_node, other._cpu_to_node)
            and _same(self._distances, other._distances)
            and _same(self._node_distances, other._node_distances)
            and (self._flat, self._online) == (other._flat, other._online)
        )

    def __hash__(self) -> int:
        return hash(self._cpu_to_node.tobytes())

    def __repr__(self) -> str:
        online = "" if self.nr_online == self.nr_cpus else f", {self.nr_online} of them online"
        return f"Topology({self.nr_cpus} CPUs on {self.nr_nodes} nodes{online})"

    def __reduce__(self) -> tuple[Any, ...]:
        given = (self._cpu_to_node.tolist(), self._distances, self._node_distances, self._online, self._flat)
        return _rebuild, given


def _cpu(name: str, value: Any) -> int:
    try:
        return integer(name, value, 0, MAX_CPUS - 1, LayoutError)
    except TypeError as error:
        raise LayoutError(str(error)) from None


def _node(name: str, number: int) -> int:
    if number >= _MAX_NODES:
        raise LayoutError(f"{name}: node {number}: must be from 0 to {_MAX_NODES - 1}")
    return number


def _by_node(rows: dict[int, list[int]], cpus: dict[int, list[int]]) -> np.ndarray | None:
    """Rows of distances as a matrix by node number; None if there are none.

    Rows of sysfs are by position among the nodes that exist, those of numactl by number: a row that is as long as the
    number of nodes is by position.
    """
    if not rows:
        return None
    numbers = sorted(cpus)
    matrix = np.full((numbers[-1] + 1, numbers[-1] + 1), 2 * LOCAL)
    np.fill_diagonal(matrix, LOCAL)
    for node in numbers:
        row = rows.get(node)
        if row is None or len(row) not in (len(numbers), len(matrix)):
            raise LayoutError(f"distances of node {node}: {row}; there must be one for each of {len(numbers)} nodes")
        if max(row) > _MAX_DISTANCE:
            raise LayoutError(f"distances of node {node}: {max(row)}: must be from 0 to {_MAX_DISTANCE}")
        columns = numbers if len(row) == len(numbers) else range(len(matrix))
        matrix[node, list(columns)] = row
    return _matrix("node_distances", matrix)


def _rebuild(nodes: list[int], distances: Any, node_distances: Any, online: tuple[int, ...], flat: bool) -> Topology:
    return Topology(nodes, distances, node_distances=node_distances, online=online, flat=flat)


def topology_of(value: Any) -> Topology:
    """Return a topology, or that of so many CPUs on one node."""
    if isinstance(value, Topology):
        return value
    try:
        return Topology.from_nodes([integer("topology", value, 1, MAX_CPUS, LayoutError)])
    except TypeError:
        raise LayoutError(f"topology must be a Topology or a number of CPUs, not {type(value).__name__}") from None
