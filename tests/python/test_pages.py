"""Every code block of the documentation runs, and prints what the page says it prints.

The blocks of a page run in order, in a directory of their own that has links to ``tests`` and ``docs``. Which
blocks are run, and what their titles mean, is said in `pages`. With ``PERCPU_WRITE_DOCS=1`` the output of commands and
prints is written into the page instead of being compared.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys

import pytest

from percpu.cli import _parser, main

from .conftest import ROOT
from .pages import blocks

PAGES = sorted(
    path
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    if "notebooks" not in path.parts
)
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
SHELL = re.compile(r"[|<>;&]")


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """Where the blocks of a page run; the command `percpu` is on the path."""
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    for name in ("docs", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    binary = tmp_path / ".bin" / "percpu"
    binary.parent.mkdir()
    binary.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m percpu.cli "$@"\n')
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{binary.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    plt.close("all")


def lines(text):
    """Lines without blanks at their ends, and without empty ones at the ends of the text; times are not compared."""
    text = re.sub(r"\b\d+ ms\b", "N ms", text)
    return re.sub(r"\A\s*\n", "", "\n".join(line.rstrip() for line in text.splitlines())).rstrip().splitlines()


def equal(printed, shown):
    """Whether the lines agree; a line of three dots stands for any number of lines."""
    printed, shown = lines(printed), lines(shown)
    if not any(line.strip() == "..." for line in shown):
        return printed == shown
    pattern = "".join(r"(?:.*\n)*" if line.strip() == "..." else re.escape(line) + "\n" for line in shown)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed)) is not None


def run_command(command):
    """Run a command line: in this process where no shell is needed; return output, complaint, exit status."""
    words = shlex.split(command.replace("\\\n", " "))
    if words[0] != "percpu" or SHELL.search(command):
        assert "percpu" in words, f"{command}: only commands of the package are run"
        done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
        return done.stdout, done.stderr, done.returncode
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()) as complaint:
        status = main(words[1:])
    return printed.getvalue(), complaint.getvalue(), status


def parse_only(command):
    """A command that is not run is one that `percpu` knows, at least."""
    words = shlex.split(command.replace("\\\n", " "))
    if words[0] == "percpu":
        end = next((i for i, word in enumerate(words) if SHELL.search(word) or word == "2>&1"), len(words))
        _parser().parse_args(words[1:end])


def check(where, page, printed, shown, complaint=""):
    """Compare what was printed with what the page shows; or put it there."""
    if equal(printed, shown):
        return
    if os.environ.get("PERCPU_WRITE_DOCS") and shown not in ("", "\n"):
        # Blocks come in order, so that the first one of this text is the one.
        page.write_text(page.read_text().replace(f"\n{shown}", "\n".join(["", *lines(printed), ""]), 1))
        return
    raise AssertionError(f"{where}\n{printed}{complaint}")


@pytest.mark.filterwarnings("ignore:kernel .* not compared with a real kernel")
@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_blocks(page, directory):
    names: dict[str, object] = {"__name__": "page"}
    printed = None
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.file:
            (directory / block.file).write_text(block.text)
        if block.language == "console":
            for prompt, command, shown in block.commands():
                assert prompt == "$" or block.not_run, f"{where}: root is needed, so say why it is not run"
                if block.not_run:
                    parse_only(command)
                    continue
                output, complaint, status = run_command(command)
                if shown.strip():
                    check(f"{where}: {command}", page, output, shown, complaint)
                else:
                    assert status == 0, f"{where}: {command}\n{output}{complaint}"
        elif block.not_run:
            if block.language == "python":
                compile(block.text, where, "exec")
        elif block.language == "python" and not block.file:
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile("\n" * block.line + block.text, str(page), "exec"), names)
            printed = output.getvalue()
        elif block.title == "prints":
            assert printed is not None, f"{where}: nothing printed this"
            check(where, page, printed, block.text)


def test_few_blocks_are_not_run():
    code = [block for page in PAGES for block in blocks(page) if block.language not in ("", "text")]
    left_out = [block for block in code if block.not_run]
    assert len(left_out) <= len(code) // 8, [block.title for block in left_out]


def test_the_output_of_the_demo(directory):
    (shown,) = re.findall(
        r"<!-- demo-output -->\n```text\n(.*?)```\n<!-- /demo-output -->", (ROOT / "README.md").read_text(), re.DOTALL
    )
    output, complaint, status = run_command("percpu demo --out demo-out")
    assert status == 0, complaint
    assert equal(output, shown), output


def test_lines_are_compared():
    assert equal("a  \nb (3 ms)\n\n", "a\nb (17 ms)\n")
    assert equal("a\nb\nc\n", "a\n...\nc\n")
    assert not equal("a\nb\n", "a\nc\n")
    assert not equal("a\nb\nc\n", "a\n...\nd\n")
    assert not equal("a\n", "a\nb\n")
