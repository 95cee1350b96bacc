"""The samples as onnxruntime's calibrators, and those modelled on them, want to be handed them."""

from feeds import feeds
from onnxruntime.quantization import CalibrationDataReader


class Reader(CalibrationDataReader):
    def __init__(self) -> None:
        self.rewind()

    def rewind(self) -> None:
        self.remaining = feeds()

    def get_first(self):
        return next(feeds())

    def get_next(self):
        return next(self.remaining, None)
