// The body of observe_<isa>, compiled once an instruction set: each observe_<isa>.cpp names the function and includes
// this. Nothing from the standard library's headers may be instantiated here: the linker would keep one copy of it for
// the whole library, and that copy could be the one with instructions that the processor lacks.

#include "observe.h"

#ifndef QCOMPILER_OBSERVE
#error "define QCOMPILER_OBSERVE as the name of the function"
#endif

namespace qcompiler {
namespace {

inline std::uint32_t without_sign_of_zero(std::uint32_t bits) { return bits == 0x80000000u ? 0u : bits; }

// The inverse of key_to_bits, without a branch.
inline std::int32_t key_of(std::uint32_t bits) {
  return static_cast<std::int32_t>(bits ^ ((0u - (bits >> 31)) & 0x7FFFFFFFu));
}

}  // namespace

void QCOMPILER_OBSERVE(const std::uint32_t* bits, std::size_t count, std::uint32_t* counts, Extremes* extremes) {
  constexpr std::size_t kBlock = 1024;  // it and its bins stay in the first-level cache
  constexpr std::uint32_t kInfinity = 0x7F800000u;
  std::uint16_t bins[kBlock];
  std::int32_t smallest = extremes->smallest;
  std::int32_t largest = extremes->largest;

  for (std::size_t start = 0; start < count; start += kBlock) {
    const std::uint32_t* block = bits + start;
    const std::size_t size = count - start < kBlock ? count - start : kBlock;

    // Two loops without branches, each of a form that compilers turn into vector instructions. They take it that all
    // values are finite, which the extremes then show.
    for (std::size_t i = 0; i < size; ++i) bins[i] = static_cast<std::uint16_t>(without_sign_of_zero(block[i]) >> 16);
    std::int32_t low = INT32_MAX;
    std::int32_t high = INT32_MIN;
    for (std::size_t i = 0; i < size; ++i) {
      const std::int32_t key = key_of(without_sign_of_zero(block[i]));
      low = key < low ? key : low;
      high = key > high ? key : high;
    }
    if (low <= key_of(kInfinity | 0x80000000u) || high >= key_of(kInfinity)) {
      low = INT32_MAX;
      high = INT32_MIN;
      for (std::size_t i = 0; i < size; ++i) {
        const std::uint32_t value = without_sign_of_zero(block[i]);
        const std::uint32_t magnitude = value & 0x7FFFFFFFu;
        if (magnitude > kInfinity) bins[i] = static_cast<std::uint16_t>(kBinNan);
        if (magnitude >= kInfinity) continue;
        const std::int32_t key = key_of(value);
        low = key < low ? key : low;
        high = key > high ? key : high;
      }
    }
    smallest = low < smallest ? low : smallest;
    largest = high > largest ? high : largest;

    static_assert(kLanes == 2, "below, even elements go to lane 0 and odd ones to lane 1");
    std::size_t i = 0;
    for (; i + 16 <= size; i += 16) {
      // The next block comes in meanwhile: counting reads no memory that the processor would see coming.
      __builtin_prefetch(block + kBlock + i);
      for (std::size_t j = i; j < i + 16; j += 4) {
        std::uint64_t four;  // one load for four bins; which of them comes first does not matter
        __builtin_memcpy(&four, bins + j, sizeof four);
        ++counts[(four & 0xFFFFu) * kLanes];
        ++counts[(four >> 16 & 0xFFFFu) * kLanes + 1];
        ++counts[(four >> 32 & 0xFFFFu) * kLanes];
        ++counts[(four >> 48) * kLanes + 1];
      }
    }
    for (; i < size; ++i) ++counts[bins[i] * kLanes];
  }
  extremes->smallest = smallest;
  extremes->largest = largest;
}

}  // namespace qcompiler
