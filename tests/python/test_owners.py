"""Who owns what, against a loop over the events of recorded traces that keeps everything in dictionaries."""

from __future__ import annotations

import gzip
import json
import pickle
import re
from collections import Counter, defaultdict

import numpy as np
import pytest

import percpu as pc
from percpu.answers._machine import live_areas
from percpu.cli import main

from .conftest import RECORDINGS, ROOT

CAPTURES = ROOT / "tests" / "data" / "captures"
NETNS = CAPTURES / "record-netns.txt.gz"
STATS = CAPTURES / "record-netns.percpu_stats-a.txt"
STATS_END = CAPTURES / "record-netns.percpu_stats-b.txt"
BEFORE = "(before the capture)"
# Traces with call sites, and what they are of: module call sites, times, order numbers, hashes, perf, bpftrace.
TRACES = [
    *(RECORDINGS / run / "trace.txt.gz" for run in ("netns-612-3+1", "cg-own-2+2", "cg-up", "drain-612-4cpu")),
    RECORDINGS / "boot-612-4cpu" / "trace.txt.gz",
    *sorted(CAPTURES.glob("*.txt.gz")),
]
RUNS = [path for path in TRACES if path.name == "trace.txt.gz"]
KEYS = {
    "site": lambda row: row["call_site"] or "(no call site)",
    "function": lambda row: function_of(row["call_site"]),
    "size": lambda row: f"{row['size_bytes']} bytes",
    "chunk": lambda row: row["base_addr"],
}


def function_of(site):
    name, _, rest = site.partition("+0x")
    return name + (rest[rest.index(" ") :] if " " in rest else "")


class Naive:
    """All that the events say, the slow way; and what was held after some of them."""

    def __init__(self, trace, by, course=()):
        self.rows = list(trace.rows())
        self.live = {}  # place -> row, event
        self.held = defaultdict(int)
        self.peak = {}
        self.counts = Counter()
        self.placed = Counter()
        self.freed = Counter()
        self.lives = defaultdict(list)
        self.nr_prior = 0
        self.course = {}
        key = KEYS[by]
        for event, row in enumerate(self.rows):
            place = (row["base_addr"], row["off_bytes"])
            if row["kind"] in ("alloc", "free") and place in self.live:
                # A second allocation at the same place stands for a missing free.
                old, born = self.live.pop(place)
                self.held[key(old)] -= old["size_bytes"]
                self.freed[key(old)] += 1
                self.lives[key(old)].append((event - born, row["time_ns"] - old["time_ns"]))
            elif row["kind"] == "free":
                self.nr_prior += 1
            if row["kind"] == "alloc":
                owner = key(row)
                self.live[place] = (row, event)
                self.held[owner] += row["size_bytes"]
                self.counts[owner] += 1
                self.placed[owner] += row["size_bytes"]
                if self.held[owner] > self.peak.get(owner, (0, 0, 0))[0]:
                    self.peak[owner] = (self.held[owner], event, row["time_ns"])
            if event in course:
                self.course[event] = dict(self.held)
        self.of = defaultdict(list)
        for row, born in self.live.values():
            self.of[key(row)].append((row, born))


@pytest.mark.parametrize("by", list(KEYS))
@pytest.mark.parametrize("path", TRACES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_column_is_that_of_a_naive_loop(path, by):
    trace = pc.read_trace(path)
    found = pc.owners(trace, by=by)
    naive = Naive(trace, by, {found.summary["window_first_event"] - 1})
    rows = [row for row in found.rows() if not row["before"]]
    name = "base_addr" if by == "chunk" else "owner"
    assert {row[name] for row in rows if row["nr_alloc"]} == set(naive.counts)
    timed = trace.info["clock"] != "counter"
    last_event, last_time = len(trace) - 1, naive.rows[-1]["time_ns"]
    # Chunks that were made again at an address are rows of their own: added up, they are compared at the end.
    again = Counter(row[name] for row in rows)
    window = found.summary["window_first_event"]
    for row in rows:
        owner = row[name]
        if again[owner] > 1:
            continue
        areas = naive.of[owner]
        assert row["live_bytes"] == naive.held[owner] == sum(area["size_bytes"] for area, _ in areas)
        assert (row["nr_live"], row["nr_alloc"]) == (len(areas), naive.counts[owner])
        assert row["alloc_bytes"] == naive.placed[owner]
        assert row["nr_free"] == naive.freed[owner]
        assert (row["peak_bytes"], row["peak_event"]) == naive.peak[owner][:2]
        assert row["peak_time_ns"] == (naive.peak[owner][2] if timed else None)
        lives = naive.lives[owner]
        assert row["mean_life_events"] == (pytest.approx(np.mean([e for e, _ in lives]), abs=1e-3) if lives else None)
        ages = sorted(last_event - born for _, born in areas)
        assert row["age_max_events"] == (ages[-1] if ages else None)
        assert row["age_median_events"] == (ages[(len(ages) - 1) // 2] if ages else None)
        seconds = sorted((last_time - area["time_ns"]) / 1e9 for area, _ in areas)
        assert row["age_max_seconds"] == (pytest.approx(seconds[-1]) if ages and timed else None)
        sizes = Counter(area["size_bytes"] for area, _ in areas)
        assert row["nr_sizes"] == (len(sizes) or None)
        if sizes:
            assert row["main_size_bytes"] == max(sizes, key=lambda size: (sizes[size] * size, size))
        change = naive.held[owner] - (naive.course[window - 1].get(owner, 0) if window else 0)
        events = len(trace) - window
        assert row["growth_bytes_per_1000_events"] == pytest.approx(1000 * change / events, abs=1e-3)
        if timed:
            begin = naive.rows[max(window - 1, 0)]["time_ns"]
            assert row["growth_bytes_per_second"] == pytest.approx(change / ((last_time - begin) / 1e9), abs=1e-3)
        else:
            assert row["growth_bytes_per_second"] is None
    assert sum(row["live_bytes"] for row in rows) == sum(naive.held.values()) == found.summary["live_bytes"]
    assert found.summary["nr_freed_prior"] == naive.nr_prior
    share = sum(row["share_percent"] for row in rows)
    assert share == pytest.approx(100 if found.summary["live_bytes"] else 0, abs=0.5)


@pytest.mark.parametrize("path", [TRACES[1], TRACES[3], NETNS], ids=lambda p: p.parent.name)
def test_the_course_and_the_parts(path):
    trace = pc.read_trace(path)
    by = "site" if path != TRACES[3] else "size"
    found = pc.owners(trace, by=by)
    naive = Naive(trace, by, set((found.course().event - 1).tolist()))
    course = found.course(top=3)
    names = list(course._categories["owner"])
    shown = [name for name in names if name != "(others)"]
    peaks = sorted((peak for peak, *_ in naive.peak.values()), reverse=True)
    assert [naive.peak[name][0] for name in shown] == peaks[:3]
    assert ("(others)" in names) == (len(peaks) > 3)
    for row in course.rows():
        held = naive.course[row["event"] - 1]
        if row["owner"] == "(others)":
            assert row["live_bytes"] == sum(held.values()) - sum(held.get(name, 0) for name in shown)
        else:
            assert row["live_bytes"] == held.get(row["owner"], 0)
        assert row["time_ns"] == naive.rows[row["event"] - 1]["time_ns"]
    assert course.event[-1] == len(trace)
    assert len(np.unique(course.event)) <= 1024
    expected = Counter((KEYS[by](row), row["size_bytes"]) for row, _ in naive.live.values())
    assert {(row["owner"], row["size_bytes"]): row["nr_live"] for row in found.sizes.rows()} == expected
    assert all(row["live_bytes"] == row["nr_live"] * row["size_bytes"] for row in found.sizes.rows())
    for unit in ("seconds", "events"):
        ages = found.ages(unit)
        assert ages.nr_live.sum() == len(naive.live)
        assert ages.live_bytes.sum() == found.summary["live_bytes"]
        for row in ages.rows():
            low, high = row[f"from_{unit}"], row[f"to_{unit}"]
            inside = 0
            for area, born in naive.of[row["owner"]]:
                seconds = (naive.rows[-1]["time_ns"] - area["time_ns"]) / 1e9
                age = seconds if unit == "seconds" else len(trace) - 1 - born
                inside += age >= low and (high is None or age < high)
            assert row["nr_live"] == inside


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.parent.name)
def test_with_a_start_state_the_end_state_is_reached(path):
    """Owners and what is left of before add up to what the kernel itself had at the end."""
    run = path.parent
    found = pc.owners(path, run / "state-a.json.gz")
    end = pc.Allocator.from_state(run / "state-b.json.gz")
    _, _, sizes = live_areas(end)
    assert int(found.nr_live.sum()) == len(sizes) == sum(chunk.nr_alloc for chunk in chunks_of(end))
    assert int(found.live_bytes.sum()) == int(sizes.sum())
    before = found.row(len(found) - 1)
    assert (before["owner"], before["before"]) == (BEFORE, True)
    start = pc.Allocator.from_state(run / "state-a.json.gz")
    assert before["peak_bytes"] == int(live_areas(start)[2].sum())
    assert before["nr_free"] == found.summary["nr_freed_prior"] == len(live_areas(start)[0]) - before["nr_live"]
    unseen = found.unseen
    assert (unseen["source"], unseen["bytes_least"], unseen["bytes_most"]) == ("state",) + 2 * (before["live_bytes"],)
    assert (
        found.summary["cpus"] == json.loads((run / "meta.json").read_text())["layout"]["setup"]["nr_cpu_ids"]
        if ("setup" in json.loads((run / "meta.json").read_text()).get("layout", {}))
        else found.summary["cpus"] == end.nr_units
    )
    assert (found.all_live_bytes == found.live_bytes * np.uint64(found.summary["cpus"])).all()
    # The course begins with what was there, and ends with what is.
    course = found.course(top=1000)
    assert course.live_bytes[course.event == course.event[-1]].sum() == found.live_bytes.sum()


def chunks_of(allocator):
    own = allocator.reserved_chunk
    return [*([own] if own is not None else []), *allocator.chunks.values()]


def test_areas_of_a_state_are_those_of_its_maps(recordings):
    for run in recordings:
        allocator = pc.Allocator.from_state(run / "state-a.json.gz")
        base, off, size = live_areas(allocator)
        for chunk in chunks_of(allocator):
            inside = base == chunk.base_addr
            shared = sum(other.base_addr == chunk.base_addr for other in chunks_of(allocator)) > 1
            hidden = chunk.start_offset + chunk.end_offset
            used = 4 * int(chunk.alloc_map.sum()) - hidden
            if not shared:
                assert (int(size[inside].sum()), int(inside.sum())) == (used, chunk.nr_alloc)
        assert len(set(zip(base.tolist(), off.tolist(), strict=True))) == len(base)


@pytest.mark.parametrize("by", list(KEYS))
def test_blocks_do_not_matter(by):
    whole = pc.owners(NETNS, by=by)
    for events in (1, 100, 10_000):
        parts = pc.owners(pc.iter_trace(NETNS, events=events), by=by, cpus=2)
        assert parts == whole
        assert parts.course() == whole.course()
        assert parts.ages() == whole.ages()
        assert parts.sizes == whole.sizes
    copy = pickle.loads(pickle.dumps(whole))
    assert copy == whole
    assert copy.summary == whole.summary
    assert copy.course() == whole.course()
    assert str(copy) == str(whole)


# -- what cannot be seen -----------------------------------------------------------------


def test_what_the_capture_cannot_see():
    """Totals are the kernel's own; what is not placed in the capture is the rest."""
    end, start = pc.read_percpu_stats(STATS_END), pc.read_percpu_stats(STATS)
    naive = Naive(pc.read_trace(NETNS), "site")
    live = sum(naive.held.values())
    exact = pc.owners(NETNS, stats_end=STATS_END)
    objects = end.totals["nr_cur_alloc"] - len(naive.live)
    size = int(end.table().used_bytes.sum()) - live
    assert exact.unseen["source"] == "stats_end"
    assert (exact.unseen["objects_least"], exact.unseen["objects_most"]) == (objects, objects)
    assert abs(exact.unseen["bytes_least"] - size) <= 4
    assert exact.unseen["bytes_most"] == exact.unseen["bytes_least"]
    assert exact.unseen["share_least"] == pytest.approx(size / (size + live), abs=1e-3)
    row = exact.row(len(exact) - 1)
    assert (row["owner"], row["nr_live"], row["peak_bytes"]) == (BEFORE, objects, None)
    # Of the start: what was freed since has unknown sizes, so there are limits.
    bounded = pc.owners(NETNS, stats=STATS)
    assert bounded.unseen["source"] == "stats"
    assert bounded.unseen["objects_least"] == start.totals["nr_cur_alloc"] - naive.nr_prior
    assert bounded.unseen["bytes_least"] <= bounded.unseen["bytes_most"]
    # The recording says in its README that the kernel counted two frees more than it traced: those are live here.
    assert bounded.unseen["bytes_least"] <= size + 2 * 64
    assert bounded.unseen["bytes_most"] >= size
    # Nothing given: no limit, and it says so.
    blind = pc.owners(NETNS)
    assert blind.unseen["source"] is None
    assert (blind.unseen["bytes_least"], blind.unseen["bytes_most"], blind.unseen["share_most"]) == (0, None, None)
    assert blind.row(len(blind) - 1)["live_bytes"] is None
    assert "nothing tells how much it is" in str(blind)
    # The memory of all units is an upper limit.
    text = "MemTotal:  1 kB\nPercpu:              5888 kB\n"
    limited = pc.owners(NETNS, meminfo=text)
    assert limited == pc.owners(NETNS, meminfo=5888)
    assert limited.unseen["bytes_most"] == (5888 << 10) // 2 - live
    assert "by Percpu: of meminfo" in str(limited)
    assert 0 < limited.unseen["share_most"] < 1


def test_statistics_of_another_moment_are_noticed():
    few = pc.Allocator(unit_size=1 << 20, nr_units=2)
    few.alloc(8)
    trace = pc.read_trace(RECORDINGS / "drain-612-4cpu" / "trace.txt.gz")
    found = pc.owners(trace, stats_end=few.stats_text(), unit_size=1 << 20)
    assert found.unseen["objects_least"] < 0
    assert "they are of another moment or machine" in str(found)
    assert found.unseen["share_most"] == 0


# -- how many CPUs -----------------------------------------------------------------------


def test_the_number_of_cpus(tmp_path, layout):
    def of(trace, **more):
        facts = pc.owners(trace, **more).summary
        return facts["cpus"], facts["cpus_least"], facts["cpus_most"], facts["cpus_source"]

    assert of(NETNS)[:3] == (2, 2, 2)
    assert "head of the capture" in of(NETNS)[3]
    trace = pc.read_trace(NETNS)
    assert of(trace)[:3] == (2, 2, 4)
    assert "bytes_alloc is 4 times the size: 2 with memory cgroups" in of(trace)[3]
    assert of(NETNS, cpus=64) == (64, 64, 64, "as given")
    assert of(trace, layout=layout)[0] == 8
    lines = gzip.decompress(NETNS.read_bytes()).decode().splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#"))
    plain = tmp_path / "trace.txt"
    # Events of a CPU that there would not be with memory cgroups.
    plain.write_text(text.replace("[001]", "[003]"))
    assert of(plain)[:3] == (4, 4, 4)
    assert "CPU 3 wrote events" in of(plain)[3]
    # Words of 32 bits: once the size more, not twice.
    plain.write_text(re.sub(r"ptr=\w+", "ptr=(ptrval)", text.replace("ffffe8ffffc00000", "c0c00000")))
    assert of(plain)[:3] == (3, 3, 4)
    # Before 5.19 the events do not tell.
    plain.write_text("".join(line.partition(" bytes_alloc=")[0].rstrip() + "\n" for line in text.splitlines()))
    number, least, most, source = of(plain)
    assert (number, least, most) == (None, 2, None)
    assert source.startswith("not known")
    unknown = pc.owners(plain)
    assert "all_live_bytes" not in unknown
    assert "-" in str(unknown)
    one = "a-1 [000] ..... 1.0: percpu_alloc_percpu: call_site=a+0x1/0x2 reserved=0 is_atomic=0 size=8 align=8 "
    one += "base_addr=ffffe8ffffc00000 off={} ptr=0000000000000000 bytes_alloc={} gfp_flags=none\n"
    plain.write_text(one.format(0, 16) + one.format(8, 48))
    assert of(plain)[0] is None
    assert "bytes_alloc is 2 to 6 times the size" in of(plain)[3]
    # A function of the memory cgroups shows that they are there.
    sites = pc.read_trace(CAPTURES / "ftrace-hashed.txt.gz")
    assert of(sites)[:3] == (2, 2, 2)
    assert of(sites)[3].endswith("mem_cgroup_css_alloc shows memory cgroups built in")
    plain.write_text(one.format(0, 8))
    assert of(plain)[:3] == (1, 1, 1)
    # A damaged head tells nothing.
    for damaged in ("5-3", "0-99999999", "0-1-2", "-"):
        plain.write_text(f"# kernel=6.12 possible_cpus={damaged}\n{one.format(0, 8)}")
        assert of(plain)[:3] == (1, 1, 1), damaged


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.parent.name)
def test_the_number_of_cpus_of_recordings(path):
    """What the events alone suggest is the number that the state has, in kernels with memory cgroups."""
    cpus = pc.owners(path).summary
    assert cpus["cpus"] == pc.Allocator.from_state(path.parent / "state-a.json.gz").nr_units
    own0 = pc.owners(RECORDINGS / "netns-own0-4cpu" / "trace.txt.gz").summary
    assert own0["cpus_least"] <= 4 <= own0["cpus_most"]


# -- call sites --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kallsyms(tmp_path_factory):
    """A table of 200,000 symbols in which the functions of a capture lie, and where each begins."""
    sites = sorted({site for site in pc.read_trace(NETNS)._core.call_sites() if "+0x" in site})
    sizes = {site.partition("+")[0]: int(site.partition("/0x")[2].split()[0], 16) for site in sites}
    lines, begin, address = [], {}, 0xFFFF_FFFF_8100_0000
    names = sorted(sizes)
    for number in range(200_000):
        name = names[number // 1000] if number % 1000 == 0 and number // 1000 < len(names) else f"other_{number}"
        lines.append(f"{address:016x} {'Tt'[number % 2]} {name}" + ("\t[nf_conntrack]" if "conntrack" in name else ""))
        lines.append(f"{address + 1:016x} d data_{number}")
        begin[name] = address
        address += sizes.get(name, 16 + number % 7)
    path = tmp_path_factory.mktemp("kallsyms") / "kallsyms"
    path.write_text("\n".join(lines) + "\n")
    return path, begin, sites, pc.read_kallsyms(path)


def test_addresses_are_resolved(kallsyms, tmp_path):
    _, begin, _, table = kallsyms
    text = gzip.decompress(NETNS.read_bytes()).decode()
    whole = pc.read_trace(NETNS)
    sites = whole._core.call_sites()
    for form in ("{:016x}", "0x{:x}", "short"):
        changed = text
        for site in sites:
            name, _, rest = site.partition("+0x")
            off = int(rest.split("/")[0], 16)
            new = f"{name}+0x{off:x}" if form == "short" else form.format(begin[name] + off)
            changed = changed.replace(f"call_site={site} reserved", f"call_site={new} reserved")
        trace = tmp_path / "trace.txt"
        trace.write_text(changed)
        found, expected = pc.owners(trace, kallsyms=table), pc.owners(NETNS)
        by_name = {row["owner"].partition(" [")[0]: row for row in found.rows()}
        assert set(by_name) == {row["owner"].partition(" [")[0] for row in expected.rows()}
        for row in expected.rows():
            twin = by_name[row["owner"].partition(" [")[0]] | {"owner": row["owner"]}
            assert twin == row
        by_function = pc.owners(trace, by="function", kallsyms=table)
        assert {row["owner"].partition(" [")[0] for row in by_function.rows()} == {
            function_of(row["owner"]).partition(" [")[0] for row in expected.rows()
        }
    assert any(name.endswith(" [nf_conntrack]") for name in by_function._categories["owner"])


def test_a_table_of_symbols(kallsyms, tmp_path):
    path, begin, sites, table = kallsyms
    assert (len(table), table.nr_lines) == (200_000, 400_000)
    assert repr(table) == "Kallsyms(200000 functions of 400000 symbols)"
    packed = tmp_path / "kallsyms.gz"
    # The beginning is enough: every function of the capture lies there.
    packed.write_bytes(gzip.compress(b"".join(path.read_bytes().splitlines(keepends=True)[:60_000])))
    again = pc.read_kallsyms(packed)
    assert pc.owners(NETNS, kallsyms=packed) == pc.owners(NETNS, kallsyms=table)
    for site in sites:
        name, _, rest = site.partition("+0x")
        address = begin[name] + int(rest.split("/")[0], 16)
        assert table.resolve(f"{address:x}").partition(" [")[0] == site.partition(" [")[0]
        assert again.resolve(f"{address:x}") == table.resolve(f"0x{address:X}")
    assert table.resolve("mm_init") == "mm_init"
    assert table.resolve("1000") == "1000"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it is empty"),
        ("0000000000000000 T a\n0000000000000000 t b\n", "all addresses are 0: copy it as root"),
        ("ffffffff81000000 D a\n", "none of 1 symbols is a function"),
        (
            "ffffffff81000000 T a\nffffffff8100000g T b\n",
            "line 2: not an address, a type and a name: 'ffffffff8100000g",
        ),
        ("ffffffff81000000 T a\n\nmm_init\n", "line 3: not an address"),
        ("ffffffff81000000 T " + "a" * 5000 + "\n", "line 1: a line longer than 4096 bytes"),
    ],
)
def test_damaged_tables(tmp_path, content, message):
    path = tmp_path / "symbols"
    path.write_text(content)
    with pytest.raises(pc.TraceError, match=message) as caught:
        pc.read_kallsyms(path)
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)


def test_packed_tables_that_are_damaged(tmp_path):
    path = tmp_path / "symbols.gz"
    packed = gzip.compress(b"ffffffff81000000 T a\n" * 9000)
    for damaged in (packed[:-20], packed[:20] + b"\xff" * 60):
        path.write_bytes(damaged)
        with pytest.raises(pc.TraceError, match=r"symbols\.gz: damaged gzip behind line"):
            pc.read_kallsyms(path)
    with pytest.raises(FileNotFoundError):
        pc.read_kallsyms(tmp_path / "none")
    with pytest.raises(TypeError, match="call_site must be a str"):
        path.write_bytes(b"ffffffff81000000 T a\n")
        pc.read_kallsyms(path).resolve(5)


def test_without_call_sites():
    trace = pc.read_trace(RECORDINGS / "million-612-2cpu" / "trace-cols.csv.gz")[:50_000]
    found = pc.owners(trace)
    assert found._categories["owner"][0] == "(no call site)"
    assert found.summary["nr_owners"] == 1
    sizes = pc.owners(trace, by="size")
    assert sizes.live_bytes[~sizes.before].sum() == found.live_bytes[~found.before].sum()
    assert sizes.row(0)["owner"] == f"{sizes.row(0)['size_bytes']} bytes"


def test_order_numbers_are_no_times():
    trace = pc.read_trace(RECORDINGS / "million-612-2cpu" / "trace-cols.csv.gz")[:30_000]
    assert trace.info["clock"] == "counter"
    found = pc.owners(trace)
    row = found.row(0)
    assert row["growth_bytes_per_second"] is None
    assert row["age_max_seconds"] is None
    assert row["peak_time_ns"] is None
    assert found.summary["seconds"] is None
    assert "growth/1000" in str(found)
    with pytest.raises(pc.InvalidRequest, match="only counts events"):
        found.ages()
    assert found.ages("events").nr_live.sum() == found.summary["nr_live"]


def test_damaged_and_lost(tmp_path):
    lines = gzip.decompress(NETNS.read_bytes()).decode().splitlines()
    lines[700] = "garbage percpu_alloc_percpu: call_site=x size=what"
    lines.insert(900, "CPU:1 [LOST 23 EVENTS]")
    path = tmp_path / "trace.txt"
    path.write_text("\n".join(lines))
    with pytest.raises(pc.TraceError, match="line 701"):
        pc.owners(path)
    found = pc.owners(path, strict=False)
    assert found.summary["nr_lost"] == 23
    assert "The capture lost events in 1 places (23" in str(found)
    assert found == pc.owners(pc.iter_trace(path, strict=False), cpus=2)
    empty = tmp_path / "empty.txt"
    empty.write_text("# tracer: nop\n")
    nothing = pc.owners(empty)
    assert len(nothing) == 0
    assert (nothing.summary["nr_live"], len(nothing.course()), len(nothing.ages("events"))) == (0, 0, 0)
    assert "0 events" in str(nothing)


# -- two captures ------------------------------------------------------------------------


def naive_changes(before, after, by):
    """The difference of two dictionaries."""
    sides = []
    for trace in (before, after):
        naive = Naive(trace, by)
        sides.append({owner: (naive.held[owner], len(naive.of[owner]), n) for owner, n in naive.counts.items()})
    rows = {}
    for owner in {*sides[0], *sides[1]}:
        a, b = (side.get(owner) for side in sides)
        change = (b or (0, 0, 0))[0] - (a or (0, 0, 0))[0]
        word = (
            "new" if a is None else "gone" if b is None else "grown" if change > 0 else "shrunk" if change else "same"
        )
        rows[owner] = (word, change, (b or (0, 0, 0))[1] - (a or (0, 0, 0))[1], a and a[2], b and b[2])
    return rows


@pytest.mark.parametrize("by", ["site", "function", "size"])
def test_two_captures(by):
    whole = pc.read_trace(RECORDINGS / "cg-own-2+2" / "trace.txt.gz")
    pairs = [
        (pc.read_trace(CAPTURES / "ftrace-hashed.txt.gz"), pc.read_trace(NETNS)),
        (whole[:3000], whole[: len(whole) - 2000]),
        (whole[:3000], whole[:100]),
    ]
    for before, after in pairs:
        found = pc.compare_owners(pc.owners(before, by=by), pc.owners(after, by=by))
        rows = {
            row["owner"]: (row["change"], row["change_bytes"], row["change_nr_live"], row["before_nr_alloc"],
                           row["after_nr_alloc"])
            for row in found.rows()
        }  # fmt: skip
        assert rows == naive_changes(before, after, by)
        assert list(np.abs(found.change_bytes)) == sorted(np.abs(found.change_bytes), reverse=True)
        words = Counter(word for word, *_ in rows.values())
        assert {name: found.attrs[f"nr_{name}"] for name in ("new", "gone", "grown", "shrunk", "same")} == {
            name: words[name] for name in ("new", "gone", "grown", "shrunk", "same")
        }
        assert (found.all_change_bytes == found.change_bytes * found.attrs["after_cpus"]).all()
        for row in found.rows():
            for word, trace in (("before", before), ("after", after)):
                count = row[f"{word}_nr_alloc"]
                rate = None if count is None else pytest.approx(1000 * count / len(trace), abs=1e-3)
                assert row[f"{word}_nr_alloc_per_1000_events"] == rate
        assert pickle.loads(pickle.dumps(found)) == found
        assert found[found.change == 0].attrs == found.attrs


def test_captures_of_different_tools():
    """Of perf, which prints no sizes of functions, and of ftrace."""
    perf, ftrace = pc.owners(CAPTURES / "perf-script.txt.gz"), pc.owners(NETNS)
    found = pc.compare_owners(perf, ftrace)
    assert len(found._categories["owner"]) == len(set(found._categories["owner"]))
    common = {name.partition("/")[0] for name in ftrace._categories["owner"]} & set(perf._categories["owner"])
    assert found.attrs["nr_same"] + found.attrs["nr_grown"] + found.attrs["nr_shrunk"] == len(common - {BEFORE})
    assert "mm_init+0x2bf/0x4d0" in found._categories["owner"]
    with pytest.raises(pc.InvalidRequest, match="by size, and before by site"):
        pc.compare_owners(perf, pc.owners(NETNS, by="size"))
    hashed = pc.owners(CAPTURES / "ftrace-hashed.txt.gz", by="chunk")
    with pytest.raises(pc.InvalidRequest, match="hashed in one"):
        pc.compare_owners(hashed, pc.owners(NETNS, by="chunk"))
    with pytest.raises(TypeError, match="before must be an Owners"):
        pc.compare_owners(NETNS, ftrace)
    empty = pc.owners(pc.read_trace(NETNS)[:0])
    assert set(pc.compare_owners(empty, ftrace).change.tolist()) == {0}
    assert set(pc.compare_owners(ftrace, empty).change.tolist()) == {1}


# -- arguments, command line, picture ----------------------------------------------------


def test_wrong_arguments(layout):
    for arguments, error, message in [
        ({"by": "moon"}, pc.InvalidRequest, "by='moon': must be one of site, function, size, chunk"),
        ({"cpus": 0}, pc.InvalidRequest, "cpus=0: must be from 1"),
        ({"window": 0}, pc.InvalidRequest, "window=0: must be above 0"),
        ({"window": 1.5}, pc.InvalidRequest, r"window=1\.5"),
        ({"window": "all"}, TypeError, "window must be a number"),
        ({"unit_size": 8192, "layout": layout}, pc.InvalidRequest, "unit_size=8192: the layout has"),
        ({"layout": 5}, TypeError, "layout must be a FirstChunkLayout"),
        ({"meminfo": "MemTotal: 5 kB\nPercpu: none\n"}, pc.InvalidRequest, "no line with Percpu:"),
        ({"meminfo": -1}, pc.InvalidRequest, "meminfo=-1"),
        ({"kallsyms": 5}, TypeError, "kallsyms must be a Kallsyms or a path"),
        ({"state": 5}, TypeError, "state must be an Allocator or a path"),
        ({"stats": "nothing\n"}, pc.TraceError, "line 1"),
        ({"granule": 3}, pc.TraceError, "granule=3"),
        ({"kernel": "foo"}, pc.InvalidRequest, "kernel='foo': must be one of"),
    ]:
        with pytest.raises(error, match=message):
            pc.owners(NETNS, **arguments)
    with pytest.raises(TypeError, match="trace must be a Trace or an iterable"):
        pc.owners(5)
    with pytest.raises(FileNotFoundError):
        pc.owners("no/such/file")
    old = pc.Allocator(unit_size=64 << 10, nr_units=2, engine="cpu_alloc-2008")
    with pytest.raises(pc.InvalidRequest, match="state: "):
        pc.owners(NETNS, old)
    with pytest.raises(TypeError, match="use owners"):
        pc.Owners()
    with pytest.raises(pc.InvalidRequest, match="unit='days'"):
        pc.owners(NETNS).ages("days")
    with pytest.raises(pc.InvalidRequest, match="top=0"):
        pc.owners(NETNS).course(0)


def test_it_stops_when_it_is_told_to():
    trace = pc.read_trace(RECORDINGS / "million-612-2cpu" / "trace-cols.csv.gz")

    def stop(events):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pc.owners(trace, progress=stop)
    seen = []
    pc.owners(trace, progress=seen.append)
    assert seen[-1] == len(trace)


def run(capsys, *arguments):
    code = main(["owners", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_cli(capsys, tmp_path):
    naive = Naive(pc.read_trace(NETNS), "site")
    code, out, _ = run(capsys, NETNS, "--json", "--top", 3, "--ages", "seconds", "--stats-end", STATS_END)
    facts = json.loads(out)
    assert code == 0
    assert len(facts["owners"]) == 3
    assert facts["summary"]["live_bytes"] == sum(naive.held.values())
    assert facts["unseen"]["source"] == "stats_end"
    assert sum(row["nr_live"] for row in facts["ages"]) == len(naive.live)
    _, out, _ = run(capsys, NETNS, "--top", 2, "--sizes", "--ages", "events", "--stats-end", STATS_END)
    assert "2 possible CPUs: as the head of the capture says." in out
    assert f"and {len(naive.counts) - 2} more (--top)" in out
    assert BEFORE in out
    assert "from_events" in out
    # However it is read, the head tells the number of CPUs.
    ways = (["--stream"], ["--max-events", 10_000], [])
    streamed, counted, whole = (json.loads(run(capsys, NETNS, *more, "--json")[1]) for more in ways)
    assert streamed == counted == whole
    peaks = json.loads(run(capsys, NETNS, "--sort", "peak", "--top", 4, "--json")[1])["owners"]
    assert [row["peak_bytes"] for row in peaks] == sorted((peak for peak, *_ in naive.peak.values()), reverse=True)[:4]
    assert peaks[0]["owner"] in run(capsys, NETNS, "--sort", "peak", "--top", 1)[1]
    for ending in ("csv", "json", "parquet"):
        path = tmp_path / "new" / f"out.{ending}"
        assert run(capsys, NETNS, "-o", path)[0] == 0
        assert path.stat().st_size > 100
    rows = json.loads((tmp_path / "new" / "out.json").read_text())
    assert [row for row in rows if not row["before"]] == [
        row for row in json.loads(run(capsys, NETNS, "--json", "--top", 99)[1])["owners"] if not row["before"]
    ]
    assert (tmp_path / "new" / "out.csv").read_text().count("\n") == len(rows) + 1
    code, _, err = run(capsys, NETNS, "-o", "out.xls")
    assert (code, err) == (1, "percpu: --out out.xls: must end in .csv, .json or .parquet\n")
    code, _, err = run(capsys, NETNS, "--top", 0)
    assert (code, err) == (1, "percpu: --top 0: must be at least 1\n")
    state = RECORDINGS / "cg-up" / "state-a.json.gz"
    _, out, _ = run(capsys, state.parent / "trace.txt.gz", "--state", state)
    assert "The start state shows them, not whose they are." in out
    assert run(capsys, NETNS, "--meminfo", 5888)[1].count("by Percpu: of meminfo") == 1
    # A digit that is no decimal number: a file then.
    assert "No such file" in run(capsys, NETNS, "--meminfo", "\N{SUPERSCRIPT TWO}")[2]
    assert run(capsys, state.parent / "trace.txt.gz", "--stream", "--state", state)[1] == out


def test_cli_compares(capsys):
    hashed = CAPTURES / "ftrace-hashed.txt.gz"
    facts = json.loads(run(capsys, NETNS, "--against", hashed, "--json", "--top", 99)[1])
    expected = naive_changes(pc.read_trace(hashed), pc.read_trace(NETNS), "site")
    assert {row["owner"]: row["change_bytes"] for row in facts["owners"]} == {
        owner: change for owner, (_, change, *_) in expected.items()
    }
    _, out, _ = run(capsys, NETNS, "--against", hashed, "--top", 2, "--stats-end", STATS_END)
    assert f"{facts['summary']['nr_new']} new, {facts['summary']['nr_gone']} gone" in out
    assert f"and {len(expected) - 2} more (--top)" in out


def test_picture(tmp_path, capsys):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    found = pc.owners(RECORDINGS / "cg-own-2+2" / "trace.txt.gz", RECORDINGS / "cg-own-2+2" / "state-a.json.gz")
    axes = found.plot(top=2)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == "(others)"
    assert len(labels) == 3
    assert axes.get_ylabel() == "live bytes, 4 CPUs"
    top = max(path.vertices[:, 1].max() for part in axes.collections for path in part.get_paths())
    events = set((found.course().event - 1).tolist())
    naive = Naive(pc.read_trace(RECORDINGS / "cg-own-2+2" / "trace.txt.gz"), "site", events)
    start = int(live_areas(pc.Allocator.from_state(RECORDINGS / "cg-own-2+2" / "state-a.json.gz"))[2].sum())
    # Nothing from before was freed: the highest sample is the highest sum plus that, at the end of a sample.
    assert found.summary["nr_freed_prior"] == 0
    assert top == 4 * (start + max(sum(naive.course[event].values()) for event in events))
    pyplot.close("all")
    pc.owners(pc.read_trace(NETNS)[:0]).plot()
    pyplot.close("all")
    assert run(capsys, NETNS, "--plot", tmp_path / "a" / "owners.png")[0] == 0
    assert (tmp_path / "a" / "owners.png").stat().st_size > 10_000
