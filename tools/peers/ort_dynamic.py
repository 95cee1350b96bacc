"""ONNX Runtime's quantize_dynamic: no data, s8 weights per channel."""

from feeds import OUT
from onnxruntime.quantization import QuantType, quantize_dynamic
from ort_prepared import prepared, reduced_range

with prepared() as model:
    quantize_dynamic(model, OUT, per_channel=True, reduce_range=reduced_range(), weight_type=QuantType.QInt8)
