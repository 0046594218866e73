"""One word for one thing: what docs/vocabulary.md tells not to say is not said.

Looked at is prose: pages and notebooks without their code, docstrings and comments of Python, comments of Rust, help
texts. And names: parameters and options count with ``nr_``, and say their unit.
"""

from __future__ import annotations

import argparse
import inspect
import io
import json
import re
import tokenize

import pytest

import percpu as pc
from percpu.cli import _parser

from .conftest import ROOT

PAGE = ROOT / "docs" / "vocabulary.md"
# Code, links, and what the kernel itself prints.
CODE = re.compile(
    r"```.*?```|``.*?``|`[^`\n]*`|\[[^\]]*\]\([^)]*\)|<!--.*?-->|<[^>]+>|https?://\S+|(?:failed to|cannot) initialize",
    re.DOTALL,
)


def forbidden():
    """The words of the last table, as one pattern."""
    table = PAGE.read_text().partition("## Not these")[2]
    rows = re.findall(r"^\| (.+?) \| .+ \|$", table, re.MULTILINE)[1:]
    words = [word.strip() for row in rows for word in row.split(",")]
    assert len(words) > 20
    return re.compile(
        r"(?<![\w`.])(?:"
        + "|".join(re.escape(w) + ("" if w.endswith("_") else r"(?:s|d|r|rs)?\b") for w in words)
        + ")"
    )


PATTERN = forbidden()


def prose_of_page(path):
    text = path.read_text()
    if path == PAGE:
        text = text.partition("## Not these")[0]
    return CODE.sub(" ", text)


def prose_of_notebook(path):
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join(CODE.sub(" ", "".join(c["source"])) for c in cells if c["cell_type"] == "markdown")


def prose_of_python(path):
    """Comments and docstrings: strings that are a statement of their own."""
    parts, first = [], True
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT or (first and token.string.startswith('"""')):
            parts.append(CODE.sub(" ", re.sub(r"^\s*(>>>|\.\.\.) .*$", "", token.string, flags=re.MULTILINE)))
        first = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.NL, tokenize.COMMENT)
    return "\n".join(parts)


def prose_of_rust(path):
    return "\n".join(CODE.sub(" ", line) for line in re.findall(r"(?://[/!]?) (.*)$", path.read_text(), re.MULTILINE))


def prose_of_help():
    parser = _parser()
    (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    parts = [parser.format_help()]
    for verb in verbs.choices.values():
        parts += [verb.description or "", *(action.help or "" for action in verb._actions)]
    return "\n".join(parts)


PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / "docs").glob("how-to/*"),
]
SOURCES = {
    "pages": lambda: {path: prose_of_page(path) for path in PAGES},
    "notebooks": lambda: {path: prose_of_notebook(path) for path in (ROOT / "notebooks").glob("*.ipynb")},
    "python": lambda: {path: prose_of_python(path) for path in (ROOT / "python").rglob("*.py")},
    "rust": lambda: {path: prose_of_rust(path) for path in (ROOT / "src").rglob("*.rs")},
    "help": lambda: {ROOT / "help": prose_of_help()},
}


@pytest.mark.parametrize("kind", SOURCES)
def test_words(kind):
    texts = SOURCES[kind]()
    assert texts
    found = [
        f"{path.relative_to(ROOT)}: {match[0]!r} in {text[max(0, match.start() - 40) : match.end() + 20]!r}"
        for path, text in texts.items()
        for match in PATTERN.finditer(text)
    ]
    assert not found, "\n".join(found)


def test_the_pattern_finds_what_it_should():
    assert PATTERN.search("the callsite of it")
    assert PATTERN.search("two reserved areas")
    assert PATTERN.search("num_units")
    assert not PATTERN.search("call site, recolour, per-CPU memory")


# A number of things is nr_, whole words only; `size` alone is bytes.
BAD_NAME = re.compile(r"(?:^|_)(?:num|cnt|nof|ncpus|ncpu|idx|sz|addrs|chunksize|pagesize|blocksize|unitsize)(?:_|$)")


def parameters():
    for name in pc.__all__:
        value = getattr(pc, name)
        members = [value] if callable(value) else []
        if inspect.isclass(value):
            members += [m for a, m in inspect.getmembers(value) if not a.startswith("_") and callable(m)]
        for member in members:
            try:
                yield name, set(inspect.signature(member).parameters)
            except (TypeError, ValueError):
                continue


def test_names():
    bad = {f"{name}({p})" for name, ps in parameters() for p in ps if BAD_NAME.search(p)}
    (verbs,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    for verb, parser in verbs.choices.items():
        for action in parser._actions:
            bad |= {f"{verb} {o}" for o in action.option_strings if BAD_NAME.search(o.strip("-").replace("-", "_"))}
    assert not bad


def test_the_design_uses_no_other_glossary():
    assert "vocabulary.md" in (ROOT / "docs" / "design.md").read_text()
