"""What objects cost, against arithmetic where it is plain."""

from __future__ import annotations

import json

import pytest

import percpu as pc
from percpu.cli import main


@pytest.mark.parametrize("size", [1, 4, 8, 24, 64, 1024, 32_768])
@pytest.mark.parametrize("cpus", [1, 6, 64])
def test_against_arithmetic(size, cpus):
    """Objects of a multiple of the alignment lie side by side."""
    count = 3000 if size < 1000 else 100
    row = pc.cost(size, count, cpus=cpus, align=4).row(0)
    rounded = -(-size // 4) * 4
    assert row["asked_bytes"] == size * count * cpus
    assert row["handed_out_bytes"] == rounded * count * cpus
    used = rounded * count
    unit = row["unit_bytes"]
    # Areas do not straddle chunks; those that divide a unit fill it.
    assert row["nr_chunks"] >= -(-used // unit)
    if unit % rounded == 0:
        assert row["nr_chunks"] == -(-used // unit)
        # All pages in use, and the stock of at most four empty ones beside the page at hand.
        assert -(-used // 4096) <= row["nr_populated_pages"] <= -(-used // 4096) + 5
    nr_units = row["address_bytes"] // row["nr_chunks"] // unit
    assert nr_units >= cpus
    assert row["populated_bytes"] == row["nr_populated_pages"] * 4096 * cpus
    assert row["meminfo_bytes"] == row["nr_populated_pages"] * 4096 * nr_units
    assert row["waste_bytes"] == row["populated_bytes"] - row["asked_bytes"]
    assert row["object_bytes"] == round(row["populated_bytes"] / count, 2)


def test_the_same_by_hand():
    """One by one on an allocator of the same shape."""
    row = pc.cost(300, 2000, cpus=8, align=64).row(0)
    a = pc.Allocator(
        unit_size=row["unit_bytes"], nr_units=row["address_bytes"] // row["unit_bytes"] // row["nr_chunks"]
    )
    for _ in range(2000):
        a.alloc(300, 64)
    assert len(a.chunks) == row["nr_chunks"]
    assert sum(chunk.nr_populated for chunk in a.chunks.values()) == row["nr_populated_pages"]


def test_several_sizes_layouts_and_atomic():
    layout = pc.FirstChunkLayout.build(
        static_size=185_496, reserved_size=8_192, dyn_size=28_672, atom_size=2 << 20,
        topology=pc.Topology.from_nodes([3, 3]),
    )  # fmt: skip
    result = pc.cost([8, 16], 500, layout=layout)
    assert result.nr_cpus.tolist() == [6, 6]
    assert result.unit_bytes.tolist() == [layout.unit_size] * 2
    atomic = pc.cost(64, 5000, cpus=2, atomic=True).row(0)
    assert atomic["handed_out_bytes"] == 64 * 5000 * 2
    # Holes of the layout have memory in no page, but the kernel counts their units.
    assert layout.nr_units > 6
    assert (result.address_bytes == result.nr_chunks * layout.unit_size * layout.nr_units).all()
    assert (result.populated_bytes == result.nr_populated_pages * 4096 * 6).all()
    assert (result.meminfo_bytes == result.nr_populated_pages * 4096 * layout.nr_units).all()


def test_wrong_arguments():
    for arguments, text in [
        (((), 1), "size is empty"),
        ((0, 1), "size=0: must be from 1"),
        ((8, 0), "count=0: must be from 1 to 100000000"),
        ((8, 10**9), "count=1000000000"),
    ]:
        with pytest.raises(pc.InvalidRequest, match=text):
            pc.cost(*arguments, cpus=2)
    with pytest.raises(pc.InvalidRequest, match="how many possible CPUs"):
        pc.cost(8, 1)
    with pytest.raises(pc.InvalidRequest, match="cpus=9999"):
        pc.cost(8, 1, cpus=9999)
    with pytest.raises(pc.InvalidRequest, match="kernel='7'"):
        pc.cost(8, 1, cpus=2, kernel="7")
    for size, align in ((40_000, 8), (8, 24), (8, 8192)):
        with pytest.raises(pc.InvalidRequest, match="illegal size"):
            pc.cost(size, 1, cpus=2, align=align)
    with pytest.raises(TypeError, match="layout must be a FirstChunkLayout, not int"):
        pc.cost(8, 1, layout=5)
    with pytest.raises(TypeError):
        pc.cost(8.5, 1, cpus=2)


def test_cli(capsys):
    assert main(["cost", "--size", "8", "64", "--count", "1000", "--cpus", "64", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["asked_bytes"] for row in rows] == [512_000, 4_096_000]
    assert main(["cost", "--size", "8", "--count", "1000", "--cpus", "64"]) == 0
    assert "512,000" in capsys.readouterr().out
    assert main(["cost", "--size", "1M", "--count", "1", "--cpus", "2"]) == 1
    assert "illegal size (1048576)" in capsys.readouterr().err
