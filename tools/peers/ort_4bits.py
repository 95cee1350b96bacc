"""ONNX Runtime's MatMulNBitsQuantizer, blocks of 32, accuracy level 4: MODEL CALIB OUT METHOD.

METHOD is symmetric or asymmetric (its default algorithm, round to nearest) or hqq. Embeddings are quantized too where
the method can; only constants are, so its pre-processing folds the transposed weights of a tied head into one. Its two
other algorithms, RTN and k-quant of neural_compressor, fail where a weight has an odd number of blocks, as here.
"""

import sys

import onnx
from feeds import OUT
from onnxruntime.quantization import matmul_nbits_quantizer as nbits
from ort_prepared import prepared

BLOCK, LEVEL = 32, 4
WITH_EMBEDDING = ("MatMul", "Gather")
AXES = (("MatMul", 0), ("Gather", 1))


def configuration(method: str) -> nbits.WeightOnlyQuantConfig:
    if method == "hqq":
        return nbits.HQQWeightOnlyQuantConfig(block_size=BLOCK)
    return nbits.DefaultWeightOnlyQuantConfig(
        block_size=BLOCK,
        is_symmetric=method == "symmetric",
        accuracy_level=LEVEL,
        op_types_to_quantize=WITH_EMBEDDING,
        quant_axes=AXES,
    )


with prepared() as model:
    quantizer = nbits.MatMulNBitsQuantizer(
        onnx.load(model), BLOCK, accuracy_level=LEVEL, algo_config=configuration(sys.argv[4])
    )
    quantizer.process()
    quantizer.model.save_model_to_file(OUT)
