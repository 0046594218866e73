"""The how-to pages show what the commands really print.

Each block ``console`` of a page is run: lines that begin with ``$`` are commands, what follows them is the output. A
command that needs a live kernel is only parsed; its prompt is ``#``.
"""

from __future__ import annotations

import re
import shlex

import pytest

from percpu.cli import _parser, main

from .conftest import ROOT

PAGES = [ROOT / "docs" / "how-to" / name for name in ("capture.md", "stats.md", "explain.md", "replay.md", "owners.md")]
PAGES = [
    ROOT / "docs" / "how-to" / name
    for name in ("capture.md", "stats.md", "explain.md", "replay.md", "pins.md", "story.md")
]


def commands(page):
    """Prompt, arguments and output of each command of a page."""
    for block in re.findall(r"^```console\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        parts = re.split(r"^([$#]) ((?:.*\\\n)*.*)\n", block, flags=re.MULTILINE)
        yield from zip(parts[1::3], parts[2::3], parts[3::3], strict=True)


def lines(text):
    """Lines without blanks at their ends, and without empty ones at the ends of the text."""
    return re.sub(r"\A\s*\n", "", "\n".join(line.rstrip() for line in text.splitlines())).rstrip().splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands(page, capsys, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.chdir(ROOT)
    found = list(commands(page))
    assert found
    for prompt, line, expected in found:
        words = shlex.split(line.replace("\\\n", " "))
        if words[0] != "percpu":
            continue
        arguments = words[1 : words.index(">")] if ">" in words else words[1:]
        _parser().parse_args(arguments)
        if prompt == "#" or ">" in words:
            continue
        capsys.readouterr()
        main(arguments)
        printed = capsys.readouterr().out
        assert lines(printed) == lines(expected), line
