"""ONNX Runtime's own pre-processing of the model, which its documentation advises before quantizing."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feeds import MODEL
from onnxruntime.quantization.shape_inference import quant_pre_process


@contextmanager
def prepared() -> Iterator[str]:
    """The path of the pre-processed model, or of the model itself where the pre-processing fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "prepared.onnx")
        for symbolic in (True, False):
            try:
                quant_pre_process(MODEL, path, skip_symbolic_shape=not symbolic)
            except Exception as error:
                what = "symbolic shape inference" if symbolic else "pre-processing"
                print(f"note: {what} failed ({type(error).__name__}), went on without", file=sys.stderr)
            else:
                yield path
                return
        yield MODEL
