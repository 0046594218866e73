"""What the reviewers of 2017 asked: block size, the average case, allocating against freeing, metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from percpu._checks import integer
from percpu.allocator import Allocator
from percpu.results import Result
from percpu.workloads import Workload, bpf_maps, cgroups, fill_level, netns, objects, run, vmalloc_test

BLOCK_SIZES = (1024, 2048, 4096, 8192, 16384)


def published_workloads(n: int) -> dict[str, Workload]:
    """Worst cases, as published: one size, all allocated, all freed.

    Parameters
    ----------
    n : int
        Objects.

    Returns
    -------
    dict of str to Workload
    """
    plain = {
        f"{size} bytes, {order}": objects(n, size=size, free=order)
        for size in (4, 16, 64, 256, 1024)
        for order in ("in-order", "alternate")
    }
    return plain | {f"{size} bytes, half full": fill_level(n // 2, size=size) for size in (4, 64, 1024)}


def mixed_workloads(n: int) -> dict[str, Workload]:
    """Mixes in which sizes differ and requests and frees take turns; those of 6.12 from recorded sets of objects.

    Parameters
    ----------
    n : int
        About as many objects in each.

    Returns
    -------
    dict of str to Workload
    """
    return {
        "vmalloc test": vmalloc_test(n),
        "cgroups": cgroups(n // 32, live=max(n // 256, 1)),
        "network namespaces": netns(n // 32, live=max(n // 512, 1)),
        "BPF maps": bpf_maps(n // 512, live=max(n // 2048, 1)),
    }


def over_workloads(
    workloads: Mapping[str, Workload], allocators: Mapping[Any, Any], column: str, *, repeat: int = 1
) -> Result:
    """Run each workload on each allocator.

    Parameters
    ----------
    workloads : mapping of str to Workload
        By name.
    allocators : mapping of label to callable
        Each makes a fresh allocator.
    column : str
        Name of the column with the labels.
    repeat : int, optional
        Runs, of which the shortest time counts; everything else is the same each time.

    Returns
    -------
    Result
        One row a workload and allocator: ``workload``, `column`, ``nr_alloc``, ``nr_free``, ``nr_chunks_peak``,
        ``peak_populated_pages``, ``cost_...``, ``alloc_cost_...``, ``time_ns``, ``alloc_time_ns``; sums over phases,
        peaks the highest.

    Examples
    --------
    >>> from percpu.published.runs import machine
    >>> r = over_workloads({"a": objects(1000)}, {"linux-4.14": lambda: machine("linux-4.14")}, "engine")
    >>> r.row(0)["nr_alloc"], r.row(0)["nr_free"]
    (1000, 1000)
    """
    repeat = integer("repeat", repeat, 1, 1 << 20)
    rows = []
    for name, workload in workloads.items():
        for label, make in allocators.items():
            row: dict[str, Any] = {}
            for _ in range(repeat):
                allocator = make()
                r = run(workload, allocator, split=True)
                times = {key: int(r[key].sum()) for key in r if key.endswith("time_ns")}
                for key, value in row.items():
                    if key in times:
                        times[key] = min(times[key], value)
                peaks = {key: int(r[key].max()) for key in ("nr_chunks_peak", "peak_populated_pages")}
                sums = ("nr_alloc", "nr_free", *(key for key in r if "cost_" in key))
                row = {"workload": name, column: label} | {key: int(r[key].sum()) for key in sums} | peaks | times
            rows.append(row)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return Result({key: np.array([row.get(key, 0) for row in rows]) for key in keys})


def metadata_bytes(allocator: Allocator) -> int:
    """Bytes of maps and records that an allocator keeps for its chunks, as the kernel of its generation does.

    Maps and arrays only: the record of the chunk itself, of 64 to 256 bytes, is not counted. Area map: its capacity, 4
    bytes an entry. Bitmaps: both maps in whole words, 5 numbers of 4 bytes a block until 4.19, 8 since 5.2; the
    proposal of 2008 has one map and no blocks.

    Parameters
    ----------
    allocator : Allocator
        In any state.

    Returns
    -------
    int

    Examples
    --------
    >>> from percpu.published.runs import machine
    >>> metadata_bytes(machine("areamap"))
    512
    """
    total = 0
    for chunk in allocator.chunks.values():
        if allocator.engine == "areamap":
            total += 4 * chunk.info["map_alloc"]
            continue
        words = len(chunk.alloc_words)
        total += 8 * words
        if allocator.engine != "cpu_alloc-2008":
            total += 8 * ((len(chunk.bound_map) + 63) // 64)
            total += chunk.blocks.nbytes
    return total


def metadata_per_object(n: int, sizes: Iterable[int], allocators: Mapping[str, Any]) -> Result:
    """Bytes of metadata for each of n live objects.

    Parameters
    ----------
    n : int
        Objects of one size, aligned to 4.
    sizes : iterable of int
        Bytes.
    allocators : mapping of label to callable
        Each makes a fresh allocator.

    Returns
    -------
    Result
        ``size_bytes``, ``engine``, ``live`` (how many were served), ``metadata_bytes``, ``per_object`` (float64).

    Examples
    --------
    >>> from percpu.published.runs import machine
    >>> r = metadata_per_object(50_000, [64], {"linux-4.14": lambda: machine("linux-4.14")})
    >>> round(float(r.per_object[0]), 1)
    5.0
    """
    rows = []
    for size in sizes:
        for engine, make in allocators.items():
            allocator = make()
            batch = allocator.alloc_many(np.full(n, size, dtype=np.uint64), 4)
            live = int(batch.ok.sum())
            held = metadata_bytes(allocator)
            rows.append((size, engine, live, held, held / max(live, 1)))
    names = ("size_bytes", "engine", "live", "metadata_bytes", "per_object")
    return Result({name: np.array([row[place] for row in rows]) for place, name in enumerate(names)})
