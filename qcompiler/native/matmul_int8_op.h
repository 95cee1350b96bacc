// The operator qcompiler::MatMulInt8: Y = A times W (+ bias), with 8-bit weights W [K, N].
//
//   inputs   A            float32 [..., K], quantized to 8 bits while it runs, each row by itself
//            B            int8 [K, N], a constant; W[k, n] = B[k, n] * scales[n]
//            scales       float32 [N], or one for all, a constant
//            bias         float32 [N], optional
//   output   Y            float32 [..., N]
#pragma once

#include <vector>

#include "abi.h"

namespace qcompiler {

const std::vector<const ort::CustomOp*>& matmul_int8_ops();

}  // namespace qcompiler
