"""Compiles an ONNX model into a faster one that still gives its answers."""

from qcompiler.compiler import Options, Result, compile
from qcompiler.data import ImageOptions
from qcompiler.errors import QCompilerError
from qcompiler.native import register_custom_ops
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
