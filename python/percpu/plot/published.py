"""Bars in groups, as the measurements of 2017 were published: a group a size, a bar an allocator."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu.errors import InvalidRequest
from percpu.plot import _style

__all__ = ["plot_bars", "plot_published"]


def plot_bars(result: Any, value: str, *, by: str, within: str, log: bool = True, ax: Any = None) -> Any:
    """Draw a column of a result as bars in groups.

    Parameters
    ----------
    result : Result
        One row a bar; where several rows have the same two names, their mean is drawn.
    value : str
        Column with the heights.
    by : str
        Column that makes the groups, in the order of first appearance.
    within : str
        Column that makes the bars of a group, likewise.
    log : bool, optional
        Whether the heights are on a logarithmic axis.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    InvalidRequest
        If there is no such column, or nothing to draw.

    Examples
    --------
    >>> from percpu import Result
    >>> r = Result({"size_bytes": [4, 4, 16, 16], "engine": ["a", "b"] * 2, "free_ms": [9.0, 3.0, 8.0, 2.0]})
    >>> [float(bar.get_height()) for bar in plot_bars(r, "free_ms", by="size_bytes", within="engine").patches]
    [9.0, 8.0, 3.0, 2.0]
    """
    _style.needs("result", result, "a Result", "missing", "unit")
    for name, given in (("value", value), ("by", by), ("within", within)):
        if given not in result:
            raise InvalidRequest(f"{name}={given!r}: must be one of {', '.join(result)}", parameter=name)
    if result[value].dtype.kind not in "biuf":
        raise InvalidRequest(f"value={value!r}: holds no numbers", parameter="value")
    there = ~(result.missing(value) | result.missing(by) | result.missing(within))
    if not there.any():
        raise InvalidRequest(f"value={value!r}: there is nothing to draw", parameter="value")
    plt = _style.pyplot()
    heights: dict[tuple[Any, Any], list[float]] = {}
    rows = zip(_names(result, by), _names(result, within), np.asarray(result[value], dtype=float), there, strict=True)
    for group, bar, height, known in rows:
        if known:
            heights.setdefault((group, bar), []).append(float(height))
    groups = list(dict.fromkeys(group for group, _ in heights))
    bars = list(dict.fromkeys(bar for _, bar in heights))
    if ax is None:
        size = (min(2.4 + 0.46 * len(groups) * len(bars), 11), 4.0)
        _, ax = plt.subplots(figsize=size, layout="constrained")
    width = 0.8 / len(bars)
    small = len(groups) * len(bars) > 24
    for place, bar in enumerate(bars):
        at = [g for g, group in enumerate(groups) if (group, bar) in heights]
        tall = [float(np.mean(heights[groups[g], bar])) for g in at]
        x = np.array(at) - 0.4 + (place + 0.5) * width
        ax.bar(x, tall, width=width * 0.9, label=str(bar), **_style.bar(place))
        if not small:
            for left, height in zip(x, tall, strict=True):
                text = f"{height:,.0f}" if height >= 10 else f"{height:.3g}"
                ax.annotate(text, (left, height), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    positive = [float(np.mean(v)) for v in heights.values() if np.mean(v) > 0]
    if log and positive:
        ax.set_yscale("log")
        ax.set_ylim(min(positive) / 2, max(positive) * 3)
    labels = [_style.human_bytes(g) if result.unit(by) == "bytes" else str(g) for g in groups]
    turned = {"rotation": 30, "ha": "right"} if max(map(len, labels)) * len(labels) > 90 else {}
    ax.set_xticks(range(len(groups)), labels, **turned)
    ax.set_xlabel(by.replace("_", " "))
    ax.set_ylabel(_with_unit(result, value) + (", logarithmic" if log else ""))
    ax.grid(axis="y", color=_style.GRID, linewidth=0.5)
    ax.set_axisbelow(True)
    _style.bare(ax)
    ax.legend(frameon=False, fontsize=9, title=within.replace("_", " "), title_fontsize=9)
    return ax


def _names(result: Any, column: str) -> list[Any]:
    values = result[column].tolist()
    names = result._categories.get(column)
    return values if names is None else [names[code] for code in values]


def _with_unit(result: Any, column: str) -> str:
    words = column.replace("_", " ")
    if column.endswith("_ms"):
        return f"{words[:-3]}, milliseconds"
    unit = result.unit(column)
    return words if unit in ("1", *words.split()) else f"{words}, {unit}"


def plot_published(ax: Any = None, *, letter: str = "v2", case: str = "worst case") -> Any:
    """Draw the milliseconds of a letter of July 2017 as it gave them: area map and bitmap, by size.

    Parameters
    ----------
    ax : matplotlib.axes.Axes, optional
        Where to draw; it is divided in two: allocating, and freeing. A new figure by default.
    letter : {"v2", "v1"}, optional
        Which letter; the bitmap of v1 is ``rfc-v1``, that of v2 ``linux-4.14``.
    case : {"worst case", "half full"}, optional
        Which of its tables; ``half full`` is in v2 only.

    Returns
    -------
    matplotlib.axes.Axes
        The left part.

    Raises
    ------
    InvalidRequest
        If the letter has no such table.

    Examples
    --------
    >>> ax = plot_published()
    >>> [float(bar.get_height()) for bar in ax.patches[:2]]
    [310.0, 557.0]
    """
    from percpu.published.tables import letters
    from percpu.results import Result

    plt = _style.pyplot()
    table = letters()
    rows = (table.letter == letter) & (table.case == case)
    if not rows.any():
        raise InvalidRequest(f"letter={letter!r}, case={case!r}: there is no such table", parameter="case")
    part = table[rows]
    bitmap = {"v1": "rfc-v1", "v2": "linux-4.14"}[letter]
    if ax is None:
        _, ax = plt.subplots(figsize=(11, 4.2), layout="constrained")
    ax.axis("off")
    left, right = ax.inset_axes((0, 0, 0.45, 1)), ax.inset_axes((0.55, 0, 0.45, 1))
    for panel, what, title in ((left, "alloc", "allocating"), (right, "free", "freeing")):
        n = len(part)
        long = Result(
            {
                "size_bytes": np.tile(part.size_bytes, 2),
                "allocator": np.array(["areamap"] * n + [bitmap] * n),
                f"{what}_ms": np.concatenate([part[f"areamap_{what}_ms"], part[f"bitmap_{what}_ms"]]),
            }
        )
        plot_bars(long, f"{what}_ms", by="size_bytes", within="allocator", ax=panel)
        panel.set_title(f"{title} a million objects, {case}", loc="left", fontsize=10.5, color=_style.TEXT)
    return left
