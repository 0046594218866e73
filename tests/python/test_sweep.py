"""Sweeps: points, threads, executors, checkpoints."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import percpu as pc
from percpu.distributions import Choice, Integers, LogIntegers, PowersOfTwo, latin_hypercube

OBJECTS = pc.workloads.objects(1000, size=24, free="alternate")
GRID = {"geometry.block_size": [1024, 4096], "request.align": [4, 16, 64]}
PLAIN = {"unit_size": 64 << 10, "nr_units": 2}


@pytest.fixture(scope="module")
def trace():
    from pathlib import Path

    return pc.read_trace(Path(pc.__file__).parent / "data" / "demo" / "workload" / "trace.txt.gz")[:6000]


# -- points ------------------------------------------------------------------------------


def test_a_grid_is_walked_in_order():
    g = pc.sweep(OBJECTS, GRID, geometry=PLAIN)
    assert g.dims == g.parameters == ("geometry.block_size", "request.align")
    assert g["geometry.block_size"].tolist() == [1024] * 3 + [4096] * 3
    assert g["request.align"].tolist() == [4, 16, 64] * 2
    assert {row["status"] for row in g.rows()} == {"ok"}
    alone = pc.compare(
        OBJECTS, ["linux-5.14"], geometry={**PLAIN, "block_size": 1024}, request={"align": 64}, timing=False
    )
    assert {name: g.row(2)[name] for name in alone if name != "engine"} == {
        name: alone.row(0)[name] for name in alone if name != "engine"
    }


def test_every_kind_of_parameter():
    w = pc.workloads.objects(500, free="random")
    g = pc.sweep(
        w,
        {"kernel": ["4.19", "6.12"], "nr_cpus": [1, 3], "every": [1, 50], "workload.size": [8, 40], "seed": range(2)},
    )
    assert g.parameters == ("kernel", "geometry.nr_cpus", "policy.every", "workload.size", "workload.seed")
    assert len(g) == 32
    assert (g.status == 0).all()
    assert (g.peak_memory_bytes == g.peak_populated_bytes * g["geometry.nr_cpus"]).all()
    assert (g.peak_requested_bytes == 500 * g["workload.size"]).all()


def test_a_list_of_points():
    g = pc.sweep(OBJECTS, [{"request.align": 8}, {"block_size": 2048}])
    assert g.dims == ("point",)
    assert g.row(0)["request.align"] == 8
    assert g.row(0)["geometry.block_size"] is None
    assert g.row(1)["geometry.block_size"] == 2048
    assert g.to_xarray().sizes == {"point": 2}


def test_distributions_are_sampled_at_every_point_of_the_grid():
    parameters = {
        "workload.size": LogIntegers(4, 1024),
        "engine": ["areamap", "linux-5.14"],
        "workload.align": PowersOfTwo(4, 64),
    }
    g = pc.sweep(OBJECTS, parameters, samples=8, seed=3)
    assert g.dims == ("engine", "sample")
    assert len(g) == 16
    assert g["workload.size"][:8].tolist() == g["workload.size"][8:].tolist()
    cube = g.to_xarray()
    assert cube["workload.size"].dims == ("engine", "sample")
    same = pc.sweep(OBJECTS, parameters, samples=8, seed=3)
    assert same == g
    assert pc.sweep(OBJECTS, parameters, samples=8, seed=4) != g


def test_latin_hypercube():
    u = latin_hypercube(50, 3, seed=7)
    assert u.shape == (50, 3)
    assert np.sort((u * 50).astype(int), axis=0).T.tolist() == [list(range(50))] * 3
    assert (u == latin_hypercube(50, 3, seed=7)).all()
    # The same with every numpy: recorded once.
    assert latin_hypercube(3, 2, seed=0).round(6).tolist() == LATIN_3_2
    assert sorted(Integers(1, 50).ppf(u[:, 0])) == list(range(1, 51))
    assert set(Choice("ab").ppf(u[:, 1])) == {"a", "b"}
    assert Integers(10, 50, step=20).ppf([0.0, 0.5, 0.99]) == [10, 30, 50]


LATIN_3_2 = [[0.672176, 0.978357], [0.604423, 0.271951], [0.304252, 0.334246]]


def test_a_distribution_of_scipys_form():
    class Normal:
        def ppf(self, u):
            return 100 + 50 * (np.asarray(u) - 0.5)

    g = pc.sweep(OBJECTS, {"workload.size": Normal()}, samples=5)
    assert g["workload.size"].dtype == np.int64
    assert g["workload.size"].min() >= 75


@pytest.mark.parametrize(
    ("parameters", "options", "error", "text"),
    [
        ({"align": [4]}, {}, pc.InvalidRequest, "request.align or workload.align"),
        ({"colour": [4]}, {}, pc.InvalidRequest, "parameter 'colour': must be one of engine, kernel"),
        ({"block_size": [4096], "geometry.block_size": [4096]}, {}, pc.InvalidRequest, "given twice"),
        ({"block_size": []}, {}, pc.InvalidRequest, "has no values"),
        ({"block_size": [4096, 4096]}, {}, pc.InvalidRequest, "4096 twice"),
        ([], {}, pc.InvalidRequest, "there is no point"),
        ({"block_size": range(1 << 11), "every": range(1 << 11)}, {}, pc.InvalidRequest, "4194304 points are more"),
        ({"block_size": PowersOfTwo(512, 4096)}, {"samples": 1 << 30}, pc.InvalidRequest, "points are more than"),
        ([3], {}, TypeError, r"parameters\[0\] must be a mapping"),
        ("block_size", {}, TypeError, "must be a mapping or a list"),
        ({3: [4096]}, {}, TypeError, "must be str"),
        ({"block_size": PowersOfTwo(512, 4096)}, {}, pc.InvalidRequest, "samples= is needed"),
        ({"block_size": [4096]}, {"samples": 3}, pc.InvalidRequest, "needs distributions"),
        ({"block_size": [4096]}, {"threads": 0}, pc.InvalidRequest, "threads=0"),
        ({"block_size": [4096]}, {"threads": 2, "executor": 1}, pc.InvalidRequest, "exclude each other"),
        ({"block_size": [4096]}, {"executor": 1}, TypeError, "must have a method submit"),
        ({"block_size": [4096]}, {"progress": "yes"}, TypeError, "progress must be"),
        ({"block_size": [4096]}, {"geometry": {"size": 1}}, pc.InvalidRequest, "name in geometry"),
    ],
)
def test_bad_arguments(parameters, options, error, text):
    with pytest.raises(error, match=text):
        pc.sweep(OBJECTS, parameters, **options)


def test_workload_parameters_need_a_workload(trace):
    with pytest.raises(pc.InvalidRequest, match=r"parameter 'workload\.size'"):
        pc.sweep(trace, {"workload.size": [4]})


def test_failed_points_are_rows():
    g = pc.sweep(OBJECTS, {"block_size": [1000, 2048, 4096], "engine": ["areamap", "linux-5.14", "linux-9"]})
    status = [row["status"] for row in g.rows()]
    assert status == ["failed", "failed", "failed", "failed", "ok", "failed", "ok", "ok", "failed"]
    assert "block_size=1000: must be a power of two" in g.row(0)["error"]
    assert "always 4096 in engine areamap" in g.row(3)["error"]
    assert "engine='linux-9'" in g.row(8)["error"]
    assert g.row(4)["error"] is None
    assert g.missing("nr_alloc").tolist() == [word != "ok" for word in status]
    cube = g.to_xarray()
    assert cube.sizes == {"geometry.block_size": 3, "engine": 3}
    assert cube["engine"].values.tolist() == ["areamap", "linux-5.14", "linux-9"]
    assert np.isnan(cube.nr_alloc.values[0]).all()
    assert cube.status.values[0, 0] == "failed"
    assert cube.nr_alloc.sel({"geometry.block_size": 4096, "engine": "linux-5.14"}) == 1000
    assert cube["geometry.block_size"].attrs["units"] == "bytes"
    assert cube.peak_memory_bytes.attrs["units"] == "bytes"
    frame = g.to_pandas()
    assert str(frame["nr_alloc"].dtype) == "Int64"
    assert frame["status"].tolist() == status


def test_phases_become_columns():
    g = pc.sweep(OBJECTS, {"workload.size": [8, 16]}, phases=True)
    assert g["alloc.nr_alloc"].tolist() == [1000, 1000]
    assert g["free.nr_free"].tolist() == [1000, 1000]
    assert g["alloc.end_requested_bytes"].tolist() == [8000, 16000]
    assert "alloc_ns" not in g
    assert "alloc_ns" in pc.sweep(OBJECTS, {"workload.size": [8]}, timing=True)


def test_provenance():
    g = pc.sweep(OBJECTS, GRID, geometry=PLAIN, seed=5)
    assert g.attrs["percpu_version"] == pc.__version__
    assert g.attrs["source_hash"] == f"workload-{OBJECTS.fingerprint}"
    assert g.attrs["seed"] == 5
    assert g.attrs["geometry.unit_size"] == 64 << 10
    other = pc.sweep(OBJECTS.replace(size=20), GRID, geometry=PLAIN, seed=5)
    assert other.attrs["source_hash"] != g.attrs["source_hash"]
    assert other.attrs["sweep_hash"] != g.attrs["sweep_hash"]
    again = pickle.loads(pickle.dumps(g))
    assert again == g
    assert again.attrs == g.attrs
    assert again.to_xarray().equals(g.to_xarray())


# -- the same result in any case ---------------------------------------------------------


def test_threads_do_not_matter(trace):
    grid = {"engine": ["areamap", "linux-4.14", "linux-5.14"], "request.min_align": [4, 64]}
    digests = {threads: pc.sweep(trace, grid, threads=threads).digest() for threads in (1, 2, 5)}
    assert len(set(digests.values())) == 1


@pytest.mark.parametrize("pool", ["threads", "processes"])
def test_executors_of_the_standard_library(pool, trace):
    grid = {"engine": ["rfc-v1", "linux-5.14"], "request.min_align": [4, 64], "block_size": [4096, 3]}
    expected = pc.sweep(trace, grid)
    if pool == "threads":
        made = concurrent.futures.ThreadPoolExecutor(2)
    else:
        import multiprocessing

        made = concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    with made:
        found = pc.sweep(trace, grid, executor=made)
    assert found == expected
    assert found.digest() == expected.digest()


class Dying(concurrent.futures.ThreadPoolExecutor):
    """Its workers die: each task fails as often as it is told."""

    def __init__(self, deaths):
        super().__init__(2)
        self.deaths = deaths
        self.seen = {}
        self.lock = threading.Lock()

    def submit(self, fn, source, index, *rest):
        def task():
            with self.lock:
                self.seen[index] = self.seen.get(index, 0) + 1
                if self.seen[index] <= self.deaths.get(index, 0):
                    raise ConnectionError("the worker is gone")
            return fn(source, index, *rest)

        return super().submit(task)


def test_points_of_dead_workers_are_run_again(tmp_path):
    pytest.importorskip("pyarrow")
    expected = pc.sweep(OBJECTS, GRID)
    with Dying({1: 1, 4: 2}) as executor:
        assert pc.sweep(OBJECTS, GRID, executor=executor) == expected
    with Dying({3: 99}) as executor:
        g = pc.sweep(OBJECTS, GRID, executor=executor, checkpoint=tmp_path)
    assert g.row(3)["status"] == "lost"
    assert g.row(3)["error"] == "ConnectionError: the worker is gone"
    assert [row["status"] for row in g.rows()].count("ok") == 5
    # A lost point is not finished: the next run makes it.
    assert pc.sweep(OBJECTS, GRID, checkpoint=tmp_path) == expected


class Ppf:
    """A distribution that gives what it was told to."""

    def __init__(self, values):
        self.values = values

    def ppf(self, u):
        return self.values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([np.nan, 4.0]), r"ppf\(\) returned nan"),
        ([4.0, np.inf], r"ppf\(\) returned inf"),
        ([4], r"ppf\(\) of 2 numbers must give as many"),
        (4, r"ppf\(\) of 2 numbers must give as many"),
        (None, r"ppf\(\) of 2 numbers must give as many"),
    ],
)
def test_what_a_distribution_must_not_give(values, message):
    with pytest.raises(pc.InvalidRequest, match=f"'request.align': {message}"):
        pc.sweep(OBJECTS, {"request.align": Ppf(values)}, samples=2)


def test_values_without_end_or_bounds(tmp_path):
    with pytest.raises(pc.InvalidRequest, match=r"'workload.seed' has more than 1048576 values"):
        pc.sweep(OBJECTS, {"seed": itertools.count()})
    huge = {"request.align": [1 << 70, 4]}
    g = pc.sweep(OBJECTS, huge, checkpoint=tmp_path)
    assert g.status.tolist() == [1, 0]
    assert g["request.align"].tolist() == [str(1 << 70), "4"]
    assert pc.sweep(OBJECTS, huge, checkpoint=tmp_path) == g
    (error,) = set(pc.sweep(OBJECTS, {"geometry.topology": [[0, 0, 1]]}).error)
    assert "topology must be a Topology or a number of CPUs, not list" in error


# -- checkpoints -------------------------------------------------------------------------


def finished(path):
    """Points in the parts of a checkpoint, each as often as it is there."""
    import pyarrow.parquet as pq

    return sorted(number for part in path.glob("part-*.parquet") for number in pq.read_table(part)["point"].to_pylist())


class Counting:
    """An engine that tells how many were made."""

    made = 0
    limit = None

    def __init__(self, geometry):
        type(self).made += 1
        if self.limit is not None and type(self).made > self.limit:
            raise KeyboardInterrupt
        self.next = 0

    def alloc(self, size, align):
        self.next = -(-self.next // align) * align
        offset, self.next = self.next, self.next + size
        return offset

    def free(self, offset):
        pass


def test_a_checkpoint_is_not_run_twice(tmp_path):
    pytest.importorskip("pyarrow")
    Counting.made, Counting.limit = 0, None
    grid = {"request.align": [4, 8, 16, 32], "workload.size": [4, 12]}
    first = pc.sweep(OBJECTS, grid, engine=Counting, checkpoint=tmp_path, threads=1)
    assert Counting.made == 8
    assert finished(tmp_path) == list(range(8))
    second = pc.sweep(OBJECTS, grid, engine=Counting, checkpoint=tmp_path)
    assert Counting.made == 8
    assert second == first
    assert [second[name].dtype for name in second] == [first[name].dtype for name in first]
    (tmp_path / "part-00000003.parquet").unlink()
    (tmp_path / ".part-00000099.tmp").write_bytes(b"torn")
    assert pc.sweep(OBJECTS, grid, engine=Counting, checkpoint=tmp_path) == first
    assert Counting.made == 9
    assert not (tmp_path / ".part-00000099.tmp").exists()


def test_an_interrupted_sweep_goes_on(tmp_path):
    pytest.importorskip("pyarrow")
    Counting.made, Counting.limit = 0, 5
    grid = {"request.align": [4, 8, 16, 32], "workload.size": [4, 12]}
    with pytest.raises(KeyboardInterrupt):
        pc.sweep(OBJECTS, grid, engine=Counting, checkpoint=tmp_path, threads=1)
    kept = finished(tmp_path)
    assert len(kept) == len(set(kept)) < 8
    Counting.made, Counting.limit = 0, None
    whole = pc.sweep(OBJECTS, grid, engine=Counting, checkpoint=tmp_path, threads=1)
    assert Counting.made == 8 - len(kept)
    assert whole == pc.sweep(OBJECTS, grid, engine=Counting)


def test_another_sweep_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    pc.sweep(OBJECTS, GRID, checkpoint=tmp_path)
    with pytest.raises(pc.StateError, match=r"another sweep .*points"):
        pc.sweep(OBJECTS, {"request.align": [8]}, checkpoint=tmp_path)
    with pytest.raises(pc.StateError, match=r"another sweep .*source"):
        pc.sweep(OBJECTS.replace(n=10), GRID, checkpoint=tmp_path)
    with pytest.raises(pc.StateError, match=r"another sweep .*options"):
        pc.sweep(OBJECTS, GRID, checkpoint=tmp_path, phases=True)
    pc.sweep(OBJECTS, GRID, checkpoint=tmp_path)
    (tmp_path / "part-00000001.parquet").write_bytes(b"no parquet")
    with pytest.raises(pc.StateError, match="is damaged"):
        pc.sweep(OBJECTS, GRID, checkpoint=tmp_path)
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(pc.StateError, match="cannot be read"):
        pc.sweep(OBJECTS, GRID, checkpoint=tmp_path)
    (tmp_path / "sweep.json").unlink()
    with pytest.raises(pc.StateError, match=r"no sweep\.json"):
        pc.sweep(OBJECTS, GRID, checkpoint=tmp_path)


def test_one_writer_at_a_time(tmp_path):
    pytest.importorskip("pyarrow")
    pytest.importorskip("fcntl")
    refused = []

    def inside(*_):
        if not refused:
            with pytest.raises(pc.StateError, match="another process") as caught:
                pc.sweep(OBJECTS, GRID, checkpoint=tmp_path)
            refused.append(caught.value)

    pc.sweep(OBJECTS, GRID, checkpoint=tmp_path, progress=inside)
    assert len(refused) == 1


def test_small_parts_are_joined(tmp_path):
    pytest.importorskip("pyarrow")
    w = pc.workloads.objects(3)
    grid = {"workload.size": range(1, 301)}
    g = pc.sweep(w, grid, checkpoint=tmp_path, geometry=PLAIN)
    assert len(list(tmp_path.glob("part-*"))) < 128
    assert finished(tmp_path) == list(range(300))
    assert pc.sweep(w, grid, checkpoint=tmp_path, geometry=PLAIN) == g
    # A joined part is not written again with the next ones.
    import pyarrow.parquet as pq

    joined = [pq.read_metadata(tmp_path / f"part-{number:08}.parquet").num_rows for number in (128, 256)]
    assert joined == [127, 127]


def test_a_damaged_checkpoint_is_never_believed(tmp_path):
    pytest.importorskip("pyarrow")
    w, grid = pc.workloads.objects(3), {"workload.size": [1, 2]}
    g = pc.sweep(w, grid, checkpoint=tmp_path, geometry=PLAIN)
    part = tmp_path / "part-00000001.parquet"
    whole = part.read_bytes()
    rng = np.random.default_rng(4)
    told = []
    for turn in range(200):
        damaged = bytearray(whole[: rng.integers(len(whole))] if turn % 4 == 0 else whole)
        for place in rng.integers(max(len(damaged), 1), size=2 * (turn % 4 != 0)):
            damaged[place] ^= 1 << int(rng.integers(8))
        part.write_bytes(damaged)
        try:
            assert pc.sweep(w, grid, checkpoint=tmp_path, geometry=PLAIN) == g
        except pc.StateError as error:
            told.append(str(error))
    assert len(told) > 100
    assert all("part-00000001.parquet: " in text for text in told)
    part.write_bytes(whole)
    (tmp_path / "part-of-something.parquet").write_bytes(b"")
    assert pc.sweep(w, grid, checkpoint=tmp_path, geometry=PLAIN) == g


KILLED = """
import sys, time
import percpu as pc

class Slow:
    def __init__(self, geometry):
        self.next = 0
        time.sleep(0.05)
    def alloc(self, size, align):
        offset, self.next = self.next, self.next + 64
        return offset
    def free(self, offset):
        pass

g = pc.sweep(pc.workloads.objects(50, size=8), {"request.align": [4, 8, 16, 32, 64], "workload.size": range(4, 64, 4)},
             engine=Slow, checkpoint=sys.argv[1], threads=2, progress=lambda *told: print(*told, flush=True))
print("digest", g.digest(), flush=True)
"""


def test_kill_9_loses_and_repeats_no_finished_point(tmp_path):
    pytest.importorskip("pyarrow")
    script = tmp_path / "experiment.py"
    script.write_text(KILLED)
    path = tmp_path / "runs"
    command = [sys.executable, str(script), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        told = [process.stdout.readline() for _ in range(12)]
        process.send_signal(signal.SIGKILL)
    done = int(told[-1].split()[0])
    kept = finished(path)
    assert done >= 12
    assert done <= len(kept) < 75  # nothing of what was told is lost
    assert len(set(kept)) == len(kept)
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert int(again[0].split()[0]) == len(kept) + 1  # nothing that is kept is repeated
    assert len(again) - 1 == 75 - len(kept)
    assert finished(path) == list(range(75))
    fresh = subprocess.run([*command[:2], str(tmp_path / "other")], capture_output=True, text=True, check=True)
    assert fresh.stdout.splitlines()[-1] == again[-1]


def test_what_a_checkpoint_says(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    g = pc.sweep(OBJECTS, GRID, checkpoint=tmp_path)
    facts = json.loads((tmp_path / "sweep.json").read_text())
    assert facts["version"] == pc.__version__
    assert facts["source"] == g.attrs["source_hash"]
    assert facts["hash"] == g.attrs["sweep_hash"]
    assert len(facts["points"]) == 6
    row = pq.read_table(tmp_path / "part-00000001.parquet").to_pylist()[0]
    assert row["parameter request.align"] == g["request.align"][row["point"]]


# -- progress and interrupts -------------------------------------------------------------


def test_progress(capsys):
    told = []
    pc.sweep(OBJECTS, GRID, progress=lambda *now: told.append(now))
    assert [now[0] for now in told] == [1, 2, 3, 4, 5, 6]
    assert {now[1] for now in told} == {6}
    assert all(rate > 0 and remaining >= 0 for _, _, rate, remaining in told)
    pc.sweep(OBJECTS, GRID, progress=True)
    assert "6/6" in capsys.readouterr().err


def test_an_error_of_the_listener_reaches_the_caller():
    def listener(*_):
        raise ZeroDivisionError("no")

    with pytest.raises(ZeroDivisionError):
        pc.sweep(OBJECTS, GRID, progress=listener)


def interrupted(seconds, work):
    """Seconds from a Ctrl-C to its exception."""
    sent = []

    def send():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(seconds, send)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        work()
    return time.monotonic() - sent[0]


def test_interrupts_stop_threads_and_executors():
    long = pc.workloads.objects(30_000_000, size=8)
    # The promise is 100 ms; a busy machine gets more.
    assert interrupted(0.3, lambda: pc.sweep(long, GRID, geometry=PLAIN, threads=2)) < 2
    before = signal.getsignal(signal.SIGINT)
    assert before is signal.getsignal(signal.SIGINT)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        release = threading.Event()
        pool.submit(release.wait)
        try:
            assert interrupted(0.2, lambda: pc.sweep(OBJECTS, GRID, executor=pool)) < 2
        finally:
            release.set()
