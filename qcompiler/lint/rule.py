"""What a rule is, and the questions that rules ask of a graph with Q and DQ in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from qcompiler import ir
from qcompiler.target import Target

STANDARD = (None, "", "ai.onnx")
Q, DQ = "QuantizeLinear", "DequantizeLinear"
HEAVY = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))


@dataclass(frozen=True)
class Finding:
    """A place where a rule is broken. ``where``: a node or tensor; ``detail``: what is there."""

    rule: str
    severity: str
    where: str
    detail: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.rule} {self.severity}: {self.where}: {self.detail} ({self.reason}); {self.fix}"


@dataclass(frozen=True)
class Subject:
    """A graph with what every rule wants to know of it."""

    graph: ir.Graph
    target: Target
    nodes: tuple[ir.Node, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(node for _, node in ir.all_nodes(self.graph)))

    def ops(self, *names: str) -> Iterator[ir.Node]:
        return (node for node in self.nodes if node.op in names and node.domain in STANDARD)


Check = Callable[[Subject], Iterator[tuple[str, str]]]


@dataclass(frozen=True)
class Rule:
    """``severity``: ``error`` for what TensorRT's or ONNX's documentation rules out, ``warning`` where layers stay in
    float or rounding buys nothing. ``check`` yields (where, what is there)."""

    id: str
    severity: str
    reason: str
    fix: str
    check: Check

    def findings(self, subject: Subject) -> Iterator[Finding]:
        for where, detail in self.check(subject):
            yield Finding(self.id, self.severity, where, detail, self.reason, self.fix)


RULES: dict[str, Rule] = {}


def rule(id: str, severity: str, reason: str, fix: str) -> Callable[[Check], Check]:
    """Registers a check as a rule."""

    def register(check: Check) -> Check:
        RULES[id] = Rule(id, severity, reason, fix, check)
        return check

    return register


def dequantizer(tensor: ir.Tensor) -> ir.Node | None:
    """The DQ that makes the tensor; None where something else does."""
    node = ir.producer(tensor)
    return node if node is not None and node.op == DQ and node.domain in STANDARD else None


def quantizer(node: ir.Node) -> ir.Node | None:
    """The Q that a DQ undoes."""
    source = ir.producer(node.inputs[0])
    return source if source is not None and source.op == Q else None


def coded_constant(node: ir.Node) -> ir.Constant | None:
    """What a DQ makes of a constant: the codes, or the float weight where a Q is between."""
    source = quantizer(node)
    tensor = source.inputs[0] if source is not None else node.inputs[0]
    return tensor if isinstance(tensor, ir.Constant) else None


def code_type(node: ir.Node) -> np.dtype | None:
    """The type of codes of a Q or DQ: of its zero point, else of the codes, else uint8, ONNX's default for a Q."""
    if len(node.inputs) > 2 and node.inputs[2].name and node.inputs[2].dtype is not None:
        return np.dtype(node.inputs[2].dtype)
    if node.op == DQ:
        source = quantizer(node)
        if source is not None:
            return code_type(source)
        return None if node.inputs[0].dtype is None else np.dtype(node.inputs[0].dtype)
    return np.dtype(np.uint8)


def scale_of(node: ir.Node) -> np.ndarray | None:
    """A Q's or DQ's scale as float32; None where it is computed."""
    scale = node.inputs[1]
    return np.asarray(scale.values, np.float32) if isinstance(scale, ir.Constant) else None


def same_scale(a: ir.Node, b: ir.Node) -> bool:
    """Whether both are known and alike; what is computed is taken to be."""
    first, second = scale_of(a), scale_of(b)
    return first is None or second is None or (first.shape == second.shape and bool(np.allclose(first, second, 1e-3)))


def readers(tensor: ir.Tensor) -> list[ir.Node]:
    return list(dict.fromkeys(tensor.outputs))


def quantized(node: ir.Node) -> bool:
    """Whether a product or convolution reads both its operands in codes."""
    return len(node.inputs) > 1 and all(dequantizer(tensor) is not None for tensor in node.inputs[:2])
