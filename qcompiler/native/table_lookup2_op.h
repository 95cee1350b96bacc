// The operator qcompiler::TableLookup2: the product of two 8-bit tensors, of which one has one code for each channel of the
// other (squeeze and excite). For each channel the product is a function of one code, so where channels are long it is a
// lookup again, in a table made as it goes.
//
//   inputs   X      uint8 or int8, any shape
//            S      of X's type: of as many axes as X, or fewer, which are then X's last. It is repeated along axes of size 1
//                   that come before all others, and along axes of size 1 that follow one another: [N, C, 1, 1],
//                   [1, C, 1, 1], [N, 1, 1, C], [C]
//            x_scale, x_zero_point, s_scale, s_zero_point, y_scale, y_zero_point   constants, one value each: float32 that
//                   are finite and greater than zero, and codes of X's type
//   output   Y      of X's type and shape: as ONNX Runtime's QLinearMul makes it, but for ties, which its float32 rounds
//                   otherwise
#pragma once

#include <vector>

#include "abi.h"

namespace qcompiler {

// One for each type of X: to ONNX Runtime, one operator.
const std::vector<const ort::CustomOp*>& table_lookup2_ops();

}  // namespace qcompiler
