"""AIMET's simulation with 8-bit weights (per channel) and activations, exported as Q/DQ with integer constants."""

import onnx
from aimet_onnx import QuantizationSimModel, int8
from aimet_onnx.common.quantsim_config.config_utils import get_path_for_target_config
from feeds import MODEL, OUT, feeds

simulation = QuantizationSimModel(
    onnx.load(MODEL),
    param_type=int8,
    activation_type=int8,
    config_file=get_path_for_target_config("default_config_per_channel"),
    providers=["CPUExecutionProvider"],
)
simulation.compute_encodings(feeds())
onnx.save(simulation.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True), OUT)
