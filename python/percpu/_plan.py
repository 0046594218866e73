"""From parameters of a sweep to its list of points.

Names are ``engine``, ``kernel``, ``geometry.*``, ``request.*``, ``policy.*`` and ``workload.*``; a bare name serves
where only one of them ends in it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import percpu
from percpu._point import GEOMETRY, POLICY, REQUEST, Point, Source, engine_name
from percpu.distributions import latin_hypercube
from percpu.errors import InvalidRequest
from percpu.layout import FirstChunkLayout, Topology

__all__ = ["Plan", "full_name", "make_plan"]

_MAX_POINTS = 1 << 20
"""Points of one sweep."""

_BYTES = ("size", "align", "min_align", "size_multiple")


def _names(source: Source) -> list[str]:
    workload = source.workload.parameters if source.workload is not None else {}
    return ["engine", "kernel", *(f"geometry.{name}" for name in GEOMETRY), *(f"request.{name}" for name in REQUEST),
            *(f"policy.{name}" for name in POLICY), *(f"workload.{name}" for name in workload)]  # fmt: skip


def full_name(source: Source, name: Any) -> str:
    """Return the full name of a parameter."""
    if not isinstance(name, str):
        raise TypeError(f"names of parameters must be str, not {type(name).__name__}")
    known = _names(source)
    if name in known:
        return name
    found = [full for full in known if full.partition(".")[2] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidRequest(f"parameter {name!r} can be {' or '.join(found)}", parameter=name)
    raise InvalidRequest(f"parameter {name!r}: must be one of {', '.join(known)}", parameter=name)


def unit_of_parameter(name: str) -> str:
    """Unit of a parameter: bytes for sizes and alignments, 1 for everything else."""
    last = name.rpartition(".")[2]
    return "bytes" if last.endswith(("_size", "_bytes")) or (last in _BYTES and "." in name) else "1"


@dataclass(frozen=True)
class Plan:
    """The points of an experiment, and all that decides their results.

    Attributes
    ----------
    points : list of Point
        In order.
    parameters : dict of str to list
        The columns that describe the points: a value each, names instead of objects.
    dims : tuple of str
        The parameters that span a grid, ``sample`` behind them if there are samples; ``point`` for a plain list.
    axes : dict of str to list
        Values of each dimension, in the order in which they were given.
    definition : dict
        Plain data; its `hash` tells one sweep from another.
    """

    source: Source
    points: list[Point]
    parameters: dict[str, list[Any]]
    dims: tuple[str, ...]
    axes: dict[str, list[Any]]
    definition: dict[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Hash of the definition."""
        return hashlib.sha256(json.dumps(self.definition, sort_keys=True).encode()).hexdigest()[:32]


def shown(value: Any) -> Any:
    """Return a value as a column holds it: numbers and words as they are, everything else as text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if callable(value):
        return engine_name(value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return repr(value)


def _plain(value: Any) -> Any:
    """Return what tells a value from another, as plain data."""
    if isinstance(value, FirstChunkLayout):
        return {name: _plain(part) for name, part in value._arguments.items()}
    if isinstance(value, Topology):
        distances = None if value.distances is None else value.distances.tolist()
        return {"cpu_to_node": value.cpu_to_node.tolist(), "distances": distances}
    if callable(value) and not isinstance(value, str):
        return {"engine": f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', engine_name(value))}",
                "code": _code_of(value)}  # fmt: skip
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return shown(value)


def _code_of(factory: Any) -> str | None:
    """Hash of an engine's source text, so that a changed engine is another engine; None where it cannot be had."""
    import inspect

    try:
        return hashlib.sha256(inspect.getsource(factory).encode()).hexdigest()[:32]
    except (OSError, TypeError):
        return None


def _values(name: str, values: Any) -> list[Any]:
    """Values of a grid's axis."""
    if isinstance(values, (str, bytes, Mapping)) or callable(values) or not hasattr(values, "__iter__"):
        return [values]
    # One more than there may be is enough to say so: an axis may be an endless iterator.
    few = itertools.islice(values, _MAX_POINTS + 1)
    listed = [value.item() if isinstance(value, np.generic) else value for value in few]
    if len(listed) > _MAX_POINTS:
        raise InvalidRequest(f"parameter {name!r} has more than {_MAX_POINTS} values", parameter=name)
    if not listed:
        raise InvalidRequest(f"parameter {name!r} has no values", parameter=name)
    seen: set[Any] = set()
    for value in listed:
        if shown(value) in seen:
            raise InvalidRequest(f"parameter {name!r} has the value {shown(value)!r} twice", parameter=name)
        seen.add(shown(value))
    return listed


def _sampled(name: str, distribution: Any, u: np.ndarray) -> list[Any]:
    given = distribution.ppf(u)
    try:
        values = [value.item() if isinstance(value, np.generic) else value for value in given]
    except TypeError:
        values = []
    if len(values) != len(u):
        raise InvalidRequest(f"parameter {name!r}: ppf() of {len(u)} numbers must give as many values", parameter=name)
    for value in values:
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidRequest(f"parameter {name!r}: ppf() returned {value}", parameter=name)
    # Every number that can be set is a whole one.
    return [round(value) if isinstance(value, float) else value for value in values]


def make_plan(
    source: Source,
    parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    fixed: Mapping[str, Any],
    *,
    samples: int | None,
    seed: int,
    options: Mapping[str, Any],
) -> Plan:
    """Make the list of points.

    `fixed` are settings of every point by full name; those of `parameters` win.
    """
    if isinstance(parameters, Mapping):
        given = {full_name(source, name): values for name, values in parameters.items()}
        if len(given) < len(parameters):
            raise InvalidRequest("a parameter is given twice, by its full and by its bare name", parameter="parameters")
        settings, dims, axes = _grid(given, samples, seed)
    else:
        if samples is not None:
            raise InvalidRequest("samples= needs distributions, not a list of points", parameter="samples")
        settings = []
        for place, point in enumerate(parameters):
            if not isinstance(point, Mapping):
                raise TypeError(f"parameters[{place}] must be a mapping, not {type(point).__name__}")
            settings.append({full_name(source, name): value for name, value in point.items()})
        dims, axes = ("point",), {"point": list(range(len(settings)))}
    if not settings:
        raise InvalidRequest("parameters: there is no point", parameter="parameters")
    columns = list(dict.fromkeys(name for point in settings for name in point))
    merged = [{**fixed, **point} for point in settings]
    definition = {
        "format": 2,
        "version": percpu.__version__,
        "source": source.hash,
        "what": source.text,
        "seed": seed,
        "options": dict(options),
        "points": [_plain(point) for point in merged],
        "dims": list(dims),
    }
    shown_columns: dict[str, list[Any]] = {}
    if "sample" in dims:
        n = len(axes["sample"])
        shown_columns["sample"] = [place % n for place in range(len(settings))]
    shown_columns.update({name: [shown(point.get(name)) for point in settings] for name in columns})
    if dims == ("point",):
        shown_columns = {"point": list(range(len(settings))), **shown_columns}
    shown_axes = {name: [shown(value) for value in values] for name, values in axes.items()}
    return Plan(source, [_point(point) for point in merged], shown_columns, dims, shown_axes, definition)


def _grid(
    given: Mapping[str, Any], samples: int | None, seed: int
) -> tuple[list[dict[str, Any]], tuple[str, ...], dict[str, list[Any]]]:
    """Points of a grid, each of them with every sample of the distributions."""
    distributions = {name: values for name, values in given.items() if callable(getattr(values, "ppf", None))}
    axes = {name: _values(name, values) for name, values in given.items() if name not in distributions}
    if bool(distributions) != (samples is not None):
        text = "samples= is needed, for there are distributions" if distributions else "samples= needs distributions"
        raise InvalidRequest(text, parameter="samples")
    nr_points = math.prod(len(values) for values in axes.values()) * (samples or 1)
    if nr_points > _MAX_POINTS:
        raise InvalidRequest(f"parameters: {nr_points} points are more than {_MAX_POINTS}", parameter="parameters")
    grid = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    if not distributions:
        return grid, tuple(axes), axes
    assert samples is not None
    cube = latin_hypercube(samples, len(distributions), seed)
    columns = {
        name: _sampled(name, distribution, cube[:, place])
        for place, (name, distribution) in enumerate(distributions.items())
    }
    drawn = [{name: values[row] for name, values in columns.items()} for row in range(samples)]
    points = [{**cell, **sample} for cell in grid for sample in drawn]
    return points, (*axes, "sample"), {**axes, "sample": list(range(samples))}


def _point(settings: Mapping[str, Any]) -> Point:
    groups: dict[str, dict[str, Any]] = {"geometry": {}, "request": {}, "policy": {}, "workload": {}}
    for name, value in settings.items():
        group, _, rest = name.partition(".")
        if rest:
            groups[group][rest] = value
    return Point(engine=settings.get("engine"), kernel=settings.get("kernel"), **groups)
