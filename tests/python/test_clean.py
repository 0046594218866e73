"""Nothing is asked of a network: everything is imported and the main things are done where there is none."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

SCRIPT = """
import importlib, io, pkgutil, sys
from contextlib import redirect_stdout

def watch(event, arguments):
    if event.split(".")[0] in ("socket", "urllib", "http", "ftplib", "smtplib"):
        raise SystemExit(f"asks for {event} {arguments}")

sys.addaudithook(watch)
import percpu as pc
for module in pkgutil.walk_packages(pc.__path__, "percpu."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from percpu.cli import main
a = pc.Allocator(unit_size=64 << 10, nr_units=2)
a.free_many(a.alloc_many([8] * 100).ptr)
pc.Allocator.restore(a.snapshot()).verify()
with redirect_stdout(io.StringIO()):
    assert main(["kernels"]) == 0
    line = "percpu: allocation failed, size=16 align=16 atomic=1, alloc from reserved chunk failed"
    assert main(["explain", line]) == 0
    assert main(["demo", "--out", sys.argv[1]]) == 0
print("done")
"""


def without_network():
    """Return a command that runs another in a network of its own, which has no way out, where that is allowed."""
    command = [shutil.which("unshare") or "", "--map-root-user", "--net"]
    if command[0] and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
        return command
    return []


@pytest.mark.parametrize("apart", [False, True], ids=["watched", "apart"])
def test_no_network(tmp_path, apart):
    pytest.importorskip("matplotlib")
    command = without_network() if apart else []
    run = subprocess.run(
        [*command, sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.stdout == "done\n", run.stderr[-2000:]
    assert (tmp_path / "chunk.png").exists()
