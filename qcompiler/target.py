"""What a target fuses with which scheme: data, read from one TOML file a target."""

from __future__ import annotations

import difflib
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from qcompiler.errors import TargetError
from qcompiler.scheme import PerAxis, PerBlock, PerTensor, Scheme

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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
    before; both have a scale for each output, and each direction. ``tiled``: only where windows lie side by side.
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
    tiled: bool = False
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
            if scheme.paired and entry.tiled:  # its rows are laid out anew
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


def target_names() -> list[str]:
    """The targets that come with the package."""
    files = [path.name for path in _folder().iterdir() if path.name.endswith(".toml")]
    return sorted(name.removesuffix(".toml").replace("_", "-") for name in files)


def load_target(name: str, cpu: str = "auto") -> Target:
    """A target by its name or by the path of a TOML file; ``cpu`` is one of the file's CPU kinds, or ``auto``.

    Raises:
        TargetError: no such target, or its description is malformed.
    """
    if name.endswith(".toml"):
        try:
            text, where = Path(name).read_text("utf-8"), name
        except OSError as error:
            raise TargetError("cannot be read", where=name, why=error.strerror or str(error)) from None
    elif name in target_names():
        text, where = (_folder() / f"{name.replace('-', '_')}.toml").read_text("utf-8"), name
    else:
        close = difflib.get_close_matches(name, target_names(), 1)
        hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(target_names())}, or a .toml file"
        raise TargetError(f"there is no target '{name}'", fix=hint)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TargetError("is not TOML", where=where, why=str(error)) from None
    return _read(data, where, cpu)


def describe(target: Target) -> Iterator[tuple[str, str]]:
    """Rows (operator, how it is treated) for a reader."""
    for entry in target.operators:
        condition = ", ".join(f"{k}={v}" for k, v in entry.when.items())
        parts = [f"inputs {', '.join(map(str, entry.activations))}"] if entry.activations else []
        if entry.variadic:
            parts = ["all inputs"]
        if entry.shortcut:
            parts = [f"the input beside a {entry.shortcut}"]
        if entry.attention:
            parts.append("around a Softmax only")
        if entry.recurrent is not None:
            parts.append(f"weights {entry.weight} and {entry.recurrent} per output")
        elif entry.weight is not None:
            axis = "tensor" if entry.weight_axis is None else f"axis {entry.weight_axis}"
            parts.append(f"weight {entry.weight} per {axis}")
        if entry.bias is not None:
            parts.append(f"bias {entry.bias}")
        if entry.tiled:
            parts.append("where windows lie side by side")
        parts.append(f"output {entry.output}")
        if entry.quantize:
            parts.append(f"where the precision quantizes {' or '.join(entry.quantize)}")
        if entry.ops != OPS[0]:
            parts.append(f"with {entry.ops} operators")
        yield f"{entry.op} ({condition})" if condition else entry.op, ", ".join(parts)
    for op, reason in target.refused.items():
        yield op, f"refused: {reason}"
    for op, reason in target.absorbed.items():
        yield op, f"absorbed: {reason}"
    for op, reason in target.excluded.items():
        yield op, f"float: {reason}"
    if target.elementwise:
        yield ", ".join(target.elementwise), "with native operators, of one tensor in codes: a table"


def detect_cpu() -> str:
    """``vnni``, ``avx2`` or ``arm``: the kind of the machine this runs on."""
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64") or machine.startswith("arm"):
        return "arm"
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "avx2"  # the safe choice on x86: nothing saturates
    return "vnni" if "avx512_vnni" in flags or "avx_vnni" in flags else "avx2"


def _folder() -> Any:
    return resources.files("qcompiler") / "targets"


_KEYS = {"name", "summary", "opset", "activation", "weight", "bias", "operator", "absorbed", "excluded"}
_KEYS |= {"cpu", "pipeline", "precision", "verifier", "gpu", "observer", "refused", "domains", "elementwise"}
_OPERATOR_KEYS = set(Operator.__dataclass_fields__)


def _read(data: dict[str, Any], where: str, cpu: str) -> Target:
    unknown = sorted(set(data) - _KEYS)
    if unknown:
        raise TargetError(f"unknown field '{unknown[0]}'", where=where, fix=f"use {', '.join(sorted(_KEYS))}")
    kinds = data.get("cpu", {})
    if cpu == "auto":
        cpu = detect_cpu() if kinds else ""
    elif cpu not in kinds:
        raise TargetError(f"knows no CPU kind '{cpu}'", where=where, fix=f"use one of auto, {', '.join(kinds)}")
    chosen = kinds.get(cpu, {})
    schemes = {key: {**data[key], **chosen.get(key, {})} for key in ("activation", "weight", "bias") if key in data}
    precisions = {key: _precision(key, given, where) for key, given in data.get("precision", {}).items()}
    operators = []
    for entry in data.get("operator", []):
        wrong = sorted(set(entry) - _OPERATOR_KEYS)
        if wrong:
            raise TargetError(
                f"operator {entry.get('op')}: unknown field '{wrong[0]}'",
                where=where,
                fix=f"use {', '.join(sorted(_OPERATOR_KEYS))}",
            )
        entry = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
        if isinstance(entry.get("quantize"), str):
            entry["quantize"] = (entry["quantize"],)
        if not set(entry.get("quantize", ())) <= set(QUANTIZED):
            raise TargetError(
                f"operator {entry.get('op')}: quantize is '{', '.join(map(str, entry['quantize']))}'",
                where=where,
                fix=f"use some of {', '.join(QUANTIZED)}",
            )
        operators.append(Operator(**entry))
    verifier = data.get("verifier", VERIFIERS[0])
    if verifier not in VERIFIERS:
        raise TargetError(f"there is no verifier '{verifier}'", where=where, fix=f"use one of {', '.join(VERIFIERS)}")
    try:
        return Target(
            name=data["name"],
            summary=data["summary"],
            opset=data["opset"],
            activation=Scheme.from_json(schemes["activation"]),
            weight=Scheme.from_json(schemes["weight"]),
            bias=Scheme.from_json(schemes["bias"]),
            operators=tuple(operators),
            absorbed=data.get("absorbed", {}),
            excluded=data.get("excluded", {}),
            pipeline={stage: tuple(names) for stage, names in data.get("pipeline", {}).items()},
            cpu=cpu,
            cpus={name: kind.get("why", "") for name, kind in kinds.items()},
            foreign=detect_cpu() in kinds and cpu != detect_cpu(),
            precisions=precisions or USUAL,
            verifier=verifier,
            gpu=data.get("gpu", ""),
            observer=data.get("observer", "mse"),
            refused=data.get("refused", {}),
            domains=tuple(data.get("domains", ())),
            elementwise=tuple(data.get("elementwise", ())),
        )
    except KeyError as error:
        raise TargetError(f"the field {error} is missing", where=where) from None


def _precision(name: str, given: dict[str, Any], where: str) -> Precision:
    for key, value in given.items():
        if key not in Precision.__dataclass_fields__:
            fix = f"use {', '.join(Precision.__dataclass_fields__)}"
            raise TargetError(f"precision {name}: unknown field '{key}'", where=where, fix=fix)
        for field_name, known in (("quantize", QUANTIZED), ("floats", FLOATS), ("ops", OPS)):
            if key == field_name and value not in known:
                raise TargetError(f"precision {name}: {key} is '{value}'", where=where, fix=f"use {', '.join(known)}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    values |= {key: Scheme.from_json(given[key]) for key in ("activation", "weight") if key in given}
    return Precision(**values)


__all__ = [
    "BLOCKS", "FLOATS", "OPS", "USUAL", "Operator", "Precision", "Target", "describe", "detect_cpu", "is_float",
    "load_target", "target_names",
]  # fmt: skip
