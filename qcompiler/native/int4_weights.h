// 4-bit weights as a model file has them, and as the kernels of int4.h want them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "int4.h"
#include "packed_memory.h"

namespace qcompiler {

// In a file, column n's values along K are one row: `groups()` blocks, each of ceil(width() / 2) bytes with the even k in
// the low half of a byte. Scales are [columns, groups()]. Zero points, where there are any, are packed along a row, two to
// a byte, the even group in the low half. It is the layout of ONNX Runtime's MatMulNBits.
struct Int4Source {
  const std::uint8_t* weights;
  const void* scales;
  const std::uint8_t* zero_points;  // null: 8
  bool half_scales;
  std::size_t depth;    // K
  std::size_t columns;  // N
  std::size_t block;    // 16, 32, 64, 128 or 256, a divisor of depth; 0: a column has one scale

  std::size_t width() const { return block == 0 ? depth : block; }
  std::size_t groups() const { return block == 0 ? 1 : depth / block; }
  std::size_t group_bytes() const { return (width() + 1) / 2; }
  std::size_t weight_bytes() const { return columns * groups() * group_bytes(); }
  std::size_t scale_count() const { return columns * groups(); }
  std::size_t zero_point_bytes() const { return columns * ((groups() + 1) / 2); }

  float scale(std::size_t column, std::size_t group) const;
  int zero_point(std::size_t column, std::size_t group) const;
};

// What is wrong with the sizes, or with the first scale that no kernel could use: one that is zero, subnormal, infinite or
// NaN. Empty when nothing is.
std::string check_int4_sizes(std::int64_t depth, std::int64_t columns, std::int64_t block);
std::string check_int4_scales(const Int4Source& source);

class Int4Weights {
 public:
  explicit Int4Weights(const Int4Source& source);
  const Int4Matrix& matrix() const { return matrix_; }
  // Whether packing `source` would give these very bytes.
  bool equals(const Int4Source& source) const;

 private:
  Int4Matrix matrix_;
  PackedMemory memory_;
};

// Packs the weights, or finds them packed: sessions that use the same weights share one copy for as long as one lives.
std::shared_ptr<const Int4Weights> share_int4(const Int4Source& source);

}  // namespace qcompiler
