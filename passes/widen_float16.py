"""Half precision becomes float32 inside the model: a CPU computes in float32 anyway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import ml_dtypes
import numpy as np
from onnx import TensorProto

from qcompiler import ir
from qcompiler.passes._edit import bypass
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics

_NARROW = {
    np.dtype(np.float16): int(TensorProto.FLOAT16),
    np.dtype(ml_dtypes.bfloat16): int(TensorProto.BFLOAT16),
}
_WIDE = np.dtype(np.float32)
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision")


@dataclass(frozen=True)
class WidenFloat16(Pass):
    """float16 and bfloat16 become float32 at every depth. ONNX Runtime's CPU kernels compute in float32 between Casts
    of its own, and its 8-bit fusions want float32 around them.

    1. Weights, and constants in attributes, are widened, which is exact.
    2. Attributes that name a type (Cast's ``to``, EyeLike's ``dtype``, ...) name float32.
    3. The model's inputs and outputs keep their types, with a Cast each.
    4. A Cast between what has become float32 on both sides goes: a mixed model comes out without any.
    5. Operators of other domains may take no float32: they keep their types, with Casts around.

    Results are rounded less often, so they are nearer to what the model means. What overflowed to infinity above 65504
    may be finite now; nothing overflows that did not, but for a result beyond the range of the output's type.

    Refused, for the whole model: tensors of unknown type, sequences and optionals (a Cast does not reach into them),
    and bodies of operators of other domains.
    """

    name: ClassVar[str] = "widen-float16"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        ir.infer_shapes(graph)
        narrow = {tensor: code for tensor in ir.all_tensors(graph).values() if (code := _code(tensor)) is not None}
        if not narrow:
            return PassResult()
        refusal = _refusal(graph)
        if refusal is not None:
            return PassResult(0, (refusal,))
        worker = _Worker(graph)
        for _, node in ir.all_nodes(graph):
            if not node.domain:
                _widen_attributes(node)
        for tensor, code in narrow.items():
            worker.widen(tensor, code)
        worker.drop_casts()
        return PassResult(len(narrow))


def _code(tensor: ir.Tensor) -> int | None:
    """ONNX's number of a half-precision type; None for other types."""
    return None if tensor.dtype is None else _NARROW.get(np.dtype(tensor.dtype))


def _refusal(graph: ir.Graph) -> Diagnostic | None:
    for _, node in ir.all_nodes(graph):
        if node.domain and ir.subgraphs(node):
            return Diagnostic(node.name, f"{node.op} of {node.domain} has a body of unknown rules", "refused")
    for name, tensor in ir.all_tensors(graph).items():
        if isinstance(tensor, ir.Variable) and tensor.type_proto is not None:
            return Diagnostic(name, "is no plain tensor, and the model holds half precision", "refused")
        if tensor.dtype is None:
            return Diagnostic(name, "is of unknown type, and the model holds half precision", "refused")
    return None


class _Worker:
    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.namer = ir.Namer(graph)
        self.home = {node: inner for inner, node in ir.all_nodes(graph)}

    def widen(self, tensor: ir.Tensor, code: int) -> None:
        """Gives a tensor a float32 form, and keeps the narrow one, of type ``code``, where something needs it."""
        maker = ir.producer(tensor)
        given = maker is None and any(tensor is other for other in self.graph.inputs)
        returned = any(tensor is other for other in self.graph.outputs)
        foreign = list(dict.fromkeys(node for node in tensor.outputs if node.domain))
        if isinstance(tensor, ir.Constant):
            wide = np.asarray(tensor.values).astype(_WIDE)
            wide.flags.writeable = False
            if foreign or returned:
                self.read_wide(tensor, ir.Constant(self.namer(f"{tensor.name}_float32"), wide))
            else:
                tensor.values = wide
        elif given or (maker is not None and maker.domain):
            other = ir.Variable(self.namer(f"{tensor.name}_float32"), _WIDE, tensor.shape)
            if self.read_wide(tensor, other):
                self.cast(tensor, other, TensorProto.FLOAT)
        elif returned:  # the name belongs to the narrow form
            other = ir.Variable(self.namer(f"{tensor.name}_float32"), _WIDE, tensor.shape)
            assert maker is not None
            maker.outputs[next(index for index, made in enumerate(maker.outputs) if made is tensor)] = other
            self.read_wide(tensor, other)
            self.cast(other, tensor, code)
        else:
            if foreign:
                other = ir.Variable(self.namer(f"{tensor.name}_{tensor.dtype}"), tensor.dtype, tensor.shape)
                for node in foreign:
                    _reread(node, tensor, other)
                self.cast(tensor, other, code)
            tensor.dtype = _WIDE

    def read_wide(self, narrow: ir.Tensor, wide: ir.Tensor) -> bool:
        """Makes standard operators, and bodies that return the tensor, use its float32 form; whether there are any."""
        found = False
        for node in list(dict.fromkeys(narrow.outputs)):
            if not node.domain:
                _reread(node, narrow, wide)
                found = True
        for inner in ir.all_graphs(self.graph):
            if inner is not self.graph and any(output is narrow for output in inner.outputs):
                inner.outputs[:] = [wide if output is narrow else output for output in inner.outputs]
                found = True
        return found

    def cast(self, source: ir.Tensor, result: ir.Variable, to: int) -> None:
        maker = ir.producer(source)
        if maker is None:
            inner = next(g for g in ir.all_graphs(self.graph) if any(t is source for t in g.inputs))
        else:
            inner = self.home[maker]
        node = ir.Node("Cast", self.namer(f"{result.name}_Cast"), {"to": to}, inputs=[source], outputs=[result])
        inner.nodes.append(node)
        self.home[node] = inner

    def drop_casts(self) -> None:
        """Case 4."""
        for inner in ir.all_graphs(self.graph):
            for node in inner.nodes:
                if node.op == "Cast" and node.inputs[0].dtype == node.outputs[0].dtype == _WIDE:
                    bypass(node, node.inputs[0], inner, self.graph)
        ir.remove_dead(self.graph)


def _reread(node: ir.Node, old: ir.Tensor, new: ir.Tensor) -> None:
    for index, tensor in enumerate(node.inputs):
        if tensor is old:
            node.inputs[index] = new


def _widen_attributes(node: ir.Node) -> None:
    for key, value in node.attrs.items():
        if isinstance(value, ir.Constant) and value.values.dtype in _NARROW:  # ConstantOfShape
            node.attrs[key] = ir.Constant(value.name, np.asarray(value.values).astype(_WIDE))
        elif key in _TYPE_ATTRIBUTES and value in _NARROW.values():
            node.attrs[key] = int(TensorProto.FLOAT)
