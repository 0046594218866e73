"""The debugfs text ``percpu_stats`` as data: any kernel's, or that of the running one."""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections import Counter
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from percpu import _core, _tracefs
from percpu._checks import integer
from percpu.errors import InvalidRequest, PercpuError, TraceError
from percpu.results import Result

__all__ = ["PercpuStats", "compare_chunks", "compare_stats", "read_percpu_stats"]

_LABELS = ("reserved", "first", "plain", "to_depopulate", "sidelined")
_MAX_BYTES = 1 << 28
# Kernel's names to columns with units.
_COLUMNS = {
    "nr_alloc": "nr_alloc",
    "max_alloc_size": "max_alloc_bytes",
    "empty_pop_pages": "nr_empty_pop_pages",
    "first_bit": "first_free_bits",
    "free_bytes": "free_bytes",
    "contig_bytes": "contig_bytes",
    "sum_frag": "sum_frag_bytes",
    "max_frag": "max_frag_bytes",
    "cur_min_alloc": "cur_min_alloc_bytes",
    "cur_med_alloc": "cur_med_alloc_bytes",
    "cur_max_alloc": "cur_max_alloc_bytes",
    "memcg_aware": "memcg_aware",
}


class PercpuStats:
    """The content of one ``percpu_stats`` text; made by `read_percpu_stats`.

    Attributes
    ----------
    form : {"linux", "linux-memcg", "areamap", "rfc-v1"}
        Whose rows the text has: 4.14 on; 5.9 to 5.13 with memory cgroups; 4.13; the posting of July 2017.
    sizes : dict
        ``unit_size``, ``static_size``, ``reserved_size``, ``dyn_size``, ``atom_size``, ``alloc_size``, bytes.
    totals : dict
        The allocator's counters under the kernel's names: ``nr_alloc``, ``nr_dealloc``, ``nr_cur_alloc``,
        ``nr_max_alloc``, ``nr_chunks``, ``nr_max_chunks``, ``min_alloc_size``, ``max_alloc_size`` (bytes) and, but for
        4.13, ``empty_pop_pages`` (pages).
    chunks : Result
        One row a chunk, in the order of the text (the reserved one, then the lists by fullness), int64 unless noted:
        ``chunk`` (place in the text), ``label`` (category: ``reserved``, ``first``, ``plain``, ``to_depopulate``,
        ``sidelined``), ``nr_alloc``, ``max_alloc_bytes``, ``nr_empty_pop_pages``, ``first_free_bits``, ``free_bytes``,
        ``contig_bytes`` (the hint), ``sum_frag_bytes`` and ``max_frag_bytes`` (gaps before the last area),
        ``cur_min_alloc_bytes``, ``cur_med_alloc_bytes``, ``cur_max_alloc_bytes``, ``memcg_aware`` (bool). What the
        kernel does not print is missing.

    Examples
    --------
    >>> import percpu as pc
    >>> a = pc.Allocator(unit_size=32 << 10, nr_units=2)
    >>> p = a.alloc(64)
    >>> stats = pc.read_percpu_stats(a.stats_text())
    >>> stats.totals["nr_cur_alloc"], stats.chunks.free_bytes.tolist()
    (1, [32704])
    >>> stats.to_text() == a.stats_text()
    True
    """

    def __init__(self, *_: Any) -> None:
        raise TypeError("use read_percpu_stats(source)")

    @classmethod
    def _wrap(cls, core: _core.PercpuStats) -> PercpuStats:
        self = cls.__new__(cls)
        self._core = core
        self.form = core.form()
        self.sizes = core.sizes()
        self.totals = core.totals()
        labels, raw = core.chunks()
        n = len(labels)
        columns: dict[str, Any] = {
            "chunk": np.arange(n),
            "label": np.array([_LABELS.index(label) for label in labels], dtype=np.uint8),
        }
        columns |= {ours: raw[theirs] for theirs, ours in _COLUMNS.items()}
        columns["memcg_aware"] = columns["memcg_aware"].astype(bool)
        lacking = ["nr_empty_pop_pages", "first_free_bits"] if self.form == "areamap" else []
        lacking += ["memcg_aware"] if self.form != "linux-memcg" else []
        mask = {name: np.ones(n, dtype=bool) for name in lacking}
        self.chunks = Result(columns, mask=mask, categories={"label": _LABELS}, attrs={"form": self.form})
        return self

    _core: _core.PercpuStats
    form: str
    sizes: dict[str, int]
    totals: dict[str, int]
    chunks: Result

    def to_text(self) -> str:
        """Return the text as the kernel writes it, to the byte.

        Returns
        -------
        str
            Blanks that mail or a terminal added or took away are put right.
        """
        return self._core.to_text()

    def __eq__(self, other: object) -> bool:
        return self._core == other._core if isinstance(other, PercpuStats) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return read_percpu_stats, (self.to_text(),)

    def __repr__(self) -> str:
        n = len(self.chunks)
        live = self.totals["nr_cur_alloc"]
        chunks = f"{n} chunk{'' if n == 1 else 's'} of {self.sizes['unit_size']} bytes"
        return f"PercpuStats({self.form}: {chunks}, {live} live)"

    def _repr_html_(self) -> str:
        from percpu._svg import facts

        return f"<div>{facts([*self.sizes.items(), *self.totals.items()])}{self.chunks._repr_html_()}</div>"

    # -- answers ---------------------------------------------------------------------

    def plot(self, *, cpus: int | None = None, pinned_below: float = 0.1, top: int = 30, ax: Any = None) -> Any:
        """Draw what each chunk holds, what its hint says, and what it hides.

        Parameters
        ----------
        cpus : int, optional
            As of `table`; bytes are then those of all CPUs.
        pinned_below : float, optional
            As of `table`.
        top : int, optional
            At most so many chunks: those with the most free bytes.
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
            The axes.
        """
        from percpu.plot.stats import plot_stats

        return plot_stats(self, cpus, pinned_below, top, ax)

    def table(self, *, cpus: int | None = None, pinned_below: float = 0.1) -> Result:
        """Say of each chunk what it holds, what its hint is worth, and whether it looks pinned.

        Parameters
        ----------
        cpus : int, optional
            Units of a chunk: possible CPUs, and holes of the layout where there are any. The text does not tell it.
        pinned_below : float, default 0.1
            A chunk looks pinned if live areas fill less than this share of it, and would fit into the free bytes of the
            other chunks.

        Returns
        -------
        Result
            One row a chunk: ``chunk``, ``label``, ``nr_alloc``, ``used_bytes`` (live, rounding included),
            ``used_percent`` (float64), ``free_bytes``, ``contig_bytes`` (the hint: what the kernel believes to be the
            largest free run), ``max_frag_bytes`` (the largest gap before the last area), ``largest_bytes`` (the
            largest free run that exists: that gap, or what is free behind the last area), ``hidden_bytes`` (by how
            much it exceeds the hint: requests of a size between them pass the chunk by), ``hidden``, ``pinned``
            (bool), and if `cpus` is given ``all_used_bytes``, ``all_free_bytes`` and ``all_unit_bytes`` (times CPUs;
            the last is address space, and an upper bound of the memory).

        Notes
        -----
        The first and the reserved chunk live for ever and are never called pinned. The used bytes of the first chunk
        follow from the size of its dynamic region (spec 31 section 5). Which pages are backed by memory is not in the
        text; ``Percpu:`` of ``/proc/meminfo`` tells their sum.

        Examples
        --------
        >>> import percpu as pc
        >>> a = pc.Allocator(unit_size=32 << 10, nr_units=2)
        >>> p = a.alloc(64)
        >>> table = pc.read_percpu_stats(a.stats_text()).table(cpus=2)
        >>> table.used_bytes.tolist(), table.all_used_bytes.tolist(), table.pinned.tolist()
        ([64], [128], [False])
        """
        if cpus is not None:
            cpus = integer("cpus", cpus, 1, 1 << 20)
        if not 0 <= pinned_below <= 1:
            raise InvalidRequest(f"pinned_below={pinned_below}: must be from 0 to 1", parameter="pinned_below")
        chunks = self.chunks
        served = self._served()
        used = np.maximum(served - chunks.free_bytes, 0)
        # Free bytes that are not in a gap lie behind the last area, in one run (spec 40 section 5.1).
        tail = np.maximum(chunks.free_bytes - chunks.sum_frag_bytes, 0)
        largest = np.maximum(chunks.max_frag_bytes, tail)
        hidden = np.maximum(largest - chunks.contig_bytes, 0)
        boot = (chunks.label == _LABELS.index("reserved")) | (chunks.label == _LABELS.index("first"))
        columns = {name: chunks[name] for name in ("chunk", "label", "nr_alloc")}
        columns["used_bytes"] = used
        columns["used_percent"] = np.round(100 * used / np.maximum(served, 1), 2)
        columns |= {name: chunks[name] for name in ("free_bytes", "contig_bytes", "max_frag_bytes")}
        columns["largest_bytes"] = largest
        columns["hidden_bytes"] = hidden
        columns["hidden"] = hidden > 0
        # What it holds would fit into the free space of the other chunks that come and go.
        elsewhere = int(chunks.free_bytes[~boot].sum()) - chunks.free_bytes
        columns["pinned"] = ~boot & (chunks.nr_alloc > 0) & (used < pinned_below * served) & (used <= elsewhere)
        if cpus is not None:
            columns["all_used_bytes"] = used * cpus
            columns["all_free_bytes"] = chunks.free_bytes * cpus
            columns["all_unit_bytes"] = np.where(boot, served, self.sizes["unit_size"]) * cpus
        return Result(columns, categories={"label": _LABELS}, attrs={"cpus": cpus, "pinned_below": pinned_below})

    def _served(self) -> np.ndarray:
        """Bytes of each chunk's unit that requests can use."""
        sizes = self.sizes
        # Kernel (4.14 on): what rounds the static section up is taken from the dynamic region (spec 31 section 5).
        lost = 0 if self.form in ("areamap", "rfc-v1") else -sizes["static_size"] % 4
        by_label = np.full(len(_LABELS), sizes["unit_size"], dtype=np.int64)
        by_label[_LABELS.index("reserved")] = sizes["reserved_size"]
        by_label[_LABELS.index("first")] = sizes["dyn_size"] - lost
        return by_label[self.chunks.label]

    def summary(self, *, cpus: int | None = None, pinned_below: float = 0.1) -> dict[str, Any]:
        """Add the table up.

        Parameters
        ----------
        cpus : int, optional
            As of `table`.
        pinned_below : float, optional
            As of `table`.

        Returns
        -------
        dict
            ``nr_chunks`` (with the reserved one), ``nr_cur_alloc``, ``used_bytes``, ``free_bytes`` (one CPU's),
            ``nr_empty_pop_pages``, ``nr_pinned``, ``pinned_free_bytes`` (free in pinned chunks), ``nr_hidden``,
            ``hidden_free_bytes`` (free in chunks whose hint hides a run), and if `cpus` is given ``all_used_bytes``,
            ``all_free_bytes`` and ``all_pinned_free_bytes``.

        Examples
        --------
        >>> import percpu as pc
        >>> a = pc.Allocator(unit_size=32 << 10, nr_units=2)
        >>> p = a.alloc(64)
        >>> pc.read_percpu_stats(a.stats_text()).summary()["free_bytes"]
        32704
        """
        table = self.table(cpus=cpus, pinned_below=pinned_below)
        facts: dict[str, Any] = {
            "nr_chunks": len(table),
            "nr_cur_alloc": self.totals["nr_cur_alloc"],
            "used_bytes": int(table.used_bytes.sum()),
            "free_bytes": int(table.free_bytes.sum()),
            "nr_empty_pop_pages": self.totals.get("empty_pop_pages"),
            "nr_pinned": int(table.pinned.sum()),
            "pinned_free_bytes": int(table.free_bytes[table.pinned].sum()),
            "nr_hidden": int(table.hidden.sum()),
            "hidden_free_bytes": int(table.free_bytes[table.hidden].sum()),
        }
        if cpus is not None:
            facts["all_used_bytes"] = facts["used_bytes"] * cpus
            facts["all_free_bytes"] = facts["free_bytes"] * cpus
            facts["all_pinned_free_bytes"] = facts["pinned_free_bytes"] * cpus
        return facts


def _check_same_boot(before: PercpuStats, after: PercpuStats) -> None:
    """Raise if these cannot be two snapshots of one boot, in this order."""
    for name, stats in (("before", before), ("after", after)):
        if not isinstance(stats, PercpuStats):
            raise TypeError(f"{name} must be a PercpuStats, not {type(stats).__name__}")
    for name, value in before.sizes.items():
        if after.sizes[name] != value:
            raise InvalidRequest(
                f"{name} is {value} before and {after.sizes[name]} after: not two snapshots of one boot",
                parameter="after",
            )
    for name in ("nr_alloc", "nr_dealloc", "nr_max_alloc", "nr_max_chunks"):
        if after.totals[name] < before.totals[name]:
            raise InvalidRequest(
                f"{name} falls from {before.totals[name]} to {after.totals[name]}: not two snapshots of one boot, or "
                "in the wrong order",
                parameter="after",
            )


def compare_stats(
    before: PercpuStats, after: PercpuStats, *, cpus: int | None = None, pinned_below: float = 0.1
) -> Result:
    """Compare two snapshots of one machine.

    Parameters
    ----------
    before, after : PercpuStats
        In the order in which they were taken, of one boot.
    cpus : int, optional
        As of `PercpuStats.table`.
    pinned_below : float, optional
        As of `PercpuStats.table`.

    Returns
    -------
    Result
        ``name`` (text), ``before``, ``after`` and ``change`` (int64): the counters of the kernel and the sums of
        `PercpuStats.summary`.

    Raises
    ------
    InvalidRequest
        If the layouts differ, or a counter of a lifetime went back: not the same boot, or the wrong order.

    See Also
    --------
    compare_chunks : The chunks that changed.

    Examples
    --------
    >>> import percpu as pc
    >>> a = pc.Allocator(unit_size=32 << 10, nr_units=2)
    >>> before = pc.read_percpu_stats(a.stats_text())
    >>> p = a.alloc(64)
    >>> change = pc.compare_stats(before, pc.read_percpu_stats(a.stats_text()))
    >>> [row for row in change.rows() if row["name"] == "used_bytes"]
    [{'name': 'used_bytes', 'before': 0, 'after': 64, 'change': 64}]
    """
    _check_same_boot(before, after)
    sides = []
    for stats in (before, after):
        # What the kernel counts has its value: its nr_chunks is without the reserved one.
        facts = stats.totals | stats.summary(cpus=cpus, pinned_below=pinned_below) | stats.totals
        sides.append({name: value for name, value in facts.items() if value is not None})
    names = [name for name in sides[0] if name in sides[1]]
    first, second = (np.array([side[name] for name in names], dtype=np.int64) for side in sides)
    return Result({"name": np.array(names), "before": first, "after": second, "change": second - first}, dims=("name",))


def compare_chunks(
    before: PercpuStats, after: PercpuStats, *, cpus: int | None = None, pinned_below: float = 0.1
) -> Result:
    """List the chunks of two snapshots that are not in both.

    The text names no chunk, and their order changes; so a chunk of one text is taken for a chunk of the other if all
    that is printed of them is equal. What is left over was made, went away, or changed in between.

    Parameters
    ----------
    before, after : PercpuStats
        As of `compare_stats`.
    cpus : int, optional
        As of `PercpuStats.table`.
    pinned_below : float, optional
        As of `PercpuStats.table`.

    Returns
    -------
    Result
        One row a chunk that is left over: ``moment`` (category: ``before`` or ``after``) and the columns of
        `PercpuStats.table`; those of before first, each in the order of its text. ``attrs["nr_same"]`` counts the
        pairs.

    Raises
    ------
    InvalidRequest
        As `compare_stats`.

    Examples
    --------
    >>> import percpu as pc
    >>> a = pc.Allocator(unit_size=32 << 10, nr_units=2)
    >>> before = pc.read_percpu_stats(a.stats_text())
    >>> p = a.alloc(64)
    >>> left = pc.compare_chunks(before, pc.read_percpu_stats(a.stats_text()))
    >>> [(row["moment"], row["used_bytes"]) for row in left.rows()], left.attrs["nr_same"]
    ([('after', 64)], 0)
    """
    _check_same_boot(before, after)
    keys = [_printed(stats.chunks) for stats in (before, after)]
    common = Counter(keys[0]) & Counter(keys[1])
    parts, tables = [], []
    for moment, (stats, rows) in enumerate(zip((before, after), keys, strict=True)):
        spare = common.copy()
        # Of equal ones the first are the pairs.
        kept = [index for index, key in enumerate(rows) if not _take(spare, key)]
        tables.append(stats.table(cpus=cpus, pinned_below=pinned_below)[np.array(kept, dtype=np.int64)])
        parts.append(np.full(len(kept), moment, dtype=np.uint8))
    columns: dict[str, Any] = {"moment": np.concatenate(parts)}
    columns |= {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    categories = {"moment": ("before", "after"), "label": _LABELS}
    return Result(columns, categories=categories, attrs={"nr_same": sum(common.values()), "cpus": cpus})


def _printed(chunks: Result) -> list[tuple[Any, ...]]:
    """What the text says of each chunk."""
    names = [name for name in chunks if name != "chunk"]
    return list(zip(*(chunks[name].tolist() for name in names), strict=True))


def _take(spare: Counter[tuple[Any, ...]], key: tuple[Any, ...]) -> bool:
    """Take one of these away, if one is left."""
    there = spare[key] > 0
    spare[key] -= there
    return there


def read_percpu_stats(
    source: str | os.PathLike[str] | None = None,
    *,
    debugfs: str | os.PathLike[str] | None = None,
    mount: bool = False,
) -> PercpuStats:
    r"""Read a ``percpu_stats`` text.

    Parameters
    ----------
    source : str or path, optional
        The text itself (anything with a line end in it), or a file, plain or gzip. By default the debugfs file of the
        running kernel, which needs root.
    debugfs : path, optional
        Where debugfs is mounted, if `source` is not given; looked for by default.
    mount : bool, default False
        Mount debugfs for the time of reading, visible to this process alone.

    Returns
    -------
    PercpuStats
        Totals, sizes and one row a chunk.

    Raises
    ------
    TraceError
        If the text is not of this form; with line number and text.
    CaptureError
        If the running kernel's file cannot be had; the message says what to enable.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import percpu as pc
    >>> pc.read_percpu_stats("Percpu Memory Statistics\nnothing\n")
    Traceback (most recent call last):
        ...
    percpu.errors.TraceError: line 2: expected "Allocation Info:": "nothing"
    """
    if source is None:
        with contextlib.ExitStack() as undo:
            path = _tracefs.find_statistics(debugfs, mount, undo)
            try:
                data = path.read_bytes()
            except OSError as error:
                raise _tracefs.refusal(f"reading {path.name}", error) from error
        return PercpuStats._wrap(_core.read_percpu_stats(data.decode("utf-8", "replace")))
    if isinstance(source, str) and ("\n" in source or not source):
        return PercpuStats._wrap(_core.read_percpu_stats(source))
    path = Path(source)
    text = read_text(path)
    try:
        return PercpuStats._wrap(_core.read_percpu_stats(text))
    except TraceError as error:
        raise TraceError(f"{path}: {error}", **error.__dict__) from None


def read_text(path: Path) -> str:
    """Read a text file, plain or gzip, of a size that such texts can have."""
    with path.open("rb") as file:
        return text_of(file, str(path))


def text_of(file: BufferedReader, name: str) -> str:
    """Read a text from an open file, as `read_text`; errors call it `name`."""
    if file.peek(2)[:2] != b"\x1f\x8b":
        data = file.read(_MAX_BYTES + 1)
    else:
        try:
            with gzip.open(file) as text:
                data = text.read(_MAX_BYTES + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise TraceError(f"{name}: damaged gzip: {error}") from error
    if len(data) > _MAX_BYTES:
        raise TraceError(f"{name}: more than {_MAX_BYTES} bytes, the limit of a text of this kind")
    return data.decode("utf-8", "replace")


def is_percpu_stats(text: str) -> bool:
    """Whether a text claims to be ``percpu_stats``."""
    return text.lstrip().startswith("Percpu Memory Statistics")


def try_totals(text: bytes) -> dict[str, int] | None:
    """Return the counters of a text, None if it is damaged."""
    try:
        return _core.read_percpu_stats(text.decode("utf-8", "replace")).totals()
    except PercpuError:
        return None
