// The vectors of int4_body.h for 64-bit ARM, but for the dot product, of which each int4_neon*.cpp adds its own.

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

namespace {

struct Neon {
  using I = int32x4_t;
  using F = float32x4_t;
  using B = uint8x16_t;
  static constexpr int kLanes = 4;
  static constexpr bool in_pairs = false;
  static constexpr bool lines_in_pairs = false;
  static constexpr int vectors(int rows) { return rows == 1 ? 8 : 2; }  // one row reads a panel in one go

  static F zero() { return vdupq_n_f32(0.0f); }
  static F set(float value) { return vdupq_n_f32(value); }
  static F load(const void* from) { return vreinterpretq_f32_u8(vld1q_u8(static_cast<const std::uint8_t*>(from))); }
  static void store(float* to, F value) { vst1q_f32(to, value); }
  static F load_half(const void* from) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(static_cast<const std::uint8_t*>(from))));
  }
  static void store_half(void* to, F value) {
    vst1_u8(static_cast<std::uint8_t*>(to), vreinterpret_u8_f16(vcvt_f16_f32(value)));
  }
  static F broadcast_float(const std::uint8_t* from) { return vreinterpretq_f32_s32(broadcast(from)); }
  static F add(F a, F b) { return vaddq_f32(a, b); }
  static F subtract(F a, F b) { return vsubq_f32(a, b); }
  static F multiply(F a, F b) { return vmulq_f32(a, b); }
  static F multiply_add(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static F to_float(I a) { return vcvtq_f32_s32(a); }

  static I zero_int() { return vdupq_n_s32(0); }
  static I load_int(const void* from) { return vreinterpretq_s32_u8(vld1q_u8(static_cast<const std::uint8_t*>(from))); }
  static I max_int(I a, I b) { return vmaxq_s32(a, b); }
  static I max_unsigned(I a, I b) {
    return vreinterpretq_s32_u32(vmaxq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b)));
  }
  static void reduce_extremes(I largest, I smallest, std::uint32_t& high, std::uint32_t& low) {
    high = static_cast<std::uint32_t>(vmaxvq_s32(largest));
    low = vmaxvq_u32(vreinterpretq_u32_s32(smallest));
  }
  static I broadcast(const std::uint8_t* from) {
    std::int32_t four;
    __builtin_memcpy(&four, from, sizeof four);
    return vdupq_n_s32(four);
  }
  static I load_int16(const std::uint8_t* from) { return vmovl_s16(vreinterpret_s16_u8(vld1_u8(from))); }
  static I multiply_int16(I a, I b) { return vmulq_s32(a, b); }
  static I add_int(I a, I b) { return vaddq_s32(a, b); }
  static std::int32_t reduce_add_int(I a) { return vaddvq_s32(a); }
  static I quantize16(const float* from, F inverse, std::int8_t* to) {
    I four[4];
    for (int i = 0; i < 4; ++i) four[i] = vcvtnq_s32_f32(vmulq_f32(vld1q_f32(from + 4 * i), inverse));
    const int16x8_t first = vcombine_s16(vqmovn_s32(four[0]), vqmovn_s32(four[1]));
    const int16x8_t second = vcombine_s16(vqmovn_s32(four[2]), vqmovn_s32(four[3]));
    vst1q_s8(to, vcombine_s8(vqmovn_s16(first), vqmovn_s16(second)));
    return vaddq_s32(vaddq_s32(four[0], four[1]), vaddq_s32(four[2], four[3]));
  }

  static B load_bytes(const std::uint8_t* from) { return vld1q_u8(from); }
  static B low_halves(B a) { return vandq_u8(a, vdupq_n_u8(15)); }
  static B high_halves(B a) { return vshrq_n_u8(a, 4); }
  static I nibble(B a, int shift) {
    const uint32x4_t shifted = vshlq_u32(vreinterpretq_u32_u8(a), vdupq_n_s32(-shift));
    return vreinterpretq_s32_u32(vandq_u32(shifted, vdupq_n_u32(15)));
  }
};

}  // namespace
