"""Models that are published as PyTorch weights only, written as ONNX.

Run by the recipes, in an interpreter that has torch (and transformers):  python models/export.py NAME PART ... OUT
The weights are held to their sha256 by the recipe; the bytes of the result depend on the version of torch.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

OPSET = 17


def exported(name: str, digest: str, *parts: Path) -> Path:
    """The ONNX file made of these parts, from the cache when the same weights were exported before."""
    from models.packages import FetchError, cache, written_beside

    target = cache() / "exports" / f"{name}-{digest[:16]}-opset{OPSET}" / f"{name}.onnx"
    if target.is_file():
        return target
    python = os.environ.get("QCOMPILER_EXPORT_PYTHON")
    if python is None:
        if importlib.util.find_spec("torch") is None:
            raise FetchError(
                f"{name} is published as PyTorch weights and torch is not installed: install the extra 'models' "
                "(pip install 'qcompiler-onnx[models]'), or let QCOMPILER_EXPORT_PYTHON name an interpreter with torch"
            )
        python = sys.executable
    with written_beside(target) as beside:
        command = [python, __file__, name, *map(str, parts), str(beside)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise FetchError(
                f"{name}: {python} does not start ({error.strerror}); set QCOMPILER_EXPORT_PYTHON"
            ) from None
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise FetchError(f"{name}: the export failed in {python}: {lines[-1]}")
    return target


def _mobilenet_v2(weights: str) -> Any:
    """Built by hand, with the names of torchvision's state dict, so that torchvision is not needed."""
    import torch
    from torch import nn

    def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
        layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU6())

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
            super().__init__()
            hidden = inputs * expansion
            self.residual = stride == 1 and inputs == outputs
            self.conv = nn.Sequential(
                *([convolution(inputs, hidden, 1)] if expansion > 1 else []),
                convolution(hidden, hidden, 3, stride, hidden),
                nn.Conv2d(hidden, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )

        def forward(self, x: Any) -> Any:
            return x + self.conv(x) if self.residual else self.conv(x)

    class MobileNetV2(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            stages = (
                (1, 16, 1, 1),
                (6, 24, 2, 2),
                (6, 32, 3, 2),
                (6, 64, 4, 2),
                (6, 96, 3, 1),
                (6, 160, 3, 2),
                (6, 320, 1, 1),
            )
            layers: list[nn.Module] = [convolution(3, 32, 3, 2)]
            channels = 32
            for expansion, outputs, repeats, stride in stages:
                for index in range(repeats):
                    layers.append(Block(channels, outputs, 1 if index else stride, expansion))
                    channels = outputs
            self.features = nn.Sequential(*layers, convolution(channels, 1280, 1))
            self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

        def forward(self, x: Any) -> Any:
            return self.classifier(nn.functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1))

    module = MobileNetV2()
    module.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return module


def _efficientnet_lite0(code: str, weights: str) -> Any:
    sys.path.insert(0, code)  # a wheel is a zip archive, which Python imports from
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    module = EfficientNet.from_name("efficientnet-lite0")
    module.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return module


def _minilm_l6(configuration: str, weights: str) -> Any:
    from safetensors.torch import load_file
    from torch import nn
    from transformers import BertConfig, BertModel

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            settings = BertConfig.from_json_file(configuration)
            settings._attn_implementation = "eager"  # MatMul, Softmax and an added mask, as the published models have
            self.bert = BertModel(settings, add_pooling_layer=False)
            missing, _ = self.bert.load_state_dict(load_file(weights), strict=False)
            if missing:
                raise ValueError(f"{weights} lacks {missing[0]}")

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            return self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state

    return Encoder()


def main(name: str, *arguments: str) -> None:
    import torch

    *parts, out = arguments
    if name == "minilm-l6":
        module = _minilm_l6(*parts)
        ids = torch.randint(1000, 20000, (2, 16))
        example: tuple[Any, ...] = (ids, torch.ones_like(ids), torch.zeros_like(ids))
        inputs, output = ["input_ids", "attention_mask", "token_type_ids"], "last_hidden_state"
        axes = {key: {0: "batch", 1: "sequence"} for key in (*inputs, output)}
    else:
        module = _mobilenet_v2(*parts) if name == "mobilenet-v2" else _efficientnet_lite0(*parts)
        example = (torch.zeros(2, 3, 224, 224),)
        inputs, output = ["image"], "logits"
        axes = {key: {0: "batch"} for key in (*inputs, output)}
    torch.onnx.export(
        module.eval(),
        example,
        out,
        opset_version=OPSET,
        input_names=inputs,
        output_names=[output],
        dynamic_axes=axes,
        dynamo=False,
    )


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))  # where models/tokenizers.py would be taken for transformers' own
    main(*sys.argv[1:])
