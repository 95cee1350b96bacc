"""What every runner here takes: MODEL CALIB OUT [transformer], the samples as stacks with one feed an index.

The runners are started in the peer's own environment, so they may use nothing but that peer and its dependencies.
"""

import sys
from collections.abc import Iterator

import numpy as np

MODEL, CALIBRATION, OUT = sys.argv[1:4]
TRANSFORMER = "transformer" in sys.argv[4:]


def feeds() -> Iterator[dict[str, np.ndarray]]:
    """One feed {input: array} after the other."""
    with np.load(CALIBRATION) as stacks:
        arrays = {name: stacks[name] for name in stacks.files}
    for index in range(len(next(iter(arrays.values())))):
        yield {name: array[index] for name, array in arrays.items()}
