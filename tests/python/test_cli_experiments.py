"""`percpu compare` and `percpu sweep`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import percpu as pc
from percpu.cli import main
from percpu.cli.experiment import value_of, values_of

TRACE = str(Path(pc.__file__).parent / "data" / "demo" / "workload" / "trace.txt.gz")


def run(capsys, *arguments):
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_values():
    assert [value_of(text) for text in ("4096", "4K", "2MiB", "0x10", "true", "6.12", "linux-5.14")] == [
        4096, 4096, 2 << 20, 16, True, "6.12", "linux-5.14",
    ]  # fmt: skip
    assert values_of("1K,2K") == [1024, 2048]
    assert values_of("6.12") == ["6.12"]
    assert values_of("8", single=True) == 8
    assert values_of("4..64:powers_of_two").ppf([0, 0.99]) == [4, 64]
    assert values_of({"integers": ["1", 9]}).ppf([0.99]) == [9]
    assert values_of({"choice": ["a", "b"]}).ppf([0.0]) == ["a"]
    with pytest.raises(pc.InvalidRequest, match="a distribution is one of"):
        values_of("1..5:gauss")


def test_compare(capsys, tmp_path):
    arguments = ["compare", "--workload", "objects", "--set", "n=500", "size=16", "free=reverse", "--no-times"]
    code, out, _ = run(capsys, *arguments, "--engines", "areamap", "linux-5.14", "--json")
    assert code == 0
    expected = pc.compare(pc.workloads.objects(500, 16, free="reverse"), ["areamap", "linux-5.14"], timing=False)
    assert json.loads(out) == list(expected.rows())
    code, out, _ = run(capsys, *arguments, "--kernels", "4.19", "6.12", "--geometry", "nr_cpus=2", "--phases")
    assert code == 0
    assert "4.19" in out
    assert "free" in out
    code, out, _ = run(capsys, *arguments, "--all", "--request", "min_align=64", "--policy", "every=10")
    assert "peak_metadata_bytes" in out
    pytest.importorskip("matplotlib").use("Agg")
    picture = tmp_path / "compare.png"
    assert run(capsys, "compare", "--trace", TRACE, "--engines", "linux-5.14", "--plot", str(picture))[0] == 0
    assert picture.stat().st_size > 1000


def test_compare_prints_costs(capsys):
    what = ["compare", "--workload", "objects", "--set", "n=300", "--kernels", "4.13", "6.12", "--costs", "full"]
    code, out, _ = run(capsys, *what)
    assert code == 0
    assert "entries_moved" in out
    assert "cache_lines" in out
    assert "_ns" not in out
    code, out, _ = run(capsys, *what, "--json")
    expected = pc.compare(pc.workloads.objects(300), kernels=["4.13", "6.12"], costs="full", timing=False)
    assert json.loads(out) == list(expected.rows())


def test_compare_errors(capsys):
    code, out, err = run(capsys, "compare", "--workload", "objects", "--json")
    assert (code, out) == (1, "")
    assert json.loads(err)["error"] == "InvalidRequest"
    assert run(capsys, "compare", "--trace", TRACE, "--set", "n=1")[2] == "percpu: --set is for workloads\n"
    assert "must be NAME=VALUE" in run(capsys, "compare", "--workload", "objects", "--set", "n")[2]
    with pytest.raises(SystemExit):
        main(["compare"])


def test_sweep_by_flags(capsys, tmp_path):
    arguments = [
        "sweep",
        "--workload",
        "objects",
        "--set",
        "n=400",
        "-p",
        "workload.size=8,16",
        "-p",
        "block_size=1K,4K",
    ]
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    report = json.loads(out)
    grid = {"workload.size": [8, 16], "block_size": [1024, 4096]}
    expected = pc.sweep(pc.workloads.objects(400), grid)
    assert report["digest"] == expected.digest()
    assert [point["geometry.block_size"] for point in report["points"]] == [1024, 4096] * 2
    table = tmp_path / "out.csv"
    pytest.importorskip("pandas")
    code, out, _ = run(
        capsys, *arguments, "--threads", "1", "--checkpoint", str(tmp_path / "runs"), "--out", str(table)
    )
    assert f"4 points, digest {expected.digest()[:16]}" in out
    assert table.read_text().startswith("workload.size,geometry.block_size,status")
    code, out, _ = run(capsys, *arguments, "-p", "engine=areamap,linux-5.14")
    assert code == 1
    assert "is always 4096 in engine areamap" in out
    assert "must end in" in run(capsys, *arguments, "--out", "x.txt")[2]
    assert "a trace or a workload is needed" in run(capsys, "sweep", "-p", "block_size=4K")[2]


def test_sweep_by_file(capsys, tmp_path):
    file = tmp_path / "experiment.toml"
    (tmp_path / "trace.txt.gz").write_bytes(Path(TRACE).read_bytes())
    file.write_text("""
trace = "trace.txt.gz"
samples = 4
seed = 2
[geometry]
unit_size = "512K"
nr_units = 2
[parameters]
engine = ["linux-4.14", "linux-5.14"]
"request.min_align" = {powers_of_two = [4, 256]}
""")
    code, out, _ = run(capsys, "sweep", str(file), "--json")
    assert code == 0
    report = json.loads(out)
    assert len(report["points"]) == 8
    assert report["attrs"]["geometry.nr_units"] == 2
    pytest.importorskip("matplotlib").use("Agg")
    pytest.importorskip("pyarrow")
    picture, table = tmp_path / "sweep.png", tmp_path / "sweep.parquet"
    code, _, _ = run(capsys, "sweep", str(file), "--seed", "3", "--plot", str(picture), "--out", str(table))
    assert code == 0
    assert picture.stat().st_size > 1000
    import pyarrow.parquet as pq

    assert pq.read_schema(table).metadata[b"percpu.seed"] == b"3"
    for text, message in (
        ("colour = 1", "colour is none of"),
        ("x =", "experiment.toml: "),
        ("[workload]\nn = 3", "no name"),
    ):
        file.write_text(text)
        assert message in run(capsys, "sweep", str(file))[2]
