// The operator qcompiler::MatMulInt4: Y = A times W (+ bias), with 4-bit weights W [K, N].
//
//   inputs   A            float32 or float16 [..., K]
//            B, scales, zero_points   W, see int4_node.h
//            bias         optional, of A's type [N]
//   output   Y            of A's type [..., N]
//   attributes  K, N, block_size, see int4_node.h
//               activations (string): "int8" (default), A quantized to 8 bits, a row and a block at a time, or "float"
#pragma once

#include <vector>

#include "abi.h"

namespace qcompiler {

// One for each combination of the types of A and of the scales: to ONNX Runtime, one operator.
const std::vector<const ort::CustomOp*>& matmul_int4_ops();

}  // namespace qcompiler
