"""ONNX Runtime's quantize_static as its documentation advises for a CPU: Q/DQ, u8 activations, s8 weights per channel,
min-max ranges (entropy and percentile keep every activation of every sample in memory)."""

from feeds import OUT
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from ort_prepared import prepared, reduced_range
from reader import Reader

with prepared() as model:
    quantize_static(
        model,
        OUT,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=reduced_range(),
    )
