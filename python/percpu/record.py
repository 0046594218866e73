"""Recording the ``percpu:*`` events of the kernel that this runs on."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any, BinaryIO

from percpu import _tracefs
from percpu._checks import choice, integer
from percpu._sink import Sink
from percpu.errors import CaptureError, InvalidRequest
from percpu.stats import try_totals

__all__ = ["Capture", "bpftrace_program", "record"]

CLOCKS = ("mono", "boot", "global", "counter")

_READ = 1 << 16
_WAIT_SECONDS = 0.05
# Buffers for all CPUs together are not larger than this, unless asked for.
_TOTAL_KB = 256 << 10
_CPU_KB = (1 << 10, 8 << 10)

# A line of ftrace, from the CPU on. What stands before it, a task's name of up to 15 characters and its number, is too
# short to hold a line itself, so the first place where this fits is the right one.
_LINE = re.compile(
    rb"^.*?(\[\d{3,}\] (?:[^ \n]{4,5} )? *)(\d+\.\d{6}|\d+)(: percpu_"
    rb"(?:alloc_percpu_fail|alloc_percpu|free_percpu|create_chunk|destroy_chunk): [^\n]*)$"
    rb"|^(CPU:\d+ \[LOST \d+ EVENTS\])$",
    re.MULTILINE,
)
_POINTER = re.compile(rb"base_addr=(?:0x)?([0-9a-f]+|\(ptrval\)|\(____ptrval____\))")


@dataclass(frozen=True)
class Capture:
    """What `record` did.

    Attributes
    ----------
    path : str or None
        The file; None if an open file was given.
    nr_events : int
        Events written.
    nr_lost : int
        Events that the kernel's buffers lost, because reading was too slow or the buffers too small.
    lost_by_cpu : dict of int to int
        The same for each CPU that lost any.
    seconds : float
        How long events were switched on.
    clock : str
        The trace clock: ``mono``, ``boot``, ``global``, ``local`` or ``counter``.
    pointers : str
        ``real``, ``hashed``, or ``none`` if there was no event.
    stats_paths : tuple of str
        Where the statistics texts of start and end are, if they were asked for and there.
    removed : tuple of str
        Instances of killed recordings that were found and removed before the start.
    notes : tuple of str
        What was asked for and could not be had.
    unseen : dict or None
        With `stats`: ``nr_alloc`` and ``nr_dealloc``, at least how many areas the kernel counted as handed out and
        taken back while events were on, for which there is no event. Those that the buffers lost are among them; the
        others never were: some kernels trace nothing in their idle task.
    signal : int or None
        The signal that ended it early.
    """

    path: str | None
    nr_events: int
    nr_lost: int
    lost_by_cpu: dict[int, int]
    seconds: float
    clock: str
    pointers: str
    stats_paths: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unseen: dict[str, int] | None = None
    signal: int | None = None


def bpftrace_program() -> str:
    """Return a bpftrace program whose output `read_trace` reads.

    For machines where Python is not at hand. It needs Linux 5.19 or later, which print the call site.

    Returns
    -------
    str
        The text of the program, which says at its top how it is run.

    Examples
    --------
    >>> "tracepoint:percpu:percpu_free_percpu" in bpftrace_program()
    True
    """
    return (resources.files("percpu") / "data" / "percpu.bt").read_text()


def record(
    path: str | os.PathLike[str] | BinaryIO,
    seconds: float | None = None,
    *,
    clock: str = "mono",
    buffer_size: int | None = None,
    stats: bool = False,
    mount: bool = False,
    tracefs: str | os.PathLike[str] | None = None,
    debugfs: str | os.PathLike[str] | None = None,
    stop: Event | None = None,
    progress: Callable[[float, int], object] | None = None,
) -> Capture:
    """Record the events of the per-CPU allocator of the running kernel.

    Needs root. The recording has a tracefs instance of its own, in which the ``percpu:*`` events and nothing else are
    switched on; everything is as before afterwards, also after Ctrl-C or ``SIGTERM``. What a recording left behind
    that was killed without a chance to tidy up is removed by the next one. Names and numbers of tasks are not written.

    Parameters
    ----------
    path : path or binary file
        Plain text, or compressed if the name ends in ``.gz`` or ``.zst``; an open file gets plain text. An existing
        file is replaced.
    seconds : float, optional
        How long; until Ctrl-C or `stop` by default.
    clock : {"mono", "boot", "global", "counter"}
        ``mono`` gives times; ``counter`` a strict order of all CPUs in place of times, for replays. A clock that the
        kernel lacks is replaced by ``global``.
    buffer_size : int, optional
        Bytes of the kernel's buffer for each CPU, at least 4096. By default from 1 to 8 MiB, so that all CPUs together
        stay below 256 MiB where that is possible.
    stats : bool, default False
        Also save the debugfs text ``percpu_stats`` at start and end, in files beside `path`, where the kernel has it.
    mount : bool, default False
        Mount tracefs (and debugfs for `stats`) for the time of the recording, visible to this process alone.
    tracefs, debugfs : path, optional
        Where they are mounted; looked for by default.
    stop : threading.Event, optional
        Ends the recording when it is set.
    progress : callable, optional
        Called a few times a second with the seconds and the events so far.

    Returns
    -------
    Capture

    Raises
    ------
    CaptureError
        If the kernel does not allow it; the message says what to enable. Nothing is left switched on.
    InvalidRequest
        If an argument is out of its range.
    OSError
        If the file cannot be written.
    KeyboardInterrupt
        On Ctrl-C, after the file was completed. (In the main thread; other signals that end a process, likewise.)

    Notes
    -----
    The text is ftrace's, with pointers as the kernel lets root see them: real ones from 5.12 on, hashed ones between
    4.15 and 5.11. In place of lost events stands ftrace's own line ``CPU:0 [LOST 12 EVENTS]``.

    Examples
    --------
    >>> capture = record("churn.txt.gz", 10, stats=True)  # doctest: +SKIP
    >>> capture.nr_events, capture.nr_lost  # doctest: +SKIP
    (25182, 0)
    """
    with Signals(stop or Event()) as signals:
        capture = run_capture(
            path,
            seconds,
            clock=clock,
            buffer_size=buffer_size,
            stats=stats,
            mount=mount,
            tracefs=tracefs,
            debugfs=debugfs,
            progress=progress,
            signals=signals,
        )
    if signals.received is not None:
        signal.raise_signal(signals.received)
    return capture


class Signals:
    """Turns signals that would end the process into a wish to stop, while the context lasts.

    Without that, a second Ctrl-C could break off the tidying up after the first.
    """

    _CAUGHT = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

    def __init__(self, stop: Event) -> None:
        self.stop = stop
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if current_thread() is main_thread():
            for number in self._CAUGHT:
                # What the process was told to ignore stays ignored (nohup).
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, _frame: object) -> None:
        self.received = number
        self.stop.set()


def run_capture(
    path: str | os.PathLike[str] | BinaryIO,
    seconds: float | None,
    *,
    clock: str,
    buffer_size: int | None,
    stats: bool,
    mount: bool,
    tracefs: str | os.PathLike[str] | None,
    debugfs: str | os.PathLike[str] | None,
    progress: Callable[[float, int], object] | None,
    signals: Signals,
) -> Capture:
    """Do the work of `record`; signals are left to the caller."""
    choice("clock", clock, CLOCKS)
    if seconds is not None and not (isinstance(seconds, (int, float)) and 0 < seconds < float("inf")):
        raise InvalidRequest(f"seconds={seconds!r}: must be a number above 0", parameter="seconds")
    buffer_kb = _default_buffer_kb()
    if buffer_size is not None:
        buffer_kb = -(-integer("buffer_size", buffer_size, 4096, 1 << 40) // 1024)
    with contextlib.ExitStack() as undo:
        root = _tracefs_root(tracefs, mount, undo)
        removed = root.remove_stale()
        root.check_events()
        notes: list[str] = []
        state = _State(path)
        statistics = _Statistics(_stats_source(debugfs, mount, notes, undo) if stats else None, state, notes)
        sink = Sink(path, state.head("not finished" if state.path else "the result is in the last line"))
        finished = False
        try:
            with _tracefs.Instance(root) as instance:
                state.clock = _configure(instance, clock, buffer_kb, notes)
                fd = instance.open_pipe()
                try:
                    statistics.take("a")
                    instance.write("tracing_on", "1")
                    began = time.monotonic()
                    statistics.take()
                    try:
                        _copy(fd, sink, state, began, seconds, signals.stop, progress)
                        statistics.take()
                    finally:
                        instance.write("tracing_on", "0")
                        state.seconds = time.monotonic() - began
                    statistics.take("b")
                    while _drain(fd, sink, state):
                        pass
                    state.flush(sink)
                    state.lost = instance.lost()
                finally:
                    os.close(fd)
            finished = True
        finally:
            text = state.last_line("complete" if finished else "broken off")
            sink.write(text)
            sink.close(state.head("complete" if finished else "broken off"))
    return Capture(
        path=state.path,
        nr_events=state.nr_events,
        nr_lost=sum(state.lost.values()),
        lost_by_cpu=state.lost,
        seconds=state.seconds,
        clock=state.clock,
        pointers=state.pointers,
        stats_paths=tuple(state.stats_paths),
        removed=tuple(removed),
        notes=tuple(notes),
        unseen=statistics.unseen(),
        signal=signals.received,
    )


def _stats_source(
    debugfs: str | os.PathLike[str] | None, mount: bool, notes: list[str], undo: contextlib.ExitStack
) -> Path | None:
    try:
        return _tracefs.find_statistics(debugfs, mount, undo)
    except CaptureError as error:
        notes.append(f"no statistics: {error}")
        return None


def _tracefs_root(given: str | os.PathLike[str] | None, mount: bool, undo: contextlib.ExitStack) -> _tracefs.Tracefs:
    if given is not None:
        if not (Path(given) / "instances").is_dir():
            raise CaptureError(f"{os.fspath(given)} is no tracefs: it has no instances", step="finding tracefs")
        return _tracefs.Tracefs(Path(given))
    try:
        return _tracefs.Tracefs.find()
    except CaptureError:
        if not mount:
            raise
    return _tracefs.Tracefs(undo.enter_context(_tracefs.detached_mount("tracefs")))


class _Statistics:
    """The debugfs text at start and end: copied to files, and counted against the events."""

    def __init__(self, source: Path | None, state: _State, notes: list[str]) -> None:
        self._source, self._state, self._notes = source, state, notes
        self._totals: list[dict[str, int]] = []

    def take(self, which: str = "") -> None:
        """Read the counters; save the text too if it has a name."""
        if self._source is None:
            return
        try:
            text = self._source.read_bytes()
        except OSError as error:
            self._notes.append(f"no statistics: {self._source.name}: {error.strerror}")
            self._source = None
            return
        totals = try_totals(text)
        if totals is not None:
            self._totals.append(totals)
        if which and self._state.path is not None:
            target = Path(re.sub(r"(\.txt)?(\.gz|\.zst)?$", "", self._state.path) + f".percpu_stats-{which}.txt")
            target.write_bytes(text)
            self._state.stats_paths.append(str(target))

    def unseen(self) -> dict[str, int] | None:
        """Requests and frees that happened while events were on, and have none; both are lower bounds."""
        if len(self._totals) != 4:
            return None
        _, first, last, _ = self._totals
        counts = {"nr_alloc": self._state.nr_alloc, "nr_dealloc": self._state.nr_free}
        return {name: max(last[name] - first[name] - seen, 0) for name, seen in counts.items()}


def _configure(instance: _tracefs.Instance, clock: str, buffer_kb: int, notes: list[str]) -> str:
    """Set the instance up, events on, recording off; return the clock that it has."""
    instance.write("tracing_on", "0")
    # Then the kernel does not even collect the names of tasks for this recording.
    instance.try_write("trace_options", "norecord-cmd")
    instance.try_write("options/hash-ptr", "0")
    clocks = instance.clocks()
    if clock not in clocks:
        notes.append(f"clock: this kernel has no {clock!r}")
        clock = "global" if "global" in clocks else "local"
    instance.write("trace_clock", clock)
    instance.write("buffer_size_kb", str(buffer_kb))
    instance.write(f"events/{_tracefs.EVENTS}/enable", "1")
    return clock


def _default_buffer_kb() -> int:
    low, high = _CPU_KB
    return max(low, min(high, _TOTAL_KB // (os.cpu_count() or 1)))


def _copy(
    fd: int,
    sink: Sink,
    state: _State,
    began: float,
    seconds: float | None,
    stop: Event,
    progress: Callable[[float, int], object] | None,
) -> None:
    """Copy events until the time is over or the caller wants to stop."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    told = saved = began
    while not stop.is_set():
        now = time.monotonic()
        if seconds is not None and now - began >= seconds:
            return
        if progress is not None and now - told >= 0.2:
            told = now
            progress(now - began, state.nr_events)
        if now - saved >= 1:
            saved = now
            sink.flush()
        if not _drain(fd, sink, state):
            rest = _WAIT_SECONDS if seconds is None else min(_WAIT_SECONDS, max(began + seconds - now, 0.001))
            # Kernel: poll may report data that a read does not give yet; never spin.
            if poll.poll(rest * 1000) and not _drain(fd, sink, state):
                time.sleep(min(rest, 0.01))


def _drain(fd: int, sink: Sink, state: _State) -> bool:
    """Read once and write what it gave; whether there was anything."""
    try:
        data = os.read(fd, _READ)
    except BlockingIOError:
        return False
    except OSError as error:
        raise _tracefs.refusal("reading trace_pipe of the instance", error) from error
    if not data:
        return False
    state.add(data, sink)
    return True


@dataclass
class _State:
    """A recording in progress."""

    target: Any
    nr_events: int = 0
    seconds: float = 0.0
    clock: str = "?"
    pointers: str = "none"
    nr_alloc: int = 0
    nr_free: int = 0
    lost: dict[int, int] = field(default_factory=dict)
    stats_paths: list[str] = field(default_factory=list)
    rest: bytes = b""

    def __post_init__(self) -> None:
        self.path = os.fspath(self.target) if isinstance(self.target, (str, os.PathLike)) else None
        self.started = datetime.now(UTC)

    def add(self, data: bytes, sink: Sink) -> None:
        """Write the whole lines of some text, without tasks."""
        whole, newline, self.rest = (self.rest + data).rpartition(b"\n")
        if newline:
            out = b"".join(self._lines(whole))
            if self.pointers == "none" and (found := _POINTER.search(out)):
                hashed = found[1][:1] == b"(" or (len(found[1]) == 16 and found[1].startswith(b"0" * 8))
                self.pointers = "hashed" if hashed else "real"
            sink.write(out)

    def flush(self, sink: Sink) -> None:
        """Write a last line that has no end."""
        if self.rest:
            self.add(b"\n", sink)

    def _lines(self, text: bytes) -> Iterator[bytes]:
        for where, when, what, gap in _LINE.findall(text):
            if gap:
                yield gap + b"\n"
            else:
                self.nr_events += 1
                self.nr_alloc += what.startswith(b": percpu_alloc_percpu:")
                self.nr_free += what.startswith(b": percpu_free_percpu:")
                yield b"task-1 " + where.rstrip() + b" " + when + what + b"\n"

    def _result(self, word: str) -> str:
        lost = sum(self.lost.values())
        return f"{word}; seconds={self.seconds:.3f} events={self.nr_events} lost={lost} pointers={self.pointers}"

    def head(self, word: str) -> bytes:
        """Comment lines for the front, always of the same length."""
        lines = (
            "# percpu record: the percpu:* events as ftrace prints them, without names and numbers of tasks",
            f"# kernel={platform.release()} machine={platform.machine()} page_bytes={os.sysconf('SC_PAGE_SIZE')} "
            f"possible_cpus={_cpus('possible')} online_cpus={_cpus('online')}",
            f"# started={self.started:%Y-%m-%dT%H:%M:%SZ} clock={self.clock:<8}",
            f"# {self._result(word):<110}",
        )
        return ("\n".join(lines) + "\n").encode()

    def last_line(self, word: str) -> bytes:
        """The same result at the end, with the losses of each CPU."""
        cpus = "".join(f" cpu{cpu}={count}" for cpu, count in self.lost.items())
        return f"# {self._result(word)}{f'; lost by cpu:{cpus}' if cpus else ''}\n".encode()


def _cpus(which: str) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/{which}").read_text().strip()
    except OSError:
        return "?"
