"""From samples to the ranges of tensors: counting inside ONNX Runtime, statistics that merge, observers."""

from qcompiler.calibrate.channels import Channels, channel_magnitudes
from qcompiler.calibrate.collect import Collector, collect
from qcompiler.calibrate.observers import OBSERVERS, without_sentinels
from qcompiler.calibrate.statistics import Statistics, TensorStatistics, model_key

__all__ = [
    "OBSERVERS",
    "Channels",
    "Collector",
    "Statistics",
    "TensorStatistics",
    "channel_magnitudes",
    "collect",
    "model_key",
    "without_sentinels",
]
