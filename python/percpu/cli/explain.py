"""`percpu explain`: what messages of the kernel mean."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from percpu.answers.explain import Explained, explain
from percpu.cli.arguments import Verbs, add_kernel, byte_size
from percpu.cli.files import read_input
from percpu.cli.show import show
from percpu.errors import InvalidRequest
from percpu.stats import read_text


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add("explain", run, "say what a message of the per-CPU allocator means, and what to do")
    parser.add_argument(
        "message", nargs="+", metavar="LINE", help="a line of the log, quoted or not; a file with a log; or - for stdin"
    )
    parser.add_argument("--state", metavar="FILE", help="state file: try the request on it")
    parser.add_argument(
        "--trace", metavar="FILE", help="recording: look for the failure in it; with --state, from there"
    )
    parser.add_argument(
        "--page-size", type=byte_size, metavar="BYTES", help="of that machine (default: 4K, or that of the state)"
    )
    parser.add_argument("--top", type=int, metavar="N", help="only the N messages that came most often")
    parser.add_argument("-o", "--out", metavar="FILE", help="write it there: JSON if FILE ends in .json, else text")
    add_kernel(parser)


def _most_often(told: Explained, top: int | None) -> Explained:
    if top is None:
        return told
    if top < 1:
        raise InvalidRequest(f"--top {top}: must be at least 1", parameter="top")
    often = sorted(range(len(told)), key=lambda index: -len(told[index].lines))[:top]
    return replace(told, messages=tuple(told[index] for index in sorted(often)))


def _text(words: list[str]) -> str:
    if words == ["-"]:
        return read_input()
    if len(words) == 1 and "\n" not in words[0]:
        path = Path(words[0])
        # A file name has no blank nearly always, a message always; what exists is a file.
        try:
            if path.is_file():
                return read_text(path)
        except OSError:
            pass  # too long for a name
        if " " not in words[0] and ("/" in words[0] or "." in words[0]):
            raise InvalidRequest(f"{words[0]}: no such file, and no message either", parameter="message")
    return " ".join(words)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    told = explain(
        _text(arguments.message),
        arguments.state,
        arguments.trace,
        kernel=arguments.kernel,
        page_size=arguments.page_size,
    )
    told = _most_often(told, arguments.top)
    if arguments.out:
        path = Path(arguments.out)
        as_json = path.suffix == ".json"
        path.write_text(json.dumps(told.to_dict(), indent=2) + "\n" if as_json else f"{told}\n")
    else:
        show(arguments, told.to_dict() if arguments.json else str(told))
    return 0 if told.messages else 1
