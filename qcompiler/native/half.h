// float16 to float32 and back, bit for bit, in integers: a session that flushes denormals to zero changes nothing.
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

// Rounds to nearest, ties to even; what is too large becomes an infinity, a NaN stays one.
inline std::uint16_t float_bits_to_half(std::uint32_t bits) {
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<std::uint16_t>(sign | 0x7E00u);
  if (magnitude >= 0x477FF000u) return static_cast<std::uint16_t>(sign | 0x7C00u);  // 65520 and above
  std::uint32_t result, rest, half_way;
  if (magnitude >= 0x38800000u) {  // normal in float16: 2^-14 and above
    result = (magnitude - 0x38000000u) >> 13;
    rest = magnitude & 0x1FFFu;
    half_way = 0x1000u;
  } else if (magnitude < 0x33000000u) {  // below half of the smallest denormal
    return static_cast<std::uint16_t>(sign);
  } else {
    const std::uint32_t mantissa = (magnitude & 0x7FFFFFu) | 0x800000u;
    const std::uint32_t shift = 126u - (magnitude >> 23);  // 14 for 2^-15 ... 24 for 2^-25
    result = mantissa >> shift;
    half_way = 1u << (shift - 1);
    rest = mantissa & ((1u << shift) - 1);
  }
  if (rest > half_way || (rest == half_way && (result & 1u) != 0)) ++result;  // may carry into the exponent, rightly
  return static_cast<std::uint16_t>(sign | result);
}

}  // namespace qcompiler
