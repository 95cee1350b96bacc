// Products of many rows with 4-bit weights in tiles of bfloat16, whose sums are float32: what is scaled a block at a time
// costs nothing then, and nothing is rounded as coarsely as to 8 bits. Weights are unpacked, some blocks at a time, and then
// serve all the rows: a tile's 16 rows of 32 values times 32 rows, two a tile's row, of 16 columns.

#include <immintrin.h>

#include "amx.h"
#include "int4.h"
#include "unroll.h"

namespace qcompiler {
namespace {

using amx::kTileBytes;
using amx::kTileRows;

constexpr std::size_t kRows = 128, kPanels = 4, kFewest = 24;
constexpr std::size_t kTileColumns = 16, kHalves = kPanelColumns / kTileColumns;
constexpr std::size_t kTileDepth = 32;  // the k of a tile
constexpr std::size_t kDepth = 256;     // the k that are unpacked at a time: 16 KB, as many as 32 rows' values
constexpr std::size_t kTileSize = kTileRows * kTileBytes;
constexpr long kStride = static_cast<long>(kTileBytes);

using Totals = float (*)[kPanelColumns];  // of a panel, a row after the other

struct Unpacked {
  alignas(64) std::uint8_t weights[kHalves][kDepth / 2][kTileBytes];  // two k a row
};

std::size_t row_bytes(const Int4Matrix& matrix) {
  return (matrix.blocks * matrix.block + kTileDepth - 1) / kTileDepth * kTileBytes;
}

// Sixteen rows are a run of tiles, one after another along K.
void pack_row(const Int4Matrix& matrix, const float* values, std::size_t row, std::uint8_t* packed) {
  constexpr std::size_t kLanes = 16;
  std::uint8_t* to = packed + row / kTileRows * kTileRows * row_bytes(matrix) + row % kTileRows * kTileBytes;
  const std::size_t end = row_bytes(matrix) / 2;
  for (std::size_t k = 0; k < end; k += kLanes) {
    const std::size_t left = k < matrix.depth ? matrix.depth - k : 0;
    const auto mask = static_cast<__mmask16>(left >= kLanes ? 0xFFFF : (1u << left) - 1);
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, values + (left > 0 ? k : 0)));
    __builtin_memcpy(to + k / kTileDepth * kTileSize + k % kTileDepth * 2, &rounded, sizeof rounded);
  }
}

QCOMPILER_INLINE __m512 load_scales(const Int4Matrix& matrix, const std::uint8_t* scales, std::size_t column) {
  if (!matrix.half_scales) return _mm512_loadu_ps(scales + column * 4);
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales + column * 2)));
}

QCOMPILER_INLINE __m512 load_zero_points(const Int4Matrix& matrix, const std::uint8_t* zero_points, std::size_t column) {
  if (!matrix.zero_points) return _mm512_set1_ps(8.0f);
  const auto* from = reinterpret_cast<const __m256i*>(zero_points + column * 2);
  return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256(from)));
}

// Sixteen weights of one k, in float32: four bits become the upper ones of a significand, whose value is 1 + code / 16.
// kShift is how far to the left they are moved.
template <int kShift>
QCOMPILER_INLINE __m512i weights_of(__m512i packed, __m512 slope, __m512 start) {
  constexpr int kAndOr = 0xEA;  // (a & b) | c
  __m512i moved;
  if constexpr (kShift >= 0) {
    moved = _mm512_slli_epi32(packed, kShift);
  } else {
    moved = _mm512_srli_epi32(packed, -kShift);
  }
  const __m512i code = _mm512_ternarylogic_epi32(moved, _mm512_set1_epi32(0x780000), _mm512_set1_epi32(0x3F800000), kAndOr);
  return _mm512_castps_si512(_mm512_fmadd_ps(_mm512_castsi512_ps(code), slope, start));
}

// Two neighbouring k of sixteen columns as a tile's row.
template <int kFirstShift, int kSecondShift>
QCOMPILER_INLINE void unpack_pair(__m512i packed, __m512 slope, __m512 start, std::uint8_t* to) {
  const __m512i half = _mm512_set1_epi32(0x8000);
  const __m512i first = _mm512_add_epi32(weights_of<kFirstShift>(packed, slope, start), half);
  const __m512i second = _mm512_add_epi32(weights_of<kSecondShift>(packed, slope, start), half);
  constexpr __mmask32 kUpper = 0xAAAAAAAA;
  _mm512_store_si512(to, _mm512_mask_blend_epi16(kUpper, _mm512_srli_epi32(first, 16), second));
}

// What follows the last block up to a tile's depth meets values of zero, so long as it is a number. `next` is what will be
// unpacked after this: weights come from afar, and by then they are here.
void unpack(const Int4Matrix& matrix, const std::uint8_t* block, std::size_t blocks, const std::uint8_t* next,
            Unpacked& unpacked) {
  const std::size_t scale_bytes = matrix.scale_bytes(), header = scale_bytes + matrix.zero_point_bytes();
  std::size_t row = 0;
  for (std::size_t b = 0; b < blocks; ++b) {
    for (std::size_t line = 0; line < matrix.block_bytes; line += 64) __builtin_prefetch(next + line, 0, 2);
    next += matrix.block_bytes;
    for (std::size_t half = 0; half < kHalves; ++half) {
      const std::size_t column = half * kTileColumns;
      const __m512 scales = load_scales(matrix, block, column), sixteen = _mm512_set1_ps(16.0f);
      const __m512 slope = _mm512_mul_ps(scales, sixteen);
      const __m512 zero_points = load_zero_points(matrix, block + scale_bytes, column);
      const __m512 start = _mm512_mul_ps(scales, _mm512_sub_ps(_mm512_set1_ps(-16.0f), zero_points));
      for (std::size_t group = 0; group < matrix.block / 8; ++group) {
        const __m512i packed = _mm512_loadu_si512(block + header + group * kGroupBytes + column * 4);
        std::uint8_t* to = unpacked.weights[half][row + 4 * group];
        unpack_pair<19, 11>(packed, slope, start, to);
        unpack_pair<3, -5>(packed, slope, start, to + kTileBytes);
        unpack_pair<15, 7>(packed, slope, start, to + 2 * kTileBytes);
        unpack_pair<-1, -9>(packed, slope, start, to + 3 * kTileBytes);
      }
    }
    row += matrix.block / 2;
    block += matrix.block_bytes;
  }
  for (; row % kTileRows != 0; ++row) {
    for (auto& half : unpacked.weights) _mm512_store_si512(half[row], _mm512_setzero_si512());
  }
  amx::written();
}

// Tiles 0, 1 are the sums of up to 16 rows and 3, 4 those of as many more, 2 and 5 their values, 6 and 7 the weights.
void shape(std::size_t rows) {
  amx::Shapes shapes;
  const std::size_t upper = rows < kTileRows ? rows : kTileRows, lower = rows > kTileRows ? rows - kTileRows : 1;
  shapes.set(0, 3, upper, kTileBytes);
  shapes.set(3, 3, lower, kTileBytes);
  shapes.set(6, 2, kTileRows, kTileBytes);
  shapes.load();
}

template <bool kLower>
void add_product(const std::uint8_t* values, std::size_t bytes, const Unpacked& unpacked, std::size_t steps, Totals totals) {
  constexpr long kTotalsStride = sizeof totals[0];
  _tile_loadd(0, totals[0], kTotalsStride);
  _tile_loadd(1, totals[0] + kTileColumns, kTotalsStride);
  if constexpr (kLower) {
    _tile_loadd(3, totals[kTileRows], kTotalsStride);
    _tile_loadd(4, totals[kTileRows] + kTileColumns, kTotalsStride);
  }
  for (std::size_t step = 0; step < steps; ++step) {
    _tile_loadd(6, unpacked.weights[0][step * kTileRows], kStride);
    _tile_loadd(2, values, kStride);
    _tile_dpbf16ps(0, 2, 6);
    _tile_loadd(7, unpacked.weights[1][step * kTileRows], kStride);
    _tile_dpbf16ps(1, 2, 7);
    if constexpr (kLower) {
      _tile_loadd(5, values + kTileRows * bytes, kStride);
      _tile_dpbf16ps(3, 5, 6);
      _tile_dpbf16ps(4, 5, 7);
    }
    values += kTileSize;
  }
  _tile_stored(0, totals[0], kTotalsStride);
  _tile_stored(1, totals[0] + kTileColumns, kTotalsStride);
  if constexpr (kLower) {
    _tile_stored(3, totals[kTileRows], kTotalsStride);
    _tile_stored(4, totals[kTileRows] + kTileColumns, kTotalsStride);
  }
}

void store(const float (*totals)[kPanelColumns], std::size_t rows, const float* bias, std::size_t columns, float* out,
           std::size_t stride) {
  for (std::size_t first = 0; first < columns; first += kTileColumns) {
    const std::size_t left = columns - first;
    const auto mask = static_cast<__mmask16>(left >= kTileColumns ? 0xFFFF : (1u << left) - 1);
    const __m512 more = bias == nullptr ? _mm512_setzero_ps() : _mm512_loadu_ps(bias + first);
    for (std::size_t r = 0; r < rows; ++r) {
      _mm512_mask_storeu_ps(out + r * stride + first, mask, _mm512_add_ps(_mm512_load_ps(totals[r] + first), more));
    }
  }
}

void multiply(const Int4Matrix& matrix, const std::uint8_t* panel, const std::uint8_t* packed, std::size_t rows,
              const float* bias, std::size_t columns, float* out, std::size_t stride) {
  const std::size_t together = kDepth / matrix.block, bytes = row_bytes(matrix);
  constexpr std::size_t kBoth = 2 * kTileRows;
  const std::size_t whole = rows / kBoth * kBoth, left = rows - whole;
  const std::size_t panels = (columns + kPanelColumns - 1) / kPanelColumns;
  alignas(64) float totals[kPanels][kRows][kPanelColumns];
  __builtin_memset(totals, 0, panels * sizeof totals[0]);
  amx::written();
  Unpacked unpacked;
  // The rows' values of these k stay in the second-level cache while panel after panel is multiplied with them.
  for (std::size_t b = 0; b < matrix.blocks; b += together) {
    const std::size_t blocks = matrix.blocks - b < together ? matrix.blocks - b : together;
    const std::size_t steps = (blocks * matrix.block + kTileDepth - 1) / kTileDepth;
    const std::uint8_t* values = packed + b * matrix.block / kTileDepth * kTileSize;
    for (std::size_t p = 0; p < panels; ++p) {
      const std::uint8_t* weights = panel + p * matrix.panel_bytes() + b * matrix.block_bytes;
      const std::uint8_t* next = p + 1 < panels ? weights + matrix.panel_bytes() : panel + (b + together) * matrix.block_bytes;
      unpack(matrix, weights, blocks, next, unpacked);
      const bool first = b == 0 && p == 0;
      if (whole > 0 && (first || left > 0)) shape(kBoth);
      for (std::size_t row = 0; row < whole; row += kBoth) {
        add_product<true>(values + row * bytes, bytes, unpacked, steps, totals[p] + row);
      }
      if (left == 0) continue;
      if (whole > 0 || first) shape(left);
      const auto add_last = left > kTileRows ? add_product<true> : add_product<false>;
      add_last(values + whole * bytes, bytes, unpacked, steps, totals[p] + whole);
    }
  }
  _tile_release();
  for (std::size_t p = 0; p < panels; ++p) {
    const std::size_t column = p * kPanelColumns, width = columns - column;
    store(totals[p], rows, bias == nullptr ? nullptr : bias + column, width < kPanelColumns ? width : kPanelColumns,
          out + column, stride);
  }
}

}  // namespace

const Int4ManyRows int4_amx = {kFewest, kRows, kPanels, row_bytes, pack_row, multiply};

}  // namespace qcompiler
