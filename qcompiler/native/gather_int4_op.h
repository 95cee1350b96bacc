// The operator qcompiler::GatherInt4: rows of a table of 4-bit weights as floats. The table has the layout of
// MatMulInt4's weights [K, N], so that an embedding and the product that is tied to it can name the same initializers:
// row i of the embedding is column i of the product.
//
//   inputs   indices      int32 or int64, any shape; from -N to N - 1
//            B, scales, zero_points   see int4_node.h
//   output   Y            of the scales' type, indices' shape and K
//   attributes  K, N, block_size, see int4_node.h
#pragma once

#include <vector>

#include "abi.h"

namespace qcompiler {

// One for each combination of the types of the indices and of the scales: to ONNX Runtime, one operator.
const std::vector<const ort::CustomOp*>& gather_int4_ops();

}  // namespace qcompiler
