"""Arguments of experiments: what is run, on which machine, with which values."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

import percpu
from percpu.distributions import Choice, Integers, LogIntegers, PowersOfTwo
from percpu.errors import InvalidRequest

__all__ = ["add_machine", "add_source", "machine_of", "settings_of", "source_of", "value_of", "values_of"]

_SIZE = re.compile(r"(\d+)([KMG])(?:i?B)?", re.IGNORECASE)
_DISTRIBUTIONS = {"integers": Integers, "log_integers": LogIntegers, "powers_of_two": PowersOfTwo}


def add_source(parser: Any, *, required: bool = True) -> None:
    """Add what is run: a trace, or a workload and its parameters."""
    what = parser.add_mutually_exclusive_group(required=required)
    what.add_argument("--trace", metavar="FILE", help="a recording, in any form that replay reads")
    what.add_argument("--workload", metavar="NAME", help="a workload, see percpu.workloads.names()")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="parameters of the workload")


def add_machine(parser: Any) -> None:
    """Add the settings of the machine, of requests and of the worker."""
    parser.add_argument(
        "--geometry",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="the machine, e.g. unit_size=512K nr_units=4, or nr_cpus=8 dyn_size=28K (default: 4 CPUs)",
    )
    parser.add_argument(
        "--request",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="change requests: align, min_align, size_multiple",
    )
    parser.add_argument(
        "--policy",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="the worker: balance=eager|manual, every=K, or a threshold, e.g. empty_pop_pages_high=8",
    )


def value_of(text: Any) -> Any:
    """Return a number for ``4096``, ``0x1000`` and ``4K``, a bool for ``true`` and ``false``, else the word itself."""
    if not isinstance(text, str):
        return text
    word = text.strip()
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    size = _SIZE.fullmatch(word)
    if size:
        return int(size[1]) << {"K": 10, "M": 20, "G": 30}[size[2].upper()]
    # A release such as 6.12 is a word.
    return int(word, 0) if re.fullmatch(r"\d+|0[xX][0-9a-fA-F]+", word) else word


def _pairs(texts: list[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InvalidRequest(f"{text!r}: must be NAME=VALUE", parameter=name)
        pairs.append((name, value))
    return pairs


def settings_of(texts: list[str]) -> dict[str, Any]:
    """Settings from ``NAME=VALUE``."""
    return {name: value_of(value) for name, value in _pairs(texts)}


def machine_of(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Return the machine; None for the usual one."""
    return settings_of(arguments.geometry) or None


def source_of(arguments: argparse.Namespace) -> Any:
    """Read the trace, or make the workload."""
    if arguments.trace:
        if arguments.set:
            raise InvalidRequest("--set is for workloads", parameter="set")
        return percpu.read_trace(arguments.trace)
    return percpu.workloads.make(
        arguments.workload, **{name: values_of(v, single=True) for name, v in _pairs(arguments.set)}
    )


def values_of(given: Any, *, single: bool = False) -> Any:
    """Values of a parameter: ``A,B,C`` or a list; ``LOW..HIGH:KIND`` or a table for a distribution.

    With `single` one value stays one, and is not a list of one.
    """
    if isinstance(given, Mapping):
        return _distribution(given)
    if isinstance(given, str):
        span = re.fullmatch(r"([^.,]+)\.\.([^.,:]+):(\w+)", given)
        if span:
            return _distribution({span[3]: [span[1], span[2]]})
        parts = given.split(",")
        return value_of(parts[0]) if single and len(parts) == 1 else [value_of(part) for part in parts]
    if isinstance(given, list):
        return [value_of(part) for part in given]
    return value_of(given) if single else [value_of(given)]


def _distribution(given: Mapping[str, Any]) -> Any:
    (kind, values), *more = given.items()
    if more or kind not in (*_DISTRIBUTIONS, "choice"):
        known = ", ".join((*_DISTRIBUTIONS, "choice"))
        raise InvalidRequest(f"{dict(given)!r}: a distribution is one of {known}", parameter=str(kind))
    numbers = [value_of(value) for value in values]
    return Choice(numbers) if kind == "choice" else _DISTRIBUTIONS[kind](*numbers)
