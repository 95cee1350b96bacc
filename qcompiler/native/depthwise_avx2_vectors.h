// The vectors of depthwise_body.h for AVX2, but for the dot product: each depthwise_<isa>.cpp adds its own.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace {

struct Channels16 {
  using C = __m128i;
  using I = __m128i;
  using F = __m128;
  using H = __m128i;
  static constexpr std::size_t kChannels = 16;

  static I load_int(const std::uint8_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }
  static void put(std::uint8_t* to, I value) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), value); }
  static F load(const std::uint8_t* from) { return _mm_castsi128_ps(load_int(from)); }
  static C load(const std::uint8_t* from, std::uint8_t flip) {
    return _mm_xor_si128(load_int(from), _mm_set1_epi8(static_cast<char>(flip)));
  }
  static void weave(const C (&rows)[4], std::uint8_t* to) {
    const C low[2] = {_mm_unpacklo_epi8(rows[0], rows[1]), _mm_unpacklo_epi8(rows[2], rows[3])};
    const C high[2] = {_mm_unpackhi_epi8(rows[0], rows[1]), _mm_unpackhi_epi8(rows[2], rows[3])};
    put(to, _mm_unpacklo_epi16(low[0], low[1]));
    put(to + 16, _mm_unpackhi_epi16(low[0], low[1]));
    put(to + 32, _mm_unpacklo_epi16(high[0], high[1]));
    put(to + 48, _mm_unpackhi_epi16(high[0], high[1]));
  }
  static void in_order(I& sum) { __asm__("" : "+x"(sum)); }
  static I round(I sum, F multiplier) { return _mm_cvtps_epi32(_mm_mul_ps(_mm_cvtepi32_ps(sum), multiplier)); }
  static H pack(I first, I second, std::int32_t zero_point) {
    return _mm_adds_epi16(_mm_packs_epi32(first, second), _mm_set1_epi16(static_cast<short>(zero_point)));
  }
  static void store(H low, H high, std::uint8_t flip, std::uint8_t* to) {
    put(to, _mm_xor_si128(_mm_packus_epi16(low, high), _mm_set1_epi8(static_cast<char>(flip))));
  }
};

struct Channels32 {
  using C = __m256i;
  using I = __m256i;
  using F = __m256;
  using H = __m256i;
  static constexpr std::size_t kChannels = 32;

  static I load_int(const std::uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  static void put(std::uint8_t* to, I value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value); }
  static F load(const std::uint8_t* from) { return _mm256_castsi256_ps(load_int(from)); }
  static C load(const std::uint8_t* from, std::uint8_t flip) {
    return _mm256_xor_si256(load_int(from), _mm256_set1_epi8(static_cast<char>(flip)));
  }
  static void weave(const C (&rows)[4], std::uint8_t* to) {
    const C low[2] = {_mm256_unpacklo_epi8(rows[0], rows[1]), _mm256_unpacklo_epi8(rows[2], rows[3])};
    const C high[2] = {_mm256_unpackhi_epi8(rows[0], rows[1]), _mm256_unpackhi_epi8(rows[2], rows[3])};
    put(to, _mm256_unpacklo_epi16(low[0], low[1]));
    put(to + 32, _mm256_unpackhi_epi16(low[0], low[1]));
    put(to + 64, _mm256_unpacklo_epi16(high[0], high[1]));
    put(to + 96, _mm256_unpackhi_epi16(high[0], high[1]));
  }
  static void in_order(I& sum) { __asm__("" : "+x"(sum)); }
  static I round(I sum, F multiplier) { return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(sum), multiplier)); }
  static H pack(I first, I second, std::int32_t zero_point) {
    return _mm256_adds_epi16(_mm256_packs_epi32(first, second), _mm256_set1_epi16(static_cast<short>(zero_point)));
  }
  static void store(H low, H high, std::uint8_t flip, std::uint8_t* to) {
    put(to, _mm256_xor_si256(_mm256_packus_epi16(low, high), _mm256_set1_epi8(static_cast<char>(flip))));
  }
};

}  // namespace
