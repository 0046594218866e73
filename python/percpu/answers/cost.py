"""What objects cost on a machine, found by handing them out."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu._checks import integer, whole_number
from percpu.allocator import Allocator
from percpu.errors import AllocError, InvalidRequest
from percpu.layout import FirstChunkLayout, Topology
from percpu.results import Result

__all__ = ["cost"]

_MAX_COUNT = 100_000_000
_SLICE = 1 << 20
# Sizes of the first chunk of a distribution's kernel on x86-64; only the unit size follows from them.
_STATIC, _RESERVED, _DYNAMIC, _ATOM = 185_496, 8 << 10, 28 << 10, 2 << 20


def cost(
    size: Any,
    count: int,
    *,
    cpus: int | None = None,
    align: int = 8,
    kernel: str = "6.12",
    layout: FirstChunkLayout | None = None,
    atomic: bool = False,
) -> Result:
    """Say what objects for every CPU cost: chunks, pages, memory, waste.

    The objects are handed out by the engine of that kernel, one after the other, in chunks that are empty at first;
    what comes out is exact for that, and a lower bound of the waste on a machine that has been up for long.

    Parameters
    ----------
    size : int or sequence of int
        Bytes of an object; several sizes are tried apart, each on an allocator of its own.
    count : int
        How many objects, up to 10^8.
    cpus : int, optional
        Possible CPUs, of one node with the sizes of an ordinary x86-64 kernel; needed without `layout`.
    align : int, default 8
        Alignment in bytes.
    kernel : str, default "6.12"
        Release or engine; with `layout`, its own.
    layout : FirstChunkLayout, optional
        The machine; gives unit size, units and page size.
    atomic : bool, default False
        Ask as one that may not sleep; what fails is asked for again after a run of the worker.

    Returns
    -------
    Result
        One row a size, int64: ``size_bytes``, ``count``, ``nr_cpus``, ``unit_bytes``, ``nr_chunks``,
        ``nr_populated_pages`` (one CPU's, with the stock of empty pages that the kernel keeps), ``asked_bytes`` (size
        times count times CPUs), ``handed_out_bytes`` (the same with rounding), ``populated_bytes`` (memory, of all
        CPUs), ``meminfo_bytes`` (the same as ``Percpu:`` of ``/proc/meminfo`` counts it since 4.19: units without a CPU
        too), ``waste_bytes`` (populated less asked), ``waste_percent`` (float64, of the populated memory),
        ``address_bytes`` (chunks, all units), ``object_bytes`` (float64, populated memory for each object).

    Raises
    ------
    InvalidRequest
        If an argument is outside its range, or no chunk could ever serve the request.

    Examples
    --------
    >>> import percpu as pc
    >>> r = pc.cost([8, 12, 4100], 1000, cpus=64)
    >>> r.nr_chunks.tolist(), r.asked_bytes.tolist(), r.populated_bytes.tolist()
    ([1, 1, 16], [512000, 768000, 262400000], [1310720, 2097152, 267386880])
    """
    sizes = [whole_number("size", value) for value in np.atleast_1d(np.asarray(size, dtype=object)).tolist()]
    if not sizes:
        raise InvalidRequest("size is empty", parameter="size")
    for value in sizes:
        integer("size", value, 1)
    integer("count", count, 1, _MAX_COUNT)
    if layout is None:
        if cpus is None:
            raise InvalidRequest("cpus: how many possible CPUs? (or give a layout)", parameter="cpus")
        integer("cpus", cpus, 1, 8192)
        layout = FirstChunkLayout.build(
            static_size=_STATIC,
            reserved_size=_RESERVED,
            dyn_size=_DYNAMIC,
            atom_size=_ATOM,
            topology=Topology.from_nodes([cpus]),
            kernel=kernel,
        )
    elif not isinstance(layout, FirstChunkLayout):
        raise TypeError(f"layout must be a FirstChunkLayout, not {type(layout).__name__}")
    elif cpus is not None:
        raise InvalidRequest("cpus= and layout= exclude each other", parameter="cpus")
    rows = [_one(value, count, align, layout, atomic) for value in sizes]
    return Result({name: np.array([row[name] for row in rows]) for name in rows[0]}, dims=("size_bytes",))


def _one(size: int, count: int, align: int, layout: FirstChunkLayout, atomic: bool) -> dict[str, Any]:
    nr_cpus = int((layout.unit_map >= 0).sum())
    allocator = Allocator(
        unit_size=layout.unit_size, nr_units=layout.nr_units, kernel=layout.kernel, page_size=layout.page_size
    )
    handed_out = 0
    left = count
    while left:
        batch = allocator.alloc_many(np.full(min(left, _SLICE), size, dtype=np.uint64), align, atomic=atomic)
        done = int(batch.ok.sum())
        if done < len(batch):
            done += _one_by_one(allocator, len(batch) - done, size, align, atomic)
        left -= done
    chunks = list(allocator.chunks.values())
    pages = sum(chunk.nr_populated for chunk in chunks)
    handed_out = sum(allocator.unit_size - chunk.free_bytes for chunk in chunks) * nr_cpus
    populated = pages * allocator.page_size * nr_cpus
    asked = size * count * nr_cpus
    return {
        "size_bytes": size,
        "count": count,
        "nr_cpus": nr_cpus,
        "unit_bytes": allocator.unit_size,
        "nr_chunks": len(chunks),
        "nr_populated_pages": pages,
        "asked_bytes": asked,
        "handed_out_bytes": handed_out,
        "populated_bytes": populated,
        "meminfo_bytes": pages * allocator.page_size * allocator.nr_units,
        "waste_bytes": populated - asked,
        "waste_percent": round(100 * (populated - asked) / populated, 2),
        "address_bytes": len(chunks) * allocator.unit_size * allocator.nr_units,
        "object_bytes": round(populated / count, 2),
    }


def _one_by_one(allocator: Allocator, count: int, size: int, align: int, atomic: bool) -> int:
    """Ask again for what failed, each time after a run of the worker; it is an error if that does not help."""
    for _ in range(count):
        for last in (False, True):
            try:
                allocator.alloc(size, align, atomic=atomic)
                break
            except AllocError:
                if last:
                    raise
                allocator.balance()
    return count
