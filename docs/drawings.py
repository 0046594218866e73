"""The drawings of docs/model.md: every one shows the state of an allocator that this script brought there.

``make drawings`` writes them into docs/img/model/. What a drawing claims is asserted where it is drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle

import percpu as pc
from percpu.plot import _style, plot_address_space, plot_layout

ROOT = Path(__file__).parents[1]
STYLE = {"svg.hashsalt": "percpu", "font.family": "DejaVu Sans", "font.size": 10}
SMALL = {"unit_size": 1024, "nr_units": 1, "page_size": 128, "balance": "manual"}  # 32 granules a block


def cells(ax: Axes, chunk: pc.Chunk, first: int, end: int, y: float = 0.0, x: float = 0.0) -> None:
    """Granules [first, end) of a chunk as boxes; neighbouring areas differ in colour."""
    starts = np.cumsum(chunk.bound_map[: len(chunk.alloc_map)] & chunk.alloc_map)
    for i in range(first, end):
        colour = (_style.AREA_A, _style.AREA_B)[starts[i] & 1] if chunk.alloc_map[i] else _style.FREE
        ax.add_patch(Rectangle((x + i - first, y), 1, 1, facecolor=colour, edgecolor=_style.GRID, linewidth=0.8))


def bracket(ax: Axes, start: float, length: float, y: float, text: str, colour: str) -> None:
    """A bracket below [start, start + length) with a text."""
    ax.plot([start, start, start + length, start + length], [y, y - 0.25, y - 0.25, y], color=colour, linewidth=2)
    ax.text(start + length / 2, y - 0.4, text, color=colour, ha="center", va="top", fontsize=9)


def bare(width: float, height: float, xlim: tuple[float, float], ylim: tuple[float, float]) -> tuple[Figure, Axes]:
    """A figure without axes."""
    figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.set(xlim=xlim, ylim=ylim)
    ax.axis("off")
    return figure, ax


def offsets() -> Figure:
    """One space of offsets: three CPUs, one map, one pointer."""
    a = pc.Allocator(**{**SMALL, "nr_units": 3})
    a.alloc(8)
    x = a.alloc(12)
    y = a.alloc(20)
    figure, ax = bare(9, 3.6, (-3.5, 33), (-4.2, 8.6))
    for cpu in range(3):
        top = 6 - 3 * cpu
        cells(ax, a.chunks[0], 0, 24, top)
        ax.text(-0.4, top + 0.5, f"unit of\nCPU {cpu}", ha="right", va="center", fontsize=9)
        assert a.per_cpu_ptr(y, cpu) - a.per_cpu_ptr(y, 0) == cpu * a.unit_size
        off = a.locate(y).off_bytes // 4
        ax.text(off + 2.5, top + 0.5, "y", ha="center", va="center", color="white", weight="bold")
        ax.text(a.locate(x).off_bytes / 4 + 1.5, top + 0.5, "x", ha="center", va="center", color="black", weight="bold")
        ax.text(24.4, top + 0.5, f"y + {cpu} × unit_size", va="center", fontsize=9)
    off = a.locate(y).off_bytes // 4
    ax.plot([off, off], [-1.3, 7.3], color=_style.CONTIG, linewidth=1.2, linestyle="--")
    ax.text(off, 7.6, "one offset for all CPUs", color=_style.CONTIG, ha="center", fontsize=9)
    ax.text(12, -2, "a chunk: three units, one allocation map;  one box is a granule of 4 bytes", ha="center", va="top")
    return figure


def naive() -> Figure:
    """The words of the map that a request reads, with first fit and with block hints, among gaps."""
    figure, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
    last = {}
    for engine, colour, text in (
        ("cpu_alloc-2008", _style.CONTIG, "first fit (2008)"),
        ("rfc-v1", _style.AREA_A, "block hints (2017)"),
    ):
        a = pc.Allocator(unit_size=512 << 10, nr_units=1, engine=engine)
        rng = np.random.default_rng(3)
        live, words = np.empty((0, 2), dtype=np.uint64), []
        for _ in range(16):
            sizes = rng.choice([4, 8, 16, 64, 176, 512], size=600, p=[0.3, 0.25, 0.2, 0.15, 0.07, 0.03])
            batch = a.alloc_many(sizes, 8)
            live = np.concatenate([live, np.column_stack([batch.ptr, sizes]).astype(np.uint64)[batch.ok]])
            live = rng.permutation(live)
            gone = len(live) // 6
            a.free_many(live[:gone, 0], live[:gone, 1])
            live = live[gone:]
            probe = a.copy()
            before = probe.costs()["words_read"]
            for _ in range(50):
                probe.alloc(64, 8)
            words.append((len(live), (probe.costs()["words_read"] - before) / 50))
        ax.plot(*np.array(words).T, "o-", color=colour, linewidth=2, markersize=4)
        ax.text(words[-1][0] + 40, words[-1][1], text, color=colour, va="center", fontsize=9)
        last[engine] = words[-1][1]
    assert last["cpu_alloc-2008"] > 10 * last["rfc-v1"]
    ax.set(
        xlabel="live objects of mixed sizes, one in six freed at random, again and again", yscale="log", ylim=(1, 2000)
    )
    ax.set(ylabel="words read by\na request of 64 bytes", xlim=(400, 3250))
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def _gaps() -> tuple[pc.Allocator, list[int]]:
    a = pc.Allocator(**SMALL)
    p = [a.alloc(size) for size in (12, 8, 12, 28, 12, 16, 12, 28)]
    for i in (1, 3, 5):
        a.free(p[i])
    return a, p


def _block(ax: Axes, chunk: pc.Chunk, y: float) -> dict[str, int]:
    cells(ax, chunk, 0, 32, y)
    row = {name: int(chunk.blocks[0][name]) for name in chunk.blocks.dtype.names}
    for name, colour in (("contig_hint", _style.CONTIG), ("scan_hint", _style.SCAN)):
        if row[name]:
            start = row[f"{name}_start"]
            assert not chunk.alloc_map[start : start + row[name]].any()
            bracket(ax, start, row[name], y - 0.15, f"{name} {row[name]} at {start}", colour)
    ax.annotate(
        "first_free", (row["first_free"] + 0.5, y + 1), (row["first_free"] + 0.5, y + 2.1), color=_style.FIRST_FREE,
        ha="center", fontsize=9, arrowprops={"arrowstyle": "-|>", "color": _style.FIRST_FREE},
    )  # fmt: skip
    return row


def block() -> Figure:
    """A block, and the summary of it."""
    a, _ = _gaps()
    figure, ax = bare(9, 1.9, (-0.5, 32.5), (-1.9, 3.4))
    row = _block(ax, a.chunks[0], 0)
    assert (row["contig_hint"], row["scan_hint"], row["first_free"]) == (7, 2, 3)
    ax.text(32, 1.3, "one block: 32 granules", ha="right", va="bottom", fontsize=9)
    return figure


def promotion() -> Figure:
    """The scan hint becomes the contig hint without a look at what lies in front of it."""
    a, p = _gaps()
    figure, ax = bare(9, 5.2, (-0.5, 36), (-12.2, 3.4))
    _block(ax, a.chunks[0], 0)
    ax.text(32.5, 0.5, "before", va="center")
    assert a.locate(a.alloc(28)).off_bytes == 32
    row = _block(ax, a.chunks[0], -5)
    ax.text(32.5, -4.5, "28 bytes\nplaced", va="center")
    assert (row["contig_hint"], row["scan_hint"]) == (4, 2)
    a.free(p[0])
    row = _block(ax, a.chunks[0], -10)
    ax.text(32.5, -9.5, "the first\narea freed", va="center")
    assert (row["contig_hint"], row["contig_hint_start"]) == (5, 0)
    return figure


def _longest(free: np.ndarray) -> tuple[int, int]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], free.astype(np.int8), [0]))))
    lengths = edges[1::2] - edges[::2]
    return int(edges[::2][lengths.argmax()]), int(lengths.max())


def hidden() -> Figure:
    """Free space that requests pass by: the chunk's hint is too small since 5.2."""
    figure, ax = bare(9, 3.8, (-0.5, 64.5), (-8.4, 3.2))
    for y, kernel in ((0, "4.19"), (-6, "6.12")):
        a = pc.Allocator(unit_size=256, nr_units=1, page_size=128, kernel=kernel, balance="manual")
        p = a.alloc_many(np.full(16, 16)).ptr  # full: 64 granules, two blocks
        a.free_many(p[9:15])  # inside the second block
        chunk = a.chunks[0]
        start, length = _longest(~chunk.alloc_map)
        hint = int(chunk.hints["contig_hint" if kernel == "6.12" else "contig_bits"][0])
        assert (start, length) == (36, 24)
        assert hint == (0 if kernel == "6.12" else 24)
        cells(ax, chunk, 0, 64, y)
        ax.axvline(32, ymin=0, ymax=1, color=_style.TEXT, linewidth=0.8, linestyle=":")
        bracket(ax, start, length, y - 0.15, f"longest free run: {length * 4} bytes", _style.TEXT)
        ax.text(0, y + 1.35, f"{kernel}: the chunk's hint says {hint * 4} bytes", color=_style.CONTIG, weight="bold")
    ax.text(31.6, -7.6, "block 0", ha="right", fontsize=9)
    ax.text(32.4, -7.6, "block 1", ha="left", fontsize=9)
    return figure


def slots() -> Figure:
    """The lists of chunks in a recorded state, in their order."""
    a = pc.Allocator.from_state(ROOT / "tests/data/recordings/drain-612-4cpu/state-m4.json.gz")
    lists = [(number, list(chunks)) for number, chunks in enumerate(a.slots) if chunks]
    longest = max(len(chunks) for _, chunks in lists)
    sidelined = len(a.slots) - 3
    names = {0: "slot 0: full", sidelined: "sidelined", sidelined + 1: "fully free", sidelined + 2: "to depopulate"}
    assert all(a.chunks[id_].isolated == (number == sidelined) for number, chunks in lists for id_ in chunks)
    figure, ax = bare(9, 0.9 + 0.62 * len(lists), (-1.6, 1.25 * longest + 2.6), (-0.7, len(lists) + 0.1))
    for row, (number, chunks) in enumerate(lists):
        ax.text(-0.3, row + 0.35, names.get(number, f"slot {number}"), ha="right", va="center")
        for place, id_ in enumerate(chunks):
            chunk = a.chunks[id_]
            used = 1 - chunk.free_bytes / a.unit_size
            x = 1.25 * place
            ax.add_patch(Rectangle((x, row), 1, 0.7, facecolor=_style.FREE, edgecolor=_style.TEXT, linewidth=0.8))
            ax.add_patch(Rectangle((x, row), used, 0.7, facecolor=_style.AREA_B))
            ax.text(x + 0.5, row + 0.35, f"chunk {id_}\n{100 * used:.0f} %", ha="center", va="center", fontsize=8)
    right, style = 1.25 * longest + 0.2, {"arrowstyle": "-|>", "mutation_scale": 12, "color": _style.TEXT}
    ax.add_patch(FancyArrowPatch((0, -0.2), (1.25 * longest, -0.2), **style))
    ax.text(1.25 * longest / 2, -0.3, "the search in a list", ha="center", va="top", fontsize=9)
    ax.add_patch(FancyArrowPatch((right, 0), (right, len(lists)), **style))
    ax.text(
        right + 0.1, len(lists) / 2, "the search over the lists,\nfrom the slot of the size", va="center", fontsize=9
    )
    assert sum(len(chunks) for _, chunks in lists) == len(a.chunks)
    return figure


def first_chunk() -> Figure:
    """The first chunk of a machine with three and five CPUs on two nodes."""
    layout = pc.FirstChunkLayout.for_machine(
        "x86_64", "6.1", static_size=188_416, topology=pc.Topology.from_nodes([3, 5])
    )
    return plot_layout(layout).figure


def congruent() -> Figure:
    """Later chunks keep the distance of the groups."""
    layout = pc.FirstChunkLayout.for_machine(
        "x86_64", "6.1", static_size=188_416, topology=pc.Topology.from_nodes([3, 5]),
        group_addresses=[0xFFFF_8887_FFE0_0000, 0xFFFF_888F_FFE0_0000],
    )  # fmt: skip
    return plot_address_space(layout).figure


def pages() -> Figure:
    """The pages of one chunk while a recording of a running kernel goes on."""
    directory = ROOT / "tests/data/recordings/drain-612-4cpu"
    trace = pc.read_trace(directory / "trace.txt.gz")
    a = pc.Allocator.from_state(directory / "state-a.json.gz")
    nr_columns, columns, moments = 240, [], []
    for part in np.array_split(np.arange(len(trace)), nr_columns):
        pc.replay(trace[int(part[0]) : int(part[-1]) + 1], a)
        chunk = a.chunks.get(2)
        if chunk is None:
            column = np.zeros(a.unit_size // a.page_size, dtype=int)
        else:
            used = chunk.alloc_map.reshape(chunk.nr_pages, -1).any(axis=1)
            column = np.where(used, 3, np.where(chunk.populated, 2, 1))
        columns.append(column)
        moments.append(int(part[-1]))
    image = np.array(columns).T
    assert (image == 3).any(axis=1).all()
    assert (np.diff(image, axis=1)[image[:, :-1] == 2] == -1).any(), "no page was given back"
    colours = ["#F3F4F6", _style.FREE, _style.AREA_B, _style.AREA_A]
    figure, ax = plt.subplots(figsize=(9, 4), layout="constrained")
    ax.imshow(
        image, aspect="auto", interpolation="nearest", cmap=mpl.colors.ListedColormap(colours), vmin=0, vmax=3,
        extent=(0, moments[-1], image.shape[0], 0),
    )  # fmt: skip
    ax.set(xlabel="events of the recording", ylabel="page of chunk 2")
    texts = ("no chunk", "not populated", "populated, empty", "holds an area")
    handles = [Patch(facecolor=c, edgecolor=_style.GRID, label=t) for c, t in zip(colours, texts, strict=True)]
    ax.legend(handles=handles, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=9)
    return figure


DRAWINGS: dict[str, Callable[[], Figure]] = {
    f.__name__.replace("_", "-"): f
    for f in (offsets, naive, block, promotion, hidden, slots, first_chunk, congruent, pages)
}


def main(directory: Path) -> None:
    """Write every drawing as SVG."""
    mpl.use("Agg")
    directory.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, draw in DRAWINGS.items():
            figure = draw()
            figure.savefig(directory / f"{name}.svg", metadata={"Date": None, "Creator": None})
            plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "img" / "model")
