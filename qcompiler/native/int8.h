// Products with 8-bit weights and rows that are quantized as they come: how both lie in memory, and what a kernel is.
//
// Weights. Columns go in panels of 64, and a panel is one run of memory, read from front to back once a product:
//
//     scales       64 x float32
//     sums         64 x int32, of each column's weights
//     weights      groups of 256 bytes: 4 bytes a column, for four neighbouring k
//
// Columns and k that the model does not have are zeros.
//
// Rows. Each is quantized by itself to unsigned 8 bits, from its smallest value, code 0, to its largest, code 255:
//
//     value = offset + scale * code
//
// so the product of a row and a column is scale * (codes times weights) + offset * (sum of the weights). Zero needs no code
// of its own: what a row is padded with meets weights of zero.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qcompiler {

inline constexpr std::size_t kInt8Columns = 64;                // of a panel
inline constexpr std::size_t kInt8Group = 4 * kInt8Columns;    // bytes of four k of a panel
inline constexpr std::size_t kInt8Header = 8 * kInt8Columns;   // bytes of its scales and sums
inline constexpr std::size_t kInt8LargestDepth = 65536;        // 255 * 128 times as many still fit 32 bits
inline constexpr int kInt8LargestPair = 128;                   // 255 times as much still fits 16 bits
inline constexpr float kInt8SmallestRange = 0x1p-116f;         // 255 divided by it is still a float

struct Int8Matrix {
  const std::uint8_t* panels;
  std::size_t depth;    // K as the model has it
  std::size_t columns;  // N as the model has it
  // Whether 16 bits hold the sum of any two codes' products with the weights of an even k and of the next one: these are
  // then 128 together at most, in magnitude.
  bool paired;

  std::size_t groups() const { return (depth + 3) / 4; }
  std::size_t panel_count() const { return (columns + kInt8Columns - 1) / kInt8Columns; }
  std::size_t panel_bytes() const { return kInt8Header + groups() * kInt8Group; }
  // From one row's codes to the next's: more than K, and an odd multiple of 64, for rows at equal places in pages would
  // drive each other out of the first-level cache.
  std::size_t row_bytes() const { return ((depth / 64 + 1) | 1) * 64; }
};

struct Int8Row {
  float scale;
  float offset;
};

struct Int8Kernels {
  std::size_t rows;  // the largest tile

  // Quantizes one row of matrix.depth floats to codes, row_bytes() of them. A row that holds a NaN or an infinity, or
  // whose range is more than a float, gets the scale NaN; one whose range is below kInt8SmallestRange the scale zero.
  Int8Row (*quantize_row)(const Int8Matrix& matrix, const float* values, std::uint8_t* codes);

  // One panel times one tile of rows, their codes matrix.row_bytes() apart, plus bias (64 floats, or null). Writes the
  // first `columns` of each row to `out`, rows `stride` floats apart.
  void (*multiply)(const Int8Matrix& matrix, const std::uint8_t* panel, const std::uint8_t* codes, const Int8Row* scales,
                   std::size_t rows, const float* bias, std::size_t columns, float* out, std::size_t stride);
};

extern const Int8Kernels int8_scalar;
extern const Int8Kernels int8_avx2;
extern const Int8Kernels int8_avx2paired;  // for paired matrices only
extern const Int8Kernels int8_avxvnni;
extern const Int8Kernels int8_avx512vnni;
extern const Int8Kernels int8_amx;
extern const Int8Kernels int8_neon;
extern const Int8Kernels int8_neondot;

}  // namespace qcompiler
