"""Work on samples, side by side."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from qcompiler import runtime
from qcompiler.runtime import side_by_side


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
