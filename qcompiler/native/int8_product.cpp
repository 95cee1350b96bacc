#include "int8_product.h"

#include <algorithm>
#include <new>

#include "ort_call.h"

namespace qcompiler {
namespace {

// Below these, in multiplications and in values of A, handing work to threads takes longer than doing it.
constexpr std::size_t kWorthThreads = std::size_t{1} << 20;
constexpr std::size_t kWorthQuantizingInThreads = std::size_t{1} << 15;

}  // namespace

void Int8Scratch::reserve(const Int8Matrix& matrix, std::size_t rows) {
  constexpr std::size_t kCacheLine = 64;
  const std::size_t size = rows * matrix.row_bytes();
  if (size > size_ || codes_ == nullptr) {
    void* memory = std::aligned_alloc(kCacheLine, (size / kCacheLine + 1) * kCacheLine);
    if (memory == nullptr) throw std::bad_alloc();
    codes_.reset(static_cast<std::uint8_t*>(memory));
    size_ = size;
  }
  if (rows > rows_.size()) rows_.resize(rows);
}

void multiply_int8(const ort::Api& api, const ort::KernelContext* context, const Int8Kernels& kernels,
                   const Int8Matrix& matrix, const float* a, std::size_t rows, const float* bias, float* y,
                   Int8Scratch& scratch) {
  const std::size_t tiles = (rows + kernels.rows - 1) / kernels.rows;
  // Tiles as equal as can be: 8 rows are 4 and 4 rather than 6 and 2.
  const auto first_row = [&](std::size_t tile) { return tile * (rows / tiles) + std::min(tile, rows % tiles); };
  scratch.reserve(matrix, rows);
  std::uint8_t* codes = scratch.codes();
  Int8Row* scales = scratch.rows();

  const auto quantize = [&](std::size_t tile) {
    for (std::size_t row = first_row(tile); row < first_row(tile + 1); ++row) {
      scales[row] = kernels.quantize_row(matrix, a + row * matrix.depth, codes + row * matrix.row_bytes());
    }
  };
  const auto multiply_tile = [&](std::size_t panel, std::size_t tile) {
    const std::size_t first = first_row(tile), column = panel * kInt8Columns;
    kernels.multiply(matrix, matrix.panels + panel * matrix.panel_bytes(), codes + first * matrix.row_bytes(),
                     scales + first, first_row(tile + 1) - first, bias == nullptr ? nullptr : bias + column,
                     std::min(kInt8Columns, matrix.columns - column), y + first * matrix.columns + column,
                     matrix.columns);
  };

  // A panel stays in the second-level cache while tile after tile of rows is multiplied with it. Where panels are too
  // few for the threads, the rows are divided too.
  constexpr std::size_t kEnough = 32;
  const std::size_t panels = matrix.panel_count();
  const std::size_t parts = std::min(tiles, panels >= kEnough ? 1 : (kEnough + panels - 1) / panels);
  const auto multiply_part = [&](std::size_t unit) {
    const std::size_t panel = unit / parts, part = unit % parts;
    for (std::size_t tile = part * tiles / parts; tile < (part + 1) * tiles / parts; ++tile) multiply_tile(panel, tile);
  };

  for_each(api, context, tiles, rows * matrix.depth >= kWorthQuantizingInThreads, quantize);
  for_each(api, context, panels * parts, rows * matrix.depth * matrix.columns >= kWorthThreads, multiply_part);
}

}  // namespace qcompiler
