// The definition of the kernels of int4.h, one value at a time. Every instruction set is held against it.

#include <cmath>
#include <cstring>

#include "half.h"
#include "int4.h"

namespace qcompiler {
namespace {

float float_at(const std::uint8_t* memory, std::size_t index) {
  float value;
  std::memcpy(&value, memory + index * sizeof value, sizeof value);
  return value;
}

std::int32_t int32_at(const std::uint8_t* memory, std::size_t index) {
  std::int32_t value;
  std::memcpy(&value, memory + index * sizeof value, sizeof value);
  return value;
}

float half_at(const std::uint8_t* memory, std::size_t index) {
  std::uint16_t half;
  std::memcpy(&half, memory + index * sizeof half, sizeof half);
  const std::uint32_t bits = half_to_float_bits(half);
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// One column of one block of a panel.
class Column {
 public:
  Column(const Int4Matrix& matrix, const std::uint8_t* block, std::size_t column)
      : scale(matrix.half_scales ? half_at(block, column) : float_at(block, column)) {
    const std::uint8_t* after_scales = block + matrix.scale_bytes();
    if (matrix.zero_points) {
      std::int16_t value;
      std::memcpy(&value, after_scales + column * sizeof value, sizeof value);
      zero_point = value;
    }
    weights_ = after_scales + matrix.zero_point_bytes() + column * 4;
  }

  int weight(std::size_t k) const {
    const std::uint8_t byte = weights_[k / 8 * kGroupBytes + k % 4];
    return k % 8 < 4 ? byte & 15 : byte >> 4;
  }

  float scale;
  int zero_point = 8;

 private:
  const std::uint8_t* weights_;
};

void quantize_row(const Int4Matrix& matrix, const float* values, std::uint8_t* packed) {
  for (std::size_t block = 0; block < matrix.blocks; ++block) {
    const auto value = [&](std::size_t k) {
      const std::size_t at = block * matrix.block + k;
      return at < matrix.depth ? values[at] : 0.0f;
    };
    float smallest = 0, largest = 0;
    bool finite = true;
    for (std::size_t k = 0; k < matrix.block; ++k) {
      finite = finite && std::isfinite(value(k));
      smallest = std::fmin(smallest, value(k));
      largest = std::fmax(largest, value(k));
    }
    const float magnitude = std::fmax(largest, -smallest);
    const float other = std::fmin(largest, -smallest);
    const bool nothing = !finite || magnitude < kSmallestMagnitude;
    // There is a -128 but no 128: the whole range serves where only one end needs it.
    const float steps = other * 128.0f > magnitude * 127.5f ? 127.0f : 128.0f, sign = largest > -smallest ? -1.0f : 1.0f;
    const float scale = !finite ? NAN : nothing ? 0.0f : sign * magnitude * (1.0f / steps);
    const float inverse = nothing ? 0.0f : sign * steps / magnitude;
    std::int32_t sum = 0;
    for (std::size_t k = 0; k < matrix.block; ++k) {
      const auto quantized = static_cast<std::int8_t>(nothing ? 0.0f : std::nearbyint(value(k) * inverse));
      packed[kRowHeader + k] = static_cast<std::uint8_t>(quantized);
      sum += quantized;
    }
    sum *= matrix.zero_points ? -1 : -8;
    std::memcpy(packed, &scale, 4);
    std::memcpy(packed + 4, &sum, 4);
    packed += kRowHeader + matrix.block;
  }
}

void multiply_quantized(const Int4Matrix& matrix, const std::uint8_t* panel, const std::uint8_t* packed,
                        std::size_t rows, const float* bias, std::size_t columns, float* out, std::size_t stride) {
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t column = 0; column < columns; ++column) {
      float total = 0;
      for (std::size_t block = 0; block < matrix.blocks; ++block) {
        const std::uint8_t* values = packed + row * matrix.quantized_row_bytes() + block * (kRowHeader + matrix.block);
        const Column weights(matrix, panel + block * matrix.block_bytes, column);
        std::int32_t dot = int32_at(values, 1) * (matrix.zero_points ? weights.zero_point : 1);
        for (std::size_t k = 0; k < matrix.block; ++k) {
          dot += weights.weight(k) * static_cast<std::int8_t>(values[kRowHeader + k]);
        }
        total += static_cast<float>(dot) * (weights.scale * float_at(values, 0));
      }
      out[row * stride + column] = total + (bias == nullptr ? 0.0f : bias[column]);
    }
  }
}

void multiply_float(const Int4Matrix& matrix, const std::uint8_t* panel, const std::uint8_t* packed, std::size_t rows,
                    const float* bias, std::size_t columns, float* out, std::size_t stride) {
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t column = 0; column < columns; ++column) {
      float total = 0;
      for (std::size_t block = 0; block < matrix.blocks; ++block) {
        const std::uint8_t* values = packed + row * matrix.float_row_bytes() + block * matrix.block * 4;
        const Column weights(matrix, panel + block * matrix.block_bytes, column);
        float dot = 0;
        for (std::size_t k = 0; k < matrix.block; ++k) {
          dot += static_cast<float>(weights.weight(k) - weights.zero_point) * float_at(values, k);
        }
        total += dot * weights.scale;
      }
      out[row * stride + column] = total + (bias == nullptr ? 0.0f : bias[column]);
    }
  }
}

void from_half(const std::uint16_t* halves, std::size_t count, float* floats) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t bits = half_to_float_bits(halves[i]);
    std::memcpy(floats + i, &bits, sizeof bits);
  }
}

void to_half(const float* floats, std::size_t count, std::uint16_t* halves) {
  for (std::size_t i = 0; i < count; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, floats + i, sizeof bits);
    halves[i] = float_bits_to_half(bits);
  }
}

}  // namespace

const Int4Kernels int4_scalar = {4, quantize_row, multiply_quantized, multiply_float, from_half, to_half};

}  // namespace qcompiler
