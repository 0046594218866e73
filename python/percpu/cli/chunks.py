"""`percpu chunks`: the chunks of a state, as a table or a picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import percpu
from percpu.cli.arguments import Verbs, add_state
from percpu.cli.show import save_picture, show
from percpu.errors import InvalidRequest
from percpu.results import Result


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add("chunks", run, "list the chunks of a state, or draw one")
    add_state(parser)
    parser.add_argument("--plot", metavar="CHUNK", help="draw the map of this chunk: a number, or reserved")
    parser.add_argument("--out", default="chunk.png", metavar="FILE", help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    allocator = percpu.Allocator.from_state(arguments.state, kernel=arguments.kernel)
    chunks = [*allocator.chunks.values(), *filter(None, [allocator.reserved_chunk])]
    if arguments.plot is not None:
        by_name = {"reserved" if chunk.number is None else str(chunk.number): chunk for chunk in chunks}
        if arguments.plot not in by_name:
            raise InvalidRequest(f"--plot {arguments.plot}: the chunks are {', '.join(by_name)}", parameter="plot")
        save_picture(by_name[arguments.plot].plot(), Path(arguments.out))
        show(arguments, {"out": arguments.out} if arguments.json else arguments.out)
        return 0
    rows = [chunk.info for chunk in chunks]
    columns: dict[str, Any] = {"chunk": np.array([chunk.number or 0 for chunk in chunks], dtype=np.int64)}
    for name in ("nr_alloc", "free_bytes", "nr_populated", "nr_empty_pop_pages", "immutable", "isolated"):
        columns[name] = np.array([row[name] for row in rows])
    columns["slot"] = np.array([row["slot"] or 0 for row in rows], dtype=np.int64)
    mask = {
        "chunk": [chunk.number is None for chunk in chunks],
        "slot": [row["slot"] is None for row in rows],
    }
    show(arguments, Result(columns, mask=mask))
    return 0
