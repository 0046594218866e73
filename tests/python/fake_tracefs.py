"""A directory that behaves like tracefs as far as a recording can tell.

A real one fills the directory of an instance when it is made, empties it when it is removed, and gives events through
a pipe. `install` makes `percpu._tracefs` do the first two here; the pipe is a FIFO that is filled on `tracing_on`.
Run as a program it is the command line with such a tracefs: ``python fake_tracefs.py ROOT ARGUMENTS...``.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path

LINES = b"""\
       secret-77-4242    [001] d..1.  1272.445108: percpu_free_percpu: base_addr=ffffe8ffffc00000 off=31200 ptr=000060795bb009e0
            bash-1       [000] .....  1303.276104: percpu_alloc_percpu: call_site=mm_init+0x2bf/0x4d0 reserved=0 is_atomic=0 size=16 align=8 base_addr=ffffe8ffffc00000 off=29160 ptr=000060795bb001e8 bytes_alloc=64 gfp_flags=GFP_KERNEL
CPU:1 [LOST 23 EVENTS]
 a [9] 1.0: x: y-12 [001] ..s2.  1303.276105: percpu_alloc_percpu_fail: reserved=0 is_atomic=1 size=64 align=8
           <...>-9       [003] d.h4.  1303.276106: percpu_create_chunk: base_addr=ffffe8ffffd00000
           <...>-9       [003] d.h4.  1303.276106: sched_switch: prev_comm=private
           <...>-9       [003] d.h4.  1303.276107: percpu_destroy_chunk: base_addr=ffffe8ffffd00000
"""  # noqa: E501 - as the kernel prints it
NR_EVENTS = 5
STATS = "entries: 0\noverrun: {}\ncommit overrun: 0\nbytes: 0\ndropped events: {}\nread events: 5\n"


class FakeTracefs:
    """The tree, and what the kernel would do with it."""

    def __init__(self, root: Path, *, lines: bytes = LINES, lost: tuple[int, int] = (20, 3)) -> None:
        self.root = root
        self.lines = lines
        self.lost = lost
        self.pipes: list[int] = []
        self.options: dict[str, str] = {}
        if not root.exists():
            (root / "instances").mkdir(parents=True)
            (root / "events/percpu/percpu_alloc_percpu").mkdir(parents=True)
            (root / "tracing_on").write_text("1")

    def make(self, name: str) -> None:
        """Fill the directory of an instance."""
        at = self.root / "instances" / name
        at.mkdir()
        for path in ("options", "events/percpu", "per_cpu/cpu0", "per_cpu/cpu1"):
            (at / path).mkdir(parents=True)
        files = {
            "tracing_on": "1", "trace_options": "", "options/hash-ptr": "1", "buffer_size_kb": "1410",
            "trace_clock": "[local] global counter mono boot", "events/percpu/enable": "0",
            "per_cpu/cpu0/stats": STATS.format(0, 0), "per_cpu/cpu1/stats": STATS.format(*self.lost),
        }  # fmt: skip
        for path, text in files.items():
            (at / path).write_text(text)
        os.mkfifo(at / "trace_pipe")
        # Open for both directions: the reader never meets an end.
        self.pipes.append(os.open(at / "trace_pipe", os.O_RDWR | os.O_NONBLOCK))

    def remove(self, name: str) -> None:
        """Remove the directory of an instance with all that is in it."""
        at = self.root / "instances" / name
        if not at.exists():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(at))
        for path in at.rglob("*"):
            if path.is_file() and not path.is_fifo():
                self.options[str(path.relative_to(at))] = path.read_text()
        shutil.rmtree(at)
        while self.pipes:
            os.close(self.pipes.pop())

    def feed(self, instance: Path) -> None:
        """Events happen."""
        with open(instance / "trace_pipe", "wb", buffering=0) as pipe:
            pipe.write(self.lines)

    def tree(self) -> dict[str, str | None]:
        """Everything that is there."""
        paths = sorted(self.root.rglob("*"))
        return {str(p.relative_to(self.root)): p.read_text() if p.is_file() else None for p in paths}


def install(fake: FakeTracefs, setattr_=setattr) -> None:
    """Let `percpu._tracefs` work on the fake."""
    from percpu import _tracefs

    write = _tracefs.Instance.write

    def write_and_feed(self, name, text):
        write(self, name, text)
        if (name, text) == ("tracing_on", "1"):
            fake.feed(self.root)

    setattr_(_tracefs.Tracefs, "make_instance", lambda self, name: fake.make(name))
    setattr_(_tracefs.Tracefs, "remove_instance", lambda self, name: fake.remove(name))
    setattr_(_tracefs.Instance, "write", write_and_feed)


if __name__ == "__main__":
    from percpu.cli import main

    install(FakeTracefs(Path(sys.argv[1])))
    sys.exit(main(["record", "--tracefs", sys.argv[1], *sys.argv[2:]]))
