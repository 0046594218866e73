"""Distributions of parameters, for sweeps that sample instead of walking a grid.

A distribution turns numbers from 0 to 1 into values (``ppf``, as in scipy, whose frozen distributions serve as
well; their values are rounded to integers).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from percpu._checks import integer
from percpu.errors import InvalidRequest

__all__ = ["Choice", "Integers", "LogIntegers", "PowersOfTwo", "latin_hypercube"]


class Choice:
    """One of some values, all equally likely.

    Parameters
    ----------
    values : sequence
        The values.

    Examples
    --------
    >>> Choice(["areamap", "linux-5.14"]).ppf([0.2, 0.7])
    ['areamap', 'linux-5.14']
    """

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = list(values)
        if not self.values:
            raise InvalidRequest("values is empty", parameter="values")

    def ppf(self, u: Any) -> list[Any]:
        """Values for numbers from 0 to 1.

        Parameters
        ----------
        u : (n,) array of float
            Shares: 0 is the lowest value, 1 the highest.

        Returns
        -------
        list of n values
            A value for each of `u`.
        """
        n = len(self.values)
        return [self.values[min(int(x * n), n - 1)] for x in np.asarray(u, dtype=float)]

    def __repr__(self) -> str:
        return f"Choice({self.values!r})"


class Integers(Choice):
    """A whole number from `low` to `high`, both included.

    Parameters
    ----------
    low, high : int
        From 0 to 2^62.
    step : int, optional
        Distance of two values, from `low` on.

    Examples
    --------
    >>> Integers(1, 4).ppf([0, 0.3, 0.99])
    [1, 2, 4]
    """

    def __init__(self, low: int, high: int, step: int = 1) -> None:
        low, high = integer("low", low, 0, 1 << 62), integer("high", high, 0, 1 << 62)
        step = integer("step", step, 1, 1 << 62)
        if high < low:
            raise InvalidRequest(f"high={high}: must be at least low={low}", parameter="high")
        self.values = range(low, high + 1, step)  # type: ignore[assignment]


class PowersOfTwo(Choice):
    """A power of two from `low` to `high`, both included.

    Parameters
    ----------
    low, high : int
        At least 1.

    Examples
    --------
    >>> PowersOfTwo(1024, 4096).ppf([0, 0.5, 1])
    [1024, 2048, 4096]
    """

    def __init__(self, low: int, high: int) -> None:
        low, high = integer("low", low, 1), integer("high", high, 1)
        values = [1 << k for k in range(64) if low <= 1 << k <= high]
        if not values:
            raise InvalidRequest(f"low={low}, high={high}: there is no power of two between", parameter="high")
        super().__init__(values)


class LogIntegers:
    """A whole number from `low` to `high`, its logarithm uniform.

    Parameters
    ----------
    low, high : int
        At least 1.

    Examples
    --------
    >>> LogIntegers(1, 10_000).ppf([0, 0.5, 1])
    [1, 100, 10000]
    """

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = integer("low", low, 1), integer("high", high, 1)
        if self.high < self.low:
            raise InvalidRequest(f"high={high}: must be at least low={low}", parameter="high")

    def ppf(self, u: Any) -> list[int]:
        """Values for numbers from 0 to 1.

        Parameters
        ----------
        u : (n,) array of float
            Shares: 0 is the lowest value, 1 the highest.

        Returns
        -------
        list of n int
            A number for each of `u`.
        """
        a, b = math.log(self.low), math.log(self.high)
        return [min(max(round(math.exp(a + (b - a) * float(x))), self.low), self.high) for x in np.asarray(u)]

    def __repr__(self) -> str:
        return f"LogIntegers({self.low}, {self.high})"


def latin_hypercube(n: int, dimensions: int, seed: int = 0) -> np.ndarray:
    """Points that cover every axis evenly: in each of n slices of each axis lies exactly one.

    Parameters
    ----------
    n : int
        Number of points.
    dimensions : int
        Number of axes.
    seed : int, optional
        The same seed gives the same points, with every version of numpy.

    Returns
    -------
    (n, dimensions) float64 array
        Each from 0 to below 1.

    Examples
    --------
    >>> u = latin_hypercube(5, 2, seed=1)
    >>> np.sort((u * 5).astype(int), axis=0).T.tolist()
    [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    """
    n, dimensions = integer("n", n, 1, 1 << 32), integer("dimensions", dimensions, 0, 1 << 16)
    # The raw numbers of a bit generator are the same in every release; what is derived from them is not.
    generator = np.random.PCG64(integer("seed", seed))
    axes = []
    for _ in range(dimensions):
        order = np.argsort(generator.random_raw(n), kind="stable")
        within = (generator.random_raw(n) >> np.uint64(11)) * 2.0**-53
        axes.append((order + within) / n)
    return np.minimum(np.stack(axes, axis=1), np.nextafter(1.0, 0.0)) if axes else np.empty((n, 0))
