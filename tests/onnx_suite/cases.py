"""The cases of ONNX's own backend suite, and ONNX Runtime as their judge."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

Value = Any
"""An array, a list of arrays (sequence) or None (empty optional)."""


@dataclass(frozen=True)
class Case:
    """One model with feeds and the outputs that ONNX's own reference gives for them."""

    name: str
    model: onnx.ModelProto
    data_sets: list[tuple[list[Value], list[Value]]]
    rtol: float
    atol: float

    def run(self, model: onnx.ModelProto) -> list[list[Value]]:
        """What ONNX Runtime computes with ``model`` for each of the case's feeds. Raises what ONNX Runtime raises."""
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [self._run(session, feeds, expected) for feeds, expected in self.data_sets]

    def _run(self, session: ort.InferenceSession, feeds: list[Value], expected: list[Value]) -> list[Value]:
        taken = {value.name for value in session.get_inputs()}
        named = {v.name: feed for v, feed in zip(self.model.graph.input, feeds) if v.name in taken}
        if any(_is_exotic(value) for value in (*feeds, *expected)):
            return _run_bound(session, named, dict(zip((v.name for v in self.model.graph.output), expected)))
        return session.run(None, named)

    def same(self, results: list[list[Value]], wanted: list[list[Value]]) -> bool:
        try:
            for result, want in zip(results, wanted, strict=True):
                for got, expected in zip(result, want, strict=True):
                    _assert_close(got, expected, self.rtol, self.atol)
        except (AssertionError, ValueError):
            return False
        return True


def load_cases(kind: str) -> Iterator[Case]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the generators divide by zero on purpose
        found = load_model_tests(kind=kind)
    for case in found:
        model, data_sets = case.model, case.data_sets
        if model is None:
            model = onnx.load(Path(case.model_dir) / "model.onnx")
            data_sets = _read_data_sets(Path(case.model_dir), model)
        plain = [tuple([_plain(value) for value in values] for values in data_set) for data_set in data_sets]
        yield Case(case.name, model, plain, case.rtol, case.atol)


def _read_data_sets(folder: Path, model: onnx.ModelProto) -> list[tuple[list[Value], list[Value]]]:
    initialized = {weight.name for weight in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialized]
    return [
        (_read(data_set, "input", inputs), _read(data_set, "output", model.graph.output))
        for data_set in sorted(folder.glob("test_data_set_*"))
    ]


def _read(folder: Path, role: str, values: Any) -> list[Value]:
    read = []
    for index, value in enumerate(values):
        data = (folder / f"{role}_{index}.pb").read_bytes()
        if value.type.WhichOneof("value") == "sequence_type":
            read.append(numpy_helper.to_list(onnx.SequenceProto.FromString(data)))
        else:
            read.append(numpy_helper.to_array(onnx.TensorProto.FromString(data)))
    return read


def _plain(value: Any) -> Value:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, (list, type(None))):
        return value
    return np.asarray(value)


def _run_bound(
    session: ort.InferenceSession, feeds: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> list[np.ndarray]:
    """Runs on raw buffers: the way in and out for the types that numpy lacks, four-bit ones packed two to a byte."""
    binding = session.io_binding()
    buffers = {name: _packed(value) for name, value in feeds.items()}
    for name, value in feeds.items():
        binding.bind_input(name, "cpu", 0, _element_type(value), value.shape, buffers[name].ctypes.data)
    results = {name: np.zeros_like(_packed(value)) for name, value in expected.items()}
    for name, value in expected.items():
        binding.bind_output(name, "cpu", 0, _element_type(value), value.shape, results[name].ctypes.data)
    session.run_with_iobinding(binding)
    return [
        numpy_helper.to_array(
            onnx.TensorProto(dims=value.shape, data_type=_element_type(value), raw_data=results[name].tobytes())
        )
        for name, value in expected.items()
    ]


def _packed(value: np.ndarray) -> np.ndarray:
    return np.frombuffer(numpy_helper.from_array(value).raw_data, dtype=np.uint8)


def _element_type(value: np.ndarray) -> int:
    return onnx.helper.np_dtype_to_tensor_dtype(value.dtype)


def _is_exotic(value: Value) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.name.startswith(
        ("bfloat", "float8", "float4", "int4", "uint4", "int2", "uint2")
    )


def _assert_close(got: Value, expected: Value, rtol: float, atol: float) -> None:
    if isinstance(expected, list):
        for g, e in zip(got, expected, strict=True):
            _assert_close(g, e, rtol, atol)
        return
    if expected is None or got is None:
        assert got is None and expected is None
        return
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    if expected.dtype.kind in "OUS":
        np.testing.assert_array_equal(got.astype(str), expected.astype(str))
        return
    assert got.dtype == expected.dtype
    if _is_exotic(expected):
        got, expected = got.astype(np.float32), expected.astype(np.float32)
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)
