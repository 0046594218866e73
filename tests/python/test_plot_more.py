"""Figures of slots, chunks over time, costs, address space, and bars: what is drawn is what is there."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

import percpu as pc
from percpu import plot
from percpu.plot import _style, heatmap
from percpu.plot import owners as owner_colours
from percpu.plot.chunk import _AREA_A, _FREE, _reduce, grid_of

mpl = pytest.importorskip("matplotlib")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _agg():
    mpl.use("Agg")
    yield
    plt.close("all")


def drawn(ax):
    ax.figure.canvas.draw()
    return ax


# -- chunk -------------------------------------------------------------------------------


def test_every_block_has_brackets_at_its_hints():
    a = pc.Allocator(unit_size=16 << 10, nr_units=2, page_size=1024, block_size=1024)
    batch = a.alloc_many(np.random.default_rng(3).integers(4, 600, 60))
    a.free_many(batch.ptr[batch.ok][::3])
    chunk = a.chunks[0]
    ax = drawn(chunk.plot())
    found = {c.get_label(): c for c in ax.collections if c.get_label().startswith("block ")}
    for name in ("contig_hint", "scan_hint"):
        expected = [
            (row, int(block[f"{name}_start"]), int(block[name]))
            for row, block in enumerate(chunk.blocks)
            if block[name] > 0
        ]
        segments = found[f"block {name}"].get_segments()
        assert [(int(s[1][1]), s[1][0], s[2][0] - s[1][0]) for s in segments] == expected
        assert expected


def test_the_ground_says_whether_memory_is_there():
    codes = np.full(64, _FREE, dtype=np.uint8)
    codes[40:48] = _AREA_A
    bare = np.arange(64) < 32
    cells = _reduce(codes, 64, 8, bare)[0]
    assert np.allclose(cells[0], _style.rgb(_style.FREE))
    assert np.allclose(cells[4], _style.rgb(_style.POPULATED))
    assert np.allclose(cells[5], _style.rgb(_style.AREA_A))
    one = codes.copy()
    one[:] = _FREE
    one[0] = _AREA_A
    assert np.allclose(_reduce(one, 64, 1, bare)[0, 0] @ [1, 1, 1], 0.25 * sum(_style.rgb(_style.AREA_A)) + 0.75 * (
        31 / 63 * sum(_style.rgb(_style.FREE)) + 32 / 63 * sum(_style.rgb(_style.POPULATED))))  # fmt: skip


@pytest.mark.parametrize("nr_bits", [16, 1000, 1 << 16, 3 << 18])
@pytest.mark.parametrize("block_bits", [16, 24, 1024])
def test_the_grid_is_bounded_and_covers_all(nr_bits, block_bits):
    row_bits, cells = grid_of(nr_bits, block_bits, 32, 256)
    rows = -(-nr_bits // row_bits)
    assert rows <= 32
    assert cells <= 256
    assert row_bits % cells == row_bits % block_bits == 0


# -- slots -------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["2008", "4.13", "rfc-v1", "4.19", "5.4", "6.12"])
def test_lists_show_each_chunk_in_its_place_as_full_as_it_is(kernel):
    a = pc.Allocator(unit_size=32 << 10, nr_units=2, kernel=kernel)
    a.alloc_many(np.full(90, 900))
    ax = drawn(plot.plot_slots(a))
    boxes = {p.get_gid(): p for p in ax.patches if p.get_gid()}
    assert set(boxes) == {f"chunk {number}" for number in a.chunks}
    lists = [numbers for numbers in a.slots if numbers] or [list(a.chunks)]
    assert len(ax.get_yticklabels()) == len(lists)
    for row, numbers in enumerate(lists):
        for place, number in enumerate(numbers):
            box = boxes[f"chunk {number}"]
            assert (int(box.get_x()), int(box.get_y() + box.get_height())) == (place, row)
            used = 1 - a.chunks[number].free_bytes / a.unit_size
            assert -box.get_height() == pytest.approx(0.8 * used)


def test_names_of_lists_follow_the_sizes():
    a = pc.Allocator(unit_size=64 << 10, nr_units=2)
    for slot in range(1, 10):
        low, high = re.fullmatch(r"(\d+) to (\d+) B|from (.*)", plot.slot_name(a, slot)).group(1, 2)
        if low is None:
            continue
        # A fresh chunk whose largest free run is of that size is in that slot.
        for size in (int(low), int(high)):
            assert max(size.bit_length() - 5 + 2, 1) == slot


def test_many_chunks_of_a_list_are_counted():
    a = pc.Allocator(unit_size=32 << 10, nr_units=2)
    a.alloc_many(np.full(40, 32 << 10))
    ax = drawn(plot.plot_slots(a))
    assert "+16" in [text.get_text() for text in ax.texts]


# -- chunks over time --------------------------------------------------------------------


def naive_heat(trace, ends):
    live, rows, names = {}, [], []
    row_of = {}
    for index, event in enumerate(trace.rows()):
        key = event["base_addr"], event["off_bytes"]
        if event["kind"] == "alloc":
            live[key] = event["size_bytes"]
        elif event["kind"] == "free":
            live.pop(key, None)
        if event["kind"] in ("alloc", "free") and key[0] not in row_of:
            row_of[key[0]] = len(row_of)
            names.append(key[0])
        if index + 1 in ends:
            sums = dict.fromkeys(row_of, 0)
            for (base, _), size in live.items():
                sums[base] += size
            rows.append([sums.get(base, 0) for base in names])
    return np.array([row + [0] * (len(names) - len(row)) for row in rows], dtype=float).T


@pytest.mark.parametrize("sort", [False, True])
@pytest.mark.parametrize("name", ["netns-612-3+1", "fork-612-4cpu", "cg-up"])
def test_live_bytes_of_each_chunk(recordings, name, sort, monkeypatch):
    directory = next((run for run in recordings if run.name == name), None)
    if directory is None:
        pytest.skip("no such recording")
    trace = pc.read_trace(directory / "trace.txt.gz")
    if sort:
        monkeypatch.setattr(heatmap, "_CELLS", 1)
        monkeypatch.setattr(heatmap, "_HASH_BITS", 1)
    heat = plot.chunk_heat(trace, 17)
    assert heat.event[-1] == len(trace)
    expected = naive_heat(trace, set(heat.event.tolist()))
    assert heat.bytes.shape == expected.shape
    there = ~np.isnan(heat.bytes)
    assert np.array_equal(heat.bytes[there], expected[there])
    # Nothing is live in what does not exist.
    assert (expected[~there] == 0).all()
    assert there.any()


def test_the_replay_knows_all_that_is_in_use(recordings):
    directory = recordings[0]
    trace = pc.read_trace(next(directory.glob("trace.*")) if not (directory / "trace.txt.gz").exists()
                           else directory / "trace.txt.gz")  # fmt: skip
    run = pc.replay(trace, pc.Allocator.from_state(directory / "state-a.json.gz"))
    ax = drawn(plot.plot_heatmap(run, stretches=9))
    (mesh,) = ax.collections
    values = np.ma.filled(mesh.get_array().reshape(-1, 9), np.nan)
    for column, event in enumerate(np.unique(np.linspace(0, len(trace), 9).round().astype(int)).tolist()):
        state = run.at(event)
        for row, label in enumerate(ax.get_yticklabels()):
            number = int(label.get_text())
            if number not in state.chunks:
                assert np.isnan(values[row, column])
                continue
            used = int(state.chunks[number].alloc_map.sum()) * 4
            hidden = state.chunks[number].start_offset + state.chunks[number].end_offset
            assert values[row, column] == pytest.approx(100 * (used - hidden) / state.unit_size)
    assert "%" in ax.figure.axes[1].get_ylabel()


@pytest.mark.parametrize("stretches", [0, -1, 1 << 17])
def test_stretches_have_bounds(recordings, stretches):
    trace = pc.read_trace(next(run for run in recordings if (run / "trace.txt.gz").exists()) / "trace.txt.gz")
    with pytest.raises(pc.InvalidRequest, match=f"stretches={stretches}: must be from 1 to 65536"):
        plot.plot_heatmap(trace, stretches=stretches)
    with pytest.raises(TypeError, match="stretches must be an integer, not float"):
        plot.chunk_heat(trace, 2.5)


def test_many_chunks_are_joined_by_their_mean():
    values = np.arange(12.0).reshape(6, 2)
    values[3] = np.nan
    joined, per_row = heatmap.join_rows(values, 3)
    assert per_row == 2
    assert np.array_equal(joined, [[1, 2], [4, 5], [9, 10]])


def test_what_has_no_events():
    trace = pc.workloads.objects(5)
    with pytest.raises(TypeError, match="what must be a Trace"):
        plot.plot_heatmap(trace)


# -- long inputs -------------------------------------------------------------------------


def test_a_million_events_are_reduced_before_drawing(recordings):
    directory = next((run for run in recordings if (run / "trace.txt.gz").exists()), None)
    trace = pc.read_trace(directory / "trace.txt.gz")
    long = pc.Trace.concatenate([trace] * (1_000_000 // len(trace)))
    n = len(long)
    heat = plot.chunk_heat(long)
    assert heat.bytes.shape[1] == 240
    event = np.arange(n)
    timeline = {"event": event, "nr_chunks": event // 1000, "nr_live": event % 7, "nr_freed_prior": 0 * event}
    ax = plot.plot_timeline(timeline | {"live_bytes": event % 1000})
    panels = ax.figure.axes[0].child_axes
    assert max(len(line.get_xdata()) for panel in panels for line in panel.get_lines()) == 2000
    assert sum(c.get_paths()[0].vertices.shape[0] for panel in panels for c in panel.collections) < 40_000
    assert len(long._repr_html_()) < 60_000


def test_joined_samples_keep_least_and_largest():
    from percpu.plot.timeline import reduce_timeline

    n = 10_000
    rng = np.random.default_rng(1)
    data = {"event": np.arange(n), "live_bytes": rng.integers(0, 1000, n)}
    reduced = reduce_timeline(data, 100)
    assert len(reduced["event"]) == 100
    assert reduced["event"][-1] == n - 1
    assert reduced["max_live_bytes"].max() == data["live_bytes"].max()
    assert reduced["min_live_bytes"].min() == data["live_bytes"].min()
    assert reduced["mean_live_bytes"].mean() == pytest.approx(data["live_bytes"].mean())


# -- costs, bars, address space ----------------------------------------------------------


def test_costs_of_a_comparison():
    r = pc.compare(pc.workloads.objects(500, size=24), ["areamap", "rfc-v1"], timing=False)
    ax = drawn(plot.plot_costs(r, ["entries_moved", "words_read", "pages_populated"]))
    expected = [
        float(r[f"cost_{name}"][row]) for row in range(2) for name in ("entries_moved", "words_read", "pages_populated")
    ]
    expected = [0.0 if np.isnan(v) else v for v in expected]
    assert [bar.get_width() for bar in ax.patches] == expected
    assert "count" in ax.get_xlabel()
    with pytest.raises(pc.InvalidRequest, match="counters"):
        plot.plot_costs(r, ["colour"])


def test_costs_over_requests_keep_the_largest():
    a = pc.Allocator(unit_size=64 << 10, nr_units=2, engine="areamap")
    batch = a.alloc_many(np.random.default_rng(5).integers(4, 400, 5000), costs=True)
    ax = drawn(plot.plot_costs(batch, ["entries_moved", "pages_populated"]))
    panels = ax.figure.axes[0].child_axes
    assert [panel.get_ylabel() for panel in panels] == ["entries", "pages"]
    for panel, name in zip(panels, ("entries_moved", "pages_populated"), strict=True):
        tallest = max(c.get_paths()[0].vertices[:, 1].max() for c in panel.collections)
        assert tallest == batch.costs[name].max()
    with pytest.raises(pc.InvalidRequest, match="nothing was counted"):
        plot.plot_costs({"words_read": 0})


def test_published_bars_are_the_letters():
    from percpu.published.tables import letters

    table = letters()
    for letter, case in (("v1", "worst case"), ("v2", "worst case"), ("v2", "half full")):
        part = table[(table.letter == letter) & (table.case == case)]
        drawn(plot.plot_published(letter=letter, case=case))
        left, right = mpl.pyplot.gcf().axes[0].child_axes
        for panel, what in ((left, "alloc"), (right, "free")):
            heights = [bar.get_height() for bar in panel.patches]
            assert heights == [*part[f"areamap_{what}_ms"], *part[f"bitmap_{what}_ms"]]
            assert panel.get_yscale() == "log"
            assert "milliseconds" in panel.get_ylabel()
    with pytest.raises(pc.InvalidRequest, match="no such table"):
        plot.plot_published(letter="v1", case="half full")


def test_bars_of_many_series_are_told_apart():
    names = [f"e{number}" for number in range(17)]
    r = pc.Result({"a": ["x"] * 17, "b": names, "n": list(range(1, 18))})
    counted = pc.Result({"engine": names, "cost_words_read": list(range(1, 18))})
    for ax in (plot.plot_bars(r, "n", by="a", within="b"), plot.plot_costs(counted)):
        assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in drawn(ax).patches}) == 17


def test_bars_average_what_has_one_name():
    r = pc.Result({"a": ["x", "x", "y"], "b": ["k", "k", "k"], "n": [1, 3, 7]})
    ax = drawn(plot.plot_bars(r, "n", by="a", within="b", log=False))
    assert [bar.get_height() for bar in ax.patches] == [2, 7]
    with pytest.raises(pc.InvalidRequest, match="by='c'"):
        plot.plot_bars(r, "n", by="c", within="b")


def test_vmalloc_ranges_are_to_scale(layout):
    space = pc.VmallocSpace()
    bases = [space.alloc(layout).base for _ in range(3)]
    space.free(layout, bases[1])
    ax = drawn(plot.plot_vmalloc(space))
    assert [box.get_width() for box in ax.patches] == [b - a for a, b, _ in space.busy]
    assert [bool(box.get_hatch()) for box in ax.patches] == [lazy for _, _, lazy in space.busy]
    assert "address" in ax.get_xlabel()
    drawn(plot.plot_vmalloc(pc.VmallocSpace()))


def spans_of_tick_labels(ax):
    """Left and right ends, in pixels, of the texts below an axis, and those of the figure."""
    ax.figure.canvas.draw()
    texts = [label for label in ax.get_xticklabels() if label.get_text()]
    return [label.get_window_extent() for label in texts], ax.figure.bbox


@pytest.mark.parametrize("groups", [[3, 5], [28] * 4, [1] * 16])
def test_addresses_are_level_apart_and_whole(groups):
    layout = pc.FirstChunkLayout.build(static_size=185_496, topology=pc.Topology.from_nodes(groups))
    space = pc.VmallocSpace()
    bases = [space.alloc(layout).base for _ in range(20)]
    for base in bases[::3]:
        space.free(layout, base)
    space.occupy(0xFFFFC900_00000000, 0xFFFFC900_00400000)
    for width in (4, 9.5):
        for draw in (lambda ax: plot.plot_vmalloc(space, ax), lambda ax: plot.plot_address_space(layout, ax)):
            _, ax = plt.subplots(figsize=(width, 2.4), layout="constrained")
            boxes, figure = spans_of_tick_labels(draw(ax))
            assert len(boxes) >= 2
            assert boxes[0].x0 >= figure.x0
            assert boxes[-1].x1 <= figure.x1
            for left, right in itertools.pairwise(boxes):
                assert left.x1 < right.x0
                assert left.y0 == pytest.approx(right.y0, abs=2)


def test_later_chunks_are_as_many_as_asked_for(layout):
    ax = drawn(plot.plot_address_space(layout, nr_chunks=3))
    assert ax.get_title(loc="left").startswith("3 later chunks")
    assert len({box.get_facecolor() for box in ax.patches}) == 3
    assert drawn(plot.plot_address_space(layout, nr_chunks=1)).get_title(loc="left").startswith("1 later chunk in")
    for wrong in (0, 17):
        with pytest.raises(pc.InvalidRequest, match=f"nr_chunks={wrong}: must be from 1 to 16"):
            plot.plot_address_space(layout, nr_chunks=wrong)


@pytest.mark.parametrize(("low", "high"), [(0, 1.5 * 2**20), (990 << 10, 1180 << 10), (0, 3), (5 << 40, 6 << 40)])
def test_ticks_of_bytes_are_exact(low, high):
    _, ax = plt.subplots()
    ax.set_ylim(low, high)
    _style.byte_ticks(ax.yaxis, low, high)
    ax.figure.canvas.draw()
    sizes = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    for place, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True):
        number, _, unit = label.get_text().partition(" ")
        assert float(number.replace(",", "")) * sizes[unit] == place


def test_many_bars_stand_beside_each_other():
    engines = {name: [1, 1000] for name in ("chunks_visited", "words_read")}
    few = pc.Result({"engine": ["a", "b"], **{f"cost_{name}": values for name, values in engines.items()}})
    assert [bar.get_width() for bar in drawn(plot.plot_costs(few)).patches] == [1, 1, 1000, 1000]
    r = pc.compare(pc.workloads.objects(500, size=24), timing=False)
    ax = drawn(plot.plot_costs(r))
    left, right = ax.figure.axes[0].child_axes
    assert ax is left
    names = [label.get_text() for panel in (left, right) for label in panel.get_yticklabels()]
    assert len(names) * len(r) == len(left.patches) + len(right.patches) > 36
    assert left.get_xlim() == right.get_xlim()
    width, height = ax.figure.get_size_inches()
    assert height < 1.2 * width


def test_what_cannot_be_drawn_says_why():
    w = pc.workloads.objects(10, size=24)
    compared = pc.compare(w, ["areamap"], timing=False)
    waste = pc.layout_sweep(nr_cpus=[1, 2], nr_nodes=[1], static_size=185_496)
    batch = pc.Allocator(unit_size=32 << 10, nr_units=2).alloc_many([], costs=True)
    result = pc.Result({"a": ["x"], "b": ["k"]})
    nothing = plot.ChunkHeat(np.array([1]), np.zeros((0, 1)), [], None, False)
    short = {"event": [1]}
    for error, match, draw in (
        (
            pc.InvalidRequest,
            "timeline: it has no column live_bytes, nr_chunks",
            lambda: plot.plot_timeline(short),
        ),
        (TypeError, "timeline must be a Replay.* not int", lambda: plot.plot_timeline(3)),
        (pc.InvalidRequest, "no chunk to draw", lambda: plot.plot_heatmap(nothing)),
        (pc.InvalidRequest, "x='size': must be one of", lambda: plot.plot_waste(waste, x="size")),
        (pc.InvalidRequest, "value='status': must be one of", lambda: plot.plot_waste(waste, value="status")),
        (TypeError, "columns must be a list", lambda: compared.plot("alloc_ns")),
        (pc.InvalidRequest, "columns: 'engine' holds no numbers", lambda: compared.plot(["engine"])),
        (TypeError, "costs must be counts.* not int", lambda: plot.plot_costs(3)),
        (pc.InvalidRequest, "no operation to draw", lambda: plot.plot_costs(batch, ["words_read"])),
        (pc.InvalidRequest, "value='b': holds no numbers", lambda: plot.plot_bars(result, "b", by="a", within="a")),
        (pc.InvalidRequest, "value=None: must be one of", lambda: pc.sweep(w, {"request.align": [4]}).plot(None)),
    ):
        with pytest.raises(error, match=match):
            draw()
    for draw, what in (
        (plot.plot_chunk, "chunk must be a Chunk"),
        (plot.plot_slots, "allocator must be an Allocator"),
        (plot.plot_layout, "layout must be a FirstChunkLayout"),
        (plot.plot_address_space, "layout must be a FirstChunkLayout"),
        (plot.plot_vmalloc, "space must be a VmallocSpace"),
        (plot.plot_waste, "result must be a Result"),
        (plot.plot_owners, "owners must be an Owners"),
        (plot.plot_pins, "pins must be a Pins"),
        (plot.plot_stats, "stats must be a PercpuStats"),
        (plot.plot_comparison, "comparison must be a Comparison"),
        (plot.plot_heatmap, "what must be a Trace"),
    ):
        with pytest.raises(TypeError, match=f"{what}.*, not int"):
            draw(3)
    absent = plot.ChunkHeat(np.array([1]), np.array([[np.nan]]), ["0"], None, False)
    drawn(plot.plot_heatmap(absent))


# -- all figures -------------------------------------------------------------------------


def every_figure(layout):
    """A figure of each kind."""
    a = pc.Allocator(unit_size=64 << 10, nr_units=2, engine="areamap")
    batch = a.alloc_many(np.random.default_rng(5).integers(4, 400, 500), costs=True)
    b = pc.Allocator(unit_size=64 << 10, nr_units=2)
    b.alloc_many(np.full(300, 200))
    w = pc.workloads.objects(500, size=24)
    compared = pc.compare(w, ["areamap", "rfc-v1"], timing=False)
    swept = pc.sweep(w, {"engine": ["linux-4.14", "linux-5.14"], "request.align": [4, 8, 16, 32, 64]})
    grid = pc.sweep(w, {"block_size": [1024, 2048, 4096, 8192, 16384], "request.align": [4, 8, 16, 32, 64]})
    heat = plot.ChunkHeat(np.array([10, 20]), np.array([[1.0, 2.0]]), ["0"], None, False)
    timeline = {"event": [1, 2], "live_bytes": [4, 8], "nr_chunks": [1, 1], "populated_pages": [1, 2],
                "nr_empty_pop_pages": [0, 1]}  # fmt: skip
    space = pc.VmallocSpace()
    space.alloc(layout)
    yield b.chunks[0].plot()
    yield plot.plot_slots(b)
    yield plot.plot_timeline(timeline)
    yield plot.plot_heatmap(heat)
    yield plot.plot_heatmap(heat._replace(exact=True, capacity=64))
    yield compared.plot()
    yield plot.plot_costs(compared)
    yield plot.plot_costs(batch)
    yield swept.plot()
    yield grid.plot("peak_metadata_bytes")
    yield layout.plot()
    yield plot.plot_address_space(layout)
    yield plot.plot_vmalloc(space)
    yield plot.plot_waste(pc.layout_sweep(nr_cpus=range(1, 9), nr_nodes=[1, 2], static_size=185_496))
    yield plot.plot_bars(compared, "peak_memory_bytes", by="engine", within="engine")
    yield plot.plot_published()


def numbers_on(axis):
    """Whether an axis has numbers at its ticks: names explain themselves."""
    texts = [label.get_text() for label in axis.get_ticklabels() if label.get_visible() and label.get_text()]
    return any(re.fullmatch(r"[\d,.\u2212-]+( ?[KMG]?i?B)?|.*mathdefault.*", text) for text in texts)


def test_every_axis_with_numbers_has_a_label(layout):
    seen = 0
    for ax in every_figure(layout):
        ax.figure.canvas.draw()
        for each in ax.figure.findobj(mpl.axes.Axes):
            if not each.axison:
                continue
            for axis, label in ((each.xaxis, each.get_xlabel()), (each.yaxis, each.get_ylabel())):
                if numbers_on(axis) and axis.get_tick_params().get("labelbottom", True):
                    assert label, (ax.get_title(loc="left"), axis.axis_name)
                    seen += 1
    assert seen > 20


# Machado, Oliveira and Fernandes 2009, severity 1: what people without red, green or blue cones see (linear RGB).
DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "none": np.eye(3),
}


def lab(colour, matrix):
    """CIE L*a*b* of a colour, as seen."""
    srgb = np.array(_style.rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(matrix) @ linear, 0, 1)
    xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                    [0.0193339, 0.1191920, 0.9503041]]) @ seen  # fmt: skip
    t = xyz / np.array([0.95047, 1.0, 1.08883])
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize(
    "together",
    [
        ("AREA_A", "AREA_B", "POPULATED", "HIDDEN"),
        ("AREA_A", "AREA_B", "FREE", "HIDDEN"),
        ("CONTIG", "SCAN", "AREA_A", "POPULATED"),
        ("OCHRE", "SCAN", "AREA_A", "AREA_B"),
        ("CONTIG", "FIRST_FREE", "OCHRE", "AREA_B"),
    ],
)
def test_colours_that_meet_are_told_apart(together, deficiency):
    seen = {name: lab(getattr(_style, name), DEFICIENCIES[deficiency]) for name in together}
    for a in together:
        for b in together:
            if a < b:
                assert np.linalg.norm(seen[a] - seen[b]) > 10, (a, b)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize(
    "colours",
    [_style.SERIES, (*owner_colours._COLORS, owner_colours._OTHERS, _style.HIDDEN)],
    ids=["series", "owners"],
)
def test_colours_of_a_legend_are_told_apart(colours, deficiency):
    seen = [lab(colour, DEFICIENCIES[deficiency]) for colour in colours]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15
