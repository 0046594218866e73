"""`percpu demo`: the packaged recording."""

from __future__ import annotations

import argparse
from pathlib import Path

from percpu.cli.arguments import Verbs


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add("demo", run, "replay the packaged recording and draw pictures")
    parser.add_argument("--out", default="demo-out", metavar="DIR", help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    from percpu._demo import demo

    return demo(Path(arguments.out))
