"""Figures: they are drawn for every size of chunk, and show what they should."""

from __future__ import annotations

import numpy as np
import pytest

import percpu as pc
from percpu.plot import plot_chunk, plot_timeline
from percpu.plot.chunk import _AREA_A, _AREA_B, _FREE, _HIDDEN, _classify, _pieces

from . import fakes

mpl = pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def _agg():
    import matplotlib.pyplot as plt

    mpl.use("Agg")
    yield
    plt.close("all")


@pytest.mark.parametrize("nr_blocks", [1, 8, 32, 64, 100, 512, 4096])
def test_every_size(nr_blocks):
    ax = plot_chunk(fakes.chunk(nr_blocks, populated=nr_blocks // 2))
    ax.figure.canvas.draw()
    assert "bytes" in ax.get_xlabel()
    assert ax.get_ylabel() == "block"
    legend = {text.get_text().split()[0] for text in ax.get_legend().get_texts()}
    assert {"areas,", "free", "contig_hint"} <= legend
    width, height = ax.figure.get_size_inches()
    assert height <= width


def test_neighbours_differ_and_hidden_ends_show():
    chunk = fakes.chunk(4, head=400, tail=800)
    codes = _classify(chunk)
    assert (codes[:100] == _HIDDEN).all()
    assert (codes[-200:] == _HIDDEN).all()
    inner = chunk.alloc_map[100:-200]
    assert np.array_equal(codes[100:-200] != _FREE, inner)
    starts = np.flatnonzero(chunk.bound_map[1:-1] & chunk.alloc_map[1:] & chunk.alloc_map[:-1]) + 1
    for start in starts:
        if _HIDDEN not in codes[start - 1 : start + 1]:
            assert {codes[start - 1], codes[start]} == {_AREA_A, _AREA_B}


def test_ranges_are_cut_at_rows():
    assert _pieces(90, 120, 100) == [(0, 90, 100), (1, 0, 100), (2, 0, 10)]
    assert _pieces(100, 100, 100) == [(1, 0, 100)]


@pytest.mark.parametrize("kernel", ["2008", "4.13", "rfc-v1", "linux-4.14", "linux-5.14"])
def test_a_real_chunk(kernel):
    a = pc.Allocator(unit_size=128 << 10, nr_units=2, kernel=kernel)
    batch = a.alloc_many(np.arange(4, 1200, 4) % 700 + 4)
    a.free_many(batch.ptr[::3], (np.arange(4, 1200, 4) % 700 + 4)[::3])
    ax = a.chunks[0].plot()
    assert "chunk 0" in ax.get_title(loc="left")


def test_timeline():
    n = 50
    timeline = {
        "event": np.arange(n),
        "live_bytes": np.arange(n) * 1000,
        "populated_pages": np.arange(n) // 3,
        "nr_chunks": np.ones(n),
        "nr_empty_pop_pages": np.full(n, 4),
    }
    ax = plot_timeline(timeline)
    ax.figure.canvas.draw()
    assert ax.get_ylabel() == "bytes per CPU"
