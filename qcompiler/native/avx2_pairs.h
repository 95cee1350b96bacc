// Products of bytes on AVX2 without VNNI: its own are summed in 16 bits, which two of 255 * 128 do not fit, so bytes are
// widened to 16 bits, the even ones of four apart from the odd ones.
#pragma once

#include <immintrin.h>

namespace {

struct Avx2Pairs {
  struct W {
    __m256i even, odd;
  };
  using A = W;
  static W signed_pairs(__m256i bytes) {
    return {_mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), _mm256_srai_epi16(bytes, 8)};
  }
  static A unsigned_pairs(__m256i bytes) {
    return {_mm256_and_si256(bytes, _mm256_set1_epi16(255)), _mm256_srli_epi16(bytes, 8)};
  }
  static __m256i add_products(__m256i sum, W weights, A codes) {
    const __m256i even = _mm256_madd_epi16(weights.even, codes.even), odd = _mm256_madd_epi16(weights.odd, codes.odd);
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
  }
};

}  // namespace
