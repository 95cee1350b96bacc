// The vectors of depthwise_body.h for 64-bit ARM, but for the dot product: depthwise_neon.cpp and depthwise_neondot.cpp add
// theirs.

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

namespace {

struct Channels16 {
  using C = uint8x16_t;
  using I = int32x4_t;
  using F = float32x4_t;
  using H = int16x8_t;
  using W = int8x16_t;
  using A = int8x16_t;
  static constexpr std::size_t kChannels = 16;
  static constexpr int kColumns = 4;  // 16 sums, 2 vectors of weights and one of codes, of 32 registers

  static I load_int(const std::uint8_t* from) { return vreinterpretq_s32_u8(vld1q_u8(from)); }
  static F load(const std::uint8_t* from) { return vreinterpretq_f32_u8(vld1q_u8(from)); }
  static C load(const std::uint8_t* from, std::uint8_t flip) { return veorq_u8(vld1q_u8(from), vdupq_n_u8(flip)); }
  static void weave(const C (&rows)[4], std::uint8_t* to) {
    const uint8x16x4_t together = {{rows[0], rows[1], rows[2], rows[3]}};  // by name: clang's vst4q_u8 is a macro
    vst4q_u8(to, together);
  }
  static W weights(const std::uint8_t* from) { return vreinterpretq_s8_u8(vld1q_u8(from)); }
  static A codes(const std::uint8_t* from) { return vreinterpretq_s8_u8(vld1q_u8(from)); }
  static void in_order(I&) {}
  static I round(I sum, F multiplier) { return vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sum), multiplier)); }
  static H pack(I first, I second, std::int32_t zero_point) {
    const H both = vcombine_s16(vqmovn_s32(first), vqmovn_s32(second));
    return vqaddq_s16(both, vdupq_n_s16(static_cast<std::int16_t>(zero_point)));
  }
  static void store(H low, H high, std::uint8_t flip, std::uint8_t* to) {
    vst1q_u8(to, veorq_u8(vcombine_u8(vqmovun_s16(low), vqmovun_s16(high)), vdupq_n_u8(flip)));
  }
};

}  // namespace
