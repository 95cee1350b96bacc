"""ONNX Runtime's quantize_static with the options that its documentation gives for TensorRT: symmetric int8 in Q/DQ
form, biases left in float, residual additions quantized too."""

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
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["Conv", "MatMul", "Gemm", "Add", "MaxPool", "GlobalAveragePool", "AveragePool"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
