"""Samples for a model: from files, folders, the user's own code or memory to feeds that are known to fit."""

from qcompiler.data.functions import imported
from qcompiler.data.images import ImageOptions
from qcompiler.data.made_up import random_samples
from qcompiler.data.samples import Feed, Samples, check_feed, spread
from qcompiler.data.sources import open_samples

__all__ = ["Feed", "ImageOptions", "Samples", "check_feed", "imported", "open_samples", "random_samples", "spread"]
