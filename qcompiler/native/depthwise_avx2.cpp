#include "avx2_pairs.h"
#include "depthwise_avx2_vectors.h"
#include "depthwise_body.h"

namespace qcompiler {
namespace {

// As Avx2Pairs, of half as many.
struct V16 : Channels16 {
  struct W {
    __m128i even, odd;
  };
  using A = W;
  static constexpr int kColumns = 2;  // 8 sums, 4 vectors of weights and 2 of codes
  static W weights(const std::uint8_t* from) {
    const __m128i bytes = load_int(from);
    return {_mm_srai_epi16(_mm_slli_epi16(bytes, 8), 8), _mm_srai_epi16(bytes, 8)};
  }
  static A codes(const std::uint8_t* from) {
    const __m128i bytes = load_int(from);
    return {_mm_and_si128(bytes, _mm_set1_epi16(255)), _mm_srli_epi16(bytes, 8)};
  }
  static I dot(I sum, W weights, A codes) {
    const I even = _mm_madd_epi16(weights.even, codes.even), odd = _mm_madd_epi16(weights.odd, codes.odd);
    return _mm_add_epi32(sum, _mm_add_epi32(even, odd));
  }
};

struct V32 : Channels32, Avx2Pairs {
  static constexpr int kColumns = 2;
  static W weights(const std::uint8_t* from) { return signed_pairs(load_int(from)); }
  static A codes(const std::uint8_t* from) { return unsigned_pairs(load_int(from)); }
  static I dot(I sum, W weights, A codes) { return add_products(sum, weights, codes); }
};

}  // namespace

const DepthwiseKernels depthwise_avx2 = {V32::kChannels, false, convolve<V32, V16>};

}  // namespace qcompiler
