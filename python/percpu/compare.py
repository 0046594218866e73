"""Comparisons: the same requests and frees on several engines or releases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import percpu
from percpu import _core
from percpu._checks import choice, engine_release, integer
from percpu._plan import _plain, unit_of_parameter
from percpu._point import (
    Point,
    Source,
    engine_name,
    geometry_settings,
    policy_settings,
    request_settings,
    run_points,
)
from percpu._table import columns_of
from percpu.errors import InvalidRequest, VerifyError
from percpu.results import Result
from percpu.trace import Trace
from percpu.workloads import Workload

__all__ = ["Comparison", "compare"]

COSTS = ("totals", "full", "off")


class Comparison(Result):
    """One row an engine or release; made by `compare`.

    Sizes are bytes of one unit unless the name says otherwise. ``peak_`` columns are figures of one moment: the first
    at which the most bytes are asked for, which is the same step for every engine (but where the steps of a workload
    depend on places). ``end_`` columns are those after the last step.

    =====================================  ====================================================================
    column                                 means
    =====================================  ====================================================================
    ``engine`` or ``kernel``               what the row is about
    ``nr_steps``                           requests, frees and marks
    ``alloc_ns``, ``free_ns``              nanoseconds in stretches of requests and of frees, the table of
                                           objects included; with ``timing=True`` only, and the only columns that
                                           differ from run to run
    ``nr_alloc``, ``nr_failed``            requests served, and not served
    ``nr_failed_atomic``                   those not served that may not sleep
    ``nr_free``, ``nr_free_of_failed``     frees made, and skipped because the request had failed
    ``requested_bytes``                    of all requests served
    ``nr_chunks_created``                  chunks made on the way
    ``cost_...``                           exact counts of the work done: docs/design.md, section 6
    ``nr_max_chunks``                      most chunks at any time
    ``max_memory_bytes``                   most populated bytes at any time, times units
    ``peak_``, ``end_nr_objects``          live objects
    ``peak_``, ``end_nr_chunks``           chunks
    ``peak_``, ``end_requested_bytes``     bytes that live objects were asked with
    ``peak_``, ``end_handed_out_bytes``    bytes that they take, rounding included, gaps not
    ``peak_``, ``end_populated_bytes``     bytes backed by memory, in the served regions of one unit
    ``peak_``, ``end_memory_bytes``        the same times units
    ``peak_``, ``end_metadata_bytes``      maps and records that grow with the memory (once, not for each unit)
    ``..._metadata_per_object_bytes``      the same for each live object
    ``peak_``, ``end_fragmentation``       share of the populated bytes that is not handed out
    ``stats.NAME``                         what an engine in Python says about itself
    =====================================  ====================================================================

    Attributes
    ----------
    phases : Result
        One row an engine and phase of the workload: the counts of the phase, and ``end_`` columns at its end.
    timeline : Result
        With ``sample_every=``: one row an engine and sample, ``step`` and what is held then.
    """

    phases: Result
    timeline: Result
    _facts: dict[str, Result]

    def __init__(self) -> None:
        raise TypeError("use compare(trace_or_workload)")

    @classmethod
    def _wrap(cls, parts: dict[str, Any], facts: dict[str, Result]) -> Comparison:
        self = cls.__new__(cls)
        Result.__init__(self, **parts)
        self._facts = facts
        self.phases, self.timeline = facts["phases"], facts["timeline"]
        return self

    def plot(self, columns: Sequence[str] | None = None, ax: Any = None) -> Any:
        """Draw figures side by side, each relative to the largest.

        Parameters
        ----------
        columns : sequence of str, optional
            Which; memory, hand-outs, chunks and metadata by default.
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
            The axes.
        """
        from percpu.plot.compare import plot_comparison

        return plot_comparison(self, columns, ax)

    def _repr_html_(self) -> str:
        from percpu._rich import comparison_html

        return comparison_html(self, super()._repr_html_())

    def __getitem__(self, key: Any) -> Any:
        """Return a column, a row, or a plain result with some of the rows."""
        if isinstance(key, str):
            return super().__getitem__(key)
        plain = Result(
            dict(self._columns), mask=self._mask, categories=self._categories, dims=self.dims, attrs=self.attrs
        )
        return plain[key]

    def __repr__(self) -> str:
        dim = next(iter(self))
        return f"Comparison({dim}s {', '.join(map(str, self[dim]))}; {len(self._columns) - 1} figures)"

    def __reduce__(self) -> tuple[Any, ...]:
        parts = {"columns": dict(self._columns), "mask": self._mask, "categories": self._categories, "dims": self.dims,
                 "attrs": self.attrs, "units": self._units}  # fmt: skip
        return Comparison._wrap, (parts, self._facts)


def compare(
    what: Trace | Workload,
    engines: Sequence[Any] | None = None,
    *,
    kernels: Sequence[str] | None = None,
    geometry: Any = None,
    request: Mapping[str, Any] | None = None,
    policy: Mapping[str, Any] | None = None,
    timing: bool = True,
    costs: str = "totals",
    sample_every: int = 0,
) -> Comparison:
    """Make the same requests and frees on several engines, one after the other.

    Every engine starts empty on the same machine. Of a trace the requests and frees are made anew, wherever the
    recording put them; frees of what the trace does not show being allocated are left out.

    Parameters
    ----------
    what : Trace or Workload
        What is asked.
    engines : sequence, optional
        Names (see `kernels`), and classes or functions that make an engine in Python for a
        `percpu.engines.Geometry`. All built-in engines by default.
    kernels : sequence of str, optional
        Instead: releases, to see what changed between them.
    geometry : mapping or FirstChunkLayout, optional
        The machine. With ``unit_size`` or ``nr_units`` there is no first chunk; else one is laid out for each release
        from ``static_size``, ``reserved_size``, ``dyn_size``, ``atom_size``, ``nr_cpus`` or ``topology``, and others of
        `FirstChunkLayout.build`. Both take ``page_size``, ``min_alloc_size``, ``block_size`` and ``backend``. By
        default 4 CPUs with static 185496, no reserve, dynamic 28672 and atoms of 2 MiB.
    request : mapping, optional
        Changes of all requests: ``align`` (instead of the given one), ``min_align`` (at least), ``size_multiple``
        (sizes are rounded up to it), ``atomic``.
    policy : mapping, optional
        When the balance worker runs: ``balance`` or ``every``, and its thresholds by name, as for `Allocator`.
    timing : bool, optional
        Measure times. Everything else is the same on every machine and in every run.
    costs : {"totals", "full", "off"}, optional
        Which counts of work: all that need no work of their own, all of them (slower: ``cost_cache_lines``,
        ``cost_chunks_rejected_with_fit`` and ``cost_chunks_unseen_with_fit`` come in), or none.
    sample_every : int, optional
        Steps between two samples of the timeline; 0 for none.

    Returns
    -------
    Comparison
        One row an engine or release, in the given order.

    Raises
    ------
    InvalidRequest, LayoutError
        If an engine or the machine cannot be.
    VerifyError
        If an engine in Python gives an illegal answer.

    Notes
    -----
    Ctrl-C stops it within 100 ms.

    Examples
    --------
    >>> import percpu as pc
    >>> r = compare(pc.workloads.objects(2000, size=64), ["areamap", "linux-5.14"], timing=False)
    >>> r.nr_max_chunks.tolist(), r.peak_handed_out_bytes.tolist()
    ([2, 2], [128000, 128000])
    """
    source = Source(what)
    if engines is not None and kernels is not None:
        raise InvalidRequest("engines= and kernels= exclude each other", parameter="kernels")
    dim = "engine" if kernels is None else "kernel"
    given: Any = kernels if engines is None else engines
    if given is None:
        given = dict.fromkeys(p[1] for p in _core.kernels())
    if isinstance(given, str) or callable(given) or not hasattr(given, "__iter__"):
        raise TypeError(f"{dim}s must be a sequence, not {type(given).__name__}")
    who = list(given)
    if not who:
        raise InvalidRequest(f"{dim}s is empty", parameter=f"{dim}s")
    names = [_name_of(dim, one) for one in who]
    if len(set(names)) < len(names):
        raise InvalidRequest(f"{dim}s has an element twice: {', '.join(names)}", parameter=f"{dim}s")
    fixed: dict[str, Any] = {
        "geometry": geometry_settings(geometry),
        "request": request_settings(request),
        "policy": policy_settings(policy),
    }
    rows: dict[int, dict[str, Any]] = {}

    def told(index: int, row: dict[str, Any], error: BaseException | None) -> None:
        if row["status"] != "ok":
            raise (
                error if error is not None else VerifyError(f"{names[index]}: {row['error']}", invariant="legal-answer")
            )
        rows[index] = row

    points = enumerate(Point(**{dim: one}, **fixed) for one in who)
    every = integer("sample_every", sample_every, 0, 1 << 62)
    # One after the other, so that times mean something.
    how: dict[str, Any] = {
        "timing": bool(timing),
        "phases": True,
        "costs": choice("costs", costs, COSTS),
        "sample_every": every,
    }
    run_points(source, points, told, threads=1, **how)
    attrs = {
        "percpu_version": percpu.__version__,
        "source": source.text,
        "source_hash": source.hash,
        "nr_free_unseen": source._core.info()["nr_free_unseen"],
        **{f"{group}.{name}": str(_plain(value)) for group, parts in fixed.items() for name, value in parts.items()},
    }
    return _comparison(dim, names, [rows[index] for index in range(len(who))], attrs)


def _name_of(dim: str, one: Any) -> str:
    if dim == "engine" and callable(one):
        return engine_name(one)
    if not isinstance(one, str):
        raise TypeError(f"{dim}s must hold names{' or classes' if dim == 'engine' else ''}, not {type(one).__name__}")
    return engine_release(None if dim == "engine" else one, one if dim == "engine" else None, "6.12")[dim == "engine"]


def _comparison(dim: str, names: list[str], rows: list[dict[str, Any]], attrs: dict[str, Any]) -> Comparison:
    parts = {"phases": ("phase",), "samples": ("step",)}
    nested = {name: [row.pop(name) for row in rows] for name in parts}
    for row in rows:
        del row["status"], row["error"]
    columns, mask, _ = columns_of({dim: names}, rows)
    facts: dict[str, Result] = {}
    for name, of in nested.items():
        flat = [(who, row) for who, part in zip(names, of, strict=True) for row in part]
        keys = {dim: [who for who, _ in flat]}
        table, gaps, _ = columns_of(keys, [row for _, row in flat])
        if not flat:
            table = {dim: np.array([], dtype=np.str_), parts[name][0]: np.array([], dtype=np.int64)}
        facts["timeline" if name == "samples" else name] = Result(table, mask=gaps, dims=(dim, *parts[name]))
    whole = {"columns": columns, "mask": mask, "dims": (dim,), "attrs": attrs, "units": {dim: unit_of_parameter(dim)}}
    return Comparison._wrap(whole, facts)
