"""`percpu kernels`: the releases that are known."""

from __future__ import annotations

import argparse

import percpu
from percpu.cli.arguments import Verbs
from percpu.cli.show import show


def add(verbs: Verbs) -> None:
    """Add the verb."""
    verbs.add("kernels", run, "list the kernel releases and how well each is shown to be right")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    show(arguments, percpu.kernels())
    return 0
