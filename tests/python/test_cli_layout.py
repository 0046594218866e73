"""`percpu layout` reads what people pipe into it."""

import gzip
import sys

import pytest

from percpu import cli

from .conftest import standard_input


@pytest.fixture
def log(layout):
    return layout.boot_log().encode() + b"\xff\n"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("piped", [False, True])
def test_boot_logs_as_they_come(log, packed, piped, tmp_path, monkeypatch, capsys):
    data = gzip.compress(log) if packed else log
    (tmp_path / "boot.log").write_bytes(data)
    monkeypatch.setattr(sys, "stdin", standard_input(data))
    assert cli.main(["layout", "--boot-log", "-" if piped else str(tmp_path / "boot.log")]) == 0
    assert "185496" in capsys.readouterr().out.replace(",", "")


def test_no_boot_log(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", standard_input(gzip.compress(b"x" * 100)[:-9]))
    assert cli.main(["layout", "--boot-log", "-"]) == 1
    assert "standard input: damaged gzip" in capsys.readouterr().err


def test_explain_names_its_file_as_others_do(tmp_path):
    text = tmp_path / "log"
    text.write_text("percpu: allocation failed, size=32 align=8 atomic=1, atomic alloc failed, no space left\n")
    assert cli.main(["explain", str(text), "--out", str(tmp_path / "why.json")]) == 0
    assert (tmp_path / "why.json").stat().st_size > 0
