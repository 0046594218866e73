"""Colours and helpers that the figures share.

The hues are from Okabe and Ito's palette, which people with any of the common colour-vision deficiencies can
tell apart; neighbours differ in lightness too, so that a print without colours still reads.
"""

from __future__ import annotations

from typing import Any

AREA_A = "#0072B2"
AREA_B = "#56B4E9"
SHARED = "#3C91C9"
HIDDEN = "#5B5F66"
FREE = "#FFFFFF"
CONTIG = "#D55E00"
SCAN = "#009E73"
FIRST_FREE = "#CC79A7"
HATCH = "#9AA0A6"
GRID = "#C9CDD2"
TEXT = "#30343B"


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
