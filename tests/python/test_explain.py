"""What messages mean: every one that the specification lists, alone, on states and on traces."""

from __future__ import annotations

import gzip
import io
import json
import sys

import numpy as np
import pytest

import percpu as pc
from percpu import _core
from percpu.answers.explain import check_request
from percpu.answers.messages import conditions, messages
from percpu.cli import main

from .conftest import RECORDINGS, ROOT, standard_input

# (kind, line, a word of the answer): specification 40 sections 1 to 4 and 20 sections 3 and 7, real samples where there
# are some, all versions.
LINES = [
    ("setup", "setup_percpu: NR_CPUS:256 nr_cpumask_bits:2 nr_cpu_ids:2 nr_node_ids:1", "built for 256 CPUs"),
    ("embedded", "percpu: Embedded 56 pages/cpu s192512 r8192 d28672 u262144", "32768 were given back"),
    ("embedded", "PERCPU: Embedded 31 pages/cpu @ffff8800bfa00000 s87640 r8192 d31144 u131072", "31 pages"),
    ("embedded", "percpu: Embedded 45 pages/cpu @(____ptrval____) s143768 r8192 d32360 u524288", "linear map"),
    ("embedded", "PERCPU: Embedded 20 pages at ffff880028021000, static data 71680 bytes", "20 pages"),
    ("page_mapped", "PERCPU: 32 4K pages/cpu @ffffc90000000000 s107200 r8192 d15680", "page by page"),
    ("page_mapped", "percpu: 46 4K pages/cpu s147456 r8192 d32768", "one group"),
    ("page_mapped", "PERCPU: Allocated 20 4k pages, static data 71680 bytes", "20 pages"),
    ("large_pages", "PERCPU: Remapped at ffffc20000000000 with large pages, static data 71680 bytes", "2009"),
    ("large_pages", "PERCPU: large pages @ffffc90000000000 s100000 r8192 d20480 u131072", "2009"),
    ("dump_head", "pcpu-alloc: s192512 r8192 d28672 u262144 alloc=1*2097152", "unit 262144 bytes"),
    ("dump_row", "pcpu-alloc: [0] 00 01 02 03 04 05 06 07 [0] 08 09 10 11 -- -- -- -- ", "25% of these units are"),
    ("lpage_head", "pcpu-lpage: sta/res/dyn=100000/8192/20480 unit=131072 lpage=2097152", "large page 2097152"),
    ("lpage_row", "pcpu-lpage: 00 01 02 -- | 03 04 05 06 ", "bars"),
    ("max_distance", "PERCPU: max_distance=0x180ffe240000 too large for vmalloc space 0x1fffffffffff", "exceed it by"),
    ("max_distance", "percpu: max_distance=0x16000 too large for vmalloc space 0x0", "without an MMU"),
    ("falling_back", "setup_percpu: auto allocator failed (-22), falling back to page size", "Error -22"),
    ("falling_back", "PERCPU: lpage allocator failed (-12), falling back to 4k", "no memory"),
    ("no_page_for_cpu", "percpu: failed to allocate 4K page for cpu3", "CPU 3"),
    ("no_page_for_cpu", "PERCPU: failed to allocate 4k page for cpu3", "CPU 3"),
    ("no_large_page", "PERCPU: failed to allocate large page for cpu7", "CPU 7"),
    ("no_block", "PERCPU: failed to allocate 131072 bytes for embedding", "131072 bytes"),
    ("larger_than_large_page", "PERCPU: static data is larger than large page, can't use large page", "large page"),
    ("chunk_too_large", "PERCPU: too large chunk size 4096MB for large page remap", "4096 MiB"),
    ("unknown_allocator", "percpu: unknown allocator auto specified", "percpu_alloc=auto"),
    ("more_than_one_group", "percpu: can't handle more than one group", "one group"),
    ("wasting", "percpu: wasting 10 pages per chunk", "10 pages"),
    ("no_node", "percpu: cpu 4 has no node 2 or node-local memory", "node 2"),
    ("failed_to_initialize", "PERCPU: failed to initialize, ai->unit_size < size_sum", "exceed a unit"),
    ("possible_mask", "percpu: cpu_possible_mask=1,00000003", "3 of them, the last is CPU 32"),
    ("cannot_initialize", "Kernel panic - not syncing: cannot initialize percpu area (err=-12)", "error -12"),
    ("no_areas", "Kernel panic - not syncing: Failed to initialize percpu areas (err=-12).", "second choice"),
    ("no_areas", "Failed to allocate memory for percpu areas.", "machine stops"),
    ("no_areas", "failed to map percpu area, err=-12", "machine stops"),
    ("no_table", "pcpu_setup_first_chunk: Failed to allocate 64 bytes", "64 bytes"),
    ("overflow", "percpu area overflow static=60000 reserved=8192", "ia64"),
    ("illegal_size", "illegal size (40960) or align (8) for percpu allocation", "above the limit of 32768 bytes"),
    ("illegal_size", "illegal size (0) or align (4) for percpu allocation", "The size is 0"),
    ("illegal_size", "illegal size (64) or align (8192) for percpu allocation", "above one page"),
    ("illegal_size", "illegal size (64) or align (24) for percpu allocation", "not a power of two"),
    ("illegal_size", "illegal size (64) or align (8) for percpu allocation", "this request is legal"),
    ("reserved_full", "allocation failed, size=3000 align=32 atomic=0, alloc from reserved chunk failed", "module"),
    ("no_space", "allocation failed, size=16 align=8 atomic=1, atomic alloc failed, no space left", "not sleep"),
    ("no_space", "allocation failed, size=9000 align=8 atomic=1, atomic alloc failed, no space left", "3 populated"),
    ("no_chunk", "percpu: allocation failed, size=16 align=8 atomic=0, failed to allocate new chunk", "congruent"),
    ("no_chunk", "PERCPU: allocation failed, size=16 align=8, failed to allocate new chunk", "congruent"),
    ("no_page", "percpu: allocation failed, size=16 align=8 atomic=0, failed to populate", "at most 2 pages"),
    (
        "reserved_map",
        "PERCPU: allocation failed, size=16 align=8 atomic=0, failed to extend area map of reserved chunk",
        "4.13",
    ),
    ("map_extend", "PERCPU: allocation failed, size=16 align=8 atomic=0, failed to extend area map", "4.13"),
    ("failed", "percpu: allocation failed, size=16 align=8 atomic=0, bad luck", "(bad luck)"),
    ("limit_reached", "percpu: limit reached, disable warning", "Ten failures"),
    ("fail_event", "a-1 [000] 4.2: percpu_alloc_percpu_fail: reserved=1 is_atomic=0 size=3000 align=32", "3000 bytes"),
    ("meminfo", "Percpu:             5888 kB", "5888 KiB"),
    ("statistics", "Percpu Memory Statistics", "percpu stats FILE"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "line", "word"), LINES, ids=[f"{k}-{n}" for n, (k, _, _) in enumerate(LINES)])
def test_every_message(kind, line, word):
    told = pc.explain(f"[    0.104744] {line}\n")
    assert [message.kind for message in told] == [kind]
    text = " ".join(str(told).split())
    assert word in text
    assert "{" not in text.replace(line, "")
    message = told[0]
    assert message.means
    assert message.rule
    assert not told.unknown
    json.dumps(told.to_dict())


def test_the_table_is_complete():
    assert set(messages()) == set(_core.MESSAGE_KINDS) == {kind for kind, _, _ in LINES}
    # What failed has a limit, something to look at and something to change.
    for kind in (
        "illegal_size",
        "no_space",
        "no_chunk",
        "no_page",
        "reserved_full",
        "reserved_map",
        "map_extend",
        "max_distance",
    ):
        entry = messages()[kind]
        assert entry.limit
        assert entry.look
        assert entry.change


def test_every_condition():
    """The conditions of specification 31 section 2, as they are printed."""
    for condition, meaning in conditions().items():
        told = pc.explain(f"percpu: failed to initialize, {condition}")
        assert told[0].findings == (f"It says: {meaning}.",)
    assert len(conditions()) == 21
    told = pc.explain("percpu: failed to initialize, ai->moon == full")
    assert "none that kernels" in told[0].findings[0]


def test_every_reason_of_the_engines():
    """What an allocator here says is explained as what a kernel says."""
    for name, text in _core.REASONS:
        if name in ("illegal", "no_room"):
            continue
        told = pc.explain(f"allocation failed, size=16 align=8 atomic=0, {text}")
        assert told[0].kind == name


def test_unknown_lines_get_an_honest_answer():
    told = pc.explain("usb 1-1: new device")
    assert not len(told)
    assert told.unknown == ((1, "usb 1-1: new device"),)
    assert "Not a message of the per-CPU allocator that is known here" in str(told)
    told = pc.explain("")
    assert str(told) == "No message of the per-CPU allocator."
    with pytest.raises(TypeError, match="text must be a str, not bytes"):
        pc.explain(b"x")
    for text in (
        "allocation failed, size=-1 align=8 atomic=1, x",
        "allocation failed, size=99999999999999999999 align=8, y",
    ):
        assert len(pc.explain(f"percpu: {text}").unknown) == 1


def test_a_whole_log():
    failed = "percpu: allocation failed, size=64 align=8 atomic=0, failed to populate"
    log = (
        f"usb\n[1.0] {failed}\n[2.0] {failed}\n\npercpu: what is this?\n[3.0] percpu: limit reached, disable warning\n"
    )
    told = pc.explain(log)
    assert [(message.kind, message.lines) for message in told] == [("no_page", (2, 3)), ("limit_reached", (6,))]
    assert told.unknown == ((5, "percpu: what is this?"),)
    assert told.nr_other == 1
    assert "2 times, first in line 2" in str(told)
    assert [m.kind for m in told[:1]] == ["no_page"]


def test_public_logs():
    """Whatever the corpus holds is recognised, or is not of the allocator."""
    seen = set()
    for line in (ROOT / "tests/data/dmesg-corpus.jsonl").read_text().splitlines():
        entry = json.loads(line)
        text = "\n".join(v for v in entry.values() if isinstance(v, str)) + "\n"
        text += "\n".join("\n".join(map(str, v)) for v in entry.values() if isinstance(v, list))
        told = pc.explain(text)
        seen |= {message.kind for message in told}
        for message in told:
            str(message)
    assert {"embedded", "dump_head", "dump_row"} <= seen


# -- on states ---------------------------------------------------------------------------


def longest(allocator, align, populated_only):
    """The longest free run at an alignment, bit by bit."""
    best = 0
    for chunk in allocator.chunks.values():
        free = ~chunk.alloc_map
        if populated_only:
            free &= np.repeat(chunk.populated, len(free) // chunk.nr_pages)
        for start in range(0, len(free), align // 4):
            end = start
            while end < len(free) and free[end]:
                end += 1
            best = max(best, (end - start) * 4)
    return best


@pytest.mark.parametrize("kernel", ["linux-4.14", "linux-5.2", "linux-5.14"])
def test_largest_runs_against_a_naive_count(kernel):
    a = pc.Allocator(unit_size=32 << 10, nr_units=2, kernel=kernel, balance="manual")
    rng = np.random.default_rng(3)
    live = [
        a.alloc(int(size), int(align))
        for size, align in zip(rng.integers(4, 900, 80), 4 << rng.integers(0, 5, 80), strict=True)
    ]
    for p in live[::2]:
        a.free(p)
    for align in (4, 16, 64, 4096):
        facts = check_request(a, 64, align)
        assert facts["largest_fit_bytes"] == longest(a, align, False)
        assert facts["largest_populated_fit_bytes"] == longest(a, align, True)
        assert facts["free_bytes"] == sum(chunk.free_bytes for chunk in a.chunks.values())
    before = a.snapshot()
    for size in (4, 64, 1000, 20_000):
        for atomic in (False, True):
            facts = check_request(a, size, 8, atomic=atomic)
            copy = a.copy()
            try:
                copy.alloc(size, 8, atomic=atomic)
                reason = None
            except pc.AllocError as error:
                reason = error.reason
            assert (facts["served"], facts["reason"]) == (reason is None, reason)
            if reason is None:
                assert facts["needs_pages"] == any(
                    not a.chunks[n].populated[page]
                    for n, chunk in copy.chunks.items() if n in a.chunks
                    for page in np.flatnonzero(chunk.populated != a.chunks[n].populated)
                ) or facts["needs_chunk"]  # fmt: skip
    assert a.snapshot() == before


@pytest.mark.parametrize("engine", ["cpu_alloc-2008", "areamap", "rfc-v1", "linux-4.14", "linux-5.2", "linux-5.14"])
def test_every_engine(engine):
    """Also those that keep no hints, no pages, or other granules."""
    a = pc.Allocator(unit_size=64 << 10, nr_units=2, engine=engine)
    live = [a.alloc(size) for size in range(4, 400, 4)]
    for size, p in zip(range(4, 400, 4), live, strict=True):
        if size % 3:
            a.free(p, size)
    facts = check_request(a, 256, 16)
    assert facts["served"]
    assert facts["free_bytes"] == sum(chunk.free_bytes for chunk in a.chunks.values())
    assert 256 <= facts["largest_fit_bytes"] <= facts["free_bytes"]
    line = "allocation failed, size=256 align=16 atomic=0, failed to populate"
    assert "On this state the request is served" in str(pc.explain(line, a))


def test_what_limits_an_atomic_request():
    a = pc.Allocator(unit_size=32 << 10, nr_units=2, balance="manual")
    line = "allocation failed, size=64 align=8 atomic=1, atomic alloc failed, no space left"
    a.alloc(64)
    # Room on populated memory.
    assert pc.explain(line, a)[0].findings[0] == "On this state the request is served from populated memory."
    while True:
        try:
            a.alloc(64, 8, atomic=True)
        except pc.AllocError:
            break
    message = pc.explain(line, a)[0]
    assert message.check["reason"] == "no_space"
    assert message.check["largest_populated_fit_bytes"] < 64 <= message.check["largest_fit_bytes"]
    assert "not the room" in message.findings[-1]
    # The same as a request that may sleep.
    sleeping = pc.explain("allocation failed, size=64 align=8 atomic=0, failed to populate", a)[0]
    assert sleeping.check["served"]
    assert sleeping.check["needs_pages"]
    assert not sleeping.check["needs_chunk"]
    while a.chunks[0].free_bytes >= 64:
        a.alloc(64, 8)
    full = pc.explain("allocation failed, size=64 align=8 atomic=0, failed to allocate new chunk", a)[0]
    assert full.check["needs_chunk"]
    assert "with a new chunk" in full.findings[0]
    assert "an atomic request must not make" in pc.explain(line, a)[0].findings[-1]


def test_a_run_that_the_hints_hide():
    """Chunks of near-empty pages whose hint is 0: requests pass by (the state is made by the engine itself)."""
    a = pc.Allocator(unit_size=32 << 10, nr_units=1, balance="manual")
    live = [a.alloc(16) for _ in range(2048)]
    kept = set(live[::256]) | set(live[:256])
    for p in live:
        if p not in kept:
            a.free(p)
    facts = check_request(a, 1024, 16)
    chunk = a.chunks[0]
    row = facts["chunks"][0]
    assert row["fit_bytes"] >= 1024
    assert row["contig_bytes"] == int(chunk.hints["contig_hint"][0]) * 4
    if row["contig_bytes"] < 1024:
        assert facts["needs_chunk"]
        assert facts["nr_chunks_passed_by"] == 1
        assert "passed by" in facts["texts"][-1]
    else:
        assert facts["nr_chunks_passed_by"] == 0
    assert row["contig_bytes"] < 1024


def test_illegal_on_a_state():
    a = pc.Allocator(unit_size=256 << 10, nr_units=1, page_size=65536)
    line = "illegal size (65540) or align (8) for percpu allocation"
    message = pc.explain(line, a)[0]
    assert "limit of 65536 bytes (for pages of 65536 bytes), by 4" in message.findings[0]
    assert message.check["reason"] == "illegal"
    assert (
        "is legal"
        in pc.explain("illegal size (65536) or align (8) for percpu allocation", page_size=65536)[0].findings[0]
    )
    with pytest.raises(pc.InvalidRequest, match="kernel='foo': must be one of"):
        pc.explain(line, kernel="foo")
    with pytest.raises(pc.InvalidRequest, match="page_size=1"):
        pc.explain(line, page_size=1)


def test_state_and_trace_of_a_real_failure():
    """A module's variables that did not fit: the state just before is rebuilt, and refuses the request too."""
    run = RECORDINGS / "reserved-612"
    line = "allocation failed, size=3000 align=32 atomic=0, alloc from reserved chunk failed"
    message = pc.explain(line, run / "state-a.json.gz", run / "trace.txt.gz")[0]
    assert message.in_trace["nr_same_request"] == 2
    trace = pc.read_trace(run / "trace.txt.gz")
    fails = [i for i, row in enumerate(trace.rows()) if row["kind"] == "fail" and row["size_bytes"] == 3000]
    assert message.in_trace["first_event"] == fails[0]
    assert message.check["reason"] == "reserved_full"
    assert message.check["largest_fit_bytes"] < 3000
    # At the start of the trace it would have been served.
    assert pc.explain(line, run / "state-a.json.gz")[0].check["served"]
    alone = pc.explain(line, trace=trace)[0]
    assert alone.check is None
    assert "fails 2 times" in alone.findings[0]
    other = pc.explain(line.replace("3000", "3004"), trace=trace)[0]
    assert other.in_trace["nr_same_request"] == 0
    assert "The trace has no failure of this request" in other.findings[0]


def test_the_same_size_outside_of_the_reserved_chunk_is_another_request():
    event = "a-1 [000] d..2. {}.000000: percpu_alloc_percpu{}: reserved={} is_atomic=0 size=64 align=8"
    place = " base_addr=0000000000100000 off={} ptr=0000000000100000"
    lines = [event.format(0, "", 0) + place.format(0), event.format(1, "", 1) + place.format(64)]
    lines += [event.format(2, "_fail", 0), event.format(3, "_fail", 0), event.format(4, "_fail", 1)]
    trace = pc.read_trace(io.BytesIO("".join(f"{line}\n" for line in lines).encode()))
    line = "allocation failed, size=64 align=8 atomic=0, {}"
    reserved = pc.explain(line.format("alloc from reserved chunk failed"), trace=trace)[0]
    assert "this request fails once (first at event 4) and is served once." in reserved.findings[0]
    # Without a reserved chunk a request for it is like any other, so that the message does not tell.
    other = pc.explain(line.format("failed to populate"), trace=trace)[0]
    assert "this request fails 3 times (first at event 2) and is served 2 times." in " ".join(other.findings)


@pytest.mark.parametrize("name", ["drain-612-4cpu", "reserved-612"])
def test_every_recorded_failure_is_a_failure_here(name):
    run = RECORDINGS / name
    trace = pc.read_trace(run / "trace.txt.gz")
    rows = [row for row in trace.rows() if row["kind"] == "fail"]
    assert rows
    words = {(False, False): "failed to populate", (False, True): "alloc from reserved chunk failed"}
    for size, align, atomic, reserved in {
        (r["size_bytes"], r["align_bytes"], r["atomic"], r["reserved"]) for r in rows
    }:
        reason = words.get((atomic, reserved), "atomic alloc failed, no space left")
        line = f"allocation failed, size={size} align={align} atomic={int(atomic)}, {reason}"
        message = pc.explain(line, run / "state-a.json.gz", trace)[0]
        assert message.check["served"] is False
        assert message.check["reason"] == message.kind


# -- the command -------------------------------------------------------------------------


def run(capsys, *arguments):
    code = main(["explain", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_cli(capsys, tmp_path, monkeypatch):
    line = "percpu: allocation failed, size=16 align=8 atomic=1, atomic alloc failed, no space left"
    code, out, _ = run(capsys, line)
    assert code == 0
    assert "may not sleep" in out
    assert run(capsys, *line.split())[1] == out
    (tmp_path / "log").write_text(f"a\n{line}\n")
    assert "(line 2)" in run(capsys, tmp_path / "log")[1]
    monkeypatch.setattr(sys, "stdin", standard_input(line.encode()))
    assert run(capsys, "-")[1] == out
    monkeypatch.setattr(sys, "stdin", standard_input(gzip.compress(line.encode())))
    assert run(capsys, "-")[1] == out
    monkeypatch.setattr(sys, "stdin", standard_input(b"\xff\xfe\x00 and more"))
    code, out, err = run(capsys, "-")
    assert (code, err) == (1, "")
    assert "Not a message" in out
    facts = json.loads(run(capsys, line, "--json")[1])
    assert facts["messages"][0]["values"] == {
        "size": 16, "align": 8, "atomic": True, "reserved": False, "reason": "atomic alloc failed, no space left",
    }  # fmt: skip
    code, out, _ = run(capsys, "hello there")
    assert code == 1
    assert "Not a message" in out
    code, _, err = run(capsys, "no/such/file")
    assert (code, err) == (1, "percpu: no/such/file: no such file, and no message either\n")
    state = RECORDINGS / "reserved-612" / "state-a.json.gz"
    facts = json.loads(run(capsys, line, "--state", state, "--json")[1])
    assert facts["messages"][0]["check"]["nr_chunks"] >= 1


def test_cli_keeps_what_came_most_often(capsys, tmp_path):
    often = "percpu: allocation failed, size=16 align=16 atomic=1, atomic alloc failed, no space left"
    seldom = "percpu: allocation failed, size=64 align=8 atomic=0, alloc from reserved chunk failed"
    log = tmp_path / "log.txt"
    log.write_text("\n".join([seldom, often, often]) + "\n")
    assert main(["explain", str(log), "--json"]) == 0
    both = json.loads(capsys.readouterr().out)["messages"]
    assert len(both) == 2
    assert main(["explain", str(log), "--top", "1", "-o", str(tmp_path / "out.json")]) == 0
    (kept,) = json.loads((tmp_path / "out.json").read_text())["messages"]
    assert kept == next(message for message in both if len(message["lines"]) == 2)
    assert main(["explain", str(log), "--top", "1", "-o", str(tmp_path / "out.txt")]) == 0
    assert often in (tmp_path / "out.txt").read_text()
    assert seldom not in (tmp_path / "out.txt").read_text()
    assert capsys.readouterr().out == ""
    assert main(["explain", str(log), "--top", "0"]) == 1
    assert "--top 0" in capsys.readouterr().err
