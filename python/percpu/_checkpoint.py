"""Checkpoints of sweeps: finished points as Parquet files, one written after each point.

A directory holds ``sweep.json``, which says what sweep it is, and ``part-*.parquet``, a row a point. A part is
written under another name and renamed, so that it is there whole or not at all: a point is finished once its part is
there. Its metadata hold a hash of its rows, so that damage is seen. Every 128 parts the small ones are joined into one;
a point that stands in two of them, because the process was killed in between, is read once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from percpu.errors import StateError
from percpu.results import _import

__all__ = ["Checkpoint"]

_JOIN_FROM = 128
"""Parts that are joined: those between two multiples of it, into the one that has the next multiple as number."""


class Checkpoint:
    """Where finished points are kept.

    Parameters
    ----------
    path : path
        The directory; it is made if it is not there.
    definition : dict
        What decides the results, plain data.
    hash_ : str
        Its hash.
    parameters : dict of str to list
        Values of the points, to be written beside the results for people.

    Raises
    ------
    StateError
        If the directory holds another sweep or is damaged, or another process is writing there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        definition: Mapping[str, Any],
        hash_: str,
        parameters: Mapping[str, list[Any]],
    ) -> None:
        self._pa = _import("pyarrow", "analysis")
        self._pq = _import("pyarrow.parquet", "analysis")
        self.path = Path(path)
        self._parameters = parameters
        self._meta = {"hash": hash_, "version": definition["version"]}
        self._hash = hash_
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = self._take_lock()
        try:
            self._compare(definition)
            for torn in self.path.glob(".part-*"):
                torn.unlink(missing_ok=True)
        except BaseException:
            self.close()
            raise
        self._next = 1 + max(map(_number, self._parts()), default=0)

    def _take_lock(self) -> Any:
        lock = (self.path / "lock").open("w")
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # no such locks on this system: two sweeps at once are up to the user there
        except OSError:
            lock.close()
            raise StateError(f"{self.path}: another process is writing this checkpoint", path=str(self.path)) from None
        return lock

    def _compare(self, definition: Mapping[str, Any]) -> None:
        file = self.path / "sweep.json"
        if not file.exists():
            if self._parts():
                raise StateError(f"{self.path}: has parts but no sweep.json", path=str(file))
            self._write(file, json.dumps({"hash": self._hash, **definition}, indent=1).encode())
            return
        try:
            found = json.loads(file.read_text())
            same = found["hash"] == self._hash
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(f"{file}: cannot be read ({error})", path=str(file)) from None
        if not same:
            parts = [name for name, value in definition.items() if found.get(name) != json.loads(json.dumps(value))]
            raise StateError(
                f"{self.path}: is the checkpoint of another sweep (it differs in {', '.join(parts) or 'its hash'})",
                path=str(file),
            )

    def _write(self, file: Path, data: bytes) -> None:
        temporary = file.with_name(f".{file.name}.tmp")
        temporary.write_bytes(data)
        temporary.replace(file)

    def _parts(self) -> list[Path]:
        return sorted(part for part in self.path.glob("part-*.parquet") if part.stem[5:].isdecimal())

    def load(self) -> dict[int, dict[str, Any]]:
        """Read the finished points.

        Returns
        -------
        dict of int to dict
            Rows by point.
        """
        rows: dict[int, dict[str, Any]] = {}
        for part in self._parts():
            for row in self._read(part):
                try:
                    rows[row["point"]] = {name: row[name] for name in json.loads(row["columns"])}
                except (KeyError, TypeError, ValueError) as error:
                    raise self._damaged(part, error) from None
        return rows

    def _damaged(self, part: Path, why: object) -> StateError:
        return StateError(f"{part}: is damaged ({why})", path=str(part))

    def _read(self, part: Path) -> list[dict[str, Any]]:
        try:
            table = self._pq.ParquetFile(part).read()
            meta = json.loads((table.schema.metadata or {})[b"percpu"])
            of, told, rows = meta["hash"], meta["rows"], table.to_pylist()
        except (FileNotFoundError, PermissionError):
            raise
        except (self._pa.ArrowException, OSError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._damaged(part, error) from None
        if of != self._hash:
            raise StateError(f"{part}: is of another sweep", path=str(part))
        if told != _hash(rows):
            raise self._damaged(part, "its rows are not those that were written")
        return rows

    def add(self, number: int, row: Mapping[str, Any]) -> None:
        """Write a finished point; when this returns, it is kept.

        Parameters
        ----------
        number : int
            Which point.
        row : dict
            Its results.
        """
        told = {f"parameter {name}": values[number] for name, values in self._parameters.items()}
        # Columns in which nothing stands do not survive Parquet; so they are named.
        self._write_part([{"point": number, **told, **row, "columns": json.dumps(list(row))}])
        if self._next % _JOIN_FROM == 0:
            self._join()

    def _write_part(self, rows: list[dict[str, Any]]) -> None:
        names = list(dict.fromkeys(name for row in rows for name in row))
        columns = {name: [row.get(name) for row in rows] for name in names}
        arrays = {name: self._array(values) for name, values in columns.items()}
        table = self._pa.table(arrays)
        meta = {**self._meta, "rows": _hash(table.to_pylist())}
        table = table.replace_schema_metadata({b"percpu": json.dumps(meta).encode()})
        part = self.path / f"part-{self._next:08}.parquet"
        temporary = self.path / f".part-{self._next:08}.tmp"
        self._pq.write_table(table, temporary)
        temporary.replace(part)
        self._next += 1

    def _array(self, values: list[Any]) -> Any:
        """Values of one column; words where numbers and words are mixed, or numbers have more than 64 bits."""
        try:
            return self._pa.array(values)
        except (self._pa.ArrowInvalid, self._pa.ArrowTypeError, OverflowError):
            return self._pa.array([None if value is None else str(value) for value in values])

    def _join(self) -> None:
        """Write the rows of the small parts into one, then remove those; the joined ones before stay as they are."""
        small = [part for part in self._parts() if _number(part) > self._next - _JOIN_FROM]
        self._write_part([row for part in small for row in self._read(part)])
        for part in small:
            part.unlink()

    def close(self) -> None:
        """Let others write here."""
        with contextlib.suppress(OSError):
            self._lock.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Path]:
        return iter(self._parts())


def _number(part: Path) -> int:
    return int(part.stem[5:])


def _hash(rows: list[dict[str, Any]]) -> str:
    """Hash of rows; what is missing does not count, for it does not survive Parquet."""
    there = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return hashlib.sha256(json.dumps(there, default=repr).encode()).hexdigest()[:32]
