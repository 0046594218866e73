"""`percpu stats`: the debugfs text of a state."""

from __future__ import annotations

import argparse

import percpu
from percpu.cli.arguments import Verbs, add_state
from percpu.cli.show import show


def add(verbs: Verbs) -> None:
    """Add the verb."""
    add_state(verbs.add("stats", run, "print the debugfs percpu_stats text of a state"))


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    allocator = percpu.Allocator.from_state(arguments.state, kernel=arguments.kernel)
    show(arguments, allocator.stats() if arguments.json else allocator.stats_text())
    return 0
