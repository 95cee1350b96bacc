"""ModelOpt's INT8 quantization for TensorRT, by the calibrator that the last argument names: entropy or max."""

import sys

from feeds import MODEL, OUT, feeds
from modelopt.onnx.quantization import quantize
from onnxruntime.quantization import CalibrationDataReader


class Reader(CalibrationDataReader):
    def __init__(self) -> None:
        self.feeds = list(feeds())
        self.rewind()

    def rewind(self) -> None:
        self.remaining = iter(self.feeds)

    def get_first(self):
        return self.feeds[0]

    def get_next(self):
        return next(self.remaining, None)


quantize(
    MODEL,
    quantize_mode="int8",
    calibration_data_reader=Reader(),
    calibration_method=sys.argv[4],
    calibration_eps=["cpu"],
    high_precision_dtype="fp32",
    output_path=OUT,
)
