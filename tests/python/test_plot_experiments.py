"""Figures of comparisons and sweeps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import percpu as pc

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

OBJECTS = pc.workloads.objects(500, size=24)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def drawn(ax):
    ax.figure.canvas.draw()
    return ax


def test_comparison_has_a_panel_a_figure_and_a_bar_an_engine():
    r = pc.compare(OBJECTS, ["areamap", "rfc-v1", "linux-5.14"])
    ax = drawn(r.plot())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["areamap", "rfc-v1", "linux-5.14"]
    assert [bar.get_width() for bar in ax.patches] == r.peak_memory_bytes.tolist()
    _, own = plt.subplots()
    assert drawn(r.plot(["alloc_ns"], own)).figure is own.figure
    with pytest.raises(KeyError):
        r.plot(["colour"])


def test_lines_over_one_parameter_for_each_value_of_the_other():
    g = pc.sweep(OBJECTS, {"engine": ["linux-4.14", "linux-5.14"], "request.align": [4, 64, 16]})
    ax = drawn(g.plot("peak_populated_bytes"))
    assert ax.get_xlabel() == "request.align"
    assert ax.get_xscale() == "log"
    lines = ax.get_lines()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["engine linux-4.14", "engine linux-5.14"]
    for line, engine in zip(lines, ["linux-4.14", "linux-5.14"], strict=True):
        assert line.get_xdata().tolist() == [4, 16, 64]
        rows = {row["request.align"]: row["peak_populated_bytes"] for row in g.rows() if row["engine"] == engine}
        assert line.get_ydata().tolist() == [rows[4], rows[16], rows[64]]
    words = drawn(g.plot("peak_populated_bytes", x="engine", by="request.align"))
    assert [text.get_text() for text in words.get_xticklabels()] == ["linux-4.14", "linux-5.14"]


def test_colours_over_two_numbers():
    grid = {"block_size": [1024, 2048, 4096, 8192, 16384], "request.align": [4, 8, 16, 32, 64]}
    g = pc.sweep(OBJECTS, grid)
    ax = drawn(g.plot("peak_metadata_bytes"))
    (image,) = ax.get_images()
    assert image.get_array().shape == (5, 5)
    assert np.asarray(image.get_array())[0].tolist() == g.peak_metadata_bytes[::5].tolist()


def test_failed_points_are_left_out_and_equal_values_are_drawn():
    g = pc.sweep(OBJECTS, {"block_size": [1000, 2048, 4096]})
    (line,) = drawn(g.plot("nr_alloc")).get_lines()
    assert line.get_xdata().tolist() == [2048, 4096]
    assert len(drawn(g.plot("peak_requested_bytes")).get_yticks()) < 12


def test_what_cannot_be_drawn():
    g = pc.sweep(OBJECTS, {"block_size": [1000]})
    with pytest.raises(pc.InvalidRequest, match="nothing to draw"):
        g.plot("status")
    with pytest.raises(pc.InvalidRequest, match="value='colour': must be one of"):
        g.plot("colour")
    with pytest.raises(pc.InvalidRequest, match="x='size'"):
        g.plot("status", x="size")


@pytest.mark.parametrize(
    "grid",
    [
        {"workload.size": range(4, 260, 8)},
        {"workload.size": range(4, 260, 8), "request.align": [4, 8, 16, 32, 64, 128]},
        {"workload.size": range(4, 260, 8), "engine": ["areamap", "linux-5.14"]},
        {"kernel": [kernel for kernel in pc.kernels().kernel if kernel != "2008"]},
    ],
    ids=lambda grid: "-".join(grid),
)
@pytest.mark.filterwarnings("ignore:kernel .* not compared")
def test_labels_do_not_meet(grid):
    ax = drawn(pc.sweep(OBJECTS, grid).plot())
    labels = [label for label in ax.get_xticklabels() if label.get_text()]
    assert len(labels) >= 3
    if labels[0].get_rotation():
        assert all(label.get_ha() == "right" for label in labels)
        return
    boxes = [label.get_window_extent() for label in labels]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


@pytest.mark.filterwarnings("ignore:kernel .* not compared")
def test_every_line_has_a_colour_and_marker_of_its_own():
    kernels = list(pc.kernels().kernel)
    g = pc.sweep(OBJECTS, {"kernel": kernels, "request.align": [4, 64]})
    lines = g.plot("peak_populated_bytes").get_lines()
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(kernels) > 8
