// float16 to float32, bit for bit, in integers: a session that flushes denormals to zero changes nothing.
#pragma once

#include <cstdint>

namespace qcompiler {

// Layouts: IEEE 754 binary16 (1, 5, 10 bits; bias 15) and binary32 (1, 8, 23 bits; bias 127).
inline std::uint32_t half_to_float_bits(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = half >> 10 & 0x1Fu;
  std::uint32_t mantissa = half & 0x3FFu;
  if (exponent == 0x1F) return sign | 0x7F800000u | mantissa << 13;          // infinity, NaN
  if (exponent != 0) return sign | (exponent + 112u) << 23 | mantissa << 13;  // 112 = 127 - 15
  if (mantissa == 0) return sign;
  std::uint32_t shifted = 113;  // a denormal is a normal float32: shift its leading one into place
  while ((mantissa & 0x400u) == 0) {
    mantissa <<= 1;
    --shifted;
  }
  return sign | shifted << 23 | (mantissa & 0x3FFu) << 13;
}

}  // namespace qcompiler
