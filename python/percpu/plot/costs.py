"""Counted work: totals side by side, and its course over single operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from percpu import _core
from percpu.errors import InvalidRequest
from percpu.plot import _style
from percpu.results import Result

__all__ = ["plot_costs"]

_POINTS = 800
_BARS = 36  # bars beyond these are put beside each other in two halves
_UNITS = {name: unit for name, unit, *_ in _core.COSTS}


def plot_costs(costs: Any, counters: Sequence[str] | None = None, ax: Any = None) -> Any:
    """Draw counted work.

    Totals are bars on a logarithmic axis, a group for each counter; a comparison has a bar for each engine. More than
    36 bars are put into two panels beside each other. Counts of single operations (``costs`` of `AllocBatch`, of
    `Allocator.free_many`) are drawn over the operations instead, a panel a counter: the largest and the mean of each
    stretch.

    Parameters
    ----------
    costs : mapping, Comparison, Result or object with ``costs``
        Totals by name (`Allocator.costs`, `Replay.costs`), a result with ``cost_`` columns, or one row an operation.
        Of an object with ``costs``, those.
    counters : sequence of str, optional
        Names of `percpu.counters`; those that counted anything by default.
    ax : matplotlib.axes.Axes, optional
        Where to draw; it is divided for single operations and for many bars. A new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes; the first panel where there are several.

    Raises
    ------
    InvalidRequest
        If nothing was counted, or there is no such counter.

    Examples
    --------
    >>> import percpu as pc
    >>> a = pc.Allocator(unit_size=32 << 10, nr_units=2, engine="areamap")
    >>> batch = a.alloc_many([4, 4, 8], 8, costs=True)
    >>> ax = plot_costs(a.costs(), ["pages_populated", "page_mappings"])
    >>> [float(bar.get_width()) for bar in ax.patches]
    [5.0, 10.0]
    """
    if not isinstance(costs, Mapping) and hasattr(costs, "costs"):
        costs = costs.costs() if callable(costs.costs) else costs.costs
    if costs is None:
        raise InvalidRequest("costs: nothing was counted", parameter="costs")
    if isinstance(costs, Mapping):
        values = {name: np.array([value or 0]) for name, value in costs.items()}
        return _bars([""], _chosen(values, counters), ax)
    if not isinstance(costs, Result):
        raise TypeError(f"costs must be counts, or something that has them, not {type(costs).__name__}")
    columns = {name.removeprefix("cost_"): costs[name] for name in costs if name.startswith("cost_")}
    if columns:
        first = next(iter(costs))
        names = [str(name) for name in costs[first]]
        values = {
            name: np.where(costs.missing(f"cost_{name}"), np.nan, column.astype(float))
            for name, column in columns.items()
        }
        chosen = _chosen(values, counters)
        counted = np.any([~np.isnan(column) for column in chosen.values()], axis=0)
        names = [name for name, there in zip(names, counted, strict=True) if there]
        return _bars(names, {name: column[counted] for name, column in chosen.items()}, ax)
    return _course(_chosen({name: costs[name] for name in costs}, counters), ax)


def _chosen(values: dict[str, np.ndarray], counters: Sequence[str] | None) -> dict[str, np.ndarray]:
    if counters is None:
        chosen = {name: v for name, v in values.items() if name in _UNITS and np.nansum(v) > 0}
    else:
        for name in counters:
            if name not in values:
                raise InvalidRequest(f"counters: {name!r} is none of {', '.join(values)}", parameter="counters")
        chosen = {name: values[name] for name in counters}
    if not chosen:
        raise InvalidRequest("costs: nothing was counted", parameter="costs")
    return chosen


def _label(name: str) -> str:
    unit = _UNITS.get(name, "")
    words = name.replace("_", " ")
    return words if unit in name or not unit else f"{words}, {unit}"


def _bars(names: list[str], values: dict[str, np.ndarray], ax: Any) -> Any:
    plt = _style.pyplot()
    each = 0.16 + 0.15 * len(names)
    halves = 1 if len(names) * len(values) <= _BARS else 2
    rows = -(-len(values) // halves)
    if ax is None:
        _, ax = plt.subplots(figsize=(9.5, 1.1 + each * rows), layout="constrained")
    panels = [ax]
    if halves == 2:
        ax.axis("off")
        panels = [ax.inset_axes((0, 0, 0.42, 1)), ax.inset_axes((0.58, 0, 0.42, 1))]
    top = max(float(np.nanmax(v, initial=0)) for v in values.values())
    listed = list(values.items())
    for place, panel in enumerate(panels):
        _panel(panel, names, dict(listed[place * rows : (place + 1) * rows]), rows, max(top, 1) * 8**halves)
    if len(names) > 1:
        handles, labels = panels[0].get_legend_handles_labels()
        # Over both halves; what belongs to the first panel stays found there.
        ax.legend(handles, labels, frameon=False, fontsize=9.5, loc="lower right", bbox_to_anchor=(1, 1),
                  ncols=min(len(names), 6))  # fmt: skip
    return panels[0]


def _panel(ax: Any, names: list[str], values: dict[str, np.ndarray], rows: int, end: float) -> None:
    height = 0.8 / len(names)
    for place, name in enumerate(names):
        middle = np.arange(len(values)) - 0.4 + (place + 0.5) * height
        widths = [float(v[place]) for v in values.values()]
        ax.barh(middle, np.nan_to_num(widths), height=height * 0.9, label=name or None, **_style.bar(place))
        for y, width in zip(middle, widths, strict=True):
            text = "not counted" if np.isnan(width) else f"{width:,.0f}"
            ax.text(max(np.nan_to_num(width), 0.5) * 1.12, y, text, va="center", fontsize=9, color=_style.TEXT)
    ax.set_xscale("log")
    ax.set_xlim(0.5, end)
    ax.set_yticks(np.arange(len(values)), [_label(name) for name in values])
    ax.set_ylim(rows - 0.5, -0.5)
    ax.set_xlabel("count, logarithmic")
    ax.grid(axis="x", color=_style.GRID, linewidth=0.5)
    ax.set_axisbelow(True)
    _style.bare(ax, keep=("left",))
    ax.tick_params(labelsize=9.5)


def _course(values: dict[str, np.ndarray], ax: Any) -> Any:
    plt = _style.pyplot()
    from matplotlib.ticker import StrMethodFormatter

    if ax is None:
        _, ax = plt.subplots(figsize=(10, 0.8 + 1.15 * len(values)), layout="constrained")
    ax.axis("off")
    n = len(next(iter(values.values())))
    if n == 0:
        raise InvalidRequest("costs: there is no operation to draw", parameter="costs")
    cuts = _style.buckets(n, _POINTS)
    counts = np.diff(np.append(cuts, n))
    tall = 1 / len(values)
    first = None
    for row, (name, column) in enumerate(values.items()):
        panel = ax.inset_axes((0, 1 - (row + 1) * tall + 0.12 * tall, 1, 0.66 * tall), sharex=first)
        first = first or panel
        largest = np.maximum.reduceat(column, cuts).astype(float)
        mean = np.add.reduceat(column.astype(float), cuts) / counts
        panel.fill_between(cuts, largest, step="post", color=_style.AREA_B, alpha=0.6, linewidth=0, label="largest")
        panel.step(cuts, mean, where="post", color=_style.AREA_A, linewidth=1.2, label="mean")
        panel.set_ylim(bottom=0, top=max(float(largest.max()), 1) * 1.1)
        panel.set_xlim(0, max(n - 1, 1))
        panel.set_title(_label(name), loc="left", fontsize=9.5, color=_style.TEXT, pad=3)
        panel.set_ylabel(_UNITS.get(name, "count"), fontsize=9)
        panel.grid(axis="y", color=_style.GRID, linewidth=0.5)
        _style.bare(panel)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
        if row < len(values) - 1:
            panel.tick_params(labelbottom=False)
        else:
            panel.set_xlabel("operation")
    assert first is not None
    first.legend(frameon=False, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1)
    return first
