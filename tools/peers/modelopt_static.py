"""ModelOpt's INT8 quantization, calibrated on the CPU, what is not quantized left in float32."""

from feeds import MODEL, OUT
from modelopt.onnx.quantization import quantize
from reader import Reader

quantize(
    MODEL,
    quantize_mode="int8",
    calibration_data_reader=Reader(),
    calibration_eps=["cpu"],
    high_precision_dtype="fp32",
    output_path=OUT,
)
