// The operator qcompiler::DepthwiseConvInt8: a convolution with one filter a channel, of 8-bit codes whose channels are last.
//
//   inputs   X             uint8 or int8 [N, H, W, C]
//            x_scale       float32, one value
//            x_zero_point  of X's type, one value
//            W             int8 [C, 1, kH, kW]; its zero point is 0
//            w_scale       float32 [C], or one for all
//            y_scale       float32, one value
//            y_zero_point  of X's type, one value
//            B             int32 [C], or left out: a bias of the scale x_scale * w_scale
//            all but X constants of the model
//   output   Y             of X's type, [N, H', W', C]
//   attributes  strides, pads, dilations, ints: as ONNX's Conv has them
#pragma once

#include <vector>

#include "abi.h"

namespace qcompiler {

// One for each type of codes: to ONNX Runtime, one operator.
const std::vector<const ort::CustomOp*>& depthwise_conv_ops();

}  // namespace qcompiler
