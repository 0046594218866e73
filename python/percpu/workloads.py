"""Workloads: seeded generators of requests and frees, and running them.

Every procedure is described in words in docs/workloads.md. A `Workload` is small: it holds the parameters, and makes its
steps anew each time they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from percpu import _core
from percpu._checks import choice, column, integer
from percpu.allocator import Allocator
from percpu.errors import InvalidRequest
from percpu.results import Result

__all__ = ["Workload", "WorkloadRun", "make", "names", "objects", "run"]

_KINDS = ("alloc", "free", "phase", "balance")
_PROCEDURES = {row[0]: row for row in _core.procedures()}


class Workload:
    """A seeded generator of requests and frees; made by the functions of this module.

    Two workloads are equal if procedure and parameters are; `fingerprint` is the same on every machine.

    Examples
    --------
    >>> w = objects(1000, size=16, free="alternate")
    >>> w
    objects(n=1000, size=16, align=4, free=alternate, seed=1)
    >>> w.replace(size=64).parameters["size"]
    64
    """

    __slots__ = ("_core",)

    def __init__(self) -> None:
        raise TypeError("use a function of percpu.workloads, for example objects(1000, size=16)")

    @classmethod
    def _wrap(cls, core: _core.Workload) -> Workload:
        self = cls.__new__(cls)
        self._core = core
        return self

    @property
    def name(self) -> str:
        """Name of the procedure."""
        return self._core.name()

    @property
    def parameters(self) -> dict[str, Any]:
        """Every parameter: int, str, or (n,) uint64 array."""
        return self._core.parameters()

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that equal workloads share, for provenance."""
        return f"{self._core.fingerprint():016x}"

    @property
    def needs_places(self) -> bool:
        """Whether steps depend on where objects lie, so that only `run` can make them."""
        return self._core.needs_places()

    def replace(self, **parameters: Any) -> Workload:
        """Return the same workload with other parameters.

        Parameters
        ----------
        **parameters : int, str or array_like of int
            New values by name.

        Returns
        -------
        Workload

        Raises
        ------
        InvalidRequest
            If there is no such parameter, or its value is out of range.
        """
        return Workload._wrap(self._core.replace(_checked(self.name, parameters)))

    def steps(self, batch: int = 1 << 16) -> Iterator[Result]:
        """Iterate over the steps in batches, in bounded memory.

        Parameters
        ----------
        batch : int, optional
            Rows of each but the last.

        Returns
        -------
        iterator of Result
            Columns ``kind`` (a category: ``alloc``, ``free``, ``phase``, ``balance``), ``phase`` (uint32), ``id``
            (uint32, the object), ``size_bytes``, ``align_bytes`` (uint64), ``atomic``, ``reserved`` (bool); the last
            four are 0 but in allocations.

        Raises
        ------
        InvalidRequest
            If the steps depend on where objects lie.

        Examples
        --------
        >>> first = next(objects(10).steps())
        >>> len(first), first.row(1)["kind"], first.row(1)["size_bytes"]
        (22, 'alloc', 4)
        """
        length = integer("batch", batch, 1, 1 << 24)
        if self.needs_places:
            raise InvalidRequest(
                f"workload={self.name}: its steps depend on where objects lie; use run(workload, allocator)",
                parameter="workload",
            )
        return self._batches(length)

    def _batches(self, length: int) -> Iterator[Result]:
        steps = self._core.steps()
        while True:
            rows = Result(steps.next_batch(length), categories={"kind": _KINDS})
            if not len(rows):
                return
            yield rows

    def run(self, allocator: Allocator, *, places: bool = False) -> WorkloadRun:
        """Run it: `run` with this workload."""
        return run(self, allocator, places=places)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Workload) and self._core == other._core

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return self._core.text()

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (self.name, self.parameters)


def _remake(name: str, parameters: dict[str, Any]) -> Workload:
    return Workload._wrap(_core.Workload.make(name, parameters))


def _checked(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters in the form in which the core takes them."""
    kinds = {parameter[0]: parameter[1] for parameter in _PROCEDURES[name][2]}
    checked: dict[str, Any] = {}
    for parameter, value in parameters.items():
        kind = kinds.get(parameter)
        if kind is None:
            known = ", ".join(kinds)
            raise InvalidRequest(
                f"parameter={parameter}: the parameters of {name} are {known}",
                parameter="parameter",
            )
        if kind == "number":
            checked[parameter] = integer(parameter, value)
        elif kind == "list":
            checked[parameter] = column(parameter, value)
        elif isinstance(value, str):
            checked[parameter] = value
        else:
            raise TypeError(f"{parameter} must be a str, not {type(value).__name__}")
    return checked


def names() -> Result:
    """List the workloads.

    Returns
    -------
    Result
        ``workload`` and ``summary`` (str), ``parameters`` (str: names and defaults).

    Examples
    --------
    >>> "objects" in list(names().workload)
    True
    """
    texts = []
    for _, _, parameters, _ in _PROCEDURES.values():
        shown = [p[0] if p[2] is None else f"{p[0]}={np.array(p[2]).tolist()}" for p in parameters]
        texts.append(", ".join(shown))
    return Result(
        {
            "workload": np.array(list(_PROCEDURES)),
            "summary": np.array([row[1] for row in _PROCEDURES.values()]),
            "parameters": np.array(texts),
        },
        dims=("workload",),
    )


def make(name: str, **parameters: Any) -> Workload:
    """Make a workload by the name of its procedure.

    Parameters
    ----------
    name : str
        One of ``names().workload``.
    **parameters : int, str or array_like of int
        What shall not have its default.

    Returns
    -------
    Workload

    Raises
    ------
    InvalidRequest
        If there is no such workload or parameter, or a value is out of range.

    Examples
    --------
    >>> make("objects", n=10).fingerprint == objects(10).fingerprint
    True
    """
    choice("name", name, tuple(_PROCEDURES))
    return Workload._wrap(_core.Workload.make(name, _checked(name, parameters)))


def objects(n: int, size: int = 4, align: int = 4, free: str = "in-order", seed: int = 1) -> Workload:
    """Objects of one size, allocated one after another and then all freed: the published tests 1 to 3.

    Parameters
    ----------
    n : int
        Objects, up to 2^27.
    size, align : int, optional
        Bytes of each, and its alignment in bytes.
    free : {"in-order", "alternate", "reverse", "random"}, optional
        Order of the frees; "alternate" frees the even ones first.
    seed : int, optional
        Of the random order.

    Returns
    -------
    Workload
        Phases ``alloc`` and ``free``.

    Examples
    --------
    >>> a = Allocator(unit_size=256 << 10, nr_units=2)
    >>> run(objects(1000, size=64), a).nr_alloc
    array([1000,    0], dtype=uint64)
    """
    return make("objects", n=n, size=size, align=align, free=free, seed=seed)


class WorkloadRun(Result):
    """What came of a workload: one row a phase, in the order in which phases were entered; made by `run`.

    Columns (uint64 but for ``phase``, a category): ``nr_alloc`` (requests served), ``nr_failed``, ``nr_free``,
    ``nr_free_skipped`` (the object had failed), ``alloc_bytes`` (of the requests served), ``nr_chunks_created``; at the
    end of the phase ``nr_live``, ``live_bytes``, ``nr_chunks``, ``populated_pages``; the most during the phase
    ``nr_live_peak``, ``peak_live_bytes``, ``nr_chunks_peak``, ``peak_populated_pages``; and ``time_ns``, the only
    one that is not the same in every run. Bytes are those of the requests and of one CPU; pages those of one CPU that
    were populated and are so still, without the boot area.

    Attributes
    ----------
    requests : Result
        With ``places=True`` one row a request: ``entry`` (row of this table), ``id``, ``size_bytes``, ``align_bytes``,
        ``atomic``, ``reserved``, ``reason`` (0 or a code of `AllocBatch.reasons`), ``chunk``, ``off_bytes``,
        ``unit_off_bytes`` (these three missing where it failed).
    failures : dict of str to (n,) array
        Failed requests of each phase by reason, reasons without failures left out.
    """

    def __init__(self) -> None:
        raise TypeError("use run(workload, allocator)")

    @classmethod
    def _wrap(cls, core: _core.WorkloadRun, workload: Workload, places: bool) -> WorkloadRun:
        columns: dict[str, Any] = core.phases()
        entered, codes = np.unique(columns["phase"], return_inverse=True)
        texts = tuple(workload._core.phase_name(int(phase)) for phase in entered)
        columns["phase"] = codes.astype(np.uint32)
        requests = None
        if places:
            rows = core.requests()
            failed = rows["reason"] != 0
            mask = {name: failed for name in ("chunk", "off_bytes", "unit_off_bytes") if failed.any()}
            requests = Result(rows, mask=mask)
        counts = np.array(core.failures(), dtype=np.uint64).reshape(len(codes), len(_core.REASONS))
        reasons = (name for name, _ in _core.REASONS)
        failures = {name: counts[:, code] for code, name in enumerate(reasons) if counts[:, code].any()}
        attrs = {"workload": repr(workload), "fingerprint": workload.fingerprint, "nr_steps": core.nr_steps()}
        facts = {"requests": requests, "failures": failures}
        return _rebuild(columns, {"phase": texts}, attrs, facts)

    @property
    def requests(self) -> Result:
        """One row a request."""
        if self._facts["requests"] is None:
            raise InvalidRequest("requests were not kept: use run(..., places=True)", parameter="places")
        return self._facts["requests"]

    @property
    def failures(self) -> dict[str, np.ndarray]:
        """Failed requests of each phase, by reason."""
        return dict(self._facts["failures"])

    def __getitem__(self, key: Any) -> Any:
        """Return a column, a row, or a plain result with some of the rows."""
        if isinstance(key, str):
            return super().__getitem__(key)
        return Result(dict(self._columns), categories=self._categories, attrs=self.attrs)[key]

    def __repr__(self) -> str:
        served, failed = int(self.nr_alloc.sum()), int(self.nr_failed.sum())
        return f"WorkloadRun({self.attrs['nr_steps']} steps, {served} served, {failed} failed)"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (dict(self._columns), self._categories, self.attrs, self._facts)


def _rebuild(columns: Any, categories: Any, attrs: Any, facts: dict[str, Any]) -> WorkloadRun:
    self = WorkloadRun.__new__(WorkloadRun)
    Result.__init__(self, columns, categories=categories, attrs=attrs)
    self._facts = facts
    return self


def run(workload: Workload, allocator: Allocator, *, places: bool = False) -> WorkloadRun:
    """Run a workload on an allocator.

    The allocator is moved on: afterwards it has the state at the end. The balance worker runs by the allocator's own
    policy, and where the workload says so. A request that fails is counted, and its free skipped.

    Parameters
    ----------
    workload : Workload
        What to do.
    allocator : Allocator
        In any state; of any engine.
    places : bool, optional
        Keep a row for each request.

    Returns
    -------
    WorkloadRun
        One row a phase.

    Notes
    -----
    Ctrl-C stops it, and leaves the allocator as it was.

    Examples
    --------
    >>> a = Allocator(unit_size=256 << 10, nr_units=2, engine="areamap")
    >>> r = run(objects(5000, size=64), a, places=True)
    >>> int(r.nr_chunks_peak.max()), r.requests.row(3)["off_bytes"]
    (2, 192)
    """
    if not isinstance(workload, Workload):
        raise TypeError(f"workload must be a Workload, not {type(workload).__name__}")
    if not isinstance(allocator, Allocator):
        raise TypeError(f"allocator must be an Allocator, not {type(allocator).__name__}")
    return WorkloadRun._wrap(_core.run_workload(workload._core, allocator._core, places), workload, places)
