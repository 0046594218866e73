"""Every kind of message held against states and traces that were recorded."""

from __future__ import annotations

import json
from collections import Counter

import pytest

import percpu as pc
from percpu.answers.messages import messages

from .conftest import RECORDINGS
from .test_explain import LINES

RUN = RECORDINGS / "reserved-612"
ONE_OF_EACH = {kind: line for kind, line, _ in LINES}
RUNS = sorted(path.parent for path in RECORDINGS.rglob("meta.json"))


@pytest.fixture(scope="module")
def trace():
    return pc.read_trace(RUN / "trace.txt.gz")


@pytest.mark.parametrize("kind", list(ONE_OF_EACH))
def test_every_kind_is_held_against_state_and_trace(kind, trace):
    assert set(ONE_OF_EACH) == set(messages())
    line = ONE_OF_EACH[kind]
    alone = pc.explain(line)[0]
    on_state = pc.explain(line, RUN / "state-a.json.gz")[0]
    in_trace = pc.explain(line, trace=trace)[0]
    assert alone.check is None
    assert alone.in_trace is None
    assert on_state.check is not None
    assert in_trace.in_trace is not None
    for more in (on_state, in_trace):
        assert len(more.findings) > len(alone.findings)
        assert all(more.findings)
        json.dumps(more.to_dict())
        assert "None" not in " ".join(more.findings)
    both = pc.explain(line, RUN / "state-a.json.gz", trace)[0]
    assert both.check is not None
    assert both.in_trace == in_trace.in_trace
    # Engines without statistics or states have less to say, but something.
    old = pc.Allocator(unit_size=64 << 10, nr_units=2, engine="cpu_alloc-2008")
    assert len(pc.explain(line, old)[0].findings) >= len(alone.findings)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_boot_lines_agree_with_the_states_of_that_boot(run):
    layout = json.loads((run / "meta.json").read_text())["layout"]
    head = layout["pcpu_alloc"]
    line = (
        f"pcpu-alloc: s{head['static']} r{head['reserved']} d{head['dyn']} u{head['unit']} "
        f"alloc={head['alloc_factor']}*{head['atom']}"
    )
    state = run / "state-a.json.gz"
    message = pc.explain(line, state)[0]
    assert message.check["differ"] == {}
    assert any("The state is of such a boot" in text for text in message.findings)
    other = pc.explain(line.replace(f"u{head['unit']}", f"u{2 * head['unit']}"), state)[0]
    assert other.check["differ"] == {"unit_size": [2 * head["unit"], head["unit"]]}
    assert f"unit_size is {2 * head['unit']} here and {head['unit']} there" in " ".join(other.findings)
    if "setup" in layout:
        cpus = layout["setup"]["nr_cpu_ids"]
        setup = f"setup_percpu: NR_CPUS:64 nr_cpumask_bits:64 nr_cpu_ids:{cpus} nr_node_ids:1"
        message = pc.explain(setup, state)[0]
        assert message.check["nr_cpus"] == cpus
        assert "another machine" not in " ".join(message.findings)
        fewer = pc.explain(setup.replace(f"ids:{cpus} ", f"ids:{cpus - 1} "), state)[0]
        assert "the state is of another machine" in fewer.findings[-1]
        mask = pc.explain(f"percpu: cpu_possible_mask={(1 << cpus) - 1:x}", state)[0]
        assert "another machine" not in " ".join(mask.findings)
    recorded = pc.Allocator.from_state(state).to_state()["globals"]
    kib = recorded["pcpu_nr_populated"] * recorded["pcpu_nr_units"] * 4
    message = pc.explain(f"Percpu:       {kib} kB", state)[0]
    assert message.check["memory_kib"] == kib
    assert "as much as the line" in " ".join(message.findings)
    assert "less than the line" in " ".join(pc.explain(f"Percpu:       {kib + 4} kB", state)[0].findings)
    for kind in ("max_distance", "falling_back"):
        message = pc.explain(ONE_OF_EACH[kind], state)[0]
        assert message.check["atom_size"] == head["atom"]
        assert message.check["nr_groups"] == recorded.get("pcpu_nr_groups", 1)


def test_a_boot_that_fell_back():
    state = RECORDINGS.parent / "initial" / "612-page2.json.gz"
    message = pc.explain("percpu: failed to allocate 4K page for cpu1", state)[0]
    assert message.check["page_by_page"]
    assert message.check["cpu_possible"]
    assert not pc.explain("percpu: failed to allocate 4K page for cpu2", state)[0].check["cpu_possible"]
    line = "setup_percpu: auto allocator failed (-22), falling back to page size"
    assert "single pages, as after such a message" in pc.explain(line, state)[0].findings[-1]
    other = pc.explain(line, RUN / "state-a.json.gz")[0]
    assert "no fall-back to single pages took place" in other.findings[-1]


def test_what_can_still_be_served():
    """Against every size, one after the other."""
    a = pc.Allocator(unit_size=64 << 10, nr_units=2, balance="manual")
    live = [a.alloc(1000 + 40 * n) for n in range(40)]
    for p in live[::3]:
        a.free(p)
    facts = pc.explain("percpu: limit reached, disable warning", a)[0].check

    def served(size, chunks=None, **more):
        copy = a.copy()
        if chunks is not None:
            copy.limit_supply(chunks=chunks)
        try:
            copy.alloc(size, 8, **more)
        except pc.AllocError:
            return False
        return True

    sizes = range(4, (32 << 10) + 4, 4)
    assert facts["largest_atomic_bytes"] == max((size for size in sizes if served(size, atomic=True)), default=0)
    assert facts["largest_without_chunk_bytes"] == max((size for size in sizes if served(size, chunks=0)), default=0)
    assert a.nr_units == 2
    empty = pc.Allocator(unit_size=64 << 10, nr_units=2)
    assert "served has no byte" in pc.explain("percpu: limit reached, disable warning", empty)[0].findings[0]


def test_traces_say_what_they_show(trace):
    rows = list(trace.rows())
    failed = [row for row in rows if row["kind"] == "fail"]
    allocs = [row for row in rows if row["kind"] == "alloc"]
    limit = pc.explain("percpu: limit reached, disable warning", trace=trace)[0].in_trace
    kinds = Counter((r["size_bytes"], r["align_bytes"], r["atomic"], r["reserved"]) for r in failed)
    assert (limit["nr_failed"], limit["nr_kinds"]) == (len(failed), len(kinds))
    assert rows[limit["first_event"]]["kind"] == "fail"
    illegal = pc.explain("illegal size (40960) or align (8) for percpu allocation", trace=trace)[0].in_trace
    assert illegal["max_size_bytes"] == max(row["size_bytes"] for row in allocs + failed)
    assert illegal["max_align_bytes"] == max(row["align_bytes"] for row in allocs + failed)
    assert illegal["nr_same_request"] == 0
    one = allocs[0]
    line = f"illegal size ({one['size_bytes']}) or align ({one['align_bytes']}) for percpu allocation"
    same = sum((r["size_bytes"], r["align_bytes"]) == (one["size_bytes"], one["align_bytes"]) for r in allocs + failed)
    assert pc.explain(line, trace=trace)[0].in_trace["nr_same_request"] == same
    live = {}
    for row in rows:
        place = (row["base_addr"], row["off_bytes"])
        if row["kind"] == "alloc":
            live[place] = row["size_bytes"]
        elif row["kind"] == "free":
            live.pop(place, None)
    memory = pc.explain("Percpu:   5888 kB", trace=trace)[0].in_trace
    assert (memory["nr_live"], memory["live_bytes"]) == (len(live), sum(live.values()))
    assert memory["all_live_bytes"] == 2 * sum(live.values())
    end = max(row["off_bytes"] + row["size_bytes"] for row in allocs)
    head = "pcpu-alloc: s192512 r8192 d28672 u{} alloc=1*2097152"
    fits = pc.explain(head.format(262_144), trace=trace)[0]
    assert fits.in_trace["end_bytes"] == end
    assert "which fits" in fits.findings[-1]
    assert "another machine or boot" in pc.explain(head.format(4096), trace=trace)[0].findings[-1]
    setup = "setup_percpu: NR_CPUS:64 nr_cpumask_bits:64 nr_cpu_ids:{} nr_node_ids:1"
    busy = pc.read_trace(RECORDINGS / "fork-612-4cpu" / "trace.txt.gz")
    for cpus, wrong in ((4, False), (3, True)):
        message = pc.explain(setup.format(cpus), trace=busy)[0]
        assert message.in_trace["nr_cpus_seen"] == 1 + max(row["cpu"] for row in busy.rows())
        assert ("of another machine" in " ".join(message.findings)) == wrong
    nothing = pc.read_trace(RUN / "trace.txt.gz")[:0]
    for kind, line in ONE_OF_EACH.items():
        assert pc.explain(line, trace=nothing)[0].in_trace is not None, kind


@pytest.mark.parametrize("name", ["drain-612-4cpu", "cg-up"])
def test_the_cpus_of_a_trace_are_those_that_owners_finds(name):
    path = RECORDINGS / name / "trace.txt.gz"
    found = pc.explain("setup_percpu: NR_CPUS:64 nr_cpumask_bits:64 nr_cpu_ids:8 nr_node_ids:1", trace=path)[0].findings
    owners = pc.owners(path).summary
    assert f"Possible CPUs by its events: {owners['cpus']}. How that is known: {owners['cpus_source']}." in found
