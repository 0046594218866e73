"""Colours and helpers that the figures share.

The hues are from Okabe and Ito's palette, which people with any of the common colour-vision deficiencies can
tell apart; neighbours differ in lightness too, so that a print without colours still reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

AREA_A = "#0072B2"
AREA_B = "#56B4E9"
SHARED = "#3C91C9"
HIDDEN = "#5B5F66"
FREE = "#FFFFFF"
POPULATED = "#F7EDD0"
CONTIG = "#D55E00"
SCAN = "#009E73"
FIRST_FREE = "#CC79A7"
HATCH = "#9AA0A6"
GRID = "#C9CDD2"
TEXT = "#30343B"
PAPER = "#F3F4F6"
OCHRE = "#E69F00"
SERIES = (AREA_A, CONTIG, SCAN, FIRST_FREE, AREA_B, HIDDEN, OCHRE, "#000000")
"""Colours of lines and bars side by side."""
_PREFIXES = ("B", "KiB", "MiB", "GiB")


def pyplot() -> Any:
    """Import matplotlib's pyplot, or say which extra brings it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("matplotlib is needed for figures: pip install 'percpu[analysis]'") from error
    return plt


def needs(parameter: str, value: Any, kind: str, *attributes: str) -> None:
    """Raise a `TypeError` if something has not what a figure asks it for.

    Examples
    --------
    >>> needs("space", 3, "a VmallocSpace", "busy")
    Traceback (most recent call last):
    TypeError: space must be a VmallocSpace, not int
    """
    if not all(hasattr(value, name) for name in attributes):
        raise TypeError(f"{parameter} must be {kind}, not {type(value).__name__}")


def human_bytes(n: float) -> str:
    """Write bytes with a binary prefix, exactly where it divides.

    Examples
    --------
    >>> human_bytes(4096), human_bytes(1536), human_bytes(100)
    ('4 KiB', '1.5 KiB', '100 B')
    """
    for unit in _PREFIXES:
        if abs(n) < 1024 or unit == "GiB":
            return f"{n:.4g} {unit}"
        n /= 1024
    raise AssertionError


def bar(place: int) -> dict[str, Any]:
    """Look of the bars of one of several series: where the colours begin again, they are hatched.

    Examples
    --------
    >>> bar(0)["color"] == bar(8)["color"], bar(0)["hatch"] == bar(8)["hatch"]
    (True, False)
    """
    hatches = (None, "////", "xxxx")
    hatch = hatches[place // len(SERIES) % len(hatches)]
    return {"color": SERIES[place % len(SERIES)], "hatch": hatch, "edgecolor": "white", "linewidth": 0}


def plural(n: int, word: str) -> str:
    """Write a number of things.

    Examples
    --------
    >>> plural(1, "hole"), plural(2048, "chunk")
    ('1 hole', '2,048 chunks')
    """
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def rgb(colour: str) -> tuple[float, float, float]:
    """Red, green and blue, from 0 to 1, of a colour as ``#RRGGBB``.

    Examples
    --------
    >>> rgb("#FF0033")
    (1.0, 0.0, 0.2)
    """
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue


def buckets(n: int, limit: int) -> np.ndarray:
    """Where to cut n rows into at most `limit` parts of nearly equal length: the first row of each.

    Examples
    --------
    >>> buckets(10, 4).tolist(), buckets(3, 4).tolist()
    ([0, 2, 5, 7], [0, 1, 2])
    """
    if n <= limit:
        return np.arange(n)
    return (np.arange(limit) * n // limit).astype(np.intp)


def bare(ax: Any, *, keep: tuple[str, ...] = ("left", "bottom")) -> None:
    """Give axes the look of all figures: no tick marks, only the spines in `keep`, in a light colour."""
    ax.tick_params(which="both", length=0, colors=TEXT, labelsize=9)
    for side, spine in ax.spines.items():
        spine.set_visible(side in keep)
        spine.set_color(GRID)


def byte_ticks(axis: Any, low: float, high: float) -> float:
    """Put ticks at multiples of a power of two, written exactly with binary prefixes; return their distance."""
    from matplotlib.ticker import MultipleLocator

    step = 1.0
    # Where all values are equal, the axis is a tenth of them long.
    while max(high - low, high / 8) / step > 6:
        step *= 2
    # In a large unit only where its fractions are short: not 1.094 MiB but 1,120 KiB.
    own = min(int(np.log2(step)) // 10, len(_PREFIXES) - 1)
    unit, prefix = 1024.0**own, _PREFIXES[own]
    coarse = own == len(_PREFIXES) - 1 or max(abs(low), abs(high)) < 1024 * unit or step >= 256 * unit

    def text(number: float, _: Any) -> str:
        if not number:
            return "0"
        return human_bytes(number) if coarse else f"{number / unit:,.0f} {prefix}"

    axis.set_major_locator(MultipleLocator(step))
    axis.set_major_formatter(text)
    return step


def inches_of(ax: Any) -> float:
    """Width of an axes, before the figure is laid out."""
    return float(ax.get_window_extent().width / ax.figure.dpi)


def text_width(nr_letters: int, size: float = 9) -> float:
    """Inches of a text and what keeps it from the next: a letter is two thirds of its size wide."""
    return (nr_letters + 2) * size * 0.65 / 72


def apart(spans: Sequence[tuple[float, float]]) -> list[int]:
    """Which of some texts have room: the first, the last, and of those between, in order, what meets no other.

    Examples
    --------
    >>> apart([(0, 2), (1, 3), (2, 4), (3, 5), (5, 7)])
    [0, 2, 4]
    """
    chosen = [0] if spans else []
    for index, (left, right) in enumerate(spans[1:-1], 1):
        if spans[chosen[-1]][1] <= left and right <= spans[-1][0]:
            chosen.append(index)
    if len(spans) > 1 and spans[chosen[-1]][1] <= spans[-1][0]:
        chosen.append(len(spans) - 1)
    return chosen


def address_ticks(ax: Any, marks: Sequence[tuple[float, int]], size: float = 9) -> None:
    """Write addresses below places of an axis: the first, the last, and those between for which there is room.

    Texts stay within the ends of the axis, whose limits have been set. The other places get a small tick.
    """
    low, high = ax.get_xlim()
    width = (
        text_width(max((len(f"{address:x}") for _, address in marks), default=0), size) / inches_of(ax) * (high - low)
    )

    def span(place: float) -> tuple[float, str]:
        if place - width / 2 < low:
            return place, "left"
        return (place - width, "right") if place + width / 2 > high else (place - width / 2, "center")

    lefts = [span(place)[0] for place, _ in marks]
    chosen = [marks[index] for index in apart([(left, left + width) for left in lefts])]
    ax.set_xticks([place for place, _ in marks], minor=True)
    ax.set_xticks([place for place, _ in chosen], [f"{address:x}" for _, address in chosen])
    ax.tick_params(axis="x", which="minor", length=3, color=GRID)
    ax.tick_params(axis="x", which="major", length=5, color=TEXT, labelsize=size, labelcolor=TEXT)
    for label, (place, _) in zip(ax.get_xticklabels(), chosen, strict=True):
        label.set_horizontalalignment(span(place)[1])


def legend_below(
    ax: Any, inches: float, handles: Sequence[Any], labels: Sequence[str] | None = None, **how: Any
) -> Any:
    """Put a legend so far below an axes, whatever its height is."""
    from matplotlib.transforms import ScaledTranslation

    below = ax.transAxes + ScaledTranslation(0, -inches, ax.figure.dpi_scale_trans)
    texts = [handle.get_label() for handle in handles] if labels is None else labels
    place = {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": below, "borderaxespad": 0}
    return ax.legend(handles, texts, frameon=False, **place, **how)
