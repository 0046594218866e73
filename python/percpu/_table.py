"""Rows to columns: numbers with a mask where they are missing, words as categories or text."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["STATUS", "columns_of"]

STATUS = ("ok", "failed", "lost")
"""What became of a point."""


def columns_of(
    parameters: Mapping[str, Sequence[Any]], rows: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
    """Return columns, masks and categories: first the parameters, then what the rows have, in their order."""
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    columns: dict[str, np.ndarray] = {}
    mask: dict[str, np.ndarray] = {}
    given = {**parameters, **{name: [row.get(name) for row in rows] for name in names}}
    for name, values in given.items():
        if name == "status":
            columns[name] = np.array([STATUS.index(value) for value in values], dtype=np.uint8)
            continue
        missing = np.array([value is None for value in values], dtype=bool)
        columns[name] = _column(values, words=name == "error")
        if missing.any():
            mask[name] = missing
    return columns, mask, {"status": STATUS} if "status" in columns else {}


def _column(values: Sequence[Any], words: bool) -> np.ndarray:
    """An array of the narrowest kind that holds all values; where one is missing stands 0, NaN or nothing."""
    there = [value for value in values if value is not None]
    if not there and not words:
        return np.full(len(values), np.nan)
    if there and all(isinstance(value, bool) for value in there):
        return np.array([bool(value) for value in values])
    if there and all(isinstance(value, int) and not isinstance(value, bool) for value in there):
        for kind in (np.int64, np.uint64):
            if np.iinfo(kind).min <= min(there) and max(there) <= np.iinfo(kind).max:
                return np.array([0 if value is None else value for value in values], dtype=kind)
    elif there and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in there):
        with contextlib.suppress(OverflowError):
            return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    if len(there) == len(values) and all(isinstance(value, str) for value in there):
        return np.array(values, dtype=np.str_)
    texts = np.empty(len(values), dtype=object)
    texts[:] = [None if value is None else str(value) for value in values]
    return texts
