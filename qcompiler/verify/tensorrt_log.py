"""The layers of an engine, read off what TensorRT's builder says when it is done.

With detailed profiling the builder's log ends with one line a layer::

    Name: a+b_myl0_1, LayerType: gemm, Inputs: [ { Name: x, …, Datatype: Int8, … }], Constants: [ { … }],
    Outputs: [ … ], TacticName: …, StreamId: 0, Metadata: [ONNX Layer: a][ONNX Layer: b]

The format is nobody's promise: whatever does not read like this is an error, not an engine without layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from qcompiler.errors import VerificationError

HEAD = "Layers:\n"
CODES = frozenset(("Int8", "FP8", "Int4", "FP4", "FP4E2M1", "E4M3", "E2M1"))
"""The builder's names of types of 8 bits and less."""
WEIGHTS_ALONE = frozenset(("Int4", "FP4", "FP4E2M1", "E2M1"))
"""Types that weights may have alone."""
FLOATS = frozenset(("Float", "Half", "BFloat16", "BF16"))
TYPES = CODES | FLOATS | {"Int32", "Int64", "Bool", "UInt8", "E8M0", "FP8E8M0", "FP8UE8M0"}
_FIELDS = ("Name", "LayerType", "Inputs", "Outputs")
_PRODUCT = re.compile(r"^__myl_\w*(Fc|Conv)")
"""In the name of a generated kernel, which lists what it does."""
_ATTENTION = re.compile(r"_(gemm_)?mha")


@dataclass(frozen=True)
class Layer:
    """One layer of an engine. ``kind``: the builder's word (``correlation`` is a convolution, ``kgen`` a generated
    kernel); ``inputs``, ``constants``, ``outputs``: the types of its tensors; ``nodes``: the model's nodes in it."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def attention(self) -> bool:
        """Whether a whole attention became this one kernel."""
        return _ATTENTION.search(self.name) is not None

    @property
    def heavy(self) -> bool:
        """Whether it convolves or multiplies matrices."""
        return self.attention or self.kind in ("gemm", "correlation") or _PRODUCT.search(self.name) is not None

    @property
    def coded(self) -> str:
        """The type of few bits that it computes with; empty when it computes with floats. A product is in 8 bits when
        both its sides are; one of an activation in 8 bits with a weight that was made float first is not."""
        read = [kind for kind in (*self.inputs, *self.constants) if kind in CODES]
        if not read or (self.heavy and len(read) < 2 and read[0] not in WEIGHTS_ALONE):
            return ""
        return read[0]

    @property
    def type(self) -> str:
        """The type it computes with: of few bits where there is one, else the first float that it reads or writes."""
        read = (*self.inputs, *self.constants, *self.outputs)
        return self.coded or next((kind for kind in read if kind in FLOATS), (*read, "?")[0])


def read(messages: Iterable[str], version: str) -> tuple[Layer, ...]:
    """The layers of the engine. Raises VerificationError when the log is of a format that is not known here."""
    block = next((text for text in messages if text.startswith(HEAD)), None)
    if block is None:
        raise _unknown("it lists no layers", version)
    lines = f"\n{block.removeprefix(HEAD)}".partition("\n\n")[0].splitlines()
    layers = [_layer(line, version) for line in lines if line.strip()]
    if not layers:
        raise _unknown("its list of layers is empty", version)
    return tuple(layers)


def _layer(line: str, version: str) -> Layer:
    fields = dict(_fields(line))
    for name in _FIELDS:
        if name not in fields:
            raise _unknown(f"a layer has no {name}: '{line[:80]}'", version)
    nodes = re.findall(r"\[ONNX Layer: ([^\]\x1e]*)", fields.get("Metadata", ""))
    types = [tuple(_types(fields.get(name, ""), version)) for name in ("Inputs", "Constants", "Outputs")]
    return Layer(fields["Name"], fields["LayerType"], types[0], types[1], types[2], tuple(dict.fromkeys(nodes)))


def _fields(line: str) -> Iterable[tuple[str, str]]:
    """``Name: value`` pairs; a comma ends a value where no bracket is open and another name follows."""
    depth, start = 0, 0
    parts = []
    for index, letter in enumerate(line):
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0 and re.match(r", [A-Z]\w*: ", line[index:]):
            parts.append(line[start:index])
            start = index + 2
    parts.append(line[start:])
    for part in parts:
        name, _, value = part.partition(": ")
        yield name.strip(), value


def _types(listed: str, version: str) -> Iterable[str]:
    for text in re.findall(r"\{[^{}]*\}", listed):
        found = re.search(r"Datatype: (\w+)", text)
        if found is None or found[1] not in TYPES:
            raise _unknown(f"a tensor has no known type: '{text[:120]}'", version)
        yield found[1]


def _unknown(why: str, version: str) -> VerificationError:
    return VerificationError(
        f"the log of tensorrt-rtx {version} is of an unknown format", why=why,
        fix="use a version that this one was tried with (1.7), or report it with the log",
    )  # fmt: skip
