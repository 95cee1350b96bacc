"""Compiles an ONNX model into a faster one that still gives its answers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qcompiler.compiler import Result, compile
    from qcompiler.data import ImageOptions
    from qcompiler.errors import QCompilerError
    from qcompiler.native import register_custom_ops
    from qcompiler.options import Options
    from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics
    from qcompiler.plan import Plan
    from qcompiler.recipe import Recipe
    from qcompiler.report import Report

__all__ = [
    "Diagnostic",
    "ImageOptions",
    "Options",
    "Pass",
    "PassContext",
    "PassResult",
    "Plan",
    "QCompilerError",
    "Recipe",
    "Report",
    "Result",
    "Semantics",
    "compile",
    "register_custom_ops",
]

# Imported when they are first asked for: onnx and ONNX Runtime take most of a second, `qcompiler --help` needs neither.
_HOMES = {
    "compiler": ("Result", "compile"),
    "options": ("Options",),
    "data": ("ImageOptions",),
    "errors": ("QCompilerError",),
    "native": ("register_custom_ops",),
    "pipeline": ("Diagnostic", "Pass", "PassContext", "PassResult", "Semantics"),
    "plan": ("Plan",),
    "recipe": ("Recipe",),
    "report": ("Report",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            found = globals()[name] = getattr(import_module(f"qcompiler.{module}"), name)
            return found
    raise AttributeError(f"module 'qcompiler' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
