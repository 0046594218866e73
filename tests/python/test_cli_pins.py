"""`percpu pins`: tables, JSON, files and pictures."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest

import percpu as pc
from percpu.cli import main

from .conftest import RECORDINGS, ROOT

DRAIN = RECORDINGS / "drain-612-4cpu"
CAPTURES = ROOT / "tests" / "data" / "captures"
TRACE, STATE = str(DRAIN / "trace.txt.gz"), str(DRAIN / "state-a.json.gz")


def printed(capsys, *arguments):
    assert main(["pins", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_json_has_everything(capsys):
    found = json.loads(printed(capsys, TRACE, "--state", STATE, "--json", "--top", 3))
    p = pc.pins(TRACE, STATE)
    assert found["summary"] == p.summary
    assert len(found["chunks"]) == 3
    by_chunk = {row["chunk"]: row for row in p.rows()}
    assert all(row == by_chunk[row["chunk"]] for row in found["chunks"])
    shares = [row["populated_bytes"] / row["nr_areas"] for row in found["chunks"]]
    assert shares == sorted(shares, reverse=True)
    least = p.smallest()
    assert [row["off_bytes"] for row in found["freeing"]["areas"]] == least.off_bytes.tolist()
    assert found["freeing"]["nr_areas"] == least.attrs["nr_areas"]
    assert {row["chunk"] for row in found["owners"]} == {row["chunk"] for row in found["chunks"]}
    assert [row["least_pages"] for row in found["ideal"]] == p.ideal().least_pages.tolist()
    assert {row["engine"] for row in found["engines"]} == set(pc.kernels().engine.tolist())


def test_the_table(capsys):
    pytest.importorskip("rich")
    text = printed(capsys, TRACE, "--state", STATE, "--owners", "--no-engines")
    p = pc.pins(TRACE, STATE)
    assert text.startswith(f"{p.summary['nr_areas']:,} areas of {p.summary['used_bytes']:,} bytes in 8 chunks")
    least = p.smallest()
    assert f"The fewest areas to free: {len(least)} areas of {least.attrs['areas_bytes']:,} bytes" in text
    assert f"{p.summary['waiting_pages']} more" in text
    assert "(before the capture)" in text
    assert "on each engine" not in text
    two = printed(capsys, TRACE, "--state", STATE, "--chunks", 3, "--no-engines", "--top", 2)
    assert f"{len(p.smallest(3))} areas" in two
    assert "and 6 more (--top)" in two
    some = printed(capsys, TRACE, "--state", STATE, "--bytes", "1M", "--no-engines")
    assert f"The fewest areas to free: {len(p.cheapest(1 << 20))} areas" in some


def test_a_state_and_a_capture(capsys):
    text = printed(capsys, STATE)
    assert "CPUs: of the state. Pages: as in the state." in text
    assert "engine" not in text
    capture = CAPTURES / "record-netns.txt.gz"
    stats = capture.with_name("record-netns.percpu_stats-a.txt")
    text = printed(capsys, capture, "--stats", stats, "--kernel", "5.4", "--cpus", 64)
    assert "x 64 CPUs" in text
    assert "Not seen: up to" in text
    assert "goes only as a whole" in text
    assert "Nothing to free is known to suffice: chunks=1: at most 0 can go." in text
    assert "any, at least" in text


def test_a_state_of_another_machine(capsys):
    """What the trace placed in chunks that the state has not is not passed over in silence."""
    other = RECORDINGS / "cg-own-2+2" / "state-a.json.gz"
    text = printed(capsys, TRACE, "--state", other, "--no-engines")
    p = pc.pins(TRACE, other)
    live = pc.replay(pc.read_trace(TRACE), mode="follow").live()
    known = {(row["base_addr"], row["off_bytes"]) for row in live.rows() if not row["prior"]}
    base = dict(zip(p.chunk.tolist(), p.base_addr.tolist(), strict=True))
    found = {(base[row["chunk"]], row["off_bytes"]) for row in p.areas.rows()}
    assert p.summary["nr_outside"] == len(known - found) > 0
    assert f"Left out, since there is no chunk then: {p.summary['nr_outside']:,} areas of the trace." in text
    assert "Left out" not in printed(capsys, TRACE, "--state", STATE, "--no-engines")


def test_what_was_not_seen_by_the_statistics_of_the_end(capsys):
    run = RECORDINGS / "cg-own-2+2"
    end = run / "percpu_stats-b.txt"
    found = json.loads(printed(capsys, run / "trace.txt.gz", "--stats-end", end, "--no-engines", "--json", "--cpus", 4))
    truth = {c["base_addr"]: c for c in pc.pins(run / "state-b.json.gz").rows() if c["kind"] != "reserved"}
    told = 0
    for row in found["chunks"]:
        there = truth[row["base_addr"]]
        if row["unseen_areas"] is not None:
            assert row["nr_areas"] + row["unseen_areas"] == there["nr_areas"]
            assert row["used_bytes"] + row["unseen_bytes"] == there["used_bytes"]
            told += 1
    assert told == len(found["chunks"])


def test_a_stream(capsys):
    stream = json.loads(printed(capsys, TRACE, "--stream", "--json", "--cpus", 4))
    whole = json.loads(printed(capsys, TRACE, "--json", "--cpus", 4, "--no-engines"))
    assert stream["engines"] is None
    assert stream["summary"]["pages_from"] == "live areas only"
    names = ("chunk", "nr_areas", "used_bytes", "release_areas")
    found = [sorted(tuple(row[name] for name in names) for row in facts["chunks"]) for facts in (stream, whole)]
    assert found[0] == found[1]
    assert stream["freeing"]["nr_areas"] == whole["freeing"]["nr_areas"]


@pytest.mark.parametrize("how", ["--stream", "--lenient"])
def test_the_head_of_a_capture_tells_the_cpus_however_it_is_read(capsys, how):
    capture = CAPTURES / "record-netns.txt.gz"
    found = json.loads(printed(capsys, capture, how, "--json", "--no-engines"))["summary"]
    assert (found["cpus"], found["cpus_from"]) == (2, "as the head of the capture says")
    assert json.loads(printed(capsys, capture, how, "--json", "--no-engines", "--cpus", 5))["summary"]["cpus"] == 5


def test_standard_input():
    command = [sys.executable, "-m", "percpu.cli", "pins", "-", "--json", "--no-engines", "--cpus", "2"]
    with (CAPTURES / "perf-script.txt.gz").open("rb") as file:
        out = subprocess.run(command, stdin=file, capture_output=True, check=True).stdout
    assert json.loads(out)["summary"] == pc.pins(CAPTURES / "perf-script.txt.gz", cpus=2).summary


def test_files(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    out, picture = tmp_path / "deep" / "pins.csv", tmp_path / "pins.png"
    printed(capsys, STATE, "-o", out, "--plot", picture, "--top", 2)
    p = pc.pins(STATE)
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["nr_areas"]) for row in rows] == p.nr_areas.tolist()
    assert list(rows[0]) == list(p)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["pins", STATE, "--plot", "x.foo"]) == 1
    assert capsys.readouterr().err.startswith("percpu: x.foo: must end in one of .")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((STATE, "--state", STATE), "is a state itself"),
        ((TRACE, "--state", STATE, "--stream"), "--stream and --state exclude each other"),
        ((STATE, "--top", "0"), "--top 0: must be at least 1"),
        ((STATE, "--chunks", "0"), "--chunks 0: must be at least 1"),
        ((STATE, "--bytes", "0"), "--bytes 0: must be at least 1"),
        ((STATE, "--stats-end", STATE), "--stats-end: "),
        ((STATE, "-o", "x.txt"), "must end in .csv, .json or .parquet"),
        ((TRACE, "--kernel", "1.0"), "kernel='1.0'"),
        (("/nowhere",), "No such file"),
    ],
)
def test_wrong_arguments(capsys, arguments, text):
    assert main(["pins", *arguments, "--json"]) == 1
    assert text in json.loads(capsys.readouterr().err)["message"]
