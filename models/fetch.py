"""Fetch the models and the data that tests, benchmarks and the demo use.

python models/fetch.py NAME ... [--cache DIR]      the model's path, one a line
python models/fetch.py --all --export-npz DIR      DIR/NAME/{model.onnx,calib.npz,eval.npz}
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models import NAMES, recipe
from models.packages import FetchError, written_beside
from models.recipe import Feed, Recipe


def stacked(feeds: Iterable[Feed], batched: bool = True) -> Feed:
    """The feeds joined along their batch axis, or along a new first axis where they have none."""
    listed = list(feeds)
    join = np.concatenate if batched else np.stack
    return {name: join([feed[name] for feed in listed]) for name in listed[0]}


def export(one: Recipe, folder: Path, calibration: int = 128, evaluation: int = 64) -> None:
    """Write the model, both splits as .npz and the labels beside one another for tools that know no recipes."""
    target = folder / one.name
    target.mkdir(parents=True, exist_ok=True)
    with written_beside(target / "model.onnx") as path:
        shutil.copyfile(one.model(), path)
    for name, feeds in (("calib", one.calibration(calibration)), ("eval", one.evaluation(evaluation))):
        with written_beside(target / f"{name}.npz") as path, path.open("wb") as file:
            np.savez(file, allow_pickle=False, **stacked(feeds, one.batched))
    with written_beside(target / "labels.json") as path:
        path.write_text(json.dumps(one.labels(evaluation)), "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}")
    parser.add_argument("--all", action="store_true", help="every recipe")
    parser.add_argument("--cache", type=Path, help="where to keep what is fetched (default: $QCOMPILER_CACHE)")
    parser.add_argument("--export-npz", type=Path, metavar="DIR", help="also write model and data sets there")
    options = parser.parse_args()
    if unknown := [name for name in options.name if name not in NAMES]:
        parser.error(f"no recipe {unknown[0]}; there are {', '.join(NAMES)}")
    if options.cache:
        os.environ["QCOMPILER_CACHE"] = str(options.cache.absolute())
    failed = False
    for name in NAMES if options.all else options.name:
        try:
            print(name, recipe(name).model(), flush=True)
            if options.export_npz:
                export(recipe(name), options.export_npz)
        except FetchError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
