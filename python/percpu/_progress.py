"""Progress of long work: how much is done, how fast, and how long it will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Progress"]

_EVERY_SECONDS = 0.5


class Progress:
    """Tells how far a sweep is.

    Parameters
    ----------
    how : bool or callable
        True for a bar on standard error (drawn by tqdm where it is installed, else a line now and then), False for
        nothing, or a function of ``(done, total, rate, remaining_seconds)``, which gets points a second and seconds,
        None where they are not known yet.
    total : int
        Points in all.
    done : int
        Points that are there already.
    """

    def __init__(self, how: bool | Callable[..., Any], total: int, done: int = 0) -> None:
        self._how, self._total, self._done, self._before = how, total, done, done
        self._start = self._told = time.monotonic()
        self._bar: Any = None
        if how is True:
            try:
                from tqdm import tqdm

                self._bar = tqdm(total=total, initial=done, unit="point", smoothing=0.1)
            except ImportError:
                self._tell()

    def step(self) -> None:
        """One more point is done."""
        self._done += 1
        if self._bar is not None:
            self._bar.update()
        elif callable(self._how):
            self._how(self._done, self._total, *self._rate())
        elif self._how is True and (time.monotonic() - self._told > _EVERY_SECONDS or self._done == self._total):
            self._tell()

    def _rate(self) -> tuple[float | None, float | None]:
        seconds, done = time.monotonic() - self._start, self._done - self._before
        rate = done / seconds if done and seconds > 0 else None
        return rate, None if rate is None else (self._total - self._done) / rate

    def _tell(self) -> None:
        self._told = time.monotonic()
        rate, remaining = self._rate()
        more = "" if rate is None or remaining is None else f", {rate:.3g} points/s, {remaining:.0f} s left"
        print(f"{self._done}/{self._total} points{more}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the line."""
        if self._bar is not None:
            self._bar.close()
