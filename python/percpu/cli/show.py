"""How results reach people and programs: tables, JSON, pictures.

Tables are drawn by `rich` where it is installed, else as plain columns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from percpu.errors import InvalidRequest
from percpu.results import Result

__all__ = ["plain", "save_picture", "show", "table"]


def plain(value: Any) -> Any:
    """Return what JSON can hold."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Result):
        return [plain(row) for row in value.rows()]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def show(arguments: argparse.Namespace, value: Any) -> None:
    """Print a result: JSON if asked for, else a table."""
    if arguments.json:
        print(json.dumps(plain(value)))
    elif isinstance(value, str):
        print(value, end="" if value.endswith("\n") else "\n")
    elif isinstance(value, Result):
        table(value.keys(), [list(row.values()) for row in value.rows()])
    else:
        table(("", ""), list(value.items()))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows below their head; columns of numbers are aligned to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    numbers = (int, float, np.number, type(None))
    right = [bool(rows) and all(isinstance(row[i], numbers) for row in rows) for i in range(len(head))]
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(head)]
        for row in [list(head), *cells] if any(head) else cells:
            parts = (f"{c:>{w}}" if r else f"{c:<{w}}" for c, w, r in zip(row, widths, right, strict=True))
            print("  ".join(parts).rstrip())
        return
    table = Table(box=box.SIMPLE_HEAD, show_header=any(head), pad_edge=False)
    for name, to_right in zip(head, right, strict=True):
        table.add_column(name, justify="right" if to_right else "left", no_wrap=True)
    for row in cells:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        # Nothing is cut that goes into a pipe or a file.
        console.width = 10_000
    console.print(table)


def save_picture(ax: Any, path: Path) -> None:
    """Write the figure that holds some axes, making the directory if need be."""
    forms = ax.figure.canvas.get_supported_filetypes()
    if path.suffix and path.suffix[1:].lower() not in forms:
        text = f"{path}: must end in one of {', '.join('.' + form for form in sorted(forms))}"
        raise InvalidRequest(text, parameter="plot")
    path.parent.mkdir(parents=True, exist_ok=True)
    ax.figure.savefig(path, dpi=120)
