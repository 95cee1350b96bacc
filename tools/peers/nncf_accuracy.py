"""NNCF's quantization with accuracy control: no more than half a point of top-1 lost on the calibration samples, whose
classes are in a JSON file: MODEL CALIB OUT LABELS. What would lose more goes back to float."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import nncf
import numpy as np
import onnx
import onnxruntime
from feeds import MODEL, OUT, feeds


def right(model: onnx.ModelProto, samples: Iterable[tuple[dict[str, np.ndarray], int]]) -> tuple[float, list[float]]:
    """Share of first answers that are right, and whether each is."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    each = [float(session.run(None, feed)[0][0].argmax() == label) for feed, label in samples]
    return float(np.mean(each)), each


samples = list(zip(feeds(), json.loads(Path(sys.argv[4]).read_text("utf-8"))))
quantized = nncf.quantize_with_accuracy_control(
    onnx.load(MODEL),
    calibration_dataset=nncf.Dataset(samples, lambda sample: sample[0]),
    validation_dataset=nncf.Dataset(samples),
    validation_fn=right,
    max_drop=0.005,
    preset=nncf.QuantizationPreset.MIXED,
    target_device=nncf.TargetDevice.CPU,
    subset_size=len(samples),
    fast_bias_correction=False,
)
onnx.save(quantized, OUT)
