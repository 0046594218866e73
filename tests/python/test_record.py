"""Recording: on a tracefs that is a plain directory, and on the machine's own where it allows that."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import percpu as pc
from percpu import _tracefs
from percpu.cli import main
from percpu.record import _State

from . import fake_tracefs
from .conftest import ROOT
from .fake_tracefs import NR_EVENTS, FakeTracefs, install

STATS = ROOT / "tests/data/head-pinning-618/percpu_stats-0.txt"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """An empty tracefs, which must look the same afterwards."""
    fake = FakeTracefs(tmp_path / "tracing")
    install(fake, monkeypatch.setattr)
    before = fake.tree()
    yield fake
    assert fake.tree() == before
    assert not fake.pipes


def record(fake, path, seconds=0.15, **more):
    return pc.record(path, seconds, tracefs=fake.root, **more)


def read(path):
    data = Path(path).read_bytes()
    return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()


def test_what_is_written(fake, tmp_path):
    path = tmp_path / "a.txt"
    capture = record(fake, path)
    assert (capture.nr_events, capture.nr_lost, capture.lost_by_cpu) == (NR_EVENTS, 23, {1: 23})
    assert (capture.path, capture.clock, capture.pointers, capture.signal) == (str(path), "mono", "real", None)
    text = read(path)
    # Nothing of a task, nothing of another event.
    for word in ("secret", "-4242", "bash", "sched", "private", "y-12"):
        assert word not in text
    lines = text.splitlines()
    assert lines[3].rstrip() == lines[-1].partition("; lost by cpu")[0].rstrip()
    assert "events=5 lost=23 pointers=real" in lines[3]
    assert lines[-1].endswith("lost by cpu: cpu1=23")
    assert lines[4:-1] == [
        "task-1 [001] d..1. 1272.445108: percpu_free_percpu: base_addr=ffffe8ffffc00000 off=31200 ptr=000060795bb009e0",
        "task-1 [000] ..... 1303.276104: percpu_alloc_percpu: call_site=mm_init+0x2bf/0x4d0 reserved=0 is_atomic=0 "
        "size=16 align=8 base_addr=ffffe8ffffc00000 off=29160 ptr=000060795bb001e8 bytes_alloc=64 gfp_flags=GFP_KERNEL",
        "CPU:1 [LOST 23 EVENTS]",
        "task-1 [001] ..s2. 1303.276105: percpu_alloc_percpu_fail: reserved=0 is_atomic=1 size=64 align=8",
        "task-1 [003] d.h4. 1303.276106: percpu_create_chunk: base_addr=ffffe8ffffd00000",
        "task-1 [003] d.h4. 1303.276107: percpu_destroy_chunk: base_addr=ffffe8ffffd00000",
    ]
    trace = pc.read_trace(path)
    assert [row["kind"] for row in trace.rows() if row["kind"] != "lost"] == [
        "free",
        "alloc",
        "fail",
        "create",
        "destroy",
    ]
    assert trace.info["lost_events"] == 23


def test_how_the_instance_is_set_up(fake, tmp_path):
    record(fake, tmp_path / "a.txt", clock="counter", buffer_size=100_000)
    assert fake.options["events/percpu/enable"] == "1"
    assert fake.options["trace_options"] == "norecord-cmd"
    assert fake.options["options/hash-ptr"] == "0"
    assert fake.options["trace_clock"] == "counter"
    assert fake.options["buffer_size_kb"] == "98"
    assert fake.options["tracing_on"] == "0"


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_the_head_is_filled_in_whatever_the_form(fake, tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    record(fake, path)
    plain = tmp_path / "plain"
    record(fake, plain)
    without_times = [re.sub(r"seconds=\S+|started=\S+| +$", "", read(p), flags=re.M) for p in (path, plain)]
    assert without_times[0] == without_times[1]
    assert "# complete; seconds=" in read(path)
    assert len(pc.read_trace(path)) == NR_EVENTS + 1


def test_zstd(fake, tmp_path):
    zstandard = pytest.importorskip("zstandard")
    record(fake, tmp_path / "a.zst")
    with (tmp_path / "a.zst").open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read().decode()
    assert "# complete; seconds=" in text
    assert text.count(": percpu_") == NR_EVENTS


def test_an_open_file_gets_text(fake):
    out = io.BytesIO()
    capture = record(fake, out)
    assert capture.path is None
    assert "the result is in the last line" in out.getvalue().decode()
    assert out.getvalue().decode().splitlines()[-1].startswith("# complete; seconds=")


def test_lines_in_pieces():
    """However the text is cut, the same comes out."""
    for size in (1, 7, 100, 1 << 16):
        state, out = _State("x"), io.BytesIO()
        for at in range(0, len(fake_tracefs.LINES), size):
            state.add(fake_tracefs.LINES[at : at + size], out)
        state.flush(out)
        assert state.nr_events == NR_EVENTS
        if size == 1:
            first = out.getvalue()
        assert out.getvalue() == first


def test_statistics(fake, tmp_path):
    debugfs = tmp_path / "debug"
    debugfs.mkdir()
    capture = record(fake, tmp_path / "a.txt.gz", stats=True, debugfs=debugfs)
    assert capture.stats_paths == ()
    assert "CONFIG_PERCPU_STATS" in capture.notes[0]
    (debugfs / "percpu_stats").write_bytes(STATS.read_bytes())
    capture = record(fake, tmp_path / "a.txt.gz", stats=True, debugfs=debugfs)
    assert [Path(p).name for p in capture.stats_paths] == ["a.percpu_stats-a.txt", "a.percpu_stats-b.txt"]
    assert all(Path(p).read_bytes() == STATS.read_bytes() for p in capture.stats_paths)
    assert capture.unseen == {"nr_alloc": 0, "nr_dealloc": 0}


def test_events_that_never_were(fake, tmp_path, monkeypatch, capsys):
    """The kernel's counters say that areas were freed of which no event tells."""
    debugfs = tmp_path / "debug"
    debugfs.mkdir()
    text = STATS.read_text()
    freed = int(re.search(r"nr_dealloc +: +(\d+)", text)[1])
    reads = []

    def read_bytes(path):
        reads.append(path)
        return text.replace(f" {freed}\n", f" {freed + 4 * (len(reads) > 2)}\n").encode()

    (debugfs / "percpu_stats").write_text(text)
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    capture = record(fake, tmp_path / "a.txt", stats=True, debugfs=debugfs)
    # One of the four has an event.
    assert capture.unseen == {"nr_alloc": 0, "nr_dealloc": 3}
    reads.clear()
    where = ["--tracefs", str(fake.root), "--debugfs", str(debugfs), "-o", str(tmp_path / "b.txt")]
    assert main(["record", "--stats", "--seconds", "0.1", *where]) == 0
    assert "no event for at least 3 areas taken back\n" in capsys.readouterr().err


# -- the end, whatever it is -------------------------------------------------------------


def failing(monkeypatch, owner, name, number):
    """Let one call of a function fail like the kernel; return the calls made."""
    before, calls = getattr(owner, name), []

    def call(*arguments, **more):
        calls.append(arguments)
        if len(calls) == number:
            raise OSError(errno.EPERM, "Operation not permitted")
        return before(*arguments, **more)

    monkeypatch.setattr(owner, name, call)
    return calls


def test_no_instance(fake, tmp_path, monkeypatch):
    failing(monkeypatch, _tracefs.Tracefs, "make_instance", 1)
    with pytest.raises(pc.CaptureError, match=r"making the instance .*Operation not permitted; ") as caught:
        record(fake, tmp_path / "a")
    assert caught.value.errno == errno.EPERM
    assert pickle.loads(pickle.dumps(caught.value)).step == caught.value.step


@pytest.mark.parametrize("number", range(1, 30))
def test_a_failure_at_any_system_call_undoes_everything(fake, tmp_path, monkeypatch, number):
    """Opening, reading and writing, one after the other; the fixture compares the tree."""
    calls = []
    for name in ("open", "read", "write"):
        before = getattr(os, name)

        def call(first, *more, before=before, name=name, **named):
            mine = name != "open" or "percpu-" in str(first)
            if mine and Path(sys._getframe(1).f_code.co_filename).name in ("_tracefs.py", "record.py"):
                calls.append(name)
                if len(calls) == number:
                    raise OSError(errno.EIO, "Input/output error")
            return before(first, *more, **named)

        monkeypatch.setattr(os, name, call)
    error = None
    try:
        record(fake, tmp_path / "a", 0.02)
    except pc.CaptureError as caught:
        error = caught
    if error is None:
        # Past the last call, or at one that older kernels do not have.
        assert len(calls) < number or calls[number - 1] in ("open", "write")
    else:
        assert "Input/output error; nothing was left switched on" in str(error)
        assert error.errno == errno.EIO
        assert read(tmp_path / "a").splitlines()[-1].startswith("# broken off")
    monkeypatch.undo()


def test_the_head_says_when_it_broke_off(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(_tracefs.Instance, "lost", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        record(fake, tmp_path / "a")
    assert "# broken off; seconds=" in read(tmp_path / "a").splitlines()[3]


def test_a_file_that_cannot_be_written_is_noticed_first(fake, tmp_path, monkeypatch):
    made = failing(monkeypatch, _tracefs.Tracefs, "make_instance", 99)
    with pytest.raises(FileNotFoundError):
        record(fake, tmp_path / "none" / "a")
    with pytest.raises(pc.InvalidRequest, match=r"\.gz or \.zst"):
        record(fake, tmp_path / "a.xz")
    assert not made


def test_wrong_arguments(fake, tmp_path):
    for arguments, text in [
        ({"seconds": 0}, "seconds=0"),
        ({"seconds": float("nan")}, "seconds=nan"),
        ({"clock": "wall"}, "clock='wall': must be one of mono, "),
        ({"buffer_size": 1}, "buffer_size=1: must be from 4096"),
    ]:
        with pytest.raises(pc.InvalidRequest, match=re.escape(text)):
            record(fake, tmp_path / "a", **arguments)
    with pytest.raises(pc.CaptureError, match="is no tracefs"):
        pc.record(tmp_path / "a", 1, tracefs=tmp_path)


def test_ctrl_c_completes_the_file_and_is_raised(fake, tmp_path):
    threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
    handler = signal.getsignal(signal.SIGINT)
    began = time.monotonic()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):
            record(fake, tmp_path / "a", 60)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)
    assert time.monotonic() - began < 30
    assert "# complete; " in read(tmp_path / "a").splitlines()[3]


def test_stop_and_progress_from_another_thread(fake, tmp_path):
    stop, told, out = threading.Event(), [], []

    def work():
        out.append(record(fake, tmp_path / "a", None, stop=stop, progress=lambda *now: told.append(now)))

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 30
    while not told and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    thread.join(30)
    assert out[0].nr_events == NR_EVENTS
    assert told
    assert told[-1][1] == NR_EVENTS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_to_the_command(tmp_path, number):
    root, out = tmp_path / "tracing", tmp_path / "a.txt"
    FakeTracefs(root)
    program = [sys.executable, fake_tracefs.__file__, str(root), "-o", str(out), "--json"]
    before = FakeTracefs(root).tree()
    child = subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    # What was seen is brought to the file every second.
    deadline = time.monotonic() + 60
    while not (out.exists() and read(out).count(": percpu_") == NR_EVENTS) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(number)
    stdout, stderr = child.communicate(timeout=60)
    if number == signal.SIGKILL:
        left = [path.name for path in (root / "instances").iterdir()]
        assert left == [f"percpu-{child.pid}"]
        assert read(out).count(": percpu_") == NR_EVENTS
        assert "# not finished" in read(out)
        again = subprocess.run([*program, "--seconds", "0.1"], capture_output=True, text=True, check=True)
        assert json.loads(again.stdout)["removed"] == left
        removed, lost = again.stderr.splitlines()
        assert removed == f"percpu: removed {left[0]}, left behind by a recording that was killed"
        assert lost == "percpu: 23 events were lost (cpu 1: 23); a larger --buffer helps"
    else:
        assert child.returncode == (0 if number == signal.SIGINT else 143), stderr
        assert json.loads(stdout)["signal"] == number
        assert json.loads(stdout)["nr_events"] == NR_EVENTS
    assert FakeTracefs(root).tree() == before


def test_only_what_is_stale_is_removed(fake, tmp_path, monkeypatch):
    names = ["percpu-1", f"percpu-{os.getpid()}", "percpu-999999999", "other", "percpu-x"]
    for name in names:
        (fake.root / "instances" / name).mkdir()
    capture = record(fake, tmp_path / "a")
    # Process 1 lives; our own number is of a process before us, since we were not recording.
    assert set(capture.removed) == {f"percpu-{os.getpid()}", "percpu-999999999"}
    assert {p.name for p in (fake.root / "instances").iterdir()} == {"percpu-1", "other", "percpu-x"}
    # One that the kernel keeps, because it is open somewhere.
    (fake.root / "instances" / "percpu-999999999").mkdir()
    failing(monkeypatch, _tracefs.Tracefs, "remove_instance", 1)
    assert record(fake, tmp_path / "a").removed == ()
    for path in (fake.root / "instances").iterdir():
        path.rmdir()


# -- what to enable ----------------------------------------------------------------------


def test_advice(tmp_path, monkeypatch):
    error = OSError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "sudo" in str(_tracefs.refusal("x", error))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "CAP_SYS_ADMIN" in str(_tracefs.refusal("x", error))
    lockdown = tmp_path / "lockdown"
    lockdown.write_text("none integrity [confidentiality]\n")
    monkeypatch.setattr(_tracefs, "_LOCKDOWN", lockdown)
    assert "locked down" in str(_tracefs.refusal("x", error))
    assert "read-only" in str(_tracefs.refusal("x", OSError(errno.EROFS, "Read-only file system")))
    assert "--buffer" in str(_tracefs.refusal("x", OSError(errno.ENOMEM, "Cannot allocate memory")))
    assert "mount -t tracefs" in str(_tracefs.refusal("x", OSError(errno.ENOSYS, "Function not implemented")))


def test_nothing_there(tmp_path, monkeypatch):
    monkeypatch.setattr(_tracefs, "_mounts", lambda kind: iter([tmp_path / kind]))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for find in (_tracefs.Tracefs.find, lambda: pc.read_percpu_stats()):
        monkeypatch.setattr(_tracefs, "_known", lambda kind: True)
        with pytest.raises(pc.CaptureError, match=r"is not mounted: mount -t \w+ nodev /sys/kernel/.*--mount"):
            find()
        monkeypatch.setattr(_tracefs, "_known", lambda kind: False)
        with pytest.raises(pc.CaptureError, match=r"this kernel has no .*CONFIG_"):
            find()
    (tmp_path / "tracefs" / "instances").mkdir(parents=True)
    root = _tracefs.Tracefs.find()
    with pytest.raises(pc.CaptureError, match=r"no events percpu:\*: they exist since Linux 4\.13"):
        root.check_events()
    (tmp_path / "debugfs").mkdir()
    (tmp_path / "debugfs" / "other").touch()
    with pytest.raises(pc.CaptureError, match="CONFIG_PERCPU_STATS"):
        pc.read_percpu_stats()


def test_mounts_are_found_by_their_kind(monkeypatch):
    table = "a /x\\040y tracefs rw 0 0\nb /sys ext4 rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda self: table)
    places = [str(path) for path in _tracefs._mounts("tracefs")]
    assert places == ["/x y", "/sys/kernel/tracing", "/sys/kernel/debug/tracing"]


def test_a_recording_of_a_live_kernel():
    """Network namespaces under Linux 6.18: nothing illegal in it, and what is missing is what the kernel says it is."""
    at = ROOT / "tests/data/captures"
    trace = pc.read_trace(at / "record-netns.txt.gz")
    head = gzip.decompress((at / "record-netns.txt.gz").read_bytes()).decode().splitlines()[3]
    assert head.rstrip() == "# complete; seconds=9.028 events=2959 lost=0 pointers=real"
    assert len(trace) == 2959
    before, after = (pc.read_percpu_stats(at / f"record-netns.percpu_stats-{which}.txt") for which in "ab")
    result = pc.replay(trace, mode="follow", stats=before)
    assert result.summary["nr_illegal"] == 0
    # Areas that are handed out again, and were never freed: their frees have no event.
    assert result.summary["nr_missing_free"] == 2
    counted = after.totals["nr_dealloc"] - before.totals["nr_dealloc"]
    assert counted >= result.summary["nr_free"] + result.summary["nr_missing_free"]


def test_this_machine(tmp_path):
    """Whatever it allows: a recording, or a message that says what is missing."""
    instances = list(_instances())
    try:
        capture = pc.record(tmp_path / "a.txt", 0.5, stats=True, mount=True)
    except pc.CaptureError as error:
        assert re.search("sudo|CAP_|CONFIG_|mount|locked|older|read-only", str(error))  # noqa: PT017
        return
    assert len(pc.read_trace(tmp_path / "a.txt")) >= capture.nr_events
    assert set(_instances()) <= set(instances)
    assert all(pc.read_percpu_stats(path).totals["nr_alloc"] for path in capture.stats_paths)


def _instances():
    try:
        with _tracefs.detached_mount("tracefs") as root:
            yield from (p.name for p in (root / "instances").iterdir() if not _tracefs._alive(int(p.name[7:] or 1)))
    except (pc.CaptureError, ValueError):
        return


# -- the other way of recording ----------------------------------------------------------


def test_bpftrace_program(tmp_path, capsys):
    """Each `printf` prints what the reader reads: fill in values and read them."""
    assert main(["record", "--print-bpftrace"]) == 0
    program = capsys.readouterr().out
    assert program == pc.bpftrace_program()
    values = {
        "nsecs": "1000", "cpu": "1", "args->reserved": "0", "args->is_atomic": "1", "args->size": "16",
        "args->align": "8",
        "(uint64)args->base_addr": "ffffe8ffffc00000", "args->off": "31200", "(uint64)args->ptr": "60795bb009e0",
        "args->bytes_alloc": "64", "ksym(args->call_site)": "mm_init",
    }  # fmt: skip
    lines = ["Attaching 5 probes..."]
    for form, names in re.findall(r'printf\("(.*?)\\n", (.*?)\);', program, re.DOTALL):
        given = [values[name.strip()] for name in names.split(",")]
        forms = re.split(r"%(?:llu|llx|d|s)", form)
        assert len(forms) == len(given) + 1
        lines.append("".join(part for pair in zip(forms, [*given, ""], strict=True) for part in pair))
    (tmp_path / "a").write_text("\n".join(lines) + "\n")
    trace = pc.read_trace(tmp_path / "a")
    assert [row["kind"] for row in trace.rows()] == ["alloc", "fail", "free", "create", "destroy"]
    row = trace[0]
    assert (row["size_bytes"], row["align_bytes"], row["off_bytes"], row["alloc_bytes"]) == (16, 8, 31200, 64)
    assert (row["base_addr"], row["ptr"], row["call_site"]) == (0xFFFFE8FFFFC00000, 0x60795BB009E0, "mm_init")


def test_cli(fake, tmp_path, capfdbinary):
    path = tmp_path / "a.txt"
    assert main(["record", "--tracefs", str(fake.root), "-o", str(path), "--seconds", "0.1"]) == 0
    out, err = capfdbinary.readouterr()
    assert re.fullmatch(rf"5 events in \d+\.\d s, 23 lost -> {re.escape(str(path))}\n", out.decode())
    assert b"23 events were lost (cpu 1: 23)" in err
    assert main(["record"]) == 1
    assert capfdbinary.readouterr().err == b"percpu: -o FILE is needed\n"
    assert main(["record", "--tracefs", str(tmp_path), "-o", str(path), "--json"]) == 1
    assert json.loads(capfdbinary.readouterr().err)["error"] == "CaptureError"
