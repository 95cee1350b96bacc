// The vectors of int8_body.h for 64-bit ARM, but for the dot product: int8_neon.cpp and int8_neondot.cpp add theirs.

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

namespace {

struct Neon {
  using I = int32x4_t;
  using F = float32x4_t;
  using W = int8x16_t;
  using A = int8x16_t;
  static constexpr int kLanes = 4;

  static F zero() { return vdupq_n_f32(0.0f); }
  static F set(float value) { return vdupq_n_f32(value); }
  static F load(const void* from) { return vreinterpretq_f32_u8(vld1q_u8(static_cast<const std::uint8_t*>(from))); }
  static void store(float* to, F value) { vst1q_f32(to, value); }
  static F multiply(F a, F b) { return vmulq_f32(a, b); }
  static F multiply_add(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static F min(F a, F b) { return vminnmq_f32(a, b); }
  static F max(F a, F b) { return vmaxnmq_f32(a, b); }
  static bool any_nan(F a) { return vminvq_u32(vceqq_f32(a, a)) == 0; }
  static void reduce_extremes(F smallest, F largest, float& low, float& high) {
    low = vminvq_f32(smallest);
    high = vmaxvq_f32(largest);
  }
  static I load_int(const void* from) { return vreinterpretq_s32_u8(vld1q_u8(static_cast<const std::uint8_t*>(from))); }
  static F to_float(I a) { return vcvtq_f32_s32(a); }
  static void quantize16(const float* from, F offset, F inverse, std::uint8_t* to) {
    uint16x4_t words[4];
    for (int i = 0; i < 4; ++i) {
      words[i] = vqmovn_u32(vcvtnq_u32_f32(vmulq_f32(vsubq_f32(vld1q_f32(from + 4 * i), offset), inverse)));
    }
    const uint8x8_t first = vqmovn_u16(vcombine_u16(words[0], words[1]));
    vst1q_u8(to, vcombine_u8(first, vqmovn_u16(vcombine_u16(words[2], words[3]))));
  }

  static W weights(const std::uint8_t* from) { return vreinterpretq_s8_u8(vld1q_u8(from)); }
  static A four(const std::uint8_t* from) {  // 128 less, with a sign
    std::uint32_t codes;
    __builtin_memcpy(&codes, from, sizeof codes);
    return vreinterpretq_s8_u32(vdupq_n_u32(codes ^ 0x80808080u));
  }
  static I start(I sums) { return vshlq_n_s32(sums, 7); }
};

}  // namespace
