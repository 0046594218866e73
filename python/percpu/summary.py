"""What is in a trace, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu import _core
from percpu.results import Result

__all__ = ["TraceSummary"]


class TraceSummary(Result):
    """Events by kind, one row each; made by `Trace.summary`.

    Columns: ``kind`` (a category), ``nr_events`` (uint64), ``first_ns`` and ``last_ns`` (uint64, the earliest and the
    latest time, missing for losses and where the clock counts events), ``rate_per_second`` (float, over the span of the
    whole trace, missing likewise), ``bytes`` (uint64, for each CPU: requested by ``alloc`` and ``fail``, given back by
    ``free`` as far as its allocation was seen; else missing).

    Attributes
    ----------
    call_sites : Result
        One row a call site, most requested bytes first.
    cpus : Result
        One row a CPU.
    totals : dict
        ``nr_events``, ``first_ns``, ``last_ns``, ``span_seconds`` (None where the clock counts events), ``nr_cpus``,
        ``nr_chunks`` (named by any event), ``nr_live``, ``live_bytes``, ``peak_live_bytes`` (for each CPU, of what was
        seen being allocated), ``nr_unseen_free``, ``lost_events`` at ``nr_losses`` places, ``overwritten_events``,
        ``skipped_lines``, ``damaged_lines``, ``format``, ``clock``, ``hashed``.
    """

    call_sites: Result
    cpus: Result
    totals: dict[str, Any]

    def __init__(self) -> None:
        raise TypeError("use Trace.summary()")

    @classmethod
    def _wrap(cls, core: _core.TraceSummary) -> TraceSummary:
        self = cls.__new__(cls)
        totals = core.totals()
        timed = totals["clock"] != "counter" and totals["first_ns"] is not None
        span = (totals["last_ns"] - totals["first_ns"]) / 1e9 if timed else None
        if not timed:
            totals["first_ns"] = totals["last_ns"] = None
        sites, site_columns = core.call_sites()
        cpus, cpu_columns = core.cpus()
        totals["span_seconds"] = span
        totals["nr_cpus"] = sum(cpu is not None for cpu in cpus)

        columns = core.kinds()
        kinds = np.array([_core.EVENT_KINDS[code] for code in columns["kind"]], dtype=object)
        untimed = (kinds == "lost") | np.full(len(kinds), not timed)
        rates = np.full(len(kinds), np.nan)
        if span:
            rates = columns["nr_events"] / span
        columns["rate_per_second"] = rates
        mask = {
            "first_ns": untimed,
            "last_ns": untimed,
            "rate_per_second": untimed | np.isnan(rates),
            "bytes": ~np.isin(kinds, ["alloc", "fail", "free"]),
        }
        order = ("kind", "nr_events", "rate_per_second", "first_ns", "last_ns", "bytes")
        Result.__init__(
            self,
            {name: columns[name] for name in order},
            mask=mask,
            categories={"kind": _core.EVENT_KINDS},
            attrs=totals,
        )
        self.totals = totals
        self.call_sites = Result(
            {"call_site": np.arange(len(sites), dtype=np.uint32), **site_columns},
            mask={"call_site": np.array([site is None for site in sites], dtype=bool)},
            categories={"call_site": [site or "" for site in sites]},
            attrs=totals,
        )
        self.cpus = Result(
            {"cpu": np.array([cpu or 0 for cpu in cpus], dtype=np.uint16), **cpu_columns},
            mask={"cpu": np.array([cpu is None for cpu in cpus], dtype=bool)},
            attrs=totals,
        )
        return self

    def __getitem__(self, key: Any) -> Any:
        """Return a column, a row, or a plain result with some of the rows."""
        if isinstance(key, str):
            return super().__getitem__(key)
        return Result(dict(self._columns), mask=self._mask, categories=self._categories, attrs=self.attrs)[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (dict(self._columns), self._mask, self._categories, self.totals, self.call_sites, self.cpus)


def _rebuild(columns: Any, mask: Any, categories: Any, totals: Any, call_sites: Result, cpus: Result) -> TraceSummary:
    self = TraceSummary.__new__(TraceSummary)
    Result.__init__(self, columns, mask=mask, categories=categories, attrs=totals)
    self.totals, self.call_sites, self.cpus = totals, call_sites, cpus
    return self
