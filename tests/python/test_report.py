"""Reports: their figures are those of the trace, and the page stands by itself."""

from __future__ import annotations

import gzip
import io
import json
import re
from collections import Counter

import numpy as np
import pytest

import percpu as pc
from percpu.cli import main
from percpu.plot import chunk_heat
from percpu.report import _CIVIDIS, heat_svg

from .test_rich import images, pictures

SECTIONS = ["Summary", "Memory over time", "Chunks over time", "Largest owners", "At the end"]


@pytest.fixture
def run(recordings):
    """A recording with call sites, as trace and state."""
    directory = next(d for d in recordings if d.name == "netns-612-3+1")
    return pc.read_trace(directory / "trace.txt.gz"), directory / "state-a.json.gz", directory / "trace.txt.gz"


def alone(page):
    assert len(page) < 5_000_000
    assert "://" not in page
    assert "<script" not in page
    assert "default-src 'none'" in page
    for address in re.findall(r"(?:href|src)=['\"]([^'\"]*)", page):
        assert address.startswith("data:")
    return pictures(page)


def test_without_a_state(run):
    trace, _, _ = run
    made = pc.report(trace)
    assert [section.title for section in made.sections] == SECTIONS
    alone(made.html)
    follow = pc.replay(trace, mode="follow")
    assert made.summary["replay"] == follow.summary
    first = made.sections[0].body
    assert f"{len(trace):,}" in first
    for row in trace.summary().rows():
        if row["nr_events"]:
            assert row["kind"] in first
    end = made.sections[-1].body
    for address in follow.chunks.base_addr[follow.chunks.missing("destroyed_event")]:
        assert f"{int(address):x}" in end


def test_with_the_state_everything_is_predicted(run):
    trace, state, _ = run
    start = pc.Allocator.from_state(state)
    before = start.snapshot()
    made = pc.report(trace, state=start, steps=12, title="<mine>")
    assert start.snapshot() == before
    assert [section.title for section in made.sections] == [*SECTIONS, "Step by step"]
    assert made.summary["replay"]["nr_diverged"] == 0
    assert made.sections[-1].body.count("<details") >= 12
    assert "&lt;mine&gt;" in made.html
    assert "<mine>" not in made.html
    alone(made.html)
    end = pc.replay(trace, start.copy()).at(len(trace))
    for number in end.chunks:
        assert f"chunk {number}" in made.sections[4].body


def test_owners_are_those_of_the_summary(run):
    trace, _, _ = run
    body = pc.report(trace).sections[3].body
    rows = re.findall(r"<tr>(.*?)</tr>", body)[1:]
    sites = {row["call_site"]: row for row in trace.summary().call_sites.rows()}
    live = []
    for row in rows:
        name, bytes_, areas, peak, requests, _ = re.findall(r"<td[^>]*>(.*?)</td>", row)
        known = sites[name]
        assert bytes_ == f"{known['live_bytes']:,}"
        assert areas == f"{known['nr_live']:,}"
        assert peak == f"{known['peak_live_bytes']:,}"
        assert requests == f"{known['nr_alloc']:,}"
        live.append(known["live_bytes"])
    assert live == sorted(live, reverse=True)
    assert len(rows) == min(len(sites), 20)


def test_the_colours_of_chunks_over_time(run):
    trace, state, _ = run
    heat = chunk_heat(pc.replay(trace, pc.Allocator.from_state(state)), 20)
    cells, scale = images(str(heat_svg(heat)))
    assert cells.shape[:2] == heat.bytes.shape
    assert np.array_equal(scale[:, 0], _CIVIDIS[::-1])
    for row, column in np.ndindex(heat.bytes.shape):
        value = heat.bytes[row, column]
        if np.isnan(value):
            assert cells[row, column].tolist() == [217, 219, 222]
            continue
        position = value / heat.capacity * 9
        near = _CIVIDIS[round(position)]
        step = np.abs(np.diff(_CIVIDIS, axis=0)).max()
        assert np.abs(cells[row, column] - near).max() <= step / 2 + 1


@pytest.mark.parametrize("known", [True, False])
def test_without_call_sites_areas_are_counted_by_size(recordings, known):
    """As kernels before 5.19 print it; with the state every chunk counts, the reserved one too."""
    run = next(d for d in recordings if d.name == "reserved-612")
    text = gzip.decompress((run / "trace.txt.gz").read_bytes()).decode()
    trace = pc.read_trace(io.BytesIO(re.sub(r"call_site=.*? reserved=", "reserved=", text).encode()))
    body = pc.report(trace, state=run / "state-a.json.gz" if known else None).sections[3].body
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)[1:]]
    found = [tuple(int(cell.replace(",", "")) for cell in row) for row in rows]
    if known:
        sizes = pc.pins(run / "state-b.json.gz").areas.size_bytes
    else:
        live = {}
        for row in trace.rows():
            if row["kind"] in ("alloc", "free"):
                live.pop((row["base_addr"], row["off_bytes"]), None)
            if row["kind"] == "alloc":
                live[row["base_addr"], row["off_bytes"]] = -(-row["size_bytes"] // 4) * 4
        sizes = list(live.values())
    counts = Counter(np.asarray(sizes).tolist())
    expected = sorted(((size, n, size * n) for size, n in counts.items()), key=lambda row: (-row[2], row[0]))
    assert found == expected[:20]


def test_a_replay_in_which_no_chunk_is_ever_made():
    line = "a-1 [000] d..2. 1.000000: percpu_free_percpu: base_addr=0000000000100000 off=0 ptr=0000000000100000\n"
    trace = pc.read_trace(io.BytesIO(line.encode()))
    start = pc.Allocator(unit_size=64 << 10, nr_units=2)
    assert [section.title for section in pc.report(trace, state=start).sections] == [
        name for name in SECTIONS if name != "Chunks over time"
    ]
    with pytest.raises(pc.InvalidRequest, match="what: there is no chunk at any time"):
        chunk_heat(pc.replay(trace, start))


def test_odd_traces(recordings):
    trace = pc.read_trace(recordings[0] / "trace.txt.gz")
    empty = pc.report(trace[:0])
    assert [section.title for section in empty.sections] == ["Summary", "At the end"]
    alone(empty.html)
    kinds = [row["kind"] for row in trace.rows()]
    others = trace[np.array([kind not in ("alloc", "free") for kind in kinds])]
    alone(pc.report(others).html)
    hashed = next((recordings[0].parents[1] / "captures").glob("ftrace-hashed*"))
    alone(pc.report(hashed).html)


def test_long_traces_have_no_longer_reports(run):
    trace, _, _ = run
    short, long = pc.report(trace), pc.report(pc.Trace.concatenate([trace] * 40))
    assert len(long.html) < 2 * len(short.html)


def test_arguments(run):
    trace, state, _ = run
    with pytest.raises(pc.InvalidRequest, match="steps=3: they need the state"):
        pc.report(trace, steps=3)
    with pytest.raises(pc.InvalidRequest, match="unit_size=4096: the state says"):
        pc.report(trace, state=state, unit_size=4096)
    with pytest.raises(pc.InvalidRequest, match="kernel='foo': must be one of"):
        pc.report(trace, kernel="foo")
    with pytest.raises(pc.InvalidRequest, match="steps=201"):
        pc.report(trace, state=state, steps=201)
    with pytest.raises(pc.StateError):
        pc.report(trace, state=b"{}")


def test_command(run, tmp_path, capsys):
    _, state, path = run
    out = tmp_path / "r.html"
    assert main(["report", str(path), "-o", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    alone(out.read_text())
    assert main(["report", str(path), "--state", str(state), "--steps", "5", "-o", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bytes"] == out.stat().st_size
    assert facts["sections"] == [*SECTIONS, "Step by step"]
    assert facts["replay"]["nr_diverged"] == 0
    assert main(["report", str(path), "--steps", "5", "-o", str(out)]) == 1
    assert "need the state" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "none.txt"), "-o", str(out)]) == 1
