"""ONNX Runtime's quantize_static with SmoothQuant, which is neural-compressor's: Q/DQ, u8 activations, s8 weights."""

from feeds import OUT, feeds
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from ort_prepared import prepared, reduced_range
from reader import Reader


class Copyable(Reader):
    """neural-compressor copies the reader, which a generator does not allow."""

    def rewind(self) -> None:
        self.remaining = iter(list(feeds()))


with prepared() as model:
    quantize_static(
        model,
        OUT,
        Copyable(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=reduced_range(),
        extra_options={"SmoothQuant": True},
    )
