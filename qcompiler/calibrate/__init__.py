"""From samples to the ranges of tensors: counting inside ONNX Runtime, statistics that merge, observers."""

from qcompiler.calibrate.calibration import Calibration
from qcompiler.calibrate.checkpoint import Checkpoint
from qcompiler.calibrate.collect import Collector, collect
from qcompiler.calibrate.keys import model_key
from qcompiler.calibrate.moments import Drift, Moments, second_moments
from qcompiler.calibrate.observers import OBSERVERS, clipped, spread, without_sentinels
from qcompiler.calibrate.rows import Rows, sample_rows
from qcompiler.calibrate.schedulers import Threads, scheduler
from qcompiler.calibrate.shards import Shard, merge_shards
from qcompiler.calibrate.shifts import mean_shifts
from qcompiler.calibrate.statistics import Statistics, TensorStatistics
from qcompiler.calibrate.walk import Walk

__all__ = [
    "OBSERVERS",
    "Calibration",
    "Checkpoint",
    "Collector",
    "Drift",
    "Moments",
    "Rows",
    "Shard",
    "Statistics",
    "TensorStatistics",
    "Threads",
    "Walk",
    "clipped",
    "collect",
    "mean_shifts",
    "merge_shards",
    "model_key",
    "sample_rows",
    "scheduler",
    "second_moments",
    "spread",
    "without_sentinels",
]
