#include "depthwise_weights.h"

#include <algorithm>
#include <cstring>

namespace qcompiler {
namespace {

// With as many output rows at a time as the same groups of rows serve.
DepthwiseFilter filter_of(const DepthwiseNode& node, const ConvAxis& down, const ConvAxis& across, bool kernel_is_signed) {
  const std::uint8_t sign = node.codes_are_signed ? 0x80 : 0;
  DepthwiseFilter filter{};
  filter.down = down;
  filter.across = across;
  filter.flip = node.codes_are_signed == kernel_is_signed ? 0 : 0x80;
  filter.pad_code = static_cast<std::uint8_t>(node.x_zero_point);
  filter.y_flip = sign;
  filter.y_zero_point = static_cast<std::uint8_t>(node.y_zero_point) ^ sign;
  filter.together = 2;
  const std::size_t groups = filter.groups();
  filter.together = 1;
  if (down.dilation == 1 && groups == filter.groups()) filter.together = 2;
  return filter;
}

// Blocks as wide as can be, the last one over channels of the one before it where too few are left.
std::vector<DepthwiseBlock> blocks_of(std::size_t channels, std::size_t widest) {
  std::vector<DepthwiseBlock> blocks;
  for (std::size_t first = 0; first < channels;) {
    const std::size_t left = channels - first;
    std::size_t width = widest;
    while (width > kDepthwiseNarrowest && left <= width * 3 / 4) width /= 2;
    const std::size_t begin = left < width && channels >= width ? channels - width : first;
    blocks.push_back({nullptr, begin, width, std::min(width, channels - begin)});
    first = begin + width;
  }
  return blocks;
}

}  // namespace

DepthwiseWeights::DepthwiseWeights(const DepthwiseNode& node, bool upright, const DepthwiseKernels& kernels,
                                   const std::int8_t* weights, const float* multipliers, const std::int32_t* bias)
    : upright_(upright),
      filter_(filter_of(node, upright ? node.height : node.width, upright ? node.width : node.height, kernels.signed_codes)),
      blocks_(blocks_of(node.channels, kernels.widest)) {
  std::size_t size = 0;
  for (const DepthwiseBlock& block : blocks_) size += filter_.block_bytes(block.width);
  memory_ = packed_memory(size);
  std::memset(memory_.get(), 0, size);
  std::uint8_t* to = memory_.get();
  // What the kernel's dot products take zero for.
  const auto flipped = static_cast<std::uint8_t>(filter_.pad_code ^ filter_.flip);
  const std::int32_t zero = kernels.signed_codes ? static_cast<std::int8_t>(flipped) : flipped;
  for (DepthwiseBlock& block : blocks_) {
    block.packed = to;
    for (std::size_t place = 0; place < block.width; ++place) {
      const std::size_t channel = block.first + woven_channel(block.width, place);
      if (channel >= block.first + block.count) continue;
      const std::int8_t* const of_channel = weights + channel * node.height.taps * node.width.taps;
      std::int32_t sum = 0;
      for (std::size_t down = 0; down < filter_.down.taps; ++down) {
        for (std::size_t across = 0; across < filter_.across.taps; ++across) {
          const std::int8_t weight =
              of_channel[upright_ ? down * node.width.taps + across : across * node.width.taps + down];
          sum += weight;
          for (std::size_t r = 0; r < filter_.together; ++r) {
            const std::size_t row = r * filter_.down.stride + down;
            const std::size_t tap = r * filter_.taps() + across * filter_.groups() + row / kWovenRows;
            to[block.width * 8 + (tap * block.width + place) * kWovenRows + row % kWovenRows] =
                static_cast<std::uint8_t>(weight);
          }
        }
      }
      const std::int32_t start = (bias == nullptr ? 0 : bias[channel]) - zero * sum;
      std::memcpy(to + place * 4, multipliers + channel, 4);
      std::memcpy(to + (block.width + place) * 4, &start, 4);
    }
    to += filter_.block_bytes(block.width);
  }
}

}  // namespace qcompiler
