"""Wrong calls and files: which exception, which text, and that nothing changed. Written into docs/wrong-inputs.md."""

from __future__ import annotations

import builtins
import gzip
import os
import pickle

import pytest

import percpu as pc

from .conftest import ROOT

PAGE = ROOT / "docs" / "wrong-inputs.md"

HEAD = """# Wrong calls and files

What each of these raises, and what it says. Nothing is changed by any of them, unless a request fails as it would
in the kernel (`AllocError`); a test makes every call, and writes this page (`tests/python/test_wrong_inputs.py`). Here
`a` is an allocator with live pointers `p[0]`, `p[1]`, `p[3]` and a freed one, `p[2]`; `layout` and `trace` are what
their names say; `tmp` is a directory with a binary file, an empty one, half of a compressed one, and a trace with a
damaged line.

| call | exception | text |
|---|---|---|
"""

# The call, its exception, and how its text begins (paths left out).
TABLE = [
    (
        "a.alloc(0)",
        "InvalidRequest",
        "illegal size (0) or align (4) for percpu allocation: size must be from 1 to 32768",
    ),
    ("a.alloc(-4)", "InvalidRequest", "size=-4: must be from 0 to 18446744073709551615"),
    (
        "a.alloc(32_769)",
        "InvalidRequest",
        "illegal size (32769) or align (4) for percpu allocation: size must be from 1 to 32768",
    ),
    ("a.alloc(1 << 64)", "InvalidRequest", "size=18446744073709551616: must be from 0 to 18446744073709551615"),
    ("a.alloc(4.0)", "TypeError", "size must be an integer, not float"),
    ("a.alloc(True)", "TypeError", "size must be an integer, not a bool"),
    ('a.alloc("8")', "TypeError", "size must be an integer, not str"),
    ("a.alloc(None)", "TypeError", "size must be an integer, not NoneType"),
    (
        "a.alloc(8, 12)",
        "InvalidRequest",
        "illegal size (8) or align (12) for percpu allocation: align must be a power of two up to 4096",
    ),
    ("a.alloc(8, -8)", "InvalidRequest", "align=-8: must be from 0 to 18446744073709551615"),
    (
        "a.alloc(8, 8192)",
        "InvalidRequest",
        "illegal size (8) or align (8192) for percpu allocation: align must be a power of two up to 4096",
    ),
    ("a.alloc(8, 4.0)", "TypeError", "align must be an integer, not float"),
    ("a.alloc(32_768, atomic=True)", "AllocError", "atomic alloc failed, no space left"),
    ("a.free(p[2])", "InvalidFree", "ptr=0x4000016c: no live area starts at byte 364 of chunk 0"),
    ("a.free(p[0] + 4)", "InvalidFree", "ptr=0x40000004: no live area starts at byte 4 of chunk 0"),
    ("a.free(12_345)", "InvalidFree", "ptr=0x3039: belongs to no chunk"),
    ("a.free(-1)", "InvalidFree", "ptr=-1: not an address"),
    ("a.free(1 << 64)", "InvalidFree", "ptr=18446744073709551616: not an address"),
    ('a.free("p")', "TypeError", "ptr must be an integer, not str"),
    ("a.free(1.5)", "TypeError", "ptr must be an integer, not float"),
    ("a.free(None)", "TypeError", "ptr must be an integer, not NoneType"),
    (
        "a.free_many([p[0], p[1], p[2]])",
        "InvalidFree",
        "ptrs[2]: ptr=0x4000016c: no live area starts at byte 364 of chunk 0",
    ),
    ("a.free_many([p[0], p[1], p[0]])", "InvalidFree", "ptrs[2]: ptr=0x40000000: is freed twice in this batch"),
    ("a.free_many(np.array(p, dtype=float))", "TypeError", "ptrs must hold integers, not float64"),
    ("a.free_many(np.zeros((2, 2), dtype=np.uint64))", "InvalidRequest", "ptrs has 2 dimensions; it must have 0 or 1"),
    ("a.free_many([p[0]], [8, 8, 8])", "InvalidRequest", "sizes has 3 elements, ptrs 1"),
    ('a.free_many(["x"])', "TypeError", "ptrs must hold integers, not <U1"),
    ("a.alloc_many([4, 8, 12], [4, 8])", "InvalidRequest", "sizes, aligns and atomic have lengths 3, 2 and 1"),
    ("a.alloc_many(np.array([4, -8]))", "InvalidRequest", "sizes[1]=-8 is negative"),
    ("a.alloc_many([4.5])", "TypeError", "sizes must hold integers, not float64"),
    ("a.alloc_many([[4, 8]])", "InvalidRequest", "sizes has 2 dimensions; it must have 0 or 1"),
    ("a.alloc_many([4], atomic=[1])", "TypeError", "atomic must be a bool or an array of bool"),
    (
        "a.alloc_many([4, 4], atomic=[True, False, True])",
        "InvalidRequest",
        "sizes, aligns and atomic have lengths 2, 1 and 3",
    ),
    ('a.alloc_many(["8"])', "TypeError", "sizes must hold integers, not <U1"),
    ("a.alloc_many([1 << 65])", "InvalidRequest", "sizes[0] is out of range"),
    ("a.locate(p[2])", "InvalidAddress", "address=0x4000016c: no live area starts at byte 364 of chunk 0"),
    ('a.locate("p")', "TypeError", "ptr must be an integer, not str"),
    ("a.find(1.5)", "TypeError", "addr must be an integer, not float"),
    ("a.per_cpu_ptr(p[0], 2)", "InvalidRequest", "cpu=2: is not one of the 2 possible CPUs"),
    ("a.per_cpu_ptr(p[0], -1)", "InvalidRequest", "cpu=-1: must be from 0 to 4294967295"),
    ("a.per_cpu_ptr(-5, 0)", "InvalidAddress", "ptr=-5: not an address"),
    ("a.chunks[99]", "KeyError", "99"),
    ('a.chunks["0"]', "KeyError", "'0'"),
    ("a.limit_supply(pages=-1)", "InvalidRequest", "pages=-1: must be from 0 to 9223372036854775807"),
    ("a.limit_supply(extensions=-1)", "InvalidRequest", "extensions=-1: must be from 0 to 9223372036854775807"),
    ("a.alloc_killed(8.5)", "TypeError", "size must be an integer, not float"),
    ("a.alloc_killed(8)", "AllocError", "killed while waiting for the allocator"),
    ("a.limit_supply(chunks=1.5)", "TypeError", "chunks must be an integer, not float"),
    (
        "a.limit_supply(mappings=1 << 63)",
        "InvalidRequest",
        "mappings=9223372036854775808: must be from 0 to 9223372036854775807",
    ),
    ('a.differences(b"rubbish")', "StateError", "file: expected value at line 1 column 1"),
    (
        'pc.Allocator.restore(b"rubbish")',
        "StateError",
        "file: is no snapshot; a state file is read by from_state",
    ),
    (
        "pc.Allocator.restore(a.snapshot()[:1000])",
        "StateError",
        "file: has 1000 bytes instead of ",
    ),
    ('pc.Allocator.restore(a.snapshot() + b"x")', "StateError", " bytes instead of "),
    ('pc.Allocator.restore("text")', "StateError", "snapshot must be bytes, not str"),
    ("pc.Allocator.from_state({})", "StateError", "md_fields: is missing"),
    (
        'pc.Allocator.from_state(tmp / "nothing.json")',
        "FileNotFoundError",
        "[Errno 2] No such file or directory: 'nothing.json'",
    ),
    ('pc.Allocator.from_state(tmp / "binary")', "StateError", "binary: file: expected value at line 1 column 1"),
    (
        'pc.Allocator.from_state(tmp / "half.gz")',
        "StateError",
        "half.gz: file: cannot decompress: incomplete deflate stream",
    ),
    (
        'pc.Allocator.from_state(tmp / "empty")',
        "StateError",
        "empty: file: EOF while parsing a value at line 1 column 0",
    ),
    (
        'pc.Allocator.from_state(a.to_state(), kernel="9.9")',
        "InvalidRequest",
        "kernel='9.9': must be one of 2008, 4.13, rfc-v1, 4.14, 4.19, 5.1, 5.2, 5.4, 5.10, 5.12, 5.14, 5.15,",
    ),
    (
        'pc.Allocator.from_state(a.to_state(), kernel="4.13")',
        "StateError",
        "globals: a state of this form is not of areamap",
    ),
    ("pc.Allocator.from_state([1])", "StateError", "state must be a path, bytes or a dict, not list"),
    ("pc.Allocator()", "InvalidRequest", "without a layout, unit_size= and nr_units= are needed"),
    ("pc.Allocator(unit_size=65536)", "InvalidRequest", "without a layout, unit_size= and nr_units= are needed"),
    (
        "pc.Allocator(unit_size=65537, nr_units=1)",
        "InvalidRequest",
        "unit_size=65537: must be a multiple of 4096 (the larger of page and block) from 4096 to 1073741824",
    ),
    (
        "pc.Allocator(unit_size=0, nr_units=1)",
        "InvalidRequest",
        "unit_size=0: must be a multiple of 4096 (the larger of page and block) from 4096 to 1073741824",
    ),
    (
        "pc.Allocator(unit_size=1 << 40, nr_units=1)",
        "InvalidRequest",
        "unit_size=1099511627776: must be a multiple of 4096 (the larger of page and block) from 4096 to 1073741824",
    ),
    ("pc.Allocator(unit_size=65536, nr_units=0)", "InvalidRequest", "nr_units=0: must be from 1 to 1048576"),
    (
        "pc.Allocator(unit_size=65536, nr_units=1 << 33)",
        "InvalidRequest",
        "nr_units=8589934592: must be from 0 to 4294967295",
    ),
    (
        "pc.Allocator(unit_size=65536, nr_units=1, block_size=3000)",
        "InvalidRequest",
        "block_size=3000: must be a power of two from 4 to 1073741824",
    ),
    (
        "pc.Allocator(unit_size=65536, nr_units=1, block_size=131_072)",
        "InvalidRequest",
        "unit_size=65536: must be a multiple of 131072 (the larger of page and block) from 131072 to 1073741824",
    ),
    (
        "pc.Allocator(unit_size=65536, nr_units=1, min_alloc_size=3)",
        "InvalidRequest",
        "min_alloc_size=3: must be a power of two from 1 to 4096",
    ),
    (
        "pc.Allocator(unit_size=65536, nr_units=1, min_alloc_size=0)",
        "InvalidRequest",
        "min_alloc_size=0: must be a power of two from 1 to 4096",
    ),
    (
        "pc.Allocator(unit_size=65536, nr_units=1, page_size=1000)",
        "InvalidRequest",
        "page_size=1000: must be a power of two from 16 to 1048576",
    ),
    (
        'pc.Allocator(unit_size=65536, nr_units=1, kernel="9.9")',
        "InvalidRequest",
        "kernel='9.9': must be one of 2008, 4.13, rfc-v1, 4.14, 4.19, 5.1, 5.2, 5.4, 5.10, 5.12, 5.14, 5.15,",
    ),
    (
        'pc.Allocator(unit_size=65536, nr_units=1, engine="slab")',
        "InvalidRequest",
        "engine='slab': must be one of cpu_alloc-2008, areamap, rfc-v1, linux-4.14, linux-5.2, linux-5.14",
    ),
    (
        'pc.Allocator(unit_size=65536, nr_units=1, balance="never")',
        "InvalidRequest",
        "balance='never': must be one of eager, manual",
    ),
    ("pc.Allocator(unit_size=65536, nr_units=1, every=0)", "InvalidRequest", "every=0: must be from 1 to 4294967295"),
    (
        'pc.Allocator(unit_size=65536, nr_units=1, backend="disk")',
        "InvalidRequest",
        "backend='disk': must be one of vm, km",
    ),
    ("pc.Allocator(layout, unit_size=4096)", "LayoutError", "unit_size=4096 does not go with the layout (524288)"),
    ('pc.Allocator(layout, kernel="5.4")', "LayoutError", "kernel='5.4' does not go with the layout, which is of 6.12"),
    ('pc.Allocator("layout")', "TypeError", "layout must be a FirstChunkLayout, not str"),
    ("pc.FirstChunkLayout.build(static_size=0, topology=4)", "LayoutError", "failed to initialize, !ai->static_size"),
    (
        "pc.FirstChunkLayout.build(static_size=-1, topology=4)",
        "LayoutError",
        "static_size=-1: must be from 0 to 1099511627776",
    ),
    (
        "pc.FirstChunkLayout.build(static_size=1 << 62, topology=4)",
        "LayoutError",
        "static_size=4611686018427387904: must be from 0 to 1099511627776",
    ),
    (
        "pc.FirstChunkLayout.build(static_size=4096, reserved_size=-8, topology=4)",
        "LayoutError",
        "reserved_size=-8: must be from 0 to 1099511627776",
    ),
    (
        "pc.FirstChunkLayout.build(static_size=4096, dyn_size=1 << 50, topology=4)",
        "LayoutError",
        "dyn_size=1125899906842624: must be from 0 to 1099511627776",
    ),
    (
        "pc.FirstChunkLayout.build(static_size=4096, page_size=5000, topology=4)",
        "LayoutError",
        "page_size=5000: must be a power of two from 64 to 1048576",
    ),
    ("pc.FirstChunkLayout.build(static_size=4096, topology=0)", "LayoutError", "topology=0: must be from 1 to 65536"),
    (
        'pc.FirstChunkLayout.build(static_size=4096, topology="4")',
        "LayoutError",
        "topology must be a Topology or a number of CPUs, not str",
    ),
    (
        'pc.FirstChunkLayout.build(static_size=4096, topology=4, first_chunk="lpage2")',
        "InvalidRequest",
        "first_chunk='lpage2': must be one of auto, embed, page, lpage, up",
    ),
    (
        'pc.FirstChunkLayout.build(static_size=4096, topology=4, kernel="9.9")',
        "InvalidRequest",
        "kernel='9.9': must be one of 2008, 4.13, rfc-v1, 4.14, 4.19, 5.1, 5.2, 5.4, 5.10, 5.12, 5.14, 5.15,",
    ),
    ("pc.Topology.from_nodes([])", "LayoutError", "cpu_to_node: 0 entries; there must be 1 to 65536"),
    ("pc.Topology.from_nodes([-1])", "LayoutError", "nodes=-1: must be from 0 to 65536"),
    ("pc.Topology.from_nodes([0])", "LayoutError", "cpu_to_node: 0 entries; there must be 1 to 65536"),
    (
        'pc.Topology.from_nodes("8")',
        "LayoutError",
        "nodes: must be counts or lists of CPUs, one for each node, not the text '8'",
    ),
    ("pc.Topology.from_nodes([1 << 40])", "LayoutError", "nodes=1099511627776: must be from 0 to 65536"),
    ("pc.Topology.from_distances([[10, 20]])", "LayoutError", "distances: shape (1, 2), must be square"),
    ('pc.Topology.from_distances([["x"]])', "LayoutError", "distances: must be integers from 0 to 2147483647"),
    ('pc.Topology.from_boot_log("nothing of the kind")', "LayoutError", "text: no pcpu-alloc lines with groups"),
    ('pc.read_trace(tmp / "nothing.txt")', "FileNotFoundError", "[Errno 2] No such file or directory: 'nothing.txt'"),
    ('pc.read_trace(tmp / "binary")', "TraceError", "binary: binary data, not the text of a trace"),
    ('pc.read_trace(tmp / "half.gz")', "TraceError", "half.gz: line 1: cannot read on: incomplete deflate stream"),
    (
        'pc.read_trace(tmp / "bad-line.txt")',
        "TraceError",
        'bad-line.txt: line 2: ptr=zzz is not a pointer: "  x-1  [000] d..1.  1.000000: percpu_alloc_percpu:',
    ),
    ("pc.read_trace(5)", "TypeError", "expected str, bytes or os.PathLike object, not int"),
    ('pc.replay(trace, "a")', "TypeError", "allocator must be an Allocator for mode='predict', not str"),
    ('pc.replay("t", a)', "TypeError", "trace must be a Trace or an iterable of Trace, not str"),
    (
        'pc.replay(trace, a, mode="guess")',
        "InvalidRequest",
        "mode='guess': must be one of predict, rerun, follow, closed_world",
    ),
    (
        "pc.replay(trace, a, sample_every=-1)",
        "InvalidRequest",
        "sample_every=-1: must be from 0 to 9223372036854775807",
    ),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("wrong")
    (tmp / "binary").write_bytes(bytes(range(256)) * 4)
    (tmp / "empty").write_bytes(b"")
    (tmp / "half.gz").write_bytes(gzip.compress(b'{"version": 1, "chunks": [' + b"1," * 5000)[:40])
    (tmp / "bad-line.txt").write_text(
        "# tracer: nop\n"
        "  x-1  [000] d..1.  1.000000: percpu_alloc_percpu: call_site=f+0x1/0x2 reserved=0 is_atomic=0 size=8 align=8 "
        "base_addr=(____ptrval____) off=0 ptr=zzz bytes_alloc=8 gfp_flags=GFP_KERNEL\n"
    )
    return tmp


@pytest.fixture
def names(files, recordings):
    a = pc.Allocator(unit_size=64 << 10, nr_units=2)
    p = [int(ptr) for ptr in a.alloc_many([64, 300, 8, 4096]).ptr]
    a.free(p[2])
    path = next(path for run in recordings for path in sorted(run.glob("trace*.txt.gz")))
    return {
        "a": a,
        "p": p,
        "tmp": files,
        "layout": pc.FirstChunkLayout.build(static_size=185_496, topology=pc.Topology.from_nodes([4, 4])),
        "trace": pc.read_trace(path),
    }


def test_the_table():
    assert len({call for call, _, _ in TABLE}) == len(TABLE) >= 60


@pytest.mark.parametrize(("call", "exception", "text"), TABLE, ids=[call for call, _, _ in TABLE])
def test_wrong_input(names, call, exception, text):
    before = names["a"].snapshot()
    with pytest.raises(getattr(pc, exception, None) or getattr(builtins, exception)) as caught:
        eval(call, {"pc": pc, "np": __import__("numpy"), **names})
    # A request that fails as in the kernel may schedule the worker, as in the kernel; a wrong call changes nothing.
    if exception != "AllocError":
        assert names["a"].snapshot() == before
    names["a"].verify()
    assert text in str(caught.value).replace(f"{names['tmp']}{os.sep}", "")
    if isinstance(caught.value, pc.PercpuError):
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), str(again), again.__dict__) == (caught.type, str(caught.value), caught.value.__dict__)


def test_the_page_is_this_table():
    rows = (f"| `{call}` | `{exception}` | {text} |\n".replace("<", "&lt;") for call, exception, text in TABLE)
    page = HEAD + "".join(rows)
    if os.environ.get("PERCPU_WRITE_DOCS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page
