#include "int4_avx2_vectors.h"

namespace {

// Pairs of products are summed in 16 bits: 8 of them, 32 k, reach 8 * 2 * 15 * 128 = 30720.
struct V : Avx2 {
  using D = __m256i;
  static constexpr int rows = 4;
  static D start(I) { return _mm256_setzero_si256(); }
  static D dot(D sum, B weights, I values) {
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, values));
    in_order(sum);
    return sum;
  }
  static I finish(D dots, I sum) { return _mm256_add_epi32(sum, _mm256_madd_epi16(dots, _mm256_set1_epi16(1))); }
};

}  // namespace

#define QCOMPILER_INT4 int4_avx2
#include "int4_body.h"
