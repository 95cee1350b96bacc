"""Where samples are counted: in this process, in threads of it or in a pool of processes, or on a Dask cluster.

All of them give the same statistics, bit for bit: each sample is run by itself, by one thread of ONNX Runtime (more
threads add up in another order), and what the samples held is added as integers.
"""

from __future__ import annotations

import tempfile
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import onnx

from qcompiler import ir, runtime
from qcompiler.calibrate.collect import Collector, Feed
from qcompiler.calibrate.statistics import Statistics
from qcompiler.errors import DataError, DependencyError, QCompilerError, WorkerError

CHUNK_SAMPLES = 32
CHUNK_BYTES = 32_000_000
"""What one task is given: at most so many samples, and no more once they hold so many bytes."""

SAMPLES_A_WORKER = 128
"""A process more than one is only started for so many samples: it takes a second to start."""

Chunk = list[tuple[int, Feed]]


class Counter(Protocol):
    """Counts the samples that it is given in the order of their numbers. ``skipped``: those known so far on which the
    model failed, with the reason; nothing of them is counted."""

    skipped: dict[int, str]

    def add(self, sample: int, feed: Feed) -> None:
        """Counts one sample, now or later. Raises WorkerError."""

    def finish(self) -> None:
        """Returns once every sample is counted. Raises WorkerError."""

    def so_far(self) -> tuple[Statistics, int]:
        """Statistics of every sample before the one of the returned number, with those skipped; of no tensors while
        nothing has come back."""


class Scheduler(Protocol):
    def open(self, graph: ir.Graph, tensors: Sequence[str]) -> AbstractContextManager[Counter]:
        """A counter of these tensors of the model, which ends with the block. Raises WorkerError."""


def scheduler(text: str, workers: int | None = None, samples: int | None = None) -> Scheduler:
    """``local`` or the address of a Dask scheduler, ``tcp://host:port``. ``workers``: processes of ``local``; by
    default one a processor, and not more than ``samples`` keep busy. Raises DependencyError without Dask."""
    if text != "local":
        return DaskScheduler(text)
    if workers is None:
        most = 1 + samples // SAMPLES_A_WORKER if samples is not None else runtime.processors()
        workers = min(runtime.processors(), most)
    return HERE if workers == 1 else Processes(workers)


class Here:
    """Counts in this process."""

    @contextmanager
    def open(self, graph: ir.Graph, tensors: Sequence[str]) -> Iterator[Counter]:
        with Collector(graph, tensors, threads=1) as collector:
            yield _Now(collector)


HERE = Here()


class _Now:
    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self.skipped: dict[int, str] = {}
        self.next_sample = 0

    def add(self, sample: int, feed: Feed) -> None:
        try:
            self.collector.observe(feed, sample)
        except DataError as error:
            self.skipped[sample] = error.why or error.what
        self.next_sample = sample + 1

    def finish(self) -> None:
        pass

    def so_far(self) -> tuple[Statistics, int]:
        return replace(self.collector.statistics(), skipped=dict(self.skipped)), self.next_sample


@dataclass(frozen=True)
class Threads:
    """Counts in threads of this process, each with a session of its own: nothing has to be started or sent."""

    workers: int = field(default_factory=runtime.processors)

    @contextmanager
    def open(self, graph: ir.Graph, tensors: Sequence[str]) -> Iterator[Counter]:
        with ExitStack() as stack:
            collectors = [stack.enter_context(Collector(graph, tensors, threads=1)) for _ in range(self.workers)]
            yield _SideBySide(stack.enter_context(ThreadPoolExecutor(self.workers)), collectors)


class _SideBySide:
    def __init__(self, pool: ThreadPoolExecutor, collectors: Sequence[Collector]) -> None:
        self.pool, self.collectors = pool, collectors
        self.idle: SimpleQueue[Collector] = SimpleQueue()
        for collector in collectors:
            self.idle.put(collector)
        self.waiting: deque[Future[None]] = deque()
        self.skipped: dict[int, str] = {}
        self.next_sample = 0

    def add(self, sample: int, feed: Feed) -> None:
        self.waiting.append(self.pool.submit(self._observe, sample, feed))
        self.next_sample = sample + 1
        if len(self.waiting) > len(self.collectors):  # one ahead, so that samples do not pile up
            self.waiting.popleft().result()

    def _observe(self, sample: int, feed: Feed) -> None:
        collector = self.idle.get()
        try:
            collector.observe(feed, sample)
        except DataError as error:
            self.skipped[sample] = error.why or error.what
        finally:
            self.idle.put(collector)

    def finish(self) -> None:
        while self.waiting:
            self.waiting.popleft().result()

    def so_far(self) -> tuple[Statistics, int]:
        self.finish()
        found = reduce(Statistics.merge, [collector.statistics() for collector in self.collectors])
        return replace(found, skipped=dict(sorted(self.skipped.items()))), self.next_sample


@dataclass(frozen=True)
class Processes:
    """Counts in processes of this machine."""

    workers: int

    @contextmanager
    def open(self, graph: ir.Graph, tensors: Sequence[str]) -> Iterator[Counter]:
        # Processes are spawned, not forked: ONNX Runtime's threads would not survive that.
        with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
            path = ir.save(graph, Path(folder) / "model.onnx", external=True)
            pool = ProcessPoolExecutor(self.workers, get_context("spawn"))
            try:
                yield _Tasks(
                    lambda chunk: pool.submit(count, str(path), str(path), tuple(tensors), chunk),
                    2 * self.workers,
                )  # fmt: skip
            finally:
                pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class DaskScheduler:
    """Counts on the workers of a Dask cluster, which need qcompiler installed. Samples are read here and sent there."""

    address: str
    timeout: str = "20s"

    def __post_init__(self) -> None:
        try:
            import distributed  # noqa: F401
        except ImportError:
            raise DependencyError(
                "a cluster needs Dask", where=self.address, fix="pip install 'qcompiler-onnx[distributed]'"
            ) from None

    @contextmanager
    def open(self, graph: ir.Graph, tensors: Sequence[str]) -> Iterator[Counter]:
        import distributed

        content = ir.to_proto(graph).SerializeToString()
        try:
            client = distributed.Client(self.address, timeout=self.timeout, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise WorkerError(
                "no Dask scheduler answers", where=self.address, why=str(error) or type(error).__name__,
                fix="start one with dask scheduler, and workers with dask worker",
            ) from None  # fmt: skip
        with client:
            try:
                client.wait_for_workers(1, timeout=60)
            except TimeoutError:
                raise WorkerError("has no workers", where=self.address, fix="start some with dask worker") from None
            # What tasks are made from stays with the scheduler, so that a lost worker's tasks can run elsewhere.
            # Scattered data would be lost with it. Dask warns of such tasks above 10 MB.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sending large graph")
                model = client.submit(bytes, content)
                threads = sum(client.nthreads().values())
                yield _Tasks(
                    lambda chunk: client.submit(count, model.key, model, tuple(tensors), chunk, pure=False),
                    2 * threads,
                )  # fmt: skip


class _Tasks:
    """Sends chunks of samples to be counted elsewhere and adds up what comes back, in the order they were sent."""

    def __init__(self, submit: Callable[[Chunk], Any], ahead: int) -> None:
        self.submit, self.ahead = submit, ahead
        self.skipped: dict[int, str] = {}
        self.total: Statistics | None = None
        self.next_sample = 0
        self.chunk: Chunk = []
        self.bytes = 0
        self.sent: deque[tuple[int, Any]] = deque()

    def add(self, sample: int, feed: Feed) -> None:
        self.chunk.append((sample, feed))
        self.bytes += sum(array.nbytes for array in feed.values())
        if len(self.chunk) >= CHUNK_SAMPLES or self.bytes >= CHUNK_BYTES:
            self._send()

    def finish(self) -> None:
        if self.chunk:
            self._send()
        while self.sent:
            self._receive()

    def so_far(self) -> tuple[Statistics, int]:
        return self.total or Statistics({}, "", 0), self.next_sample

    def _send(self) -> None:
        if len(self.sent) >= self.ahead:
            self._receive()
        self.sent.append((self.chunk[-1][0] + 1, self.submit(self.chunk)))
        self.chunk, self.bytes = [], 0

    def _receive(self) -> None:
        next_sample, future = self.sent.popleft()
        try:
            found = future.result()
        except QCompilerError:
            raise
        except BrokenProcessPool:
            raise WorkerError(
                "a worker process ended early", why="it crashed, or the system killed it to get memory",
                fix="go on with --resume, with fewer --workers if memory is short",
            ) from None  # fmt: skip
        except Exception as error:  # whatever went wrong on another machine
            why = f"{type(error).__name__}: {error}"
            raise WorkerError("a worker failed", why=why, fix="repair it and go on with --resume") from None
        self.skipped.update(found.skipped)
        self.total = found if self.total is None else self.total.merge(found)
        self.next_sample = next_sample


_opened = threading.local()


def count(name: str, model: str | bytes, tensors: tuple[str, ...], chunk: Chunk) -> Statistics:
    """Runs in a worker: the statistics of one chunk. ``model``: a path or the content of a file; the last one used
    stays open under its ``name``, for each thread of the worker."""
    if getattr(_opened, "name", None) != name:
        if hasattr(_opened, "collector"):
            _opened.collector.__exit__(None, None, None)
        graph = ir.load(model if isinstance(model, str) else onnx.load_model_from_string(model))
        _opened.collector, _opened.name = Collector(graph, tensors, threads=1), name
    collector: Collector = _opened.collector
    collector.forget()
    skipped: dict[int, str] = {}
    for sample, feed in chunk:
        try:
            collector.observe(feed, sample)
        except DataError as error:
            skipped[sample] = error.why or error.what
    return replace(collector.statistics(), skipped=skipped)
