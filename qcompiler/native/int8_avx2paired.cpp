#include "int8_avx2_vectors.h"

namespace {

// For weights of which two neighbours fit the 16 bits that products of bytes are summed in.
struct V : Avx2 {
  using W = __m256i;
  using A = __m256i;
  static constexpr int rows = 4;  // 8 sums, 2 vectors of weights, one of codes, ones and products
  static constexpr int vectors(int r) { return r == 1 ? 8 : 2; }  // one row reads a panel in one go
  static W weights(const std::uint8_t* from) { return load_int(from); }
  static A four(const std::uint8_t* from) { return broadcast(from); }
  static I dot(I sum, W weights, A codes) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, weights), _mm256_set1_epi16(1)));
  }
};

}  // namespace

#define QCOMPILER_INT8 int8_avx2paired
#include "int8_body.h"
