"""Argument checks that several modules share."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from percpu import _core
from percpu.errors import InvalidFree, InvalidRequest

U64 = 1 << 64


def whole_number(parameter: str, value: Any) -> int:
    """Return `value` as an int of any size; `TypeError` for floats, bools and everything else."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{parameter} must be an integer, not a bool")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{parameter} must be an integer, not {type(value).__name__}") from None


def integer(parameter: str, value: Any, low: int = 0, high: int = U64 - 1, error: type[Exception] | None = None) -> int:
    """Return `value` as an int from `low` to `high`; `TypeError` for floats, bools and everything else."""
    number = whole_number(parameter, value)
    if not low <= number <= high:
        if error is not None:
            raise error(f"{parameter}={number}: must be from {low} to {high}")
        raise InvalidRequest(f"{parameter}={number}: must be from {low} to {high}", parameter=parameter)
    return number


def pointer(value: Any) -> int:
    """Return `value` as a pointer to be freed."""
    number = whole_number("ptr", value)
    if not 0 <= number < U64:
        raise InvalidFree(f"ptr={number}: not an address", ptr=number)
    return number


SLICE = 1 << 18
"""Elements that are checked and converted at once: signals are looked at between two slices."""


def column(parameter: str, values: Any) -> np.ndarray:
    """Return integers as a contiguous uint64 array of one dimension; a scalar becomes one element."""
    sliced = isinstance(values, (list, tuple)) or (isinstance(values, np.ndarray) and values.ndim == 1)
    if not sliced or len(values) <= SLICE or getattr(values, "dtype", None) == np.uint64:
        return _column(parameter, values, 0)
    whole = np.empty(len(values), dtype=np.uint64)
    for first in range(0, len(values), SLICE):
        whole[first : first + SLICE] = _column(parameter, values[first : first + SLICE], first)
    return whole


def _column(parameter: str, values: Any, first: int) -> np.ndarray:
    """Return what `column` returns; `first` is the place of the first value for messages."""
    array = np.asarray(values)
    if array.size == 0 and array.dtype.kind == "f" and not isinstance(values, np.ndarray):
        array = array.astype(np.uint64)  # an empty list
    if array.dtype == object and all(isinstance(v, int) and not isinstance(v, bool) for v in array.flat):
        bad = [i for i, v in enumerate(array.flat) if not 0 <= v < U64]
        if bad:
            at = first + bad[0]
            raise InvalidRequest(f"{parameter}[{at}] is out of range", parameter=parameter, index=at)
        array = array.astype(np.uint64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{parameter} must hold integers, not {array.dtype}")
    if array.ndim > 1:
        raise InvalidRequest(f"{parameter} has {array.ndim} dimensions; it must have 0 or 1", parameter=parameter)
    array = np.atleast_1d(array)
    if array.dtype.kind == "i" and len(array) and array.min() < 0:
        bad_at = int(np.argmax(array < 0))
        at = first + bad_at
        raise InvalidRequest(f"{parameter}[{at}]={array[bad_at]} is negative", parameter=parameter, index=at)
    return np.ascontiguousarray(array, dtype=np.uint64)


def choice(parameter: str, value: Any, allowed: tuple[str, ...]) -> str:
    """Return `value` if it is one of the allowed words."""
    if not isinstance(value, str) or value not in allowed:
        raise InvalidRequest(f"{parameter}={value!r}: must be one of {', '.join(allowed)}", parameter=parameter)
    return value


def release(kernel: Any) -> tuple[str, str, str]:
    """Return (release, engine, status) of a preset; an engine's name stands for its newest proven preset."""
    presets = _core.kernels()
    named = kernel if isinstance(kernel, str) else None
    for preset in presets:
        if preset[0] == named:
            return preset
    for preset in reversed(presets):
        if preset[1] == named and preset[2] != "assumed":
            return preset
    names = ", ".join(dict.fromkeys([p[0] for p in presets] + [p[1] for p in presets]))
    raise InvalidRequest(f"kernel={kernel!r}: must be one of {names}", parameter="kernel")


def engine_release(kernel: Any, engine: Any, default: str) -> tuple[str, str, str]:
    """Return the preset that ``kernel=`` and ``engine=`` name together, either of which may be None."""
    if engine is None:
        return release(default if kernel is None else kernel)
    engines = tuple(dict.fromkeys(preset[1] for preset in _core.kernels()))
    choice("engine", engine, engines)
    preset = release(engine if kernel is None else kernel)
    if preset[1] != engine:
        raise InvalidRequest(f"engine={engine!r} does not go with kernel={kernel!r} ({preset[1]})", parameter="engine")
    return preset


_warned: set[str] = set()


def warn_assumed(preset: tuple[str, str, str]) -> None:
    """Warn once a process about a preset that was not compared with a kernel."""
    name, engine, status = preset
    if status == "assumed" and name not in _warned:
        import warnings

        _warned.add(name)
        warnings.warn(
            f"kernel {name} is {engine} with constants not compared with a real kernel (see percpu.kernels())",
            UserWarning,
            stacklevel=4,
        )


def balance_policy(balance: Any, every: Any) -> int:
    """Return 1 for eager, 0 for manual, k for every k operations."""
    if every is not None:
        if balance != "eager":
            raise InvalidRequest("every= and balance= exclude each other", parameter="every")
        return integer("every", every, 1, 2**32 - 1)
    return {"eager": 1, "manual": 0}[choice("balance", balance, ("eager", "manual"))]
