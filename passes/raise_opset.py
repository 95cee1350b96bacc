"""Raises the operator set, operator by operator, at every depth and without touching weights or other domains.

``onnx.version_converter`` is not used: it reads the whole model into one message, knows neither bodies nor other
domains, and stops at many real models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import helper

from qcompiler import ir
from qcompiler.errors import ModelError, PassError
from qcompiler.passes._edit import constant, operand
from qcompiler.passes._shape_dims import Size
from qcompiler.passes._shape_values import ShapeValues
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics

NEWEST = 23
"""Up to here every change of every operator has been read; see the test that holds the table against ONNX's own."""


@dataclass(frozen=True)
class RaiseOpset(Pass):
    """Raises the operator set to ``opset`` if it is older; a newer one stays. All or nothing: if one node cannot be
    raised, the graph stays as it was.

    1. Attributes that became inputs: Clip, Pad, Slice, Split, Squeeze, Unsqueeze, ReduceSum and the other reductions,
       TopK, Dropout, DFT.
    2. Defaults that changed are written out: Softmax, LogSoftmax and Hardmax, RoiAlign.
    3. Softmax, LogSoftmax and Hardmax over several axes at once become Flatten, the operator, Reshape.
    4. Operators that others have replaced: Upsample (Resize), Scatter (ScatterElements).
    5. Resize up to 10 becomes asymmetric with the rounding that ONNX Runtime gave it; tf_half_pixel_for_nn becomes the
       half_pixel that samples the same places.
    6. Attributes and outputs that went away with their default meaning: BatchNormalization, GridSample's mode names,
       Split's number of outputs.

    Everything else that changed between 7 and 23 only takes more types, or more options whose default is the old
    meaning. What comes out is held against ONNX's schemas and against strict shape inference (where the model passed
    that before).

    Refused, with the node named: whatever has no counterpart (see the comments at each refusal).

    ``opset``: the oldest operator set that is acceptable, 23 at most.
    """

    name: ClassVar[str] = "raise-opset"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    opset: int = 17

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        newest = min(NEWEST, onnx.defs.onnx_opset_version())
        if self.opset > newest:
            raise PassError(f"opset {self.opset} is newer than what it can raise to", fix=f"give {newest} or less")
        if graph.opset >= self.opset:
            return PassResult()
        trial = ir.clone(graph)
        try:
            raiser = _Raiser(trial, self.opset)
            raiser.run()
            _verify(graph, trial)
        except _Refusal as refusal:
            message = f"{refusal}; the operator set stays {graph.opset}"
            return PassResult(0, (Diagnostic(refusal.where or graph.name, message, "refused"),))
        graph.nodes[:], graph.inputs[:], graph.outputs[:] = trial.nodes, trial.inputs, trial.outputs
        graph.opset, graph.ir_version = trial.opset, trial.ir_version
        return PassResult(raiser.rewrites + 1, tuple(raiser.notes))


class _Refusal(Exception):
    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(message)
        self.where = where


class _Raiser:
    """Takes a graph from one version to the next, and to the next."""

    def __init__(self, graph: ir.Graph, target: int) -> None:
        self.graph, self.target = graph, target
        self.namer = ir.Namer(graph)
        self.rewrites = 0
        self.notes: list[Diagnostic] = []
        self.from_upsample: set[ir.Node] = set()
        self.shapes = ShapeValues(graph)

    def run(self) -> None:
        for version in range(self.graph.opset + 1, self.target + 1):
            for inner in list(ir.all_graphs(self.graph)):
                for node in list(inner.nodes):
                    rewrite = None if node.domain else _REWRITES.get((node.op, version))
                    if rewrite is not None and rewrite(self, inner, node) is not False:
                        self.rewrites += 1
        self.graph.opset = self.target
        oldest = helper.find_min_ir_version_for([helper.make_opsetid("", self.target)])
        self.graph.ir_version = max(self.graph.ir_version or 0, oldest)

    def dims(self, tensor: ir.Tensor) -> Sequence[int | Size] | None:
        """The dimensions; where only the rank is known, and that from the file, none of them."""
        known = self.shapes.dims(tensor)
        if known is not None or tensor.shape is None:
            return known
        return [Size(tensor.name, axis) for axis in range(len(tensor.shape))]

    def integers(self, node: ir.Node, attribute: str) -> list[int] | None:
        """Takes a list attribute away and returns it; None when it isn't there."""
        value = node.attrs.pop(attribute, None)
        if value is None:
            return None
        return [int(v) for v in value] if isinstance(value, list) else []  # an empty list stays a protobuf

    def give(self, node: ir.Node, index: int, values: Any, hint: str) -> None:
        """Sets an input to a new constant; inputs before it that aren't there are left out."""
        tensor = ir.Constant(self.namer(f"{node.name}_{hint}"), np.asarray(values))
        self.set_input(node, index, tensor)

    def set_input(self, node: ir.Node, index: int, tensor: ir.Tensor) -> None:
        while len(node.inputs) <= index:
            node.inputs.append(ir.Variable(""))
        node.inputs[index] = tensor

    def give_like(self, inner: ir.Graph, node: ir.Node, index: int, value: float, hint: str) -> None:
        """Sets an input to a constant of the type of the node's first input."""
        like = node.inputs[0]
        if like.dtype is not None:
            with np.errstate(over="ignore"):  # the lowest float32 is minus infinity in float16
                self.give(node, index, np.array(value).astype(like.dtype), hint)
            return
        # Without a type there is no constant to write; CastLike is there from 15 on.
        if self.target < 15:
            raise _Refusal(f"the type of '{like.name}' is unknown", node.name)
        result = ir.Variable(self.namer(f"{node.name}_{hint}"))
        plain = ir.Constant(self.namer(f"{node.name}_{hint}_float"), np.array(value, np.float32))
        name = self.namer(f"{node.name}_{hint}_cast")
        self.insert(inner, node, ir.Node("CastLike", name, inputs=[plain, like], outputs=[result]))
        self.set_input(node, index, result)

    def insert(self, inner: ir.Graph, before: ir.Node, node: ir.Node, after: bool = False) -> None:
        position = next(index for index, other in enumerate(inner.nodes) if other is before)
        inner.nodes.insert(position + after, node)


Rewrite = Callable[[_Raiser, ir.Graph, ir.Node], Any]
_REWRITES: dict[tuple[str, int], Rewrite] = {}


def _raises(version: int, *ops: str) -> Callable[[Rewrite], Rewrite]:
    """Registers what takes nodes of these operators to this version. It returns False if it had nothing to do."""

    def register(rewrite: Rewrite) -> Rewrite:
        _REWRITES.update({(op, version): rewrite for op in ops})
        return rewrite

    return register


_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSumSquare",
)  # fmt: skip


@_raises(13, "ReduceSum", "Squeeze", "Unsqueeze")
@_raises(18, *_REDUCTIONS)
def _axes_to_input(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> bool:
    axes = raiser.integers(node, "axes")
    if not axes:
        return False
    raiser.give(node, 1, np.array(axes, np.int64), "axes")
    return True


@_raises(9, "BatchNormalization")
def _batchnorm_9(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> bool:
    # Statistics of each position by itself have no operator any more.
    if node.attrs.get("spatial", 1) == 0:
        raise _Refusal("BatchNormalization with spatial=0 has no counterpart", node.name)
    return node.attrs.pop("spatial", None) is not None


@_raises(14, "BatchNormalization")
def _batchnorm_14(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> bool:
    returned = ir.output_tensors(raiser.graph)
    # Its statistics were outputs in another order, one of them an inverse: nobody trains here.
    if any(tensor.outputs or tensor in returned for tensor in node.outputs[1:]):
        raise _Refusal("the statistics that BatchNormalization returns are read", node.name)
    if len(node.outputs) == 1:
        return False
    del node.outputs[1:]
    return True


@_raises(11, "Clip")
def _clip_11(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> bool:
    bounds = [(1, "min", node.attrs.pop("min", None)), (2, "max", node.attrs.pop("max", None))]
    for index, hint, value in bounds:
        if value is not None:
            raiser.give_like(inner, node, index, value, hint)
    return any(value is not None for _, _, value in bounds)


@_raises(10, "Dropout")
def _dropout_10(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> bool:
    # The mask was of the data's type and became bool.
    returned = ir.output_tensors(raiser.graph)
    if any(tensor.outputs or tensor in returned for tensor in node.outputs[1:]):
        raise _Refusal("the mask of Dropout is read", node.name)
    return False


@_raises(12, "Dropout")
def _dropout_12(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> bool:
    ratio = node.attrs.pop("ratio", None)
    if ratio is None:
        return False
    raiser.give(node, 1, np.float32(ratio), "ratio")
    return True


@_raises(11, "Pad")
def _pad_11(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> None:
    raiser.give(node, 1, np.array(raiser.integers(node, "pads") or [], np.int64), "pads")
    value = node.attrs.pop("value", 0.0)
    if value:
        raiser.give_like(inner, node, 2, value, "value")


@_raises(10, "Slice")
def _slice_10(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> None:
    for index, attribute in enumerate(("starts", "ends", "axes"), 1):
        values = raiser.integers(node, attribute)
        if values is not None:
            raiser.give(node, index, np.array(values, np.int64), attribute)


@_raises(13, "Split")
def _split_13(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> bool:
    sizes = raiser.integers(node, "split")
    if not sizes:
        return False
    raiser.give(node, 1, np.array(sizes, np.int64), "split")
    return True


@_raises(18, "Split")
def _split_18(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> bool:
    if operand(node, 1) is not None:
        return False
    node.attrs["num_outputs"] = len(node.outputs)
    return True


@_raises(10, "TopK")
def _topk_10(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> None:
    raiser.give(node, 1, np.array([node.attrs.pop("k")], np.int64), "k")


@_raises(20, "DFT")
def _dft_20(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> None:
    raiser.give(node, 2, np.int64(node.attrs.pop("axis", 1)), "axis")


@_raises(9, "Upsample")
def _upsample_9(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> None:
    raiser.give(node, 1, np.array(node.attrs.pop("scales"), np.float32), "scales")


@_raises(10, "Upsample")
def _upsample_10(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> None:
    node.op = "Resize"
    raiser.from_upsample.add(node)


@_raises(11, "Resize")
def _resize_11(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> None:
    scales = node.inputs[1]
    node.attrs["coordinate_transformation_mode"] = "asymmetric"
    if node.attrs.get("mode", "nearest") == "nearest":
        node.attrs["nearest_mode"] = _rounding_10(raiser, node)
    raiser.give(node, 1, np.zeros(0, np.float32), "roi")
    raiser.set_input(node, 2, scales)


def _rounding_10(raiser: _Raiser, node: ir.Node) -> str:
    """The specification says nothing; ONNX Runtime took the next lower place for larger results, the next higher for
    smaller ones. Upsample only enlarges.
    """
    scales = constant(node.inputs[1])
    if node in raiser.from_upsample or (scales is not None and np.all(scales >= 1)):
        return "floor"
    if scales is None:
        note = "its scales are computed: it is taken to enlarge"
        raiser.notes.append(Diagnostic(node.name, note, "warning"))
        return "floor"
    # One node has one rounding.
    if np.any(scales > 1):
        raise _Refusal("a nearest Resize that enlarges one axis and shrinks another rounds both ways", node.name)
    return "ceil"


@_raises(13, "Resize")
def _resize_13(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> bool:
    changed = False
    for index in (1, 2):  # they were required and are optional: an empty tensor said "not given"
        values = constant(node.inputs[index]) if index < len(node.inputs) else None
        if values is not None and values.size == 0:
            node.inputs[index] = ir.Variable("")
            changed = True
    if node.attrs.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        # floor((x + 1/2) / scale) is (x + 1/2) / scale - 1/2 rounded half up; other roundings have no counterpart.
        if node.attrs.get("mode", "nearest") != "nearest" or node.attrs.get("nearest_mode") != "floor":
            raise _Refusal("tf_half_pixel_for_nn has no counterpart unless it is nearest and floor", node.name)
        node.attrs["coordinate_transformation_mode"] = "half_pixel"
        node.attrs["nearest_mode"] = "round_prefer_ceil"
        changed = True
    return changed


@_raises(16, "RoiAlign")
def _roialign_16(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> None:
    node.attrs.setdefault("coordinate_transformation_mode", "output_half_pixel")


@_raises(9, "Scan")
def _scan_9(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> None:
    # It ran over a batch axis that version 9 has not.
    raise _Refusal("Scan of opset 8 has no counterpart", node.name)


@_raises(11, "Scatter")
def _scatter_11(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> None:
    node.op = "ScatterElements"


@_raises(13, "Softmax", "LogSoftmax", "Hardmax")
def _softmax_13(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> None:
    """Up to 12 all axes from ``axis`` on were one; from 13 on it is that axis alone."""
    axis = int(node.attrs.get("axis", 1))
    shape = raiser.dims(node.inputs[0])
    if shape is not None:
        axis += len(shape) if axis < 0 else 0
        wide = [index for index in range(axis, len(shape)) if shape[index] != 1]
        if len(wide) <= 1:
            node.attrs["axis"] = wide[0] if wide else min(axis, len(shape) - 1)
            return
    elif axis == -1:
        return
    source, result = node.inputs[0], node.outputs[0]
    flat, computed = (ir.Variable(raiser.namer(f"{node.name}_{part}"), source.dtype) for part in ("flat", "computed"))
    flatten = ir.Node("Flatten", raiser.namer(f"{node.name}_flatten"), {"axis": axis}, inputs=[source], outputs=[flat])
    raiser.insert(inner, node, flatten)
    node.inputs[0], node.outputs[0], node.attrs["axis"] = flat, computed, -1
    sizes: ir.Tensor
    if shape is not None and all(isinstance(size, int) and size > 0 for size in shape):
        sizes = ir.Constant(raiser.namer(f"{node.name}_shape"), np.array(shape, np.int64))
    else:
        sizes = ir.Variable(raiser.namer(f"{node.name}_shape"), np.int64)
        measure = ir.Node("Shape", raiser.namer(f"{node.name}_measure"), inputs=[source], outputs=[sizes])
        raiser.insert(inner, node, measure)
    back = ir.Node("Reshape", raiser.namer(f"{node.name}_reshape"), inputs=[computed, sizes], outputs=[result])
    if not ir.is_constant(sizes) and raiser.target >= 14:
        back.attrs["allowzero"] = 1  # a dimension of the source may really be 0
    raiser.insert(inner, node, back, after=True)


@_raises(19, "AveragePool")
def _averagepool_19(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> bool:
    # Which of the padding counts at a border that ceil_mode adds was settled only then, and not as it had been done.
    if node.attrs.get("ceil_mode", 0):
        raise _Refusal("AveragePool with ceil_mode counts its border differently from opset 19 on", node.name)
    return False


@_raises(20, "GridSample")
def _gridsample_20(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> bool:
    renamed = {"bilinear": "linear", "bicubic": "cubic"}.get(node.attrs.get("mode", ""))
    if renamed is None:
        return False
    node.attrs["mode"] = renamed
    return True


@_raises(21, "GroupNormalization")
def _groupnorm_21(raiser: _Raiser, inner: ir.Graph, node: ir.Node) -> None:
    # Scale and bias were one number a group and are one a channel.
    raise _Refusal("GroupNormalization has another scale from opset 21 on", node.name)


def _verify(before: ir.Graph, after: ir.Graph) -> None:
    """Raises _Refusal if the raised graph breaks a rule of ONNX that the original kept."""
    old, new = _violations(before), _violations(after)
    for where, message in new.items():
        if where not in old:
            raise _Refusal(f"would be invalid: {message}", where)
    foreign = [Counter((n.domain, n.op) for _, n in ir.all_nodes(g) if n.domain) for g in (before, after)]
    if foreign[0] != foreign[1]:
        raise _Refusal("an operator of another domain was lost")
    try:
        ir.infer_shapes(ir.clone(before), strict=True)
    except ModelError:
        return  # it contradicts itself already
    try:
        ir.infer_shapes(ir.clone(after), strict=True)
    except ModelError as error:
        raise _Refusal(f"shapes would contradict each other ({error.why})") from None


def _violations(graph: ir.Graph) -> dict[str, str]:
    """What in the nodes does not fit ONNX's schemas at the graph's operator set, by node name."""
    found: dict[str, str] = {}
    for _, node in ir.all_nodes(graph):
        if node.domain:
            continue
        try:
            schema = onnx.defs.get_schema(node.op, graph.opset)
        except onnx.defs.SchemaError:
            found[node.name] = f"{node.op} is no operator of opset {graph.opset}"
            continue
        unknown = set(node.attrs) - set(schema.attributes)
        missing = {name for name, a in schema.attributes.items() if a.required and name not in node.attrs}
        if schema.deprecated:
            found[node.name] = f"{node.op} is deprecated in opset {graph.opset}"
        elif unknown or missing:
            found[node.name] = f"{node.op} has no attribute {sorted(unknown)}, needs {sorted(missing)}"
        elif not schema.min_input <= len(node.inputs) <= schema.max_input:
            found[node.name] = f"{node.op} has {len(node.inputs)} inputs"
        elif not schema.min_output <= len(node.outputs) <= schema.max_output:
            found[node.name] = f"{node.op} has {len(node.outputs)} outputs"
    return found
