"""What docstrings show runs, every public name has one, and the stub is right. Pages: `test_pages`."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import percpu as pc

MODULES = sorted(m.name for m in pkgutil.walk_packages(pc.__path__, "percpu.") if not m.name.endswith("_core"))


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_docstrings_of_the_extension():
    text = inspect.getdoc(pc.Allocator.alloc)
    test = doctest.DocTestParser().get_doctest(text, {"Allocator": pc.Allocator}, "alloc", None, None)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


def public():
    for name in pc.__all__:
        value = getattr(pc, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            yield name, value
        if inspect.isclass(value):
            for attribute, member in vars(value).items():
                if not attribute.startswith("_") and (callable(member) or isinstance(member, (property, classmethod))):
                    yield f"{name}.{attribute}", getattr(value, attribute)


@pytest.mark.parametrize(("name", "value"), list(public()), ids=lambda v: v if isinstance(v, str) else "")
def test_every_public_name_has_a_docstring(name, value):
    text = inspect.getdoc(value)
    assert text
    assert text.strip().endswith((".", "]", ")", "}")) or "\n" in text


def test_all_is_complete():
    assert len(pc.__all__) == len(set(pc.__all__))
    for name in pc.__all__:
        assert hasattr(pc, name)


@pytest.mark.slow
def test_stub():
    pytest.importorskip("mypy")
    run = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "percpu._core"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_only_numpy_is_needed():
    script = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pandas", "pyarrow", "xarray", "matplotlib", "rich", "tqdm"}:
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import percpu
from percpu.cli import main
a = percpu.Allocator(unit_size=32768, nr_units=1)
a.alloc(8)
assert main(["kernels"]) == 0
try:
    percpu.kernels().to_pandas()
except ImportError as error:
    assert "percpu[analysis]" in str(error)
else:
    raise SystemExit("pandas was found")
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
