// The definition of the kernel of depthwise.h, one value at a time, and nothing woven. Every instruction set is held against
// it.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "depthwise.h"

namespace qcompiler {
namespace {

// The code of X, as the weights meet it, at a place that may be outside of the image.
int code_at(const DepthwiseFilter& filter, const DepthwiseImage& image, std::size_t row, std::size_t column,
            std::size_t channel) {
  const std::size_t down = row - filter.down.pad, across = column - filter.across.pad;  // huge where they are less
  const bool inside = down < image.rows && across < image.columns;
  const std::uint8_t code = inside ? image.x[down * image.x_row + across * image.x_column + channel] : filter.pad_code;
  return code ^ filter.flip;
}

void convolve(const DepthwiseFilter& filter, const DepthwiseBlock& block, const DepthwiseImage& image, std::size_t row,
              std::size_t rows, std::uint8_t*) {
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t column = 0; column < image.y_columns; ++column) {
      for (std::size_t place = 0; place < block.width; ++place) {
        const std::size_t channel = woven_channel(block.width, place);
        if (channel >= block.count) continue;
        float multiplier;
        std::int32_t sum;
        std::memcpy(&multiplier, block.packed + place * 4, 4);
        std::memcpy(&sum, block.packed + (block.width + place) * 4, 4);
        const std::uint8_t* weights = block.packed + block.width * 8 + place * kWovenRows;
        weights += r * filter.taps() * kWovenRows * block.width;
        for (std::size_t tap = 0; tap < filter.across.taps; ++tap) {
          for (std::size_t index = 0; index < filter.groups() * kWovenRows; ++index) {
            const std::size_t group = tap * filter.groups() + index / kWovenRows;
            std::int8_t weight;
            std::memcpy(&weight, weights + group * kWovenRows * block.width + index % kWovenRows, 1);
            sum += weight * code_at(filter, image, row * filter.down.stride + index * filter.down.dilation,
                                    column * filter.across.stride + tap * filter.across.dilation, block.first + channel);
          }
        }
        const float rounded = std::nearbyint(static_cast<float>(sum) * multiplier) + static_cast<float>(filter.y_zero_point);
        const auto code = static_cast<std::uint8_t>(std::clamp(rounded, 0.0f, 255.0f));
        image.y[(row + r) * image.y_row + column * image.y_column + block.first + channel] = code ^ filter.y_flip;
      }
    }
  }
}

}  // namespace

const DepthwiseKernels depthwise_scalar = {kDepthwiseNarrowest, false, convolve};

}  // namespace qcompiler
