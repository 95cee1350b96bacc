#include "avx2_pairs.h"
#include "int8_avx2_vectors.h"

namespace {

struct V : Avx2, Avx2Pairs {
  static constexpr int rows = 4;  // 8 sums, 4 vectors of weights and 2 of codes
  static constexpr int vectors(int r) { return r == 1 ? 4 : 2; }
  static W weights(const std::uint8_t* from) { return signed_pairs(load_int(from)); }
  static A four(const std::uint8_t* from) { return unsigned_pairs(broadcast(from)); }
  static I dot(I sum, W weights, A codes) { return add_products(sum, weights, codes); }
};

}  // namespace

#define QCOMPILER_INT8 int8_avx2
#include "int8_body.h"
