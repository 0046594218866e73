"""What a capture and what comes with it tell of the machine: its possible CPUs, and what was live before."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from percpu._checks import integer
from percpu.allocator import Allocator, Chunk
from percpu.errors import InvalidRequest, NotKept
from percpu.layout import FirstChunkLayout
from percpu.stats import read_text
from percpu.trace import Trace

__all__ = ["Cpus", "cpus_of_head", "cpus_of_trace", "live_areas", "meminfo_bytes", "possible_cpus"]

_HEAD_BYTES = 4096
_MAX_CPUS = 1 << 20
_POSSIBLE = re.compile(rb"^# kernel=.* possible_cpus=([0-9,-]{1,1000})", re.MULTILINE)


class Cpus(NamedTuple):
    """How many CPUs are possible, and how that is known.

    Attributes
    ----------
    number : int or None
        The best answer; None if nothing tells it.
    least, most : int or None
        Where it may differ from that; None = no limit.
    source : str
        In words.
    """

    number: int | None
    least: int | None
    most: int | None
    source: str


def possible_cpus(
    given: int | Cpus | None,
    layout: FirstChunkLayout | None,
    allocator: Allocator | None,
    path: str | os.PathLike[str] | None,
    geometry: dict[str, Any] | None,
    factor: dict[str, Any],
    call_sites: Sequence[str] = (),
) -> Cpus:
    """Find out how many CPUs are possible.

    Parameters
    ----------
    given : int, Cpus or None
        What the user says, or what is known already.
    layout, allocator : optional
        Of that machine.
    path : path, optional
        The file of the capture: the head that `percpu record` writes has the number.
    geometry : dict, optional
        What a Parquet file says of the machine.
    factor : dict
        ``max_cpu``, ``quotients`` (least and largest of ``bytes_alloc`` over size), ``wide``: what the events say.
    call_sites : sequence of str, optional
        Those of the capture: a function of the memory cgroups shows that they are built in.

    Returns
    -------
    Cpus

    Notes
    -----
    ``bytes_alloc`` is the size times the possible CPUs, and twice the size more where memory cgroups are built in (once
    with words of 32 bits), spec 40 section 6. Events of a CPU above what is left after that rule it out.
    """
    if isinstance(given, Cpus):
        return given
    if given is not None:
        number = integer("cpus", given, 1, _MAX_CPUS)
        return Cpus(number, number, number, "as given")
    if layout is not None:
        number = layout.topology.nr_cpus
        return Cpus(number, number, number, "of the layout")
    if allocator is not None:
        number = int(allocator._core.config().get("nr_cpus") or allocator.nr_units)
        return Cpus(number, number, number, "of the start state")
    head = cpus_of_head(path)
    if head is not None:
        return head
    seen = 0 if factor["max_cpu"] is None else factor["max_cpu"] + 1
    if factor["quotients"] is not None and factor["quotients"][0] == factor["quotients"][1]:
        memcg = next((site for site in call_sites if site.startswith("mem_cgroup_")), None)
        return _of_quotient(factor["quotients"][0], seen, 2 if factor["wide"] else 1, memcg)
    units = (geometry or {}).get("nr_units")
    if isinstance(units, int) and units > 0:
        return Cpus(units, seen or None, units, "units of the machine that the file describes, holes counted")
    text = "not known: the capture does not tell it"
    if factor["quotients"] is not None:
        low, high = factor["quotients"]
        text = f"not known: bytes_alloc is {low} to {high} times the size, which one machine does not write"
    return Cpus(None, seen or None, None, text)


def _of_quotient(times: int, seen: int, extra: int, memcg: str | None) -> Cpus:
    if times - extra < max(seen, 1):
        why = f", and CPU {seen - 1} wrote events" if 0 < times - extra < seen else ""
        return Cpus(times, times, times, f"bytes_alloc is {times} times the size{why}")
    if memcg is not None:
        number = times - extra
        text = f"bytes_alloc is {times} times the size, and {memcg.partition('+')[0]} shows memory cgroups built in"
        return Cpus(number, number, number, text)
    text = (
        f"bytes_alloc is {times} times the size: {times - extra} with memory cgroups built in, as nearly all kernels "
        f"have them, {times} without"
    )
    return Cpus(times - extra, times - extra, times, text)


def cpus_of_trace(
    trace: Trace, given: int | Cpus | None, layout: FirstChunkLayout | None, path: str | os.PathLike[str] | None
) -> tuple[int, str]:
    """Return the number of possible CPUs, and where it comes from: what the columns of a trace say, as for `owners`.

    Where nothing tells it, it is taken for the number of the highest CPU that wrote an event, and one.
    """
    cpu = trace["cpu"][~trace.missing("cpu")]
    top = int(cpu.max(initial=0)) if len(cpu) else None
    told = ~trace.missing("alloc_bytes") & (trace["size_bytes"] > 0)
    size, total = trace["size_bytes"][told], trace["alloc_bytes"][told]
    whole = (total >= size) & (total % np.maximum(size, 1) == 0)
    quotients = (total // np.maximum(size, 1))[whole]
    addresses = trace["base_addr"][~trace.missing("base_addr")]
    factor = {
        "max_cpu": top,
        "quotients": (int(quotients.min()), int(quotients.max())) if len(quotients) else None,
        "wide": bool(trace.attrs["hashed"] or (addresses >> np.uint64(32)).any()),
    }
    sites = trace["call_site"][~trace.missing("call_site")]
    names = [trace._categories["call_site"][code] for code in np.unique(sites).tolist()]
    found = possible_cpus(given, layout, None, path, trace.geometry, factor, names)
    if found.number is None:
        return 1 if top is None else top + 1, "the highest CPU that wrote an event; there may be more"
    return found.number, found.source


def cpus_of_head(path: str | os.PathLike[str] | None) -> Cpus | None:
    """Possible CPUs by the comment lines of `percpu record`; None if there are none."""
    if path is None or os.fspath(path) == "-":
        return None
    try:
        with Path(path).open("rb") as file, gzip.GzipFile(fileobj=file) as text:
            data = (text if file.peek(2)[:2] == b"\x1f\x8b" else file).read(_HEAD_BYTES)
    except (OSError, EOFError, zlib.error):
        return None
    found = _POSSIBLE.search(data)
    if found is None:
        return None
    ranges = [part.partition(b"-") for part in found[1].split(b",")]
    try:
        number = sum(int(last or first) - int(first) + 1 for first, _, last in ranges)
    except ValueError:
        return None
    return Cpus(number, number, number, "as the head of the capture says") if 1 <= number <= _MAX_CPUS else None


def live_areas(allocator: Allocator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the live areas of an allocator.

    Parameters
    ----------
    allocator : Allocator
        With maps: any engine from 4.14 on.

    Returns
    -------
    tuple of three (n,) uint64 array
        Base address of the chunk, offset from it and size, bytes.

    Raises
    ------
    InvalidRequest
        If the engine keeps no such maps.
    """
    own = allocator.reserved_chunk
    chunks = [*([own] if own is not None else []), *allocator.chunks.values()]
    parts = [_areas_of(chunk) for chunk in chunks]
    bases = [np.full(len(off), chunk.base_addr, dtype=np.uint64) for chunk, (off, _) in zip(chunks, parts, strict=True)]
    empty = np.zeros(0, dtype=np.uint64)
    return (
        np.concatenate([empty, *bases]),
        np.concatenate([empty, *(off for off, _ in parts)]),
        np.concatenate([empty, *(size for _, size in parts)]),
    )


def _areas_of(chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and sizes of the areas of a chunk, bytes."""
    try:
        used, bound = chunk.alloc_map, chunk.bound_map
    except NotKept as error:
        raise InvalidRequest(f"state: {error}", parameter="state") from None
    granule = chunk.min_alloc_size
    served = np.zeros(len(used), dtype=bool)
    served[chunk.start_offset // granule : len(used) - chunk.end_offset // granule] = True
    starts = np.flatnonzero(used & bound[: len(used)] & served)
    # An area ends at the next boundary, at free space (where boundaries are stale), or where the chunk does.
    stops = np.flatnonzero(np.concatenate((bound[: len(used)] | ~(used & served), [True])))
    ends = stops[np.searchsorted(stops, starts, side="right")]
    return (starts * granule).astype(np.uint64), ((ends - starts) * granule).astype(np.uint64)


def meminfo_bytes(meminfo: Any) -> int | None:
    """Populated bytes of all units, by ``Percpu:`` of ``/proc/meminfo``.

    Parameters
    ----------
    meminfo : None, int, str or path
        KiB, the text, a line of it, or the path of a file with it.

    Returns
    -------
    int or None

    Raises
    ------
    InvalidRequest
        If there is no such line.
    """
    if meminfo is None:
        return None
    if not isinstance(meminfo, (str, os.PathLike)):
        return integer("meminfo", meminfo, 0, 1 << 50) << 10
    text = meminfo if isinstance(meminfo, str) and "Percpu:" in meminfo else read_text(Path(meminfo))
    found = re.search(r"^\s*Percpu:\s*(\d{1,15}) kB", text, re.MULTILINE)
    if found is None:
        shown = os.fspath(meminfo)
        raise InvalidRequest(f"meminfo={shown!r}: no line with Percpu: (kernels before 4.19)", parameter="meminfo")
    return int(found[1]) << 10
