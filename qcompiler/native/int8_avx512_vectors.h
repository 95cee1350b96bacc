// AVX-512's vectors for int8_body.h.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace {

struct V {
  using I = __m512i;
  using F = __m512;
  using W = __m512i;
  using A = __m512i;
  static constexpr int kLanes = 16;
  static constexpr int rows = 6;  // 24 sums, 4 vectors of weights and one of codes: 29 of the 32 registers
  static constexpr int vectors(int) { return 4; }

  static F zero() { return _mm512_setzero_ps(); }
  static F set(float value) { return _mm512_set1_ps(value); }
  static F load(const void* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, F value) { _mm512_storeu_ps(to, value); }
  static F multiply(F a, F b) { return _mm512_mul_ps(a, b); }
  static F multiply_add(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static bool any_nan(F a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q) != 0; }
  static void reduce_extremes(F smallest, F largest, float& low, float& high) {
    low = _mm512_reduce_min_ps(smallest);
    high = _mm512_reduce_max_ps(largest);
  }
  static I load_int(const void* from) { return _mm512_loadu_si512(from); }
  static F to_float(I a) { return _mm512_cvtepi32_ps(a); }
  static void quantize16(const float* from, F offset, F inverse, std::uint8_t* to) {
    const I rounded = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_sub_ps(load(from), offset), inverse));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtusepi32_epi8(rounded));
  }

  static W weights(const std::uint8_t* from) { return _mm512_loadu_si512(from); }
  static A four(const std::uint8_t* from) {
    int codes;
    __builtin_memcpy(&codes, from, sizeof codes);
    return _mm512_set1_epi32(codes);
  }
  static I start(I) { return _mm512_setzero_si512(); }
  static I dot(I sum, W weights, A codes) { return _mm512_dpbusd_epi32(sum, codes, weights); }
};

}  // namespace
