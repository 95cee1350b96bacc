#include "int8_neon_vectors.h"

namespace {

struct V : Neon {
  static constexpr int rows = 4;
  static constexpr int vectors(int) { return 4; }
  static I dot(I sum, W weights, A codes) {
    const int16x8_t low = vmull_s8(vget_low_s8(weights), vget_low_s8(codes));
    const int16x8_t high = vmull_high_s8(weights, codes);
    return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
  }
};

}  // namespace

#define QCOMPILER_INT8 int8_neon
#include "int8_body.h"
