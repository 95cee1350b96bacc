// The vectors of int4_body.h for AVX2, but for the dot product: int4_avx2.cpp and int4_avxvnni.cpp add theirs.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace {

struct Avx2 {
  using I = __m256i;
  using F = __m256;
  using B = __m256i;
  static constexpr int kLanes = 8;
  static constexpr bool in_pairs = false;
  static constexpr int vectors(int rows) { return rows == 1 ? 4 : 2; }  // one row reads a panel in one go

  static constexpr bool lines_in_pairs = false;

  // GCC would make all products of a tile before it sums any, and has sixteen registers for them.
  static void in_order(I& sum) { __asm__("" : "+x"(sum)); }

  static F zero() { return _mm256_setzero_ps(); }
  static F set(float value) { return _mm256_set1_ps(value); }
  static F load(const void* from) { return _mm256_loadu_ps(static_cast<const float*>(from)); }
  static void store(float* to, F value) { _mm256_storeu_ps(to, value); }
  static F load_half(const void* from) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(from))); }
  static void store_half(void* to, F value) {
    _mm_storeu_si128(static_cast<__m128i*>(to), _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
  }
  static F broadcast_float(const std::uint8_t* from) { return _mm256_castsi256_ps(broadcast(from)); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F subtract(F a, F b) { return _mm256_sub_ps(a, b); }
  static F multiply(F a, F b) { return _mm256_mul_ps(a, b); }
  static F multiply_add(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F to_float(I a) { return _mm256_cvtepi32_ps(a); }

  static I zero_int() { return _mm256_setzero_si256(); }
  static I load_int(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
  static I max_int(I a, I b) { return _mm256_max_epi32(a, b); }
  static I max_unsigned(I a, I b) { return _mm256_max_epu32(a, b); }
  static void reduce_extremes(I largest, I smallest, std::uint32_t& high, std::uint32_t& low) {
    // Both at once: signed integers are in the order of unsigned ones when their upper bit is turned round.
    const I turned = _mm256_xor_si256(largest, _mm256_set1_epi32(INT32_MIN));
    I both = _mm256_max_epu32(_mm256_permute2x128_si256(smallest, turned, 0x20),
                              _mm256_permute2x128_si256(smallest, turned, 0x31));
    both = _mm256_max_epu32(both, _mm256_shuffle_epi32(both, 0x4E));
    both = _mm256_max_epu32(both, _mm256_shuffle_epi32(both, 0xB1));
    low = static_cast<std::uint32_t>(_mm256_cvtsi256_si32(both));
    high = static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm256_extracti128_si256(both, 1))) ^ 0x80000000u;
  }
  static I broadcast(const std::uint8_t* from) {
    int four;
    __builtin_memcpy(&four, from, sizeof four);
    return _mm256_set1_epi32(four);
  }
  static I load_int16(const std::uint8_t* from) {
    return _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static I multiply_int16(I a, I b) { return _mm256_madd_epi16(a, b); }  // a's upper halves are zeros
  static I add_int(I a, I b) { return _mm256_add_epi32(a, b); }
  static std::int32_t reduce_add_int(I a) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
  }
  static I quantize16(const float* from, F inverse, std::int8_t* to) {
    const I first = _mm256_cvtps_epi32(_mm256_mul_ps(load(from), inverse));
    const I second = _mm256_cvtps_epi32(_mm256_mul_ps(load(from + 8), inverse));
    // Packing works within halves: 0-3 of both, then 4-7 of both.
    const I words = _mm256_permute4x64_epi64(_mm256_packs_epi32(first, second), 0xD8);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
    return _mm256_add_epi32(first, second);
  }

  static B load_bytes(const std::uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  static B low_halves(B a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
  static B high_halves(B a) { return _mm256_and_si256(_mm256_srli_epi16(a, 4), _mm256_set1_epi8(15)); }
  static I nibble(B a, int shift) { return _mm256_and_si256(_mm256_srli_epi32(a, shift), _mm256_set1_epi32(15)); }
};

}  // namespace
