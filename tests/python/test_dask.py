"""Sweeps on a cluster of processes."""

from __future__ import annotations

import os
import signal

import pytest

import percpu as pc

distributed = pytest.importorskip("distributed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_a_cluster_gives_the_same_bytes(client):
    w = pc.workloads.objects(2000, size=24, free="random")
    grid = {"engine": ["areamap", "linux-5.14"], "request.min_align": [4, 64], "block_size": [4096, 3]}
    expected = pc.sweep(w, grid)
    assert pc.sweep(w, grid, executor=client).digest() == expected.digest()
    # The executor of concurrent.futures' form that a client gives.
    assert pc.sweep(w, grid, executor=client.get_executor()) == expected


def test_a_worker_killed_in_the_middle(client, tmp_path, recorded_trace):
    grid = {"engine": ["areamap", "rfc-v1", "linux-5.14"], "request.min_align": [4, 16, 64, 256]}
    killed = []

    def kill(done, total, *_):
        if done == 3 and not killed:
            killed.extend(sorted(client.run(os.getpid).values())[:1])
            os.kill(killed[0], signal.SIGKILL)

    trace = recorded_trace[:12_000]
    found = pc.sweep(trace, grid, executor=client, checkpoint=tmp_path, progress=kill)
    assert killed
    assert found.digest() == pc.sweep(trace, grid).digest()
    assert killed[0] not in client.run(os.getpid).values()
