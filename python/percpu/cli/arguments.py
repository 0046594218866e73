"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

__all__ = ["Verbs", "add_kernel", "add_state", "byte_size"]


class Verbs:
    """The verbs of the command line, to which each module of this package adds its own."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(required=True, metavar="VERB")

    def add(self, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        """Add the verb `name`, served by `run`, and return its parser."""
        parser = self._parsers.add_parser(name, help=text, description=text)
        parser.set_defaults(run=run)
        parser.add_argument("--json", action="store_true", help="print JSON")
        return parser


def byte_size(text: str) -> int:
    """Bytes from ``4096``, ``4K``, ``2M`` or ``1G``."""
    factor = {"K": 10, "M": 20, "G": 30}.get(text[-1:].upper())
    try:
        return int(text, 0) if factor is None else int(text[:-1]) << factor
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes") from None


def add_kernel(parser: Any) -> None:
    """Add ``--kernel``."""
    parser.add_argument("--kernel", default="6.12", help="release or engine (default: %(default)s)")


def add_state(parser: Any) -> None:
    """Add a state file and the kernel that it is of."""
    parser.add_argument("state", help="state file (JSON), plain or gzip")
    add_kernel(parser)
