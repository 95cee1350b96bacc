#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace {

struct V {
  using I = __m512i;
  using F = __m512;
  using B = __m512i;
  using D = __m512i;
  static constexpr int kLanes = 16;
  static constexpr bool in_pairs = false;
  static constexpr bool lines_in_pairs = true;  // as Zen 4 does
  static constexpr int rows = 6;  // 12 sums, 12 totals, 4 vectors of weights: 28 of the 32 registers
  static constexpr int vectors(int) { return 2; }

  static F zero() { return _mm512_setzero_ps(); }
  static F set(float value) { return _mm512_set1_ps(value); }
  static F load(const void* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, F value) { _mm512_storeu_ps(to, value); }
  static F load_half(const void* from) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(from))); }
  static void store_half(void* to, F value) {
    _mm256_storeu_si256(static_cast<__m256i*>(to), _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
  }
  static F broadcast_float(const std::uint8_t* from) { return _mm512_castsi512_ps(broadcast(from)); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F subtract(F a, F b) { return _mm512_sub_ps(a, b); }
  static F multiply(F a, F b) { return _mm512_mul_ps(a, b); }
  static F multiply_add(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F to_float(I a) { return _mm512_cvtepi32_ps(a); }

  static I zero_int() { return _mm512_setzero_si512(); }
  static I load_int(const void* from) { return _mm512_loadu_si512(from); }
  static I max_int(I a, I b) { return _mm512_max_epi32(a, b); }
  static I max_unsigned(I a, I b) { return _mm512_max_epu32(a, b); }
  static void reduce_extremes(I largest, I smallest, std::uint32_t& high, std::uint32_t& low) {
    const __m256i most = _mm256_max_epi32(_mm512_castsi512_si256(largest), _mm512_extracti32x8_epi32(largest, 1));
    const __m256i least = _mm256_max_epu32(_mm512_castsi512_si256(smallest), _mm512_extracti32x8_epi32(smallest, 1));
    // From here both at once: signed integers are in the order of unsigned ones when their upper bit is turned round.
    const __m256i sign = _mm256_set1_epi32(INT32_MIN), turned = _mm256_xor_si256(most, sign);
    __m256i both = _mm256_max_epu32(_mm256_permute2x128_si256(least, turned, 0x20), _mm256_permute2x128_si256(least, turned, 0x31));
    both = _mm256_max_epu32(both, _mm256_shuffle_epi32(both, 0x4E));
    both = _mm256_max_epu32(both, _mm256_shuffle_epi32(both, 0xB1));
    low = static_cast<std::uint32_t>(_mm256_cvtsi256_si32(both));
    high = static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm256_extracti128_si256(both, 1))) ^ 0x80000000u;
  }
  static I broadcast(const std::uint8_t* from) {
    int four;
    __builtin_memcpy(&four, from, sizeof four);
    return _mm512_set1_epi32(four);
  }
  static I load_int16(const std::uint8_t* from) {
    return _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static I multiply_int16(I a, I b) { return _mm512_madd_epi16(a, b); }  // a's upper halves are zeros
  static I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
  static std::int32_t reduce_add_int(I a) { return _mm512_reduce_add_epi32(a); }
  static I quantize16(const float* from, F inverse, std::int8_t* to) {
    const I rounded = _mm512_cvtps_epi32(_mm512_mul_ps(load(from), inverse));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtsepi32_epi8(rounded));
    return rounded;
  }

  static B load_bytes(const std::uint8_t* from) { return _mm512_loadu_si512(from); }
  static B low_halves(B a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
  static B high_halves(B a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15)); }
  static I nibble(B a, unsigned shift) { return _mm512_and_si512(_mm512_srli_epi32(a, shift), _mm512_set1_epi32(15)); }
  static D start(I sum) { return sum; }
  static D dot(D sum, B weights, I values) { return _mm512_dpbusd_epi32(sum, weights, values); }
  static I finish(D dots, I) { return dots; }
};

}  // namespace

#define QCOMPILER_INT4 int4_avx512vnni
#include "int4_body.h"
