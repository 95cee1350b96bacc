"""ModelOpt's INT8 quantization for TensorRT, by the calibrator that the last argument names: entropy or max."""

import sys

from feeds import MODEL, OUT
from modelopt.onnx.quantization import quantize
from reader import Reader

quantize(
    MODEL,
    quantize_mode="int8",
    calibration_data_reader=Reader(),
    calibration_method=sys.argv[4],
    calibration_eps=["cpu"],
    high_precision_dtype="fp32",
    output_path=OUT,
)
