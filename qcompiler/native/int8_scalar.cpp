// The definition of the kernels of int8.h, one value at a time. Every instruction set is held against it.

#include <cmath>
#include <cstring>

#include "int8.h"

namespace qcompiler {
namespace {

Int8Row quantize_row(const Int8Matrix& matrix, const float* values, std::uint8_t* codes) {
  float smallest = values[0], largest = values[0];
  bool finite = true;
  for (std::size_t k = 0; k < matrix.depth; ++k) {
    finite = finite && std::isfinite(values[k]);
    smallest = std::fmin(smallest, values[k]);
    largest = std::fmax(largest, values[k]);
  }
  const float range = largest - smallest;
  const bool nothing = !finite || !std::isfinite(range) || range < kInt8SmallestRange;
  const float inverse = nothing ? 0.0f : 255.0f / range;
  for (std::size_t k = 0; k < matrix.groups() * 4; ++k) {
    const bool zero = nothing || k >= matrix.depth;
    codes[k] = static_cast<std::uint8_t>(zero ? 0.0f : std::nearbyint((values[k] - smallest) * inverse));
  }
  if (!finite || !std::isfinite(range)) return {NAN, NAN};
  return {nothing ? 0.0f : range / 255.0f, smallest};
}

void multiply(const Int8Matrix& matrix, const std::uint8_t* panel, const std::uint8_t* codes, const Int8Row* scales,
              std::size_t rows, const float* bias, std::size_t columns, float* out, std::size_t stride) {
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t column = 0; column < columns; ++column) {
      float scale;
      std::int32_t sum, dot = 0;
      std::memcpy(&scale, panel + column * 4, 4);
      std::memcpy(&sum, panel + (kInt8Columns + column) * 4, 4);
      for (std::size_t k = 0; k < matrix.depth; ++k) {
        std::int8_t weight;
        std::memcpy(&weight, panel + kInt8Header + k / 4 * kInt8Group + column * 4 + k % 4, 1);
        dot += weight * codes[row * matrix.row_bytes() + k];
      }
      const float product = static_cast<float>(dot) * scales[row].scale + static_cast<float>(sum) * scales[row].offset;
      out[row * stride + column] = product * scale + (bias == nullptr ? 0.0f : bias[column]);
    }
  }
}

}  // namespace

const Int8Kernels int8_scalar = {4, quantize_row, multiply};

}  // namespace qcompiler
