"""Shapes against shapes: the model's counted work beside the published milliseconds."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu.errors import NotKept
from percpu.published.tables import CONTRIVED_SECONDS, fill_levels, plain
from percpu.results import Result

# Objects of a published batch.
PUBLISHED_N = 1 << 20
# Counters that explain time, per engine: those of other work are 0 there or move in step with one of these.
EXPLAINS = {
    "areamap": ("entries_moved", "chunks_visited", "cleared_bytes", "pages_populated"),
    "rfc-v1": ("words_read", "blocks_visited", "cleared_bytes", "pages_populated"),
    "linux-4.14": ("words_read", "blocks_visited", "cleared_bytes", "pages_populated"),
}
# The bitmap's work: words of maps read, block records looked at.
_BITMAP_WORK = ("words_read", "blocks_visited")


def rows_of(measured: Result, **fixed: Any) -> Result:
    """Rows with given values.

    Parameters
    ----------
    measured : Result
        Of `measure`.
    **fixed : scalar
        Values by column.

    Returns
    -------
    Result

    Examples
    --------
    >>> rows_of(Result({"a": [1, 2, 2]}), a=2)
    Result(2 rows: a)
    """
    keep = np.ones(len(measured), dtype=bool)
    for name, value in fixed.items():
        keep &= measured[name] == value
    return measured[keep]


def is_counted(measured: Result, engine: str) -> bool:
    """Whether an engine counted its work.

    Parameters
    ----------
    measured : Result
        Of `measure`.
    engine : str
        Which one.

    Returns
    -------
    bool

    Examples
    --------
    >>> is_counted(Result({"engine": ["areamap"]}), "areamap")
    False
    """
    rows = rows_of(measured, engine=engine)
    return "cost_words_read" in rows and len(rows) > 0 and not rows.missing("cost_words_read").any()


def _count(measured: Result, *counters: str, **fixed: Any) -> float:
    """Return the sum of counters, NaN if the engine does not count."""
    rows = rows_of(measured, **fixed)
    if not len(rows):
        raise LookupError(f"nothing measured for {fixed}")
    if not is_counted(measured, fixed["engine"]):
        return float("nan")
    return float(sum(int(rows[f"cost_{counter}"].sum()) for counter in counters))


def _full_chunks(measured: Result, unit_size: int, first_bytes: int) -> float:
    """Half the square of the objects of 4 bytes in each chunk, summed."""
    left = int(rows_of(measured, test="plain", size_bytes=4).n[0])
    held = [min(left, first_bytes // 4)]
    left -= held[0]
    while left:
        held.append(min(left, unit_size // 4))
        left -= held[-1]
    return sum(k * k / 2 for k in held)


def judge(measured: Result, unit_size: int = 524_288, first_bytes: int = 28_672) -> Result:
    """Judge the model by the shapes of the published times.

    Parameters
    ----------
    measured : Result
        Of `measure`, with every case at 4 bytes and the plain ones of all sizes.
    unit_size, first_bytes : int, optional
        Of the machine: bytes of a unit, and bytes free in the first chunk.

    Returns
    -------
    Result
        One row a criterion: ``criterion`` (str), ``published``, ``model``, ``low``, ``high`` (float64; ratios),
        ``ok`` (bool: the model lies between). Where an engine does not count its work the model is NaN.
    """
    rows: list[tuple[str, float, float, float, float]] = []

    def moved(phase: str, order: str = "in-order", level: int = 0) -> float:
        test = "fill level" if level else "plain"
        fixed = {"engine": "areamap", "test": test, "size_bytes": 4, "order": order, "level": level, "phase": phase}
        return _count(measured, "entries_moved", **fixed)

    logs = plain()
    logs = logs[(logs.log == "v2 log 3") & (logs.size_bytes == 4) & (logs.engine == "areamap")]
    ms = {row["order"]: row["free_ms"] for row in logs.rows()}
    base = ms["reverse"]  # what a free costs that moves nothing
    fill = fill_levels()
    fill = fill[(fill.size_bytes == 4) & (fill.engine == "areamap")]
    levels = {(row["test"], row["level"]): row for row in fill.rows()}

    def over_base(test: int, level: int, phase: str) -> float:
        return levels[test, level][f"{phase}_ms"] - base

    expected = _full_chunks(measured, unit_size, first_bytes)
    rows += [
        ("1a area map, free in order: entries moved / (n^2/2 a chunk)", np.nan, moved("free") / expected, 0.9, 1.1),
        (
            "1b area map, free in reverse / in order, moved",
            ms["reverse"] / ms["in-order"],
            moved("free", "reverse") / moved("free"),
            0,
            0.02,
        ),
        (
            "2 area map, free alternate / in order, moved",
            ms["alternate"] / ms["in-order"],
            moved("free", "alternate") / moved("free"),
            0.45,
            0.55,
        ),
    ]
    bitmap = plain()
    bitmap = bitmap[(bitmap.log == "v2 log 3") & (bitmap.engine == "linux-4.14")]
    for size in (4, 16, 64, 256, 1024):
        fixed = {"engine": "linux-4.14", "test": "plain", "size_bytes": size, "phase": "free"}
        work = [_count(measured, *_BITMAP_WORK, order=order, **fixed) for order in ("in-order", "alternate", "reverse")]
        times = bitmap.free_ms[bitmap.size_bytes == size]
        text = f"3 bitmap, {size} bytes: most / least work of a free, three orders"
        rows.append((text, times.max() / times.min(), max(work) / min(work), 1, 2))
    rows += [
        (
            "4 test 5, level 2: alloc 2 / free 1, moved",
            levels[5, 2]["alloc_2_ms"] / levels[5, 2]["free_1_ms"],
            moved("alloc 2", level=2) / moved("free 1", level=2),
            0.5,
            1.5,
        ),
        (
            "5a test 5, level 2: free 2 / free 1, moved",
            over_base(5, 2, "free_2") / over_base(5, 2, "free_1"),
            moved("free 2", level=2) / moved("free 1", level=2),
            0.4,
            0.6,
        ),
        (
            "5b test 5, level 4: free 2 / free 1, moved",
            over_base(5, 4, "free_2") / over_base(5, 4, "free_1"),
            moved("free 2", level=4) / moved("free 1", level=4),
            1.0,
            1.25,
        ),
        (
            "5c free 1 reverse / in order, level 2, moved",
            over_base(6, 2, "free_1") / over_base(5, 2, "free_1"),
            moved("free 1", "reverse", 2) / moved("free 1", level=2),
            0.4,
            0.6,
        ),
        (
            "5d free 1 reverse / in order, level 4, moved",
            over_base(6, 4, "free_1") / over_base(5, 4, "free_1"),
            moved("free 1", "reverse", 4) / moved("free 1", level=4),
            0.3,
            0.45,
        ),
    ]
    contrived = {"test": "4 at 8", "phase": "alloc"}
    rows.append(
        (
            "6 4 bytes at 8: entries the area map scans / words and blocks of the bitmap",
            CONTRIVED_SECONDS["areamap"] / CONTRIVED_SECONDS["linux-4.14"],
            _count(measured, "entries_scanned", engine="areamap", **contrived)
            / _count(measured, *_BITMAP_WORK, engine="linux-4.14", **contrived),
            100,
            np.inf,
        )
    )
    text, published, model, low, high = zip(*rows, strict=True)
    columns = {"criterion": np.array(text)}
    numbers = {"published": published, "model": model, "low": low, "high": high}
    columns |= {name: np.array(values, float) for name, values in numbers.items()}
    columns["ok"] = (columns["low"] <= columns["model"]) & (columns["model"] <= columns["high"])
    return Result(columns)


def _positive_fit(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Least squares without negative weights; relative errors count, so rows are divided by their value."""
    a, b = a / b[:, None], np.ones(len(b))
    active = list(range(a.shape[1]))
    weights = np.zeros(a.shape[1])
    while active:
        found = np.linalg.lstsq(a[:, active], b, rcond=None)[0]
        if (found >= 0).all():
            weights[active] = found
            break
        active.pop(int(np.argmin(found)))
    return weights


def pairs(measured: Result, log: str, engine: str) -> list[tuple[dict[str, Any], float, dict[str, Any]]]:
    """Published times and what was counted for them.

    Parameters
    ----------
    measured : Result
        Of `measure`.
    log : str
        Of `plain`; with ``v2 log 3`` the fill levels as well.
    engine : str
        Which one.

    Returns
    -------
    list of (dict, float, dict)
        The published row, milliseconds, the measured row.
    """
    found = []
    for row in rows_of(plain(), log=log, engine=engine).rows():
        for phase in ("alloc", "free"):
            fixed = {"test": "plain", "engine": engine, "size_bytes": row["size_bytes"], "order": row["order"]}
            for counted in rows_of(measured, phase=phase, **fixed).rows():
                found.append((row | {"phase": phase}, row[f"{phase}_ms"], counted))
    if log == "v2 log 3":
        for row in rows_of(fill_levels(), engine=engine).rows():
            order = {5: "in-order", 6: "reverse"}[row["test"]]
            for phase in ("alloc 1", "alloc 2", "free 1", "free 2"):
                fixed = {"test": "fill level", "engine": engine, "size_bytes": row["size_bytes"], "order": order}
                for counted in rows_of(measured, phase=phase, level=row["level"], **fixed).rows():
                    found.append(
                        (row | {"phase": phase, "order": order}, row[f"{phase.replace(' ', '_')}_ms"], counted)
                    )
    return found


def explain(measured: Result, log: str, engine: str) -> tuple[Result, Result]:
    """Explain published milliseconds by counted work.

    A time for each request, for each free, and for each unit of the counters that matter in this engine is fitted to
    all rows of a log at once (least squares of relative errors, no weight below 0).

    Parameters
    ----------
    measured : Result
        Of `measure`.
    log : str
        Of `plain`; with ``v2 log 3`` the fill levels as well.
    engine : str
        Which one.

    Returns
    -------
    weights : Result
        ``work`` (str), ``each_ns`` (float64).
    rows : Result
        ``test``, ``phase``, ``order`` (str), ``size_bytes``, ``level`` (int64), ``published_ms``, ``explained_ms``
        (float64).

    Raises
    ------
    NotKept
        If the engine does not count its work.
    """
    found = pairs(measured, log, engine)
    counters = EXPLAINS[engine]
    if not is_counted(measured, engine):
        raise NotKept(f"engine {engine} does not count its work", field="costs", engine=engine)
    # Of as many objects as were published.
    work = np.array(
        [
            np.array([c["nr_alloc"], c["nr_free"], *(c[f"cost_{name}"] for name in counters)]) * (PUBLISHED_N / c["n"])
            for _, _, c in found
        ]
    )
    ms = np.array([ms for _, ms, _ in found])
    weights = _positive_fit(work, ms)
    explained = work @ weights
    shown = Result({"work": np.array(["request", "free", *counters]), "each_ns": weights * 1e6})
    rows = Result(
        {
            "test": np.array([c["test"] for _, _, c in found]),
            "phase": np.array([p["phase"] for p, _, _ in found]),
            "order": np.array([p["order"] for p, _, _ in found]),
            "size_bytes": np.array([p["size_bytes"] for p, _, _ in found]),
            "level": np.array([p.get("level", 0) for p, _, _ in found]),
            "published_ms": ms,
            "explained_ms": explained,
        }
    )
    return shown, rows
