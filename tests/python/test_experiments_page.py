"""What docs/how-to/experiments.md shows runs, in order, in one namespace."""

from __future__ import annotations

import re

import pytest

from percpu.cli import main

from .conftest import ROOT

PAGE = ROOT / "docs" / "how-to" / "experiments.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib").use("Agg")
    pytest.importorskip("pyarrow")
    pytest.importorskip("xarray")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    assert names["r"].engine.tolist() == ["linux-5.14", "Buddy"]
    assert names["r"].nr_failed.tolist() == [0, 0]


def test_the_file_of_the_page_runs(tmp_path, capsys):
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    source = ROOT / "python" / "percpu" / "data" / "demo" / "workload" / "trace.txt.gz"
    (tmp_path / "trace.txt").write_bytes(source.read_bytes())
    (tmp_path / "experiment.toml").write_text(text.replace("samples = 20", "samples = 3"))
    assert main(["sweep", str(tmp_path / "experiment.toml")]) == 0
    assert "12 points, digest" in capsys.readouterr().out
