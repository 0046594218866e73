"""Pages as they are modelled: the same with what is kept at hand and with plain loops over all pages."""

from __future__ import annotations

import io

import numpy as np
import pytest

import percpu as pc
from percpu import _core
from percpu.answers._page_model import PageModel

from .conftest import RECORDINGS

PAGE = 4096
PLAIN = ("alloc", "free", "fail", "create", "destroy")


class Loops(PageModel):
    """Looks at every page of every chunk, each time."""

    def _release(self, chunk):
        empty = {p for p, n in enumerate(chunk.areas) if n == 0 and chunk.populated[p] and chunk.followed[p]}
        assert chunk.empty == empty
        super()._release(chunk)

    def _rank(self, chunk):
        longest = run = 0
        for areas in chunk.areas:
            run = 0 if areas else run + 1
            longest = max(longest, run)
        rank = PageModel._rank(chunk)
        assert rank == ((1, 0) if chunk.isolated else (2, 0) if chunk.live == 0 else (0, longest.bit_length()))
        return rank


def both(trace, unit_size, *more):
    """The models; how often each of the checks above was made."""
    calls = []

    class Counted(Loops):
        def _release(self, chunk):
            calls.append("release")
            super()._release(chunk)

        def _rank(self, chunk):
            calls.append("rank")
            return super()._rank(chunk)

    model = Counted(trace, PAGE, unit_size, *more)
    kept = sum(len(chunk.empty) for chunk in model._chunks.values() if not chunk.isolated)
    assert model.stock == model._elsewhere + kept
    return calls.count("release"), calls.count("rank")


@pytest.mark.parametrize("name", ["drain-612-4cpu", "cg-own-2+2", "netns-612-3+1"])
def test_recordings_without_their_lines_about_pages(name):
    run = RECORDINGS / name
    unit = pc.Allocator.from_state(run / "state-a.json.gz").unit_size
    trace = pc.read_trace(run / "trace.txt.gz")
    trace = trace[np.isin(trace["kind"], [_core.EVENT_KINDS.index(kind) for kind in PLAIN])]
    both(trace, unit, True, 0, {}, set())


@pytest.mark.parametrize("unit_pages", [8, 64])
def test_churn(unit_pages):
    """Areas come and go at random, so that chunks are isolated and pages are given back time after time."""
    rng = np.random.default_rng(unit_pages)
    a = pc.Allocator(unit_size=unit_pages * PAGE, nr_units=2)
    lines, live = [], []

    def note(kind, ptr, area, base, more=""):
        place = f" base_addr={base:016x} off={area.off_bytes} ptr={ptr:016x}"
        lines.append(f"a-1 [000] d..2. {len(lines) / 1e6:.6f}: percpu_{kind}_percpu:{more}{place}\n")
        if rng.random() < 0.01:  # sends the worker to populate pages
            failed = "percpu_alloc_percpu_fail: reserved=0 is_atomic=1 size=4096 align=4096"
            lines.append(f"a-1 [000] d..2. {len(lines) / 1e6:.6f}: {failed}\n")

    for most in np.tile([1500, 100, 600, 300], 4).tolist():
        for _ in range(60):
            if len(live) < most:
                for ptr in a.alloc_many(rng.choice([64, 512, 4096], 40)).ptr.tolist():
                    area = a.locate(ptr)
                    live.append((ptr, area, a.chunks[area.chunk].base_addr))
                    note("alloc", *live[-1], f" reserved=0 is_atomic=0 size={area.size_bytes} align=4")
            rng.shuffle(live)
            kept = len(live) - 25 if len(live) < most else most // 2
            for entry in live[kept:]:
                a.free(entry[0])
                note("free", *entry)
            live = live[:kept]
    trace = pc.read_trace(io.BytesIO("".join(lines).encode()))
    released, ranked = both(trace, unit_pages * PAGE, True, 0, {}, set())
    assert released > 50
    assert ranked > 50


def test_a_trace_that_cannot_be():
    """Chunks are made and go while their areas live; nothing is known then, and nothing fails."""
    rng = np.random.default_rng(3)
    for _ in range(60):
        lines = []
        for kind in rng.choice(["alloc", "alloc", "free", "create", "destroy", "populated", "depopulated"], 400):
            base = f"base_addr={int(rng.integers(1, 4)) << 20:016x}"
            off = int(rng.integers(0, 40)) * 512
            first, ptr = int(rng.integers(0, 8)), f"ptr={1 << 40:016x}"
            event = {
                "create": f"percpu_create_chunk: {base}",
                "destroy": f"percpu_destroy_chunk: {base}",
                "alloc": f"percpu_alloc_percpu: reserved=0 is_atomic=0 size=600 align=4 {base} off={off} {ptr}",
                "free": f"percpu_free_percpu: {base} off={off} {ptr}",
            }.get(kind, f"{kind}: (f+0x0/0x50) base=0x{base[10:]} first={first} end={first + 1}")
            lines.append(f"a-1 [000] d..2. {len(lines)}.000000: {event}\n")
        for told in (lines, [line for line in lines if "populated:" not in line]):
            trace = pc.read_trace(io.BytesIO("".join(told).encode()))
            assert len(trace) == len(told)
            for stock in (None, 0, 9):
                PageModel(trace, PAGE, 8 * PAGE, True, stock, {}, set())
