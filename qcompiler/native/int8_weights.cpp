#include "int8_weights.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace qcompiler {

Int8Weights::Int8Weights(const std::int8_t* weights, const float* scales, std::size_t depth, std::size_t columns)
    : matrix_{nullptr, depth, columns, true} {
  const std::size_t size = matrix_.panel_count() * matrix_.panel_bytes();
  memory_ = packed_memory(size);
  std::memset(memory_.get(), 0, size);
  for (std::size_t panel = 0; panel < matrix_.panel_count(); ++panel) {
    std::uint8_t* out = memory_.get() + panel * matrix_.panel_bytes();
    const std::size_t first = panel * kInt8Columns, count = std::min(kInt8Columns, columns - first);
    std::memcpy(out, scales + first, count * sizeof(float));
    std::int32_t sums[kInt8Columns] = {};
    for (std::size_t k = 0; k < depth; ++k) {
      std::uint8_t* to = out + kInt8Header + k / 4 * kInt8Group + k % 4;
      const std::int8_t* from = weights + k * columns + first;
      const std::int8_t* before = k % 2 == 1 ? from - columns : from;
      for (std::size_t c = 0; c < count; ++c) {
        to[c * 4] = static_cast<std::uint8_t>(from[c]);
        sums[c] += from[c];
        if (k % 2 == 1) matrix_.paired &= std::abs(from[c]) + std::abs(before[c]) <= kInt8LargestPair;
      }
    }
    std::memcpy(out + kInt8Columns * sizeof(float), sums, sizeof sums);
  }
  matrix_.panels = memory_.get();
}

}  // namespace qcompiler
