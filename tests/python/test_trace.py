"""Traces in Python: parts, joins, anonymous ones, summaries, Parquet, streams."""

from __future__ import annotations

import gzip
import io
import itertools
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

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import percpu as pc

ROOT = Path(__file__).parents[2]
RECORDINGS = ROOT / "tests" / "data" / "recordings"
CAPTURES = ROOT / "tests" / "data" / "captures"
FILES = sorted([*RECORDINGS.glob("*/trace*.gz"), *CAPTURES.glob("*.gz")])
SMALL = [path for path in FILES if "million" not in str(path)]
DRAIN = RECORDINGS / "drain-612-4cpu" / "trace-ext.txt.gz"
NETNS = RECORDINGS / "netns-612-3+1" / "trace.txt.gz"
ALLOC = (
    "task-1 [{cpu:03d}] ..... {time}: percpu_alloc_percpu: call_site={site} reserved=0 is_atomic=0 size={size} align=8 "
    "base_addr={base:016x} off={off} ptr={ptr:016x} bytes_alloc={charged} gfp_flags=GFP_KERNEL\n"
)
FREE = "task-1 [{cpu:03d}] d..1. {time}: percpu_free_percpu: base_addr={base:016x} off={off} ptr={ptr:016x}\n"
BASE = 0xFFFFE8FFFFC00000


def alloc(time, off, site="f+0x1/0x2", size=8, cpu=0, base=BASE):
    ptr = (base + off - BASE + 0x1000) % 2**64
    return ALLOC.format(cpu=cpu, time=time, site=site, size=size, base=base, off=off, ptr=ptr, charged=2 * size)


def free(time, off, cpu=0, base=BASE):
    return FREE.format(cpu=cpu, time=time, base=base, off=off, ptr=(base + off - BASE + 0x1000) % 2**64)


def read(text, **options):
    return pc.read_trace(io.BytesIO(text.encode() if isinstance(text, str) else text), **options)


# -- sources -----------------------------------------------------------------------------


def test_the_same_from_a_path_a_file_and_standard_input():
    whole = pc.read_trace(NETNS)
    assert whole.info["format"] == "ftrace"
    with NETNS.open("rb") as file:
        assert pc.read_trace(file) == whole
    assert read(gzip.decompress(NETNS.read_bytes())) == whole
    code = "import percpu as pc; t = pc.read_trace('-'); print(len(t), t.info['format'])"
    with NETNS.open("rb") as file:
        out = subprocess.run([sys.executable, "-c", code], stdin=file, capture_output=True, text=True, check=True)
    assert out.stdout.split() == [str(len(whole)), "ftrace"]


def test_formats_are_named():
    paths = list(CAPTURES.glob("*.gz"))
    assert len(paths) >= 4
    for path in paths:
        kind = path.name.partition("-")[0].partition(".")[0]
        expected = kind if kind in ("perf", "bpftrace") else "ftrace"
        assert pc.read_trace(path).info["format"] == expected, path
    million = pc.read_trace(RECORDINGS / "million-612-2cpu" / "trace-cols.csv.gz")
    assert million.info["format"] == "columns"
    assert million.info["clock"] == "counter"


@pytest.mark.parametrize("events", [1, 7, 1000, 10**6])
def test_blocks_are_the_whole(events):
    for path in (NETNS, CAPTURES / "bpftrace.txt.gz", CAPTURES / "ftrace-hashed.txt.gz"):
        whole = pc.read_trace(path)
        blocks = list(itertools.islice(pc.iter_trace(path, events=events), 10**6))
        assert pc.Trace.concatenate(blocks) == whole
        assert max(len(block) for block in blocks) <= events


def test_a_stream_has_one_dictionary():
    blocks = list(pc.iter_trace(NETNS, events=500))
    longest = blocks[-1]._core.call_sites()
    assert len(blocks) > 3
    for block in blocks:
        sites = block._core.call_sites()
        assert sites == longest[: len(sites)]


def test_memory_of_a_stream_does_not_grow(tmp_path):
    """Forty times the text, not twice the memory."""
    text = gzip.decompress(NETNS.read_bytes())
    for name, copies in (("one", 3), ("many", 120)):
        (tmp_path / name).write_bytes(text * copies)
    code = (
        "import resource, sys, percpu as pc\n"
        "n = sum(len(b) for b in pc.iter_trace(sys.argv[1], events=4096))\n"
        "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    sizes = {}
    for name in ("one", "many"):
        out = subprocess.run([sys.executable, "-c", code, tmp_path / name], capture_output=True, text=True, check=True)
        sizes[name] = [int(word) for word in out.stdout.split()]
    assert sizes["many"][0] == 40 * sizes["one"][0]
    assert sizes["many"][1] - sizes["one"][1] < 20_000  # KiB; the text is 70 MB longer


@pytest.mark.parametrize(
    ("head", "advice"),
    [
        (b"\x17\x08Dtracing6\0", "trace-cmd report"),
        (b"PERFILE2h\0", "perf script"),
        (b"\xfd7zXZ\0\0", "xz -d"),
        (b"SQLite format 3\0", "SQLite"),
        (b"\x7fELF\x02", "not the text"),
        (b'{"chunks": []}', "state"),
        (b"\0\0\0\0\0\0\0\0", "binary"),
    ],
)
def test_binary_input_is_answered_with_what_to_do(tmp_path, head, advice):
    path = tmp_path / "capture.dat"
    for data in (head + bytes(range(1, 200)), gzip.compress(head + bytes(range(1, 200)))):
        path.write_bytes(data)
        with pytest.raises(pc.TraceError, match=advice) as caught:
            pc.read_trace(path)
        assert caught.value.path == str(path)
        assert str(path) in str(caught.value)


def test_an_error_names_file_line_and_text(tmp_path):
    path = tmp_path / "trace.txt"
    path.write_text(alloc("1.000001", 8) + "\n" + free("1.000002", 8).replace("off=8", "off=x"))
    with pytest.raises(pc.TraceError) as caught:
        pc.read_trace(path)
    error = caught.value
    assert (error.path, error.line) == (str(path), 3)
    assert "off=x" in error.text
    assert str(error).startswith(f"{path}: line 3: off=x is not a number")
    again = pickle.loads(pickle.dumps(error))
    assert (again.path, again.line, again.text) == (error.path, error.line, error.text)


def test_damage_is_counted_where_that_is_allowed(tmp_path):
    good = alloc("1.000001", 8) + free("1.000002", 8)
    bad = free("1.000003", 8).replace("off=8", "off=x") + "x" * (2 << 20) + "\n" + "percpu_free_percpu: \n"
    trace = read(good + bad + good, strict=False)
    assert trace == read(good + good)
    assert trace.info["damaged_lines"] == 3
    assert trace.info["first_damage"].startswith("line 3: off=x")
    # A file that is cut off.
    data = DRAIN.read_bytes()
    path = tmp_path / "cut.gz"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(pc.TraceError, match="line"):
        pc.read_trace(path)
    part, whole = pc.read_trace(path, strict=False), pc.read_trace(DRAIN)
    assert 0 < len(part) < len(whole)
    assert part == whole[: len(part)]
    assert part.info["damaged_lines"] in (1, 2)


def test_max_events():
    for options in ({}, {"strict": False}):
        with pytest.raises(pc.TraceError, match="max_events=10: there are"):
            pc.read_trace(NETNS, max_events=10, **options)
        with pytest.raises(pc.TraceError, match="max_events=10: there are"):
            list(pc.iter_trace(NETNS, max_events=10, events=3, **options))
    assert len(read(alloc("1.000001", 8), max_events=1)) == 1
    hostile = '# bases ["0x1000"]\n# gfp []\nf,0,0,8\n*,4000000000,0\n'
    with pytest.raises(pc.TraceError, match="max_events=67108864"):
        read(hostile)
    total = 0
    for block in pc.iter_trace(io.BytesIO(hostile.encode()), events=1 << 16):
        total += len(block)
        assert len(block) <= 1 << 16
        if total > 1 << 20:
            break
    with pytest.raises(pc.InvalidRequest, match="max_events"):
        pc.read_trace(NETNS, max_events=-1)


def test_file_objects_have_to_give_bytes(tmp_path):
    with pytest.raises(TypeError, match="binary mode"):
        pc.read_trace(io.StringIO("x"))

    class Broken:
        name = "broken"

        def read(self, n):
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        pc.read_trace(Broken())
    with pytest.raises(FileNotFoundError):
        pc.read_trace(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        list(pc.iter_trace(tmp_path / "none"))


def test_ctrl_c_stops_reading():
    line = alloc("1.000001", 8).encode()

    class Endless:
        def read(self, n):
            return (line * (n // len(line) + 1))[: n // len(line) * len(line)]

    def interrupt():
        time.sleep(0.3)
        begun.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    begun: list[float] = []
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            pc.read_trace(Endless())
    finally:
        thread.join()
        signal.signal(signal.SIGINT, old)
    assert begun


# -- parts -------------------------------------------------------------------------------


def test_parts_are_traces():
    trace = pc.read_trace(DRAIN)
    mask = trace["kind"] == 0
    picked = trace[mask]
    assert isinstance(picked, pc.Trace)
    assert len(picked) == mask.sum()
    assert np.array_equal(picked.off_bytes, trace.off_bytes[mask])
    assert trace[np.flatnonzero(mask)] == picked
    assert trace[::2].row(5) == trace.row(10)
    assert trace[[-1]].row(0) == trace.row(len(trace) - 1)
    assert trace[10:20] == trace[np.arange(10, 20)]
    assert len(trace[[]]) == 0
    assert [row["kind"] for row in trace[::-1][:3].rows()] == [
        row["kind"] for row in (trace.row(-1), trace.row(-2), trace.row(-3))
    ]
    for key, message in (
        ([len(trace)], "of"),
        (mask[:-1], "mask"),
        (np.zeros((2, 2)), "dimension"),
        ([0.5], "integers"),
    ):
        with pytest.raises(IndexError, match=message):
            trace[key]


def test_by_call_site_takes_the_frees_along():
    text = (
        alloc("1.000001", 8, "mine+0x1/0x2 [mod]")
        + alloc("1.000002", 16, "other+0x1/0x2")
        + free("1.000003", 8)
        + free("1.000004", 16)
        + alloc("1.000005", 8, "other+0x1/0x2")
        + free("1.000006", 8)
        + free("1.000007", 32)
    )
    trace = read(text)
    assert list(trace.by_call_site("mine").line) == [1, 3]
    assert list(trace.by_call_site("oth*").line) == [2, 4, 5, 6]
    assert trace.by_call_site(re.compile(r"\[mod\]")) == trace.by_call_site("mine+0x1/0x2 [mod]")
    assert len(trace.by_call_site("in")) == 0
    old = "x-1 [000] .... 1.0: percpu_alloc_percpu: reserved=0 is_atomic=0 size=8 align=8 "
    old += "base_addr=(ptrval) off=8 ptr=(ptrval)"
    with pytest.raises(pc.TraceError, match=r"5\.19"):
        read(old).by_call_site("x")
    with pytest.raises(TypeError, match="pattern"):
        trace.by_call_site(3)


def test_within_a_stretch_of_time():
    trace = pc.read_trace(NETNS)
    times = trace.time_ns
    middle = int(times[len(times) // 2])
    before, after = trace.within(end_ns=middle), trace.within(middle)
    assert len(before) + len(after) == len(trace)
    assert before.time_ns.max() < middle <= after.time_ns.min()


def test_merge_is_by_time_and_stable():
    trace = pc.read_trace(NETNS)
    order = np.argsort(trace.time_ns, kind="stable")
    ordered = trace[order]
    parts = [ordered[ordered.cpu == cpu] for cpu in np.unique(trace.cpu)]
    assert len(parts) > 1
    merged = pc.Trace.merge(parts)
    assert sorted(map(str, merged.rows())) == sorted(str({**row, "line": 0}) for row in trace.rows())
    assert np.all(np.diff(merged.time_ns.astype(np.int64)) >= 0)
    for cpu, part in zip(np.unique(trace.cpu), parts, strict=True):
        assert merged[merged.cpu == cpu] == part
    same = alloc("1.000001", 8), alloc("1.000001", 16, cpu=1)
    assert list(pc.Trace.merge([read(same[1]), read(same[0])]).off_bytes) == [16, 8]
    assert len(pc.Trace.merge([])) == 0
    counter = read(alloc("12", 8))
    hashed = read(alloc("1.000001", 8).replace(f"{BASE:016x}", "00000000508b7243"))
    for other in (counter, hashed):
        with pytest.raises(pc.TraceError, match=r"traces\[1\]"):
            pc.Trace.merge([read(same[0]), other])
    with pytest.raises(TypeError, match=r"traces\[0\]"):
        pc.Trace.merge(["x"])


# -- anonymous ---------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["drain-612-4cpu", "cg-up", "netns-612-3+1", "cg-own-2+2", "reserved-612"])
def test_an_anonymous_trace_replays_to_the_same_places(run):
    directory = RECORDINGS / run
    path = next(p for name in ("trace-ext", "trace") if (p := directory / f"{name}.txt.gz").exists())
    trace = pc.read_trace(path)
    before = pc.replay(trace, pc.Allocator.from_state(directory / "state-a.json.gz"))
    hidden, state = trace.anonymise(7, state=directory / "state-a.json.gz")
    assert not set(hidden.base_addr[~hidden.missing("base_addr")]) & set(trace.base_addr[~trace.missing("base_addr")])
    after = pc.replay(hidden, pc.Allocator.from_state(state))
    assert after.summary == before.summary
    assert after == before
    # Without a state, on any engine.
    for seed in (1, 2):
        rerun = [
            pc.replay(t, pc.Allocator.from_state(directory / "state-a.json.gz"), mode="rerun")
            for t in (trace, trace.anonymise(seed))
        ]
        assert rerun[0] == rerun[1]


def test_what_an_anonymous_trace_keeps():
    trace = pc.read_trace(DRAIN)
    hidden = trace.anonymise(3)
    assert hidden == trace.anonymise(3)
    assert hidden != trace.anonymise(4)
    for name in ("kind", "cpu", "time_ns", "size_bytes", "align_bytes", "off_bytes", "alloc_bytes", "first_page"):
        assert np.array_equal(hidden[name], trace[name])
        assert np.array_equal(hidden.missing(name), trace.missing(name))
    known = ~trace.missing("base_addr")
    old, new = trace.base_addr[known], hidden.base_addr[known]
    pairs = dict(zip(old.tolist(), new.tolist(), strict=True))
    assert len(set(pairs.values())) == len(pairs)
    assert all(a % (2 << 20) == b % (2 << 20) for a, b in pairs.items())
    assert np.array_equal(pc.Trace.concatenate([hidden])["base_addr"], hidden.base_addr)
    # Order of chunks: not kept by every seed.
    first = np.unique(trace.base_addr[known], return_index=True)[1]
    orders = {tuple(np.argsort(trace.anonymise(seed).base_addr[known][first])) for seed in range(6)}
    assert len(orders) > 1
    both = known & ~trace.missing("ptr")
    with np.errstate(over="ignore"):
        distance = hidden.base_addr[both] + hidden.off_bytes[both] - hidden.ptr[both]
    assert len(np.unique(distance)) == 1


def test_an_anonymous_trace_hides_what_is_asked_for():
    text = alloc("1.000001", 8, "secret_function+0x1/0x2 [secret_module]") + free("1.000002", 8).replace(
        "off=8", "off=8 host=secret"
    )
    text += "task-1 [000] ..... 1.000003: tracing_mark_write: secret words\n"
    text += "task-1 [000] ..... 1.000004: tracing_mark_write: SNAPSHOT_M1\n"
    trace = read(text)
    hidden = trace.anonymise(1, call_sites=True, times=True)
    everything = str(list(hidden.rows())) + str(hidden.markers) + str(hidden.info) + str(hidden.extra_fields)
    assert "secret" not in everything
    assert hidden.markers == [(2, "MARKER_1"), (3, "SNAPSHOT_M1")]
    assert (hidden.info["clock"], list(hidden.time_ns)) == ("counter", [0, 1, 2, 3])
    assert "secret_function" in str(list(trace.anonymise(1).rows()))


def test_hashed_pointers_stay_identities():
    trace = pc.read_trace(CAPTURES / "ftrace-hashed.txt.gz")
    hidden = trace.anonymise(5)
    assert hidden.info["hashed"]
    for name in ("base_addr", "ptr"):
        pairs = set(zip(trace[name].tolist(), hidden[name].tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        assert max(b for _, b in pairs) < 2**32


# -- numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", SMALL, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_summary_agrees_with_a_slow_count(path):
    trace = pc.read_trace(path)
    summary = trace.summary()
    live: dict[tuple[int, int], tuple[str, int]] = {}
    requested: dict[str, int] = {}
    unseen = 0
    for row in trace.rows():
        place = (row["base_addr"], row["off_bytes"])
        if row["kind"] == "alloc":
            live[place] = (row["call_site"], row["size_bytes"])
            requested[row["call_site"]] = requested.get(row["call_site"], 0) + row["size_bytes"]
        elif row["kind"] == "free":
            unseen += live.pop(place, None) is None
    kinds, counts = np.unique(trace.kind, return_counts=True)
    assert np.array_equal(summary.kind, kinds)
    assert np.array_equal(summary.nr_events, counts)
    assert summary.totals["nr_live"] == len(live)
    assert summary.totals["live_bytes"] == sum(size for _, size in live.values())
    assert summary.totals["nr_unseen_free"] == unseen
    assert {row["call_site"]: row["requested_bytes"] for row in summary.call_sites.rows()} == requested
    assert list(summary.call_sites.requested_bytes) == sorted(requested.values(), reverse=True)
    assert summary.cpus.nr_events.sum() == len(trace)
    blocks = pc._core.TraceSummary()
    for block in pc.iter_trace(path, events=100):
        blocks.add(block._core)
    assert pc.TraceSummary._wrap(blocks).totals == summary.totals
    assert pc.TraceSummary._wrap(blocks).call_sites == summary.call_sites
    again = pickle.loads(pickle.dumps(summary))
    assert again == summary
    assert again.totals == summary.totals
    assert again.call_sites == summary.call_sites


def test_a_summary_tells_losses_and_rates():
    text = (
        "# entries-in-buffer/entries-written: 3/10   #P:2\n"
        + alloc("1.000000", 8, size=16)
        + "CPU:1 [LOST 12 EVENTS]\n"
        + alloc("2.000000", 8, size=24, cpu=1)
        + free("3.000000", 8)
        + "x-1 [000] ..... 3.0: sched_switch: a=b\n"
    )
    trace = read(text)
    assert trace.info["lost_events"] == 12
    summary = trace.summary()
    totals = summary.totals
    assert (totals["lost_events"], totals["nr_losses"], totals["overwritten_events"]) == (12, 1, 7)
    assert (totals["span_seconds"], totals["nr_events"], totals["skipped_lines"]) == (2.0, 3, 1)
    assert (totals["nr_live"], totals["peak_live_bytes"]) == (0, 24)
    rows = {row["kind"]: row for row in summary.rows()}
    assert rows["alloc"]["rate_per_second"] == 1.0
    assert rows["alloc"]["bytes"] == 40
    assert rows["free"]["bytes"] == 24
    assert rows["lost"]["first_ns"] is None
    assert [row["nr_lost"] for row in summary.cpus.rows()] == [0, 12]
    untimed = read(alloc("12", 8)).summary()
    assert untimed.totals["span_seconds"] is None
    assert untimed.row(0)["rate_per_second"] is None


# -- files -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SMALL, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_every_form_that_is_written_reads_back(path, tmp_path):
    trace = pc.read_trace(path)
    for name in ("t.parquet", "t.txt", "t.txt.gz", "t.txt.zst"):
        out = tmp_path / name
        (trace.to_parquet if name.endswith("parquet") else trace.to_text)(out)
        again = pc.read_trace(out)
        assert again == trace
        assert again.markers == trace.markers
    assert pickle.loads(pickle.dumps(trace)) == trace
    back = pc.read_trace(tmp_path / "t.parquet")
    assert back.info == trace.info
    assert np.array_equal(back.line, trace.line)


def test_parquet_in_blocks_and_its_metadata(tmp_path):
    import pyarrow.parquet as pq

    path = tmp_path / "trace"  # recognised by content
    trace = pc.read_trace(NETNS)
    layout = pc.FirstChunkLayout.build(static_size=4096, dyn_size=28_672, topology=pc.Topology.from_nodes([2]))
    trace.to_parquet(path, geometry=layout)
    again = pc.read_trace(path)
    assert again.geometry["unit_size"] == layout.unit_size
    assert again[3:5].geometry == again.geometry
    meta = json.loads(pq.read_metadata(path).metadata[b"percpu.trace"])
    assert (meta["schema"], meta["format"], meta["clock"]) == (1, "ftrace", "microseconds")
    field = pq.read_schema(path).field("size_bytes")
    assert field.metadata[b"unit"] == b"bytes for each CPU"
    assert str(pq.read_schema(path).field("call_site").type).startswith("dictionary")
    for events in (7, 1000, 10**6):
        blocks = list(pc.iter_trace(path, events=events))
        assert pc.Trace.concatenate(blocks) == trace
        assert all(block._core.call_sites() == blocks[0]._core.call_sites() for block in blocks)
    with pytest.raises(pc.TraceError, match="max_events=5"):
        pc.read_trace(path, max_events=5)
    with pytest.raises(pc.TraceError, match="max_events=5"):
        list(pc.iter_trace(path, max_events=5, events=2))
    with pytest.raises(pc.InvalidRequest, match="geometry"):
        trace.to_parquet(path, geometry={"x": object()})


def test_parquet_that_is_no_trace_or_newer(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(pc.TraceError, match=r"percpu\.trace"):
        pc.read_trace(path)
    trace = read(alloc("1.000001", 8) + free("1.000002", 8))
    trace.to_parquet(path)
    table, meta = pq.read_table(path), json.loads(pq.read_metadata(path).metadata[b"percpu.trace"])

    def write(table=table, **changes):
        facts = {name: value for name, value in {**meta, **changes}.items() if value != "absent"}
        pq.write_table(table.replace_schema_metadata({b"percpu.trace": json.dumps(facts).encode()}), path)

    write()
    assert pc.read_trace(path) == trace
    cases = [
        ({"schema": 2}, "schema version 2"),
        ({"schema": "x"}, "cannot be read"),
        ({"hashed": "absent"}, "cannot be read"),
        ({"clock": "sundial"}, "no such clock"),
        ({"schema": float("inf")}, "cannot be read"),
        ({"skipped_lines": float("inf")}, "cannot be read"),
        ({"damaged_lines": -1}, "damaged_lines=-1: must be from 0"),
        ({"overwritten_events": 1 << 64}, "overwritten_events=18446744073709551616: must be from 0"),
        ({"geometry": 3}, "geometry must be an object"),
        ({"table": table.drop_columns(["off_bytes"])}, "'off_bytes' is missing"),
        ({"table": table.set_column(0, "kind", pa.array(["alloc", "party"]))}, "'kind'"),
        ({"table": table.set_column(9, "off_bytes", pa.array([-1, 8]))}, "'off_bytes'"),
        ({"table": table.set_column(9, "off_bytes", pa.array([1 << 40, 8], pa.uint64()))}, "off="),
        ({"table": table.set_column(16, "call_site", pa.array(["a\nb", None]))}, "line breaks"),
        ({"table": table.set_column(19, "extra_fields", pa.array(["off=3", None]))}, "extra_fields"),
    ]
    for changes, message in cases:
        write(**changes)
        with pytest.raises(pc.TraceError, match=message):
            pc.read_trace(path)
    deep = {b"percpu.trace": b"[" * 100_000}
    pq.write_table(table.replace_schema_metadata(deep), path)
    with pytest.raises(pc.TraceError, match="cannot be read"):
        pc.read_trace(path)
    data = path.read_bytes()
    for cut in (4, 100, len(data) - 9):
        path.write_bytes(data[:cut])
        with pytest.raises(pc.TraceError, match="Parquet"):
            pc.read_trace(path)


def test_unknown_fields_survive(tmp_path):
    trace = read(free("1.000001", 8).replace("off=8", "off=8 node=1 who=f+0x1 [mod]"))
    assert trace.extra_fields == [(0, "node=1 who=f+0x1 [mod]")]
    trace.to_parquet(tmp_path / "t.parquet")
    for again in (pc.read_trace(tmp_path / "t.parquet"), pickle.loads(pickle.dumps(trace)), trace[[0]]):
        assert again == trace
        assert again.extra_fields == trace.extra_fields


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["alloc", "free", "lost", "marker", "create", "fail", "other"]),
        st.integers(0, 2**31 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 63),
        st.sampled_from(["f+0x1/0x2", "g+0x3/0x4 [mod]", "0xffffffff81000000"]),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(1, 7))
def test_random_traces_survive_every_form(tmp_path_factory, events, block):
    lines = []
    for index, (kind, off, size, cpu, site) in enumerate(events):
        time = f"{index // 3}.{size % 10**6:06}"
        head = f"x-1 [{cpu:03}] ..... {time}: "
        lines.append(
            {
                "alloc": alloc(time, off, site, size, cpu, BASE + (off % 3 << 22)),
                "free": free(time, off, cpu, BASE + (off % 3 << 22)),
                "lost": f"CPU:{cpu} [LOST {size} EVENTS]\n",
                "marker": f"{head}tracing_mark_write: {site}\n",
                "create": f"{head}percpu_create_chunk: base_addr={BASE:016x} node={cpu}\n",
                "fail": f"{head}percpu_alloc_percpu_fail: reserved=1 is_atomic=0 size={size} align=4\n",
                "other": f"{head}sched_switch: prev={site}\n",
            }[kind]
        )
    trace = read("".join(lines))
    directory = tmp_path_factory.mktemp("random")
    trace.to_parquet(directory / "t.parquet")
    trace.to_text(directory / "t.txt.zst")
    for path in (directory / "t.parquet", directory / "t.txt.zst"):
        assert pc.read_trace(path) == trace
        assert pc.Trace.concatenate(list(pc.iter_trace(path, events=block))) == trace
    assert pickle.loads(pickle.dumps(trace)) == trace
    assert pc.read_trace(directory / "t.parquet").info == trace.info
