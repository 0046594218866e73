"""Fixtures that several files share."""

from __future__ import annotations

import io
import signal
from pathlib import Path

import pytest

import percpu as pc

ROOT = Path(__file__).parents[2]
RECORDINGS = ROOT / "tests" / "data" / "recordings"
LINUX = ["linux-4.14", "linux-5.2", "linux-5.14"]


def pytest_configure():
    # A shell starts what runs behind it with Ctrl-C ignored, and what it starts would inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def standard_input(data):
    """What `sys.stdin` is when these bytes are piped in."""
    return io.TextIOWrapper(io.BufferedReader(io.BytesIO(data)))


@pytest.fixture
def allocator():
    """Two units of 64 KiB, no boot chunks."""
    return pc.Allocator(unit_size=64 << 10, nr_units=2)


@pytest.fixture(params=LINUX)
def any_linux(request):
    """The same for every generation of the merged allocator."""
    return pc.Allocator(unit_size=64 << 10, nr_units=2, kernel=request.param)


@pytest.fixture
def layout():
    """Eight CPUs on two nodes, as the default kernel lays them out."""
    return pc.FirstChunkLayout.build(
        static_size=185_496,
        reserved_size=8_192,
        dyn_size=28_672,
        atom_size=2 << 20,
        topology=pc.Topology.from_nodes([4, 4]),
    )


@pytest.fixture
def recordings():
    """Directories of the recordings in the clone."""
    runs = sorted(path.parent for path in RECORDINGS.rglob("meta.json") if (path.parent / "state-a.json.gz").exists())
    if not runs:
        pytest.skip("no recordings in tests/data")
    return runs
