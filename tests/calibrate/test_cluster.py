"""Calibration on a Dask cluster of processes on this machine."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import distributed
import numpy as np
import pytest
from calibrate import graphs

from qcompiler.calibrate import Calibration, Statistics, scheduler
from qcompiler.data import Samples, open_samples
from qcompiler.errors import WorkerError

pytestmark = pytest.mark.slow

GRAPH = graphs.graph("g (float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) y = Tanh(a) }",
                     w=np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32))  # fmt: skip


@pytest.fixture
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as running:
        yield running


def samples() -> Samples:
    random = np.random.default_rng(0)
    return open_samples([{"x": random.normal(size=(8, 64)).astype(np.float32)} for _ in range(400)], GRAPH.inputs)


def content(statistics: Statistics) -> bytes:
    file = io.BytesIO()
    statistics.write(file)
    return file.getvalue()


def test_a_cluster_counts_the_same_even_when_a_worker_is_killed_midway(cluster: Any) -> None:
    killed: list[int] = []

    def kill(done: int, total: int | None) -> None:
        if done == 200 and not killed:
            # The two processes of the first nanny's pair: the nanny starts another worker, as an operator would.
            victim = next(iter(cluster.workers.values())).process.pid
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    here = Calibration(GRAPH, ("x", "a", "y"))
    there = replace(here, scheduler=scheduler(cluster.scheduler_address), on_sample=kill)
    found = there.run(samples())
    assert killed
    assert content(found) == content(here.run(samples()))


def test_where_nobody_answers() -> None:
    with pytest.raises(WorkerError, match=r"^tcp://127\.0\.0\.1:9: no Dask scheduler answers"):
        Calibration(GRAPH, ("x",), scheduler=replace(scheduler("tcp://127.0.0.1:9"), timeout="1s")).run(samples())
