"""Machines as people have them: topologies from texts, architectures, boot logs, explanations, sweeps."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest

import percpu as pc
from percpu.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:kernel")

LSCPU = """\
# The following is the parsable format, which can be fed to other
# programs. Each different item in every column has an unique ID
# starting usually from zero.
# CPU,Core,Socket,Node,,L1d,L1i,L2,L3
0,0,0,0,,0,0,0,0
1,1,1,1,,1,1,1,1
2,0,0,0,,0,0,0,0
3,1,1,1,,1,1,1,1
"""
LSCPU_OFFLINE = "# CPU,Node,Online\n0,0,Y\n1,0,Y\n2,,N\n3,1,Y\n"
NUMACTL = """\
available: 3 nodes (0-1,3)
node 0 cpus: 0 2
node 0 size: 64247 MB
node 0 free: 59846 MB
node 1 cpus: 1 3
node 1 size: 64508 MB
node 3 cpus:
node 3 size: 1024 MB
node distances:
node   0   1   3
  0:  10  21  17
  1:  21  10  28
  3:  17  28  10
"""


def machine(nodes, static=188_416, **more):
    return pc.FirstChunkLayout.for_machine(
        "x86_64", "6.1", static_size=static, topology=pc.Topology.from_nodes(nodes), **more
    )


def sysfs(root, possible, online, nodes, distances=()):
    system = root / "devices/system"
    (system / "cpu").mkdir(parents=True)
    (system / "cpu/possible").write_text(possible + "\n")
    (system / "cpu/online").write_text(online + "\n")
    for number, cpus in nodes.items():
        (system / f"node/node{number}").mkdir(parents=True)
        (system / f"node/node{number}/cpulist").write_text(cpus + "\n")
    for number, row in zip(nodes, distances, strict=False):
        (system / f"node/node{number}/distance").write_text(row + "\n")
    return root


def test_lscpu():
    assert pc.Topology.from_lscpu(LSCPU).cpu_to_node.tolist() == [0, 1, 0, 1]
    offline = pc.Topology.from_lscpu(LSCPU_OFFLINE)
    assert (offline.cpu_to_node.tolist(), offline.online.tolist()) == ([0, 0, 0, 1], [0, 1, 3])


def test_numactl():
    topology = pc.Topology.from_numactl(NUMACTL)
    assert topology.cpu_to_node.tolist() == [0, 1, 0, 1]
    assert topology.node_distances[0].tolist() == [10, 21, 20, 17]
    assert pc.Topology.from_numactl("node 0 cpus: 0 1\n").node_distances is None


def test_slit_and_tables_decide_about_groups():
    near = pc.Topology.from_slit([[10, 10, 20], [10, 10, 20], [20, 20, 10]], [2, 2, 2])
    arm = {"static_size": 91_112, "topology": near}
    groups = pc.FirstChunkLayout.for_machine("arm64", "6.1", **arm).groups
    assert [g.cpu_map.tolist() for g in groups] == [[0, 1, 2, 3], [4, 5]]
    # x86 asks only whether nodes are the same, a machine without NUMA not even that.
    assert len(pc.FirstChunkLayout.for_machine("x86_64", "6.1", **arm).groups) == 3
    assert len(pc.FirstChunkLayout.for_machine("arm64", "6.1", variant="flat", **arm).groups) == 1
    flat = pc.Topology([0, 0, 1, 1], flat=True)
    assert len(pc.FirstChunkLayout.build(static_size=91_112, topology=flat).groups) == 1
    assert pickle.loads(pickle.dumps(near)) == near != pc.Topology.from_nodes([2, 2, 2])


def test_sysfs_with_distances(tmp_path):
    rows = ["10 21", "21 10"]
    topology = pc.Topology.from_sysfs(sysfs(tmp_path, "0-5", "0-3", {0: "0,2", 2: "1,3"}, rows))
    assert topology.cpu_to_node.tolist() == [0, 2, 0, 2, 0, 0]
    assert topology.node_distances.tolist() == [[10, 20, 21], [20, 10, 20], [21, 20, 10]]
    assert (topology.nr_cpus, topology.nr_online) == (6, 4)
    assert "2 of them" not in repr(topology)
    assert "4 of them online" in repr(topology)


@pytest.mark.parametrize(
    "make",
    [
        lambda: pc.Topology(5),
        lambda: pc.Topology(["a"]),
        lambda: pc.Topology([0.5]),
        lambda: pc.Topology([0, 70_000]),
        lambda: pc.Topology([0], online=[1]),
        lambda: pc.Topology([0, 2], node_distances=[[10, 20], [20, 10]]),
        lambda: pc.Topology([0, 0], [[10, 10], [10]]),
        lambda: pc.Topology([0], [[10]], flat=True),
        lambda: pc.Topology.from_nodes(5),
        lambda: pc.Topology.from_nodes(["a"]),
        lambda: pc.Topology.from_nodes([[0.5]]),
        lambda: pc.Topology.from_nodes([True]),
        lambda: pc.Topology.from_nodes(["4-2"]),
        lambda: pc.Topology.from_nodes(["0-99999999"]),
        lambda: pc.Topology.from_slit("10 x", [1]),
        lambda: pc.Topology.from_slit([[10, -1], [1, 10]], [1, 1]),
        lambda: pc.Topology.from_distances([[10]], possible=["a"]),
        lambda: pc.Topology.from_lscpu(""),
        lambda: pc.Topology.from_lscpu(7),
        lambda: pc.Topology.from_lscpu("0,0,0,0\n0,1,1,1"),
        lambda: pc.Topology.from_lscpu("zero,0,0,0"),
        lambda: pc.Topology.from_lscpu("99999999,0,0,0"),
        lambda: pc.Topology.from_numactl("no nodes"),
        lambda: pc.Topology.from_numactl("node 0 cpus: 99999999"),
        lambda: pc.Topology.from_numactl("node 0 cpus: 0\nnode distances:\nnode 0\n  0: 10 20"),
        lambda: pc.Topology.from_boot_log(b"bytes"),
        lambda: pc.FirstChunkLayout.build(static_size="1", topology=1),
        lambda: pc.FirstChunkLayout.build(static_size=1.5, topology=1),
        lambda: pc.FirstChunkLayout.build(static_size=1000, topology="two"),
        lambda: pc.FirstChunkLayout.build(static_size=1000, group_addresses=["a"]),
        lambda: pc.FirstChunkLayout.for_machine("z80", static_size=1000),
        lambda: pc.FirstChunkLayout.for_machine("x86_64", "2.6.30", static_size=1000, variant="radix"),
        lambda: pc.FirstChunkLayout.for_machine("x86_64", "6.1", static_size=1000, dyn_shift=12),
        lambda: pc.FirstChunkLayout.for_machine("x86_64", "6.1", static_size=1000, dyn_shift=11),
        lambda: pc.FirstChunkLayout.for_machine("x86_64", "6.1", static_size=1000, dyn_size=-1),
        lambda: pc.FirstChunkLayout.for_machine("x86_64", "6.1", static_size=None),
        lambda: pc.FirstChunkLayout.build(static_size=1000, first_chunk="lpage"),
        lambda: pc.FirstChunkLayout.from_boot_log("nothing"),
        lambda: pc.FirstChunkLayout.from_boot_log(None),
        lambda: pc.layout_sweep(nr_cpus=[1, 2], static_size=[1, 2, 3], grid=False),
        lambda: pc.layout_sweep(nr_cpus=1 << 20, static_size=1),
        lambda: pc.layout_sweep(nr_cpus=[0.5], static_size=1),
        lambda: pc.layout_sweep(nr_cpus=range(1, 4097), nr_nodes=range(1, 65), static_size=range(1, 4097)),
    ],
)
def test_nonsense_is_a_layout_error(make):
    with pytest.raises(pc.LayoutError):
        make()


def test_sysfs_that_makes_no_sense(tmp_path):
    for name, possible, nodes, rows in (
        ("a", "", {}, ()),
        ("b", "x", {}, ()),
        ("c", "0-3", {0: "0-x"}, ()),
        ("d", "0-3", {0: "0-3"}, ["10 ten"]),
        ("e", "0-3", {0: "0-1", 1: "2-3"}, ["10 20 30", "20 10"]),
    ):
        with pytest.raises(pc.LayoutError):
            pc.Topology.from_sysfs(sysfs(tmp_path / name, possible, possible, nodes, rows))


def test_constants_of_architectures():
    ppc = pc.FirstChunkLayout.for_machine("ppc64le", "5.10", static_size=627_608, topology=8, page_size=1 << 16)
    assert (ppc.reserved_size, ppc.dyn_size, ppc.unit_size, ppc.release, ppc.kernel) == (
        0,
        93_288,
        1 << 20,
        "5.10",
        "5.10",
    )
    topology = pc.Topology.from_nodes([20, 20])
    ubuntu = pc.FirstChunkLayout.for_machine("x86_64", "6.8.0-88", static_size=229_376, topology=topology, dyn_shift=12)
    assert (ubuntu.dyn_size, ubuntu.unit_size, ubuntu.kernel) == (114_688, 524_288, "6.6")
    old = pc.FirstChunkLayout.for_machine("i386", "2.6.35-22-generic", static_size=36_416, topology=2)
    assert old.boot_log().startswith("PERCPU: Embedded 14 pages/cpu @c1000000 s36416 r0 d20928 u2097152\n")
    assert (old.kernel, old.release, old.arch) == ("4.13", "2.6.35-22-generic", "i386")
    assert pickle.loads(pickle.dumps(old)) == old
    assert pc.Allocator(old).alloc(8)
    changed = pc.FirstChunkLayout.for_machine("i386", "2.6.35", static_size=36_416, topology=2, atom_size=4096)
    assert changed.unit_size == 65_536  # 64 KiB, the smallest unit of the time
    rows = pc.architectures()
    assert set(rows.word_bits.tolist()) == {32, 64}
    assert len(rows[rows.arch == "ppc64le"]) == 4
    with pytest.raises(TypeError):
        pc.FirstChunkLayout.for_machine("x86_64", static_size=1000, atom=4096)


def test_first_chunks_of_2009():
    nodes = pc.Topology.from_nodes([3, 5])
    old = pc.FirstChunkLayout.for_machine("x86_64", "2.6.31", static_size=87_640, topology=nodes)
    assert (old.first_chunk, old.unit_size, len(old.groups)) == ("lpage", 1 << 20, 1)
    assert "pcpu-lpage: 00 01 | 02 -- | 03 04 | 05 06 \n" in old.boot_log()
    assert "lpage" in str(old.explain())
    assert pc.Allocator(old).alloc(64)
    with pytest.raises(pc.InvalidRequest, match="vmalloc"):
        pc.Allocator(old, vmalloc=pc.VmallocSpace())
    first = pc.FirstChunkLayout.for_machine("x86_64", "2.6.30", static_size=87_640, topology=4, first_chunk="page")
    assert first.boot_log().startswith("PERCPU: Allocated 24 4k pages")
    with pytest.raises(pc.InvalidRequest, match="mapped_pages"):
        pc.Allocator(first)
    padded = pc.FirstChunkLayout.build(static_size=87_640, dyn_size=-1, kernel="2.6.35", topology=2)
    assert padded.dyn_size == 22 * 4096 - 87_640
    assert pickle.loads(pickle.dumps(padded)) == padded


def test_boot_log_there_and_back():
    layout = machine([3, 5], 212_992)
    again = pc.FirstChunkLayout.from_boot_log(layout.boot_log(), kernel="6.1.0-56-cloud-amd64", arch="x86_64")
    assert again.recovery.ok
    assert again.recovery.from_release
    assert again.boot_log() == layout.boot_log()
    assert [g.cpu_map.tolist() for g in again.groups] == [g.cpu_map.tolist() for g in layout.groups]
    sources = {name: source for name, _, source in again.recovery.inputs}
    assert (sources["static_size"], sources["dyn_size"], sources["kernel"]) == ("shown", "follows", "told")
    assert pickle.loads(pickle.dumps(again)).recovery == again.recovery
    damaged = layout.boot_log().replace("[1] 3 4", "[1] 4 3")
    wrong = pc.FirstChunkLayout.from_boot_log(damaged)
    assert not wrong.recovery.ok
    assert "differs" in str(wrong.recovery)
    with pytest.raises(pc.LayoutError, match="too little") as caught:
        pc.FirstChunkLayout.from_boot_log("pcpu-alloc: [0] 0 1 2 3")
    assert "summary" in caught.value.missing


def test_boot_log_of_few_words():
    layout = pc.FirstChunkLayout.from_boot_log("percpu: Embedded 24 pages/cpu s57896 r8192 d32216 u98304")
    assert (layout.page_size, layout.unit_size, layout.nr_units) == (4096, 98_304, 1)
    assert not layout.recovery.topology_known
    told = pc.FirstChunkLayout.from_boot_log(
        "percpu: Embedded 24 pages/cpu s57896 r8192 d32216 u98304", arch="arm64", topology=8
    )
    assert told.nr_units == 8
    assert told.recovery.ok


def test_explanation():
    layout = machine([3, 5])
    why = layout.explain()
    assert [(c["units_per_alloc"], c["verdict"]) for c in why.candidates] == [
        (8, "wasteful"),
        (4, "wasteful"),
        (2, "taken"),
        (1, "more_allocs"),
    ]
    assert why.total["first_chunk_bytes"] == 8 * 225_280
    assert why.per_node == {0: 3 * 225_280, 1: 5 * 225_280}
    assert json.loads(json.dumps(why.to_dict()))["groups"][1]["nr_units"] == 6
    text = str(why)
    for words in ("rejected: more holes than a third of the CPUs (2)", "<- this one", "three quarters", "lpage"):
        assert words in text
    assert "candidates" in dir(why)
    with pytest.raises(AttributeError):
        why.nothing
    far = machine([2, 2], group_addresses=[1 << 40, 1 << 50])
    assert "falling back" in str(far.explain())
    up = pc.FirstChunkLayout.build(static_size=0, first_chunk="up")
    assert "one CPU" in str(up.explain())


def test_possible_far_above_online():
    case = pc.MACHINES["possible far above online"]
    topology = pc.Topology([0] * case["nr_cpus"], online=range(case["nr_online"]))
    layout = pc.FirstChunkLayout.build(static_size=case["static_size"], reserved_size=8 << 10, topology=topology)
    offline = layout.explain().total["offline_bytes"]
    assert offline == pc.layout_sweep(**case).offline_bytes[0]
    assert "1008 possible CPUs that are not online" in str(layout.explain())


def test_sweep():
    r = pc.layout_sweep(nr_cpus=range(1, 257), nr_nodes=[1, 2, 8], static_size=188_416, kernel="6.1")
    assert len(r) == 256 * 3
    assert r.missing("unit_size_bytes").sum() == sum(n > c for c in range(1, 257) for n in (1, 2, 8))
    for index in (40, 300, 767):
        row = r.row(index)
        layout = pc.FirstChunkLayout.build(
            static_size=188_416,
            reserved_size=8192,
            kernel="6.1",
            topology=pc.Topology.from_nodes(
                [len(part) for part in np.array_split(range(row["nr_cpus"]), row["nr_nodes"])]
            ),
        )
        assert (row["unit_size_bytes"], row["nr_holes"]) == (layout.unit_size, layout.nr_holes)
    one = pc.layout_sweep(nr_cpus=range(1, 257), nr_nodes=[1, 2, 8], static_size=188_416, kernel="6.1", threads=1)
    assert one == r
    pairs = pc.layout_sweep(nr_cpus=[4, 8], nr_nodes=[1, 2], static_size=188_416, grid=False)
    assert len(pairs) == 2
    assert r[r.status == "ok"].waste.max() <= 0.25


def test_vmalloc_space():
    """Worked example of specification 32 section 9."""
    areas = ([0, 0x8_0000_0000], [0x20_0000, 0x20_0000], 0x20_0000)
    space = pc.VmallocSpace()
    assert space.find(areas) == 0xFFFF_E8F7_FFC0_0000
    assert space.alloc(areas).base == 0xFFFF_E8F7_FFC0_0000
    space.occupy(0xFFFF_E8FF_FF80_0000, 0xFFFF_E8FF_FFB0_5000)
    again = copy.copy(space)
    assert space.alloc(areas) == pc.PlacedAreas(0xFFFF_E8F7_FF60_0000, 3, False)
    assert again != space
    assert pickle.loads(pickle.dumps(space)) == space
    space.verify()
    space.free(areas, 0xFFFF_E8F7_FFC0_0000)
    assert (space.lazy_pages, sum(lazy for _, _, lazy in space.busy)) == (1024, 2)
    assert space.purge() == 2
    small = pc.VmallocSpace(0x10000, 0x20000, search="busy_areas")
    with pytest.raises(pc.AllocError) as caught:
        small.alloc(([0, 0x10000], [0x1000, 0x1000], 0x1000))
    assert caught.value.reason == "too_far_apart"
    for bad in (lambda: small.occupy(5, 5), lambda: small.release(7), lambda: pc.VmallocSpace(0, 5)):
        with pytest.raises(pc.InvalidRequest):
            bad()
    with pytest.raises(pc.InvalidRequest):
        small.inject("split")
    with pytest.raises(TypeError):
        hash(space)


def test_allocator_takes_its_chunks_there():
    layout = machine([2, 2], group_addresses=[0xFFFF_8887_FFE0_0000, 0xFFFF_888F_FFE0_0000])
    space = pc.VmallocSpace.for_layout(layout)
    assert space.search == "free_blocks"
    a = pc.Allocator(layout, vmalloc=space)
    while len(a.chunks) < 3:
        a.alloc(16 << 10)
    assert [hex(a.chunks[n].base_addr) for n in (1, 2)] == ["0xffffe8f7ffc00000", "0xffffe8f7ffa00000"]
    assert len(space.busy) == 0
    assert len(a.vmalloc_space.busy) == 4
    assert copy.copy(a).vmalloc_space == a.vmalloc_space == pc.Allocator.restore(a.snapshot()).vmalloc_space
    # An address space that holds one chunk more than the first.
    tight = pc.VmallocSpace(0xFFFF_C900_0000_0000, 0xFFFF_C900_0000_0000 + 0x8_0020_0000)
    b = pc.Allocator(layout, vmalloc=tight)
    with pytest.raises(pc.AllocError, match="failed to allocate new chunk"):
        for _ in range(10_000):
            b.alloc(16 << 10)
    assert len(b.chunks) == 2
    b.verify()
    paged = machine([2, 2], first_chunk="page")
    assert pc.Allocator(paged, vmalloc=pc.VmallocSpace.for_layout(paged)).vmalloc_space.busy
    assert pc.Allocator(layout).vmalloc_space is None
    with pytest.raises(TypeError):
        pc.Allocator(layout, vmalloc="space")
    with pytest.raises(pc.InvalidRequest):
        pc.Allocator(unit_size=1 << 20, nr_units=2, vmalloc=space)


def test_pictures():
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot as plt

    from percpu.plot import plot_address_space, plot_waste

    for layout in (machine([3, 5]), machine([64] * 32), machine([1], first_chunk="page"), machine([2, 2]).explain()):
        ax = layout.plot()
        assert ax.get_title(loc="left")
        assert ax.texts
    ax = plot_address_space(machine([2, 2], group_addresses=[0xFFFF_8887_FFE0_0000, 0xFFFF_888F_FFE0_0000]))
    assert len(ax.patches) == 4
    assert any(text.get_text() == "//" for text in ax.texts)
    up = pc.FirstChunkLayout.build(static_size=0, first_chunk="up")
    assert len(up.plot().figure.axes) == 1
    sweep = pc.layout_sweep(nr_cpus=range(1, 65), nr_nodes=range(1, 9), static_size=188_416)
    ax = plot_waste(sweep)
    assert ax.images[0].get_array().shape == (8, 64)
    plt.close("all")


def run(capsys, *argv):
    code = main(["layout", *map(str, argv)])
    return code, capsys.readouterr()


def test_command_line(capsys, tmp_path):
    code, out = run(capsys, "--nodes", 3, 5, "--static-size", 188_416, "--kernel", "6.1", "--explain")
    assert code == 0
    assert "pcpu-alloc: [0] 0 1 [0] 2 - [1] 3 4 [1] 5 6 " in out.out
    assert "ends the search" in out.out
    code, out = run(
        capsys, "--nodes", "0-1", "2,3", "--static", "91112", "--arch", "arm64", "--kernel", "5.16", "--json"
    )
    assert json.loads(out.out)["nr_groups"] == 2
    log = tmp_path / "dmesg"
    log.write_text(machine([3, 5]).boot_log())
    code, out = run(capsys, "--boot-log", log, "--json", "--explain")
    found = json.loads(out.out)
    assert code == 0
    assert found["recovery"]["differences"] == []
    assert found["explain"]["candidates"][2]["verdict"] == "taken"
    code, out = run(capsys, "--boot-log", log, "--plot", tmp_path / "layout.png")
    assert code == 0
    assert (tmp_path / "layout.png").stat().st_size > 10_000
    log.write_text(machine([3, 5]).boot_log().replace("u1048576", "u524288"))
    assert run(capsys, "--boot-log", log)[0] == 1
    log.write_text("pcpu-alloc: [0] 0 1")
    code, out = run(capsys, "--boot-log", log)
    assert code == 1
    assert "too little" in out.err
    (tmp_path / "lscpu").write_text(LSCPU)
    code, out = run(capsys, "--lscpu", tmp_path / "lscpu", "--static", "188416", "--json")
    assert json.loads(out.out)["nr_groups"] == 2
    (tmp_path / "numactl").write_text(NUMACTL)
    code, out = run(capsys, "--numactl", tmp_path / "numactl", "--static", "188416", "--json")
    assert json.loads(out.out)["nr_groups"] == 2


def test_this_machine(capsys, tmp_path):
    root = sysfs(tmp_path, "0-5", "0-3", {0: "0,2", 1: "1,3"})
    base = ["--this-machine", "--sysfs-root", root, "--arch", "x86_64", "--kernel", "6.1"]
    code, out = run(capsys, *base)
    assert code == 1
    assert "--static-size" in out.err
    code, out = run(capsys, *base, "--static-size", 188_416, "--json")
    assert json.loads(out.out)["nr_groups"] == 2
    (root / "kernel/debug").mkdir(parents=True)
    (root / "kernel/debug/percpu_stats").write_text("Allocation Info:\n  static_size         :       188416\n")
    assert run(capsys, *base, "--json")[1].out == out.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node 4000000000 cpus: 0", "line 1 .*node 4000000000: must be from 0 to 1023"),
        ("node 0 cpus: 0\nnode distances:\nnode 0 4000000000\n 0: 10 20", "line 3 .*node 4000000000: must be"),
        ("node 0 cpus: 0\nnode distances:\nnode 0\n 0: 9999999999999999999999", "distances of node 0: 9{22}: must be"),
    ],
)
def test_numbers_in_texts_of_machines_have_bounds(text, message):
    with pytest.raises(pc.LayoutError, match=message):
        pc.Topology.from_numactl(text)


def test_numbers_in_files_of_machines_have_bounds(tmp_path):
    system = tmp_path / "devices" / "system"
    for directory in ("cpu", "node/node0", "node/node0\N{SUPERSCRIPT TWO}"):
        (system / directory).mkdir(parents=True)
    (system / "cpu/possible").write_text("0-3")
    for directory in (system / "node").iterdir():
        (directory / "cpulist").write_text("0-3")
    assert pc.Topology.from_sysfs(tmp_path).nr_cpus == 4
    for text, message in (("9" * 30, "must be from 0 to"), ("\N{SUPERSCRIPT TWO}", "must be distances")):
        (system / "node/node0/distance").write_text(text)
        with pytest.raises(pc.LayoutError, match=message):
            pc.Topology.from_sysfs(tmp_path)
    (system / "node/node0/distance").unlink()
    (system / "node/node4000000000").mkdir()
    (system / "node/node4000000000/cpulist").write_text("")
    with pytest.raises(pc.LayoutError, match="node 4000000000: must be from 0 to 1023"):
        pc.Topology.from_sysfs(tmp_path)
    (system / "cpu/possible").write_text("0-65535,0-65535")
    with pytest.raises(pc.LayoutError, match="more than 65536 CPUs"):
        pc.Topology.from_sysfs(tmp_path)
    with pytest.raises(pc.LayoutError, match="line 1 is no row"):
        pc.Topology.from_lscpu("\N{SUPERSCRIPT TWO},0,0,0")
