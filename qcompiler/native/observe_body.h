// The body of observe_<isa>, compiled once an instruction set: each observe_<isa>.cpp names the function and includes
// this. Nothing from the standard library's headers may be instantiated here: the linker would keep one copy of it for
// the whole library, and that copy could be the one with instructions that the processor lacks.

#include "observe.h"

#ifndef QCOMPILER_OBSERVE
#error "define QCOMPILER_OBSERVE as the name of the function"
#endif

namespace qcompiler {

void QCOMPILER_OBSERVE(const std::uint32_t* bits, std::size_t count, std::uint32_t* counts, Extremes* extremes) {
  constexpr std::size_t kBlock = 1024;  // both buffers stay in the first-level cache
  std::uint16_t bins[kBlock];
  std::int32_t low_keys[kBlock];
  std::int32_t high_keys[kBlock];
  std::int32_t smallest = extremes->smallest;
  std::int32_t largest = extremes->largest;

  for (std::size_t start = 0; start < count; start += kBlock) {
    const std::uint32_t* block = bits + start;
    const std::size_t size = count - start < kBlock ? count - start : kBlock;

    // Two loops without branches, each of a form that compilers turn into vector instructions.
    for (std::size_t i = 0; i < size; ++i) {
      const std::uint32_t value = block[i] == 0x80000000u ? 0u : block[i];
      const std::uint32_t magnitude = value & 0x7FFFFFFFu;
      bins[i] = static_cast<std::uint16_t>(magnitude > 0x7F800000u ? kBinNan : value >> 16);

      const std::uint32_t ordered = value ^ ((0u - (value >> 31)) & 0x7FFFFFFFu);
      const std::uint32_t outside = magnitude < 0x7F800000u ? 0u : 0xFFFFFFFFu;
      low_keys[i] = static_cast<std::int32_t>((ordered | outside) & ~(outside & 0x80000000u));
      high_keys[i] = static_cast<std::int32_t>((ordered & ~outside) | (outside & 0x80000000u));
    }
    for (std::size_t i = 0; i < size; ++i) {
      smallest = low_keys[i] < smallest ? low_keys[i] : smallest;
      largest = high_keys[i] > largest ? high_keys[i] : largest;
    }

    static_assert(kLanes == 2, "below, even elements go to lane 0 and odd ones to lane 1");
    std::size_t i = 0;
    for (; i + 4 <= size; i += 4) {
      std::uint64_t four;  // one load for four bins; which of them comes first does not matter
      __builtin_memcpy(&four, bins + i, sizeof four);
      ++counts[(four & 0xFFFFu) * kLanes];
      ++counts[(four >> 16 & 0xFFFFu) * kLanes + 1];
      ++counts[(four >> 32 & 0xFFFFu) * kLanes];
      ++counts[(four >> 48) * kLanes + 1];
    }
    for (; i < size; ++i) ++counts[bins[i] * kLanes];
  }
  extremes->smallest = smallest;
  extremes->largest = largest;
}

}  // namespace qcompiler
