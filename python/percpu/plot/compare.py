"""Engines side by side: a panel a figure, a bar an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from percpu.errors import InvalidRequest
from percpu.plot import _style

__all__ = ["plot_comparison"]

_DEFAULT = (
    "peak_memory_bytes",
    "end_memory_bytes",
    "nr_max_chunks",
    "peak_metadata_per_object_bytes",
    "end_fragmentation",
)
_ACROSS = 3  # panels side by side: more would leave no room for text
_TITLES = {
    "peak_memory_bytes": "memory at the peak",
    "end_memory_bytes": "memory at the end",
    "nr_max_chunks": "most chunks",
    "peak_metadata_per_object_bytes": "metadata per object",
    "end_fragmentation": "free share at the end",
    "alloc_ns": "time of requests",
    "free_ns": "time of frees",
}


def plot_comparison(comparison: Any, columns: Sequence[str] | None = None, ax: Any = None) -> Any:
    """Draw figures of a comparison, each in a panel of its own with its own scale from 0.

    Parameters
    ----------
    comparison : Comparison or Result
        The first column names the rows.
    columns : sequence of str, optional
        Which figures; memory, chunks and metadata by default.
    ax : matplotlib.axes.Axes, optional
        Where to draw; it is divided. A new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The first panel.

    Raises
    ------
    KeyError
        If there is no such column.
    InvalidRequest
        If a column holds no numbers.
    """
    _style.needs("comparison", comparison, "a Comparison or Result", "missing")
    plt = _style.pyplot()
    names = [str(name) for name in np.asarray(comparison[next(iter(comparison))])]
    if isinstance(columns, str):
        raise TypeError(f"columns must be a list of names, not the text {columns!r}")
    shown = [name for name in _DEFAULT if name in comparison] if columns is None else list(columns)
    for column in shown:
        if comparison[column].dtype.kind not in "biuf":
            raise InvalidRequest(f"columns: {column!r} holds no numbers", parameter="columns")
    across = min(max(len(shown), 1), _ACROSS)
    down = -(-len(shown) // across) or 1
    if ax is None:
        size = (1.6 + 2.6 * across, (0.75 + 0.32 * len(names)) * down)
        _, ax = plt.subplots(figsize=size, layout="constrained")
    ax.axis("off")
    width, height = 1 / across, 1 / down
    panels = []
    for place, column in enumerate(shown):
        line, slot = divmod(place, across)
        panel = ax.inset_axes((slot * width + 0.01, 1 - (line + 1) * height, width - 0.03, 0.82 * height))
        values = np.where(comparison.missing(column), np.nan, np.asarray(comparison[column], dtype=float))
        rows = np.arange(len(names))
        panel.barh(rows, np.nan_to_num(values), color=_style.AREA_B, height=0.62)
        top = float(np.nanmax(values, initial=0.0)) or 1.0
        for row, value in zip(rows, values, strict=True):
            text = "–" if np.isnan(value) else _text(column, value)
            panel.text(
                max(np.nan_to_num(value), 0) + top * 0.03, row, text, va="center", fontsize=10, color=_style.TEXT
            )
        panel.set_xlim(0, top * 1.6)
        panel.set_xticks([])
        panel.set_yticks(rows, names if slot == 0 else [""] * len(names))
        panel.invert_yaxis()
        panel.set_title(_TITLES.get(column, column.replace("_", " ")), fontsize=10.5, color=_style.TEXT, loc="left")
        panel.tick_params(length=0, colors=_style.TEXT, labelsize=10)
        for side in ("top", "right", "bottom"):
            panel.spines[side].set_visible(False)
        panel.spines["left"].set_color(_style.GRID)
        panels.append(panel)
    return panels[0] if panels else ax


def _text(column: str, value: float) -> str:
    if column.endswith("_per_object_bytes"):
        return f"{value:.3g} B"
    if column.endswith("_bytes"):
        return _style.human_bytes(value)
    if column.endswith("_ns"):
        return f"{value / 1e6:.3g} ms"
    if column.endswith("fragmentation"):
        return f"{value:.1%}"
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
