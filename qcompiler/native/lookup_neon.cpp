#include <arm_neon.h>

#include "lookup_plain.h"

namespace qcompiler {
namespace {

constexpr std::size_t kFewest = 32;  // below, loading the table takes longer than looking up an element at a time

// A table lookup of four registers knows 64 entries. Where the index lies outside of them, the extension keeps what was
// found before.
void bytes(const std::uint8_t* x, std::size_t count, const std::uint8_t* table, std::uint8_t* y) {
  std::size_t i = 0;
  if (count >= kFewest) {
    uint8x16x4_t parts[4];
    for (std::size_t part = 0; part < 4; ++part) {
      for (std::size_t j = 0; j < 4; ++j) parts[part].val[j] = vld1q_u8(table + part * 64 + j * 16);
    }
    const uint8x16_t step = vdupq_n_u8(64);
    for (; i + 16 <= count; i += 16) {
      uint8x16_t index = vld1q_u8(x + i);
      uint8x16_t found = vqtbl4q_u8(parts[0], index);
      for (std::size_t part = 1; part < 4; ++part) {
        index = vsubq_u8(index, step);
        found = vqtbx4q_u8(found, parts[part], index);
      }
      vst1q_u8(y + i, found);
    }
  }
  look_up(x + i, count - i, table, y + i);
}

}  // namespace

extern const LookupKernels lookup_neon = {bytes, look_up<std::uint32_t>, look_up_by_column<std::uint8_t>,
                                          look_up_by_column<std::uint32_t>, multiply,
                                          multiply_by_column};

}  // namespace qcompiler
