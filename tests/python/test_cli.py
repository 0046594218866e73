"""The command line."""

from __future__ import annotations

import json

import pytest

import percpu as pc
from percpu.cli import main


def run(capsys, *arguments):
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_kernels(capsys):
    code, out, _ = run(capsys, "kernels")
    assert code == 0
    assert "6.12" in out
    assert "recorded" in out
    code, out, _ = run(capsys, "kernels", "--json")
    assert {"kernel": "6.12", "engine": "linux-5.14", "status": "recorded"} in json.loads(out)


def test_layout(capsys):
    arguments = ["layout", "--nodes", "12", "--static", "192512", "--kernel", "6.1"]
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "pcpu-alloc: [0] 00 01 02 03 04 05 06 07 [0] 08 09 10 11 -- -- -- -- " in out
    code, out, _ = run(capsys, *arguments, "--json")
    facts = json.loads(out)
    assert facts["unit_size_bytes"] == 262_144
    assert facts["nr_holes"] == 4


@pytest.mark.filterwarnings("default:kernel 6.18")
def test_warnings_are_lines_of_the_command(capsys, monkeypatch):
    monkeypatch.setattr("percpu._checks._warned", set())
    code, _, complaint = run(capsys, "layout", "--nodes", "4", "--static-size", "200000", "--kernel", "6.18")
    assert code == 0
    assert complaint.startswith("percpu: kernel 6.18 is linux-5.14 with constants not compared with a real kernel")
    assert len(complaint.splitlines()) == 1


def test_replay_and_states(capsys, recordings, tmp_path):
    path = recordings[0]
    trace = next(path / name for name in ("trace-ext.txt.gz", "trace.txt.gz") if (path / name).exists())
    states = [str(path / f"state-{x}.json.gz") for x in "ab"]
    code, out, _ = run(capsys, "replay", str(trace), "--state", states[0], "--end-state", states[1], "--json")
    report = json.loads(out)
    assert code == 0
    assert report["nr_diverged"] == 0
    assert report["end_state_equal"]
    assert run(capsys, "verify", states[0])[0] == 0
    assert run(capsys, "stats", states[0])[1].startswith("Percpu Memory Statistics")
    code, out, _ = run(capsys, "chunks", states[1], "--json")
    assert len(json.loads(out)) >= 1
    assert run(capsys, "chunks", states[1])[0] == 0
    pytest.importorskip("matplotlib").use("Agg")
    picture = tmp_path / "c.png"
    assert run(capsys, "chunks", states[1], "--plot", "0", "--out", str(picture))[0] == 0
    code, _, err = run(capsys, "chunks", states[1], "--plot", "99")
    assert code == 1
    assert err.startswith("percpu: --plot 99: the chunks are 0")
    assert picture.stat().st_size > 1000


def test_errors_are_one_line(capsys, tmp_path):
    code, out, err = run(capsys, "verify", str(tmp_path / "nothing"))
    assert code == 1
    assert not out
    assert err.startswith("percpu: ")
    assert err.count("\n") == 1
    code, out, err = run(capsys, "verify", str(tmp_path / "nothing"), "--json")
    assert (code, out) == (1, "")
    assert json.loads(err)["error"] == "FileNotFoundError"
    with pytest.raises(SystemExit) as caught:
        main(["layout", "--nodes", "four"])
    assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        main(["layout", "--nodes", "4"])
    assert caught.value.code == 2
    assert "--static-size" in capsys.readouterr().err
    assert run(capsys, "layout", "--nodes", "4", "--static", "0")[0] == 1


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert pc.__version__ in capsys.readouterr().out


def test_demo(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    code, out, _ = run(capsys, "demo", "--out", str(tmp_path))
    assert code == 0
    assert "0 diverged" in out
    assert {path.name for path in tmp_path.iterdir()} == {"chunk.png", "timeline.png"}
