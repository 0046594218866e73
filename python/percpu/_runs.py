"""What the results of all replays share: totals, timeline, going to an event, differences."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu._checks import integer
from percpu.errors import InvalidRequest
from percpu.results import Result


class Run(Result):
    """Columns of what came of single requests or events, totals, and a timeline.

    A copy made by pickle has the columns, totals and timeline; it has no trace and no allocator, so that it cannot go
    to an event.
    """

    _core: Any
    _facts: dict[str, Any]

    @classmethod
    def _make(cls, core: Any, columns: Any, mask: Any, facts: dict[str, Any], categories: Any = None) -> Any:
        self = cls.__new__(cls)
        Result.__init__(self, columns, mask=mask, categories=categories, attrs=facts["summary"])
        self._core = core
        self._facts = facts
        return self

    def _living(self) -> Any:
        """Return the core object; a copy made by pickle has none."""
        if self._core is None:
            text = f"this {type(self).__name__} is a copy without its trace: replay again to go to an event"
            raise InvalidRequest(text, parameter="event")
        return self._core

    def _event(self, event: Any, least: int = 0) -> int:
        return integer("event", event, least, self._facts["summary"]["nr_events"])

    @property
    def summary(self) -> dict[str, Any]:
        """Counts; their names are in the documentation of the class."""
        return dict(self._facts["summary"])

    @property
    def timeline(self) -> Result:
        """One row a sample."""
        return self._facts["timeline"]

    def plot(self, ax: Any = None) -> Any:
        """Draw the timeline.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
        """
        from percpu.plot import plot_timeline

        return plot_timeline(self.timeline, ax, page_size=self._facts["page_size"])

    def _repr_html_(self) -> str:
        from percpu._rich import run_html

        return run_html(self)

    def __getitem__(self, key: Any) -> Any:
        """Return a column, a row, or a plain result with some of the rows."""
        if isinstance(key, str):
            return super().__getitem__(key)
        return Result(dict(self._columns), mask=self._mask, categories=self._categories, attrs=self.attrs)[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), dict(self._columns), self._mask, self._categories, self._facts)


def _rebuild(cls: type[Run], columns: Any, mask: Any, categories: Any, facts: dict[str, Any]) -> Run:
    return cls._make(None, columns, mask, facts, categories)


def diff(first: Run, second: Run, served: tuple[str, str]) -> Result:
    """Compare the placements of two replays of one trace.

    `served` names the column of each that says whether a request was served. Offsets in the unit are compared where
    both have them, else chunk and offset.
    """
    both, at, bt = np.intersect1d(first["event"], second["event"], return_indices=True)
    columns: dict[str, Any] = {"event": both}
    for name, run, rows, ok in (("first", first, at, served[0]), ("second", second, bt, served[1])):
        columns[f"{name}_ok"] = run[ok][rows]
        for field in ("chunk", "off_bytes", "unit_off_bytes"):
            if field in first and field in second:
                columns[f"{name}_{field}"] = np.where(columns[f"{name}_ok"], run[field][rows], 0)
    in_unit = "first_unit_off_bytes" in columns
    fields = ("ok", "unit_off_bytes") if in_unit else ("ok", "chunk", "off_bytes")
    differs = np.zeros(len(both), dtype=bool)
    for field in fields:
        differs |= columns[f"first_{field}"] != columns[f"second_{field}"]
    columns = {name: values[differs] for name, values in columns.items()}
    mask = {name: ~columns[f"{name.partition('_')[0]}_ok"] for name in columns if name.endswith(("chunk", "off_bytes"))}
    attrs = {
        "nr_compared": len(both),
        "nr_equal": int((~differs).sum()),
        "nr_different": int(differs.sum()),
        "nr_only_first": len(first) - len(both),
        "nr_only_second": len(second) - len(both),
        "first_event": int(both[differs][0]) if differs.any() else None,
        "compared": "unit_off_bytes" if in_unit else "chunk, off_bytes",
    }
    return Result(columns, mask={name: flags for name, flags in mask.items() if flags.any()}, attrs=attrs)
