"""`percpu verify`: the invariants of a state."""

from __future__ import annotations

import argparse

import percpu
from percpu.cli.arguments import Verbs, add_state
from percpu.cli.show import show


def add(verbs: Verbs) -> None:
    """Add the verb."""
    add_state(verbs.add("verify", run, "check the invariants of a state"))


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    percpu.Allocator.from_state(arguments.state, kernel=arguments.kernel).verify()
    show(arguments, {"verify": "ok"})
    return 0
