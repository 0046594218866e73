"""From what each owner did to the table: rows, growth, ages, sizes, and what stays unseen."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu import _core
from percpu.answers._machine import Cpus
from percpu.follow import Follow
from percpu.results import Result
from percpu.stats import PercpuStats

__all__ = ["BEFORE", "NO_SITE", "Making"]

BEFORE = "(before the capture)"
"""Owner of what was live before the first event."""
NO_SITE = "(no call site)"
"""Owner of what the trace prints no call site for: kernels before 5.19."""
_NONE = 2**32 - 1


class Making:
    """The steps from groups to the table."""

    def __init__(
        self,
        follow: Follow,
        core: _core.Owners,
        by: str,
        cpus: Cpus,
        window: float,
        given: tuple[PercpuStats | None, PercpuStats | None],
        populated: int | None,
    ) -> None:
        self.follow, self.by, self.cpus, self.given, self.populated = follow, by, cpus, given, populated
        self.totals = follow.summary
        self.groups, self.total = core.groups(), core.total()
        self.names, self.group_of, self.course = core.names(), core.group_of(), core.course()
        self.granule = core.granule()
        self.timed = self.totals["clock"] != "counter" and self.totals["nr_events"] > 0
        self.exact = core.prior() is not None
        self.prior_bytes = int(self.groups["peak_bytes"][0])
        self.window = self._window(window)

    # -- the window ------------------------------------------------------------------

    def _window(self, share: float) -> tuple[int, int, int]:
        """Sample, event and time at which the window begins; sample -1 is the start of the capture."""
        events = self.course["event"]
        sample = int(np.searchsorted(events, self.totals["nr_events"] * (1 - share), side="right")) - 1
        if sample < 0 or sample == len(events) - 1:
            return -1, 0, self.totals["first_time_ns"]
        return sample, int(events[sample]), int(self.course["time_ns"][sample])

    def _growth(self) -> tuple[np.ndarray, float, float | None]:
        """Change of each group over the window, bytes; its events and seconds."""
        before = np.zeros(len(self.names), dtype=np.int64)
        before[0] = self.prior_bytes
        sample, event, time = self.window
        # In the order of samples: the last one of a group stays.
        early = self.course["entry_sample"].astype(np.int64) <= sample
        before[self.course["entry_group"][early]] = self.course["entry_bytes"][early]
        change = self.groups["live_bytes"].astype(np.int64) - before
        seconds = (self.totals["last_time_ns"] - time) / 1e9 if self.timed else None
        return change, self.totals["nr_events"] - event, seconds

    # -- live areas ------------------------------------------------------------------

    def _live(self) -> dict[str, Any]:
        """Group, size and age of each live area that was seen being allocated."""
        live = self.follow.live()
        keys = {
            "size": live["size_bytes"].astype(np.int64) // self.granule,
            "chunk": live["chunk"].astype(np.int64),
        }.get(self.by)
        if keys is None:
            keys = np.where(live.missing("call_site"), 0, live["call_site"].astype(np.int64) + 1)
        return {
            "group": self.group_of[keys].astype(np.int64),
            "size_bytes": live["size_bytes"].astype(np.int64),
            "age_events": live["age_events"].astype(np.int64),
            "age_ns": live["age_ns"].astype(np.int64) if self.timed else None,
        }

    def _labels(self) -> tuple[list[str], np.ndarray | None]:
        """Names of the groups, and what they stand for as numbers."""
        if self.by in ("site", "function"):
            return [BEFORE, *(name or NO_SITE for name in self.names[1:])], None
        key_of = np.zeros(len(self.names), dtype=np.int64)
        there = np.flatnonzero(self.group_of != _NONE)
        key_of[self.group_of[there]] = there
        if self.by == "size":
            sizes = (key_of * self.granule).astype(np.uint64)
            return [BEFORE, *(f"{size} bytes" for size in sizes[1:].tolist())], sizes
        bases = self.follow.chunks["base_addr"][key_of] if len(self.follow.chunks) else np.zeros(1, dtype=np.uint64)
        bases[0] = 0
        labels, seen = [BEFORE], dict.fromkeys([0], 0)
        for base in bases[1:].tolist():
            seen[base] = seen.get(base, 0) + 1
            labels.append(f"{base:#x}" + (f" ({seen[base]})" if seen[base] > 1 else ""))
        return labels, bases

    # -- what stays unseen -----------------------------------------------------------

    def _unseen(self) -> dict[str, Any]:
        t = self.totals
        live = t["live_bytes"]
        least: tuple[int, int] = (0, 0)
        most: tuple[int | None, int | None] = (None, None)
        source = None
        guess: tuple[int, int] | None = None
        if self.exact:
            guess = (int(self.groups["nr_live"][0]), int(self.groups["live_bytes"][0]))
            source, least, most = "state", guess, guess
        elif t["unseen_objects"] is not None:
            source = "stats_end" if self.given[1] is not None else "stats"
            guess = (t["unseen_objects"], t["unseen_bytes"])
            least = (t["unseen_objects"], t["unseen_min_bytes"])
            most = (t["unseen_objects"], t["unseen_max_bytes"])
        elif self.populated is not None and self.cpus.number:
            room = max(self.populated // self.cpus.number - live, 0)
            source, most = "meminfo", (room // self.granule, room)

        def share(unseen: int | None) -> float | None:
            return None if unseen is None else max(unseen, 0) / max(max(unseen, 0) + live, 1)

        return {
            "source": source,
            "objects_least": least[0],
            "objects_most": most[0],
            "bytes_least": least[1],
            "bytes_most": most[1],
            "share_least": share(least[1]),
            "share_most": share(most[1]),
            "unknown_bytes": t["unknown_bytes"] + t["held_bytes"],
            "guess": guess,
        }

    # -- the table -------------------------------------------------------------------

    def parts(self) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Columns, masks, categories and facts of `Owners`."""
        labels, numbers = self._labels()
        unseen = self._unseen()
        guess = unseen.pop("guess")
        groups = {name: values.copy() for name, values in self.groups.items()}
        before = np.zeros(len(labels), dtype=bool)
        before[0] = True
        if guess is not None:
            groups["nr_live"][0], groups["live_bytes"][0] = (max(value, 0) for value in guess)
        kept = ~before
        kept[0] = guess is not None or int(groups["nr_free"][0]) > 0
        order = np.lexsort((np.array(labels), -groups["peak_bytes"].astype(np.int64),
                            -groups["live_bytes"].astype(np.int64), before))  # fmt: skip
        order = order[kept[order]]
        row_of = np.full(len(labels), -1, dtype=np.int64)
        row_of[order] = np.arange(len(order))
        live = self._live()
        live["row"] = row_of[live.pop("group")]
        columns, mask = self._columns(groups, order, guess is not None, live)
        if numbers is not None:
            name = "size_bytes" if self.by == "size" else "base_addr"
            columns = {"owner": columns.pop("owner"), name: numbers[order]} | columns
            mask[name] = before[order]
        columns["before"] = before[order]
        categories = {"owner": [labels[group] for group in order]}
        facts = {
            "summary": self._summary(unseen, len(order) - int(kept[0])),
            "unseen": unseen,
            "follow": self.follow,
            "sizes": self._sizes(live, categories["owner"]),
            "live": live,
            "course": self.course,
            # By row: its group, -1 if its course is not known.
            "group": np.where(before[order] & (not self.exact), -1, order),
            "nr_groups": len(labels),
            "prior_bytes": self.prior_bytes,
        }
        return columns, mask, categories, facts

    def _columns(
        self, groups: dict[str, np.ndarray], order: np.ndarray, told: bool, live: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Columns by row and where they have no value; `told`: what was there before is known in bytes."""
        rows = {name: values[order] for name, values in groups.items()}
        n = len(order)
        first = order == 0
        change, events, seconds = self._growth()
        change = change[order]
        c: dict[str, Any] = {"owner": np.arange(n, dtype=np.uint32)}
        c["nr_live"], c["live_bytes"] = rows["nr_live"], rows["live_bytes"]
        if self.cpus.number is not None:
            c["all_live_bytes"] = rows["live_bytes"] * np.uint64(self.cpus.number)
        c["share_percent"] = np.round(100 * rows["live_bytes"] / max(int(rows["live_bytes"].sum()), 1), 2)
        c["peak_bytes"] = rows["peak_bytes"]
        if self.cpus.number is not None:
            c["all_peak_bytes"] = rows["peak_bytes"] * np.uint64(self.cpus.number)
        c["peak_event"], c["peak_time_ns"] = rows["peak_event"], rows["peak_time_ns"]
        c["growth_bytes_per_1000_events"] = np.round(change * 1000 / max(events, 1), 3)
        c["growth_bytes_per_second"] = np.round(change / (seconds or 1.0), 3)
        if self.cpus.number is not None:
            c["all_growth_bytes_per_second"] = np.round(change * self.cpus.number / (seconds or 1.0), 3)
        c |= _by_row(live, n)
        c |= {name: rows[name] for name in ("nr_alloc", "nr_free", "nr_atomic", "alloc_bytes")}
        c["mean_life_events"] = np.nan_to_num(np.round(rows["mean_life_events"], 3))
        c["mean_life_seconds"] = np.nan_to_num(np.round(rows["mean_life_ns"] / 1e9, 9))
        untimed = np.full(n, not self.timed)
        none = first & (not told)
        unlike = first & (not self.exact)
        idle = (rows["nr_live"] == 0) | first
        mask = dict.fromkeys(("nr_live", "live_bytes", "all_live_bytes", "share_percent"), none)
        mask |= dict.fromkeys(("peak_bytes", "all_peak_bytes", "peak_event", "growth_bytes_per_1000_events"), unlike)
        mask |= {"peak_time_ns": first | untimed}
        untold = unlike | untimed | (not seconds)
        mask |= dict.fromkeys(("growth_bytes_per_second", "all_growth_bytes_per_second"), untold)
        mask |= dict.fromkeys(("age_median_events", "age_max_events", "nr_sizes", "main_size_bytes"), idle)
        mask |= dict.fromkeys(("age_median_seconds", "age_max_seconds"), idle | untimed)
        mask |= dict.fromkeys(("nr_alloc", "nr_atomic", "alloc_bytes"), first)
        mask |= {"mean_life_events": first | (rows["nr_free"] == 0)}
        mask |= {"mean_life_seconds": first | (rows["nr_free"] == 0) | untimed}
        return c, {name: flags for name, flags in mask.items() if name in c}

    def _sizes(self, live: dict[str, Any], names: list[str]) -> Result:
        rows, sizes, counts = _census(live)
        return Result(
            {
                "owner": rows.astype(np.uint32),
                "size_bytes": sizes.astype(np.uint64),
                "nr_live": counts.astype(np.uint64),
                "live_bytes": (counts * sizes).astype(np.uint64),
            },
            categories={"owner": names},
        )

    def _summary(self, unseen: dict[str, Any], nr_owners: int) -> dict[str, Any]:
        t, cpus = self.totals, self.cpus
        change, events, seconds = self._growth()
        growth = int(change.sum())
        whole = (t["last_time_ns"] - t["first_time_ns"]) / 1e9 if self.timed else None
        return {
            "by": self.by,
            "nr_events": t["nr_events"],
            "seconds": whole,
            "cpus": cpus.number,
            "cpus_least": cpus.least,
            "cpus_most": cpus.most,
            "cpus_source": cpus.source,
            "nr_owners": nr_owners,
            "nr_live": t["nr_live"],
            "live_bytes": t["live_bytes"],
            "all_live_bytes": None if cpus.number is None else t["live_bytes"] * cpus.number,
            "peak_bytes": self.total["peak_bytes"],
            "peak_event": self.total["peak_event"],
            "growth_bytes_per_1000_events": round(growth * 1000 / max(events, 1), 3),
            "growth_bytes_per_second": round(growth / seconds, 3) if seconds else None,
            "window_first_event": self.window[1],
            "window_events": events,
            "window_seconds": seconds,
            "nr_freed_prior": t["nr_freed_prior"],
            "nr_losses": t["nr_losses"],
            "nr_lost": t["nr_lost"],
            "nr_missing_free": t["nr_missing_free"],
            "nr_illegal": t["nr_illegal"],
            "hashed": t["hashed"],
            **{f"unseen_{name}": value for name, value in unseen.items()},
        }


def _census(live: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and sizes that occur together, ascending, and how often."""
    span = int(live["size_bytes"].max(initial=0)) + 1
    keys, counts = np.unique(live["row"] * span + live["size_bytes"], return_counts=True)
    return keys // span, keys % span, counts


def _by_row(live: dict[str, Any], n: int) -> dict[str, np.ndarray]:
    """Ages and sizes of the live areas of each row."""
    row = live["row"]
    counts = np.bincount(row, minlength=n)
    ends = np.cumsum(counts)
    has = counts > 0
    out: dict[str, np.ndarray] = {}
    for unit, ages in (("events", live["age_events"]), ("seconds", live["age_ns"])):
        ages = np.zeros(len(row), dtype=np.int64) if ages is None else ages
        sorted_ages = ages[np.lexsort((ages, row))]
        middle = np.zeros(n, dtype=np.int64)
        highest = np.zeros(n, dtype=np.int64)
        middle[has] = sorted_ages[(ends - counts + (counts - 1) // 2)[has]]
        highest[has] = sorted_ages[(ends - 1)[has]]
        for name, values in (("median", middle), ("max", highest)):
            out[f"age_{name}_{unit}"] = values.astype(np.uint64) if unit == "events" else np.round(values / 1e9, 9)
    rows, sizes, number = _census(live)
    out["nr_sizes"] = np.bincount(rows, minlength=n).astype(np.uint64)
    # The last of a row, by bytes and then by size, is the one that makes up most.
    order = np.lexsort((sizes, number * sizes, rows))
    main = np.zeros(n, dtype=np.uint64)
    main[rows[order]] = sizes[order]
    out["main_size_bytes"] = main
    return out
