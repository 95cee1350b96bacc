// The operator qcompiler::Observe: counts its input's elements in a slot of a table.
//
//   input   X  float32 or float16, any shape
//   output  Y  int64 [1], the number of X's elements. Make it a graph output: ONNX Runtime drops a node nobody needs.
//   attributes  table (int, the number of a table), slot (int)
#pragma once

#include "abi.h"

namespace qcompiler {

const ort::CustomOp& observe_op();

}  // namespace qcompiler
