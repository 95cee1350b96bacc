"""Target descriptions: data, one TOML file a target."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from qcompiler.cpu import detect_cpu
from qcompiler.errors import TargetError
from qcompiler.scheme import Scheme
from qcompiler.target import FLOATS, OPS, QUANTIZED, USUAL, VERIFIERS, Operator, Precision, Target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


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
        if entry.subpixel:
            parts.append("where the result is as long as the input times the strides")
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


def _folder() -> Any:
    return resources.files("qcompiler") / "targets"


_KEYS = {"name", "summary", "opset", "activation", "weight", "bias", "operator", "absorbed", "excluded"}
_KEYS |= {"cpu", "pipeline", "precision", "verifier", "gpu", "observer", "refused", "domains", "elementwise"}
_CPU_KEYS = {"why", "activation", "weight", "bias", "without"}
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
    for name, kind in kinds.items():
        wrong = sorted(set(kind) - _CPU_KEYS)
        if wrong:
            fix = f"use {', '.join(sorted(_CPU_KEYS))}"
            raise TargetError(f"cpu {name}: unknown field '{wrong[0]}'", where=where, fix=fix)
        for one in kind.get("without", ()):
            if not any(one in names for names in data.get("pipeline", {}).values()):
                raise TargetError(f"cpu {name}: no stage has the pass '{one}' that it is to be without", where=where)
    schemes = {key: {**data[key], **chosen.get(key, {})} for key in ("activation", "weight", "bias") if key in data}
    pipeline = _pipeline(data.get("pipeline", {}), chosen.get("without", ()))
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
            pipeline=pipeline,
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


def _pipeline(stages: dict[str, Any], without: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The passes of each stage but those that the kind of CPU is better off without."""
    return {stage: tuple(name for name in names if name not in without) for stage, names in stages.items()}


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


__all__ = ["describe", "load_target", "target_names"]
