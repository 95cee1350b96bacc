"""onnxsim's own ways to accuracy for INT8: cross-layer equalization, quantize_static with ranges of least mean squared
error, and empirical bias correction. Its apply_optimization_pipeline quantizes weights only, most of them in 4 bits."""

import onnx
import onnxsim
from feeds import MODEL, OUT, feeds

samples = list(feeds())
model, sound = onnxsim.simplify(onnx.load(MODEL))
model = onnxsim.cross_layer_equalize(model if sound else onnx.load(MODEL))
quantized = onnxsim.quantize_static(model, calibration_data=samples, method="mse")
onnx.save(onnxsim.correct_bias(model, quantized, calibration_data=samples), OUT)
