#include "int8_avx2_vectors.h"

namespace {

struct V : Avx2 {
  using W = __m256i;
  using A = __m256i;
  static constexpr int rows = 6;  // 12 sums, 2 vectors of weights and one of codes
  static constexpr int vectors(int r) { return r == 1 ? 8 : 2; }  // one row reads a panel in one go
  static W weights(const std::uint8_t* from) { return load_int(from); }
  static A four(const std::uint8_t* from) { return broadcast(from); }
  static I dot(I sum, W weights, A codes) {
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(sum, codes, weights);
#else  // the same operation in AVX512-VNNI's encoding: how the tests run this file on processors that have only that
    return _mm256_dpbusd_epi32(sum, codes, weights);
#endif
  }
};

}  // namespace

#define QCOMPILER_INT8 int8_avxvnni
#include "int8_body.h"
