"""The published workloads on the models: one row a case, engine and phase."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from percpu._checks import integer
from percpu.allocator import Allocator
from percpu.layout import FirstChunkLayout, Topology
from percpu.published.tables import ORDERS
from percpu.results import Result
from percpu.workloads import Workload, fill_level, four_at_eight, objects, run

# Engines of the published comparison, and the kernels that stand for them.
ENGINES = {"areamap": "4.13", "rfc-v1": "rfc-v1", "linux-4.14": "4.14"}
_SIZES = (4, 16, 64, 128, 256, 1024)


class Case(NamedTuple):
    """A published workload.

    Attributes
    ----------
    test : str
        ``plain`` (tests 1 to 3), ``fill level`` (5 and 6) or ``4 at 8``.
    size : int
        Bytes of an object.
    order : str
        Order of the frees.
    level : int
        Fill level, 0 where there is none.
    """

    test: str
    size: int
    order: str
    level: int = 0

    def workload(self, n: int) -> Workload:
        """Make the workload with batches of `n` objects.

        Parameters
        ----------
        n : int
            Objects; published: 2^20.

        Returns
        -------
        Workload

        Examples
        --------
        >>> Case("plain", 64, "reverse").workload(1000)
        objects(n=1000, size=64, align=4, free=reverse, seed=1)
        """
        if self.test == "plain":
            return objects(n, size=self.size, free=self.order)
        if self.test == "fill level":
            return fill_level(n, size=self.size, level=self.level, free=self.order)
        return four_at_eight(n)


PLAIN = tuple(Case("plain", size, order) for size in _SIZES for order in ORDERS)
FILL = tuple(
    Case("fill level", size, order, level)
    for size in _SIZES
    if size != 128
    for order in ("in-order", "reverse")
    for level in (2, 4)
)
CONTRIVED = Case("4 at 8", 4, "in-order")
CASES: tuple[Case, ...] = (*PLAIN, *FILL)


def machine(engine: str, block_size: int | None = None) -> Allocator:
    """Make the allocator of the comparison: four CPUs, units of 512 KiB, a first chunk with 28672 bytes free.

    Parameters
    ----------
    engine : str
        ``areamap``, ``rfc-v1`` or ``linux-4.14``.
    block_size : int, optional
        Bytes that a block describes; a page by default.

    Returns
    -------
    Allocator

    Examples
    --------
    >>> a = machine("areamap")
    >>> a.unit_size, a.chunks[0].free_bytes
    (524288, 28672)
    """
    import warnings

    with warnings.catch_warnings():
        # 4.14 is 4.19 in all that matters here, which is compared with the kernel's own code.
        warnings.simplefilter("ignore", UserWarning)
        layout = FirstChunkLayout.build(
            static_size=184_320,
            reserved_size=0,
            dyn_size=28_672,
            atom_size=2 << 20,
            topology=Topology.from_nodes([4]),
            kernel=ENGINES.get(engine, engine),
            block_size=block_size,
        )
        return Allocator(layout)


def measure(
    n: int = 1 << 20,
    contrived: int = 1 << 16,
    *,
    cases: Iterable[Case] = CASES,
    engines: Iterable[str] = ("areamap", "rfc-v1", "linux-4.14"),
    make: Callable[[str], Allocator] = machine,
    threads: int = 1,
) -> Result:
    """Run published workloads, and count.

    Parameters
    ----------
    n : int, optional
        Objects of a batch; published: 2^20.
    contrived : int, optional
        Objects of the contrived case, 0 = not at all; published: a million, for which the area map needs very long.
    cases : iterable of Case, optional
        Which workloads.
    engines : iterable of str, optional
        On which engines; ``rfc-v1`` runs the plain tests only, as published.
    make : callable, optional
        Allocator of an engine.
    threads : int, optional
        Runs at a time. Times are less disturbed with 1.

    Returns
    -------
    Result
        One row a phase: ``test``, ``engine``, ``order``, ``phase`` (str), ``size_bytes``, ``level``, ``n`` (int64) and
        the columns of `WorkloadRun`; missing where an engine does not count its work.

    Examples
    --------
    >>> r = measure(1000, 0, cases=CASES[:1], engines=["linux-4.14"])
    >>> r.phase.tolist(), r.nr_free.tolist()
    (['alloc', 'free'], [0, 1000])
    """
    jobs = [
        (case, engine, n)
        for case in cases
        for engine in engines
        if not (engine == "rfc-v1" and case.test != "plain") and not (engine == "linux-4.14" and case.size == 128)
    ]
    jobs += [(CONTRIVED, engine, contrived) for engine in engines if contrived and engine != "rfc-v1"]

    def one(job: tuple[Case, str, int]) -> list[dict[str, Any]]:
        case, engine, count = job
        rows = run(case.workload(count), make(engine))
        head = {"test": case.test, "engine": engine, "size_bytes": case.size, "order": case.order}
        return [head | {"level": case.level, "n": count} | row for row in rows.rows()]

    if integer("threads", threads, 1, 1 << 10) == 1:
        # In the thread of the caller, where a run notices Ctrl-C.
        rows = [row for job in jobs for row in one(job)]
    else:
        with ThreadPoolExecutor(threads) as pool:
            rows = [row for found in pool.map(one, jobs) for row in found]
    names = list(dict.fromkeys(name for row in rows for name in row))
    mask = {name: np.array([name not in row for row in rows]) for name in names}
    mask = {name: missing for name, missing in mask.items() if missing.any()}
    return Result({name: np.array([row.get(name, 0) for row in rows]) for name in names}, mask=mask)
