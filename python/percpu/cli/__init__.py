"""The command line: a verb for each function, a module for each verb.

Parsing needs nothing beyond the standard library. A new verb is a module with a function ``add`` and a
line in `VERBS`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import percpu
from percpu.cli import (
    chunks,
    compare,
    convert,
    cost,
    demo,
    explain,
    kernels,
    layout,
    owners,
    pins,
    record,
    replay,
    report,
    stats,
    steps,
    summary,
    sweep,
    verify,
)
from percpu.cli.arguments import Verbs
from percpu.errors import PercpuError

__all__ = ["main"]

VERBS = (
    kernels,
    layout,
    record,
    replay,
    report,
    steps,
    summary,
    convert,
    compare,
    sweep,
    stats,
    owners,
    pins,
    explain,
    cost,
    verify,
    chunks,
    demo,
)
"""The modules of the verbs, in the order of the help text."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="percpu", description=(percpu.__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"percpu {percpu.__version__}")
    verbs = Verbs(parser)
    for module in VERBS:
        module.add(verbs)
    return parser


def _say(message: Warning | str, *_: Any) -> None:
    """Print a warning without the line of the source that gave it."""
    print(f"percpu: {message}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        0; 1 if something differs or fails; 2 for wrong arguments.
    """
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say  # type: ignore[assignment]
            code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has gone: nothing is left to say, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (PercpuError, OSError, ImportError) as error:
        if arguments.json:
            print(json.dumps({"error": type(error).__name__, "message": str(error)}), file=sys.stderr)
        else:
            print(f"percpu: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
