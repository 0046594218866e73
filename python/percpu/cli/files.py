"""Results into files, by the ending of the name; texts from standard input."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from percpu.cli.show import plain
from percpu.errors import InvalidRequest
from percpu.results import Result, _import
from percpu.stats import text_of

__all__ = ["add_out", "read_input", "writer"]


def add_out(parser: Any) -> None:
    """Add ``-o``."""
    parser.add_argument("-o", "--out", metavar="FILE", help="write all rows of the table: .csv, .json or .parquet")


def read_input() -> str:
    """Read a text from standard input: plain or gzip, whatever its bytes are."""
    return text_of(sys.stdin.buffer, "standard input")  # type: ignore[arg-type]


def writer(name: str | None) -> Callable[[Result], Any]:
    """Return what writes a result into a file of this name; nothing without one.

    The name is judged at once, before any work.
    """
    if name is None:
        return lambda _: None
    path = Path(name)
    kinds = {".csv": _csv, ".json": _json, ".parquet": _parquet}
    if path.suffix not in kinds:
        raise InvalidRequest(f"--out {name}: must end in .csv, .json or .parquet", parameter="out")

    def write(result: Result) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kinds[path.suffix](result, path)

    return write


def _csv(result: Result, path: Path) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(result.keys())
        rows.writerows(row.values() for row in result.rows())


def _json(result: Result, path: Path) -> None:
    path.write_text(json.dumps(plain(result)) + "\n")


def _parquet(result: Result, path: Path) -> None:
    _import("pyarrow.parquet", "analysis").write_table(result.to_arrow(), path)
