"""Traces as Parquet files; the schema is described in ``docs/trace-format.md``.

Both directions go block by block, so that a file may be larger than memory.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from percpu import _core
from percpu.errors import TraceError
from percpu.results import _import

__all__ = ["KEY", "VERSION", "Writer", "is_parquet", "read", "read_blocks"]

KEY = b"percpu.trace"
"""Key of the metadata that makes a Parquet file a trace."""
VERSION = 1
"""Version of the schema that is written; older ones are read."""

_COLUMNS = {
    "kind": "kind",
    "time_ns": "uint64",
    "line": "uint32",
    "cpu": "uint16",
    "reserved": "bool",
    "atomic": "bool",
    "size_bytes": "uint64",
    "align_bytes": "uint64",
    "base_addr": "uint64",
    "off_bytes": "uint64",
    "ptr": "uint64",
    "alloc_bytes": "uint64",
    "first_page": "uint32",
    "end_page": "uint32",
    "empty_only": "bool",
    "nr_lost": "uint64",
    "call_site": "dictionary",
    "gfp_flags": "dictionary",
    "marker": "text",
    "extra_fields": "text",
}
_TEXTS = [name for name, kind in _COLUMNS.items() if kind in ("text", "dictionary", "kind")]
_MAX_TEXT = 1 << 31
"""Bytes of all texts of a column; a small file may say one long text again and again."""
_CLOCKS = ("microseconds", "nanoseconds", "counter")
_UNITS = {
    "time_ns": "nanoseconds; ordinal numbers if clock is counter",
    "size_bytes": "bytes for each CPU",
    "align_bytes": "bytes",
    "off_bytes": "bytes from the chunk's base",
    "alloc_bytes": "bytes over all CPUs",
    "first_page": "pages from the chunk's base",
    "end_page": "pages from the chunk's base, one past the last",
}


def is_parquet(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins like a Parquet file."""
    with open(path, "rb") as file:
        return file.read(4) == b"PAR1"


def _type(name: str) -> Any:
    pa = _import("pyarrow", "analysis")
    kind = _COLUMNS[name]
    if kind in ("kind", "dictionary"):
        return pa.dictionary(pa.int32(), pa.string())
    return {"bool": pa.bool_(), "text": pa.string()}.get(kind) or getattr(pa, kind)()


def _sparse(n: int, values: list[tuple[int, str]]) -> list[str | None]:
    texts: list[str | None] = [None] * n
    for index, text in values:
        texts[index] = text
    return texts


def _table(core: _core.Trace) -> Any:
    """Return the Arrow table of a block."""
    pa = _import("pyarrow", "analysis")
    columns, missing = core.columns()
    texts = {"kind": list(_core.EVENT_KINDS), "call_site": core.call_sites(), "gfp_flags": core.gfp_flags()}
    sparse = {"marker": core.markers(), "extra_fields": core.extra_fields()}
    arrays = []
    for name in _COLUMNS:
        if name in sparse:
            array = pa.array(_sparse(len(core), sparse[name]), type=pa.string())
        elif name in texts:
            codes = pa.array(columns[name].astype(np.int32), mask=missing.get(name))
            array = pa.DictionaryArray.from_arrays(codes, pa.array(texts[name], type=pa.string()))
        else:
            array = pa.array(columns[name], mask=missing.get(name), type=_type(name))
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=_schema())


def _schema() -> Any:
    pa = _import("pyarrow", "analysis")
    fields = []
    for name in _COLUMNS:
        unit = {b"unit": _UNITS[name].encode()} if name in _UNITS else None
        fields.append(pa.field(name, _type(name), metadata=unit))
    return pa.schema(fields)


class Writer:
    """Writes the blocks of one trace, a row group each.

    Parameters
    ----------
    path : path
        The file.
    geometry : mapping, optional
        What is known of the machine, kept as it is.
    """

    def __init__(self, path: str | os.PathLike[str], geometry: Mapping[str, Any] | None = None) -> None:
        pq = _import("pyarrow.parquet", "analysis")
        self._writer = pq.ParquetWriter(path, _schema(), compression="zstd", write_page_checksum=True)
        self._geometry = None if geometry is None else dict(geometry)
        self._info: dict[str, Any] | None = None

    def write(self, core: _core.Trace) -> None:
        """Add a block."""
        info = core.info()
        if self._info is not None:
            for name in ("skipped_lines", "damaged_lines", "lost_events", "overwritten_events"):
                info[name] += self._info[name]
            info["first_damage"] = self._info["first_damage"] or info["first_damage"]
            info["format"] = info["format"] or self._info["format"]
        self._info = info
        if len(core):
            self._writer.write_table(_table(core))

    def finish(self) -> None:
        """Write what belongs to the whole, and close the file."""
        info = self._info if self._info is not None else _empty().info()
        facts = {"schema": VERSION, "percpu": _core.__version__, **info, "geometry": self._geometry}
        self._writer.add_key_value_metadata({KEY.decode(): json.dumps(facts)})
        self._writer.close()

    def close(self) -> None:
        """Close the file, whatever is in it."""
        self._writer.close()


def _empty() -> _core.Trace:
    dtypes = {"kind": np.uint8, "bool": np.bool_, "dictionary": np.uint32}
    columns = {name: np.zeros(0, dtype=dtypes.get(kind, kind)) for name, kind in _COLUMNS.items() if kind != "text"}
    info = dict.fromkeys(("skipped_lines", "damaged_lines", "overwritten_events"), 0)
    facts = {"format": None, "clock": "microseconds", "hashed": False, "first_damage": None, **info}
    return _core.Trace.from_columns(columns, {}, [], [], [], [], [], facts)


class _File:
    """A Parquet file whose metadata were checked."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = str(path)
        with self.reading():
            pq = _import("pyarrow.parquet", "analysis")
            # A text that is there often is read once.
            metadata = pq.read_metadata(path)
            texts = [name for name in _TEXTS if name in metadata.schema.to_arrow_schema().names]
            self.file = pq.ParquetFile(path, metadata=metadata, page_checksum_verification=True, read_dictionary=texts)
        facts = (self.file.metadata.metadata or {}).get(KEY)
        if facts is None:
            raise self.error("a Parquet file, but not of a trace: it has no metadata percpu.trace")
        try:
            self.facts = json.loads(facts)
            version = int(self.facts["schema"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise self.error("the metadata percpu.trace cannot be read") from None
        if not 1 <= version <= VERSION:
            raise self.error(
                f"schema version {version}: this is percpu {_core.__version__}, which reads versions up to {VERSION}; "
                "a newer release is needed"
            )
        absent = [name for name in _COLUMNS if name not in self.file.schema_arrow.names]
        if absent:
            raise self.error(f"column {absent[0]!r} is missing")
        try:
            self.info = {
                "format": None if self.facts["format"] is None else str(self.facts["format"]),
                "clock": str(self.facts["clock"]),
                "hashed": bool(self.facts["hashed"]),
                "first_damage": None if self.facts["first_damage"] is None else str(self.facts["first_damage"]),
                **{name: int(self.facts[name]) for name in ("skipped_lines", "damaged_lines", "overwritten_events")},
            }
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self.error(f"the metadata percpu.trace cannot be read: {error!r}") from None
        if self.info["clock"] not in _CLOCKS:
            raise self.error(f"the metadata percpu.trace: no such clock: {self.info['clock']!r:.80}")
        for name, value in self.info.items():
            if isinstance(value, int) and not 0 <= value < 1 << 64:
                raise self.error(f"the metadata percpu.trace: {name}={value}: must be from 0 to {(1 << 64) - 1}")
        if not isinstance(self.facts.get("geometry"), (dict, type(None))):
            raise self.error("the metadata percpu.trace: geometry must be an object or null")

    def error(self, message: str) -> TraceError:
        return TraceError(f"{self.path}: {message}", path=self.path)

    @contextlib.contextmanager
    def reading(self, what: str = "not a Parquet file that can be read") -> Iterator[None]:
        """Make a `TraceError` of whatever pyarrow says about a damaged file; a file that is not there stays one."""
        pa = _import("pyarrow", "analysis")
        try:
            yield
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
            raise self.error(f"{what}: {error}") from None

    def batches(self, **options: Any) -> Iterator[Any]:
        """Yield batches of rows."""
        batches = self.file.iter_batches(**options)
        while True:
            with self.reading():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def trace(self, table: Any, texts: Mapping[str, list[str]], bases: list[int], info: dict[str, Any]) -> _core.Trace:
        """Return a table as a trace; codes of texts are those of the dictionaries given."""
        pa = _import("pyarrow", "analysis")
        pc = _import("pyarrow.compute", "analysis")
        columns: dict[str, np.ndarray] = {}
        missing: dict[str, np.ndarray] = {}
        sparse: dict[str, list[tuple[int, str]]] = {}
        for name, kind in _COLUMNS.items():
            with self.reading(f"column {name!r}"):
                column = table.column(name)
                if kind == "text":
                    values = self.strings(name, column)
                    places = np.flatnonzero(values.is_valid().to_numpy())
                    sparse[name] = list(zip(places.tolist(), values.take(places).to_pylist(), strict=True))
                    continue
                if column.null_count:
                    missing[name] = column.is_null().to_numpy()
                if kind in ("kind", "dictionary"):
                    names = list(_core.EVENT_KINDS) if kind == "kind" else texts[name]
                    known = pa.array(names, type=pa.string())
                    codes = pc.index_in(self.strings(name, column), value_set=known)
                    if codes.null_count != column.null_count:
                        raise self.error(f"column {name!r} has a value that is not known")
                    dtype = np.uint8 if kind == "kind" else np.uint32
                    columns[name] = codes.fill_null(0).to_numpy().astype(dtype)
                    continue
                values = column.cast(_type(name)).fill_null(False if kind == "bool" else 0)
                columns[name] = np.ascontiguousarray(values.to_numpy(), dtype=np.bool_ if kind == "bool" else kind)
        try:
            return _core.Trace.from_columns(
                columns,
                missing,
                call_sites=texts["call_site"],
                gfp_flags=texts["gfp_flags"],
                markers=sparse["marker"],
                extra_fields=sparse["extra_fields"],
                bases=bases,
                info=info,
            )
        except TraceError as error:
            raise TraceError(f"{self.path}: {error}", line=error.line, text=error.text, path=self.path) from None

    def strings(self, name: str, column: Any) -> Any:
        """Return a column of texts as strings, if all together are no longer than `_MAX_TEXT`."""
        pa = _import("pyarrow", "analysis")
        pc = _import("pyarrow.compute", "analysis")
        total = 0
        for chunk in column.chunks:
            kept = pa.types.is_dictionary(chunk.type)
            lengths = pc.binary_length(chunk.dictionary).take(chunk.indices) if kept else pc.binary_length(chunk)
            total += pc.sum(lengths).as_py() or 0
        if total > _MAX_TEXT:
            raise self.error(f"column {name!r} has texts of {total} bytes, the limit is {_MAX_TEXT}")
        return column.cast(pa.string())

    def distinct(self, name: str) -> list[Any]:
        """Return the different values of a column, in order of appearance."""
        pc = _import("pyarrow.compute", "analysis")
        found: dict[Any, None] = {}
        for batch in self.batches(columns=[name]):
            column = batch.column(0)
            with self.reading():
                values = column.dictionary if hasattr(column, "dictionary") else pc.unique(column)
                found.update(dict.fromkeys(value for value in values.to_pylist() if value is not None))
        return list(found)


def _texts(file: _File) -> dict[str, list[str]]:
    return {name: [str(text) for text in file.distinct(name)] for name in ("call_site", "gfp_flags")}


def read(path: str | os.PathLike[str], max_events: int | None) -> tuple[_core.Trace, dict[str, Any]]:
    """Return the trace of a Parquet file, and what its metadata say."""
    file = _File(path)
    limit = 1 << 26 if max_events is None else max_events
    if file.file.metadata.num_rows > limit:
        raise file.error(f"max_events={limit}: there are {file.file.metadata.num_rows}")
    with file.reading():
        table = file.file.read()
    return file.trace(table, _texts(file), [], file.info), file.facts


def read_blocks(path: str | os.PathLike[str], events: int) -> Iterator[tuple[_core.Trace, dict[str, Any], float]]:
    """Yield the trace of a Parquet file in blocks whose dictionaries agree, what its metadata say, the share read."""
    pa = _import("pyarrow", "analysis")
    file = _File(path)
    texts, bases = _texts(file), [int(base) for base in file.distinct("base_addr")]
    later = {**file.info, "skipped_lines": 0, "damaged_lines": 0, "overwritten_events": 0, "first_damage": None}
    info, done, total = file.info, 0, max(1, file.file.metadata.num_rows)
    for batch in file.batches(batch_size=events):
        done += len(batch)
        yield file.trace(pa.Table.from_batches([batch]), texts, bases, info), file.facts, done / total
        info = later
    if info is file.info:
        # No events, but perhaps lines that were counted.
        yield file.trace(file.file.schema_arrow.empty_table(), texts, bases, info), file.facts, 1.0
