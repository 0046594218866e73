"""Owners in words, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["SORTS", "duration", "head", "lines", "order", "report", "rows"]

SORTS = {"live": "live_bytes", "peak": "peak_bytes", "growth": "growth_bytes_per_1000_events", "requests": "nr_alloc"}
"""What rows can be sorted by, and the column."""

_TOP = 10
_SIZES = 3


def number(value: int | None) -> str:
    """Return a number with separators."""
    return "?" if value is None else f"{value:,}"


def areas(count: int) -> str:
    """Return a number of areas in words."""
    return f"{count:,} area{'' if count == 1 else 's'}"


def duration(seconds: float | None) -> str:
    """Write a time as people do.

    Examples
    --------
    >>> duration(0.0042), duration(3.21), duration(754), duration(190_000), duration(None)
    ('4.2 ms', '3.2 s', '12.6 min', '2.2 d', '-')
    """
    if seconds is None:
        return "-"
    for limit, unit, factor in ((0.1, "ms", 1e-3), (100, "s", 1), (6000, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / factor:.1f} {unit}"
    return f"{seconds / 86_400:.1f} d"


def signed(value: float) -> str:
    """Return a number with its sign and three digits, or all digits of a large one.

    Examples
    --------
    >>> signed(0), signed(12.345), signed(-98765.4)
    ('0', '+12.3', '-98,765')
    """
    if round(value, 3) == 0:
        return "0"
    return f"{value:+,.0f}" if abs(value) >= 100 else f"{value:+.3g}"


def head(owners: Any) -> list[str]:
    """Return the names of the columns of `rows`."""
    growth = "growth/s" if owners.summary["window_seconds"] else "growth/1000"
    return ["owner", "live", "bytes", "all CPUs", "%", "peak", growth, "age", "oldest", "sizes"]


def order(owners: Any, sort: str = "live") -> np.ndarray:
    """Return the rows in another order, the largest first and what was there before last."""
    values = owners[SORTS[sort]].astype(np.float64)
    return np.lexsort((np.arange(len(owners)), -values, owners.before))


def rows(owners: Any, top: int | None = None, sort: str = "live") -> list[list[Any]]:
    """Return the table for people, cells by row: the first `top` owners, and what was there before."""
    s = owners.summary
    timed, cpus = s["window_seconds"], s["cpus"]
    sizes = _sizes_by_owner(owners)
    named = s["nr_owners"]
    known = [index for index in range(named, len(owners)) if not owners.missing("live_bytes")[index]]
    out = []
    for index in [*order(owners, sort)[:named][:top].tolist(), *known]:
        row = owners.row(index)
        rate = row["growth_bytes_per_second" if timed else "growth_bytes_per_1000_events"]
        ages = [row[f"age_{name}_{'seconds' if timed else 'events'}"] for name in ("median", "max")]
        out.append(
            [
                row["owner"],
                row["nr_live"],
                row["live_bytes"],
                None if cpus is None else row["all_live_bytes"],
                None if row["share_percent"] is None else f"{row['share_percent']:.1f}",
                row["peak_bytes"],
                "-" if rate is None else signed(rate),
                *(number(age) if not timed and age is not None else duration(age) for age in ages),
                sizes.get(index, "-"),
            ]
        )
    return out


def _sizes_by_owner(owners: Any) -> dict[int, str]:
    """Sizes of each owner that make up most of its bytes, as ``64 x 12``."""
    sizes = owners.sizes
    order = np.lexsort((-sizes.live_bytes.astype(np.int64), sizes.owner))
    found: dict[int, list[str]] = {}
    for place in order:
        found.setdefault(int(sizes.owner[place]), []).append(f"{sizes.size_bytes[place]} x {sizes.nr_live[place]:,}")
    more = {row: len(texts) - _SIZES for row, texts in found.items()}
    return {
        row: ", ".join(texts[:_SIZES]) + (f" and {more[row]} more" if more[row] > 0 else "")
        for row, texts in found.items()
    }


def lines(owners: Any) -> list[str]:
    """Return what is to be said beside the table, a sentence or two a line."""
    return [*_head(owners.summary), *_unseen(owners.summary, owners.unseen), *_notes(owners.summary)]


def _on_all(size: int | None, cpus: int | None) -> str:
    return "" if cpus is None or size is None else f", {size * cpus:,} on all"


def _head(s: dict[str, Any]) -> Iterator[str]:
    time = "" if s["seconds"] is None else f" in {duration(s['seconds'])}"
    plural = "" if s["cpus"] == 1 else "s"
    cpus = "The number of possible CPUs is" if s["cpus"] is None else f"{s['cpus']} possible CPU{plural}:"
    yield f"{s['nr_events']:,} event{'' if s['nr_events'] == 1 else 's'}{time}. {cpus} {s['cpus_source']}."
    with_before = ", with what was there before" if s["unseen_source"] == "state" else ""
    yield (
        f"Live at the end and seen being allocated: {areas(s['nr_live'])}, {s['live_bytes']:,} bytes on each CPU"
        f"{_on_all(s['live_bytes'], s['cpus'])}. Most at any time{with_before}: {s['peak_bytes']:,} bytes, at event "
        f"{s['peak_event']:,}."
    )
    rate = s["growth_bytes_per_second"]
    by_time = "" if rate is None else f"{signed(rate)} bytes/s, "
    window = "" if s["window_seconds"] is None else f" ({duration(s['window_seconds'])})"
    yield (
        f"Growth over the last {s['window_events']:,} event{'' if s['window_events'] == 1 else 's'}{window}: {by_time}"
        f"{signed(s['growth_bytes_per_1000_events'])} bytes per 1,000 events, on each CPU."
    )


def _unseen(s: dict[str, Any], u: dict[str, Any]) -> Iterator[str]:
    least, most = u["bytes_least"], u["bytes_most"]
    if u["source"] is None:
        yield (
            "What was live before the capture and still is cannot be seen, and nothing tells how much it is: "
            "percpu_stats of the end (best) or of the start, Percpu: of /proc/meminfo, or a start state would."
        )
        yield (
            f"Of the chunks that the capture names {u['unknown_bytes']:,} bytes on each CPU are neither seen nor known "
            "to be free; it does not name every chunk."
        )
        return
    if u["source"] == "meminfo":
        yield (
            f"Not seen being allocated: at most {most:,} bytes on each CPU{_on_all(most, s['cpus'])}, "
            f"{u['share_most']:.1%} of what is live, the static region and empty pages included: by Percpu: of meminfo."
        )
        return
    if u["objects_least"] < 0 or most < 0:
        yield (
            f"The statistics count {-u['objects_least']:,} areas less than are live here: they are of another moment "
            "or machine, or frees are missing in the capture."
        )
        return
    if least == most:
        size, share = f"{least:,} bytes on each CPU{_on_all(least, s['cpus'])}", f"{u['share_least']:.1%}"
    else:
        size = f"{max(least, 0):,} to {most:,} bytes on each CPU"
        share = f"{u['share_least']:.1%} to {u['share_most']:.1%}"
    how = {
        "state": "The start state shows them, not whose they are.",
        "stats_end": "By the statistics of the end.",
        "stats": "By the statistics of the start, less what was freed since.",
    }[u["source"]]
    yield f"Not seen being allocated: {areas(u['objects_least'])}, {size}: {share} of what is live. {how}"


def _notes(s: dict[str, Any]) -> Iterator[str]:
    if s["cpus_least"] != s["cpus_most"] and s["cpus"] is not None:
        yield f"If that is wrong, give the number: it is {s['cpus_least']} to {number(s['cpus_most'])}."
    if s["nr_losses"]:
        yield (
            f"The capture lost events in {s['nr_losses']:,} places ({number(s['nr_lost'])} by its own count): what was "
            "freed there still counts as live."
        )
    if s["nr_missing_free"]:
        yield f"{s['nr_missing_free']:,} areas were handed out again without a free in the capture."
    if s["nr_illegal"]:
        yield f"{s['nr_illegal']:,} events are none that a kernel can have written there: is it one capture, in order?"


def report(owners: Any) -> str:
    """Return everything as one text."""
    cells = [[_cell(value) for value in row] for row in rows(owners, _TOP)]
    names = head(owners)
    widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(names)]
    left = (0, len(names) - 1)
    out = lines(owners)
    for row in [names, *cells]:
        parts = [f"{c:<{w}}" if i in left else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        out.append("  ".join(parts).rstrip())
    hidden = owners.summary["nr_owners"] - _TOP
    if hidden > 0:
        out.append(f"and {hidden:,} more")
    return "\n".join(out)


def _cell(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:,}"
