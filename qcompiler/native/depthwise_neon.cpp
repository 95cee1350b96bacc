#include "depthwise_body.h"
#include "depthwise_neon_vectors.h"

namespace qcompiler {
namespace {

struct V16 : Channels16 {
  static I dot(I sum, W weights, A codes) {
    const int16x8_t low = vmull_s8(vget_low_s8(weights), vget_low_s8(codes));
    const int16x8_t high = vmull_high_s8(weights, codes);
    return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
  }
};

}  // namespace

const DepthwiseKernels depthwise_neon = {V16::kChannels, true, convolve<V16>};

}  // namespace qcompiler
