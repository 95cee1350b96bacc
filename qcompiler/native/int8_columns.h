// What int8_<isa> makes of sums of products, with vectors as int8_body.h describes them in V.
#pragma once

#include "int8.h"
#include "unroll.h"

namespace qcompiler {
namespace {

// The results of some rows, in the columns from `first`, of the products with their codes.
template <int kVectors>
void store_columns(const V::I (*products)[kVectors], const std::uint8_t* panel, const Int8Row* scales, int rows,
                   std::size_t first, const float* bias, std::size_t columns, float* out, std::size_t stride) {
  constexpr std::size_t kWidth = kVectors * V::kLanes;
  const bool whole = first + kWidth <= columns;
  V::F steps[kVectors], sums[kVectors], more[kVectors];
  QCOMPILER_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    const std::size_t column = first + static_cast<std::size_t>(v) * V::kLanes;
    steps[v] = V::load(panel + column * 4);
    sums[v] = V::to_float(V::load_int(panel + (kInt8Columns + column) * 4));
    more[v] = bias == nullptr ? V::zero() : V::load(bias + column);
  }
  for (int r = 0; r < rows; ++r) {
    const V::F scale = V::set(scales[r].scale), offset = V::set(scales[r].offset);
    float narrow[kWidth];
    float* row = out + static_cast<std::size_t>(r) * stride;
    float* to = whole ? row + first : narrow;
    QCOMPILER_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const V::F product = V::multiply_add(sums[v], offset, V::multiply(V::to_float(products[r][v]), scale));
      V::store(to + v * V::kLanes, V::multiply_add(product, steps[v], more[v]));
    }
    if (!whole) {
      for (std::size_t i = 0; first + i < columns; ++i) row[first + i] = narrow[i];
    }
  }
}

}  // namespace
}  // namespace qcompiler
