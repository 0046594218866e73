"""Exact work counters: what requests, frees and the balance worker cost the modelled algorithm."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu import _core
from percpu.results import Result

__all__ = ["counters"]

COUNTING = ("off", "totals", "full")


def counters() -> Result:
    """List the work counters.

    Every engine counts the work of the algorithm that it reproduces: exact, repeatable, equal on every machine,
    whatever structure does the work here. ``docs/design.md`` section 6 defines each to the last unit.

    Returns
    -------
    Result
        One row a counter: ``name``, ``unit``, ``text`` (str) and ``full_only`` (bool), whether it is counted only where
        everything is (`Allocator.counting`, ``costs=True``), since it needs work of its own.

    Examples
    --------
    >>> counters().name.tolist()[:3]
    ['words_read', 'blocks_visited', 'chunks_visited']
    """
    names, units, texts, full = zip(*_core.COSTS, strict=True)
    return Result(
        {
            "name": np.array(names),
            "unit": np.array(units),
            "text": np.array(texts),
            "full_only": np.array(full, dtype=bool),
        }
    )


def totals(values: Any, *, full: bool) -> dict[str, int | None]:
    """Name the numbers of the core; None for counters that were not kept."""
    return {
        name: int(value) if full or not full_only else None
        for (name, _, _, full_only), value in zip(_core.COSTS, values, strict=True)
    }


def columns(rows: np.ndarray) -> Result:
    """Make one column a counter of the core's rows."""
    return Result({name: np.ascontiguousarray(rows[:, i]) for i, (name, *_) in enumerate(_core.COSTS)})


def spent(core: _core.Allocator, before: list[int] | None) -> dict[str, int | None] | None:
    """Return what an allocator has counted since `before`, None if it counts nothing."""
    after = core.costs()
    if before is None or after is None:
        return None
    return totals((np.array(after) - np.array(before)).tolist(), full=core.counting() == COUNTING.index("full"))
