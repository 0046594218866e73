"""Access to tracefs: where it is, an instance of our own, and what to say when the kernel refuses.

An *instance* is a ring buffer of its own with its own events and options: what is switched on in it changes nothing
for anybody else who traces. Ours is named ``percpu-<pid>``. Removing the directory undoes everything, and the kernel
refuses that (``EBUSY``) while somebody has one of its files open, which is how an instance of a killed recording is
told from one in use.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from percpu.errors import CaptureError

__all__ = ["EVENTS", "Instance", "Tracefs", "detached_mount", "find_statistics", "refusal"]

EVENTS = "percpu"
"""The only event system that is ever switched on."""

_USUAL = {
    "tracefs": ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"),
    "debugfs": ("/sys/kernel/debug",),
}
_NAME = re.compile(r"percpu-(\d+)")
_LOCKDOWN = Path("/sys/kernel/security/lockdown")

# Numbers of fsopen, fsconfig and fsmount: the same on every architecture that Linux has had since 5.2, but Alpha.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CONFIG_CREATE, _CLOEXEC = 6, 1


def _mounts(kind: str) -> Iterator[Path]:
    """Where a file system of this kind is mounted, as the kernel lists it; then the usual places."""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        fields = line.split(" ")
        if len(fields) > 2 and fields[2] == kind:
            # Blanks and the like are written in octal.
            yield Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[1]))
    yield from map(Path, _USUAL[kind])


def _known(kind: str) -> bool:
    """Whether the kernel has this file system; True if it cannot be told."""
    try:
        return any(line.split()[-1] == kind for line in Path("/proc/filesystems").read_text().splitlines())
    except OSError:
        return True


def _locked_down() -> bool:
    try:
        return "[confidentiality]" in _LOCKDOWN.read_text()
    except OSError:
        return False


def refusal(what: str, error: OSError) -> CaptureError:
    """Return the exception for a step that the kernel refused, with what to do about it."""
    reason = error.strerror or type(error).__name__
    if error.errno in (errno.EACCES, errno.EPERM):
        if _locked_down():
            advice = "the kernel is locked down (confidentiality), which forbids tracing: boot without lockdown="
        elif hasattr(os, "geteuid") and os.geteuid() != 0:
            advice = "run it as root (sudo percpu ...)"
        else:
            advice = "root alone is not enough here: in a container it also needs CAP_SYS_ADMIN and the host's tracefs"
    elif error.errno == errno.EROFS:
        advice = "tracefs is mounted read-only, as containers often have it: run on the host"
    elif error.errno == errno.ENOMEM:
        advice = "the kernel has no memory for the buffers: give a smaller one (--buffer)"
    elif error.errno == errno.ENOSYS:
        advice = "this kernel is older than 5.2: mount -t tracefs nodev /sys/kernel/tracing, and leave out --mount"
    else:
        advice = "nothing was left switched on"
    return CaptureError(f"{what}: {reason}; {advice}", step=what, errno=error.errno)


@contextlib.contextmanager
def detached_mount(kind: str) -> Iterator[Path]:
    """Mount a file system at no place at all, for as long as the context lasts.

    It is reached through a file descriptor of this process, so nobody else sees it, and it is gone with the process,
    however that ends.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(number: int, *arguments: object) -> int:
        result: int = libc.syscall(number, *arguments)
        if result < 0:
            number = ctypes.get_errno()
            raise refusal(f"mounting {kind}", OSError(number, os.strerror(number)))
        return result

    context = call(_FSOPEN, kind.encode(), _CLOEXEC)
    try:
        call(_FSCONFIG, context, _CONFIG_CREATE, None, None, 0)
        mount = call(_FSMOUNT, context, _CLOEXEC, 0)
    finally:
        os.close(context)
    try:
        yield Path(f"/proc/self/fd/{mount}")
    finally:
        os.close(mount)


def find_statistics(debugfs: str | os.PathLike[str] | None, mount: bool, undo: contextlib.ExitStack) -> Path:
    """Return the path of the debugfs file ``percpu_stats``; `CaptureError` says what to enable if there is none.

    A mount that is made for it lasts as long as `undo`.
    """
    name = "percpu_stats"
    if debugfs is not None:
        roots = [Path(debugfs)]
    else:
        roots = [root for root in dict.fromkeys(_mounts("debugfs")) if _is_mounted(root)]
        if not roots and mount:
            roots = [undo.enter_context(detached_mount("debugfs"))]
    for root in roots:
        try:
            if (root / name).exists():
                return root / name
        except OSError as error:
            raise refusal(f"{root}/{name}", error) from error
    if roots:
        advice = "the file exists since Linux 4.13, in kernels with CONFIG_PERCPU_STATS (and CONFIG_DEBUG_FS)"
        raise CaptureError(f"{roots[0]} has no {name}: {advice}", step="finding percpu_stats")
    if not _known("debugfs"):
        raise CaptureError(
            "this kernel has no debugfs: it was built without CONFIG_DEBUG_FS", step="finding percpu_stats"
        )
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        raise CaptureError(
            "debugfs is not mounted, or only root sees it: run it as root (sudo percpu ...)",
            step="finding percpu_stats",
        )
    raise CaptureError(
        "debugfs is not mounted: mount -t debugfs nodev /sys/kernel/debug, or give --mount",
        step="finding percpu_stats",
    )


def _is_mounted(root: Path) -> bool:
    """Whether something is in the directory; one that cannot be looked into counts."""
    try:
        return any(root.iterdir())
    except FileNotFoundError:
        return False
    except OSError:
        return True


class Tracefs:
    """A mounted tracefs.

    Parameters
    ----------
    root : Path
        Where it is.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def find(cls) -> Tracefs:
        """Find a tracefs that is mounted; `CaptureError` says what to do if there is none."""
        for root in dict.fromkeys(_mounts("tracefs")):
            try:
                if (root / "instances").is_dir():
                    return cls(root)
            except OSError as error:
                raise refusal(f"{root}", error) from error
        if not _known("tracefs"):
            raise CaptureError(
                "this kernel has no tracefs: it was built without CONFIG_FTRACE (with CONFIG_EVENT_TRACING), or it is "
                "no Linux kernel",
                step="finding tracefs",
            )
        if hasattr(os, "geteuid") and os.geteuid() != 0:
            raise CaptureError(
                "tracefs is not mounted, or only root sees it: run it as root (sudo percpu ...)", step="finding tracefs"
            )
        raise CaptureError(
            "tracefs is not mounted: mount -t tracefs nodev /sys/kernel/tracing, or give --mount",
            step="finding tracefs",
        )

    def check_events(self) -> None:
        """Raise `CaptureError` unless the kernel has the events."""
        try:
            names = {path.name for path in (self.root / "events" / EVENTS).iterdir() if path.is_dir()}
        except FileNotFoundError:
            names = set()
        except OSError as error:
            raise refusal(f"{self.root}/events/{EVENTS}", error) from error
        if "percpu_alloc_percpu" not in names:
            raise CaptureError(
                f"{self.root} has no events {EVENTS}:*: they exist since Linux 4.13, in kernels with "
                "CONFIG_EVENT_TRACING",
                step="finding the events",
            )

    # -- instances -------------------------------------------------------------------

    def make_instance(self, name: str) -> None:
        """Make the directory; the kernel fills it."""
        os.mkdir(self.root / "instances" / name)

    def remove_instance(self, name: str) -> None:
        """Remove the directory, and with it all that was switched on in it."""
        os.rmdir(self.root / "instances" / name)

    def remove_stale(self, active: frozenset[str] = frozenset()) -> list[str]:
        """Remove instances that recordings left behind when they were killed, and return their names."""
        try:
            names = sorted(path.name for path in (self.root / "instances").iterdir())
        except OSError as error:
            raise refusal(f"{self.root}/instances", error) from error
        removed = []
        for name in names:
            match = _NAME.fullmatch(name)
            if match is None or name in active or (int(match[1]) != os.getpid() and _alive(int(match[1]))):
                continue
            try:
                self.remove_instance(name)
            except OSError:
                continue  # in use after all, by a process that is not visible from here
            removed.append(name)
        return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


class Instance:
    """One instance of a tracefs, from its making to its removal (``with``)."""

    def __init__(self, tracefs: Tracefs) -> None:
        self._tracefs = tracefs
        self.name = f"percpu-{os.getpid()}"
        self.root = tracefs.root / "instances" / self.name

    def __enter__(self) -> Instance:
        try:
            self._tracefs.make_instance(self.name)
        except FileExistsError as error:
            raise CaptureError(
                f"{self.root} is in use: by this process, or by one of the same number in another container",
                step="making an instance",
                errno=error.errno,
            ) from error
        except OSError as error:
            raise refusal(f"making the instance {self.root}", error) from error
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._tracefs.remove_instance(self.name)

    def write(self, name: str, text: str) -> None:
        """Write a file of the instance."""
        try:
            # Not `write_text`: that would make the file where it is missing.
            fd = os.open(self.root / name, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise refusal(f"writing {text!r} to {name} of the instance", error) from error

    def try_write(self, name: str, text: str) -> bool:
        """Write a file that older kernels have not, and return whether it could be done."""
        try:
            self.write(name, text)
        except CaptureError:
            return False
        return True

    def clocks(self) -> list[str]:
        """Names of the clocks that the kernel offers."""
        try:
            return (self.root / "trace_clock").read_text().replace("[", " ").replace("]", " ").split()
        except OSError as error:
            raise refusal("reading trace_clock of the instance", error) from error

    def open_pipe(self) -> int:
        """Open the stream of events of all CPUs, merged by time; a read never waits."""
        try:
            return os.open(self.root / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise refusal("opening trace_pipe of the instance", error) from error

    def lost(self) -> dict[int, int]:
        """Events that the buffer of each CPU lost; CPUs without a loss are left out."""
        found = {}
        for path in (self.root / "per_cpu").glob("cpu*/stats"):
            try:
                text = path.read_text()
            except OSError as error:
                raise refusal(f"reading {path.parent.name}/stats of the instance", error) from error
            rows = dict(re.findall(r"^([a-z ]+): *(\d+)$", text, re.MULTILINE))
            count = sum(int(rows.get(name, 0)) for name in ("overrun", "commit overrun", "dropped events"))
            if count:
                found[int(path.parent.name[3:])] = count
        return dict(sorted(found.items()))
