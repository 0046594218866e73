"""Colours and helpers that the figures share.

The hues are from Okabe and Ito's palette, which people with any of the common colour-vision deficiencies can
tell apart; neighbours differ in lightness too, so that a print without colours still reads.
"""

from __future__ import annotations

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


def pyplot() -> Any:
    """Import matplotlib's pyplot, or say which extra brings it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("matplotlib is needed for figures: pip install 'percpu[analysis]'") from error
    return plt


def human_bytes(n: float) -> str:
    """Write bytes with a binary prefix, exactly where it divides.

    Examples
    --------
    >>> human_bytes(4096), human_bytes(1536), human_bytes(100)
    ('4 KiB', '1.5 KiB', '100 B')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n) < 1024 or unit == "GiB":
            return f"{n:.4g} {unit}"
        n /= 1024
    raise AssertionError


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
    ax.tick_params(length=0, colors=TEXT, labelsize=9)
    for side, spine in ax.spines.items():
        spine.set_visible(side in keep)
        spine.set_color(GRID)


def byte_ticks(axis: Any, low: float, high: float) -> None:
    """Put ticks at multiples of a power of two, written with binary prefixes."""
    from matplotlib.ticker import MultipleLocator

    step = 1.0
    # Where all values are equal, the axis is a tenth of them long.
    while max(high - low, high / 8) / step > 6:
        step *= 2
    axis.set_major_locator(MultipleLocator(step))
    axis.set_major_formatter(lambda number, _: human_bytes(number))
