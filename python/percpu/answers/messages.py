"""What the messages of the per-CPU allocator mean: the table ``data/messages.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

__all__ = ["Message", "conditions", "messages"]


@dataclass(frozen=True)
class Message:
    """What one kind of message means.

    Attributes
    ----------
    means : str
        What happened. In this and all others ``{name}`` stands for a value of the message.
    rule : str
        The rule behind it.
    limit : str
        The limit that was reached; empty where there is none.
    likely : str
        What makes it likely.
    look : tuple of str
        What to look at.
    change : tuple of str
        What to change.
    """

    means: str
    rule: str
    limit: str = ""
    likely: str = ""
    look: tuple[str, ...] = ()
    change: tuple[str, ...] = ()


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((resources.files("percpu") / "data" / "messages.toml").read_text("utf-8"))


@cache
def messages() -> dict[str, Message]:
    """Return the texts by kind of message.

    Returns
    -------
    dict of str to Message
        One entry for each kind that ``percpu._core.find_messages`` tells apart.
    """
    return {
        kind: Message(**{name: tuple(text) if isinstance(text, list) else text for name, text in entry.items()})
        for kind, entry in _table()["messages"].items()
    }


@cache
def conditions() -> dict[str, str]:
    """Return what the conditions of ``failed to initialize`` say.

    Returns
    -------
    dict of str to str
    """
    return dict(_table()["conditions"])
