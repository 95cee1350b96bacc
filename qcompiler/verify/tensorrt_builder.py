"""The process that TensorRT-RTX's ahead-of-time builder runs in: ``python -m qcompiler.verify.tensorrt_builder``.

Reads a request from standard input and writes the answer into the file that it names, both JSON. A process of its own
gives the builder's memory back, can be stopped, and survives whatever the builder does.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any


def package() -> Any:
    """TensorRT-RTX. Raises ImportError where it is not installed."""
    import tensorrt_rtx

    return tensorrt_rtx


def parsed(trt: Any, logger: Any, model: str) -> tuple[Any, Any, list[dict[str, str]]]:
    """(builder, network, what the parser refuses)."""
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(model):
        return builder, network, []
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return builder, network, [
        {"node": error.node_name(), "operator": error.node_operator(), "message": error.desc()} for error in errors
    ]  # fmt: skip


def profiled(builder: Any, network: Any, request: dict[str, Any]) -> Any:
    """The shapes, and values of inputs that hold shapes, that the engine is to take."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor and tensor.name in request["values"]:
            profile.set_shape_input(tensor.name, *request["values"][tensor.name])
        elif -1 in tuple(tensor.shape):
            profile.set_shape(tensor.name, *request["shapes"][tensor.name])
    return profile


def configured(trt: Any, builder: Any, network: Any, request: dict[str, Any]) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, request["gpu"].upper()), 0)
    config.add_optimization_profile(profiled(builder, network, request))
    return config


def built(request: dict[str, Any]) -> dict[str, Any]:
    """``error`` says which step failed: ``missing``, ``gpu``, ``parse`` or ``build``."""
    try:
        trt = package()
    except ImportError as error:
        return {"error": "missing", "message": str(error)}
    messages: list[tuple[str, str]] = []

    class Logger(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            messages.append((severity.name, message))

    answer: dict[str, Any] = {"version": trt.__version__}
    known = [name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    if request["gpu"] not in known:
        return {**answer, "error": "gpu", "known": known}
    builder, network, refused = parsed(trt, Logger(), request["model"])
    if refused:
        return {**answer, "error": "parse", "refused": refused}
    start = time.perf_counter()
    engine = builder.build_serialized_network(network, configured(trt, builder, network, request))
    answer["seconds"] = time.perf_counter() - start
    if engine is None:
        return {**answer, "error": "build", "messages": [m for severity, m in messages if "ERROR" in severity]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**answer, "bytes": engine.nbytes, "peak_bytes": peak, "log": [text for _, text in messages]}


def main() -> None:
    request = json.load(sys.stdin)
    Path(request["answer"]).write_text(json.dumps(built(request)))


if __name__ == "__main__":
    main()
