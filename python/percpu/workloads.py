"""Workloads: seeded generators of requests and frees, and running them.

Every procedure is described in words in docs/workloads.md. A `Workload` holds the parameters, and makes its steps anew
each time they are asked for.
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
from percpu.trace import Trace

__all__ = [
    "Workload",
    "WorkloadRun",
    "align_storm",
    "atomic_burst",
    "bpf_maps",
    "cgroups",
    "fill_level",
    "fit",
    "four_at_eight",
    "head_pinning",
    "make",
    "mixture",
    "module_load",
    "names",
    "netns",
    "objects",
    "queue",
    "random",
    "recorded",
    "run",
    "size_ladder",
    "steps",
    "vmalloc_test",
]

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
            The same procedure with other parameters.

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

    def run(self, allocator: Allocator, *, places: bool = False, split: bool = False) -> WorkloadRun:
        """Run it: `run` with this workload.

        Parameters
        ----------
        allocator : Allocator
            As for `run`.
        places : bool, optional
            As for `run`.
        split : bool, optional
            As for `run`.

        Returns
        -------
        WorkloadRun
            One row a phase.
        """
        return run(self, allocator, places=places, split=split)

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
        The workload; its steps are made when it runs.

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


def fill_level(
    n: int, size: int = 4, align: int = 4, level: int = 2, free: str = "in-order", page_size: int = 4096
) -> Workload:
    """Pages with the first ``1/level`` free, filled again and emptied: the published tests 5 and 6.

    Parameters
    ----------
    n : int
        Objects of the second batch; the first has twice as many.
    size, align : int, optional
        Bytes of each, and its alignment in bytes.
    level : int, optional
        Of each page of the first batch ``1/level`` is freed before the second batch.
    free : {"in-order", "reverse"}, optional
        Order in which the second batch is freed: test 5 or test 6.
    page_size : int, optional
        Bytes that count as a page.

    Returns
    -------
    Workload
        Phases ``alloc 1`` (the first batch, and the gaps), ``alloc 2``, ``free 1`` (the second batch), ``free 2``.

    Examples
    --------
    >>> run(fill_level(100, size=64), Allocator(unit_size=256 << 10, nr_units=2)).nr_free
    array([104,   0, 100,  96], dtype=uint64)
    """
    return make("fill_level", n=n, size=size, align=align, level=level, free=free, page_size=page_size)


def four_at_eight(n: int) -> Workload:
    """Objects of 4 bytes at alignment 8: the published contrived case, in which no gap ever fits.

    Parameters
    ----------
    n : int
        Objects. The published figures are for a million; the area map needs time in proportion to the square.

    Returns
    -------
    Workload
        Phases ``alloc`` and ``free``.

    Examples
    --------
    >>> run(four_at_eight(1000), Allocator(unit_size=256 << 10, nr_units=2), places=True).requests.row(7)["off_bytes"]
    56
    """
    return make("four_at_eight", n=n)


def head_pinning(n: int = 200_000, size: int = 16, align: int = 16, keep_every: int = 200) -> Workload:
    """Fill chunks, free all but the first pages and every so many, and allocate as many again.

    Since 5.2 the hints of the emptied chunks stay as low as they were when the chunks were full, so that what comes
    next goes into new chunks. Steps depend on where objects lie.

    Parameters
    ----------
    n : int, optional
        Objects at first.
    size, align : int, optional
        Bytes of each, and its alignment in bytes.
    keep_every : int, optional
        Objects 0, ``keep_every``, ... stay, besides those on the first page of every chunk but the first.

    Returns
    -------
    Workload
        Phases ``fill``, ``thin``, ``refill``.

    Examples
    --------
    >>> for kernel in ("4.19", "6.12"):
    ...     a = Allocator(unit_size=64 << 10, nr_units=2, kernel=kernel)
    ...     print(kernel, run(head_pinning(20_000), a).nr_chunks_created.tolist())
    4.19 [6, 0, 0]
    6.12 [6, 0, 2]
    """
    return make("head_pinning", n=n, size=size, align=align, keep_every=keep_every)


def bpf_maps(
    n: int = 200,
    live: int = 20,
    kinds: Any = (0, 1, 2),
    elements: Any = (1, 16, 64, 256, 1024, 4096),
    values: Any = (8, 8, 16, 24, 40, 64, 256, 2000),
    update_percent: int = 50,
    seed: int = 1,
) -> Workload:
    """BPF maps with values for each CPU, made, updated and closed.

    Parameters
    ----------
    n : int, optional
        Times that a map, drawn at random, is closed and another made.
    live : int, optional
        Maps that exist meanwhile.
    kinds : array_like of int, optional
        0 array, 1 hash, 2 hash without preallocation (its elements are atomic requests); one drawn for each map.
    elements : array_like of int, optional
        Numbers of elements, one drawn for each map.
    values : array_like of int, optional
        Bytes of a value, one drawn for each map, and rounded up to 8.
    update_percent : int, optional
        Of the elements of a new map of kind 2, deleted at random and inserted again.
    seed : int, optional
        Of the random numbers.

    Returns
    -------
    Workload
        Phases ``fill``, ``churn``, ``drain``, ``left over``.

    Examples
    --------
    >>> r = run(bpf_maps(5, live=3, elements=100), Allocator(unit_size=1 << 20, nr_units=2))
    >>> list(r.nr_live[[0, 3]] > 0)
    [np.True_, np.False_]
    """
    return make(
        "bpf_maps",
        n=n,
        live=live,
        kinds=kinds,
        elements=elements,
        values=values,
        update_percent=update_percent,
        seed=seed,
    )


def cgroups(
    n: int = 2000,
    live: int = 300,
    leftover_percent: int = 20,
    leftover_life: int = 0,
    seed: int = 1,
    **objects: Any,
) -> Workload:
    """Control groups made and removed, some of which leave their memory statistics behind.

    Parameters
    ----------
    n : int, optional
        Times that a group, drawn at random, is removed and another made.
    live : int, optional
        Groups that exist meanwhile.
    leftover_percent : int, optional
        Chance that a removed group leaves objects behind, because pages are still charged to it.
    leftover_life : int, optional
        Removals after which these are freed; 0 means in the last phase.
    seed : int, optional
        Of the random numbers.
    **objects : array_like of int
        ``sizes`` and ``aligns`` of the objects of a group in bytes, ``order`` in which they are freed, ``leftover``:
        those that can stay behind, by number. The defaults were recorded on 6.12.

    Returns
    -------
    Workload
        Phases ``fill``, ``churn``, ``drain`` (all groups removed, oldest first), ``left over``.

    Examples
    --------
    >>> r = run(cgroups(50, live=10, leftover_percent=100), Allocator(unit_size=256 << 10, nr_units=4))
    >>> r.nr_live
    array([160, 310, 180,   0], dtype=uint64)
    """
    return make(
        "cgroups",
        n=n,
        live=live,
        leftover_percent=leftover_percent,
        leftover_life=leftover_life,
        seed=seed,
        **objects,
    )


def netns(
    n: int = 2000,
    live: int = 100,
    leftover_percent: int = 0,
    leftover_life: int = 0,
    seed: int = 1,
    **objects: Any,
) -> Workload:
    """Network namespaces made and removed.

    Parameters
    ----------
    n : int, optional
        Times that a namespace, drawn at random, is removed and another made.
    live : int, optional
        Namespaces that exist meanwhile.
    leftover_percent, leftover_life : int, optional
        As of `cgroups`; which objects can stay behind must be given as ``leftover``.
    seed : int, optional
        Of the random numbers.
    **objects : array_like of int
        As of `cgroups`. The defaults were recorded on 6.12.

    Returns
    -------
    Workload
        Phases ``fill``, ``churn``, ``drain``, ``left over``.

    Examples
    --------
    >>> r = run(netns(100, live=30), Allocator(unit_size=256 << 10, nr_units=4))
    >>> r.live_bytes.tolist() == [30 * 3392, 30 * 3392, 0, 0]
    True
    """
    return make(
        "netns",
        n=n,
        live=live,
        leftover_percent=leftover_percent,
        leftover_life=leftover_life,
        seed=seed,
        **objects,
    )


def vmalloc_test(n: int = 35_000, rounds: int = 1, page_size: int = 4096, seed: int = 1) -> Workload:
    """Sizes 1 to page/4 at alignments 2 to 2048, as the kernel's vmalloc test mixes them.

    Parameters
    ----------
    n : int, optional
        Objects of a round.
    rounds : int, optional
        All objects of a round are freed, in order, before the next.
    page_size : int, optional
        Four times the largest size, bytes.
    seed : int, optional
        Of the random numbers.

    Returns
    -------
    Workload
        Phases ``alloc`` and ``free``, once a round.

    Examples
    --------
    >>> len(run(vmalloc_test(1000, rounds=2), Allocator(unit_size=1 << 20, nr_units=2)))
    4
    """
    return make("vmalloc_test", n=n, rounds=rounds, page_size=page_size, seed=seed)


def mixture(n: int, sizes: Any = 64, aligns: Any = 8, seed: int = 1, **classes: Any) -> Workload:
    """Classes of requests by weight, each with its own lifetimes; see `fit`.

    Parameters
    ----------
    n : int
        Objects.
    sizes, aligns : array_like of int, optional
        Of each class, bytes.
    seed : int, optional
        Of the random numbers.
    **classes : array_like of int
        For each class: ``flags`` (1 atomic, 2 reserved, or both), ``weights``, ``lasting`` (objects that are freed
        at the end only, parts per million). ``lifetimes``: allocations between an object's own and its free, as many
        for each class, class after class; one of them is drawn for each object. Zeros and 100 by default.

    Returns
    -------
    Workload
        Phases ``mix`` and ``free``.

    Raises
    ------
    InvalidRequest
        If the lists do not belong together.

    Examples
    --------
    >>> w = mixture(1000, sizes=[8, 512], aligns=[8, 64], weights=[9, 1], lifetimes=[10, 1000])
    >>> int(run(w, Allocator(unit_size=256 << 10, nr_units=2)).nr_alloc.sum())
    1000
    """
    k = len(np.atleast_1d(sizes))
    given = {"flags": np.zeros(k, int), "weights": np.ones(k, int), "lasting": np.zeros(k, int)}
    given |= {"lifetimes": np.full(k, 100)} | classes
    return make("mixture", n=n, sizes=sizes, aligns=aligns, seed=seed, **given)


def fit(trace: Trace, n: int | None = None, seed: int = 1) -> Workload:
    """Fit a `mixture` to a recorded trace.

    Sizes, alignments, flags, weights and lifetimes (32 quantiles a class) are those of the trace; call sites are not
    kept, nor that requests of one call site come in bursts. Failed requests count as objects of lifetime 0.

    Parameters
    ----------
    trace : Trace
        With at least one request. Frees of what it does not show being allocated tell nothing.
    n : int, optional
        Objects; by default as many as the trace has requests.
    seed : int, optional
        Of the random numbers.

    Returns
    -------
    Workload
        Phases ``mix`` and ``free``.

    Raises
    ------
    TraceError
        If the trace has no request.

    Examples
    --------
    >>> from importlib.resources import files
    >>> from percpu import read_trace
    >>> w = fit(read_trace(files("percpu") / "data" / "demo" / "workload" / "trace.txt.gz"), n=1000)
    >>> w.name, w.parameters["n"]
    ('mixture', 1000)
    """
    if not isinstance(trace, Trace):
        raise TypeError(f"trace must be a Trace, not {type(trace).__name__}")
    if n is None:
        kinds = _core.EVENT_KINDS
        n = int(np.isin(trace["kind"], [kinds.index("alloc"), kinds.index("fail")]).sum())
    return Workload._wrap(_core.fit_workload(trace._core, integer("n", n), integer("seed", seed)))


def recorded(trace: Trace) -> Workload:
    """Take the requests and frees of a trace, as steps for any engine.

    Frees of what the trace does not show being allocated are dropped; a failed request is made, and given back at
    once; where a place is allocated that is live, its free was lost, and comes before. The balance worker runs by the
    allocator's policy.

    Parameters
    ----------
    trace : Trace
        Sizes and alignments are those of the trace, after the rounding of the kernel that wrote it.

    Returns
    -------
    Workload
        A `steps` workload; no phases.

    Examples
    --------
    >>> from importlib.resources import files
    >>> from percpu import read_trace
    >>> w = recorded(read_trace(files("percpu") / "data" / "demo" / "boot" / "trace.txt.gz"))
    >>> int(run(w, Allocator(unit_size=256 << 10, nr_units=4)).nr_failed.sum())
    0
    """
    if not isinstance(trace, Trace):
        raise TypeError(f"trace must be a Trace, not {type(trace).__name__}")
    return Workload._wrap(_core.workload_of_trace(trace._core))


def random(
    n: int,
    sizes: Any = (8, 16, 32, 64, 128, 256),
    aligns: Any = (4, 8, 16),
    free_percent: int = 45,
    seed: int = 1,
) -> Workload:
    """Random requests and frees in a given ratio.

    Parameters
    ----------
    n : int
        Operations before the last frees.
    sizes, aligns : array_like of int, optional
        Bytes; one of each is drawn for each request.
    free_percent : int, optional
        Chance of a free where there is something to free.
    seed : int, optional
        Of the random numbers.

    Returns
    -------
    Workload
        Phases ``mix`` and ``free``.

    Examples
    --------
    >>> r = run(random(1000, seed=3), Allocator(unit_size=256 << 10, nr_units=2))
    >>> int(r.nr_alloc.sum() - r.nr_free.sum())
    0
    """
    return make("random", n=n, sizes=sizes, aligns=aligns, free_percent=free_percent, seed=seed)


def queue(n: int, depth: int = 1000, size: int = 16, align: int = 8) -> Workload:
    """A window of live objects, the oldest freed first.

    Parameters
    ----------
    n : int
        Objects.
    depth : int, optional
        Whenever more are live, the oldest is freed before the next allocation.
    size, align : int, optional
        Bytes of each, and its alignment in bytes.

    Returns
    -------
    Workload
        Phases ``queue`` and ``free``.

    Examples
    --------
    >>> run(queue(5000, depth=100), Allocator(unit_size=256 << 10, nr_units=2)).nr_live_peak
    array([101, 101], dtype=uint64)
    """
    return make("queue", n=n, depth=depth, size=size, align=align)


def size_ladder(repeat: int = 100, page_size: int = 4096) -> Workload:
    """Sizes 4, 8, ..., 32768 bytes, as many of each, aligned to their size up to a page; freed in order.

    Parameters
    ----------
    repeat : int, optional
        Objects of each size.
    page_size : int, optional
        Largest alignment, bytes.

    Returns
    -------
    Workload
        Phases ``alloc`` and ``free``.

    Examples
    --------
    >>> int(run(size_ladder(2), Allocator(unit_size=256 << 10, nr_units=2)).nr_alloc.sum())
    28
    """
    return make("size_ladder", repeat=repeat, page_size=page_size)


def align_storm(n: int, size: int = 8, page_size: int = 4096) -> Workload:
    """One size at alignments 4, 8, ..., a page, in turn; freed in order.

    Parameters
    ----------
    n : int
        Objects.
    size : int, optional
        Bytes of each.
    page_size : int, optional
        Largest alignment, bytes.

    Returns
    -------
    Workload
        Phases ``alloc`` and ``free``.

    Examples
    --------
    >>> int(run(align_storm(22), Allocator(unit_size=256 << 10, nr_units=2)).nr_alloc.sum())
    22
    """
    return make("align_storm", n=n, size=size, page_size=page_size)


def module_load(n: int, seed: int = 1) -> Workload:
    """Static data of modules from the reserved region, unloaded in reverse order.

    Parameters
    ----------
    n : int
        Modules.
    seed : int, optional
        Of the random numbers.

    Returns
    -------
    Workload
        Phases ``load`` and ``unload``. Without a reserved region the requests are ordinary ones.

    Examples
    --------
    >>> int(run(module_load(10), Allocator(unit_size=256 << 10, nr_units=2)).nr_alloc.sum())
    10
    """
    return make("module_load", n=n, seed=seed)


def atomic_burst(bursts: int = 100, n: int = 100, size: int = 64, align: int = 8) -> Workload:
    """Bursts of atomic requests, the balance worker once after each; all freed in order at the end.

    Parameters
    ----------
    bursts : int, optional
        How many.
    n : int, optional
        Requests of each.
    size, align : int, optional
        Bytes of each, and its alignment in bytes.

    Returns
    -------
    Workload
        Phases ``bursts`` and ``free``.

    Examples
    --------
    >>> a = Allocator(unit_size=256 << 10, nr_units=2, balance="manual")
    >>> list(run(atomic_burst(2, n=3), a).failures)
    ['no_space']
    """
    return make("atomic_burst", bursts=bursts, n=n, size=size, align=align)


def steps(kind: Any, id: Any, size_bytes: Any, align_bytes: Any, flags: Any) -> Workload:
    """Steps given one by one, in columns of equal length.

    Parameters
    ----------
    kind : (n,) array_like of int
        0 allocation, 1 free, 2 start of a phase, 3 balance worker.
    id : (n,) array_like of int
        Object, below n; number of the phase.
    size_bytes, align_bytes : (n,) array_like of int
        Of an allocation; ignored elsewhere.
    flags : (n,) array_like of int
        Of an allocation: 1 atomic, 2 reserved, or both; ignored elsewhere.

    Returns
    -------
    Workload
        The workload.

    Raises
    ------
    InvalidRequest
        If a live object is allocated, or one freed that is not live.

    Examples
    --------
    >>> w = steps([0, 0, 1], [0, 1, 0], [64, 8, 0], [8, 8, 0], [0, 0, 0])
    >>> int(run(w, Allocator(unit_size=256 << 10, nr_units=2)).nr_live[-1])
    1
    """
    return make("steps", kind=kind, id=id, size_bytes=size_bytes, align_bytes=align_bytes, flags=flags)


class WorkloadRun(Result):
    """What came of a workload: one row a phase, in the order in which phases were entered; made by `run`.

    Columns (uint64 but for ``phase``, a category): ``nr_alloc`` (requests served), ``nr_failed``, ``nr_free``,
    ``nr_free_skipped`` (the object had failed), ``alloc_bytes`` (of the requests served), ``nr_chunks_created``; at
    the end of the phase ``nr_live``, ``live_bytes``, ``nr_chunks``, ``populated_pages``; the most during the phase
    ``nr_live_peak``, ``peak_live_bytes``, ``nr_chunks_peak``, ``peak_populated_pages``; where the engine counts its
    work ``cost_words_read`` and so on, the counters of docs/design.md section 6; and ``time_ns``. With ``split=True``
    also ``alloc_cost_words_read`` and so on and ``alloc_time_ns``: the part of the requests. Only times differ from
    run to run. Bytes are those of the requests and of one CPU; pages those of one CPU that were populated and are so
    still, without the boot area.

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


def run(workload: Workload, allocator: Allocator, *, places: bool = False, split: bool = False) -> WorkloadRun:
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
    split : bool, optional
        Keep work and time of the requests apart from the rest of each phase. The clock is then read each time that
        requests and frees take turns, which takes time as well.

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
    return WorkloadRun._wrap(_core.run_workload(workload._core, allocator._core, places, split), workload, places)
