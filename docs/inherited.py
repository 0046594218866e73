"""Tells mkdocstrings what reading the source alone does not show.

A class made by ``__new__`` gets its parameters from there, and methods that come from the extension module get their
signature and text from the module itself.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import griffe


class Inherited(griffe.Extension):
    """Adds constructors and methods of the extension module to the classes of the package."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Complete the members of a class whose own ones are known."""
        if "__new__" in cls.members and "__init__" not in cls.members:
            cls.members["__init__"] = cls.members["__new__"]
        if not any(str(base).startswith("_core.") for base in cls.bases):
            return
        live = getattr(importlib.import_module(cls.module.path), cls.name)
        for base in live.__mro__[1:]:
            for name in vars(base):
                method = getattr(live, name)
                if not name.startswith("_") and name not in cls.members and inspect.isroutine(method):
                    cls.set_member(name, _function(name, method))


def _function(name: str, method: Any) -> griffe.Function:
    parameters = [
        griffe.Parameter(
            p.name,
            kind=getattr(griffe.ParameterKind, p.kind.name.lower()),
            default=None if p.default is p.empty else repr(p.default),
        )
        for p in inspect.signature(method).parameters.values()
    ]
    text = griffe.Docstring(inspect.getdoc(method) or "", parser="numpy")
    return griffe.Function(name, parameters=griffe.Parameters(*parameters), docstring=text)
