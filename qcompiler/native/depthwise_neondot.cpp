#include "depthwise_body.h"
#include "depthwise_neon_vectors.h"

namespace qcompiler {
namespace {

struct V16 : Channels16 {
  static I dot(I sum, W weights, A codes) { return vdotq_s32(sum, weights, codes); }
};

}  // namespace

const DepthwiseKernels depthwise_neondot = {V16::kChannels, true, convolve<V16>};

}  // namespace qcompiler
