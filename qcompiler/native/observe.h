// Counting the elements of a float32 tensor in bins that need no range beforehand.
//
// A bin is a value's upper 16 bits: sign, exponent and 7 bits of mantissa, which is the value truncated to bfloat16.
// So bins are log-linear, 128 to an octave, and the histogram of a union is the sum of the histograms.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qcompiler {

inline constexpr std::size_t kBins = 65536;

// Neighbouring elements are counted in different lanes of a bin: incrementing one counter again and again (a ReLU's
// zeros) would otherwise wait each time for the store before it.
inline constexpr std::size_t kLanes = 2;

// What is no finite number has bins that no finite number has; all NaN share one. -0.0 counts as +0.0.
inline constexpr std::uint32_t kBinPositiveInfinity = 0x7F80;
inline constexpr std::uint32_t kBinNegativeInfinity = 0xFF80;
inline constexpr std::uint32_t kBinNan = 0x7FC0;

// Finite extremes as integers that order as the floats do: see key_to_bits. Empty while smallest > largest.
struct Extremes {
  std::int32_t smallest = INT32_MAX;
  std::int32_t largest = INT32_MIN;
};

// Turns a float's bits into an integer that orders as the floats do, and back: negative floats order backwards.
inline std::uint32_t key_to_bits(std::int32_t key) {
  const auto bits = static_cast<std::uint32_t>(key);
  return key < 0 ? bits ^ 0x7FFFFFFFu : bits;
}

// Adds `count` float32 values, given as their bits, to counts[kBins][kLanes] and to the extremes.
// Integers only: a session that flushes denormals to zero must not change what is seen.
using ObserveFunction = void (*)(const std::uint32_t* bits, std::size_t count, std::uint32_t* counts,
                                 Extremes* extremes);

void observe_scalar(const std::uint32_t* bits, std::size_t count, std::uint32_t* counts, Extremes* extremes);
void observe_avx2(const std::uint32_t* bits, std::size_t count, std::uint32_t* counts, Extremes* extremes);
void observe_avx512vnni(const std::uint32_t* bits, std::size_t count, std::uint32_t* counts, Extremes* extremes);
void observe_neon(const std::uint32_t* bits, std::size_t count, std::uint32_t* counts, Extremes* extremes);

}  // namespace qcompiler
