"""Sweeps: one experiment at many points, on all cores or many machines, the same result in any case."""

from __future__ import annotations

import asyncio
import os
import queue
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from percpu._checkpoint import Checkpoint
from percpu._checks import choice, integer
from percpu._plan import Plan, _plain, make_plan, unit_of_parameter
from percpu._point import Point, Row, Source, geometry_settings, policy_settings, request_settings, run_points
from percpu._progress import Progress
from percpu._table import columns_of
from percpu.compare import COSTS
from percpu.errors import InvalidRequest
from percpu.results import Result, _import
from percpu.trace import Trace
from percpu.workloads import Workload

__all__ = ["Sweep", "sweep"]

_LOOK_EVERY_SECONDS = 0.05
_TRIES = 3
"""Times that a point is given to an executor whose workers die."""


class Sweep(Result):
    """One row a point, in the order of the points; made by `sweep`.

    The first columns are the parameters, under their full names (``sample`` numbers the samples of distributions,
    ``point`` the points of a plain list). ``status`` is a category: ``ok``, ``failed`` (the point cannot be; ``error``
    says why) or ``lost`` (its worker died again and again; it is run again when the sweep is resumed). The figures are
    those of `Comparison`; they are missing where the status is not ``ok``. With ``phases=True`` follow
    ``PHASE.FIGURE`` for each phase of the workload.

    Attributes
    ----------
    dims : tuple of str
        The dimensions of `to_xarray`: the parameters of the grid.
    attrs : dict
        Provenance: version, hash of what was run, fixed settings, seed, hash of the definition.
    """

    _axes: dict[str, list[Any]]
    _parameters: tuple[str, ...]

    def __init__(self) -> None:
        raise TypeError("use sweep(trace_or_workload, parameters)")

    @classmethod
    def _of(cls, plan: Plan, rows: Sequence[Mapping[str, Any]]) -> Sweep:
        columns, mask, categories = columns_of(plan.parameters, rows)
        definition = plan.definition
        attrs = {
            "percpu_version": definition["version"],
            "source": definition["what"],
            "source_hash": definition["source"],
            "seed": definition["seed"],
            "sweep_hash": plan.hash,
            **{
                name: value if isinstance(value, (int, str)) else str(value)
                for name, value in definition["options"].items()
            },
        }
        units = {name: unit_of_parameter(name) for name in plan.parameters}
        parts = {
            "columns": columns,
            "mask": mask,
            "categories": categories,
            "dims": plan.dims,
            "attrs": attrs,
            "units": units,
        }
        return cls._wrap(parts, plan.axes, tuple(plan.parameters))

    @classmethod
    def _wrap(cls, parts: dict[str, Any], axes: dict[str, list[Any]], parameters: tuple[str, ...]) -> Sweep:
        self = cls.__new__(cls)
        Result.__init__(self, **parts)
        self._axes, self._parameters = axes, parameters
        return self

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the columns that describe the points."""
        return self._parameters

    def to_xarray(self) -> Any:
        """Convert to an xarray dataset.

        The parameters of the grid become dimensions, their values in the order in which they were given. Sampled
        parameters are variables over ``sample``, and everything is over ``point`` for a plain list. Figures of failed
        points are NaN; ``status`` says which those are.

        Returns
        -------
        xarray.Dataset
            A variable a column, a dimension a parameter.
        """
        xr = _import("xarray", "analysis")
        shape = tuple(len(self._axes[dim]) for dim in self.dims)
        # The points are in the order of the grid, the last dimension fastest.
        variables = {}
        for name in self:
            if name in self.dims:
                continue
            values = self._plain(name)
            variables[name] = (self.dims, values.reshape(shape), {"units": self.unit(name)})
        coords = {dim: (dim, np.array(self._axes[dim]), {"units": self.unit(dim)}) for dim in self.dims}
        return xr.Dataset(variables, coords=coords, attrs=self.attrs)

    def plot(
        self, value: str = "max_memory_bytes", *, x: str | None = None, by: str | None = None, ax: Any = None
    ) -> Any:
        """Draw a figure over one or two parameters.

        One parameter gives a line (points where it is not a number), two give a line for each value of the second, or,
        where both are numbers with many values, a map of colours.

        Parameters
        ----------
        value : str, optional
            The column to draw.
        x, by : str, optional
            Parameters; those of the sweep in order by default. What else varies is averaged over.
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
            The axes.
        """
        from percpu.plot.sweep import plot_sweep

        return plot_sweep(self, value, x=x, by=by, ax=ax)

    def _repr_html_(self) -> str:
        from percpu._rich import sweep_html

        return sweep_html(self, super()._repr_html_())

    def __getitem__(self, key: Any) -> Any:
        """Return a column, a row, or a plain result with some of the rows."""
        if isinstance(key, str):
            return super().__getitem__(key)
        return Result(
            dict(self._columns), mask=self._mask, categories=self._categories, attrs=self.attrs, units=self._units
        )[key]

    def __repr__(self) -> str:
        n, bad = len(self), int((self["status"] != 0).sum())
        return f"Sweep({n} point{'' if n == 1 else 's'} over {', '.join(self._parameters)}; {bad} failed)"

    def __reduce__(self) -> tuple[Any, ...]:
        parts = {"columns": dict(self._columns), "mask": self._mask, "categories": self._categories, "dims": self.dims,
                 "attrs": self.attrs, "units": self._units}  # fmt: skip
        return Sweep._wrap, (parts, self._axes, self._parameters)


def sweep(
    what: Trace | Workload,
    parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    engine: Any = None,
    kernel: str | None = None,
    geometry: Any = None,
    request: Mapping[str, Any] | None = None,
    policy: Mapping[str, Any] | None = None,
    samples: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    executor: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | Callable[..., Any] = False,
    timing: bool = False,
    costs: str = "totals",
    phases: bool = False,
) -> Sweep:
    """Make the same requests and frees at every point of an experiment.

    Every point starts with an empty allocator of its own. The result is the same for any number of threads or workers,
    and in whatever order they finish.

    Parameters
    ----------
    what : Trace or Workload
        What is asked.
    parameters : mapping or sequence of mappings
        Names and values. A list, array or range is an axis of a grid; all axes are crossed. A distribution (of
        `percpu.distributions`, or one with ``ppf``) is sampled, together with the others as a Latin hypercube, at every
        point of the grid. A sequence of mappings is a plain list of points. The names:

        =================  ==========================================================================================
        ``engine``         engines by name, or classes that make one in Python (`percpu.engines`)
        ``kernel``         releases
        ``geometry.*``     ``block_size``, ``min_alloc_size``, ``page_size``; without a first chunk ``unit_size``,
                           ``nr_units``; with one ``static_size``, ``dyn_size``, ``atom_size``, ``nr_cpus``, ...
        ``request.*``      ``align``, ``min_align``, ``size_multiple``, ``atomic``: changes of all requests
        ``policy.*``       ``balance``, ``every``: when the balance worker runs; its thresholds (see `Allocator`)
        ``workload.*``     every parameter of the workload, its ``seed`` included
        =================  ==========================================================================================

        A bare name serves where it is unique: ``block_size``, ``seed``.
    engine, kernel, geometry, request, policy
        What holds for every point, as in `compare`.
    samples : int, optional
        Number of samples of the distributions.
    seed : int, optional
        Of the samples.
    threads : int, optional
        Threads on this machine; by default one for each core.
    executor : optional
        Where to run instead: a ``concurrent.futures`` executor, or a ``dask.distributed`` client.
    checkpoint : path, optional
        A directory in which every finished point is kept (needs pyarrow). The same sweep with the same directory goes
        on where it was stopped or killed; another sweep is refused.
    progress : bool or callable, optional
        Show progress, rate and remaining time; or a function of ``(done, total, rate, remaining_seconds)``.
    timing : bool, optional
        Add ``alloc_ns`` and ``free_ns``. Points that run at once slow each other down.
    costs : {"totals", "full", "off"}, optional
        Which counts of work, as in `compare`.
    phases : bool, optional
        Add the figures of each phase of the workload.

    Returns
    -------
    Sweep
        One row a point. A point that cannot be is a row with a status, not an exception.

    Raises
    ------
    InvalidRequest
        If a parameter is not known, or there is no point.
    StateError
        If the checkpoint is of another sweep, or damaged.

    Notes
    -----
    Ctrl-C stops it within 100 ms; what is finished is in the checkpoint.

    Examples
    --------
    >>> import percpu as pc
    >>> w = pc.workloads.objects(3000, size=24)
    >>> g = sweep(w, {"engine": ["areamap", "linux-5.14"], "request.align": [8, 64]})
    >>> g.dims, g.peak_populated_bytes.tolist()
    (('engine', 'request.align'), [80744, 203624, 80744, 203624])
    """
    source = Source(what)
    if not isinstance(parameters, Mapping) and (
        isinstance(parameters, (str, bytes)) or not isinstance(parameters, Sequence)
    ):
        raise TypeError(f"parameters must be a mapping or a list of mappings, not {type(parameters).__name__}")
    if threads is not None and executor is not None:
        raise InvalidRequest("threads= and executor= exclude each other", parameter="threads")
    nr_threads = 0 if threads is None else integer("threads", threads, 1, 1 << 12)
    if not (isinstance(progress, bool) or callable(progress)):
        raise TypeError(f"progress must be a bool or a function, not {type(progress).__name__}")
    groups = {
        "geometry": geometry_settings(geometry),
        "request": request_settings(request),
        "policy": policy_settings(policy),
    }
    fixed = {f"{group}.{name}": value for group, given in groups.items() for name, value in given.items()}
    fixed.update({name: value for name, value in (("engine", engine), ("kernel", kernel)) if value is not None})
    how: dict[str, Any] = {"timing": bool(timing), "phases": bool(phases), "costs": choice("costs", costs, COSTS)}
    options = {**{name: _plain(value) for name, value in fixed.items()}, **how}
    plan = make_plan(
        source,
        parameters,
        fixed,
        samples=None if samples is None else integer("samples", samples, 1, 1 << 32),
        seed=integer("seed", seed),
        options=options,
    )
    store = nullcontext() if checkpoint is None else Checkpoint(checkpoint, plan.definition, plan.hash, plan.parameters)
    with store as kept:
        rows: dict[int, Row] = kept.load() if kept is not None else {}
        shown = Progress(progress, len(plan.points), len(rows))
        todo = [(index, point) for index, point in enumerate(plan.points) if index not in rows]

        def told(index: int, row: Row, error: BaseException | None = None) -> None:
            row = _flat(row)
            if kept is not None and row["status"] != "lost":
                kept.add(index, row)
            rows[index] = row
            shown.step()

        try:
            if executor is None:
                run_points(source, todo, told, threads=nr_threads, **how)
            else:
                _run_remote(executor, source, todo, told, how)
        finally:
            shown.close()
    return Sweep._of(plan, [rows[index] for index in range(len(plan.points))])


def _flat(row: Row) -> Row:
    """Put the figures of phases beside the others."""
    parts = row.pop("phases", [])
    row.pop("samples", None)
    seen: dict[str, int] = {}
    for part in parts:
        name = part.pop("phase")
        # A phase may come more than once.
        seen[name] = seen.get(name, 0) + 1
        label = name if seen[name] == 1 else f"{name}#{seen[name]}"
        row.update({f"{label}.{figure}": value for figure, value in part.items()})
    return row


def _run_one(source: Source, index: int, point: Point, how: dict[str, Any]) -> Row:
    """Run one point in a worker."""
    found: list[Row] = []
    run_points(source, [(index, point)], lambda _, row, error: found.append(row), threads=1, **how)
    return found[0]


def _run_remote(
    executor: Any,
    source: Source,
    todo: Iterable[tuple[int, Point]],
    told: Callable[[int, Row], None],
    how: dict[str, Any],
) -> None:
    """Run points with an executor; the answers come in any order."""
    if not callable(getattr(executor, "submit", None)):
        raise TypeError(f"executor must have a method submit(), not {type(executor).__name__}")
    _ = source.hash  # workers keep the steps by their hash
    answers: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    submit = _submitter(executor, source)
    running: dict[int, Any] = {}
    points: dict[int, tuple[Point, int]] = {}

    def lost(index: int, error: BaseException) -> None:
        told(index, {"status": "lost", "error": f"{type(error).__name__}: {error}"})

    def start(index: int, point: Point, tries: int) -> None:
        try:
            future = submit(index, point, how, tries > 1)
        except Exception as error:
            return lost(index, error)
        points[index], running[index] = (point, tries), future
        return future.add_done_callback(lambda done: answers.put((index, done)))

    try:
        for index, point in todo:
            start(index, point, 1)
        while running:
            try:
                index, future = answers.get(timeout=_LOOK_EVERY_SECONDS)
            except queue.Empty:
                continue  # back in Python, where a Ctrl-C is noticed
            if running.get(index) is not future:
                continue
            del running[index]
            point, tries = points.pop(index)
            try:
                row = future.result()
            except (Exception, asyncio.CancelledError) as error:  # the worker, not the point: that answers with a row
                if tries < _TRIES and not _is_gone(executor):
                    start(index, point, tries + 1)
                else:
                    lost(index, error)
                continue
            told(index, row)
    finally:
        for future in running.values():
            future.cancel()


def _submitter(executor: Any, source: Source) -> Callable[[int, Point, dict[str, Any], bool], Any]:
    """How to give a point to this executor, again if need be.

    A dask client gets the steps once, not with every point; but what a dead worker held may be gone.
    """
    if callable(getattr(executor, "scatter", None)):
        there = executor.scatter(source, broadcast=True, hash=False)

        def submit(index: int, point: Point, how: dict[str, Any], again: bool) -> Any:
            return executor.submit(_run_one, source if again else there, index, point, how, pure=False)

        return submit
    return lambda index, point, how, again: executor.submit(_run_one, source, index, point, how)


def _is_gone(executor: Any) -> bool:
    """Whether an executor takes nothing any more, as a pool of processes does once one of them died."""
    return bool(getattr(executor, "_broken", False) or getattr(executor, "_shutdown", False))
