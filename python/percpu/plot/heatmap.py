"""How full each chunk was, over the events of a trace or a replay."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from percpu import _core
from percpu._checks import integer
from percpu.errors import InvalidRequest
from percpu.plot import _style

__all__ = ["ChunkHeat", "chunk_heat", "plot_heatmap"]

_ROWS = 200  # chunks beyond these are joined
_CELLS = 1 << 28  # places in all chunks of a trace, beyond which those that occur are sorted: 2 GiB
_HASH_BITS = 18
_BLOCK = 1 << 16  # events at once
_MAX_STATES = 120
_MOST_STRETCHES = 1 << 16


class ChunkHeat(NamedTuple):
    """What is in use in each chunk, at the end of each of some stretches of events.

    Attributes
    ----------
    event : (m,) int64 array
        Events read at the end of each stretch.
    bytes : (k, m) float64 array
        Bytes of one CPU in use in each chunk then; NaN where the chunk does not exist.
    names : list of str
        The chunks, in the order of their first appearance.
    capacity : int or None
        Bytes that a chunk serves, if known: the unit size.
    exact : bool
        Whether the bytes are all that is in use, or only what the trace shows being allocated.
    """

    event: np.ndarray
    bytes: np.ndarray
    names: list[str]
    capacity: int | None
    exact: bool


def chunk_heat(what: Any, stretches: int = 240) -> ChunkHeat:
    """Work out how full each chunk was over time.

    Parameters
    ----------
    what : Trace, Replay or Rerun
        Of a trace, what it shows being allocated and not freed again: what was there before is not seen. Of a replay on
        an engine, all that is in use.
    stretches : int, optional
        Into how many stretches the events are cut, 1 to 65536; of a replay at most 120.

    Returns
    -------
    ChunkHeat
        A row a chunk, a column a stretch.

    Raises
    ------
    InvalidRequest
        If there is no event, or no chunk.

    Notes
    -----
    Of a trace O(events), some hundred nanoseconds each.
    """
    from percpu.replay import Replay, Rerun
    from percpu.trace import Trace

    stretches = integer("stretches", stretches, 1, _MOST_STRETCHES)
    if isinstance(what, (Replay, Rerun)):
        return _of_states(what, min(stretches, _MAX_STATES))
    if not isinstance(what, Trace):
        raise TypeError(f"what must be a Trace, Replay or Rerun, not {type(what).__name__}")
    return _of_trace(what, stretches)


def _of_states(run: Any, stretches: int) -> ChunkHeat:
    first, last = run.summary.get("first_event", 0), run.summary["nr_events"]
    if last <= first:
        raise InvalidRequest("what: there is no event to draw", parameter="what")
    event = np.unique(np.linspace(first, last, stretches).round().astype(np.int64))
    used: list[dict[int, int]] = []
    capacity = 0
    for at in event.tolist():
        allocator = run.at(at)
        capacity = allocator.unit_size
        page = allocator.page_size
        row = {}
        for number in allocator.chunks:
            info = allocator.chunks[number].info
            served = info["nr_pages"] * page - info["start_offset"] - info["end_offset"]
            row[number] = served - info["free_bytes"]
        used.append(row)
    numbers = sorted({number for row in used for number in row})
    if not numbers:
        raise InvalidRequest("what: there is no chunk at any time", parameter="what")
    grid = np.array([[row.get(number, np.nan) for row in used] for number in numbers], dtype=float)
    return ChunkHeat(event, grid, [str(number) for number in numbers], capacity, True)


class _Numbers:
    """Numbers distinct values in the order of their first appearance, block by block, without sorting them.

    A table of hashes holds them; ``clash`` says that two values met at one entry, so that the numbers are of no use.
    """

    def __init__(self) -> None:
        self._value = np.zeros(1 << _HASH_BITS, dtype=np.uint64)
        self._number = np.full(1 << _HASH_BITS, -1, dtype=np.int64)
        self.values: list[int] = []
        self.clash = False

    def of(self, values: np.ndarray) -> np.ndarray:
        entry = (values * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - _HASH_BITS)
        new = np.flatnonzero(self._number[entry] < 0)
        while len(new):
            at = entry[new[0]]
            self._value[at], self._number[at] = values[new[0]], len(self.values)
            self.values.append(int(values[new[0]]))
            new = new[entry[new] != at]
        self.clash |= bool((self._value[entry] != values).any())
        return self._number[entry]


class _Sorted:
    """The same of all values at once, by sorting: slower, and never wrong."""

    clash = False

    def __init__(self, values: np.ndarray) -> None:
        self._sorted, first = np.unique(values, return_index=True)
        order = np.argsort(first)
        self._number = np.empty_like(order)
        self._number[order] = np.arange(len(order))
        self.values: list[int] = self._sorted[order].tolist()

    def of(self, values: np.ndarray) -> np.ndarray:
        return self._number[np.searchsorted(self._sorted, values)]


def _of_trace(trace: Any, stretches: int) -> ChunkHeat:
    kind = np.asarray(trace["kind"])
    n = len(kind)
    ends = np.append(_style.buckets(n, stretches)[1:], n).astype(np.int64)
    alloc_code, free_code = (_core.EVENT_KINDS.index(name) for name in ("alloc", "free"))
    touch = ((kind == alloc_code) | (kind == free_code)) & ~trace.missing("base_addr")
    if not touch.any():
        raise InvalidRequest("what: there is no request or free to draw", parameter="what")
    bases, offs = np.asarray(trace["base_addr"]), np.asarray(trace["off_bytes"])
    # Granules are 4 bytes, 2 in the area map: the largest power of two that divides all offsets serves as well.
    joined = int(np.bitwise_or.reduce(offs, where=touch, initial=0))
    shift = (joined & -joined).bit_length() - 1 if joined else 2
    width = (int(np.max(offs, where=touch, initial=0)) >> shift) + 1
    numbers: _Numbers | _Sorted = _Numbers()
    for start in range(0, n, _BLOCK):
        part = slice(start, start + _BLOCK)
        numbers.of(bases[part][touch[part]])
    if numbers.clash:
        numbers = _Sorted(bases[touch])
    nr_chunks = len(numbers.values)

    def places(events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chunk = numbers.of(bases[events])
        return chunk, chunk * width + (offs[events] >> np.uint64(shift)).astype(np.int64)

    kept = None
    if nr_chunks * width > _CELLS:  # too many to have a table of all: number those that occur
        kept = np.unique(places(np.flatnonzero(touch))[1])
    # Bytes live at each place, and the last event at it within a stretch.
    live = np.zeros(nr_chunks * width if kept is None else len(kept), dtype=np.int32)
    stamp = np.zeros(len(live), dtype=np.int32)
    sizes = np.asarray(trace["size_bytes"])
    change = np.zeros((nr_chunks, len(ends)))
    start = 0
    for column, stop in enumerate(ends.tolist()):
        part = np.flatnonzero(touch[start:stop]) + start
        chunk, place = places(part)
        if kept is not None:
            place = np.searchsorted(kept, place)
        order = np.arange(len(part), dtype=np.int32)
        stamp[place] = order  # of several events at one place the last one stays
        last = stamp[place] == order
        final, event = place[last], part[last]
        value = np.where(kind[event] == alloc_code, sizes[event], 0).astype(np.int32)
        change[:, column] = np.bincount(chunk[last], weights=value - live[final], minlength=nr_chunks)
        live[final] = value
        start = stop
    grid = np.cumsum(change, axis=1)
    _mark_absent(trace, kind, numbers.values, ends, grid)
    return ChunkHeat(ends, grid, [f"{address:x}"[-9:] for address in numbers.values], None, False)


def _mark_absent(trace: Any, kind: np.ndarray, base: list[int], ends: np.ndarray, grid: np.ndarray) -> None:
    """Blank what is before the creation of a chunk, and after its destruction up to the next creation."""
    number = {address: row for row, address in enumerate(base)}
    names = ("create", "destroy")
    codes = [_core.EVENT_KINDS.index(name) for name in names]
    events = np.flatnonzero(np.isin(kind, codes))
    seen: set[int] = set()
    addresses = np.asarray(trace["base_addr"])[events].tolist()
    for event, what, address in zip(events.tolist(), kind[events].tolist(), addresses, strict=True):
        row = number.get(address)
        if row is None:
            continue
        column = int(np.searchsorted(ends, event, side="right"))
        if what == codes[0]:
            if row not in seen:
                grid[row, :column] = np.nan
            elif np.isnan(grid[row, column:]).all():
                grid[row, column:] = 0.0
        else:
            grid[row, column:] = np.nan
        seen.add(row)


def plot_heatmap(what: Any, ax: Any = None, *, stretches: int = 240) -> Any:
    """Draw how full each chunk was over time.

    A row is a chunk, in the order of first appearance (of a replay by number), events run to the right. The colour is
    the share of the unit in use in a replay, and the bytes of one CPU that the trace shows being live in a trace. Where
    a chunk does not exist it is grey. Of more than 200 chunks neighbours are joined, and their mean is drawn.

    Parameters
    ----------
    what : Trace, Replay, Rerun or ChunkHeat
        See `chunk_heat`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    stretches : int, optional
        Cells along the time axis; of a replay at most 120.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    InvalidRequest
        If there is no event, or no chunk.
    """
    plt = _style.pyplot()
    from matplotlib.ticker import FuncFormatter

    heat = what if isinstance(what, ChunkHeat) else chunk_heat(what, stretches)
    if not heat.bytes.size:
        raise InvalidRequest("what: there is no chunk to draw", parameter="what")
    values, per_row = join_rows(heat.bytes, _ROWS)
    known = heat.exact and heat.capacity
    shown = values / heat.capacity * 100 if known else values
    rows, _ = shown.shape
    if ax is None:
        _, ax = plt.subplots(figsize=(10, min(2.0 + 0.22 * max(rows, 5), 9)), layout="constrained")
    ax.set_facecolor("#D9DBDE")
    edges = np.concatenate([[0 if len(heat.event) < 2 else max(2 * heat.event[0] - heat.event[1], 0)], heat.event])
    top = 100.0 if known else None
    mesh = ax.pcolormesh(edges, np.arange(rows + 1), np.ma.masked_invalid(shown), cmap="cividis", vmin=0, vmax=top,
                         rasterized=True)  # fmt: skip
    bar = ax.figure.colorbar(mesh, ax=ax)
    if known:
        bar.set_label("share of the unit in use, %")
    else:
        bar.set_label("traced live bytes of one CPU")
        _style.byte_ticks(bar.ax.yaxis, 0, float(np.fmax.reduce(shown, axis=None, initial=0)))
    step = max(1, -(-rows // 14))
    ax.set_yticks(np.arange(0, rows, step) + 0.5, [heat.names[row * per_row] for row in range(0, rows, step)])
    ax.set_ylabel("chunk" if heat.exact else "chunk (end of its address)")
    ax.set_ylim(rows, 0)
    ax.set_xlabel("event")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{int(value):,}"))
    _style.bare(ax, keep=())
    joined = f", {per_row} a row" if per_row > 1 else ""
    chunks = _style.plural(len(heat.names), "chunk")
    title = f"{chunks}{joined} over {int(heat.event[-1]):,} events"
    ax.set_title(title, loc="left", fontsize=11, color=_style.TEXT)
    return ax


def join_rows(values: np.ndarray, limit: int) -> tuple[np.ndarray, int]:
    """Join neighbouring rows by their mean until there are at most `limit`: the rows, and how many went into each."""
    per_row = -(-len(values) // limit) if len(values) else 1
    if per_row == 1:
        return values, 1
    cuts = np.arange(0, len(values), per_row)
    there = ~np.isnan(values)
    count = np.add.reduceat(there, cuts, axis=0)
    total = np.add.reduceat(np.where(there, values, 0), cuts, axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), per_row
