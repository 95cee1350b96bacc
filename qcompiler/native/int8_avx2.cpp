#include "int8_avx2_vectors.h"

namespace {

// Its products of bytes are summed in 16 bits, which two of 255 * 128 do not fit: bytes are widened to 16 bits, the even
// ones of four apart from the odd ones.
struct V : Avx2 {
  struct W {
    __m256i even, odd;
  };
  using A = W;
  static constexpr int rows = 4;  // 8 sums, 4 vectors of weights and 2 of codes
  static constexpr int vectors(int r) { return r == 1 ? 4 : 2; }
  static W weights(const std::uint8_t* from) {
    const __m256i bytes = load_int(from);
    return {_mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), _mm256_srai_epi16(bytes, 8)};
  }
  static A four(const std::uint8_t* from) {
    const __m256i bytes = broadcast(from);
    return {_mm256_and_si256(bytes, _mm256_set1_epi16(255)), _mm256_srli_epi16(bytes, 8)};
  }
  static I dot(I sum, W weights, A codes) {
    const I even = _mm256_madd_epi16(weights.even, codes.even), odd = _mm256_madd_epi16(weights.odd, codes.odd);
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
  }
};

}  // namespace

#define QCOMPILER_INT8 int8_avx2
#include "int8_body.h"
