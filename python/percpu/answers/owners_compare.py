"""Two captures compared: which owners are new, gone, grown."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu.answers.owners import Owners
from percpu.errors import InvalidRequest
from percpu.results import Result

__all__ = ["OwnersComparison", "compare_owners"]

_CHANGES = ("new", "gone", "grown", "shrunk", "same")


class OwnersComparison(Result):
    """One row an owner of either capture, the largest change first; made by `compare_owners`.

    Bytes are of one CPU. Columns: ``owner`` and ``change`` (categories; ``new`` and ``gone``: the other capture does
    not show it at all; else by live bytes ``grown``, ``shrunk``, ``same``), ``change_nr_live``, ``change_bytes``
    (int64), ``all_change_bytes`` (times the CPUs of each, where both are known), and of each capture (``before_``,
    ``after_``; missing where it does not show the owner) ``nr_live``, ``live_bytes``, ``peak_bytes``, ``nr_alloc``
    (uint64), ``nr_alloc_per_1000_events``, ``growth_bytes_per_second`` (float64).

    Attributes
    ----------
    attrs : dict
        ``by``; of each capture ``before_`` and ``after_nr_events``, ``..._seconds``, ``..._cpus``, ``..._live_bytes``;
        counts of owners by change: ``nr_new``, ``nr_gone``, ``nr_grown``, ``nr_shrunk``, ``nr_same``.
    """

    def __init__(self) -> None:
        raise TypeError("use compare_owners(before, after)")

    @classmethod
    def _wrap(cls, columns: Any, mask: Any, categories: Any, attrs: Any) -> OwnersComparison:
        self = cls.__new__(cls)
        mask = {name: flags for name, flags in mask.items() if flags.any()}
        Result.__init__(self, columns, mask=mask, categories=categories, attrs=attrs)
        return self

    def __getitem__(self, key: Any) -> Any:
        """Return a column, a row, or a plain result with some of the rows."""
        if isinstance(key, str):
            return super().__getitem__(key)
        return Result(dict(self._columns), mask=self._mask, categories=self._categories, attrs=self.attrs)[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnersComparison._wrap, (dict(self._columns), self._mask, self._categories, self.attrs)

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.attrs[f'nr_{name}']} {name}" for name in _CHANGES)
        return f"OwnersComparison({len(self)} by {self.attrs['by']}: {counts})"


def compare_owners(before: Owners, after: Owners) -> OwnersComparison:
    """Compare what two captures show, owner by owner.

    Parameters
    ----------
    before, after : Owners
        Grouped by the same. What a capture shows being allocated begins with nothing, so two captures compare best if
        they are of equal length; rates and counts for 1000 events are given too.

    Returns
    -------
    OwnersComparison
        One row an owner, the largest change first.

    Raises
    ------
    InvalidRequest
        If they are grouped by different things, or chunks are to be compared of which only one capture has addresses.

    Notes
    -----
    Where one of the captures prints call sites without the size of the function, as perf does, they are compared
    without. Two builds of a kernel have functions in common, not call sites: ``by="function"``.

    Examples
    --------
    >>> from importlib.resources import files
    >>> import percpu as pc
    >>> trace = pc.read_trace(files("percpu") / "data/demo/workload/trace.txt.gz")
    >>> half = len(trace) // 2
    >>> change = pc.compare_owners(pc.owners(trace[:half]), pc.owners(trace))
    >>> change
    OwnersComparison(1 by site: 0 new, 0 gone, 0 grown, 1 shrunk, 0 same)
    """
    for name, value in (("before", before), ("after", after)):
        if not isinstance(value, Owners):
            raise TypeError(f"{name} must be an Owners, not {type(value).__name__}")
    first, second = before.summary, after.summary
    if first["by"] != second["by"]:
        raise InvalidRequest(f"after: by {second['by']}, and before by {first['by']}", parameter="after")
    if first["by"] == "chunk" and first["hashed"] != second["hashed"]:
        raise InvalidRequest("after: chunks are hashed in one of the captures only", parameter="after")
    whole = all("/0x" in name for side in (before, after) for name in _names(side) if "+0x" in name)
    keys = [_keys(side, whole or first["by"] != "site") for side in (before, after)]
    names = dict(zip(keys[0], _names(before), strict=True))
    # The fuller name of the two.
    for key, name in zip(keys[1], _names(after), strict=True):
        names[key] = max(names.get(key, ""), name, key=len)
    rows = [{key: row for row, key in enumerate(side)} for side in keys]
    place = [np.array([side.get(key, -1) for key in names], dtype=np.int64) for side in rows]
    columns: dict[str, Any] = {}
    mask: dict[str, np.ndarray] = {}
    for word, side, at in (("before", before, place[0]), ("after", after, place[1])):
        found = _side(side, at)
        columns |= {f"{word}_{name}": values for name, (values, _) in found.items()}
        mask |= {f"{word}_{name}": missing for name, (_, missing) in found.items()}
    result = _changes(columns, mask, place, (first["cpus"], second["cpus"]))
    order = np.lexsort((np.array(list(names)), -np.abs(result["change_bytes"])))
    labels = [list(names.values())[row] for row in order]
    table = {"owner": np.arange(len(order), dtype=np.uint32)}
    table |= {name: values[order] for name, values in result.items()}
    table |= {name: values[order] for name, values in columns.items()}
    attrs: dict[str, Any] = {"by": first["by"]}
    for word, facts in (("before", first), ("after", second)):
        attrs |= {f"{word}_{name}": facts[name] for name in ("nr_events", "seconds", "cpus", "live_bytes")}
    attrs |= {f"nr_{name}": int((result["change"] == code).sum()) for code, name in enumerate(_CHANGES)}
    return OwnersComparison._wrap(
        table,
        {name: flags[order] for name, flags in mask.items()},
        {"owner": labels, "change": _CHANGES},
        attrs,
    )


def _seen(side: Owners) -> np.ndarray:
    """Rows to be compared: not what was there before, of which no capture shows the owner."""
    return np.flatnonzero(~side.before)


def _names(side: Owners) -> list[str]:
    names = side._categories["owner"]
    return [names[side["owner"][row]] for row in _seen(side)]


def _keys(side: Owners, whole: bool) -> list[str]:
    """By row: what the owner is recognised by in the other capture."""
    keys: dict[str, None] = {}
    for name in _names(side):
        key = name if whole else name.partition("/0x")[0].partition(" [")[0]
        again = 2
        while key in keys:
            key, again = f"{key} #{again}", again + 1
        keys[key] = None
    return list(keys)


def _side(side: Owners, at: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Columns of one capture in the common rows, and where they are missing."""
    absent = at < 0
    rows = _seen(side)[np.maximum(at, 0)] if len(_seen(side)) else np.zeros(len(at), dtype=np.int64)

    def column(name: str) -> tuple[np.ndarray, np.ndarray]:
        if not len(_seen(side)):
            return np.zeros(len(at), dtype=side[name].dtype), absent
        return np.where(absent, 0, side[name][rows]).astype(side[name].dtype), absent | side.missing(name)[rows]

    found = {name: column(name) for name in ("nr_live", "live_bytes", "peak_bytes", "nr_alloc")}
    rate = np.round(found["nr_alloc"][0] * 1000 / max(side.summary["nr_events"], 1), 3)
    found["nr_alloc_per_1000_events"] = (rate, absent)
    found["growth_bytes_per_second"] = column("growth_bytes_per_second")
    return found


def _changes(
    columns: dict[str, Any], mask: dict[str, Any], place: list[np.ndarray], cpus: tuple[int | None, int | None]
) -> dict[str, Any]:
    """Signed differences, and the word for each."""
    live = [columns[f"{word}_live_bytes"].astype(np.int64) for word in ("before", "after")]
    count = [columns[f"{word}_nr_live"].astype(np.int64) for word in ("before", "after")]
    change = live[1] - live[0]
    word = np.select([place[0] < 0, place[1] < 0, change > 0, change < 0], [0, 1, 2, 3], 4).astype(np.uint8)
    out = {"change": word, "change_nr_live": count[1] - count[0], "change_bytes": change}
    if cpus[0] is not None and cpus[1] is not None:
        out["all_change_bytes"] = live[1] * cpus[1] - live[0] * cpus[0]
    return out
