"""The Plan: which uses of which tensors are quantized and how. Decided first, written into the graph once.

A plan is frozen; each stage returns a new one. As a file it is JSON that a person can read, edit, diff and replay.
"""

from __future__ import annotations

import base64
import json
import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from qcompiler import ir, numerics
from qcompiler.errors import PlanError
from qcompiler.scheme import Scheme

FORMAT = "qcompiler-plan/1"

ORIGINS = ("unsolved", "weights", "calibration", "product", "dynamic", "user")
"""Where numbers come from: the weight itself, observed ranges, a product of two scales (bias), each run anew, or the
user, by an observer for that tensor or in person."""

BY_USER = "kept in float by the user"
"""How the reason of a node begins that is kept because the user wants it to be."""


@dataclass(frozen=True, order=True)
class Site:
    """A tensor at one of its uses: input ``index`` of node ``node``; a graph output has node ``""``."""

    tensor: str
    node: str
    index: int = 0

    def __str__(self) -> str:
        return f"{self.node}:{self.index}" if self.node else "output"


@dataclass(frozen=True, eq=False)
class TensorQuant:
    """How a tensor is represented. ``scale``: float32 array, ``[]`` or one entry a channel; ``zero_point``: int64 of
    the same shape. Both are None until solved, and stay None where ``origin`` is ``dynamic``."""

    scheme: Scheme
    scale: np.ndarray | None = None
    zero_point: np.ndarray | None = None
    origin: str = "unsolved"

    def solved(self, scale: np.ndarray, zero_point: np.ndarray, origin: str) -> TensorQuant:
        return replace(
            self, scale=np.asarray(scale, np.float32), zero_point=np.asarray(zero_point, np.int64), origin=origin
        )

    def _identity(self) -> tuple[object, ...]:
        numbers = tuple(None if a is None else (a.shape, a.tobytes()) for a in (self.scale, self.zero_point))
        return (self.scheme, *numbers, self.origin)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorQuant) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())


@dataclass(frozen=True)
class Decision:
    """Something tried on the target and what came of it. Replaying a plan does not try again."""

    where: tuple[str, ...]
    action: str
    reason: str


@dataclass(frozen=True, eq=False)
class Plan:
    """``sites``: what is quantized; ``intended``: the nodes meant to work on codes (others may read a quantized tensor
    too, dequantized); ``ties``: groups of tensors that share one scale and zero point; ``kept``: nodes that could have
    been quantized and stay in float, with the reason; ``dynamic``: products whose activation is quantized as they run,
    each row by itself, where that can be; ``four_bits``: products and tables whose weight has four bits, and which read
    no codes; ``smoothing``: float32 ``[K]`` by which a tensor's channels are
    multiplied and the weights that read them divided, or ``[K, K]``, a transform of them; ``ranges``: (low, high) of
    tensors for which measuring found a better one than the observer; ``rounding``: int8, of a weight's shape, by how
    much its codes of 8 bits differ from those of rounding to nearest; ``four_bit_rounding``: the same of codes of four
    bits; ``shifts``: float32, of a bias's shape, what is added to it where its node works on codes; ``decisions``: what
    asking the target led to."""

    target: str = ""
    precision: str = ""
    sites: Mapping[Site, TensorQuant] = field(default_factory=dict)
    intended: frozenset[str] = frozenset()
    ties: tuple[frozenset[str], ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    dynamic: frozenset[str] = frozenset()
    four_bits: frozenset[str] = frozenset()
    smoothing: Mapping[str, np.ndarray] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    rounding: Mapping[str, np.ndarray] = field(default_factory=dict)
    four_bit_rounding: Mapping[str, np.ndarray] = field(default_factory=dict)
    shifts: Mapping[str, np.ndarray] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.to_json() == other.to_json()

    def tensors(self) -> dict[str, dict[Site, TensorQuant]]:
        """Sites by tensor, both in order."""
        grouped: dict[str, dict[Site, TensorQuant]] = {}
        for site in sorted(self.sites):
            grouped.setdefault(site.tensor, {})[site] = self.sites[site]
        return grouped

    def group(self, tensor: str) -> frozenset[str]:
        """The tensors that share ``tensor``'s parameters, itself included."""
        return next((tie for tie in self.ties if tensor in tie), frozenset([tensor]))

    def without_nodes(self, nodes: Mapping[str, str]) -> Plan:
        """Notes the nodes as kept in float for the given reasons. Placement is run again with them; see ``place``."""
        return replace(self, kept={**self.kept, **nodes})

    def deciding(self, where: Iterable[str], action: str, reason: str) -> Plan:
        return replace(self, decisions=(*self.decisions, Decision(tuple(where), action, reason)))

    def codes(self, name: str, values: np.ndarray, quant: TensorQuant) -> np.ndarray:
        """The codes that stand for the constant of that name under ``quant``.

        Raises:
            PlanError: the plan's rounding is of a constant of another shape.
        """
        assert quant.scale is not None and quant.zero_point is not None
        codes = numerics.quantize(self.shifted(name, values), quant.scale, quant.zero_point, quant.scheme)
        change = self.change(name, codes.shape, quant)
        if change is None:
            return codes
        ends = quant.scheme.storage_range if quant.scheme.four_bits else quant.scheme.code_range
        return np.clip(codes.astype(np.int32) + change, *ends).astype(codes.dtype)

    def shifted(self, name: str, values: np.ndarray) -> np.ndarray:
        """The values of a bias with what is added to them; of any other constant as they are.

        Raises:
            PlanError: the plan's shift is of a bias of another shape.
        """
        shift = self.shifts.get(name)
        if shift is None:
            return values
        if shift.shape != values.shape:
            why = f"its shift is for shape {list(shift.shape)}, the model has {list(values.shape)}"
            raise PlanError("is of another model", where=f"tensor '{name}'", why=why, fix=_REPLAN)
        return values + shift

    def change(self, name: str, shape: Sequence[int], quant: TensorQuant) -> np.ndarray | None:
        """By how much a constant's codes differ from those of rounding to nearest; None where they do not.

        Raises:
            PlanError: the plan's rounding is of a constant of another shape.
        """
        rounding = self.four_bit_rounding if quant.scheme.four_bits else self.rounding
        if not quant.scheme.four_bits and quant.scheme.dtype not in ("int8", "uint8"):
            return None
        change = rounding.get(name)
        if change is not None and change.shape != tuple(shape):
            why = f"its rounding is for shape {list(change.shape)}, the model has {list(shape)}"
            raise PlanError("is of another model", where=f"tensor '{name}'", why=why, fix=_REPLAN)
        return change

    def check(self, graph: ir.Graph) -> None:
        """Raises PlanError when a site or a kept node does not exist in the graph."""
        nodes = {node.name: node for _, node in ir.all_nodes(graph)}
        for name in sorted(self.intended):
            if name not in nodes:
                raise PlanError(f"the model has no node '{name}'", where="intended", fix=_REPLAN)
        for site in self.sites:
            if not site.node:
                if not any(t.name == site.tensor for inner in ir.all_graphs(graph) for t in inner.outputs):
                    raise PlanError(f"'{site.tensor}' is no output of the model", fix=_REPLAN)
                continue
            node = nodes.get(site.node)
            if node is None:
                raise PlanError(f"the model has no node '{site.node}'", where=f"tensor '{site.tensor}'", fix=_REPLAN)
            if not 0 <= site.index < len(node.inputs) or node.inputs[site.index].name != site.tensor:
                raise PlanError(
                    f"input {site.index} of node '{site.node}' is not '{site.tensor}'", where="plan", fix=_REPLAN
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        with ir.written_beside(path) as file:
            file.write(self.to_json().encode())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Plan:
        try:
            text = Path(path).read_text("utf-8")
        except FileNotFoundError:
            raise PlanError("no such file", where=str(path), fix="make one with: qcompiler plan") from None
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError("cannot be read", where=str(path), why=str(error)) from None
        try:
            return Plan.from_json(text)
        except PlanError as error:
            where = f"{path}: {error.where}" if error.where else str(path)
            raise PlanError(error.what, where=where, fix=error.fix) from None

    def to_json(self) -> str:
        """One tensor a line, so that a diff of two plans reads as a list of changed tensors."""
        lines = []
        for tensor, sites in self.tensors().items():
            by_quant: dict[TensorQuant, list[Site]] = {}
            for site, quant in sites.items():
                by_quant.setdefault(quant, []).append(site)
            entries = [_quant_json(quant, uses) for quant, uses in by_quant.items()]
            lines.append(f"    {json.dumps(tensor)}: {json.dumps(entries)}")
        head = {"format": FORMAT, "target": self.target, "precision": self.precision}
        body = "".join(f"  {json.dumps(k)}: {json.dumps(v)},\n" for k, v in head.items())
        ties = ",\n".join(f"    {json.dumps(sorted(tie))}" for tie in sorted(self.ties, key=sorted))
        kept = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(self.kept.items()))
        decisions = [{"where": list(d.where), "action": d.action, "reason": d.reason} for d in self.decisions]
        made = ",\n".join(f"    {json.dumps(decision)}" for decision in decisions)
        dynamic, few = (
            ",\n".join(f"    {json.dumps(name)}" for name in sorted(names)) for names in (self.dynamic, self.four_bits)
        )
        tensors = ",\n".join(lines)
        factors = {name: _shortest(factor) for name, factor in sorted(self.smoothing.items())}
        smooth = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in factors.items())
        ranges = ",\n".join(f"    {json.dumps(k)}: {json.dumps(list(v))}" for k, v in sorted(self.ranges.items()))
        moved = {name: _shortest(shift) for name, shift in sorted(self.shifts.items())}
        shifts = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in moved.items())
        intended = ",\n".join(f"    {json.dumps(name)}" for name in sorted(self.intended))
        rounded, four_bits = (
            ",\n".join(f"    {json.dumps(name)}: {json.dumps(_packed(one))}" for name, one in sorted(changes.items()))
            for changes in (self.rounding, self.four_bit_rounding)
        )
        return (
            f'{{\n{body}  "intended": [\n{intended}\n  ],\n'
            f'  "tensors": {{\n{tensors}\n  }},\n  "ties": [\n{ties}\n  ],\n'
            f'  "kept": {{\n{kept}\n  }},\n  "dynamic": [\n{dynamic}\n  ],\n'
            f'  "four_bits": [\n{few}\n  ],\n  "smoothing": {{\n{smooth}\n  }},\n'
            f'  "ranges": {{\n{ranges}\n  }},\n  "rounding": {{\n{rounded}\n  }},\n'
            f'  "four_bit_rounding": {{\n{four_bits}\n  }},\n  "shifts": {{\n{shifts}\n  }},\n'
            f'  "decisions": [\n{made}\n  ]\n}}\n'
        )

    @staticmethod
    def from_json(text: str) -> Plan:
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise PlanError("not JSON", why=str(error)) from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise PlanError(f"not a plan of format {FORMAT}", fix=_REPLAN)
        unknown = set(data) - _FIELDS
        if unknown:
            raise PlanError(f"unknown field '{min(unknown)}'", fix="remove it")
        try:
            sites: dict[Site, TensorQuant] = {}
            for tensor, entries in data.get("tensors", {}).items():
                for entry in entries:
                    sites.update(_sites(tensor, entry))
            decisions = tuple(Decision(tuple(d["where"]), d["action"], d["reason"]) for d in data.get("decisions", []))
            ties = tuple(frozenset(tie) for tie in data.get("ties", []))
            return Plan(
                data.get("target", ""),
                data.get("precision", ""),
                sites,
                frozenset(data.get("intended", ())),
                ties,
                dict(data.get("kept", {})),
                frozenset(data.get("dynamic", ())),
                frozenset(data.get("four_bits", ())),
                {name: np.asarray(scale, np.float32) for name, scale in data.get("smoothing", {}).items()},
                {name: (float(low), float(high)) for name, (low, high) in data.get("ranges", {}).items()},
                {name: _unpacked(packed) for name, packed in data.get("rounding", {}).items()},
                {name: _unpacked(packed) for name, packed in data.get("four_bit_rounding", {}).items()},
                {name: np.asarray(shift, np.float32) for name, shift in data.get("shifts", {}).items()},
                decisions,
            )
        except (AttributeError, KeyError, TypeError, ValueError, zlib.error) as error:
            raise PlanError("is damaged", why=f"{type(error).__name__}: {error}", fix=_REPLAN) from None


_FIELDS = frozenset(
    (
        *("format", "target", "precision", "intended", "tensors", "ties", "kept", "dynamic"),
        "four_bits",
        *("smoothing", "ranges", "rounding", "four_bit_rounding", "shifts", "decisions"),
    )
)
_REPLAN = "make the plan anew with: qcompiler plan"


def diff(old: Plan, new: Plan) -> list[str]:
    """One line for each site or kept node that differs."""
    lines = []
    for site in sorted(set(old.sites) | set(new.sites)):
        before, after = old.sites.get(site), new.sites.get(site)
        if before != after:
            lines.append(f"{site.tensor} at {site}: {_short(before)} -> {_short(after)}")
    for node in sorted(set(old.kept) | set(new.kept)):
        if old.kept.get(node) != new.kept.get(node):
            lines.append(f"{node}: kept in float: {old.kept.get(node, 'no')} -> {new.kept.get(node, 'no')}")
    return lines


def _short(quant: TensorQuant | None) -> str:
    if quant is None:
        return "float"
    if quant.scale is None:
        return f"{quant.scheme} ({quant.origin})"
    scale = quant.scale if quant.scale.ndim == 0 else quant.scale.max()
    return f"{quant.scheme} scale {float(scale):.6g}"


def _quant_json(quant: TensorQuant, uses: list[Site]) -> dict[str, Any]:
    data: dict[str, Any] = {"uses": [str(site) for site in uses], **quant.scheme.to_json(), "origin": quant.origin}
    if quant.scale is not None and quant.zero_point is not None:
        data["scale"] = _shortest(quant.scale)
        same = quant.zero_point.size and np.all(quant.zero_point == quant.zero_point.flat[0])
        data["zero_point"] = int(quant.zero_point.flat[0]) if same else quant.zero_point.tolist()
    return data


def _shortest(values: np.ndarray) -> Any:
    """Numbers in the shortest decimals that read back as the same float32."""
    return np.vectorize(lambda v: float(str(np.float32(v))), otypes=[float])(values).tolist()


def _packed(change: np.ndarray) -> dict[str, Any]:
    """int8 array to its shape and its bytes, deflated, in base64."""
    data = zlib.compress(np.ascontiguousarray(change, np.int8).tobytes(), 6)
    return {"shape": list(change.shape), "deflated": base64.b64encode(data).decode()}


def _unpacked(packed: dict[str, Any]) -> np.ndarray:
    shape = [int(length) for length in packed["shape"]]
    size, deflated = math.prod(shape), base64.b64decode(packed["deflated"], validate=True)
    inflater, data = zlib.decompressobj(), b""
    if min(shape, default=1) > 0 and size <= _MOST_INFLATED * len(deflated):
        data = inflater.decompress(deflated, size)
    if len(data) != size or inflater.decompress(inflater.unconsumed_tail, 1):
        raise ValueError("a rounding does not have the size that its shape says")
    return np.frombuffer(data, np.int8).reshape(shape)


_MOST_INFLATED = 1032
"""Bytes that one deflated byte can stand for, at most."""


def _sites(tensor: str, entry: dict[str, Any]) -> dict[Site, TensorQuant]:
    entry = dict(entry)
    uses, origin = entry.pop("uses"), entry.pop("origin")
    scale, zero_point = entry.pop("scale", None), entry.pop("zero_point", None)
    if origin not in ORIGINS:
        fix = f"use one of {', '.join(ORIGINS)}"
        raise PlanError(f"unknown origin '{origin}'", where=f"tensor '{tensor}'", fix=fix)
    quant = TensorQuant(Scheme.from_json(entry), origin=origin)
    if scale is not None:
        steps = np.asarray(scale, np.float32)
        # A weight's block may be turned over, so that its farthest value takes the lowest code.
        turned = quant.scheme.four_bits & (steps < 0)
        if not np.all(np.isfinite(steps) & ((steps > 0) | turned)):
            raise PlanError("a scale is not a positive number", where=f"tensor '{tensor}'", fix="correct it")
        offset = np.broadcast_to(np.asarray(0 if zero_point is None else zero_point, np.int64), steps.shape).copy()
        quant = quant.solved(steps, offset, origin)
    found = {}
    for use in uses:
        node, separator, index = use.rpartition(":")
        if use != "output" and not separator:
            raise PlanError(f"a use is '{use}'", where=f"tensor '{tensor}'", fix="write NODE:INPUT or output")
        found[Site(tensor, node, int(index)) if separator else Site(tensor, "", 0)] = quant
    return found
