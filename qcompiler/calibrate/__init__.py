"""From samples to the ranges of tensors: counting inside ONNX Runtime, statistics that merge, observers."""

from qcompiler.calibrate.collect import Collector, collect
from qcompiler.calibrate.moments import Moments, second_moments
from qcompiler.calibrate.observers import OBSERVERS, without_sentinels
from qcompiler.calibrate.rows import Rows, sample_rows
from qcompiler.calibrate.statistics import Statistics, TensorStatistics, model_key

__all__ = [
    "OBSERVERS",
    "Collector",
    "Moments",
    "Rows",
    "Statistics",
    "TensorStatistics",
    "collect",
    "model_key",
    "sample_rows",
    "second_moments",
    "without_sentinels",
]
