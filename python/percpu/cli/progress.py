"""Progress of long work, on standard error, and only where that is a terminal."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Any

__all__ = ["Progress", "file_size"]

_SECONDS = 0.2


def file_size(path: str) -> int | None:
    """Return the size of a regular file in bytes; None for anything else, such as standard input."""
    try:
        return os.path.getsize(path) if os.path.isfile(path) else None
    except OSError:
        return None


class Progress:
    """A line that says how far the work has come; nothing at all if standard error is no terminal.

    Parameters
    ----------
    what : str
        What is being done.
    total : int, optional
        Bytes of the input, where known.
    """

    def __init__(self, what: str, total: int | None) -> None:
        self._what, self._total = what, total
        self._shown = sys.stderr.isatty()
        self._next = time.monotonic() + _SECONDS
        self._bar: Any = None
        self._begun = time.monotonic()

    def __enter__(self) -> Progress:
        if self._shown:
            try:
                from rich import progress
                from rich.console import Console
            except ImportError:
                return self
            columns = (
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.DownloadColumn(),
                progress.TransferSpeedColumn(),
                progress.TextColumn("{task.fields[events]:,} events"),
                progress.TimeRemainingColumn(),
            )
            self._bar = progress.Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=self._total, events=0)
        return self

    def update(self, done: int, events: int) -> None:
        """Say how many bytes of the input were read, and how many events that gave."""
        if not self._shown or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _SECONDS
        if self._bar is not None:
            self._bar.update(self._task, completed=done, events=events)
            return
        share = f" ({100 * done / self._total:.0f} %)" if self._total else ""
        print(f"\r{self._what}: {done / 1e6:,.0f} MB{share}, {events:,} events", end="", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._shown and time.monotonic() - self._begun > _SECONDS:
            print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)
