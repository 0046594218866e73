"""Traces: recorded streams of allocator events."""

from __future__ import annotations

import fnmatch
import gzip
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from percpu import _core, _parquet
from percpu._checks import integer
from percpu.errors import InvalidRequest, StateError, TraceError
from percpu.results import Result
from percpu.summary import TraceSummary

__all__ = ["Trace", "iter_trace", "read_trace"]

_COLUMNS = frozenset(
    [
        "kind",
        "time_ns",
        "line",
        "cpu",
        "reserved",
        "atomic",
        "size_bytes",
        "align_bytes",
        "base_addr",
        "off_bytes",
        "ptr",
        "alloc_bytes",
        "first_page",
        "end_page",
        "empty_only",
        "nr_lost",
        "call_site",
        "gfp_flags",
    ]
)
_LAZY = ("_columns", "_mask", "_categories")


class Trace(Result):
    """Events in the order of the recording, one row each; made by `read_trace`.

    Columns: ``kind`` (a category: ``alloc``, ``free``, ``fail``, ``create``, ``destroy``, ``populated``,
    ``depopulated``, ...), ``cpu``, ``time_ns``, ``reserved``, ``atomic``, ``size_bytes``, ``align_bytes``,
    ``base_addr``, ``off_bytes``, ``ptr`` (uint64, never floats), ``alloc_bytes`` (charged over all CPUs),
    ``first_page``, ``end_page``, ``call_site`` and ``gfp_flags`` (categories), and others. What an event does not have
    is missing. The order of the rows is that of the file. Columns are made when the first one is asked for.

    A slice, a boolean mask (n,) or an array of event numbers gives a `Trace` with those events. Where pointers are
    hashed, ``base_addr`` and ``ptr`` are identities and no more: an area is named by ``base_addr`` and ``off_bytes``.

    Attributes
    ----------
    markers : list of (int, str)
        Text markers in the trace and the events before which they stand.
    info : dict
        ``format`` (``ftrace``, ``trace-cmd``, ``perf``, ``bpftrace``, ``columns`` or None), ``clock`` (what ``time_ns``
        counts: ``microseconds``, ``nanoseconds`` or, as plain order, ``counter``), ``hashed`` (whether pointers are
        hashed), ``skipped_lines`` (with other events), ``damaged_lines`` and ``first_damage`` (with ``strict=False``),
        ``lost_events`` (in the middle, as far as the text says how many), ``overwritten_events`` (before the first).
    geometry : dict or None
        What the file says of the machine: only Parquet files can.
    """

    _core: _core.Trace
    geometry: dict[str, Any] | None

    def __init__(self) -> None:
        raise TypeError("use read_trace(path)")

    @classmethod
    def _wrap(cls, core: _core.Trace, geometry: Mapping[str, Any] | None = None) -> Trace:
        self = cls.__new__(cls)
        self._core = core
        self.geometry = None if geometry is None else dict(geometry)
        self.dims = ()
        self.attrs = core.info()
        return self

    def __getattr__(self, name: str) -> Any:
        if name in _LAZY and "_core" in self.__dict__:
            core = self._core
            columns, missing = core.columns()
            texts = {"kind": _core.EVENT_KINDS, "call_site": core.call_sites(), "gfp_flags": core.gfp_flags()}
            Result.__init__(self, columns, mask=missing, categories=texts, attrs=self.attrs)
            return self.__dict__[name]
        if name in _COLUMNS:
            return self._columns[name]
        raise AttributeError(f"{type(self).__name__!r} has no attribute or column {name!r}")

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self._core)

    @property
    def markers(self) -> list[tuple[int, str]]:
        """(event, text): text markers and the events before which they stand."""
        return self._core.markers()

    @property
    def extra_fields(self) -> list[tuple[int, str]]:
        """(event, text): fields that are not known here, as they were printed, and their events."""
        return self._core.extra_fields()

    @property
    def info(self) -> dict[str, Any]:
        """Facts about the whole: format, clock, hashed pointers, lines skipped, events lost."""
        return dict(self.attrs)

    def __repr__(self) -> str:
        from percpu._rich import span_of

        n, span = len(self), span_of(self)
        form = self.attrs["format"]
        lost = self.attrs["lost_events"]
        more = (f", {form}" if form else "") + (f", {span}" if span else "") + (f", {lost} lost" if lost else "")
        return f"Trace({n} event{'' if n == 1 else 's'}{more})"

    def _repr_html_(self) -> str:
        from percpu._rich import trace_html

        return trace_html(self)

    def _part(self, core: _core.Trace) -> Trace:
        return Trace._wrap(core, self.geometry)

    # -- parts -----------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        """Return a column by name, a row by number, or a trace for a slice, a mask or event numbers."""
        if isinstance(key, (str, int, np.integer)) and not isinstance(key, bool):
            return super().__getitem__(key)
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return self._part(self._core.slice(start, max(start, stop)))
            events = np.arange(start, stop, step)
        else:
            events = self._events(np.asarray(key))
        return self._part(self._core.take(np.ascontiguousarray(events, dtype=np.uint32)))

    def _events(self, key: np.ndarray) -> np.ndarray:
        n = len(self)
        if key.ndim != 1:
            raise IndexError(f"an index array must have 1 dimension, not {key.ndim}")
        if key.dtype == bool:
            if len(key) != n:
                raise IndexError(f"a mask must have {n} elements, not {len(key)}")
            return np.flatnonzero(key)
        if key.size == 0:
            return np.zeros(0, dtype=np.int64)
        if key.dtype.kind not in "iu":
            raise IndexError(f"events are chosen by integers or a mask, not {key.dtype}")
        if key.dtype.kind == "i":
            key = np.where(key < 0, key + n, key)
        outside = (key < 0) | (key >= n)
        if outside.any():
            raise IndexError(f"event {key[outside][0]} of {n}")
        return key

    def between(self, first: str, last: str) -> Trace:
        """Return the events between two markers.

        Parameters
        ----------
        first, last : str
            Texts of the markers, or parts of them.

        Returns
        -------
        Trace
            The events of that time, in order.

        Raises
        ------
        TraceError
            If there is no such marker.
        """
        places = []
        for wanted in (first, last):
            place = next((event for event, text in self.markers if wanted in text), None)
            if place is None:
                raise TraceError(f"no marker with {wanted!r}")
            places.append(place)
        return self[places[0] : places[1]]

    def within(self, first_ns: int = 0, end_ns: int | None = None) -> Trace:
        """Return the events of a stretch of time.

        Parameters
        ----------
        first_ns : int, optional
            First time, nanoseconds (ordinal numbers if the clock is a counter).
        end_ns : int, optional
            One past the last; no end by default.

        Returns
        -------
        Trace
            The events of that time, in order.
        """
        top = 2**64 - 1
        first = integer("first_ns", first_ns)
        return self._part(self._core.within(first, top if end_ns is None else integer("end_ns", end_ns)))

    def by_call_site(self, pattern: str | re.Pattern[str]) -> Trace:
        """Return what call sites did: their allocations, and the frees of the areas that they got.

        Parameters
        ----------
        pattern : str or re.Pattern
            A function (``mm_init``, ``bpf_*``; shell wildcards) or a whole call site (``mm_init+0x2bf/0x5f0``); or a
            compiled regular expression, which is searched for in the whole text.

        Returns
        -------
        Trace
            The events of those areas, in order; empty if nothing matches.

        Raises
        ------
        TraceError
            If the trace has no call sites: kernels before 5.19 do not print them.
        """
        sites = self._core.call_sites()
        if not sites and "alloc" in self._kinds():
            raise TraceError("the trace has no call sites: kernels before 5.19 do not print them")
        return self._part(self._core.of_call_sites(matching(sites, pattern)))

    def _kinds(self) -> set[str]:
        return {_core.EVENT_KINDS[code] for code in np.unique(self["kind"])}

    # -- other traces ----------------------------------------------------------------

    @staticmethod
    def merge(traces: Iterable[Trace]) -> Trace:
        """Merge traces of one machine by time, such as a file for each CPU.

        Stable: on equal times the trace that is given first comes first, and each trace keeps its own order.

        Parameters
        ----------
        traces : iterable of Trace
            Their clocks must count the same, and either all have hashed pointers or none.

        Returns
        -------
        Trace
            ``line`` is 0 everywhere, since there is no one file.

        Raises
        ------
        TraceError
            If they cannot be compared.
        """
        return Trace._join(traces, by_time=True)

    @staticmethod
    def concatenate(traces: Iterable[Trace]) -> Trace:
        """Put traces one after the other, such as the blocks of `iter_trace` or parts of one trace.

        Parameters
        ----------
        traces : iterable of Trace
            Their clocks must count the same, and either all have hashed pointers or none.

        Returns
        -------
        Trace
            All events, in the order given.

        Raises
        ------
        TraceError
            If they cannot be of one trace.
        """
        return Trace._join(traces, by_time=False)

    @staticmethod
    def _join(traces: Iterable[Trace], by_time: bool) -> Trace:
        traces = list(traces)
        for index, trace in enumerate(traces):
            if not isinstance(trace, Trace):
                raise TypeError(f"traces[{index}] must be a Trace, not {type(trace).__name__}")
        geometry = next((trace.geometry for trace in traces if trace.geometry is not None), None)
        return Trace._wrap(_core.Trace.join([trace._core for trace in traces], by_time), geometry)

    def anonymise(self, seed: int, *, call_sites: bool = False, times: bool = False, state: Any = None) -> Any:
        """Return the trace without what says something about one machine.

        Chunks get other addresses in another order, which keep their place in a page and a unit; pointers follow.
        Sizes, offsets, CPUs, flags and the order of events stay, so a replay finds the same places. Markers that are
        more than a word of capitals, digits and underscores are replaced, unknown fields are dropped.

        Parameters
        ----------
        seed : int
            Chooses the addresses; who knows it can undo hashed pointers.
        call_sites : bool, optional
            Replace call sites by numbers.
        times : bool, optional
            Replace times by the order of the events.
        state : path or bytes, optional
            The state in which the trace begins. It is moved along, so that the trace can be replayed on it.

        Returns
        -------
        Trace or (Trace, bytes)
            With the state, if one was given: JSON, for `Allocator.from_state`.
        """
        seed = integer("seed", seed)
        if state is None:
            core, _ = self._core.anonymise(seed, bool(call_sites), bool(times), [], None)
            return self._part(core)
        state = _load_state(state)
        globals_, chunks = state["globals"], state["chunks"]
        addresses = [int(globals_["pcpu_base_addr"]), *(int(chunk["base_addr"]) for chunk in chunks)]
        unit = int(globals_["pcpu_unit_size"])
        core, moved = self._core.anonymise(seed, bool(call_sites), bool(times), addresses, unit)
        trace = self._part(core)
        state.pop("meta", None)
        start = globals_.get("per_cpu_start")
        globals_["pcpu_base_addr"] = moved[0]
        for chunk, address in zip(chunks, moved[1:], strict=True):
            chunk["base_addr"] = address
        distance = trace._distance()
        if start is not None and distance:
            globals_["per_cpu_start"] = (moved[0] - distance) % 2**64
            if globals_.get("per_cpu_end") is not None:
                globals_["per_cpu_end"] = (globals_["per_cpu_end"] - start + globals_["per_cpu_start"]) % 2**64
        return trace, json.dumps(state).encode()

    def _distance(self) -> int | None:
        """Return ``base + off - ptr``, from the first event that has all of them."""
        known = ~(self.missing("base_addr") | self.missing("ptr") | self.missing("off_bytes"))
        if self.attrs["hashed"] or not known.any():
            return None
        row = self.row(int(np.argmax(known)))
        return (row["base_addr"] + row["off_bytes"] - row["ptr"]) % 2**64

    # -- numbers ---------------------------------------------------------------------

    def summary(self) -> TraceSummary:
        """Sum up the trace: events by kind, and from there call sites, CPUs and totals.

        Returns
        -------
        TraceSummary
            One row a kind of event, and what else was counted.
        """
        core = _core.TraceSummary()
        core.add(self._core)
        return TraceSummary._wrap(core)

    # -- files -----------------------------------------------------------------------

    def to_parquet(self, path: str | os.PathLike[str], *, geometry: Any = None) -> None:
        """Write a Parquet file, which `read_trace` reads again as an equal trace.

        Parameters
        ----------
        path : path
            The file.
        geometry : FirstChunkLayout or mapping, optional
            What is known of the machine; kept in the metadata, and given back as `geometry`.

        Notes
        -----
        The schema is in docs/trace-format.md. Needs pyarrow.
        """
        facts = self.geometry if geometry is None else _facts_of(geometry)
        writer = _parquet.Writer(path, facts)
        writer.write(self._core)
        writer.finish()

    def to_text(self, path: str | os.PathLike[str]) -> None:
        """Write ftrace text, which `read_trace` reads again as an equal trace.

        Parameters
        ----------
        path : path
            ``.gz`` and ``.zst`` at its end compress.
        """
        writer = _core.TraceWriter(path, compression_of(path))
        writer.write(self._core)
        writer.finish()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Trace):
            return self._core == other._core
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        core = self._core
        columns, missing = core.columns()
        texts = core.call_sites(), core.gfp_flags(), core.markers(), core.extra_fields()
        return _rebuild, (columns, missing, texts, self.attrs, self.geometry)


def _rebuild(
    columns: dict[str, np.ndarray],
    missing: dict[str, np.ndarray],
    texts: tuple[Any, ...],
    info: dict[str, Any],
    geometry: dict[str, Any] | None,
) -> Trace:
    sites, flags, markers, extra = texts
    return Trace._wrap(_core.Trace.from_columns(columns, missing, sites, flags, markers, extra, [], info), geometry)


def matching(sites: Sequence[str], pattern: str | re.Pattern[str]) -> list[bool]:
    """Return for each call site whether it matches."""
    if isinstance(pattern, re.Pattern):
        return [pattern.search(site) is not None for site in sites]
    if not isinstance(pattern, str):
        raise TypeError(f"pattern must be a str or a compiled expression, not {type(pattern).__name__}")
    return [
        site == pattern or any(fnmatch.fnmatchcase(text, pattern) for text in (site, site.partition("+")[0]))
        for site in sites
    ]


def compression_of(path: str | os.PathLike[str]) -> str:
    """Return the compression that a file's name asks for."""
    return {".gz": "gzip", ".zst": "zstd"}.get(Path(path).suffix, "")


def _facts_of(geometry: Any) -> dict[str, Any]:
    if isinstance(geometry, Mapping):
        facts = dict(geometry)
    else:
        names = (
            "kernel",
            "page_size",
            "unit_size",
            "nr_units",
            "static_size",
            "reserved_size",
            "dyn_size",
            "atom_size",
        )
        facts = {name: getattr(geometry, name) for name in names if hasattr(geometry, name)}
        if not facts:
            raise TypeError(f"geometry must be a FirstChunkLayout or a mapping, not {type(geometry).__name__}")
    try:
        return json.loads(json.dumps(facts))
    except TypeError as error:
        raise InvalidRequest(f"geometry: {error}", parameter="geometry") from None


def _load_state(state: Any) -> dict[str, Any]:
    data = Path(state).read_bytes() if isinstance(state, (str, os.PathLike)) else bytes(memoryview(state))
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        value = json.loads(data)
        value["globals"]["pcpu_base_addr"], value["globals"]["pcpu_unit_size"], value["chunks"]
    except (ValueError, OSError, EOFError, KeyError, TypeError) as error:
        raise StateError(f"state: not a state file: {error!r}", path="state") from None
    return value


def _name_of(source: Any) -> str:
    if hasattr(source, "read"):
        return str(getattr(source, "name", "<stream>"))
    return "<stdin>" if os.fspath(source) == "-" else os.fspath(source)


def _reader(source: Any, strict: bool, max_events: int | None) -> _core.TraceReader:
    if max_events is not None:
        max_events = integer("max_events", max_events, 0, 2**63)
    if not hasattr(source, "read"):
        source = os.fspath(source)
        if source != "-":
            with open(source, "rb"):  # for the usual exception, with the file's name
                pass
    return _core.TraceReader(source, _name_of(source), bool(strict), max_events)


def _is_parquet(source: Any) -> bool:
    if hasattr(source, "read") or os.fspath(source) == "-":
        return False
    path = Path(source)
    return path.is_file() and _parquet.is_parquet(path)


def read_trace(
    source: str | os.PathLike[str] | IO[bytes], *, strict: bool = True, max_events: int | None = None
) -> Trace:
    """Read a recording of the ``percpu:*`` events.

    Parameters
    ----------
    source : path or binary file
        Text of ftrace (pointers hashed or not), ``trace-cmd report``, ``perf script`` (also with ``-F``), the bpftrace
        program of `percpu record`, or the column form, each plain, gzip or zstd; or a Parquet file that
        `Trace.to_parquet` wrote. All are recognised by their content. ``"-"`` is standard input.
    strict : bool, optional
        A line that cannot be read is an error. If false, such lines are counted in ``info["damaged_lines"]``, and a
        file that is cut off ends where it does.
    max_events : int, optional
        More events than that are an error; 2^26 by default, which is about 4 GB.

    Returns
    -------
    Trace
        One row an event.

    Raises
    ------
    TraceError
        With file, line number and text, if a line cannot be read; with what to do, if the file is no text.
    OSError
        If the file cannot be opened.

    See Also
    --------
    iter_trace : Files larger than memory.

    Examples
    --------
    >>> import io
    >>> text = b"x-1 [000] ..... 1.000001: percpu_create_chunk: base_addr=ffffe8ffffc00000"
    >>> read_trace(io.BytesIO(text)).row(0)["kind"]
    'create'
    """
    if _is_parquet(source):
        core, facts = _parquet.read(source, max_events)  # type: ignore[arg-type]
        return Trace._wrap(core, facts.get("geometry"))
    return Trace._wrap(_reader(source, strict, max_events).read_all())


def iter_trace(
    source: str | os.PathLike[str] | IO[bytes],
    *,
    events: int = 1 << 16,
    strict: bool = True,
    max_events: int | None = None,
) -> Iterator[Trace]:
    r"""Read a recording block by block, in memory that does not depend on its length.

    Parameters
    ----------
    source : path or binary file
        As for `read_trace`.
    events : int, optional
        About how many events a block has; the last one is smaller.
    strict : bool, optional
        As for `read_trace`.
    max_events : int, optional
        More events than that, over all blocks, are an error; no limit by default.

    Yields
    ------
    Trace
        Consecutive events. The codes of ``call_site`` and ``gfp_flags`` mean the same in all blocks. Output of bpftrace
        is put into order by time inside 2^18 events. Counts in ``info`` are of what was read for that block.

    Raises
    ------
    TraceError, OSError
        As `read_trace`.

    Examples
    --------
    >>> import io
    >>> head = "# tracer: nop\n"
    >>> line = "t-1 [000] d..2. 1.{:06}: percpu_free_percpu: base_addr=ffffe8ffffc00000 off={} ptr=000060795bb04a00\n"
    >>> text = head + "".join(line.format(k, 8 * k) for k in range(5000))
    >>> [len(block) for block in iter_trace(io.BytesIO(text.encode()), events=2000)]
    [2000, 2000, 1000]
    """
    events = integer("events", events, 1, 2**26)
    return (block for block, _ in blocks_with_position(source, events=events, strict=strict, max_events=max_events))


def blocks_with_position(
    source: Any, *, events: int = 1 << 16, strict: bool = True, max_events: int | None = None
) -> Iterator[tuple[Trace, int]]:
    """Yield the blocks of `iter_trace`, each with the bytes of the file that were read so far."""
    if _is_parquet(source):
        total, size = 0, Path(source).stat().st_size
        for core, facts, share in _parquet.read_blocks(source, events):
            total += len(core)
            if max_events is not None and total > max_events:
                raise TraceError(f"{_name_of(source)}: max_events={max_events}: there are {total} or more")
            yield Trace._wrap(core, facts.get("geometry")), int(share * size)
        return
    reader = _reader(source, strict, 2**63 if max_events is None else max_events)
    try:
        while (block := reader.next_block(events)) is not None:
            yield Trace._wrap(block), reader.position()[0]
    finally:
        reader.close()
