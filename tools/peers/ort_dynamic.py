"""ONNX Runtime's quantize_dynamic: no data, s8 weights per channel."""

from feeds import OUT
from onnxruntime.quantization import QuantType, quantize_dynamic
from ort_prepared import prepared

with prepared() as model:
    quantize_dynamic(model, OUT, per_channel=True, weight_type=QuantType.QInt8)
