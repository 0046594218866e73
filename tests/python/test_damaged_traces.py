"""Traces that contradict themselves: no panic, and the allocator after them is whole."""

from pathlib import Path

import pytest

import percpu as pc

A, B = "ffffe8ffff200000", "ffffe8ffff400000"
ALLOC = "percpu_alloc_percpu: reserved=0 is_atomic={} size={} align=8 base_addr={} off={} ptr=0000607fc085a000"
TRACES = {
    "the chunk of a request goes": [
        f"percpu_create_chunk: base_addr={A}",
        f"percpu_destroy_chunk: base_addr={A}",
        ALLOC.format(0, 8, B, 0),
    ],
    "an atomic area where nothing is populated": [
        f"percpu_create_chunk: base_addr={A}",
        f"populated: (x+0x0/0x1) base=0x{A} first=0 end=1",
        ALLOC.format(1, 400, A, 8000),
    ],
    "the worker is cut off": [
        f"percpu_create_chunk: base_addr={A}",
        f"percpu_create_chunk: base_addr={B}",
        "balance_begin: (x+0x0/0x1)",
        "balance_free: (x+0x0/0x1) empty_only=0",
    ],
}


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_that_contradicts_itself(tmp_path: Path, name: str) -> None:
    file = tmp_path / "trace.txt"
    lines = [f"x-1 [000] ..... 1.{number:06}: {event}\n" for number, event in enumerate(TRACES[name])]
    file.write_text("".join(lines))
    trace = pc.read_trace(file)
    allocator = pc.Allocator(unit_size=64 << 10, nr_units=1)
    replay = pc.replay(trace, allocator)
    assert replay.nr_diverged >= 1
    allocator.verify()
    for event in range(len(trace) + 1):
        replay.at(event).verify()
    allocator.alloc(8)
    allocator.verify()


def test_closed_world_of_too_many_chunks(tmp_path):
    """Each chunk of a trace has maps; a line of text must not cost 64 MiB without end."""
    lines = [ALLOC.format(0, 8, f"{0x7000_0000_0000 + (number << 30):016x}", 0) for number in range(17)]
    path = tmp_path / "trace.txt"
    path.write_text("".join(f"x-1 [000] ..... 1.{at:06d}: {line}\n" for at, line in enumerate(lines)))
    with pytest.raises(pc.TraceError, match=r"line 17: .* more than 16 of 1073741824 bytes, the limit"):
        pc.replay(pc.read_trace(path), mode="closed_world", unit_size=1 << 30)
    assert len(pc.replay(pc.read_trace(path), mode="closed_world", unit_size=1 << 20)) == 17
