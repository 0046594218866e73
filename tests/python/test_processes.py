"""Allocators across processes: fork after use, pickling to workers, signals during long calls."""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

import percpu as pc


def used(allocator):
    allocator.free_many(allocator.alloc_many(np.arange(1, 400)).ptr[::3])
    return allocator


def go_on(allocator):
    """More of the same, deterministic."""
    allocator.alloc_many(np.arange(4, 200, 4))
    allocator.verify()
    return allocator.snapshot()


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_pickled_to_a_worker_and_back(any_linux, method):
    used(any_linux)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        there = pool.submit(pc.Allocator.snapshot, any_linux).result(60)
        placed = pool.submit(pc.Allocator.alloc_many, any_linux, np.arange(4, 200, 4)).result(60)
        back = pool.submit(copy.copy, any_linux).result(60)
    assert there == any_linux.snapshot() == back.snapshot()
    np.testing.assert_array_equal(placed.ptr, copy.copy(back).alloc_many(np.arange(4, 200, 4)).ptr)
    assert go_on(back) == go_on(any_linux)


def test_fork_after_use(allocator):
    used(allocator)
    before = allocator.snapshot()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        # The child has its own copy; nothing of it may reach the parent.
        code = 1
        try:
            os.close(read)
            os.write(write, go_on(allocator)[:1])
            code = 0 if allocator.stats()["nr_cur_alloc"] else 2
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert len(pipe.read()) == 1
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert allocator.snapshot() == before
    allocator.verify()


SIGNALLED = """
import signal
import numpy as np
import percpu as pc

seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
a = pc.Allocator(unit_size=2 << 20, nr_units=2)
print("ready", flush=True)
while len(seen) < 5:
    a.free_many(a.alloc_many(np.full(200_000, 16)).ptr)
# Python takes its handlers away at exit, and then one more signal would end the process.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
a.verify()
print("done", a.stats()["nr_cur_alloc"], flush=True)
"""


def test_other_signals_do_not_disturb_a_long_call():
    child = subprocess.Popen([sys.executable, "-c", SIGNALLED], stdout=subprocess.PIPE, text=True, env={**os.environ})
    assert child.stdout.readline() == "ready\n"
    for _ in range(10_000):
        if child.poll() is not None:
            break
        try:
            child.send_signal(signal.SIGUSR1)
        except ProcessLookupError:
            break
        time.sleep(0.01)
    assert child.communicate(timeout=120)[0] == "done 0\n"
    assert child.returncode == 0


INTERRUPTED = """
import os, signal, sys, threading, time
import numpy as np
import percpu as pc

signal.signal(signal.SIGINT, signal.default_int_handler)
a = pc.Allocator(unit_size=2 << 20, nr_units=2)
a.alloc(8)
before = a.snapshot()
sizes = np.full(20_000_000, 4)
sent = []


def interrupt():
    time.sleep(0.3)
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)


threading.Thread(target=interrupt).start()
try:
    a.alloc_many(sizes)
except KeyboardInterrupt:
    late = time.perf_counter() - sent[0]
    a.verify()
    print(a.snapshot() == before, late)
"""


def test_ctrl_c_undoes_one_long_call():
    out = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120, check=True)
    unchanged, late = out.stdout.split()
    assert unchanged == "True"
    print(f"{float(late) * 1000:.0f} ms from the signal to the exception")


def test_eight_threads_one_allocator(any_linux):
    """No deadlock with the interpreter lock; `make stress` does a million operations a thread."""
    operations = int(os.environ.get("PERCPU_STRESS", "20_000"))
    errors = []
    counts = []

    def hammer(seed):
        rng = np.random.default_rng(seed)
        done = 0
        held = np.empty(0, dtype=np.uint64)
        try:
            while done < operations:
                sizes = rng.integers(1, 200, int(rng.integers(1, 200)))
                batch = any_linux.alloc_many(sizes)
                done += len(sizes)
                held = np.concatenate([held, batch.ptr[batch.ok]])
                if rng.random() < 0.1:
                    one = any_linux.alloc(8)
                    any_linux.locate(one)
                    any_linux.free(one)
                    done += 2
                if rng.random() < 0.02:
                    any_linux.snapshot()
                    any_linux.verify()
                rng.shuffle(held)
                cut = len(held) // 2
                any_linux.free_many(held[:cut])
                held = held[cut:]
                done += cut
            any_linux.free_many(held)
            counts.append(done)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=hammer, args=(seed,), daemon=True) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert not errors
    assert len(counts) == 8, "a thread is stuck"
    any_linux.verify()
    assert any_linux.stats()["nr_cur_alloc"] == 0
