#include "int4_neon_vectors.h"

namespace {

struct V : Neon {
  using D = int32x4_t;
  static constexpr int rows = 4;
  static D start(I sum) { return sum; }
  static D dot(D sum, B weights, I values) {
    // 4-bit weights are the same numbers with a sign. A pair of products reaches 2 * 15 * 128: 16 bits hold it.
    const int8x16_t a = vreinterpretq_s8_u8(weights), b = vreinterpretq_s8_s32(values);
    const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
    const int16x8_t high = vmull_high_s8(a, b);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
  }
  static I finish(D dots, I) { return dots; }
};

}  // namespace

#define QCOMPILER_INT4 int4_neon
#include "int4_body.h"
