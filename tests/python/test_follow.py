"""Following traces without a state, closed worlds, and going to any event; the recordings are those of the clone."""

from __future__ import annotations

import copy
import json
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import percpu as pc
from percpu.cli import main

from .conftest import RECORDINGS

CAPTURES = RECORDINGS.parent / "captures"
RUN = RECORDINGS / "drain-612-4cpu"
TRACE = RUN / "trace-ext.txt.gz"


@pytest.fixture(scope="module")
def trace():
    return pc.read_trace(TRACE)


@pytest.fixture
def start():
    return pc.Allocator.from_state(RUN / "state-a.json.gz")


@pytest.fixture(scope="module")
def followed(trace):
    return pc.replay(trace, mode="follow")


def naive_live(trace, events):
    """What the first events placed and did not free: size and event by place."""
    live = {}
    for index, row in enumerate(trace[:events].rows()):
        place = (row["base_addr"], row["off_bytes"])
        if row["kind"] == "alloc":
            live[place] = (row["size_bytes"], index)
        elif row["kind"] == "free":
            live.pop(place, None)
    return live


@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 1.0])
def test_live_areas_are_those_that_were_placed_and_not_freed(trace, followed, part):
    events = int(len(trace) * part)
    live = followed.live(events)
    found = {
        (row["base_addr"], row["off_bytes"]): (row["size_bytes"], row["alloc_event"])
        for row in live.rows()
        if not row["prior"]
    }
    assert found == naive_live(trace, events)
    assert (live.age_events[~live.prior] == events - 1 - live.alloc_event[~live.prior].astype(int)).all()
    assert live.attrs["event"] == events


def test_outcomes_and_totals(trace, followed):
    kinds = [row["kind"] for row in trace.rows()]
    outcomes = [row["outcome"] for row in followed.rows()]
    assert len(followed) == len(trace)
    for kind, outcome in (("alloc", "placed"), ("create", "created"), ("destroy", "destroyed"), ("fail", "failed")):
        assert kinds.count(kind) == outcomes.count(outcome)
    s = followed.summary
    assert s["nr_alloc"] == kinds.count("alloc")
    assert s["nr_illegal"] == 0
    assert followed.first_illegal is None
    assert s["live_bytes"] == followed.live().size_bytes.sum() == followed.chunks.live_bytes.sum()
    assert s["total_bytes"] == s["live_bytes"] + s["held_bytes"] + s["free_bytes"] + s["unknown_bytes"]
    assert s["unknown_share"] == s["unknown_bytes"] / s["total_bytes"]
    for number, chunk in enumerate(followed.chunks.rows()):
        cells = followed.cells(number)
        assert (cells == 2).sum() * s["granule"] == chunk["live_bytes"]
        assert (cells == 0).sum() * s["granule"] == chunk["unknown_bytes"]


def test_the_timeline_has_least_mean_and_largest(trace):
    r = pc.replay(trace, mode="follow", sample_every=500)
    t = r.timeline
    assert t.event[-1] == len(trace)
    assert (np.diff(t.event)[:-1] == 500).all()
    sizes = {}
    bytes_after = []
    now = 0
    for row in trace.rows():
        place = (row["base_addr"], row["off_bytes"])
        if row["kind"] == "alloc":
            sizes[place] = row["size_bytes"]
            now += row["size_bytes"]
        elif row["kind"] == "free":
            now -= sizes.pop(place, 0)
        bytes_after.append(now)
    for begin, sample in zip(range(0, len(trace), 500), t.rows(), strict=True):
        window = bytes_after[begin : begin + 500]
        assert (sample["min_live_bytes"], sample["max_live_bytes"]) == (min(window), max(window))
        assert sample["mean_live_bytes"] == pytest.approx(sum(window) / len(window))
        assert sample["live_bytes"] == window[-1]


@pytest.mark.parametrize("path", sorted(CAPTURES.glob("*.txt.gz")), ids=lambda path: path.name)
def test_live_captures_are_legal(path):
    trace = pc.read_trace(path)
    r = pc.replay(trace, mode="follow")
    assert r.summary["nr_illegal"] == 0
    assert r.summary["nr_alloc"] > 0
    live = r.live()
    assert len(live) >= r.summary["nr_live"]
    if r.summary["hashed"]:
        assert (r.chunks.base_addr < 2**32).all()
    assert r.summary["unit_size_inferred"]
    given = pc.replay(trace, mode="follow", unit_size=1 << 20)
    assert given.summary["unit_size"] == 1 << 20
    assert not given.summary["unit_size_inferred"]


def test_statistics_fix_the_totals():
    run = RECORDINGS / "cg-own-2+2"
    trace = pc.read_trace(run / "trace.txt.gz")
    start = pc.Allocator.from_state(run / "state-a.json.gz")
    objects = start.stats()["nr_cur_alloc"]
    text = (run / "percpu_stats-a.txt").read_text()
    r = pc.replay(trace, mode="follow", stats=text)
    assert r.summary["unseen_objects"] == objects - r.summary["nr_freed_prior"]
    assert r.summary["unseen_min_bytes"] <= r.summary["unseen_bytes"] <= r.summary["unseen_max_bytes"]
    for same in (run / "percpu_stats-a.txt", pc.read_percpu_stats(text)):
        assert pc.replay(trace, mode="follow", stats=same).summary == r.summary
    end = pc.replay(trace, mode="follow", stats_end=run / "percpu_stats-b.txt")
    assert end.summary["unseen_objects"] == r.summary["unseen_objects"]
    assert end.summary["unseen_min_bytes"] == end.summary["unseen_max_bytes"]
    bytes_at_end = end.summary["unseen_bytes"]
    assert r.summary["unseen_min_bytes"] <= bytes_at_end <= r.summary["unseen_max_bytes"]
    assert r.summary["held_bytes"] > 0
    with pytest.raises(pc.TraceError):
        pc.replay(trace, mode="follow", stats="no statistics\n")


def test_a_layout_tells_where_the_boot_area_lies():
    meta = json.loads((RUN / "meta.json").read_text())
    shown = meta["layout"]["pcpu_alloc"]
    layout = pc.FirstChunkLayout.build(
        static_size=shown["static"],
        reserved_size=shown["reserved"],
        dyn_size=shown["dyn"],
        atom_size=shown["atom"],
        topology=pc.Topology.from_nodes([4]),
    )
    r = pc.replay(pc.read_trace(RECORDINGS / "boot-612-4cpu" / "trace.txt.gz"), mode="follow", layout=layout)
    first = next(row for row in r.chunks.rows() if row["boot"])
    assert first["total_bytes"] == layout.first.size_bytes
    assert r.summary["unit_size"] == layout.unit_size
    with pytest.raises(pc.InvalidRequest, match="the layout has"):
        pc.replay(pc.read_trace(TRACE), mode="follow", layout=layout, unit_size=4096)


def test_blocks(trace, start):
    blocks = [trace[i : i + 1000] for i in range(0, len(trace), 1000)]
    whole = pc.replay(trace, mode="follow")
    r = pc.replay(iter(blocks), mode="follow")
    assert r.summary == whole.summary
    assert len(r) == 0
    order = np.lexsort((r.live().off_bytes, r.live().base_addr))
    other = np.lexsort((whole.live().off_bytes, whole.live().base_addr))
    for name in ("base_addr", "off_bytes", "size_bytes", "alloc_event"):
        assert (r.live()[name][order] == whole.live()[name][other]).all()
    with pytest.raises(pc.InvalidRequest):
        r.live(5)
    again, alike = start.copy(), start.copy()
    whole = pc.replay(trace, again, mode="rerun")
    r = pc.replay(blocks, alike, mode="rerun")
    assert r.summary == whole.summary
    assert again.differences(alike.snapshot()) == []
    with pytest.raises(pc.InvalidRequest, match="blocks"):
        r.at(1)
    with pytest.raises(pc.InvalidRequest, match="needs the whole trace"):
        pc.replay(blocks, start)
    with pytest.raises(TypeError, match="must yield Trace"):
        pc.replay(iter([1]), mode="follow")


def test_any_event_can_be_gone_to(trace, start):
    r = pc.replay(trace, start.copy())
    for event, text in trace.markers:
        state = RUN / f"state-{text.removeprefix('SNAPSHOT_').lower()}.json.gz"
        if state.exists():
            assert r.at(event).differences(state) == []
    assert r.at(0).differences(start.snapshot()) == []
    with pytest.raises(pc.InvalidRequest, match="event="):
        r.at(len(trace) + 1)
    alike = pickle.loads(pickle.dumps(r))
    assert alike == r
    with pytest.raises(pc.InvalidRequest, match="without its trace"):
        alike.at(0)


def test_forks(trace, start):
    r = pc.replay(trace, start.copy())
    middle = len(trace) // 2
    live = r.at(middle).stats()["nr_cur_alloc"]
    fork = r.fork(middle, engine="areamap")
    assert fork.summary["nr_carried"] == live
    assert fork.summary["first_event"] == middle
    assert (fork.event >= middle).all()
    fork.allocator.verify()
    small = r.fork(middle, unit_size=64 << 10)
    assert len(small.allocator.chunks) > len(fork.allocator.chunks)
    target = pc.Allocator(unit_size=1 << 20, nr_units=4)
    assert r.fork(middle, allocator=target).summary["nr_carried"] == live
    assert target.stats()["nr_cur_alloc"] == 0
    own = r.fork(middle)
    assert own.summary["nr_carried"] == 0
    again = own.fork(len(trace))
    assert again.allocator.differences(own.allocator.snapshot()) == []
    with pytest.raises(pc.InvalidRequest, match="excludes"):
        r.fork(middle, engine="areamap", allocator=target)


def test_differences_of_two_replays(trace, start):
    a = pc.replay(trace, start.copy())
    same = a.diff(pc.replay(trace, start.copy()))
    assert len(same) == 0
    assert same.attrs["nr_equal"] == same.attrs["nr_compared"] == len(a)
    assert same.attrs["first_event"] is None
    runs = [
        pc.replay(trace, pc.Allocator(unit_size=1 << 20, nr_units=4, engine=engine), mode="rerun")
        for engine in ("linux-5.14", "areamap")
    ]
    d = runs[0].diff(runs[1])
    first, second = (
        dict(zip(run.event.tolist(), zip(run.ok, run.unit_off_bytes, strict=True), strict=True)) for run in runs
    )
    expected = [e for e, (ok, off) in first.items() if ok != second[e][0] or (ok and off != second[e][1])]
    assert d.event.tolist() == expected
    assert d.attrs["nr_different"] == len(expected) > 0
    assert d.attrs["first_event"] == expected[0]
    assert d.attrs["compared"] == "unit_off_bytes"
    assert a.diff(runs[0]).attrs["nr_compared"] == len(a)
    with pytest.raises(TypeError):
        a.diff(trace)


def test_a_closed_world_needs_no_state():
    trace = pc.read_trace(CAPTURES / "ftrace-hashed.txt.gz")
    r = pc.replay(trace, mode="closed_world", unit_size=1 << 20)
    assert isinstance(r, pc.Replay)
    assert r.nr_predicted >= 0.99 * len(r)
    r.at(0).verify()
    with pytest.raises(pc.InvalidRequest, match="unit_size=None"):
        pc.replay(trace, mode="closed_world")
    with pytest.raises(pc.TraceError, match="outside a unit"):
        pc.replay(trace, mode="closed_world", unit_size=64 << 10)
    with pytest.raises(pc.TraceError, match="not an engine of 4"):
        pc.replay(trace, mode="closed_world", unit_size=1 << 20, kernel="4.13")


def test_wrong_arguments(trace, start):
    with pytest.raises(TypeError, match="need none"):
        pc.replay(trace)
    with pytest.raises(pc.InvalidRequest, match="takes none"):
        pc.replay(trace, start, mode="follow")
    with pytest.raises(pc.InvalidRequest, match="does not take it"):
        pc.replay(trace, start, unit_size=4096)
    with pytest.raises(pc.InvalidRequest, match="granule=65"):
        pc.replay(trace, mode="follow", granule=65)
    with pytest.raises(pc.TraceError, match="granule=3"):
        pc.replay(trace, mode="follow", granule=3)
    with pytest.raises(TypeError):
        pc.Follow()
    with pytest.raises(TypeError):
        pc.replay(3, mode="follow")
    with pytest.raises(TypeError):
        pc.replay(str(TRACE), mode="follow")


@pytest.mark.parametrize("mode", ["predict", "rerun", "follow"])
def test_progress_and_its_exceptions(trace, start, mode):
    told = []
    allocator = None if mode == "follow" else start.copy()
    pc.replay(trace, allocator, mode=mode, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == len(trace)

    def stop(events):
        raise RuntimeError("enough")

    before = start.snapshot()
    with pytest.raises(RuntimeError, match="enough"):
        pc.replay(trace, None if mode == "follow" else start, mode=mode, progress=stop)
    assert start.snapshot() == before


@pytest.fixture(scope="module")
def million():
    run = RECORDINGS / "million-612-2cpu"
    return pc.read_trace(run / "trace-cols.csv.gz"), pc.Allocator.from_state(run / "state-a.json.gz")


@pytest.mark.parametrize("mode", ["predict", "rerun", "follow"])
def test_an_interrupt_stops_it_and_leaves_the_allocator(million, mode):
    trace, start = million
    allocator = None if mode == "follow" else start.copy()

    def handler(*_):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(KeyboardInterrupt):
            pc.replay(trace, allocator, mode=mode)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    if allocator is not None:
        assert allocator.snapshot() == start.snapshot()


def test_other_threads_run_meanwhile(million):
    trace, _ = million
    stop = threading.Event()
    turns = 0

    def count():
        nonlocal turns
        while not stop.is_set():
            turns += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=count)
    thread.start()
    before = turns
    pc.replay(trace, mode="follow")
    during = turns - before
    stop.set()
    thread.join()
    assert during > 2


def test_a_copy_of_what_was_followed(followed):
    alike = pickle.loads(pickle.dumps(followed))
    assert alike == followed
    assert alike.summary == followed.summary
    assert alike.chunks == followed.chunks
    assert copy.copy(alike) == followed
    assert "live areas" in repr(followed)


def run(capsys, *arguments):
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_command(capsys, tmp_path):
    code, out, _ = run(capsys, "replay", str(TRACE), "--follow", "--json", "--timeline")
    report = json.loads(out)
    r = pc.replay(pc.read_trace(TRACE), mode="follow")
    assert code == 0
    assert report["live_bytes"] == r.summary["live_bytes"]
    assert len(report["live"]) == len(r.live())
    assert len(report["timeline"]) == len(r.timeline)
    code, out, _ = run(capsys, "replay", str(TRACE), "--follow", "--at", "20000")
    assert code == 0
    assert "live after 20,000 events" in out
    assert "pw_" in out or "pclab" in out
    hashed = str(CAPTURES / "ftrace-hashed.txt.gz")
    code, out, _ = run(capsys, "replay", hashed, "--closed-world", "--unit-size", "1M", "--json")
    assert json.loads(out)["nr_predicted"] > 1200
    code, out, _ = run(capsys, "replay", str(TRACE), "--follow", "--stream", "--json")
    streamed = json.loads(out)
    assert len(streamed.pop("live")) == len(report.pop("live"))
    assert streamed == {name: value for name, value in report.items() if name != "timeline"}
    code, _, err = run(capsys, "replay", hashed, "--closed-world", "--stream")
    assert (code, err.count("\n")) == (1, 1)
    code, _, err = run(capsys, "replay", hashed, "--closed-world")
    assert (code, err) == (1, "percpu: --closed-world needs --unit-size or --stats\n")
    with (CAPTURES / "bpftrace.txt.gz").open("rb") as file:
        command = [sys.executable, "-m", "percpu.cli", "replay", "-", "--follow", "--json"]
        done = subprocess.run(command, stdin=file, capture_output=True, check=True)
    assert json.loads(done.stdout)["nr_events"] == len(pc.read_trace(CAPTURES / "bpftrace.txt.gz"))
    pytest.importorskip("matplotlib").use("Agg")
    picture = tmp_path / "follow.png"
    assert run(capsys, "replay", str(TRACE), "--follow", "--plot", str(picture))[0] == 0
    assert picture.stat().st_size > 5000


def test_command_names_the_file_that_is_wrong(capsys, tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_text("# tracer: nop\n task-1 [000] ..... 1.000001: percpu_create_chunk: base_addr=zz\n")
    code, _, err = run(capsys, "replay", str(bad), "--follow")
    assert code == 1
    assert err.startswith(f"percpu: {bad}: ")
    assert "line 2" in err
    code, _, err = run(capsys, "replay", str(TRACE), "--state", str(bad))
    assert code == 1
    assert str(bad) in err
    code, _, err = run(capsys, "replay", str(TRACE), "--follow", "--stats", str(bad))
    assert code == 1
    assert str(bad) in err
