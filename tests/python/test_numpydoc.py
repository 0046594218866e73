"""Docstrings of public names follow numpydoc.

Every check of `numpydoc.validate` applies, less those of `LEFT_OUT`. What a class that is not made by callers takes is
not documented as parameters (PR01), but each field of a dataclass or a named tuple is named in its docstring.
"""

from __future__ import annotations

import dataclasses
import inspect

import pytest

import percpu as pc
import percpu.plot
import percpu.testing

LEFT_OUT = {
    "ES01": "one sentence is enough where it says all",
    "SA01": "the reference links every name in the text",
    "SS05": "takes nouns for verbs: 'Bytes of ...', 'Objects of one size'",
}
# Examples are asked of functions; a picture's is in the how-tos, a strategy's in `docs/examples`.
NO_EXAMPLE = ("percpu.plot.", "percpu.testing.")


def names():
    seen = set()

    def add(module):
        for name in module.__all__:
            value, full = getattr(module, name), f"{module.__name__}.{name}"
            if inspect.ismodule(value):
                yield from add(value)
            elif (inspect.isclass(value) or inspect.isfunction(value)) and full not in seen:
                seen.add(full)
                yield full, value, None
                for attribute, member in vars(value).items() if inspect.isclass(value) else ():
                    kinds = (property, classmethod, staticmethod)
                    if not attribute.startswith("_") and (callable(member) or isinstance(member, kinds)):
                        yield f"{full}.{attribute}", member, value

    for module in (pc, percpu.plot, percpu.testing):
        yield from add(module)
    for name in ("alloc", "free"):  # of the extension module
        yield f"percpu.Allocator.{name}", getattr(pc.Allocator, name), pc.Allocator


def applies(code, name, value, owner):
    if code in LEFT_OUT:
        return False
    if code == "EX01":
        return inspect.isfunction(value) and owner is None and not name.startswith(NO_EXAMPLE)
    if code == "PR01" and inspect.isclass(value):
        # Classes that callers make list their parameters, and then all of them.
        return "Parameters\n" in (value.__doc__ or "") and not issubclass(value, BaseException)
    if code == "RT01":
        return "Yields\n" not in (value.__doc__ or "")
    if code == "GL02":  # a comment in Rust has no line of its own for the quotes
        return not inspect.ismethoddescriptor(value) or isinstance(value, (classmethod, staticmethod, property))
    return True


@pytest.mark.parametrize(("name", "value", "owner"), list(names()), ids=lambda v: v if isinstance(v, str) else "")
def test_numpydoc(name, value, owner):
    validate = pytest.importorskip("numpydoc.validate").validate
    errors = [f"{code} {text}" for code, text in validate(name)["errors"] if applies(code, name, value, owner)]
    assert not errors


def test_fields_are_documented():
    found = 0
    for name, value, _ in names():
        fields = getattr(value, "_fields", ())
        if inspect.isclass(value) and dataclasses.is_dataclass(value):
            fields = [field.name for field in dataclasses.fields(value)]
        for field in fields:
            assert field in inspect.getdoc(value), f"{name}.{field}"
            found += 1
    assert found > 30


def test_the_checks_are_known():
    validate = pytest.importorskip("numpydoc.validate")
    assert set(LEFT_OUT) | {"EX01", "PR01", "RT03", "GL08"} <= set(validate.ERROR_MSGS)
    assert len(list(names())) > 250
