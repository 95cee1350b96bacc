// The vectors of int8_body.h for AVX2, but for the dot product: int8_avx2.cpp and int8_avxvnni.cpp add theirs.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace {

struct Avx2 {
  using I = __m256i;
  using F = __m256;
  static constexpr int kLanes = 8;

  static F zero() { return _mm256_setzero_ps(); }
  static F set(float value) { return _mm256_set1_ps(value); }
  static F load(const void* from) { return _mm256_loadu_ps(static_cast<const float*>(from)); }
  static void store(float* to, F value) { _mm256_storeu_ps(to, value); }
  static F multiply(F a, F b) { return _mm256_mul_ps(a, b); }
  static F multiply_add(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static bool any_nan(F a) { return _mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)) != 0; }
  static void reduce_extremes(F smallest, F largest, float& low, float& high) {
    // Both at once: the least of what is largest, negated, is in the upper half.
    const F negated = _mm256_xor_ps(largest, set(-0.0f));
    F both = _mm256_min_ps(_mm256_permute2f128_ps(smallest, negated, 0x20), _mm256_permute2f128_ps(smallest, negated, 0x31));
    both = _mm256_min_ps(both, _mm256_permute_ps(both, 0x4E));
    both = _mm256_min_ps(both, _mm256_permute_ps(both, 0xB1));
    low = _mm256_cvtss_f32(both);
    high = -_mm_cvtss_f32(_mm256_extractf128_ps(both, 1));
  }
  static I load_int(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
  static F to_float(I a) { return _mm256_cvtepi32_ps(a); }
  static void quantize16(const float* from, F offset, F inverse, std::uint8_t* to) {
    const I first = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_sub_ps(load(from), offset), inverse));
    const I second = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_sub_ps(load(from + 8), offset), inverse));
    // Packing works within halves: 0-3 of both, then 4-7 of both.
    const I words = _mm256_permute4x64_epi64(_mm256_packs_epi32(first, second), 0xD8);
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
  }
  static I broadcast(const std::uint8_t* from) {
    int four;
    __builtin_memcpy(&four, from, sizeof four);
    return _mm256_set1_epi32(four);
  }
  static I start(I) { return _mm256_setzero_si256(); }
};

}  // namespace
