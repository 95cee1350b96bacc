#include "int4_avx2_vectors.h"

namespace {

struct V : Avx2 {
  using D = __m256i;
  static constexpr int rows = 4;
  static D start(I sum) { return sum; }
  static D dot(D sum, B weights, I values) {
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(sum, weights, values);
#else  // the same operation in AVX512-VNNI's encoding: how the tests run this file on processors that have only that
    return _mm256_dpbusd_epi32(sum, weights, values);
#endif
  }
  static I finish(D dots, I) { return dots; }
};

}  // namespace

#define QCOMPILER_INT4 int4_avxvnni
#include "int4_body.h"
