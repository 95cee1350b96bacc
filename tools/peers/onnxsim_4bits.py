"""onnxsim's 4-bit weights in blocks of 32: MODEL CALIB OUT METHOD.

METHOD is rtn (quantize_weight_only_int4), gptq (its codes rounded anew on the samples) or hqq. Only constants are
quantized, so its own simplification folds the transposed weights of a tied head into one.
"""

import sys

import onnx
import onnxsim
from feeds import MODEL, OUT, feeds

method = sys.argv[4]
model, sound = onnxsim.simplify(onnx.load(MODEL))
if not sound:
    sys.exit("the simplified model computes something else")
if method == "hqq":
    quantized = onnxsim.quantize_weight_only_int4_hqq(model)
else:
    quantized = onnxsim.quantize_weight_only_int4(model)
    if method == "gptq":
        quantized = onnxsim.apply_gptq(model, quantized, calibration_data=list(feeds()))
onnx.save(quantized, OUT)
