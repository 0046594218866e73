"""Reads the code blocks of a Markdown page.

The words after the opening fence are a language and, in quotes, a title:

- ``python``: run, all blocks of a page in order, in one namespace;
- ``text title="prints"``: what the Python block above it printed;
- ``console``: commands with the prompt ``$`` and what they print; ``#`` is the prompt of root;
- any language with ``title="NAME.EXT"``: a file of that name, written where the blocks run;
- any language with ``title="not run: REASON"``: shown only;
- ``text`` and fences without a language: drawings and excerpts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LANGUAGES = {"", "console", "python", "rust", "text", "toml"}

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=indent)```[ ]*$", re.DOTALL | re.MULTILINE)
_INFO = re.compile(r'(?P<language>\w*)(?: title="(?P<title>[^"]+)")?')


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, its title, its text."""

    line: int
    language: str
    title: str
    text: str

    @property
    def not_run(self) -> str:
        """The reason why it is not run, or nothing."""
        head, _, reason = self.title.partition("not run: ")
        return "" if head else reason

    @property
    def file(self) -> str:
        """The name of the file that it is, or nothing."""
        return self.title if re.fullmatch(r"[\w.-]+\.\w+", self.title) else ""

    def commands(self) -> Iterator[tuple[str, str, str]]:
        """Prompt, command as written and output of each command of a ``console`` block."""
        parts = re.split(r"^([$#]) ((?:.*\\\n)*.*)\n", self.text, flags=re.MULTILINE)
        assert not parts[0].strip(), f"line {self.line}: a console block begins with a prompt"
        yield from zip(parts[1::3], parts[2::3], parts[3::3], strict=True)


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        info = _INFO.fullmatch(match["info"].strip())
        line = text.count("\n", 0, match.start()) + 1
        assert info, f"{page}:{line}: ```{match['info']}"
        assert info["language"] in LANGUAGES, f"{page}:{line}: language {info['language']}"
        body = re.sub(f"^{match['indent']}", "", match["body"], flags=re.MULTILINE)
        found.append(Block(line, info["language"], info["title"] or "", body))
    return found
