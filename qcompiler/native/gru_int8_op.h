// The operator qcompiler::GRUInt8: ONNX's GRU with 8-bit weights, D directions of H units.
//
//   inputs   X               float32 [steps, batch, I], quantized to 8 bits while it runs, each row by itself
//            W               int8 [D, I, 3H], a constant; gates z, r, h; the weight is W * w_scales
//            w_scales        float32 [D, 3H], a constant
//            R               int8 [D, H, 3H], a constant; so is what it multiplies, the state
//            r_scales        float32 [D, 3H], a constant
//            B               float32 [D, 6H], a constant, optional: of W and then of R
//            sequence_lens   int32 [batch], optional
//            initial_h       float32 [D, batch, H], optional
//   outputs  Y               float32 [steps, D, batch, H]
//            Y_h             float32 [D, batch, H]
//   attributes  direction            forward (default), reverse or bidirectional
//               linear_before_reset  as of ONNX's GRU, 0 by default
#pragma once

#include <vector>

#include "abi.h"

namespace qcompiler {

const std::vector<const ort::CustomOp*>& gru_int8_ops();

}  // namespace qcompiler
