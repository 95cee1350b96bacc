"""NNCF's post-training quantization for a CPU: the mixed preset (u8 asymmetric activations), fast bias correction."""

import nncf
import onnx
from feeds import MODEL, OUT, TRANSFORMER, feeds

samples = list(feeds())
quantized = nncf.quantize(
    onnx.load(MODEL),
    nncf.Dataset(samples),
    subset_size=len(samples),
    preset=nncf.QuantizationPreset.MIXED,
    target_device=nncf.TargetDevice.CPU,
    model_type=nncf.ModelType.TRANSFORMER if TRANSFORMER else None,
)
onnx.save(quantized, OUT)
