"""A figure of a sweep over one or two parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu.errors import InvalidRequest
from percpu.plot import _style

__all__ = ["plot_sweep"]

_MARKERS = "osD^vPX*"
_MAP_FROM = 5
"""Values of both parameters from which on colours are easier to read than lines."""
_MAP_LABELS = 16
"""Labels of a map above each other."""


def plot_sweep(sweep: Any, value: str, *, x: str | None = None, by: str | None = None, ax: Any = None) -> Any:
    """Draw a figure over one parameter, or two.

    Parameters
    ----------
    sweep : Sweep
        The results; failed points are left out.
    value : str
        The column to draw.
    x, by : str, optional
        Parameters; the first two that vary by default. What else varies is averaged over.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    InvalidRequest
        If there is no such parameter or figure, or no point to draw.
    """
    _style.needs("sweep", sweep, "a Sweep", "parameters", "missing")
    plt = _style.pyplot()
    varying = [
        name for name in sweep.parameters if name not in ("point", "sample") and len(set(sweep[name].tolist())) > 1
    ]
    for name, given, allowed in (
        ("value", value, list(sweep)),
        ("x", x, sweep.parameters),
        ("by", by, sweep.parameters),
    ):
        if (given is not None or name == "value") and given not in allowed:
            raise InvalidRequest(f"{name}={given!r}: must be one of {', '.join(allowed)}", parameter=name)
    rest = [name for name in varying if name not in (x, by)]
    if x is None:
        # Numbers make the better axis.
        numbers = [name for name in rest if sweep[name].dtype.kind in "iuf"]
        x = (numbers or rest or list(sweep.parameters))[0]
        rest = [name for name in rest if name != x]
    if by is None and rest:
        by = rest[0]
    there = ~sweep.missing(value)
    figures = np.asarray(sweep[value])
    if not there.any() or figures.dtype.kind not in "iufb" or value == "status":
        raise InvalidRequest(f"value={value!r}: there is nothing to draw", parameter="value")
    if ax is None:
        _, ax = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    xs = np.asarray(sweep[x])
    groups = np.asarray(sweep[by]) if by is not None else np.zeros(len(xs), dtype=int)
    mean = {
        key: float(figures[there & (xs == key[0]) & (groups == key[1])].mean())
        for key in dict.fromkeys(zip(xs[there].tolist(), groups[there].tolist(), strict=True))
    }
    across, up = list(dict.fromkeys(k[0] for k in mean)), list(dict.fromkeys(k[1] for k in mean))
    numeric = xs.dtype.kind in "iuf" and by is not None and groups.dtype.kind in "iuf"
    if numeric and min(len(across), len(up)) >= _MAP_FROM and len(mean) > len(across) * len(up) // 2:
        return _map(ax, mean, sorted(across), sorted(up), sweep, value, x, str(by))
    for place, group in enumerate(up):
        keys = [key for key in across if (key, group) in mean]
        if xs.dtype.kind in "iuf":
            keys.sort()
        heights = [mean[key, group] for key in keys]
        # What others cover is drawn broader, so that equal lines are seen.
        under = min(len(up) - 1 - place, 4)
        style = {
            "color": _style.SERIES[place % len(_style.SERIES)],
            # Where the colours begin again, the markers are others.
            "marker": _MARKERS[(place + place // len(_style.SERIES)) % len(_MARKERS)],
            "markersize": 5 + 2 * under,
        }
        places = keys if xs.dtype.kind in "iuf" else [across.index(key) for key in keys]
        label = None if by is None else f"{by.rpartition('.')[2]} {_label(sweep, by, group)}"
        line = "-" if xs.dtype.kind in "iuf" else "none"
        ax.plot(places, heights, linestyle=line, linewidth=1.5 + under, label=label, **style)
    _axis(ax.xaxis, sweep, x, across, ax.set_xscale)
    if sweep.unit(value) == "bytes":
        _style.byte_ticks(ax.yaxis, min(mean.values()), max(mean.values()))
    ax.set_xlabel(x)
    ax.set_ylabel(value.replace("_", " "))
    ax.grid(axis="y", color=_style.GRID, linewidth=0.5)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, colors=_style.TEXT, labelsize=9)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(_style.GRID)
    if by is not None:
        ax.legend(frameon=False, fontsize=9)
    return ax


def _label(sweep: Any, parameter: str, value: Any) -> str:
    return _style.human_bytes(value) if sweep.unit(parameter) == "bytes" else str(value)


def _axis(axis: Any, sweep: Any, parameter: str, values: list[Any], set_scale: Any) -> None:
    """Ticks at the values; sizes that span a factor of eight on a logarithmic axis."""
    if sweep[parameter].dtype.kind not in "iuf":
        texts = [str(value) for value in values]
        wide = sum(_style.text_width(len(text)) for text in texts) > _style.inches_of(axis.axes)
        axis.set_ticks(range(len(values)), texts, **({"rotation": 30, "ha": "right"} if wide else {}))
        return
    ordered = sorted(values)
    if ordered[0] > 0 and ordered[-1] >= 8 * ordered[0]:
        set_scale("log", base=2)
        axis.set_minor_locator(_style.pyplot().NullLocator())
    texts = [_label(sweep, parameter, value) for value in ordered]
    scale = np.log2 if axis.get_scale() == "log" else np.asarray
    shown = _room(axis, scale(np.array(ordered, dtype=float)), texts)
    axis.set_ticks([ordered[index] for index in shown], [texts[index] for index in shown])


def _room(axis: Any, places: np.ndarray, texts: list[str]) -> list[int]:
    """Which of the texts below an axis have room, if its ends are the first and the last place."""
    inches = (places - places[0]) / (float(np.ptp(places)) or 1.0) * _style.inches_of(axis.axes)
    half = [_style.text_width(len(text)) / 2 for text in texts]
    return _style.apart([(at - wide, at + wide) for at, wide in zip(inches.tolist(), half, strict=True)])


def _map(
    ax: Any, mean: dict[Any, float], across: list[Any], up: list[Any], sweep: Any, value: str, x: str, by: str
) -> Any:
    cells = np.full((len(up), len(across)), np.nan)
    for (column, row), number in mean.items():
        cells[up.index(row), across.index(column)] = number
    image = ax.imshow(cells, origin="lower", aspect="auto", cmap="cividis", interpolation="nearest")
    texts = [_label(sweep, x, number) for number in across]
    places = _room(ax.xaxis, np.arange(len(across), dtype=float), texts)
    ax.set_xticks(places, [texts[place] for place in places])
    places = list(range(0, len(up), -(-len(up) // _MAP_LABELS)))
    ax.set_yticks(places, [_label(sweep, by, up[place]) for place in places])
    ax.set_xlabel(x)
    ax.set_ylabel(by)
    bar = ax.figure.colorbar(image, ax=ax)
    bar.set_label(value.replace("_", " "))
    if sweep.unit(value) == "bytes":
        _style.byte_ticks(bar.ax.yaxis, float(np.nanmin(cells)), float(np.nanmax(cells)))
    ax.tick_params(length=0, colors=_style.TEXT, labelsize=9)
    return ax
