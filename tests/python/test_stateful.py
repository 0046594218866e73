"""Random operations on every engine, checked after each; what fails becomes a script."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

import percpu as pc

from .stateful import AllocatorMachine

SEARCH = settings(
    max_examples=int(os.environ.get("PERCPU_EXAMPLES", "150")),
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)


def test_any_operations():
    run_state_machine_as_test(AllocatorMachine, settings=SEARCH)


class Broken(AllocatorMachine):
    """The same with a bug planted: a third live area is reported as a broken invariant."""

    def run(self, line):
        super().run(line)
        if "a" in self.names and self.a.stats()["nr_cur_alloc"] >= 3:
            from hypothesis import note

            note(self.text())
            raise RuntimeError("planted")


def test_a_failure_shrinks_to_a_script_that_runs():
    with pytest.raises(RuntimeError, match="planted") as caught:
        run_state_machine_as_test(Broken, settings=SEARCH)
    notes = "\n".join(getattr(caught.value, "__notes__", []))
    script = notes[notes.rindex("# paste from here") :].split("\nstate", 1)[0]
    # Three areas from the fewest steps: the start, and one batch or three requests.
    assert script.count("\na = pc.Allocator(") == 1
    assert 1 <= script.count("a.alloc") <= 3
    names = {}
    exec(script, names)
    assert isinstance(names["a"], pc.Allocator)
    assert names["a"].stats()["nr_cur_alloc"] == 3
