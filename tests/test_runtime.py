"""Work on samples, side by side."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import numpy as np
import pytest

from qcompiler import ir, runtime
from qcompiler.runtime import run, session, side_by_side


def test_results_come_in_the_order_of_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "processors", lambda: 4)
    turn = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert turn.wait(10)  # the first is done only when the second has begun
        turn.set()
        return item * item

    assert list(side_by_side(work, range(20))) == [item * item for item in range(20)]


def test_no_more_is_begun_than_is_soon_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "processors", lambda: 2)
    begun: list[int] = []
    results = side_by_side(begun.append, range(100))
    next(results)
    assert len(begun) <= 4
    results.close()


def test_an_error_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(lambda item: 1 // item, [1, 0, 1]))


def test_a_process_that_only_runs_a_file_imports_no_graphs() -> None:
    """Memory is measured in two of these: what they import is waited for in each compilation with a report."""
    code = "import sys, qcompiler.verify.footprint; print({'onnx', 'networkx', 'qcompiler.ir'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_session_does_not_hold_what_it_was_made_of() -> None:
    weight = ir.Constant("w", np.ones((512, 512), np.float32))
    x = ir.Variable("x", np.dtype(np.float32), [1, 512])
    y = ir.Variable("y", np.dtype(np.float32), [1, 512])
    graph = ir.Graph([ir.Node("MatMul", "product", inputs=[x, weight], outputs=[y])], [x], [y], opset=17)
    with session(graph) as made:
        held = [value for value in gc.get_referents(made, vars(made)) if isinstance(value, bytes)]
        assert sum(map(len, held)) < weight.values.nbytes
        assert run(made, {"x": np.ones((1, 512), np.float32)})[0].sum() == 512 * 512
