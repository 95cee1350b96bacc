#include "depthwise_avx2_vectors.h"
#include "depthwise_body.h"

namespace qcompiler {
namespace {

struct V16 : Channels16 {
  using W = __m128i;
  using A = __m128i;
  static constexpr int kColumns = 4;  // 16 sums, 2 vectors of weights and one of codes, of 32 registers
  static W weights(const std::uint8_t* from) { return load_int(from); }
  static A codes(const std::uint8_t* from) { return load_int(from); }
  static I dot(I sum, W weights, A codes) { return _mm_dpbusd_epi32(sum, codes, weights); }
  static void in_order(I& sum) { __asm__("" : "+v"(sum)); }
};

struct V32 : Channels32 {
  using W = __m256i;
  using A = __m256i;
  static constexpr int kColumns = 4;
  static W weights(const std::uint8_t* from) { return load_int(from); }
  static A codes(const std::uint8_t* from) { return load_int(from); }
  static I dot(I sum, W weights, A codes) { return _mm256_dpbusd_epi32(sum, codes, weights); }
  static void in_order(I& sum) { __asm__("" : "+v"(sum)); }
};

struct V64 {
  using C = __m512i;
  using I = __m512i;
  using F = __m512;
  using H = __m512i;
  using W = __m512i;
  using A = __m512i;
  static constexpr std::size_t kChannels = 64;
  static constexpr int kColumns = 4;

  static I load_int(const std::uint8_t* from) { return _mm512_loadu_si512(from); }
  static F load(const std::uint8_t* from) { return _mm512_loadu_ps(from); }
  static C load(const std::uint8_t* from, std::uint8_t flip) {
    return _mm512_xor_si512(load_int(from), _mm512_set1_epi8(static_cast<char>(flip)));
  }
  static void weave(const C (&rows)[4], std::uint8_t* to) {
    const C low[2] = {_mm512_unpacklo_epi8(rows[0], rows[1]), _mm512_unpacklo_epi8(rows[2], rows[3])};
    const C high[2] = {_mm512_unpackhi_epi8(rows[0], rows[1]), _mm512_unpackhi_epi8(rows[2], rows[3])};
    _mm512_storeu_si512(to, _mm512_unpacklo_epi16(low[0], low[1]));
    _mm512_storeu_si512(to + 64, _mm512_unpackhi_epi16(low[0], low[1]));
    _mm512_storeu_si512(to + 128, _mm512_unpacklo_epi16(high[0], high[1]));
    _mm512_storeu_si512(to + 192, _mm512_unpackhi_epi16(high[0], high[1]));
  }
  static W weights(const std::uint8_t* from) { return load_int(from); }
  static A codes(const std::uint8_t* from) { return load_int(from); }
  static I dot(I sum, W weights, A codes) { return _mm512_dpbusd_epi32(sum, codes, weights); }
  static void in_order(I& sum) { __asm__("" : "+v"(sum)); }
  static I round(I sum, F multiplier) { return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), multiplier)); }
  static H pack(I first, I second, std::int32_t zero_point) {
    return _mm512_adds_epi16(_mm512_packs_epi32(first, second), _mm512_set1_epi16(static_cast<short>(zero_point)));
  }
  static void store(H low, H high, std::uint8_t flip, std::uint8_t* to) {
    const H bytes = _mm512_packus_epi16(low, high);
    _mm512_storeu_si512(to, _mm512_xor_si512(bytes, _mm512_set1_epi8(static_cast<char>(flip))));
  }
};

}  // namespace

const DepthwiseKernels depthwise_avx512vnni = {V64::kChannels, false, convolve<V64, V32, V16>};

}  // namespace qcompiler
