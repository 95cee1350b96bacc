"""What a model is good for, as one number: built-in measures, and the user's own function."""

from qcompiler.metrics.metric import BUILT_IN, Drop, Metric, labels_from, metric_from

__all__ = ["BUILT_IN", "Drop", "Metric", "labels_from", "metric_from"]
