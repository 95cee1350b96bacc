// Products of up to 32 rows in tiles: 16 rows of 64 codes times 64 rows (four a tile's row) of 16 columns. A panel's groups
// lie in memory as a tile wants its right operand. Fewer rows than kFewRows are multiplied as AVX512-VNNI does.

#include "amx.h"
#include "int8_avx512_vectors.h"
#include "int8_columns.h"

namespace qcompiler {
namespace {

using amx::kTileBytes;
using amx::kTileRows;

constexpr std::size_t kRows = 2 * kTileRows, kFewRows = 4;
constexpr std::size_t kDepth = kTileBytes;                             // of a tile
constexpr std::size_t kTileGroups = kTileRows;                         // four k each
constexpr long kWeightsStride = static_cast<long>(kInt8Group);

Int8Row quantize_row(const Int8Matrix& matrix, const float* values, std::uint8_t* codes) {
  return int8_avx512vnni.quantize_row(matrix, values, codes);
}

// The last groups of kColumnTiles times 16 columns, where they do not fill a tile: followed by zeros.
template <int kColumnTiles>
struct LastGroups {
  alignas(64) std::uint8_t bytes[kTileGroups][static_cast<std::size_t>(kColumnTiles) * kTileBytes] = {};

  LastGroups(const std::uint8_t* weights, std::size_t groups) {
    for (std::size_t group = 0; group < groups; ++group) {
      __builtin_memcpy(bytes[group], weights + group * kInt8Group, sizeof bytes[group]);
    }
    amx::written();
  }
};

// Calls step(codes, weights, stride of the weights) for every 64 k of the columns that start at `weights`.
template <int kColumnTiles, typename Step>
QCOMPILER_INLINE void for_depth(const Int8Matrix& matrix, const std::uint8_t* codes, const std::uint8_t* weights,
                                const Step& step) {
  std::size_t groups = matrix.groups();
  for (; groups >= kTileGroups; groups -= kTileGroups) {
    step(codes, weights, kWeightsStride);
    codes += kDepth;
    weights += kTileGroups * kInt8Group;
  }
  if (groups == 0) return;
  const LastGroups<kColumnTiles> last(weights, groups);
  step(codes, last.bytes[0], static_cast<long>(sizeof last.bytes[0]));
}

// Up to 16 rows and all columns.
void multiply_one(const Int8Matrix& matrix, const std::uint8_t* panel, const std::uint8_t* codes, const Int8Row* scales,
                  std::size_t rows, const float* bias, std::size_t columns, float* out, std::size_t stride) {
  amx::Shapes shapes;
  shapes.set(0, 5, rows, kTileBytes);       // four of sums, one of codes
  shapes.set(5, 2, kTileRows, kTileBytes);  // weights
  shapes.load();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const long row_bytes = static_cast<long>(matrix.row_bytes());
  for_depth<4>(matrix, codes, panel + kInt8Header,
               [&](const std::uint8_t* row, const std::uint8_t* weights, long weights_stride) __attribute__((always_inline)) {
                 _tile_loadd(4, row, row_bytes);
                 _tile_loadd(5, weights, weights_stride);
                 _tile_dpbusd(0, 4, 5);
                 _tile_loadd(6, weights + kTileBytes, weights_stride);
                 _tile_dpbusd(1, 4, 6);
                 _tile_loadd(5, weights + 2 * kTileBytes, weights_stride);
                 _tile_dpbusd(2, 4, 5);
                 _tile_loadd(6, weights + 3 * kTileBytes, weights_stride);
                 _tile_dpbusd(3, 4, 6);
               });
  V::I products[kTileRows][4];
  _tile_stored(0, &products[0][0], sizeof products[0]);
  _tile_stored(1, &products[0][1], sizeof products[0]);
  _tile_stored(2, &products[0][2], sizeof products[0]);
  _tile_stored(3, &products[0][3], sizeof products[0]);
  _tile_release();
  store_columns<4>(products, panel, scales, static_cast<int>(rows), 0, bias, columns, out, stride);
}

// 17 to 32 rows, 32 columns at a time.
void multiply_two(const Int8Matrix& matrix, const std::uint8_t* panel, const std::uint8_t* codes, const Int8Row* scales,
                  std::size_t rows, const float* bias, std::size_t columns, float* out, std::size_t stride) {
  amx::Shapes shapes;
  shapes.set(0, 3, kTileRows, kTileBytes);         // two of sums, one of codes: the first 16 rows
  shapes.set(3, 3, rows - kTileRows, kTileBytes);  // the same of the others
  shapes.set(6, 2, kTileRows, kTileBytes);         // weights
  shapes.load();
  const long row_bytes = static_cast<long>(matrix.row_bytes());
  const std::size_t lower_rows = kTileRows * matrix.row_bytes();
  constexpr std::size_t kWidth = 32;
  for (std::size_t first = 0; first < columns; first += kWidth) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(3);
    _tile_zero(4);
    for_depth<2>(matrix, codes, panel + kInt8Header + first * 4,
                 [&](const std::uint8_t* row, const std::uint8_t* weights, long weights_stride) __attribute__((always_inline)) {
                   _tile_loadd(6, weights, weights_stride);
                   _tile_loadd(2, row, row_bytes);
                   _tile_dpbusd(0, 2, 6);
                   _tile_loadd(5, row + lower_rows, row_bytes);
                   _tile_dpbusd(3, 5, 6);
                   _tile_loadd(7, weights + kTileBytes, weights_stride);
                   _tile_dpbusd(1, 2, 7);
                   _tile_dpbusd(4, 5, 7);
                 });
    V::I products[kRows][2];
    _tile_stored(0, &products[0][0], sizeof products[0]);
    _tile_stored(1, &products[0][1], sizeof products[0]);
    _tile_stored(3, &products[kTileRows][0], sizeof products[0]);
    _tile_stored(4, &products[kTileRows][1], sizeof products[0]);
    store_columns<2>(products, panel, scales, static_cast<int>(rows), first, bias, columns, out, stride);
  }
  _tile_release();
}

void multiply(const Int8Matrix& matrix, const std::uint8_t* panel, const std::uint8_t* codes, const Int8Row* scales,
              std::size_t rows, const float* bias, std::size_t columns, float* out, std::size_t stride) {
  if (rows > kTileRows) {
    multiply_two(matrix, panel, codes, scales, rows, bias, columns, out, stride);
  } else if (rows >= kFewRows) {
    multiply_one(matrix, panel, codes, scales, rows, bias, columns, out, stride);
  } else {
    int8_avx512vnni.multiply(matrix, panel, codes, scales, rows, bias, columns, out, stride);
  }
}

}  // namespace

const Int8Kernels int8_amx = {kRows, quantize_row, multiply};

}  // namespace qcompiler
