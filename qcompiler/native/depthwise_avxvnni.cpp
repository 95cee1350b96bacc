#include "depthwise_avx2_vectors.h"
#include "depthwise_body.h"

#ifdef __AVXVNNI__
#define QCOMPILER_DOT(BITS) BITS##_dpbusd_avx_epi32
#else  // the same operation in AVX512-VNNI's encoding: how the tests run this file on processors that have only that
#define QCOMPILER_DOT(BITS) BITS##_dpbusd_epi32
#endif

namespace qcompiler {
namespace {

struct V16 : Channels16 {
  using W = __m128i;
  using A = __m128i;
  static constexpr int kColumns = 2;  // 8 sums, 2 vectors of weights and one of codes
  static W weights(const std::uint8_t* from) { return load_int(from); }
  static A codes(const std::uint8_t* from) { return load_int(from); }
  static I dot(I sum, W weights, A codes) { return QCOMPILER_DOT(_mm)(sum, codes, weights); }
};

struct V32 : Channels32 {
  using W = __m256i;
  using A = __m256i;
  static constexpr int kColumns = 2;
  static W weights(const std::uint8_t* from) { return load_int(from); }
  static A codes(const std::uint8_t* from) { return load_int(from); }
  static I dot(I sum, W weights, A codes) { return QCOMPILER_DOT(_mm256)(sum, codes, weights); }
};

}  // namespace

const DepthwiseKernels depthwise_avxvnni = {V32::kChannels, false, convolve<V32, V16>};

}  // namespace qcompiler
