"""What ONNX Runtime's documentation advises before quantizing: its own pre-processing, and 7 bits where 8 overflow."""

import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feeds import MODEL
from onnxruntime.quantization.shape_inference import quant_pre_process

CPU_INFORMATION = Path("/proc/cpuinfo")


def reduced_range() -> bool:
    """Whether weights are to have 7 bits: on x86 without VNNI, where sums of products saturate."""
    flags = CPU_INFORMATION.read_text() if CPU_INFORMATION.exists() else ""
    return platform.machine() in ("x86_64", "AMD64") and not re.search(r"\bavx(512)?_vnni\b", flags)


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
