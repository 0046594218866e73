"""One allocator from several threads, and several allocators at once."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import percpu as pc


def work(seed):
    rng = np.random.default_rng(seed)
    a = pc.Allocator(unit_size=256 << 10, nr_units=2)
    live = np.empty(0, dtype=np.uint64)
    for _ in range(20):
        live = np.concatenate([live, a.alloc_many(rng.integers(1, 500, 500)).ptr])
        rng.shuffle(live)
        a.free_many(live[:300])
        live = live[300:]
    return a.snapshot()


def test_one_thread_equals_many():
    alone = [work(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == alone


def test_one_allocator_shared(allocator):
    errors = []

    def hammer(seed):
        rng = np.random.default_rng(seed)
        try:
            for _ in range(200):
                batch = allocator.alloc_many(rng.integers(1, 200, 20))
                allocator.stats()
                allocator.free_many(batch.ptr)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    allocator.verify()
    stats = allocator.stats()
    assert stats["nr_cur_alloc"] == 0
    assert stats["nr_alloc"] == 4 * 200 * 20


def test_keyboard_interrupt_stops_a_batch():
    import _thread

    a = pc.Allocator(unit_size=2 << 20, nr_units=2)
    timer = threading.Timer(0.05, _thread.interrupt_main)
    # A shell's background job begins with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            for _ in range(1_000):
                a.free_many(a.alloc_many(np.full(100_000, 16)).ptr)
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    a.verify()
    assert a.alloc(4)
