"""Snapshots, copies, pickles, recorded states."""

from __future__ import annotations

import copy
import gzip
import json
import pickle

import numpy as np
import pytest

import percpu as pc


@pytest.fixture
def busy(any_linux):
    rng = np.random.default_rng(3)
    batch = any_linux.alloc_many(rng.integers(1, 2000, 200))
    any_linux.free_many(batch.ptr[rng.permutation(200)[:120]])
    return any_linux


@pytest.mark.parametrize(
    "clone",
    [
        copy.copy,
        copy.deepcopy,
        lambda a: pickle.loads(pickle.dumps(a)),
        lambda a: pc.Allocator.restore(a.snapshot()),
        lambda a: pc.Allocator.restore(memoryview(a.snapshot())),
    ],
    ids=["copy", "deepcopy", "pickle", "restore", "memoryview"],
)
def test_a_clone_is_equal_and_independent(busy, clone):
    other = clone(busy)
    assert other.snapshot() == busy.snapshot()
    assert busy.differences(other) == []
    other.verify()
    p, q = busy.alloc(40), other.alloc(40)
    assert p == q
    other.free(q)
    assert busy.locate(p).size_bytes == 40
    assert busy.differences(other)


def test_equal_histories_give_equal_snapshots():
    def run():
        a = pc.Allocator(unit_size=64 << 10, nr_units=4)
        batch = a.alloc_many(np.arange(1, 300))
        a.free_many(batch.ptr[::2])
        return a.snapshot()

    assert run() == run()


def test_damaged_snapshots_are_refused(busy):
    good = busy.snapshot()
    for bad in (b"", good[:10], good[: len(good) // 2], good + b"x", b"\0" * len(good)):
        with pytest.raises(pc.StateError):
            pc.Allocator.restore(bad)
    rng = np.random.default_rng(5)
    for _ in range(200):
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
        with pytest.raises(pc.StateError):
            pc.Allocator.restore(bytes(bad))
    with pytest.raises(pc.StateError, match="a state file is read by from_state"):
        pc.Allocator.restore(json.dumps(busy.to_state()).encode())


def test_state_form_round_trip(busy):
    state = busy.to_state()
    assert set(state) >= {"globals", "slots", "chunks", "md_fields"}
    for form in (state, json.dumps(state).encode(), bytearray(json.dumps(state).encode()), busy.snapshot()):
        assert busy.differences(form) == []
        again = pc.Allocator.from_state(form, kernel=busy.kernel)
        assert again.to_state() == state
        assert again.differences(busy) == []
    with pytest.raises(pc.StateError, match="must be a path, bytes or a dict, not list"):
        pc.Allocator.from_state([1])
    with pytest.raises(pc.StateError, match="not JSON serializable"):
        pc.Allocator.from_state({"globals": {1, 2}})


def test_recorded_states(recordings, tmp_path):
    path = recordings[0] / "state-a.json.gz"
    a = pc.Allocator.from_state(path)
    a.verify()
    content = path.read_bytes()
    assert a.differences(pc.Allocator.from_state(content)) == []
    assert a.differences(pc.Allocator.from_state(gzip.decompress(content))) == []
    plain = tmp_path / "state.json"
    plain.write_bytes(gzip.decompress(content))
    assert a.differences(pc.Allocator.from_state(str(plain))) == []
    again = pc.Allocator.restore(a.snapshot())
    assert a.differences(again) == []


def test_wrong_states(tmp_path):
    for bad in (b"", b"{}", b"[1, 2]", b'{"globals": {}, "slots": [], "chunks": []}', b"\x1f\x8bnot gzip"):
        with pytest.raises(pc.StateError):
            pc.Allocator.from_state(bad)
    with pytest.raises(FileNotFoundError):
        pc.Allocator.from_state(tmp_path / "nothing.json")
