// Convolutions with one filter a channel, of 8-bit codes with the channels last: how weights lie in memory, and what a kernel
// is.
//
//     y = round((sum of (x - x_zero_point) * w + bias) * x_scale * w_scale / y_scale) + y_zero_point, saturated
//
// A dot product of four bytes takes four taps of one channel, which lie above one another in the image: four of its rows are
// woven, so that a channel's four codes are neighbours, once for all taps across and for the output rows that they serve.
//
// Channels go in blocks of 64, 32 or 16, as many as a register holds codes, and a block is one run of memory:
//
//     multipliers  float32 a channel, x_scale * w_scale / y_scale
//     starts       int32 a channel, what a sum begins with: the bias, less what x_zero_point makes of the weights
//     weights      for each output row of `together`, each tap across and each group of four woven rows: 4 bytes a channel
//
// Within a block channels come in the order in which weaving leaves them, see `woven`.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qcompiler {

inline constexpr std::size_t kWovenRows = 4;
inline constexpr std::size_t kDepthwiseNarrowest = 16;

// One axis of a convolution.
struct ConvAxis {
  std::size_t taps;
  std::size_t stride;
  std::size_t dilation;
  std::size_t pad;        // before the first element
  std::size_t pad_after;  // behind the last

  std::size_t window() const { return (taps - 1) * dilation + 1; }
  // How many results there are along an axis of `size` elements.
  std::size_t results(std::size_t size) const {
    const std::size_t padded = size + pad + pad_after;
    return padded < window() ? 0 : (padded - window()) / stride + 1;
  }
};

struct DepthwiseFilter {
  ConvAxis down;                 // the axis whose taps are woven
  ConvAxis across;
  std::size_t together;          // output rows that are made of the same woven rows: 1 or 2
  std::uint8_t flip;             // exclusive-ored to codes of X as they are read: 0x80 where the kernel knows the other sign
  std::uint8_t pad_code;         // x_zero_point, as X has it
  std::int32_t y_zero_point;     // of unsigned codes
  std::uint8_t y_flip;           // 0x80 where Y's codes are signed

  // Rows of the image that `together` output rows are made of; those of one tap are `down.dilation` apart.
  std::size_t rows() const { return (together - 1) * down.stride + down.taps; }
  std::size_t groups() const { return (rows() + kWovenRows - 1) / kWovenRows; }
  std::size_t taps() const { return across.taps * groups(); }
  std::size_t block_bytes(std::size_t width) const { return width * (8 + together * taps() * kWovenRows); }
};

// Channels `first` to `first + count` in memory of `width`; count is less only where the tensor has no 16 channels.
struct DepthwiseBlock {
  const std::uint8_t* packed;
  std::size_t first;
  std::size_t width;
  std::size_t count;
};

// One image and the result, whose elements are so many bytes apart.
struct DepthwiseImage {
  const std::uint8_t* x;
  std::uint8_t* y;
  std::size_t rows, columns;
  std::size_t y_columns;
  std::size_t x_row, x_column, y_row, y_column;
};

struct DepthwiseKernels {
  std::size_t widest;   // of its blocks
  bool signed_codes;    // whether its dot product takes signed codes

  // Of one block, the output row `row`, and where `rows` is 2 the next one. `woven` is aligned memory of
  // `woven_bytes(filter, width)`.
  void (*convolve)(const DepthwiseFilter& filter, const DepthwiseBlock& block, const DepthwiseImage& image,
                   std::size_t row, std::size_t rows, std::uint8_t* woven);
};

// Output columns that are made at a time: their woven rows stay in the first-level cache.
inline std::size_t columns_together(const DepthwiseFilter& filter, std::size_t width) {
  constexpr std::size_t kBytes = 16 * 1024, kFewest = 8;
  const std::size_t columns = kBytes / (filter.groups() * kWovenRows * width);
  const std::size_t window = filter.across.window();
  const std::size_t fit = columns > window ? (columns - window) / filter.across.stride + 1 : 1;
  return fit < kFewest ? kFewest : fit;
}

inline std::size_t woven_bytes(const DepthwiseFilter& filter, std::size_t width) {
  const std::size_t columns = (columns_together(filter, width) - 1) * filter.across.stride + filter.across.window();
  return columns * filter.groups() * kWovenRows * width;
}

// The channel within a block at place `i` of its vectors of `width / 4` lanes: within each 16 bytes, four vectors take four
// neighbours each.
inline std::size_t woven_channel(std::size_t width, std::size_t i) {
  const std::size_t lanes = width / 4, vector = i / lanes, lane = i % lanes;
  return lane / 4 * 16 + vector * 4 + lane % 4;
}

extern const DepthwiseKernels depthwise_scalar;
extern const DepthwiseKernels depthwise_avx2;
extern const DepthwiseKernels depthwise_avxvnni;
extern const DepthwiseKernels depthwise_avx512vnni;
extern const DepthwiseKernels depthwise_neon;
extern const DepthwiseKernels depthwise_neondot;

}  // namespace qcompiler
