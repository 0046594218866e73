"""`percpu convert` and `percpu summary`."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import percpu as pc
from percpu.cli import main

ROOT = Path(__file__).parents[2]
RECORDINGS = ROOT / "tests" / "data" / "recordings"
NETNS = RECORDINGS / "netns-612-3+1" / "trace.txt.gz"
DRAIN = RECORDINGS / "drain-612-4cpu"
CAPTURES = ROOT / "tests" / "data" / "captures"


def run(capsys, *arguments):
    code = main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out or err)


@pytest.mark.parametrize("name", ["t.parquet", "t.txt", "t.txt.gz", "t.txt.zst"])
def test_convert_and_back(capsys, tmp_path, name):
    for source in (NETNS, *CAPTURES.glob("*.gz")):
        code, report = run(capsys, "convert", source, tmp_path / name)
        trace = pc.read_trace(source)
        assert code == 0
        assert report["events_read"] == report["events_written"] == len(trace)
        assert report["output_bytes"] == (tmp_path / name).stat().st_size
        assert pc.read_trace(tmp_path / name) == trace
        assert [path.name for path in tmp_path.iterdir()] == [name]
    code, report = run(capsys, "convert", tmp_path / name, tmp_path / "again.txt")
    assert pc.read_trace(tmp_path / "again.txt") == trace


def test_convert_a_part(capsys, tmp_path):
    trace = pc.read_trace(NETNS)
    out = tmp_path / "part.parquet"
    middle = int(trace.time_ns[len(trace) // 2])
    run(capsys, "convert", NETNS, out, "--from", middle / 1e9)
    assert pc.read_trace(out) == trace.within(middle)
    run(capsys, "convert", NETNS, out, "--to", middle / 1e9)
    assert pc.read_trace(out) == trace.within(end_ns=middle)
    site = trace.summary().call_sites.row(0)["call_site"].partition("+")[0]
    run(capsys, "convert", NETNS, out, "--call-site", site)
    assert 0 < len(pc.read_trace(out)) < len(trace)
    assert pc.read_trace(out) == trace.by_call_site(site)


def test_convert_anonymised_with_its_state(capsys, tmp_path):
    out, state = tmp_path / "t.parquet", tmp_path / "state.json"
    code, report = run(
        capsys, "convert", DRAIN / "trace-ext.txt.gz", out, "--anonymise", "--seed", 3,
        "--state", DRAIN / "state-a.json.gz", "--state-output", state,
    )  # fmt: skip
    assert (code, report["seed"]) == (0, 3)
    trace = pc.read_trace(DRAIN / "trace-ext.txt.gz")
    assert pc.read_trace(out) == trace.anonymise(3, state=DRAIN / "state-a.json.gz")[0]
    replay = pc.replay(pc.read_trace(out), pc.Allocator.from_state(state))
    assert replay.nr_diverged == 0
    seeds = {run(capsys, "convert", NETNS, out, "--anonymise", "--hide-call-sites")[1]["seed"] for _ in range(2)}
    assert len(seeds) == 2
    assert all(site.startswith("site_") for site in pc.read_trace(out)._core.call_sites())


def test_convert_refuses(capsys, tmp_path):
    out = tmp_path / "t.parquet"
    damaged = tmp_path / "damaged.txt"
    damaged.write_text("x-1 [000] ..... 1.000001: percpu_create_chunk: base_addr=no\n" * 2)
    code, report = run(capsys, "convert", damaged, out)
    assert (code, report["error"]) == (1, "TraceError")
    assert "damaged.txt: line 1" in report["message"]
    assert not out.exists()
    assert run(capsys, "convert", damaged, out, "--lenient")[1]["damaged_lines"] == 2
    assert run(capsys, "convert", NETNS, out, "--seed", 3)[0] == 1
    assert run(capsys, "convert", NETNS, out, "--max-events", 3)[0] == 1
    columns = RECORDINGS / "million-612-2cpu" / "trace-cols.csv.gz"
    assert "clock" in run(capsys, "convert", columns, out, "--from", 1)[1]["message"]
    assert "call sites" in run(capsys, "convert", columns, out, "--call-site", "x")[1]["message"]
    assert len(pc.read_trace(out)) == 0
    for text in ("x", "-1", "1e30", "0.0000000001"):
        with pytest.raises(SystemExit):
            main(["convert", str(NETNS), str(out), f"--from={text}"])


def test_summary(capsys):
    code, report = run(capsys, "summary", NETNS, "--top", 2)
    summary = pc.read_trace(NETNS).summary()
    assert code == 0
    assert report["totals"] == summary.totals
    assert [row["kind"] for row in report["events"]] == [row["kind"] for row in summary.rows()]
    assert report["call_sites"] == [summary.call_sites.row(i) for i in range(2)]
    assert report["nr_call_sites"] == len(summary.call_sites)
    assert len(report["cpus"]) == summary.totals["nr_cpus"]
    assert main(["summary", str(NETNS), "--top", "3"]) == 0
    out = capsys.readouterr().out
    assert f"{len(summary.call_sites) - 3} more call sites" in out
    assert summary.call_sites.row(0)["call_site"] in out


def test_standard_input_and_progress():
    command = [sys.executable, "-m", "percpu.cli", "summary", "-", "--json"]
    with NETNS.open("rb") as file:
        out = subprocess.run(command, stdin=file, capture_output=True, check=True)
    assert json.loads(out.stdout)["totals"]["nr_events"] == len(pc.read_trace(NETNS))
    assert out.stderr == b""


def test_progress_is_for_terminals(tmp_path):
    """On a terminal a long run says how far it is; the result on standard output stays clean."""
    columns = RECORDINGS / "million-612-2cpu" / "trace-cols.csv.gz"
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "percpu.cli", "summary", columns, "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 1 << 16)
        except OSError:
            break
        if not data:
            break
        shown += data
    os.close(ours)
    out, _ = child.communicate()
    assert json.loads(out)["totals"]["nr_events"] == 2_207_026
    assert b"summary" in shown
    assert child.returncode == 0
