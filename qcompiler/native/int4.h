// Products with 4-bit weights: how weights and rows lie in memory for the kernels, and what a kernel is.
//
// Weights. Columns go in panels of 32, and a panel is one run of memory, read from front to back once a product. It is a
// sequence of blocks of `block` values along K; a block is
//
//     scales       32 x float32, or 32 x float16 where the model has them so
//     zero points  32 x int16, where the model has any; else every zero point is 8
//     weights      block / 8 groups of 128 bytes: 4 bytes a column, byte j of which holds k = j in its low and k = 4 + j in
//                  its high half
//
// so that one `and`, or one shift and one `and`, gives four neighbouring k of every column as unsigned bytes, which is what
// dot-product instructions take. Columns and k that the model does not have are zeros.
//
// Rows. They are quantized to 8 bits, a block at a time, with scales of either sign, such that the value of the largest
// magnitude becomes -128, or 127 where one of the other sign is nearly as large. Rows follow one another, and a block of a
// row is
//
//     scale        float32
//     correction   int32: the sum of the values times -1 (zero points) or times -8
//     values       block x int8
//
// Rows that stay in float are block * blocks floats, zeros at their end.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qcompiler {

inline constexpr std::size_t kPanelColumns = 32;
inline constexpr std::size_t kGroupBytes = 4 * kPanelColumns;  // of eight k of a panel
inline constexpr std::size_t kLargestBlock = 256;
inline constexpr std::size_t kRowHeader = 8;                   // before a block's values
inline constexpr float kSmallestMagnitude = 0x1p-116f;  // 128 divided by it is still a float

struct Int4Matrix {
  const std::uint8_t* panels;
  std::size_t depth;        // K as the model has it
  std::size_t columns;      // N as the model has it
  std::size_t block;        // 16, or a multiple of 32 up to kLargestBlock
  std::size_t blocks;       // block * blocks is K, rounded up
  std::size_t block_bytes;  // of a panel's block, a multiple of 64
  bool half_scales;
  bool zero_points;

  std::size_t panel_bytes() const { return blocks * block_bytes; }
  std::size_t scale_bytes() const { return kPanelColumns * (half_scales ? 2 : 4); }
  std::size_t zero_point_bytes() const { return zero_points ? kPanelColumns * 2 : 0; }
  // Of a row, quantized or in float.
  std::size_t quantized_row_bytes() const { return blocks * (kRowHeader + block); }
  std::size_t float_row_bytes() const { return blocks * block * sizeof(float); }
};

struct Int4Kernels {
  std::size_t rows;  // as many as a product takes at a time

  // Packs a row of matrix.depth floats. A block that holds a NaN or an infinity gets the scale NaN; one below
  // kSmallestMagnitude counts as zeros.
  void (*quantize_row)(const Int4Matrix& matrix, const float* values, std::uint8_t* packed);

  // One panel times up to `rows` packed rows, plus bias (32 floats, or null). Writes the first `columns` of each row to
  // `out`, rows `stride` floats apart.
  void (*multiply_quantized)(const Int4Matrix& matrix, const std::uint8_t* panel, const std::uint8_t* packed,
                             std::size_t rows, const float* bias, std::size_t columns, float* out, std::size_t stride);
  void (*multiply_float)(const Int4Matrix& matrix, const std::uint8_t* panel, const std::uint8_t* packed,
                         std::size_t rows, const float* bias, std::size_t columns, float* out, std::size_t stride);

  void (*from_half)(const std::uint16_t* halves, std::size_t count, float* floats);
  void (*to_half)(const float* floats, std::size_t count, std::uint16_t* halves);
};

// How many rows are multiplied where an instruction set has a faster way for them: values as bfloat16, which lie in memory
// as the kernel wants them, times weights rounded to bfloat16 with their scales, summed in float32. Values that are not
// finite stay what they are.
struct Int4ManyRows {
  std::size_t fewest;  // rows for which it is the faster way
  std::size_t rows;    // as many as a product takes at a time,
  std::size_t panels;  // and as many neighbouring panels
  std::size_t (*row_bytes)(const Int4Matrix& matrix);
  // Packs one of the rows that lie at `packed`, row_bytes() each and as many as a multiple of 16.
  void (*pack_row)(const Int4Matrix& matrix, const float* values, std::size_t row, std::uint8_t* packed);
  void (*multiply)(const Int4Matrix& matrix, const std::uint8_t* panel, const std::uint8_t* packed, std::size_t rows,
                   const float* bias, std::size_t columns, float* out, std::size_t stride);
};

extern const Int4ManyRows int4_amx;

extern const Int4Kernels int4_scalar;
extern const Int4Kernels int4_avx2;
extern const Int4Kernels int4_avxvnni;
extern const Int4Kernels int4_avx512vnni;
extern const Int4Kernels int4_neon;
extern const Int4Kernels int4_neondot;
extern const Int4Kernels int4_neoni8mm;

}  // namespace qcompiler
