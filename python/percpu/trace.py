"""Traces: recorded streams of allocator events."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from percpu import _core
from percpu.errors import TraceError
from percpu.results import Result, _import

__all__ = ["Trace", "read_trace"]


class Trace(Result):
    """Events in the order of the recording, one row each; made by `read_trace`.

    Columns: ``kind`` (a category: ``alloc``, ``free``, ``fail``, ``create``, ``destroy``, ``populated``,
    ``depopulated``, ...), ``cpu``, ``time_ns``, ``reserved``, ``atomic``, ``size_bytes``, ``align_bytes``,
    ``base_addr``, ``off_bytes``, ``ptr`` (uint64, never floats), ``alloc_bytes`` (charged over all CPUs),
    ``first_page``, ``end_page``, ``call_site`` and ``gfp_flags`` (categories), and others. What an event does not have
    is missing. The order of the rows is that of the file.

    Attributes
    ----------
    markers : list of (int, str)
        Text markers in the trace and the events before which they stand.
    info : dict
        ``clock`` (what ``time_ns`` counts: ``microseconds``, ``nanoseconds`` or, as plain order, ``counter``),
        ``hashed`` (whether pointers are hashed), ``skipped_lines``, ``lost_events``.
    """

    _core: _core.Trace

    def __init__(self) -> None:
        raise TypeError("use read_trace(path)")

    @classmethod
    def _wrap(cls, core: _core.Trace) -> Trace:
        self = cls.__new__(cls)
        columns, missing = core.columns()
        texts = {"kind": _core.EVENT_KINDS, "call_site": core.call_sites(), "gfp_flags": core.gfp_flags()}
        Result.__init__(self, columns, mask=missing, categories=texts, attrs=core.info())
        self._core = core
        return self

    @property
    def markers(self) -> list[tuple[int, str]]:
        """(event, text): text markers and the events before which they stand."""
        return self._core.markers()

    @property
    def info(self) -> dict[str, Any]:
        """What the clock counts, whether pointers are hashed, lines skipped, events lost."""
        return dict(self.attrs)

    def __getitem__(self, key: Any) -> Any:
        """Return a column by name, a row by number, or a trace for a slice without a step."""
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return Trace._wrap(self._core.slice(start, max(start, stop)))
        if isinstance(key, (str, int, np.integer)):
            return super().__getitem__(key)
        columns = {name: self[name][key] for name in self}
        return Result(
            columns,
            mask={name: flags[key] for name, flags in self._mask.items()},
            categories=self._categories,
            attrs=self.attrs,
        )

    def between(self, first: str, last: str) -> Trace:
        """Return the events between two markers.

        Parameters
        ----------
        first, last : str
            Texts of the markers, or parts of them.

        Returns
        -------
        Trace

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

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the columns to a parquet file, which `read_trace` reads again.

        Parameters
        ----------
        path : path
            Ends in ``.parquet``.
        """
        import json

        table = self.to_arrow()
        extra = {b"percpu": json.dumps({"markers": self.markers, "info": self.info}).encode()}
        _import("pyarrow.parquet", "analysis").write_table(table.replace_schema_metadata(extra), path)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Trace):
            return self._core == other._core
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        names = {name: self._categories[name] for name in _TEXTS}
        return _rebuild, (dict(self._columns), self._mask, names, self.markers, self.info)


_TEXTS = ("call_site", "gfp_flags")


def _rebuild(
    columns: dict[str, np.ndarray],
    missing: dict[str, np.ndarray],
    texts: dict[str, Sequence[str]],
    markers: list[tuple[int, str]],
    info: dict[str, Any],
) -> Trace:
    return Trace._wrap(
        _core.Trace.from_columns(
            columns,
            missing,
            call_sites=list(texts["call_site"]),
            gfp_flags=list(texts["gfp_flags"]),
            markers=list(markers),
            clock=info["clock"],
            hashed=info["hashed"],
        )
    )


def read_trace(path: str | os.PathLike[str]) -> Trace:
    """Read a recording of the ``percpu:*`` events.

    Parameters
    ----------
    path : path
        Text of ftrace, trace-cmd, perf script or bpftrace, the column form, each plain or gzip; or a ``.parquet`` file
        that `Trace.to_parquet` wrote. Text formats are recognised by their content.

    Returns
    -------
    Trace

    Raises
    ------
    TraceError
        With line number and text, if a line cannot be read.
    OSError
        If the file cannot be opened.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    with path.open("rb"):  # for the usual exception, with the file's name
        return Trace._wrap(_core.read_trace(path))


def _read_parquet(path: Path) -> Trace:
    import json

    table = _import("pyarrow.parquet", "analysis").read_table(path)
    meta = (table.schema.metadata or {}).get(b"percpu")
    if meta is None:
        raise TraceError(f"{path}: not written by Trace.to_parquet")
    columns: dict[str, np.ndarray] = {}
    missing: dict[str, np.ndarray] = {}
    texts: dict[str, Sequence[str]] = dict.fromkeys(_TEXTS, ())
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        null = column.is_null().to_numpy(zero_copy_only=False)
        if null.any():
            missing[name] = null
        if name in (*_TEXTS, "kind"):
            words = column.dictionary.to_pylist()
            codes = column.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.uint32)
            if name == "kind":
                order = np.array([_core.EVENT_KINDS.index(word) for word in words], dtype=np.uint8)
                columns[name] = order[codes]
            else:
                texts[name], columns[name] = words, codes
        else:
            fill = False if column.type == "bool" else 0
            columns[name] = column.fill_null(fill).to_numpy(zero_copy_only=False)
    facts = json.loads(meta)
    markers = [(int(event), str(text)) for event, text in facts["markers"]]
    return _rebuild(columns, missing, texts, markers, facts["info"])
