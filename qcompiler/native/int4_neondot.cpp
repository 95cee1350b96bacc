#include "int4_neon_vectors.h"

namespace {

struct V : Neon {
  using D = int32x4_t;
  static constexpr int rows = 6;
  static D start(I sum) { return sum; }
  static D dot(D sum, B weights, I values) {  // 4-bit weights are the same numbers with a sign
    return vdotq_s32(sum, vreinterpretq_s8_u8(weights), vreinterpretq_s8_s32(values));
  }
  static I finish(D dots, I) { return dots; }
};

}  // namespace

#define QCOMPILER_INT4 int4_neondot
#include "int4_body.h"
