"""The debugfs text percpu_stats as data."""

from __future__ import annotations

import gzip
import json
import pickle
import re
import sys
from itertools import pairwise

import numpy as np
import pytest

import percpu as pc
from percpu.cli import main

from .conftest import RECORDINGS, ROOT, standard_input

DATA = ROOT / "tests" / "data"
PINNING = [DATA / "head-pinning-618" / f"percpu_stats-{n}.txt" for n in range(5)]
TEXTS = sorted([*PINNING, *DATA.rglob("recordings/*/percpu_stats-*.txt")])
# The sample of a kernel with memory cgroups between 5.9 and 5.13 (ppc64, 64 KiB pages).
MEMCG = """\
Percpu Memory Statistics
Allocation Info:
----------------------------------------
  unit_size           :       655360
  static_size         :       608920
  reserved_size       :            0
  dyn_size            :        46440
  atom_size           :        65536
  alloc_size          :       655360

Global Stats:
----------------------------------------
  nr_alloc            :         9038
  nr_dealloc          :         6992
  nr_cur_alloc        :         2046
  nr_max_alloc        :         2200
  nr_chunks           :            3
  nr_max_chunks       :            3
  min_alloc_size      :            4
  max_alloc_size      :         1072
  empty_pop_pages     :           12

Per Chunk Stats:
----------------------------------------
Chunk: <- First Chunk
  nr_alloc            :         1092
  max_alloc_size      :         1072
  empty_pop_pages     :            0
  first_bit           :        16247
  free_bytes          :            4
  contig_bytes        :            4
  sum_frag            :            4
  max_frag            :            4
  cur_min_alloc       :            4
  cur_med_alloc       :            8
  cur_max_alloc       :         1072
  memcg_aware         :            0

"""


def rows_of(text):
    """A second way of reading: each chunk's rows as they stand."""
    chunks = re.split(r"^Chunk.*\n", text, flags=re.MULTILINE)[1:]
    return [{name: int(value) for name, value in re.findall(r"^  (\w+) *: *(-?\d+)$", chunk, re.M)} for chunk in chunks]


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_recorded_texts(path):
    text = path.read_text()
    stats = pc.read_percpu_stats(path)
    assert stats == pc.read_percpu_stats(str(path)) == pc.read_percpu_stats(text)
    assert stats.to_text() == text
    assert stats.form == "linux"
    rows = rows_of(text)
    assert len(rows) == len(stats.chunks)
    for row, chunk in zip(rows, stats.chunks.rows(), strict=True):
        assert row["free_bytes"] == chunk["free_bytes"]
        assert row["contig_bytes"] == chunk["contig_bytes"]
        assert row["max_frag"] == chunk["max_frag_bytes"]
        assert row["first_bit"] == chunk["first_free_bits"]
        assert chunk["memcg_aware"] is None
    # The counters agree with the chunks: every live area is in one of them.
    assert stats.chunks.nr_alloc.sum() == stats.totals["nr_cur_alloc"]
    assert stats.totals["nr_alloc"] - stats.totals["nr_dealloc"] == stats.totals["nr_cur_alloc"]
    assert pickle.loads(pickle.dumps(stats)) == stats


@pytest.mark.parametrize("kernel", ["areamap", "rfc-v1", "linux-4.14", "linux-5.2", "linux-5.14"])
def test_used_bytes_are_those_of_the_maps(kernel):
    """The bytes in use, which the text tells only indirectly, against the allocation maps themselves."""
    if kernel in ("areamap", "rfc-v1"):
        a = pc.Allocator(unit_size=64 << 10, nr_units=2, engine=kernel)
    else:
        # A static section that ends in the middle of a granule.
        layout = pc.FirstChunkLayout.build(
            static_size=185_499, reserved_size=8_192, dyn_size=28_672, atom_size=2 << 20,
            topology=pc.Topology.from_nodes([2]), kernel=kernel,
        )  # fmt: skip
        a = pc.Allocator(layout)
    rng = np.random.default_rng(5)
    live = [a.alloc(int(size), atomic=False) for size in rng.integers(4, 2000, 300)]
    for p in live[::3]:
        a.free(p)
    stats = pc.read_percpu_stats(a.stats_text())
    assert stats.to_text() == a.stats_text()
    chunks = [a.reserved_chunk] if a.reserved_chunk else []
    chunks += [a.chunks[int(n)] for slot in a.slots for n in slot]
    expected = []
    for chunk in chunks:
        granule = chunk.info["nr_pages"] * 4096 // len(chunk.alloc_map)
        hidden = chunk.info["start_offset"] + chunk.info["end_offset"]
        expected.append(granule * int(chunk.alloc_map.sum()) - hidden)
    assert stats.table().used_bytes.tolist() == expected


def test_forms():
    stats = pc.read_percpu_stats(MEMCG)
    assert (stats.form, stats.to_text()) == ("linux-memcg", MEMCG)
    assert stats.chunks[0]["memcg_aware"] is False
    assert stats.table().used_bytes.tolist() == [46440 - 4]
    # As mail and terminals leave it.
    mangled = MEMCG.replace("  ", " ").replace("\n", " \r\n")
    assert pc.read_percpu_stats(mangled) == stats
    assert pc.read_percpu_stats(mangled).to_text() == MEMCG
    old = pc.Allocator(unit_size=64 << 10, nr_units=2, engine="areamap")
    old.alloc(100)
    stats = pc.read_percpu_stats(old.stats_text())
    assert stats.form == "areamap"
    assert "empty_pop_pages" not in stats.totals
    assert stats.chunks[0]["first_free_bits"] is None
    assert stats.summary()["nr_empty_pop_pages"] is None


def test_what_looks_pinned():
    """Four chunks were filled, and emptied but for an area on each page (see the README of the data)."""
    table = pc.read_percpu_stats(PINNING[3]).table(cpus=2)
    pinned = table[table.pinned]
    assert pinned.nr_alloc.tolist() == [766] * 3
    assert pinned.used_bytes.tolist() == [(1 << 20) - 1_036_320] * 3
    # Their hint says that nothing is free; gaps of a page less one area are.
    assert pinned.contig_bytes.tolist() == [0] * 3
    assert pinned.hidden_bytes.tolist() == [4080] * 3
    assert table.all_used_bytes.tolist() == [2 * used for used in table.used_bytes]
    assert table.all_unit_bytes[table.pinned].tolist() == [2 << 20] * 3
    assert not table.pinned[table.label == 1].any()
    assert not pc.read_percpu_stats(PINNING[3]).table(pinned_below=0).pinned.any()
    summary = pc.read_percpu_stats(PINNING[3]).summary(cpus=2)
    assert summary["nr_pinned"] == 3
    assert summary["pinned_free_bytes"] == 3 * 1_036_320
    assert summary["all_pinned_free_bytes"] == 6 * 1_036_320


def test_a_lone_chunk_is_not_pinned(allocator):
    """Where else should its areas be?"""
    allocator.alloc(8)
    table = pc.read_percpu_stats(allocator.stats_text()).table()
    assert table.used_percent.tolist() == [0.01]
    assert table.pinned.tolist() == [False]


def test_comparison():
    for before, after in pairwise(PINNING):
        rows = {row["name"]: row for row in pc.compare_stats(*map(pc.read_percpu_stats, (before, after))).rows()}
        texts = [
            dict(re.findall(r"^  (nr_\w+) *: *(\d+)$", p.read_text().split("Per Chunk")[0], re.M))
            for p in (before, after)
        ]
        for name, value in texts[0].items():
            assert (rows[name]["before"], rows[name]["after"]) == (int(value), int(texts[1][name]))
            assert rows[name]["change"] == int(texts[1][name]) - int(value)
        free = [sum(row["free_bytes"] for row in rows_of(p.read_text())) for p in (before, after)]
        assert rows["free_bytes"]["change"] == free[1] - free[0]
    with pytest.raises(pc.InvalidRequest, match=r"nr_alloc falls from .*wrong order"):
        pc.compare_stats(*map(pc.read_percpu_stats, (PINNING[1], PINNING[0])))
    with pytest.raises(pc.InvalidRequest, match="unit_size is 1048576 before and 655360 after"):
        pc.compare_stats(pc.read_percpu_stats(PINNING[0]), pc.read_percpu_stats(MEMCG))


def test_the_largest_run_is_that_of_the_maps():
    """Behind the last area, or between two: against the maps of every chunk, for random states of each generation."""
    for kernel in ("linux-4.14", "linux-5.2", "linux-5.14"):
        a = pc.Allocator(unit_size=64 << 10, nr_units=2, kernel=kernel)
        rng = np.random.default_rng(11)
        live = [a.alloc(int(size)) for size in rng.integers(8, 3000, 120)]
        for p in rng.permutation(live)[:80]:
            a.free(int(p))
        stats = pc.read_percpu_stats(a.stats_text())
        expected = []
        for slot in a.slots:
            for number in slot:
                runs = "".join("01"[int(used)] for used in a.chunks[int(number)].alloc_map).split("1")
                expected.append(4 * max(map(len, runs)))
        table = stats.table()
        assert table.largest_bytes.tolist() == expected
        assert (table.hidden_bytes == np.maximum(table.largest_bytes - table.contig_bytes, 0)).all()


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_hints_are_never_too_high(path):
    """The hint of every recorded chunk is at most the largest run: that is what the kernel promises."""
    table = pc.read_percpu_stats(path).table(cpus=3)
    assert (table.contig_bytes <= table.largest_bytes).all()
    assert (table.all_free_bytes == 3 * table.free_bytes).all()
    rows = rows_of(path.read_text())
    assert table.largest_bytes.tolist() == [max(row["max_frag"], row["free_bytes"] - row["sum_frag"]) for row in rows]


def test_chunks_that_differ():
    for before, after in pairwise(PINNING):
        first, second = (rows_of(path.read_text()) for path in (before, after))
        # Pairs are taken out one by one.
        left = list(second)
        gone = []
        for row in first:
            if row in left:
                left.remove(row)
            else:
                gone.append(row)
        found = pc.compare_chunks(pc.read_percpu_stats(before), pc.read_percpu_stats(after), cpus=2)
        assert found.attrs["nr_same"] == len(first) - len(gone)
        rows = list(found.rows())
        for moment, expected in (("before", gone), ("after", left)):
            free = [row["free_bytes"] for row in rows if row["moment"] == moment]
            assert sorted(free) == sorted(row["free_bytes"] for row in expected)
    same = pc.compare_chunks(*[pc.read_percpu_stats(PINNING[0])] * 2)
    assert (len(same), same.attrs["nr_same"]) == (0, 3)
    with pytest.raises(pc.InvalidRequest, match="wrong order"):
        pc.compare_chunks(*map(pc.read_percpu_stats, (PINNING[1], PINNING[0])))


def test_comparison_with_cpus():
    texts = [pc.read_percpu_stats(path) for path in (PINNING[0], PINNING[3])]
    rows = {row["name"]: row["change"] for row in pc.compare_stats(*texts, cpus=8, pinned_below=0).rows()}
    assert rows["all_used_bytes"] == 8 * rows["used_bytes"]
    assert rows["nr_pinned"] == 0


def test_the_counters_of_a_comparison_are_the_kernels():
    """With a reserved chunk there are more chunks in the text than the kernel counts."""
    paths = [RECORDINGS / "cg-own-2+2" / f"percpu_stats-{side}.txt" for side in "ab"]
    texts = [pc.read_percpu_stats(path) for path in paths]
    rows = {row["name"]: row for row in pc.compare_stats(*texts).rows()}
    heads = [path.read_text().partition("Per Chunk Stats")[0] for path in paths]
    printed = [dict(re.findall(r"^  (\w+) +: +(\d+)$", head, re.MULTILINE)) for head in heads]
    for name in texts[0].totals:
        assert [rows[name]["before"], rows[name]["after"]] == [int(values[name]) for values in printed], name
    assert len(texts[0].chunks) == rows["nr_chunks"]["before"] + 1


def test_files_and_picture(capsys, tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    for ending in ("csv", "json", "parquet"):
        path = tmp_path / f"table.{ending}"
        assert run(capsys, PINNING[3], "--top", 2, "-o", path, "--plot", tmp_path / "a" / "p.png")[0] == 0
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [row["free_bytes"] for row in rows] == [row["free_bytes"] for row in rows_of(PINNING[3].read_text())]
    assert (tmp_path / "a" / "p.png").stat().st_size > 5000
    _, out, _ = run(capsys, PINNING[2], PINNING[3], "--chunks", "--json", "--cpus", 2, "-o", tmp_path / "c.json")
    facts = json.loads(out)
    assert facts["chunks"] == json.loads((tmp_path / "c.json").read_text())
    nr = [int(re.search(r"nr_chunks +: +(\d+)", path.read_text())[1]) for path in PINNING[2:4]]
    assert {"name": "nr_chunks", "before": nr[0], "after": nr[1], "change": nr[1] - nr[0]} in facts["sums"]
    _, out, _ = run(capsys, PINNING[2], PINNING[3], "--chunks", "--top", 1)
    assert f"{facts['nr_same']} chunks are the same in both texts." in out
    axes = pc.read_percpu_stats(PINNING[3]).plot(cpus=2)
    bars = {bars.get_label(): [bar.get_width() for bar in bars] for bars in axes.containers}
    table = pc.read_percpu_stats(PINNING[3]).table(cpus=2)
    assert bars["in use"] == table.all_used_bytes.tolist()
    assert bars["free: hidden by the hint"] == (2 * table.hidden_bytes).tolist()
    assert np.sum(list(bars.values()), axis=0).tolist() == (table.all_used_bytes + table.all_free_bytes).tolist()
    pyplot.close("all")
    with pytest.raises(pc.InvalidRequest, match="top=0"):
        pc.read_percpu_stats(PINNING[3]).plot(top=0)
    code, _, err = run(capsys, PINNING[3], "-o", tmp_path / "x.txt")
    assert code == 1
    assert "must end in .csv, .json or .parquet" in err


def test_damage(tmp_path):
    for text, line in [
        ("nothing\n", 1),
        (MEMCG.replace("static_size", "statik_size"), 5),
        (MEMCG.replace("     46440", "46o40"), 7),
    ]:
        with pytest.raises(pc.TraceError) as caught:
            pc.read_percpu_stats(text)
        assert caught.value.line == line
        path = tmp_path / "broken.txt"
        path.write_text(text)
        with pytest.raises(pc.TraceError, match=f"broken.txt: line {line}: ") as caught:
            pc.read_percpu_stats(path)
        assert caught.value.line == line
    for cut in range(1, 900, 13):
        with pytest.raises(pc.TraceError):
            pc.read_percpu_stats(MEMCG[:cut] + "\n")
    with pytest.raises(pc.TraceError):
        pc.read_percpu_stats("")
    packed = gzip.compress(MEMCG.encode())
    path.write_bytes(packed)
    assert pc.read_percpu_stats(path).to_text() == MEMCG
    for damaged in (packed[:-9], packed[:30] + b"\xff" * 40, b"\x1f\x8b\x08" + b"\0" * 30):
        path.write_bytes(damaged)
        with pytest.raises(pc.TraceError, match=r"broken\.txt: damaged gzip"):
            pc.read_percpu_stats(path)
    path.write_bytes(bytes(range(256)))
    with pytest.raises(pc.TraceError):
        pc.read_percpu_stats(path)
    with pytest.raises(FileNotFoundError):
        pc.read_percpu_stats(tmp_path / "none")
    stats = pc.read_percpu_stats(MEMCG)
    with pytest.raises(TypeError, match="after must be a PercpuStats, not int"):
        pc.compare_chunks(stats, 5)
    with pytest.raises(TypeError, match="before must be a PercpuStats, not str"):
        pc.compare_stats(MEMCG, stats)
    with pytest.raises(pc.InvalidRequest, match="cpus=0"):
        pc.read_percpu_stats(MEMCG).table(cpus=0)
    with pytest.raises(pc.InvalidRequest, match="pinned_below=2"):
        pc.read_percpu_stats(MEMCG).table(pinned_below=2)


def test_live_file(tmp_path):
    (tmp_path / "percpu_stats").write_text(MEMCG)
    assert pc.read_percpu_stats(debugfs=tmp_path).to_text() == MEMCG


def run(capsys, *arguments):
    code = main(["stats", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_cli(capsys, tmp_path, monkeypatch):
    code, out, _ = run(capsys, PINNING[3], "--cpus", 2)
    assert code == 0
    assert out.count("pinned ") >= 3
    assert "4 chunks have free runs that are longer than the hint says" in out
    _, out, _ = run(capsys, PINNING[3], "--json", "--top", 2)
    facts = json.loads(out)
    assert facts["totals"]["nr_cur_alloc"] == 307_773
    assert len(facts["chunks"]) == 9
    assert [row["free_bytes"] for row in facts["table"]] == [1_036_320] * 2
    assert run(capsys, PINNING[3], "--text")[1] == PINNING[3].read_text()
    _, out, _ = run(capsys, PINNING[0], PINNING[3], "--json")
    assert {"name": "nr_pinned", "before": 1, "after": 3, "change": 2} in json.loads(out)
    assert "nr_pinned" in run(capsys, PINNING[0], PINNING[3])[1]
    for data in (MEMCG.encode(), gzip.compress(MEMCG.encode())):
        monkeypatch.setattr(sys, "stdin", standard_input(data))
        assert run(capsys, "-", "--text")[1] == MEMCG
    monkeypatch.setattr(sys, "stdin", standard_input(b"\xff\xfe\x00"))
    code, _, err = run(capsys, "-")
    assert code == 1
    assert 'line 1: expected "Percpu Memory Statistics"' in err
    monkeypatch.setattr(sys, "stdin", standard_input(gzip.compress(MEMCG.encode())[:60]))
    assert run(capsys, "-")[2].startswith("percpu: standard input: damaged gzip: ")
    (tmp_path / "percpu_stats").write_text(MEMCG)
    code, out, _ = run(capsys, "--debugfs", tmp_path, "--json")
    assert json.loads(out)["sizes"]["unit_size"] == 655_360
    code, _, err = run(capsys, "--debugfs", tmp_path / "none")
    assert code == 1
    assert "CONFIG_PERCPU_STATS" in err
    code, _, err = run(capsys, *PINNING[:3])
    assert (code, err) == (1, "percpu: 3 files: one, or two to be compared\n")
    for share in ("101", "-1", "nan"):
        code, _, err = run(capsys, PINNING[0], f"--pinned-below={share}")
        assert (code, err) == (1, f"percpu: --pinned-below {share}: must be from 0 to 100\n")
    for files in (PINNING[:1], PINNING[:2]):
        assert run(capsys, *files, "--cpus", 0)[2] == "percpu: cpus=0: must be from 1 to 1048576\n"


def test_cli_on_a_state(capsys, recordings):
    state = recordings[0] / "state-b.json.gz"
    text = pc.Allocator.from_state(state).stats_text()
    assert run(capsys, state)[1] == text
    assert json.loads(run(capsys, state, "--json")[1])["nr_cur_alloc"] >= 0
    facts = json.loads(run(capsys, state, "--table", "--json")[1])
    nr_units = pc.Allocator.from_state(state).nr_units
    assert [row["all_used_bytes"] for row in facts["table"]] == [nr_units * row["used_bytes"] for row in facts["table"]]
