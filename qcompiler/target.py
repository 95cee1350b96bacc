"""What a target fuses with which scheme."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from qcompiler.errors import TargetError
from qcompiler.scheme import PerAxis, PerBlock, PerTensor, Scheme

QUANTIZED = ("static", "dynamic", "weights", "none")
"""What a precision may quantize: weights and activations with ranges from samples or anew in each run, weights alone,
nothing."""
FLOATS = ("float32", "float16", "bfloat16")
VERIFIERS = ("onnxruntime", "tensorrt")
OPS = ("standard", "native")
"""Which operators a model may be made of: those of the runtime alone, or ours from the native library as well."""
BLOCKS = ("16", "32", "64", "128", "256", "channel")
"""How many of the weights that one output sums over share a scale."""


@dataclass(frozen=True)
class Precision:
    """How much of a model gets which types. ``quantize``: one of ``QUANTIZED``; ``floats``: the type of what is left;
    ``opset``: the oldest one that has these types; ``activation``, ``weight``: the target's own schemes where None;
    ``ops``: one of ``OPS``, used where nobody says and the library is there. ``least_weights``: the fewest numbers in
    a weight for few bits to be worth their scales. ``gpu``: built for where none is named, the target's own where
    empty; ``least_gpu``: the oldest kind that computes with these types. ``blocks``: those of ``BLOCKS`` that kernels
    read, all where empty.
    """

    quantize: str
    floats: str = "float32"
    opset: int = 0
    activation: Scheme | None = None
    weight: Scheme | None = None
    ops: str = OPS[0]
    least_weights: int = 0
    gpu: str = ""
    least_gpu: str = ""
    blocks: tuple[str, ...] = ()

    def check_gpu(self, name: str, gpu: str) -> None:
        """Raises TargetError when a kind of GPU is too old for the types of this precision, which has that name."""
        numbers = [int(kind[2:]) for kind in (gpu, self.least_gpu) if re.fullmatch(r"sm[0-9]+", kind)]
        if len(numbers) == 2 and numbers[0] < numbers[1]:
            raise TargetError(
                f"--precision {name} needs {self.least_gpu} or later, not {gpu}",
                fix=f"use --gpu {self.gpu or self.least_gpu}, or another precision",
            )


USUAL = {"int8": Precision("static"), "int8-dynamic": Precision("dynamic"), "float": Precision("none")}
"""The precisions of a target that lists none."""


@dataclass(frozen=True)
class Operator:
    """What the target can do with one operator in few bits.

    ``activations``: inputs read in the activation scheme; ``weight``: the input that must be a constant, with one scale
    an index of ``weight_axis``; ``bias``: the input that becomes int32 at the product of the two scales.
    ``product``: it multiplies two computed tensors, which is worth quantizing too. ``attention``: only as one of the
    two products around a Softmax. ``shortcut``: an operator; of the inputs only the one that is not computed by it is
    read in the activation scheme, and only beside one that is, in few bits.
    ``least_depth``: the fewest terms a product may sum for 8 bits to be worth a Q. ``least_channels``: the fewest
    channels in and out, of each group; ``least_rows``: the fewest rows a product may have for one sample;
    ``least_weights``: the fewest numbers its weight may have.
    ``dynamic``: whether the activation
    may be quantized in each run anew; ``static``: why not, where it could.
    ``ops``: ``native`` where only an operator of the native library makes it pay. ``quantize``: those of ``QUANTIZED``
    that it is for, all where there are none. ``recurrent``: a second weight, that multiplies what the operator returned
    before; both have a scale for each output, and each direction. ``subpixel``: only where the result is as long as
    the input times the strides.
    ``output``: ``required`` (fused only when the result is quantized), ``free`` (either), ``tied`` (moves values, so
    it must share the input's parameters), ``tabulated`` (placement's own: looked up in a table). ``when``: attribute
    values it holds for.
    """

    op: str
    activations: tuple[int, ...] = (0,)
    weight: int | None = None
    weight_axis: int | None = None
    bias: int | None = None
    output: str = "required"
    when: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    dynamic: bool = False
    static: str = ""
    variadic: bool = False
    product: bool = False
    attention: bool = False
    shortcut: str = ""
    least_depth: int = 0
    least_channels: int = 0
    least_rows: int = 0
    least_weights: int = 0
    ops: str = OPS[0]
    recurrent: int | None = None
    subpixel: bool = False
    quantize: tuple[str, ...] = ()

    @property
    def heavy(self) -> bool:
        """Whether it is worth quantizing for its own sake, not only for its neighbours'."""
        return self.weight is not None or self.product

    def matches(self, node: gs.Node) -> bool:
        if node.op != self.op or node.domain not in (None, ""):
            return False
        for name, wanted in self.when.items():
            actual = node.attrs.get(name, self.defaults.get(name))
            if actual != wanted:
                return False
        return True


@dataclass(frozen=True)
class Target:
    """A target description; see ``qcompiler targets NAME``.

    ``pipeline``: the passes of each stage: ``clean`` (every precision), ``prepare`` (before placement), ``try``,
    ``decide`` (or ``scale``), ``round`` and ``correct`` (on samples), ``spell`` (zero points as arithmetic), ``lower``,
    ``standard`` (for the runtime alone) or, where our own operators may be used, ``native``, and ``emit``.
    ``ops``: one of ``OPS``; ``kind``: the precision, once one is chosen.
    ``cpu``: one of the kinds of CPU that the file knows, ``cpus``; ``foreign``: this machine's is
    another one of these.
    ``verifier``: who is asked what became of a model. ``gpu``: the kind of GPU that is built for where none is named.
    ``observer``: how ranges are taken where nobody says, ``best`` by trying all on samples.
    ``refused``: operators that it cannot run at all, with the reason; ``domains``: those of other domains that it can.
    ``elementwise``: operators that compute each value from those in the same place; with our own operators, what they
    make of one tensor in codes is one table.
    """

    name: str
    summary: str
    opset: int
    activation: Scheme
    weight: Scheme
    bias: Scheme
    operators: tuple[Operator, ...]
    absorbed: Mapping[str, str]
    excluded: Mapping[str, str]
    pipeline: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cpu: str = ""
    cpus: Mapping[str, str] = field(default_factory=dict)
    foreign: bool = False
    precisions: Mapping[str, Precision] = field(default_factory=lambda: USUAL)
    verifier: str = VERIFIERS[0]
    gpu: str = ""
    observer: str = "mse"
    refused: Mapping[str, str] = field(default_factory=dict)
    domains: tuple[str, ...] = ()
    ops: str = OPS[0]
    kind: Precision | None = None
    elementwise: tuple[str, ...] = ()

    def at(self, precision: str, ops: str = OPS[0]) -> Target:
        """The target with a precision's schemes in place of its own, made of these operators. Raises TargetError when
        it has no such precision, or takes no operators of ours."""
        if precision not in self.precisions:
            fix = f"use one of {', '.join(self.precisions)}"
            raise TargetError(f"there is no precision '{precision}'", where=f"target {self.name}", fix=fix)
        if ops not in OPS:
            raise TargetError(f"there are no '{ops}' operators", fix=f"use one of {', '.join(OPS)}")
        if ops != OPS[0] and "native" not in self.pipeline:
            raise TargetError("runs no operators of ours", where=f"target {self.name}", fix="use --ops standard")
        chosen = self.precisions[precision]
        return replace(
            self,
            activation=chosen.activation or self.activation,
            weight=chosen.weight or self.weight,
            ops=ops,
            kind=chosen,
            gpu=chosen.gpu or self.gpu,
        )

    def with_weights(self, block: str = "", *, zero_points: bool = False) -> Target:
        """The target with weights in blocks of this size or, for ``channel``, with one scale a channel; its own where
        that is empty. ``zero_points``: ranges need not be the same on both sides of zero.

        Raises:
            TargetError: there are no such blocks, or weights do not have four bits.
        """
        weight, granularity = self.weight, self.weight.granularity
        if not block and not zero_points:
            return self
        if not weight.four_bits:
            fix = "use --precision int4, or leave --block and --rounding out"
            raise TargetError("blocks and ways to round are for weights of four bits", fix=fix)
        if zero_points and self.verifier != VERIFIERS[0]:
            fix = "use another --rounding"
            raise TargetError("its kernels have no zero points for weights of four bits", where=self.name, fix=fix)
        known = (self.kind.blocks if self.kind is not None else ()) or BLOCKS
        if block and block not in known:
            fix = f"use one of {', '.join(known)}"
            raise TargetError(f"there are no blocks of '{block}'", where=self.name, fix=fix)
        if block:
            granularity = PerTensor() if block == BLOCKS[-1] else PerBlock(0, int(block))
        weight = Scheme("uint4", False) if zero_points else weight
        return replace(self, weight=replace(weight, granularity=granularity))

    @property
    def spells_zero_points(self) -> bool:
        """Whether zero points, which it does not have itself, are written as arithmetic."""
        return bool(self.pipeline.get("spell"))

    @property
    def keeps_fused(self) -> bool:
        """Whether operators that ONNX Runtime has fused stay as they are: it has them itself, and nothing is to be
        quantized."""
        return self.verifier == VERIFIERS[0] and self.kind is not None and self.kind.quantize == "none"

    @property
    def weights_alone(self) -> bool:
        """Whether the chosen precision quantizes weights and nothing else."""
        return self.kind is not None and self.kind.quantize == "weights"

    @property
    def four_bit_precision(self) -> str:
        """The precision that quantizes weights alone, to four bits; empty where there is none."""
        found = (name for name, one in self.precisions.items() if one.quantize == "weights" and one.weight is not None)
        return next(found, "")

    @property
    def in_four_bits(self) -> Target | None:
        """The target as single products of a mixture may have it: at that precision."""
        name = self.four_bit_precision
        return self.at(name, self.ops) if name else None

    @property
    def without_samples(self) -> str:
        """What to do where there are no samples, as the end of a sentence; empty where nothing helps."""
        name = next((name for name, one in self.precisions.items() if one.quantize in ("dynamic", "weights")), "")
        return f", or use the precision {name}, which needs none" if name else ""

    def operator(self, node: gs.Node) -> Operator | None:
        """The first description that fits the node, constants and attributes included; None when there is none."""
        for entry in self.operators:
            if entry.ops not in (OPS[0], self.ops) or not entry.matches(node):
                continue
            if entry.quantize and (self.kind is None or self.kind.quantize not in entry.quantize):
                continue
            if all(_is_weight(node, index) for index in (entry.weight, entry.recurrent) if index is not None):
                return entry
        return None

    def tabulates(self, op: str) -> bool:
        """Whether what the operator computes of one tensor in codes is looked up in a table."""
        return self.ops == "native" and op in self.elementwise

    def weights(self, entry: Operator, node: gs.Node) -> Iterator[tuple[int, Scheme]]:
        """The inputs of the node that are weights, with the scheme of each."""
        if entry.weight is None:
            return
        if entry.recurrent is None:
            scheme = self.weight_scheme(entry, node.inputs[entry.weight].values.ndim)
            if scheme.paired and entry.subpixel:  # its rows are laid out anew
                scheme = replace(scheme, paired=False, bits=7)
            yield entry.weight, scheme if entry.activations else replace(scheme, paired=False)  # nothing is summed
            return
        for index in (entry.weight, entry.recurrent):
            scheme, terms = self.weight, int(node.inputs[index].values.shape[2])
            if scheme.paired:  # what is multiplied with it is not known to leave room
                scheme = replace(scheme, paired=False, bits=7)
            yield index, replace(scheme, granularity=PerBlock(2, terms))

    def weight_scheme(self, entry: Operator, rank: int) -> Scheme:
        """The weight's scheme: one scale an index of the operator's axis, one in all where it has none. Blocks run
        along a matrix's other axis."""
        if entry.weight_axis is None or entry.weight_axis >= rank:
            return self.weight
        if isinstance(self.weight.granularity, PerBlock):
            axis = 1 - entry.weight_axis if rank == 2 else self.weight.granularity.axis
            return replace(self.weight, granularity=replace(self.weight.granularity, axis=axis))
        return replace(self.weight, granularity=PerAxis(entry.weight_axis))


def _is_weight(node: gs.Node, index: int) -> bool:
    """Whether that input is a constant of float32."""
    return index < len(node.inputs) and isinstance(node.inputs[index], gs.Constant) and is_float(node.inputs[index])


def is_float(tensor: gs.Tensor) -> bool:
    """Whether the tensor is float32, the one type that 8-bit kernels exchange with; an unknown type counts as yes."""
    if isinstance(tensor, gs.Constant):
        return tensor.values.dtype == np.float32
    return tensor.dtype is None or np.dtype(tensor.dtype) == np.float32


__all__ = ["BLOCKS", "FLOATS", "OPS", "QUANTIZED", "USUAL", "VERIFIERS", "Operator", "Precision", "Target", "is_float"]
