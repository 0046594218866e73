"""For tests of allocators: fixtures for pytest, strategies for hypothesis.

The fixtures are there wherever the package is installed (it registers itself with pytest):

=====================  ==============================================================================================
``engine``             name of an engine; the test runs once for each. ``@pytest.mark.parametrize("engine", [...],
                       indirect=True)`` chooses others
``allocator``          an empty allocator of that engine, 4 units of 256 KiB without a first chunk unless
                       ``@pytest.mark.percpu(...)`` gives other arguments of `Allocator`; after the test its invariants
                       are checked
``recorded_trace``     21,686 events of a Linux 6.12, recorded while a test module allocated and freed
=====================  ==============================================================================================

The strategies are functions; hypothesis is imported when one is called.

Examples
--------
>>> from hypothesis import given, settings
>>> from percpu import Allocator
>>> @settings(max_examples=20, database=None)
... @given(operations())
... def no_bytes_are_lost(ops):
...     a = Allocator(unit_size=64 << 10, nr_units=2)
...     a.free_many([ptr for ptr, _, _ in run_operations(a, ops)])
...     assert a.stats()["nr_cur_alloc"] == 0
...     a.verify()
>>> no_bytes_are_lost()
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import percpu
from percpu import _core

__all__ = ["Alloc", "Free", "allocator", "engine", "geometries", "layouts", "operations", "recorded_trace", "requests",
           "run_operations"]  # fmt: skip

ENGINES = tuple(dict.fromkeys(preset[1] for preset in _core.kernels()))
_MARK = "percpu(**arguments): arguments of percpu.Allocator for the fixture `allocator`"


class Alloc(NamedTuple):
    """A request.

    Attributes
    ----------
    size, align : int
        Bytes.
    atomic : bool
        Whether it may not sleep.
    """

    size: int
    align: int
    atomic: bool = False


class Free(NamedTuple):
    """A free.

    Attributes
    ----------
    which : int
        Counts the live areas, oldest first; modulo their number, so that every number means one.
    """

    which: int


# -- pytest ------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", _MARK)


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Name of an engine: each in turn."""
    return str(request.param)


@pytest.fixture
def allocator(request: pytest.FixtureRequest, engine: str) -> Iterator[percpu.Allocator]:
    """An empty allocator of each engine, whose invariants are checked after the test."""
    given: dict[str, Any] = {"unit_size": 256 << 10, "nr_units": 4}
    for mark in request.node.iter_markers("percpu"):
        given.update(mark.kwargs)
        break
    if not {"kernel", "layout"} & set(given):
        given["engine"] = engine
    made = percpu.Allocator(**given)
    yield made
    made.verify()


@pytest.fixture(scope="session")
def recorded_trace() -> percpu.Trace:
    """A recording that comes with the package."""
    return percpu.read_trace(Path(__file__).parent / "data" / "demo" / "workload" / "trace.txt.gz")


# -- hypothesis --------------------------------------------------------------------------


def _strategies() -> Any:
    try:
        from hypothesis import strategies
    except ImportError as error:
        raise ImportError("hypothesis is needed here: pip install hypothesis") from error
    return strategies


def geometries(*, max_unit_size: int = 1 << 20, max_units: int = 8, free: bool = False) -> Any:
    """Machines without a first chunk.

    Parameters
    ----------
    max_unit_size : int, optional
        Bytes; units are whole pages.
    max_units : int, optional
        Copies.
    free : bool, optional
        Also page, granule and block sizes that no kernel has (for the engines from 4.14 on).

    Returns
    -------
    strategy of dict
        Arguments of `Allocator`.
    """
    st = _strategies()
    pages = [4096, 16384, 65536] if not free else [1024, 4096, 16384, 65536]
    pages = [page for page in pages if page <= max_unit_size]

    @st.composite
    def draw_one(draw: Any) -> dict[str, int]:
        page = draw(st.sampled_from(pages))
        sizes = {"page_size": page}
        granule = page
        if free:
            sizes["min_alloc_size"] = draw(st.sampled_from([2, 4, 8, 16]))
            blocks = [page >> k for k in range(1, 5)] + [page << k for k in range(5) if page << k <= max_unit_size]
            sizes["block_size"] = draw(st.sampled_from(blocks))
            granule = max(page, sizes["block_size"])
        sizes["unit_size"] = granule * draw(st.integers(1, max_unit_size // granule))
        sizes["nr_units"] = draw(st.integers(1, max_units))
        return sizes

    return draw_one()


def requests(*, max_size: int = 2048, max_align: int = 256, atomic: bool | None = False) -> Any:
    """Requests that some machine can serve.

    Parameters
    ----------
    max_size, max_align : int, optional
        Bytes; alignments are powers of two. Small sizes are likelier, as in a kernel.
    atomic : bool, optional
        Whether they may not sleep; None for some of each.

    Returns
    -------
    strategy of Alloc
        Draws requests.
    """
    st = _strategies()
    size = st.one_of(st.integers(1, max_size), st.integers(1, min(max_size, 64)), st.sampled_from([4, 8, 16, max_size]))
    align = st.sampled_from([1 << k for k in range(max(max_align, 1).bit_length()) if 1 << k <= max_align])
    sleeps = st.booleans() if atomic is None else st.just(atomic)
    return st.builds(Alloc, size, align, sleeps)


def operations(*, max_length: int = 200, free_share: int = 40, **limits: Any) -> Any:
    """Lists of requests and frees.

    Parameters
    ----------
    max_length : int, optional
        Longest list.
    free_share : int, optional
        Frees among a hundred operations, about.
    **limits
        Of `requests`.

    Returns
    -------
    strategy of list of Alloc or Free
        For `run_operations`. They shrink to few, small requests.
    """
    st = _strategies()
    one = requests(**limits)
    kinds = st.integers(0, 99).flatmap(lambda n: one if n >= free_share else st.builds(Free, st.integers(0, 1 << 16)))
    return st.lists(kinds, max_size=max_length)


def layouts(*, max_cpus: int = 16, max_nodes: int = 4, kernel: str = "6.12") -> Any:
    """First chunks of machines.

    Parameters
    ----------
    max_cpus, max_nodes : int, optional
        CPUs are put on the nodes at will.
    kernel : str, optional
        Release.

    Returns
    -------
    strategy of FirstChunkLayout
        Draws layouts.
    """
    st = _strategies()

    def build(nodes: list[int], static: int, reserved: int, dyn: int, atom: int) -> percpu.FirstChunkLayout:
        return percpu.FirstChunkLayout.build(
            static_size=static * 8,
            reserved_size=reserved * 4096,
            dyn_size=dyn * 4096,
            atom_size=atom,
            topology=percpu.Topology.from_nodes(nodes),
            kernel=kernel,
        )

    each = max(1, max_cpus // max_nodes)
    return st.builds(
        build,
        st.lists(st.integers(1, each), min_size=1, max_size=max_nodes),
        st.integers(1, 32_768),
        st.integers(0, 4),
        st.integers(5, 16),
        st.sampled_from([4096, 1 << 16, 2 << 20]),
    )


def run_operations(allocator: Any, ops: Sequence[Alloc | Free]) -> list[tuple[int, int, int]]:
    """Carry out a list of operations; failed requests are left out.

    Parameters
    ----------
    allocator : Allocator or engine in Python
        What serves them.
    ops : sequence of Alloc or Free
        Of `operations`.

    Returns
    -------
    list of (int, int, int)
        Pointer (of an engine in Python, offset), size and alignment of each area that is live in the end, oldest
        first.

    Examples
    --------
    >>> a = percpu.Allocator(unit_size=64 << 10, nr_units=2)
    >>> [size for _, size, _ in run_operations(a, [Alloc(8, 4), Alloc(16, 8), Free(0)])]
    [16]
    """
    own = not isinstance(allocator, percpu.Allocator)
    live: list[tuple[int, int, int]] = []
    for op in ops:
        if isinstance(op, Alloc):
            try:
                ptr = allocator.alloc(op.size, op.align, **({} if own else {"atomic": op.atomic}))
            except percpu.AllocError:
                continue
            if ptr is not None:
                live.append((ptr, op.size, op.align))
        elif live:
            ptr, size, _ = live.pop(op.which % len(live))
            if own:
                allocator.free(ptr)
            else:
                allocator.free(ptr, size)
    return live
