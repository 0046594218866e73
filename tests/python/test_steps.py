"""Step by step: every sentence is checked against a second allocator that is led through the same operations."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import percpu as pc
from percpu import _core
from percpu._rules import Records, runs, slot_of_size

from .conftest import LINUX

SMALL = {"unit_size": 2048, "nr_units": 2, "page_size": 512, "block_size": 512}
KERNELS = ["2008", "4.13", "rfc-v1", "4.19", "5.4", "6.12"]


def workload(seed, n=120, *, top=200, atomic=True):
    """Random requests and frees, atomic ones among them, of small sizes and a few alignments."""
    rng = np.random.default_rng(seed)
    kind, ident, size, align, flags, live = [], [], [], [], [], []
    for _ in range(n):
        if live and rng.random() < 0.45:
            kind.append(1)
            ident.append(live.pop(int(rng.integers(len(live)))))
        else:
            kind.append(0)
            ident.append(len(kind))
            live.append(len(kind))
        size.append(int(rng.integers(1, top)))
        align.append(int(2 ** rng.integers(0, 6)))
        flags.append(int(atomic and rng.random() < 0.2))
    order = {name: i for i, name in enumerate(dict.fromkeys(ident))}
    return pc.workloads.steps(kind, [order[name] for name in ident], size, align, flags)


def plain(allocator):
    """The state, whatever the policy of the worker."""
    other = allocator.copy()
    other._core.set_balance_policy(0, 0)
    return other.snapshot(), allocator.stats(), allocator.slots


def of_kind(step, kind):
    return [rule for rule in step.rules if rule.kind == kind]


# -- the run itself ----------------------------------------------------------------------


@pytest.mark.parametrize("policy", [{"balance": "eager"}, {"balance": "manual"}, {"every": 3}])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_end_is_that_of_a_plain_run(kernel, policy):
    start = pc.Allocator(unit_size=32 << 10, nr_units=2, kernel=kernel, **policy)
    w = workload(5, top=4000)
    run = pc.steps(w, start, limit=1000)
    other = start.copy()
    w.run(other)
    assert run.allocator.snapshot() == other.snapshot()
    assert start.snapshot() == pc.Allocator(unit_size=32 << 10, nr_units=2, kernel=kernel, **policy).snapshot()
    assert not run.truncated
    assert any(step.kind == "balance" for step in run) == (policy != {"balance": "manual"} and kernel != "2008")


@pytest.mark.parametrize("policy", [{"balance": "manual"}, {"every": 3}])
def test_the_worker_where_the_workload_says_so(policy):
    kind = [0, 0, 3, 0, 0, 1, 3, 1, 0]
    w = pc.workloads.steps(kind, [0, 1, 0, 2, 3, 1, 0, 2, 4], [900] * 9, [4] * 9, [0] * 9)
    start = pc.Allocator(unit_size=32 << 10, nr_units=2, **policy)
    run = pc.steps(w, start)
    other = start.copy()
    w.run(other)
    assert run.allocator.snapshot() == other.snapshot()
    assert sum(step.kind == "balance" for step in run) >= 2


def test_thresholds_are_those_of_the_allocator():
    changed = {"empty_pop_pages_low": 5, "empty_pop_pages_high": 7}
    run = pc.steps(pc.workloads.objects(3, size=24), pc.Allocator(unit_size=64 << 10, nr_units=2, thresholds=changed))
    text = str(run)
    assert "fewer than 5." in text
    assert "7 are kept ready." in text


def test_a_recording_is_followed_to_its_end(recordings):
    directory = next(run for run in recordings if (run / "trace.txt.gz").exists())
    trace = pc.read_trace(directory / "trace.txt.gz")[:400]
    start = pc.Allocator.from_state(directory / "state-a.json.gz", balance="eager")
    run = pc.steps(trace, start, limit=1000)
    rerun = start.copy()
    result = pc.replay(trace, rerun, mode="rerun")
    served = [step for step in run if step.kind == "alloc" and step.ok]
    assert len(served) >= result.summary["nr_alloc"] > 0
    # Frees of what was there before the trace are made here, and left out by a rerun.
    assert sum(step.kind == "free" for step in run) >= result.summary["nr_free"]
    if result.summary["nr_free_unseen"] == 0:
        assert run.allocator.differences(rerun) == []
    events = [step.event for step in run if step.event is not None]
    assert events == sorted(events)


def test_the_limit_cuts():
    a = pc.Allocator(unit_size=32 << 10, nr_units=2, balance="manual")
    run = pc.steps(pc.workloads.objects(50), a, limit=7)
    assert len(run) == 7
    assert run.truncated
    assert run.allocator.stats()["nr_cur_alloc"] == 7
    assert len(run[2:5]) == 3
    assert run[-1].number == 6
    with pytest.raises(pc.InvalidRequest, match="limit=0"):
        pc.steps(pc.workloads.objects(50), a, limit=0)
    with pytest.raises(TypeError, match="what must be"):
        pc.steps([1, 2], a)
    with pytest.raises(TypeError, match="allocator must be"):
        pc.steps(pc.workloads.objects(50), None)


# -- truth of the sentences --------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kernel", LINUX)
def test_the_search_is_that_of_the_engine(kernel, seed):
    """The rules lead to the engine's place for every request, and name the chunks that it passes over."""
    run = pc.steps(workload(seed), pc.Allocator(**SMALL, kernel=kernel), limit=1000)
    requests = [step for step in run if step.kind == "alloc"]
    served = [step for step in requests if step.ok]
    assert len(served) > 40
    for step in served:
        (place,) = of_kind(step, "place")
        starts = [rule for rule in of_kind(step, "start") if rule.values["level"] == "map"]
        assert len(starts) == 1, step.operation
        assert starts[0].values["from"] <= place.values["off_bytes"]
        assert of_kind(step, "break") or of_kind(step, "keep")
    # A request that fails says why.
    for step in requests:
        assert step.ok != bool(of_kind(step, "fail"))


def led(run, start):
    """Lead a second allocator through the same steps: (step, before, after)."""
    now = start.copy()
    now._core.set_balance_policy(0, 0)
    for step in run:
        before = now.copy()
        if step.kind == "balance":
            now.balance()
        elif step.kind == "free":
            chunk = now.reserved_chunk if step.chunk is None else now.chunks[step.chunk]
            now.free(chunk.base_addr + chunk.info["unit_off"] + step.off_bytes)
        else:
            size, align = map(int, re.match(r"alloc ([\d,]+) bytes?, align (\d+)", step.operation).groups())
            batch = now.alloc_many([size], [align], atomic="atomic" in step.operation)
            assert bool(batch.ok[0]) == step.ok
            if step.ok:
                assert (int(batch.chunk[0]), int(batch.off_bytes[0])) == (step.chunk, step.off_bytes)
        yield step, before, now


@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("kernel", LINUX)
def test_every_number_is_a_fact(kernel, seed):
    start = pc.Allocator(**SMALL, kernel=kernel)
    run = pc.steps(workload(seed, 200, top=500), start, limit=1000)
    counted = dict.fromkeys(("skip", "reject", "hidden", "move", "pages", "join", "break", "refresh", "create"), 0)
    for step, before, after in led(run, start):
        for rule in step.rules:
            if rule.kind in counted:
                counted[rule.kind] += 1
            check = globals().get(f"check_{rule.kind}")
            if check is not None:
                check(step, rule, before, after)
        moved = {rule.values["chunk"] for rule in of_kind(step, "move")}
        assert moved == {c for c in after.chunks if slot_of(after, c) != slot_of(before, c)}
        made = {rule.values["chunk"] for rule in of_kind(step, "create")}
        assert made == set(after.chunks) - set(before.chunks)
    assert all(counted[kind] > 0 for kind in counted if kind != "hidden"), counted


def slot_of(allocator, chunk):
    return next((index for index, numbers in enumerate(allocator.slots) if chunk in numbers), None)


def check_round(step, rule, before, after):
    assert rule.values["size"] == -(-rule.values["asked"] // 4) * 4


def check_search(step, rule, before, after):
    size = -(-int(re.match(r"alloc ([\d,]+)", step.operation).group(1).replace(",", "")) // 4) * 4
    assert rule.values["first_slot"] == max(size.bit_length() - 3, 1)


def check_reject(step, rule, before, after):
    if "more" in rule.values:
        return
    chunk = before.chunks[rule.values["chunk"]]
    size, align = map(int, re.match(r"alloc (\d+) bytes?, align (\d+)", step.operation).groups())
    bits, align = -(-size // 4), max(align, 4) // 4
    free = ~chunk.alloc_map
    if "atomic" in step.operation:
        free &= np.repeat(chunk.populated, before.page_size // 4)
    fits = any(-(-a // align) * align + bits <= b for a, b in runs(free))
    assert rule.values["hides"] == fits
    hint = chunk.hints[0]
    length = hint["contig_hint" if "contig_hint" in hint.dtype.names else "contig_bits"]
    assert (rule.values["why"] == "hint") == (length < bits)
    if rule.values["aside"]:
        assert rule.values["chunk"] in after.slots[0]


def check_skip(step, rule, before, after):
    chunk = before.chunks.get(step.chunk)
    if "runs" not in rule.values or chunk is None:
        return
    size, align = map(int, re.match(r"alloc (\d+) bytes?, align (\d+)", step.operation).groups())
    size, align = -(-size // 4) * 4, max(align, 4)
    for off, length in rule.values["runs"]:
        assert not chunk.alloc_map[off // 4 : (off + length) // 4].any()
        assert off + length <= step.off_bytes
        # Too small, or no aligned place of this size in it (unless it reaches to the place itself).
        if off + length < step.off_bytes:
            assert -(-off // align) * align + size > off + length


def check_place(step, rule, before, after):
    off, size = rule.values["off_bytes"], rule.values["size_bytes"]
    chunk, known = after.chunks[rule.values["chunk"]], before.chunks.get(rule.values["chunk"])
    area = slice(off // 4, (off + size) // 4)
    if step.kind == "alloc":
        assert chunk.alloc_map[area].all()
        assert known is None or not known.alloc_map[area].any()
        assert chunk.bound_map[[area.start, area.stop]].all()
    else:
        assert known.alloc_map[area].all()
        assert not chunk.alloc_map[area].any()


def check_break(step, rule, before, after):
    """What is read anew is the hint that the area lies in, and comes out as the map says."""
    block, chunk = rule.values["block"], after.chunks[step.chunk]
    new = Records(chunk, before.engine != "linux-4.14")
    if block is None:
        assert rule.values["now"] == new.chunk.contig * 4
        return
    assert rule.values["now"] == new.blocks[block].contig * 4
    bits = new.block_bits
    free = ~chunk.alloc_map[block * bits : (block + 1) * bits]
    lengths = [int(b - a) for a, b in runs(free)]
    assert rule.values["now"] == 4 * max(lengths, default=0)
    assert rule.values["was"] >= rule.values["now"]


def check_hidden(step, rule, before, after):
    lengths = [int(b - a) * 4 for a, b in runs(~after.chunks[step.chunk].alloc_map)]
    assert rule.values["largest"] == max(lengths) > rule.values["known"]


def check_join(step, rule, before, after):
    start, length = rule.values["start"] // 4, rule.values["length"] // 4
    padded = np.concatenate([[True], after.chunks[step.chunk].alloc_map, [True]])
    assert not padded[start + 1 : start + 1 + length].any()
    assert padded[start]
    assert padded[start + 1 + length]
    assert length * 4 > step.size_bytes


def check_pages(step, rule, before, after):
    new = after.chunks[rule.values["chunk"]].populated
    old = before.chunks[rule.values["chunk"]].populated if rule.values["chunk"] in before.chunks else np.zeros_like(new)
    changed = (new & ~old) if rule.values["gained"] else (old & ~new)
    assert np.flatnonzero(changed).tolist() == rule.values["pages"]


def check_move(step, rule, before, after):
    place = after.slots[rule.values["to"]].index(rule.values["chunk"])
    assert place == rule.values["place"]
    source = rule.values["from"]
    assert source is None or rule.values["chunk"] in before.slots[source]
    numbers = after.slots[rule.values["to"]]
    if "the front of" in rule.text:
        assert place == 0
    if "the end of" in rule.text:
        assert place == len(numbers) - 1


def check_worker(step, rule, before, after):
    if step.kind != "balance":
        assert after.balance_pending
        assert not before.balance_pending
    elif rule.values:
        assert rule.values["before"] == before.stats()["nr_empty_pop_pages"]
        assert rule.values["after"] == after.stats()["nr_empty_pop_pages"]


@pytest.mark.parametrize("kernel", LINUX)
def test_breaks_are_as_many_as_the_engine_counts(kernel):
    """Where the engine counts, the hints said to be read anew are those that it counts."""
    start = pc.Allocator(**SMALL, kernel=kernel)
    run = pc.steps(workload(21, 300, atomic=False), start, limit=1000)
    for step, before, after in led(run, start):
        if step.kind == "balance":
            continue
        breaks = of_kind(step, "break")
        blocks = [rule.values["block"] for rule in breaks if rule.values["block"] is not None]
        assert len(blocks) == len(set(blocks)) <= 2
        whole = sum(rule.values["block"] is None for rule in breaks) + len(of_kind(step, "refresh"))
        assert whole <= 1
        if step.costs is not None:
            assert step.costs["block_refreshes"] == len(blocks)
            assert step.costs["chunk_refreshes"] == whole
        # Without counts: what is not said to be read anew keeps its largest run, or has it told.
        chunk, known = after.chunks[step.chunk], before.chunks.get(step.chunk)
        if step.kind == "alloc" and known is not None and kernel != "linux-4.14":
            hit = overlapped(known, step)
            told = {rule.values["told"] for rule in of_kind(step, "hint") if "told" in rule.values}
            assert set(blocks) - told == hit - told
        assert chunk.nr_alloc == int(known.nr_alloc if known else 0) + (1 if step.kind == "alloc" else -1)


def overlapped(chunk, step):
    """First and last block of an area whose contig_hint it touches, by 5.2's rule on the state before."""
    bits = chunk.block_bits
    a, end = step.off_bytes // 4, (step.off_bytes + step.size_bytes) // 4
    first, last = a // bits, (end - 1) // bits
    hit = set()
    block = chunk.blocks[first]
    low, high = a - first * bits, end - first * bits
    if block["contig_hint_start"] < high and low < block["contig_hint_start"] + block["contig_hint"]:
        hit.add(first)
    if last != first and end % bits and end - last * bits > chunk.blocks[last]["contig_hint_start"]:
        hit.add(last)
    return hit


def test_lists_of_sizes_are_those_of_the_chunks():
    a = pc.Allocator(unit_size=32 << 10, nr_units=2)
    a.alloc(4)
    for size in (32 << 10, 16000, 9000, 5000, 700, 60, 20, 4):
        free = a.chunks[0].hints["contig_hint"][0] * 4
        assert a.chunks[0].slot == slot_of_size(int(free), a.unit_size, len(a.slots), True)
        batch = a.alloc_many([size], 4)
        assert batch.ok[0]


# -- what it looks like ------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_text_notebook_and_page(kernel, tmp_path):
    run = pc.steps(workload(3, 60), pc.Allocator(unit_size=32 << 10, nr_units=2, kernel=kernel), limit=1000)
    text = str(run)
    for step in run:
        assert step.operation in text
        assert all(rule.text in text for rule in step.rules)
        assert step.rules
    page = run.to_html(tmp_path / "steps.html", title="<A> & B")
    assert (tmp_path / "steps.html").read_text() == page
    assert "<title>&lt;A&gt; &amp; B</title>" in page
    assert page.count("<details") == len(run)
    assert "://" not in page
    assert "<script" not in page
    assert page.count("<svg") == len(run)
    shown = run._repr_html_()
    assert shown.count("<details") == 25
    assert f"{len(run) - 25:,} steps more" in shown
    assert len(shown) < 25 * 30_000
    assert run[0]._repr_html_().startswith("<details")


def test_the_picture_shows_where_the_area_is():
    import xml.etree.ElementTree as ET

    from percpu.plot import _style

    a = pc.Allocator(**SMALL)
    run = pc.steps(pc.workloads.objects(20, size=24), a, limit=20)
    step = next(s for s in run if s.off_bytes == 240)
    svg = ET.fromstring(step.svg)
    first, zoomed = [p for p in svg.iter("path") if p.get("stroke") == _style.CONTIG][:2]
    map_image, zoom_image = list(svg.iter("image"))[:2]
    for path, image, span, base in ((first, map_image, 512, 0), (zoomed, zoom_image, 512, 0)):
        xs = [float(x) for x in re.findall(r"[ML](\S+) ", path.get("d"))]
        left, width = float(image.get("x")), float(image.get("width"))
        assert min(xs) == pytest.approx(left + (240 - base) * width / span, abs=0.02)
        assert max(xs) == pytest.approx(left + (264 - base) * width / span, abs=0.02)


def test_a_failed_request_says_why():
    a = pc.Allocator(**SMALL)
    a.limit_supply(chunks=0)
    w = pc.workloads.steps([0, 0], [0, 1], [40, 33_000], [4, 4], [0, 0])
    run = pc.steps(w, a)
    assert [step.ok for step in run] == [False, False]
    assert of_kind(run[0], "fail")[0].values["reason"] == "no_chunk"
    reason, text = _core.REASONS[0]
    assert of_kind(run[1], "fail")[0].values["reason"] == reason
    assert text in run[1].rules[-1].text
    assert run[1].outcome == "fails"


def test_reserved_requests_and_boot_chunks(layout):
    a = pc.Allocator(layout)
    w = pc.workloads.steps([0, 0, 1, 1], [0, 1, 0, 1], [64, 64, 0, 0], [8, 8, 0, 0], [2, 0, 0, 0])
    run = pc.steps(w, a)
    requests = [step for step in run if step.kind == "alloc"]
    assert requests[0].chunk is None
    assert "reserved chunk" in requests[0].outcome
    assert requests[1].chunk == 0
    other = a.copy()
    w.run(other)
    assert run.allocator.snapshot() == other.snapshot()


def test_command(recordings, tmp_path, capsys):
    from percpu.cli import main

    directory = next(run for run in recordings if (run / "trace.txt.gz").exists())
    trace, state = str(directory / "trace.txt.gz"), str(directory / "state-a.json.gz")
    assert main(["steps", trace, "--state", state, "--limit", "6"]) == 0
    text = capsys.readouterr().out
    start = pc.Allocator.from_state(state, balance="eager")
    assert text == str(pc.steps(pc.read_trace(trace), start, limit=6)) + "\n"
    assert main(["steps", trace, "--state", state, "--limit", "4", "--first", "40", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert min(row["event"] for row in rows if row["event"] is not None) >= 40
    assert all(row["rules"] for row in rows)
    out = tmp_path / "s.html"
    assert main(["steps", trace, "--unit-size", "64K", "--kernel", "4.13", "--limit", "3", "-o", str(out)]) == 0
    assert out.read_text().count("<details") >= 3
    assert main(["steps", trace, "--limit", "3"]) == 1
    assert "--state" in capsys.readouterr().err
    assert main(["steps", trace, "--state", state, "--first", "99999999"]) == 1


def test_a_workload_of_the_worker_alone_is_cut():
    run = pc.steps(pc.workloads.atomic_burst(1000, n=0), pc.Allocator(**SMALL), limit=5)
    assert run.truncated
    assert [step.kind for step in run] == ["balance"] * 15


def test_an_object_that_failed_first_is_freed_when_it_is_there():
    from percpu.steps import _Operation, _Run

    operations = [_Operation("alloc", 7, 4096, 8), _Operation("alloc", 7, 8, 8), _Operation("free", 7)]
    run = _Run(pc.Allocator(**SMALL)).all(iter(operations), 10)
    assert [(step.kind, step.ok) for step in run if step.kind != "balance"] == [
        ("alloc", False),
        ("alloc", True),
        ("free", True),
    ]
    assert sum(chunk.nr_alloc for chunk in run.allocator.chunks.values()) == 0
