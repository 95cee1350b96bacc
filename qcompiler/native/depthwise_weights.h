// Filters of one channel each as a model has them, packed as the kernels of depthwise.h want them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "depthwise.h"
#include "packed_memory.h"

namespace qcompiler {

// What a convolution is, but for its weights. Zero points are those of X's and Y's own type.
struct DepthwiseNode {
  std::size_t channels;
  ConvAxis height, width;
  bool codes_are_signed;
  std::int32_t x_zero_point, y_zero_point;
};

class DepthwiseWeights {
 public:
  // `weights` [channels, height.taps, width.taps], `multipliers` [channels], `bias` [channels] or null. `upright`: whether
  // the height is the axis that is woven.
  DepthwiseWeights(const DepthwiseNode& node, bool upright, const DepthwiseKernels& kernels, const std::int8_t* weights,
                   const float* multipliers, const std::int32_t* bias);

  const DepthwiseFilter& filter() const { return filter_; }
  const std::vector<DepthwiseBlock>& blocks() const { return blocks_; }
  bool upright() const { return upright_; }

 private:
  bool upright_;
  DepthwiseFilter filter_{};
  std::vector<DepthwiseBlock> blocks_;
  PackedMemory memory_;
};

}  // namespace qcompiler
