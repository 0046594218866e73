"""What objects show in a notebook and at a prompt: their facts, escaped, bounded, and nothing from outside."""

from __future__ import annotations

import base64
import re
import struct
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import pytest

import percpu as pc
from percpu import _rich
from percpu._svg import Svg, facts, page, png, table
from percpu.plot import _style

LIMIT = 100_000


def pixels_of(data: bytes) -> np.ndarray:
    """Decode what `png` writes."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, parts = 8, {}
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert crc == zlib.crc32(name + body)
        parts[name] = body
        at += 12 + length
    width, height = struct.unpack(">II", parts[b"IHDR"][:8])
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), dtype=np.uint8).reshape(height, 1 + 3 * width)
    assert (lines[:, 0] == 0).all()
    return lines[:, 1:].reshape(height, width, 3)


def pictures(html: str) -> list[ET.Element]:
    """Parse the pictures of a piece of HTML: they must be well formed."""
    return [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", html, re.S)]


def images(html: str) -> list[np.ndarray]:
    return [pixels_of(base64.b64decode(data)) for data in re.findall(r"base64,([A-Za-z0-9+/=]+)", html)]


def check(html: str) -> str:
    assert len(html) < LIMIT
    assert "://" not in html
    for address in re.findall(r"(?:href|src)='([^']*)'", html):
        assert address.startswith("data:image/png")
    pictures(html)
    return html


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (40, 256)])
def test_png_holds_the_pixels(shape):
    cells = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    assert np.array_equal(pixels_of(png(cells)), cells)
    assert np.array_equal(pixels_of(png(cells / 255)), cells)


def test_texts_are_escaped():
    nasty = "<script>'&\"</script>"
    svg = Svg(10, 10)
    svg.text(0, 0, nasty)
    svg.rect(0, 0, 1, 1, tip=nasty)
    for text in (str(svg), facts([(nasty, nasty)]), table([nasty], [[nasty]]), page(nasty, "")):
        assert "<script" not in text
    assert nasty in [element.text for element in ET.fromstring(str(svg)).iter()]


@pytest.mark.parametrize("kernel", ["2008", "4.13", "rfc-v1", "4.19", "5.4", "6.12"])
def test_an_allocator_and_its_chunks(kernel):
    a = pc.Allocator(unit_size=32 << 10, nr_units=2, kernel=kernel)
    check(a._repr_html_())
    a.alloc_many(np.full(50, 900))
    html = check(a._repr_html_())
    for number, chunk in a.chunks.items():
        assert f"chunk {number}" in html
        own = check(chunk._repr_html_())
        assert f"{chunk.nr_populated:,} of {chunk.nr_pages:,}" in own
        (cells,) = images(own)
        used = (cells == np.rint(np.array(_style.rgb(_style.AREA_A)) * 255)).all(axis=2)
        used |= (cells == np.rint(np.array(_style.rgb(_style.AREA_B)) * 255)).all(axis=2)
        # Cells of one colour are wholly in use; those at borders are mixed.
        assert used.mean() <= chunk.alloc_map.mean() + 1e-9
        assert used.mean() >= chunk.alloc_map.mean() - 0.1
    assert len(images(html)) == len(a.chunks)


def test_the_hints_are_framed_where_they_are():
    a = pc.Allocator(unit_size=32 << 10, nr_units=2)
    batch = a.alloc_many(np.full(60, 200))
    a.free_many(batch.ptr[10:14])
    chunk = a.chunks[0]
    svg = pictures(chunk._repr_html_())[0]
    frames = [p for p in svg.iter("path") if p.get("stroke") == _style.CONTIG]
    (frame,) = frames
    xs = [float(x) for x in re.findall(r"[ML](\S+) ", frame.get("d"))]
    left = float(next(svg.iter("image")).get("x"))
    per_bit = float(next(svg.iter("image")).get("width")) / 1024
    start, length = int(chunk.hints["contig_hint_start"][0]), int(chunk.hints["contig_hint"][0])
    assert any(abs(x - (left + per_bit * (start % 1024))) < 0.01 for x in xs)
    assert any(abs(x - (left + per_bit * ((start + length - 1) % 1024 + 1))) < 0.01 for x in xs)


def test_large_things_stay_small():
    big = pc.Allocator(unit_size=16 << 20, nr_units=2)
    big.alloc_many(np.random.default_rng(1).integers(4, 4000, 6000))
    check(big.chunks[0]._repr_html_())
    many = pc.Allocator(unit_size=32 << 10, nr_units=2)
    many.alloc_many(np.full(300, 30_000))
    html = check(many._repr_html_())
    assert f"{len(many.chunks) - 24} chunks more" in check(many.chunks._repr_html_())
    assert f"{len(many.chunks) - 24} chunks more are not drawn" in html
    check(pc.FirstChunkLayout.build(static_size=188_416, topology=pc.Topology.from_nodes([40] * 30))._repr_html_())


def test_a_destroyed_chunk_says_so():
    a = pc.Allocator(unit_size=32 << 10, nr_units=2, balance="manual")
    batch = a.alloc_many(np.full(4, 32 << 10))
    chunks = list(a.chunks.values())
    a.free_many(batch.ptr)
    a.balance()
    gone = [chunk for chunk in chunks if chunk.number not in a.chunks]
    assert gone
    for chunk in gone:
        assert "destroyed" in check(chunk._repr_html_())


def test_layouts_and_space(layout):
    html = check(layout._repr_html_())
    (svg,) = pictures(html)
    tips = [t.text for t in svg.iter("title")]
    assert [t for t in tips if t.startswith("CPU")] == [f"CPU {cpu}" for cpu in range(8)]
    assert sum(t.startswith("hole") for t in tips) == layout.nr_holes
    assert "nr_cpus=8" in repr(layout)
    assert "Units per allocation" in check(layout.explain()._repr_html_())
    space = pc.VmallocSpace()
    placed = space.alloc(layout)
    assert f"{placed.base:#x}" in check(space._repr_html_())


def test_traces_replays_and_the_like(recordings):
    for directory in recordings[:4]:
        file = next(f for f in (directory / "trace.txt.gz", directory / "trace-cols.csv.gz") if f.exists())
        trace = pc.read_trace(file)
        html = check(trace._repr_html_())
        assert f"{len(trace):,}" in html
        assert repr(trace).startswith(f"Trace({len(trace)} events")
        start = pc.Allocator.from_state(directory / "state-a.json.gz")
        for run in (pc.replay(trace, start), pc.replay(trace, mode="follow")):
            shown = check(run._repr_html_())
            assert f"{run.summary['nr_events']:,}" in shown
            assert len(pictures(shown)) == 1
    check(trace[:0]._repr_html_())
    assert repr(trace[:1]).startswith("Trace(1 event")


def test_the_mix_of_events_is_that_of_the_trace(recordings):
    trace = pc.read_trace(next(f for f in (d / "trace.txt.gz" for d in recordings) if f.exists()))
    counts, sampled = _rich.kinds_of(trace)
    assert sampled == 0
    assert counts.sum(axis=0).tolist() == np.bincount(trace["kind"], minlength=counts.shape[1]).tolist()
    long = pc.Trace.concatenate([trace] * (-(-500_000 // len(trace))))
    counts, sampled = _rich.kinds_of(long)
    assert (counts.sum(axis=1) <= sampled).all()
    assert counts.sum() < len(long)


def test_comparisons_and_sweeps():
    w = pc.workloads.objects(500, size=24)
    r = pc.compare(w, ["areamap", "linux-5.14"], timing=False)
    assert "areamap" in check(r._repr_html_())
    assert repr(r) == f"Comparison(engines areamap, linux-5.14; {len(list(r)) - 1} figures)"
    g = pc.sweep(w, {"block_size": [1000, 2048, 4096]})
    (svg,) = pictures(check(g._repr_html_()))
    dots = [float(e.get("y")) for e in svg.iter("rect") if e.get("fill") == _style.AREA_A]
    assert len(dots) == 2  # the point that cannot be is left out
    check(pc.sweep(w, {"block_size": [1000]})._repr_html_())
    check(pc.read_percpu_stats(pc.Allocator(unit_size=32 << 10, nr_units=2).stats_text())._repr_html_())
