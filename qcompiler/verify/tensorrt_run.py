"""Runs a model on this machine's own GPU: ``python -m qcompiler.verify.tensorrt_run``, a process as the builder's is.

The engine is built for the GPU that is there. Memory is moved by CUDA's driver interface, so that nothing but the
driver is needed beside TensorRT-RTX.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from qcompiler.verify.tensorrt_builder import package, parsed, profiled

DRIVERS = ("libcuda.so.1", "nvcuda.dll")
WARMING = 5
MEASURED = 20


class Cuda:
    """The few calls of CUDA's driver interface that a run needs. Raises OSError where there is no driver or GPU."""

    def __init__(self) -> None:
        for name in DRIVERS:
            try:
                self.driver = ctypes.CDLL(name)
                break
            except OSError:
                continue
        else:
            raise OSError("there is no NVIDIA driver on this machine")
        count, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGetCount", ctypes.byref(count))
        if count.value == 0:
            raise OSError("there is no GPU in this machine")
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.driver, name)(*arguments)
        if status != 0:
            raise OSError(f"{name} failed with CUDA error {status}")

    def allocated(self, size: int) -> int:
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address.value

    def upload(self, address: int, array: np.ndarray) -> None:
        source = array.ctypes.data_as(ctypes.c_void_p)
        self.call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), source, ctypes.c_size_t(array.nbytes))

    def download(self, array: np.ndarray, address: int) -> None:
        result = array.ctypes.data_as(ctypes.c_void_p)
        self.call("cuMemcpyDtoH_v2", result, ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes))

    def wait(self) -> None:
        self.call("cuCtxSynchronize")


def ran(request: dict[str, Any]) -> dict[str, Any]:
    """The outputs of each feed go into ``outputs``, an ``.npz`` with ``INDEX/NAME``; answers with seconds a run."""
    try:
        cuda = Cuda()
        trt = package()
    except (OSError, ImportError) as error:
        return {"error": "missing", "message": str(error)}
    logger = trt.Logger(trt.Logger.ERROR)
    builder, network, refused = parsed(trt, logger, request["model"])
    if refused:
        return {"error": "parse", "refused": refused}
    config = builder.create_builder_config()
    config.add_optimization_profile(profiled(builder, network, request))
    engine = trt.Runtime(logger).deserialize_cuda_engine(builder.build_serialized_network(network, config))
    context = engine.create_execution_context()
    with np.load(request["feeds"]) as stored:
        feeds = [{name: stored[f"{i}/{name}"] for name in request["inputs"]} for i in range(request["count"])]
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found: dict[str, np.ndarray] = {}
    times: list[float] = []
    for index, feed in enumerate(feeds):
        for name, array in feed.items():
            context.set_input_shape(name, array.shape)
            address = cuda.allocated(array.nbytes)
            cuda.upload(address, np.ascontiguousarray(array))
            context.set_tensor_address(name, address)
        outputs = {}
        for name in (name for name in names if name not in feed):
            shape, kind = tuple(context.get_tensor_shape(name)), trt.nptype(engine.get_tensor_dtype(name))
            outputs[name] = np.empty(shape, kind), cuda.allocated(int(np.prod(shape)) * np.dtype(kind).itemsize)
            context.set_tensor_address(name, outputs[name][1])
        for turn in range(WARMING + MEASURED if index == 0 else 1):
            start = time.perf_counter()
            context.execute_async_v3(0)
            cuda.wait()
            if turn >= WARMING:
                times.append(time.perf_counter() - start)
        for name, (array, address) in outputs.items():
            cuda.download(array, address)
            found[f"{index}/{name}"] = array
    np.savez(request["outputs"], **found)  # type: ignore[arg-type]
    return {"seconds": float(np.median(times))}


def main() -> None:
    request = json.load(sys.stdin)
    Path(request["answer"]).write_text(json.dumps(ran(request)))


if __name__ == "__main__":
    main()
