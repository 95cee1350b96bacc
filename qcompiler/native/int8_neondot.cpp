#include "int8_neon_vectors.h"

namespace {

struct V : Neon {
  static constexpr int rows = 6;  // 24 sums, 4 vectors of weights and one of codes: 29 of the 32 registers
  static constexpr int vectors(int) { return 4; }
  static I dot(I sum, W weights, A codes) { return vdotq_s32(sum, weights, codes); }
};

}  // namespace

#define QCOMPILER_INT8 int8_neondot
#include "int8_body.h"
