// The operator qcompiler::TableLookup: any function of one 8-bit tensor, as a table of what it gives for each code.
//
//   inputs   X      uint8 or int8, any shape
//            table  uint8, int8 or float32; [256], or [C, 256]: one table for each channel. Entry i is for the code whose
//                   byte is i, so that of int8 codes -1 is the last one. Constant or not
//   output   Y      of the table's type and of X's shape
//   attribute  axis, int, 1 where left out: the axis of X, which has the size C, along which the channels lie. A negative
//              one counts from the end. Where there is one table only, it means nothing
#pragma once

#include <vector>

#include "abi.h"

namespace qcompiler {

// One for each combination of the types of X and table: to ONNX Runtime, one operator.
const std::vector<const ort::CustomOp*>& table_lookup_ops();

}  // namespace qcompiler
