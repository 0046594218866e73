"""Engines written in Python: the example of the documentation, and what is refused."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings

import percpu as pc
from percpu.engines import Checked, Engine, Geometry
from percpu.testing import Alloc, Free, operations, run_operations


class FirstFit:
    """The lowest offset that fits: the example of percpu.engines."""

    def __init__(self, geometry):
        self.geometry = geometry
        self.unit_size, self.areas = geometry.unit_size, {}

    def alloc(self, size, align):
        offset = 0
        for start, end in sorted(self.areas.items()):
            if offset + size <= start and offset % self.unit_size + size <= self.unit_size:
                break
            offset = max(offset, -(-end // align) * align)
            if offset % self.unit_size + size > self.unit_size:
                offset = (offset // self.unit_size + 1) * self.unit_size
        self.areas[offset] = offset + size
        return offset

    def free(self, offset):
        del self.areas[offset]

    def stats(self):
        return {"nr_areas": len(self.areas), "metadata_bytes": 16 * len(self.areas)}


class Bump:
    """Offsets that only grow, in one unit."""

    def __init__(self, geometry):
        self.next, self.end = 0, geometry.unit_size

    def alloc(self, size, align):
        offset = -(-self.next // align) * align
        if offset + size > self.end:
            return None
        self.next = offset + size
        return offset

    def free(self, offset):
        pass


def wrong(answer):
    """An engine whose second answer is wrong."""

    class Wrong:
        def __init__(self, geometry):
            self.answers = iter([0, answer])

        def alloc(self, size, align):
            found = next(self.answers)
            if isinstance(found, Exception):
                raise found
            return found

        def free(self, offset):
            raise AssertionError("nothing is freed before the second answer")

    return Wrong


OBJECTS = pc.workloads.objects(300, size=24, align=8, free="random")


def test_first_fit_packs_as_cpu_alloc_does():
    """The proposal of 2008 is first fit over the whole area; so is the example, offset by offset."""
    w = pc.workloads.random(600, sizes=[4, 8, 24, 100], aligns=[4, 8, 16], free_percent=45)
    geometry = {"unit_size": 64 << 10, "nr_units": 2}
    r = pc.compare(w, ["cpu_alloc-2008", FirstFit], geometry=geometry, timing=False)
    assert r.engine.tolist() == ["cpu_alloc-2008", "FirstFit"]
    assert r.nr_failed.tolist() == [0, 0]
    assert r.peak_requested_bytes[0] == r.peak_requested_bytes[1]
    old, own = (
        pc.Allocator(engine="cpu_alloc-2008", **geometry),
        Checked(FirstFit(Geometry(**geometry)), Geometry(**geometry)),
    )
    live = {}
    for batch in w.steps():
        for step in batch.rows():
            if step["kind"] == "alloc":
                ptr, offset = (
                    old.alloc(step["size_bytes"], step["align_bytes"]),
                    own.alloc(step["size_bytes"], step["align_bytes"]),
                )
                assert ptr - (1 << 30) == offset
                live[step["id"]] = ptr, offset, step["size_bytes"]
            elif step["kind"] == "free":
                ptr, offset, size = live.pop(step["id"])
                old.free(ptr, size)
                own.free(offset)


def test_in_compare():
    r = pc.compare(OBJECTS, ["linux-5.14", FirstFit, Bump], timing=False)
    assert r.engine.tolist() == ["linux-5.14", "FirstFit", "Bump"]
    assert r.nr_alloc.tolist() == [300] * 3
    assert r.peak_handed_out_bytes.tolist() == [7200] * 3
    assert r["stats.nr_areas"].tolist()[1] == 0
    assert r.missing("stats.nr_areas").tolist() == [True, False, True]
    assert r.peak_metadata_bytes.tolist()[1] == 16 * 300
    assert r.missing("peak_metadata_bytes").tolist() == [False, False, True]
    assert r.peak_populated_bytes[1] == 8192
    assert r.peak_memory_bytes[1] == 4 * 8192
    assert r.end_populated_bytes[1] == 0


def test_in_sweep_and_failures():
    g = pc.sweep(OBJECTS, {"engine": [FirstFit, Bump, "areamap"], "unit_size": [4096, 65536]})
    rows = {(row["engine"], row["geometry.unit_size"]): row for row in g.rows()}
    assert rows["Bump", 4096]["nr_alloc"] == 4096 // 24
    assert rows["Bump", 4096]["nr_failed"] == rows["Bump", 4096]["nr_free_of_failed"] == 300 - 4096 // 24
    assert rows["FirstFit", 4096]["nr_max_chunks"] == 2
    assert rows["FirstFit", 65536]["nr_failed"] == 0
    assert g.to_xarray()["engine"].values.tolist() == ["FirstFit", "Bump", "areamap"]


def test_in_a_rerun(recorded_trace):
    trace = recorded_trace[:1500]
    geometry = Geometry(unit_size=512 << 10, nr_units=4)
    r = pc.replay(trace, FirstFit(geometry), mode="rerun")
    a = pc.Allocator(engine="linux-5.14", unit_size=512 << 10, nr_units=4)
    kernel = pc.replay(trace, a, mode="rerun")
    for name in (
        "nr_events",
        "nr_alloc",
        "nr_failed",
        "nr_free",
        "nr_free_unseen",
        "nr_free_lost",
        "nr_free_of_failed",
    ):
        assert r.summary[name] == kernel.summary[name], name
    assert r.event.tolist() == kernel.event.tolist()
    assert r.recorded_ok.tolist() == kernel.recorded_ok.tolist()
    assert r.timeline.live_bytes[-1] > 0
    assert len(pickle.loads(pickle.dumps(r))) == len(r)
    with pytest.raises(TypeError, match="must be an Allocator"):
        pc.replay(trace, FirstFit(geometry))


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (16, "overlaps the live area from 0 to 24"),
        (28, "not a multiple of 8"),
        (512 << 10, None),
        ((512 << 10) - 8, "crosses the end of a chunk"),
        (1 << 60, "only 1048576 chunks"),
    ],
)
def test_illegal_answers(answer, text):
    if text is None:
        assert pc.compare(pc.workloads.objects(2, size=24, align=8), [legal_then(answer)]).nr_alloc.tolist() == [2]
        return
    with pytest.raises(pc.VerifyError, match=text) as caught:
        pc.compare(OBJECTS, [wrong(answer)])
    assert "step 2: alloc(24, 8) returned" in str(caught.value)
    g = pc.sweep(OBJECTS, {"engine": [wrong(answer), Bump]})
    assert [row["status"] for row in g.rows()] == ["failed", "ok"]
    assert text in g.row(0)["error"]


def legal_then(answer):
    class Legal(Bump):
        def alloc(self, size, align):
            offset = super().alloc(size, align)
            return answer if offset else offset

    return Legal


@pytest.mark.parametrize(("answer", "error"), [("8", TypeError), (-8, OverflowError), (KeyError("x"), KeyError)])
def test_answers_of_the_wrong_kind_and_exceptions(answer, error):
    with pytest.raises(error):
        pc.compare(OBJECTS, [wrong(answer)])
    row = pc.sweep(OBJECTS, {"engine": [wrong(answer)]}).row(0)
    assert row["status"] == "failed"
    assert error.__name__ in row["error"]


def test_what_is_no_engine():
    class Half:
        def __init__(self, geometry):
            pass

        def alloc(self, size, align):
            return 0

    with pytest.raises(TypeError, match=r"Half has no method free\(\)"):
        pc.compare(OBJECTS, [Half])
    with pytest.raises(TypeError, match=r"has no method free\(\)"):
        Checked(Half(None))
    with pytest.raises(TypeError, match="must hold names"):
        pc.compare(OBJECTS, [Bump(Geometry())])
    assert isinstance(Bump(Geometry()), Engine)

    class Talks(Bump):
        def stats(self):
            return {"mood": "good"}

    with pytest.raises(TypeError, match=r"stats\(\)\['mood'\] must be a number"):
        pc.compare(OBJECTS, [Talks])


@settings(max_examples=60, deadline=None)
@given(operations(max_length=60))
def test_the_judge_agrees_with_the_example(ops):
    geometry = Geometry(unit_size=4096, page_size=4096)
    own = Checked(FirstFit(geometry), geometry)
    live = run_operations(own, ops)
    assert own.held()["nr_objects"] == len(live)
    assert own.held()["handed_out_bytes"] == sum(size for _, size, _ in live)
    for offset, _, _ in live:
        own.free(offset)
    assert own.held() == {"nr_objects": 0, "handed_out_bytes": 0, "populated_bytes": 0, "nr_chunks": 0}
    with pytest.raises(pc.VerifyError, match="no live area starts there"):
        own.free(0)


def test_operations_by_hand():
    geometry = Geometry(unit_size=4096)
    own = Checked(Bump(geometry), geometry)
    assert run_operations(own, [Alloc(4000, 4), Alloc(4000, 4), Free(7), Free(0)]) == []
