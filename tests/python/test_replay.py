"""Traces and replays; the recordings are those of the clone."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest

import percpu as pc

HEAD = "# tracer: nop\n#\n"
LINES = (
    "    task-1 [000] ..... 2.063686: percpu_alloc_percpu: call_site=f+0x1/0x2 reserved=0 is_atomic=0 size=48 align=16 "
    "base_addr=ffff88801f431000 off=0 ptr=0000000000036010 bytes_alloc=288 gfp_flags=GFP_KERNEL\n"
    "    task-1 [001] d.... 2.063754: percpu_free_percpu: base_addr=ffff88801f431000 off=0 ptr=0000000000036010\n"
)


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "trace.txt"
    path.write_text(HEAD + LINES)
    return pc.read_trace(path)


def load(run):
    meta = json.loads((run / "meta.json").read_text())
    names = ("trace-ext.txt.gz", "trace.txt.gz", "trace-cols.csv.gz")
    trace = next(run / name for name in names if (run / name).exists())
    kernel = "6.1" if meta["kernel"].startswith("6.1.") else "6.12"
    return (
        pc.read_trace(trace),
        pc.Allocator.from_state(run / "state-a.json.gz", kernel=kernel),
        run / "state-b.json.gz",
    )


def test_columns(small):
    assert len(small) == 2
    assert [row["kind"] for row in small.rows()] == ["alloc", "free"]
    assert small.ptr.dtype == np.uint64
    assert small.base_addr[0] == 0xFFFF88801F431000
    assert small.row(0)["size_bytes"] == 48
    assert small.row(1)["size_bytes"] is None
    assert small.row(0)["call_site"] == "f+0x1/0x2"
    frame = small.to_pandas()
    assert frame["ptr"].dtype == np.uint64
    assert frame["kind"].dtype == "category"


def test_trace_copies(small, tmp_path):
    for other in (pickle.loads(pickle.dumps(small)), small[:]):
        assert other == small
    assert len(small[1:]) == 1
    pytest.importorskip("pyarrow")
    path = tmp_path / "t.parquet"
    small.to_parquet(path)
    assert pc.read_trace(path) == small


@pytest.mark.parametrize(
    ("damage", "line"),
    [(("size=48", "size=x"), 3), (("off=0 ptr", "off=-9 ptr"), 3), (("base_addr=ffff", "base_addr=zz"), 3)],
)
def test_damaged_line_is_named(tmp_path, damage, line):
    path = tmp_path / "trace.txt"
    path.write_text(HEAD + LINES.replace(*damage, 1))
    with pytest.raises(pc.TraceError) as caught:
        pc.read_trace(path)
    assert caught.value.line == line
    assert damage[1].split()[0] in str(caught.value)
    assert "percpu_alloc_percpu" in caught.value.text


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        pc.read_trace(tmp_path / "nothing.txt")


def test_recordings_are_predicted(recordings):
    for run in recordings:
        trace, start, end = load(run)
        result = pc.replay(trace, start)
        assert result.first_divergence is None, run.name
        assert result.nr_diverged == 0
        assert result.nr_predicted == len(result)
        differences = start.differences(end)
        if run.name.startswith("boot"):  # nothing in the trace shows when late boot opened the gate
            differences = [line for line in differences if not line.startswith("async_enabled")]
        assert differences == [], run.name
        start.verify()


def test_result_of_a_replay(recordings):
    trace, start, _ = load(recordings[0])
    result = pc.replay(trace, copy.copy(start), sample_every=100)
    assert {"event", "ok", "chunk", "off_bytes", "predicted"} <= set(result)
    timeline = result.timeline
    assert (np.diff(timeline.event.astype(np.int64)) > 0).all()
    assert len(timeline) >= len(trace) // 100
    again = pickle.loads(pickle.dumps(result))
    assert again == result
    assert again.summary == result.summary
    assert pc.replay(trace, start, sample_every=100) == result


def test_a_divergence_is_reported(recordings):
    trace, start, _ = load(recordings[0])
    start.alloc(16)  # a state that is not the recorded one
    result = pc.replay(trace, start)
    assert result.nr_diverged > 0
    assert result.first_divergence["event"] < len(trace)


def test_wrong_arguments(small, allocator):
    with pytest.raises(TypeError):
        pc.replay("trace", allocator)
    with pytest.raises(TypeError):
        pc.replay(small, "allocator")
    with pytest.raises(pc.InvalidRequest, match="must be one of predict, rerun"):
        pc.replay(small, allocator, mode="guess")
    with pytest.raises(pc.InvalidRequest):
        pc.replay(small, allocator, sample_every=-1)


def test_a_wrong_start_is_explained(recordings):
    """The end state as start: requests may agree by chance, but chunks come and go that should not."""
    run = next(path for path in recordings if path.name == "cg-up")
    result = pc.replay(pc.read_trace(run / "trace.txt.gz"), pc.Allocator.from_state(run / "state-b.json.gz"))
    assert result.nr_diverged > 0
    assert result.first_divergence["text"].startswith(f"event {result.first_divergence['event']} ")
