"""AIMET's simulation with 8-bit weights and activations, exported as Q/DQ."""

import onnx
from aimet_onnx import QuantizationSimModel, QuantScheme, int8
from feeds import MODEL, OUT, feeds

simulation = QuantizationSimModel(
    onnx.load(MODEL),
    param_type=int8,
    activation_type=int8,
    quant_scheme=QuantScheme.min_max,
    providers=["CPUExecutionProvider"],
)
simulation.compute_encodings(list(feeds()))
onnx.save(simulation.to_onnx_qdq(), OUT)
