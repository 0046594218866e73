"""What a state and a trace say to messages that are about no single request: boot lines, limits, totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from percpu import _core
from percpu.allocator import Allocator
from percpu.answers._machine import cpus_of_trace
from percpu.errors import AllocError, InvalidRequest, StateError
from percpu.stats import read_percpu_stats
from percpu.trace import Trace

__all__ = ["check_state", "check_trace"]

Told = tuple[dict[str, Any], list[str]]

_SIZES = ("static_size", "reserved_size", "dyn_size", "unit_size", "atom_size")
_OF_SIZES = ("embedded", "page_mapped", "large_pages", "dump_head", "lpage_head", "overflow")
_OF_CPUS = ("setup", "possible_mask", "dump_row", "lpage_row")
# What was tried and given up, so that single pages are used.
_GIVEN_UP = ("max_distance", "falling_back", "no_large_page", "no_block", "larger_than_large_page", "chunk_too_large")
_FATAL = ("failed_to_initialize", "cannot_initialize", "no_table", "no_areas")
_TOP = 3


def check_state(kind: str, values: dict[str, Any], allocator: Allocator) -> Told:
    """Hold a message against a state.

    Parameters
    ----------
    kind : str
        Any kind of message but failed and illegal requests, which are tried on the state.
    values : dict
        Its values.
    allocator : Allocator
        The state.

    Returns
    -------
    (dict, list of str)
        Numbers, and the same in words.
    """
    if kind in _OF_SIZES:
        return _sizes(values, allocator)
    if kind in _OF_CPUS:
        return _cpus(kind, values, allocator)
    if kind == "meminfo":
        return _memory(values["kib"], allocator)
    if kind in ("limit_reached", "statistics"):
        return _headroom(allocator)
    if kind in _FATAL:
        facts, texts = _sizes({}, allocator)
        return facts, ["This message ends a boot: the state that was given is of another one.", *texts]
    return _placing(kind, values, allocator)


def check_trace(kind: str, values: dict[str, Any], trace: Trace) -> Told:
    """Hold a message against a trace.

    Parameters
    ----------
    kind : str
        Any kind of message but failed requests, which are looked up in the trace.
    values : dict
        Its values.
    trace : Trace
        The recording.

    Returns
    -------
    (dict, list of str)
        Numbers, and the same in words.
    """
    if kind == "illegal_size":
        return _largest(values, trace)
    if kind == "limit_reached":
        return _failures(trace)
    if kind in ("meminfo", "statistics"):
        return _live(values.get("kib"), trace)
    if kind in (*_OF_SIZES, *_OF_CPUS):
        return _machine_in_trace(kind, values, trace)
    return {}, ["This is said while booting, before any event is written: a trace cannot show it."]


# -- states ------------------------------------------------------------------------------


def _known_sizes(allocator: Allocator) -> dict[str, int]:
    """Sizes of the first chunk; only the unit where an engine has no statistics file."""
    try:
        return read_percpu_stats(allocator.stats_text()).sizes
    except InvalidRequest:
        return {"unit_size": allocator.unit_size}


def _sizes(values: dict[str, Any], allocator: Allocator) -> Told:
    known = _known_sizes(allocator)
    given = {name: values[name] for name in _SIZES if values.get(name) is not None and name in known}
    differ = {name: [value, known[name]] for name, value in given.items() if known[name] != value}
    texts = []
    if given and differ:
        shown = ", ".join(f"{name} is {line} here and {state} there" for name, (line, state) in differ.items())
        texts.append(f"The state is of another machine or boot: {shown}.")
    elif given:
        texts.append(f"The state is of such a boot: {', '.join(given)} agree.")
    first = allocator.chunks.get(0)
    facts: dict[str, Any] = {"sizes": known, "differ": differ}
    for name, chunk in (("reserved", allocator.reserved_chunk), ("first", first if known.get("dyn_size") else None)):
        if chunk is None:
            continue
        size = known["reserved_size" if name == "reserved" else "dyn_size"]
        facts[f"{name}_free_bytes"] = chunk.free_bytes
        texts.append(f"Of the {size} bytes of its {name} chunk {chunk.free_bytes} are free.")
    return facts, texts or [f"The state has units of {known['unit_size']} bytes, and no boot chunks."]


def _nr_cpus(allocator: Allocator) -> int:
    return int(allocator._core.config().get("nr_cpus") or allocator.nr_units)


def _cpus(kind: str, values: dict[str, Any], allocator: Allocator) -> Told:
    cpus, units = _nr_cpus(allocator), allocator.nr_units
    holes = units - cpus
    facts = {"nr_cpus": cpus, "nr_units": units, "nr_holes": holes}
    texts = [f"The state has {cpus} possible CPU{'' if cpus == 1 else 's'} in {units} unit{'' if units == 1 else 's'}."]
    if holes:
        size = holes * allocator.unit_size
        texts.append(
            f"{holes} units are holes: {size} bytes of address space in each of {len(allocator.chunks)} chunks."
        )
    if kind == "setup" and cpus > values["nr_cpu_ids"]:
        texts.append(f"That is more than {values['nr_cpu_ids']} CPU numbers: the state is of another machine.")
    elif kind == "possible_mask" and cpus != values["nr_possible"]:
        texts.append(f"The line has {values['nr_possible']}: the state is of another machine.")
    elif kind in ("dump_row", "lpage_row") and values["nr_units"] > units:
        texts.append(f"This row alone has {values['nr_units']} units: the state is of another machine.")
    return facts, texts


def _memory(kib: int, allocator: Allocator) -> Told:
    own = allocator.reserved_chunk
    chunks = [*([own] if own is not None else []), *allocator.chunks.values()]
    units, page = allocator.nr_units, allocator.page_size
    # The first and the reserved chunk may lie in the same pages, and the kernel counts its static region there too.
    pages = int(allocator.stats().get("nr_populated") or sum(chunk.nr_populated for chunk in chunks))
    granule = allocator.min_alloc_size
    live = sum(int(chunk.alloc_map.sum()) * granule - chunk.start_offset - chunk.end_offset for chunk in chunks)
    memory = pages * units * page
    static = _known_sizes(allocator).get("static_size", 0)
    facts = {
        "nr_populated": pages,
        "memory_kib": memory >> 10,
        "live_bytes": live,
        "all_live_bytes": live * units,
        "static_bytes": static,
    }
    word = "as much as" if memory >> 10 == kib else "less than" if memory >> 10 < kib else "more than"
    texts = [
        f"The state has {pages} populated pages in {units} units: {memory >> 10} KiB, {word} the line.",
        f"Of these {live * units} bytes are in live areas ({live} in each unit), {live * units / max(memory, 1):.0%}, "
        f"and {static * units} in the kernel's static section ({static / max(pages * page, 1):.0%}). The rest is room "
        "between and behind areas on their pages, and pages in stock.",
    ]
    return facts, texts


def _headroom(allocator: Allocator) -> Told:
    """The largest requests that would be served now, of each kind."""
    page = allocator.page_size
    limit = -(-(32 << 10) // page) * page
    atomic = _largest_served(allocator, limit, atomic=True)
    here = _largest_served(allocator, limit, chunks=0)
    facts: dict[str, Any] = {"largest_atomic_bytes": atomic, "largest_without_chunk_bytes": here}
    texts = [
        f"On this state the largest request that may not sleep and is served has {_bytes(atomic)}; the largest that "
        f"may sleep and needs no new chunk has {_bytes(here)} (alignment 8; the limit of all is {limit} bytes)."
    ]
    if allocator.reserved_chunk is not None:
        reserved = _largest_served(allocator, limit, reserved=True)
        facts["largest_reserved_bytes"] = reserved
        texts.append(f"In the reserved chunk it has {_bytes(reserved)}.")
    return facts, texts


def _bytes(size: int) -> str:
    return f"{size} bytes" if size else "no byte"


def _largest_served(allocator: Allocator, limit: int, *, chunks: int | None = None, **request: Any) -> int:
    """Largest multiple of the granule that a copy serves, at alignment 8; found by halving.

    Whether a size is served may depend on hints that differ by size, so that the answer is the largest of a run of
    sizes that begins with the smallest one: every smaller power of two was tried.
    """

    def served(size: int) -> bool:
        copy = allocator.copy()
        if chunks is not None:
            copy.limit_supply(chunks=chunks)
        try:
            copy.alloc(size, 8, **request)
        except (AllocError, InvalidRequest):
            return False
        return True

    granule = allocator.min_alloc_size
    least, most = 0, limit // granule + 1
    step = 1
    while step < most and served(step * granule):
        least, step = step, 2 * step
    most = min(most, step)
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if served(middle * granule) else (least, middle)
    return least * granule


def _placing(kind: str, values: dict[str, Any], allocator: Allocator) -> Told:
    """Whether the state's chunks are made page by page, and how they are spread."""
    known = _known_sizes(allocator)
    try:
        recorded = allocator.to_state()["globals"]
    except StateError:
        recorded = {}
    groups = int(recorded.get("pcpu_nr_groups") or 1)
    offsets = [int(offset) for offset in recorded.get("pcpu_group_offsets") or [0]]
    atom = known.get("atom_size", allocator.page_size)
    by_page = atom == allocator.page_size
    spread = max(offsets) - min(offsets)
    facts = {"atom_size": atom, "nr_groups": groups, "page_by_page": by_page, "spread_bytes": spread}
    apart = "in 1 group" if groups == 1 else f"in {groups} groups, {spread} bytes from the first to the last"
    text = f"The chunks of the state are allocated in pieces of {atom} bytes, {apart}"
    if kind in _GIVEN_UP:
        text += ": single pages, as after such a message" if by_page else ": no fall-back to single pages took place"
    texts = [f"{text}."]
    if kind in ("no_page_for_cpu", "no_large_page", "no_node"):
        units = recorded.get("pcpu_unit_map") or list(range(_nr_cpus(allocator)))
        there = values["cpu"] < len(units) and 0 <= units[values["cpu"]] < allocator.nr_units
        facts["cpu_possible"] = there
        texts.append(f"CPU {values['cpu']} is {'possible there' if there else 'none of its CPUs: another machine'}.")
    elif kind == "wasting":
        rest = known.get("alloc_size", 0) % max(allocator.unit_size, 1)
        texts.append(f"Its chunks have {rest} bytes beyond whole units in each piece.")
    return facts, texts


# -- traces ------------------------------------------------------------------------------


def _of_kind(trace: Trace, name: str) -> np.ndarray:
    return np.flatnonzero(trace["kind"] == _core.EVENT_KINDS.index(name))


def _largest(values: dict[str, Any], trace: Trace) -> Told:
    events = np.concatenate((_of_kind(trace, "alloc"), _of_kind(trace, "fail")))
    texts = ["An illegal request writes no event: the trace cannot show it."]
    if not len(events):
        return {"nr_requests": 0}, texts
    size, align = trace["size_bytes"][events], trace["align_bytes"][events]
    row = trace.row(int(events[np.argmax(size)]))
    same = int(((size == values["size"]) & (align == values["align"])).sum())
    facts = {
        "nr_requests": len(events),
        "max_size_bytes": int(size.max()),
        "max_align_bytes": int(align.max()),
        "nr_same_request": same,
    }
    site = "" if row["call_site"] is None else f" by {row['call_site']}"
    times = "once" if same == 1 else f"{same} times"
    texts.append(
        f"Its largest request has {facts['max_size_bytes']} bytes{site}, its largest alignment is "
        f"{facts['max_align_bytes']}; the size and alignment of the line occur {times}."
    )
    return facts, texts


def _failures(trace: Trace) -> Told:
    failed = _of_kind(trace, "fail")
    columns = [trace[name][failed].tolist() for name in ("size_bytes", "align_bytes", "atomic", "reserved")]
    kinds = Counter(zip(*columns, strict=True))
    facts = {"nr_failed": len(failed), "nr_kinds": len(kinds), "first_event": int(failed[0]) if len(failed) else None}
    if not len(failed):
        return facts, ["No request fails in the trace."]
    shown = ", ".join(
        f"{count} of {size} bytes at {align}{' (atomic)' if atomic else ''}{' (reserved)' if reserved else ''}"
        for (size, align, atomic, reserved), count in kinds.most_common(_TOP)
    )
    more = f" and {len(kinds) - _TOP} other kinds" if len(kinds) > _TOP else ""
    n = len(failed)
    return facts, [
        f"In the trace {n} request{' fails' if n == 1 else 's fail'}, first at event {facts['first_event']}: "
        f"{shown}{more}."
    ]


def _live(kib: int | None, trace: Trace) -> Told:
    from percpu.answers.owners import owners

    held = owners(trace)
    s = held.summary
    facts = {name: s[name] for name in ("nr_live", "live_bytes", "cpus", "all_live_bytes", "nr_freed_prior")}
    facts["nr_alloc"], facts["nr_free"] = held.follow.summary["nr_alloc"], held.follow.summary["nr_free"]
    texts = [f"In the trace {facts['nr_alloc']} areas are handed out and {facts['nr_free']} taken back."]
    if s["cpus"] is None:
        size = f"{s['live_bytes']} bytes on each CPU"
    else:
        size = f"{s['all_live_bytes']} bytes on {s['cpus']} CPUs"
        if kib:
            size += f", {s['all_live_bytes'] / (kib << 10):.1%} of the line"
    text = f"Live at its end, and seen being allocated: {size}"
    if s["live_bytes"]:
        text += f"; most by {held.row(0)['owner']}"
    texts.append(f"{text} (percpu owners says more).")
    return facts, texts


def _machine_in_trace(kind: str, values: dict[str, Any], trace: Trace) -> Told:
    """Whether the trace can be of such a machine: places inside of units, CPUs, bytes charged."""
    facts: dict[str, Any] = {}
    texts = []
    allocs = _of_kind(trace, "alloc")
    if kind in _OF_SIZES:
        end = int((trace["off_bytes"][allocs] + trace["size_bytes"][allocs]).max(initial=0))
        unit = values.get("unit_size")
        facts["end_bytes"] = end
        text = f"Areas in the trace end at byte {end} of their chunk at most"
        if unit:
            verdict = "which fits" if end <= unit else "more than a unit of the line has: another machine or boot"
            text += f", {verdict}"
        return facts, [f"{text}."]
    known = ~trace.missing("cpu")
    seen = int(trace["cpu"][known].max()) + 1 if known.any() else 0
    limit: Callable[[], int] = {
        "setup": lambda: values["nr_cpu_ids"],
        "possible_mask": lambda: values["last_cpu"] + 1,
    }.get(kind, lambda: 0)
    facts["nr_cpus_seen"] = seen
    text = f"The highest CPU that writes events in the trace is {seen - 1}" if seen else "The trace names no CPU"
    if limit() and seen > limit():
        text += f": more than the line allows, so it is of another machine (the line ends at CPU {limit() - 1})"
    texts.append(f"{text}.")
    charged = allocs[~trace.missing("alloc_bytes")[allocs]]
    if len(charged):
        times = trace["alloc_bytes"][charged] // np.maximum(trace["size_bytes"][charged], 1)
        facts["bytes_alloc_over_size"] = int(times.max())
        number, source = cpus_of_trace(trace, None, None, None)
        texts.append(f"Possible CPUs by its events: {number}. How that is known: {source}.")
    return facts, texts
