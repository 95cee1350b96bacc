#include "int4_neon_vectors.h"

namespace {

// SMMLA multiplies two rows of eight values with two columns of eight weights, and a register of D has the four sums:
// of columns 0 and 1 in the first, of 2 and 3 in the second.
struct V : Neon {
  using D = int32x4_t;
  static constexpr int rows = 6;
  static constexpr bool in_pairs = true;
  static D start(I sum) { return sum; }
  static D dot(D sum, B weights, I values) {  // 4-bit weights are the same numbers with a sign
    return vdotq_s32(sum, vreinterpretq_s8_u8(weights), vreinterpretq_s8_s32(values));
  }
  static I finish(D dots, I) { return dots; }

  static void exchange(D& first, D& second) {
    const int64x2_t a = vreinterpretq_s64_s32(first), b = vreinterpretq_s64_s32(second);
    first = vreinterpretq_s32_s64(vtrn1q_s64(a, b));
    second = vreinterpretq_s32_s64(vtrn2q_s64(a, b));
  }
  static B load_pair(const std::uint8_t* first, const std::uint8_t* second) {
    return vcombine_u8(vld1_u8(first), vld1_u8(second));
  }
  static void dot_pair(D& first, D& second, B low, B high, B values) {
    const uint32x4_t a = vreinterpretq_u32_u8(low), b = vreinterpretq_u32_u8(high);
    first = vmmlaq_s32(first, vreinterpretq_s8_u8(values), vreinterpretq_s8_u32(vzip1q_u32(a, b)));
    second = vmmlaq_s32(second, vreinterpretq_s8_u8(values), vreinterpretq_s8_u32(vzip2q_u32(a, b)));
  }
};

}  // namespace

#define QCOMPILER_INT4 int4_neoni8mm
#include "int4_body.h"
