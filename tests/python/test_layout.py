"""Topologies and first-chunk layouts; expected values are the worked examples of the specification, section 30."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import percpu as pc


def build(static, topology, **more):
    arguments = {"reserved_size": 8192, "dyn_size": 28672, "atom_size": 2 << 20, "kernel": "6.1", **more}
    return pc.FirstChunkLayout.build(static_size=static, topology=topology, **arguments)


EXAMPLES = {
    "E1": (188_416, [4], 524_288, 4),
    "E2": (188_416, [4, 4], 524_288, 8),
    "E3": (188_416, [3, 5], 1_048_576, 10),
    "E8": (188_416, [1], 2_097_152, 1),
    "E10": (3_145_728, [4], 4_194_304, 4),
    "E16a": (87_640, [12], 131_072, 16),
    "E16b": (192_512, [12], 262_144, 16),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_examples(name):
    static, nodes, unit_size, nr_units = EXAMPLES[name]
    layout = build(static, pc.Topology.from_nodes(nodes))
    assert (layout.unit_size, layout.nr_units) == (unit_size, nr_units)
    assert layout.nr_holes == nr_units - sum(nodes)
    assert layout.alloc_size % layout.unit_size == 0


def test_groups_and_holes():
    layout = build(188_416, pc.Topology.from_nodes([3, 5]))
    assert [g.cpu_map.tolist() for g in layout.groups] == [[0, 1, 2, -1], [3, 4, 5, 6, 7, -1]]
    assert layout.unit_map.tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert layout.unit_offsets.dtype == np.uint64
    assert len(set(layout.unit_offsets.tolist())) == 8


def test_interleaved_nodes():
    layout = build(139_544, pc.Topology([cpu % 4 for cpu in range(16)]))
    assert layout.dyn_size == 32_488
    assert [g.cpu_map.tolist() for g in layout.groups] == [[c, c + 4, c + 8, c + 12] for c in range(4)]


def test_sparse_ids():
    layout = build(188_416, pc.Topology.from_nodes([[0, 2, 5, 7, 40]]))
    assert layout.nr_units == 6
    assert layout.groups[0].cpu_map.tolist() == [0, 2, 5, 7, 40, -1]
    assert layout.unit_map[1] == -1


@pytest.mark.filterwarnings("ignore:kernel")
def test_distances_that_are_not_transitive():
    matrix = np.array([[10, 10, 10], [10, 10, 20], [10, 20, 10]])
    topology = pc.Topology.from_distances(matrix)
    assert [g.cpu_map.tolist() for g in build(188_416, topology).groups] == [[0, 1, 2, -1]]
    older = build(188_416, topology, kernel="5.4").groups
    assert [g.cpu_map.tolist() for g in older] == [[0, 1], [2, -1]]


def test_boot_log_to_the_byte():
    log = build(192_512, pc.Topology.from_nodes([12])).boot_log()
    assert "percpu: Embedded 56 pages/cpu s192512 r8192 d28672 u262144\n" in log
    assert "pcpu-alloc: s192512 r8192 d28672 u262144 alloc=1*2097152\n" in log
    assert "pcpu-alloc: [0] 00 01 02 03 04 05 06 07 [0] 08 09 10 11 -- -- -- -- \n" in log


def test_topology_from_boot_log():
    layout = build(188_416, pc.Topology.from_nodes([3, 5]))
    assert pc.Topology.from_boot_log(layout.boot_log()) == layout.topology


def test_topology_from_sysfs(tmp_path):
    system = tmp_path / "devices/system"
    (system / "cpu").mkdir(parents=True)
    (system / "cpu/possible").write_text("0-3,6\n")
    for node, cpus in ((0, "0,2"), (1, "1,3,6")):
        (system / f"node/node{node}").mkdir(parents=True)
        (system / f"node/node{node}/cpulist").write_text(cpus + "\n")
    topology = pc.Topology.from_sysfs(tmp_path)
    assert topology.cpu_to_node.tolist() == [0, 1, 0, 1, -1, -1, 1]
    assert topology.nr_cpus == 5
    with pytest.raises(pc.LayoutError):
        pc.Topology.from_sysfs(tmp_path / "nothing")


@pytest.mark.parametrize(
    "arguments",
    [
        {"static_size": -1},
        {"static_size": 0},
        {"atom_size": 0},
        {"atom_size": 1000},
        {"page_size": 3000},
        {"topology": 0},
    ],
    ids=str,
)
def test_wrong_layouts(arguments):
    with pytest.raises(pc.LayoutError):
        pc.FirstChunkLayout.build(**{"static_size": 188_416, "topology": 4, **arguments})


def test_wrong_topologies():
    for make in (
        lambda: pc.Topology([]),
        lambda: pc.Topology([None, None]),
        lambda: pc.Topology([0, 0], [[10]]),
        lambda: pc.Topology.from_nodes([[0, 1], [1]]),
        lambda: pc.Topology.from_distances([[10, 10]]),
        lambda: pc.Topology.from_boot_log("nothing here"),
    ):
        with pytest.raises(pc.LayoutError):
            make()


def test_layout_and_allocator_must_agree(layout):
    with pytest.raises(pc.LayoutError):
        pc.Allocator(layout, kernel="4.19")
    with pytest.raises(pc.LayoutError):
        pc.Allocator(layout, unit_size=32768)
    with pytest.raises(TypeError):
        pc.Allocator("layout")


def test_copies(layout):
    assert pickle.loads(pickle.dumps(layout)) == layout
    assert copy.deepcopy(layout) == layout
    assert hash(copy.copy(layout.topology)) == hash(layout.topology)
    assert layout != build(188_416, pc.Topology.from_nodes([1]))


def test_regions():
    """The worked example of specification 31 section 5: static 98392, reserved 8192."""
    layout = build(98_392, pc.Topology.from_nodes([4]))
    base = layout.base_addr
    assert layout.reserved == (base + 98_304, 88, 8_192, 4_008, 3)
    assert layout.first == (base + 106_496, 88, 32_680, 0, 8)
    assert build(98_392, pc.Topology.from_nodes([4]), reserved_size=0).reserved is None


def test_embed_falls_back_where_groups_are_too_far_apart():
    far = {"group_addresses": [1 << 40, 1 << 50], "vmalloc_size": 1 << 45}
    layout = build(188_416, pc.Topology.from_nodes([2, 2]), **far)
    assert len(layout.groups) == 1
    assert "falling back to page size" in layout.boot_log()
    near = build(188_416, pc.Topology.from_nodes([2, 2]), group_addresses=[1 << 40, 1 << 41], vmalloc_size=1 << 45)
    assert [g.base_offset for g in near.groups] == [0, 1 << 40]
    assert pickle.loads(pickle.dumps(near)) == near


def test_one_cpu_kernel():
    layout = pc.FirstChunkLayout.build(static_size=0, first_chunk="up")
    assert (layout.unit_size, layout.nr_units, layout.static_size) == (32_768, 1, 0)
    with pytest.raises(pc.LayoutError, match="one CPU"):
        pc.FirstChunkLayout.build(static_size=0, first_chunk="up", topology=2)


def test_words_of_32_bits():
    small = build(60_000, pc.Topology.from_nodes([2]), atom_size=4096, word_bits=32, dyn_size=20 << 10)
    assert small.base_addr < 1 << 32
    with pytest.raises(pc.LayoutError, match="static_size"):
        build(1 << 32, pc.Topology.from_nodes([2]), word_bits=32)
    with pytest.raises(pc.LayoutError, match="word_bits=48"):
        build(60_000, pc.Topology.from_nodes([2]), word_bits=48)


def test_other_blocks():
    layout = build(98_392, pc.Topology.from_nodes([2]), block_size=1024)
    a = pc.Allocator(layout)
    assert a.chunks[0].blocks.shape == (8 * 4,)
    a.free(a.alloc(64))
    a.verify()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("page_size", None, "page_size: must be given"),
        ("min_alloc_size", None, "min_alloc_size: must be given"),
        ("kernel", np.array(["6.1", "6.12"]), "kernel=array.*must be one of"),
        ("first_chunk", np.array(["page", "up"]), "first_chunk=array.*must be one of"),
        ("group_addresses", 4096, "group_addresses must be a list of integers, not int"),
        ("group_addresses", [4096, None], r"group_addresses\[1\] must be an integer, not NoneType"),
        ("page_allocator", 1, "page_allocator must be a bool, not int"),
    ],
)
def test_arguments_of_other_types(name, value, message):
    with pytest.raises((pc.LayoutError, pc.InvalidRequest), match=message):
        pc.FirstChunkLayout.build(**{"static_size": 185_496, "topology": 4, name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("variant", 3, "variant must be a str, not int"),
        ("offline_nodes", 3, "offline_nodes must be a list of integers, not int"),
        ("offline_nodes", "01", "offline_nodes must be a list of integers, not str"),
        ("remap_percent", None, "remap_percent: must be given"),
    ],
)
def test_settings_of_a_machine_of_other_types(name, value, message):
    with pytest.raises(pc.LayoutError, match=message):
        pc.FirstChunkLayout.for_machine("x86_64", "6.1", static_size=188_416, topology=4, **{name: value})


def test_areas_of_other_types():
    space = pc.VmallocSpace()
    for areas in (3, None, (1, 2), ([0], 4096, 4096), "abc"):
        with pytest.raises(TypeError, match=r"areas must be|must be an integer"):
            space.alloc(areas)
    with pytest.raises(TypeError, match="layout must be a FirstChunkLayout, not int"):
        pc.VmallocSpace.for_layout(3)
