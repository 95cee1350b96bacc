"""ONNX Runtime's quantize_static with SmoothQuant, which is neural-compressor's: Q/DQ, u8 activations, s8 weights."""

from feeds import OUT
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from ort_prepared import prepared
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
        extra_options={"SmoothQuant": True},
    )
