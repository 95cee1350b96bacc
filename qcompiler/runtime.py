"""Sessions of ONNX Runtime: the one place that creates them."""

from __future__ import annotations

import functools
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import onnxruntime as ort

from qcompiler import native
from qcompiler.errors import ModelError, VerificationError
from qcompiler.memory import give_back

if TYPE_CHECKING:
    import onnx
    from threadpoolctl import ThreadpoolController

    from qcompiler import ir

Feed = dict[str, np.ndarray]
T = TypeVar("T")
R = TypeVar("R")

EMBEDDED_BYTES = 32_000_000
"""Of weights that travel within the message: they are held twice while a session is made."""

_LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


@contextmanager
def session(
    model: ir.Graph | onnx.ModelProto | str | os.PathLike[str],
    *,
    optimize: str = "all",
    threads: int = 1,
    prompt: bool = False,
    lean: bool = False,
    optimized_path: str | os.PathLike[str] | None = None,
    profile_prefix: str | os.PathLike[str] | None = None,
) -> Iterator[ort.InferenceSession]:
    """A CPU session of the model, closed with the block.

    ``optimize``: ``none``, ``basic`` or ``all`` of ONNX Runtime's graph rewrites. Large graphs travel through a
    temporary file, so that weights are not held twice. ``prompt``: of the nodes that can run, the first in the model
    runs, not the one that leads straight to an output; side computations are then done early and their inputs freed.
    ``lean``: weights stay in a file, whose memory is not the process's own; products are slower for it.
    ``optimized_path`` receives ONNX Runtime's own optimized graph.

    Raises:
        VerificationError: ONNX Runtime refuses the model.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = _LEVELS[optimize]
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if prompt:
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if lean:
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    if profile_prefix is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile_prefix)
    if native.available():
        native.register_custom_ops(options)
    give_back()  # what earlier sessions and their outputs took
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as scratch:
        source, where = _source(model, Path(scratch), lean)
        try:
            made = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            raise VerificationError("ONNX Runtime cannot load the model", where=where, why=str(error)) from None
        del source
        made._model_bytes = None  # the session itself has no use for what it was made of, as large as all weights
        yield made


def _source(
    model: ir.Graph | onnx.ModelProto | str | os.PathLike[str], scratch: Path, lean: bool
) -> tuple[str | bytes, str]:
    """The model as ONNX Runtime takes it, and its name in messages."""
    if isinstance(model, (str, os.PathLike)):
        return str(model), str(model)
    import onnx  # here: a process that only runs a file (verify.footprint) starts in a third of the time without

    from qcompiler import ir

    if isinstance(model, onnx.ModelProto):
        return model.SerializeToString(), model.graph.name
    if lean or ir.weight_bytes(model) > EMBEDDED_BYTES:
        return str(ir.save(model, scratch / "model.onnx", external=True)), model.name
    return ir.to_proto(model).SerializeToString(), model.name


def processors() -> int:
    """How many processors this process may use."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def run(model: ort.InferenceSession, feed: Feed, outputs: Sequence[str] | None = None) -> list[np.ndarray]:
    """The named outputs (all when None) for one feed. Raises ModelError when the model fails on it."""
    try:
        return model.run(outputs, feed)
    except Exception as error:  # as above
        raise ModelError("the model fails on this sample", why=str(error)) from None


def one_thread_each() -> AbstractContextManager[object]:
    """In its context numpy's matrix products take one thread each: work that is split up already, and products of a few
    microseconds, are held up by more, and on a busy machine by a hundred times."""
    return _pools().limit(limits=1, user_api="blas")


@functools.cache
def _pools() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def side_by_side(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``work`` done on each of the items, in their order, by as many threads as there are processors.

    With sessions of one thread each, this keeps processors busier than one session with several threads would, whose
    threads wait for one another at every node.
    """
    with ThreadPoolExecutor(processors()) as pool:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > processors():  # a few ahead, so that results do not pile up
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
