"""AIMET's cross-layer equalization, then AdaRound: 8-bit weights (per channel) and activations."""

import onnx
from aimet_onnx import QuantizationSimModel, apply_adaround, int8
from aimet_onnx.common.quantsim_config.config_utils import get_path_for_target_config
from aimet_onnx.cross_layer_equalization import equalize_model
from feeds import MODEL, OUT, feeds

ITERATIONS = 500
"""Of AdaRound, a layer. Its documentation says 10,000 for 8 bits: hours on a CPU."""

model = onnx.load(MODEL)
equalize_model(model)
samples = list(feeds())
simulation = QuantizationSimModel(
    model,
    param_type=int8,
    activation_type=int8,
    config_file=get_path_for_target_config("default_config_per_channel"),
    providers=["CPUExecutionProvider"],
)
apply_adaround(simulation, samples, ITERATIONS)
simulation.compute_encodings(samples)
onnx.save(simulation.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True), OUT)
