#include <immintrin.h>

#include "lookup_plain.h"

namespace qcompiler {
namespace {

constexpr std::size_t kLanes = 64;

// 256 bytes in four registers. A permutation of two of them looks at seven bits of an index; the eighth chooses.
struct Table {
  __m512i parts[4];

  explicit Table(const std::uint8_t* entries) {
    for (std::size_t part = 0; part < 4; ++part) parts[part] = _mm512_loadu_si512(entries + part * kLanes);
  }
  explicit Table(const __m512i (&given)[4]) : parts{given[0], given[1], given[2], given[3]} {}
  __m512i look_up(__m512i index, __mmask64 upper) const {
    return _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(parts[0], index, parts[1]),
                                  _mm512_permutex2var_epi8(parts[2], index, parts[3]));
  }
  __m512i look_up(__m512i index) const { return look_up(index, _mm512_movepi8_mask(index)); }
};

__mmask64 first(std::size_t count) { return ~__mmask64{0} >> (kLanes - count); }  // of 1 to 64 elements

void bytes(const std::uint8_t* x, std::size_t count, const std::uint8_t* entries, std::uint8_t* y) {
  constexpr std::size_t kFewest = 12;  // below, an element at a time is faster
  if (count < kFewest) return look_up(x, count, entries, y);
  const Table table(entries);
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) _mm512_storeu_si512(y + i, table.look_up(_mm512_loadu_si512(x + i)));
  if (i == count) return;
  const __mmask64 mask = first(count - i);
  _mm512_mask_storeu_epi8(y + i, mask, table.look_up(_mm512_maskz_loadu_epi8(mask, x + i)));
}

// 256 words as four tables of bytes.
struct Planes {
  __m512i planes[4][4];

  explicit Planes(const std::uint32_t* entries) {
    std::uint8_t by_plane[kLanes];
    for (std::size_t i = 0; i < kLanes; ++i) by_plane[i] = static_cast<std::uint8_t>(i % 16 * 4 + i / 16);
    const __m512i order = _mm512_loadu_si512(by_plane);
    for (std::size_t part = 0; part < 4; ++part) {
      __m512i words[4];  // each with quarters of the four planes, which then change places
      for (std::size_t i = 0; i < 4; ++i) {
        words[i] = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(entries + part * kLanes + i * 16));
      }
      const __m512i low01 = _mm512_shuffle_i32x4(words[0], words[1], 0x44);
      const __m512i low23 = _mm512_shuffle_i32x4(words[2], words[3], 0x44);
      const __m512i high01 = _mm512_shuffle_i32x4(words[0], words[1], 0xEE);
      const __m512i high23 = _mm512_shuffle_i32x4(words[2], words[3], 0xEE);
      planes[0][part] = _mm512_shuffle_i32x4(low01, low23, 0x88);
      planes[1][part] = _mm512_shuffle_i32x4(low01, low23, 0xDD);
      planes[2][part] = _mm512_shuffle_i32x4(high01, high23, 0x88);
      planes[3][part] = _mm512_shuffle_i32x4(high01, high23, 0xDD);
    }
  }
  Table table(std::size_t plane) const { return Table(planes[plane]); }
};

// A table of words is looked up as four tables of bytes, whose results are woven together.
void words(const std::uint8_t* x, std::size_t count, const std::uint32_t* entries, std::uint32_t* y) {
  constexpr std::size_t kFewest = 160;  // below, taking the table apart takes longer than looking up an element at a time
  if (count < kFewest) return look_up(x, count, entries, y);
  const Planes planes(entries);
  const Table tables[4] = {planes.table(0), planes.table(1), planes.table(2), planes.table(3)};
  // Weaving works within quarters of a register. So that the words come out in order, quarter j of the indices must hold
  // the fours 4 * k + j.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const auto sixty_four = [&](__m512i codes, __m512i (&found)[4]) {
    const __m512i index = _mm512_permutexvar_epi32(order, codes);
    const __mmask64 upper = _mm512_movepi8_mask(index);
    __m512i bytes[4];
    for (std::size_t plane = 0; plane < 4; ++plane) bytes[plane] = tables[plane].look_up(index, upper);
    const __m512i lower[2] = {_mm512_unpacklo_epi8(bytes[0], bytes[1]), _mm512_unpackhi_epi8(bytes[0], bytes[1])};
    const __m512i higher[2] = {_mm512_unpacklo_epi8(bytes[2], bytes[3]), _mm512_unpackhi_epi8(bytes[2], bytes[3])};
    for (std::size_t half = 0; half < 2; ++half) {
      found[2 * half] = _mm512_unpacklo_epi16(lower[half], higher[half]);
      found[2 * half + 1] = _mm512_unpackhi_epi16(lower[half], higher[half]);
    }
  };
  __m512i found[4];
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    sixty_four(_mm512_loadu_si512(x + i), found);
    for (std::size_t part = 0; part < 4; ++part) _mm512_storeu_si512(y + i + part * 16, found[part]);
  }
  if (i == count) return;
  const __mmask64 mask = first(count - i);
  sixty_four(_mm512_maskz_loadu_epi8(mask, x + i), found);
  for (std::size_t part = 0; part < 4; ++part) {
    _mm512_mask_storeu_epi32(y + i + part * 16, static_cast<__mmask16>(mask >> part * 16), found[part]);
  }
}

// 64 rows of 64 columns are turned over, so that a register holds a column, looked up, and turned back. Below, an element's
// place is a row of bits: r2 r1 r0 and a2 a1 a0 say which row it is of, 8 a + r, and j1 j0 c3 c2 c1 c0 which column, of which
// j is the quarter of a register. Eight registers are numbered by three bits; each step exchanges one of these with a bit of
// the place within a register, moving the bits between.
using Eight = __m512i[8];

template <std::size_t bit, typename Step>
void for_each_pair(Eight& v, const Step& step) {
  for (std::size_t i = 0; i < 8; ++i) {
    if ((i >> bit & 1) != 0) continue;
    const __m512i a = v[i], b = v[i | std::size_t{1} << bit];
    step(a, b, v[i], v[i | std::size_t{1} << bit]);
  }
}

// The number's bit goes to the lowest place among a quarter's bytes, whose highest becomes the number's bit.
template <std::size_t bit>
void weave(Eight& v) {
  for_each_pair<bit>(v, [](__m512i a, __m512i b, __m512i& low, __m512i& high) {
    low = _mm512_unpacklo_epi8(a, b);
    high = _mm512_unpackhi_epi8(a, b);
  });
}

// The number's bits 0, 1 and 2 change places with the half of a quarter and the two bits of the quarter.
void turn_eights(Eight& v) {
  for_each_pair<0>(v, [](__m512i a, __m512i b, __m512i& low, __m512i& high) {
    low = _mm512_unpacklo_epi64(a, b);
    high = _mm512_unpackhi_epi64(a, b);
  });
  const auto quarters = [](__m512i a, __m512i b, __m512i& even, __m512i& odd) {
    even = _mm512_shuffle_i32x4(a, b, 0x88);
    odd = _mm512_shuffle_i32x4(a, b, 0xDD);
  };
  for_each_pair<1>(v, quarters);
  for_each_pair<2>(v, quarters);
}

// `tables` are those of the columns. `given` masks the columns there are; rows are `stride` bytes apart.
void look_up_tile(const std::uint8_t* x, std::size_t rows, std::size_t stride, __mmask64 given,
                  const std::uint8_t* const* tables, std::uint8_t* y) {
  __m512i turned[8][8];
  for (std::size_t a = 0; a < 8; ++a) {  // number r2 r1 r0, bytes c3 c2 c1 c0
    Eight v;
    for (std::size_t i = 0; i < 8; ++i) {
      const std::size_t row = 8 * a + i;
      v[i] = row < rows ? _mm512_maskz_loadu_epi8(given, x + row * stride) : _mm512_setzero_si512();
    }
    weave<2>(v);
    weave<1>(v);
    weave<0>(v);  // number c3 c2 c1, bytes c0 r2 r1 r0
    for (std::size_t q = 0; q < 8; ++q) turned[q][a] = v[q];
  }
  for (std::size_t q = 0; q < 8; ++q) {
    Eight& v = turned[q];
    turn_eights(v);  // number j1 j0 c0
    for (std::size_t i = 0; i < 8; ++i) {
      const std::size_t column = i / 2 * 16 + q * 2 + i % 2;
      if ((given >> column & 1) != 0) v[i] = Table(tables[column]).look_up(v[i]);
    }
    turn_eights(v);
  }
  for (std::size_t a = 0; a < 8; ++a) {
    Eight v;
    for (std::size_t q = 0; q < 8; ++q) v[q] = turned[q][a];
    weave<2>(v);  // number c0 c2 c1, bytes r2 r1 r0 c3
    weave<1>(v);  // number c0 r2 c1, bytes r1 r0 c3 c2
    weave<0>(v);  // number c0 r2 r1, bytes r0 c3 c2 c1
    weave<2>(v);  // number r0 r2 r1, bytes c3 c2 c1 c0
    for (std::size_t i = 0; i < 8; ++i) {
      const std::size_t row = 8 * a + (i >> 1 & 1) * 4 + (i & 1) * 2 + (i >> 2);
      if (row < rows) _mm512_mask_storeu_epi8(y + row * stride, given, v[i]);
    }
  }
}

void bytes_by_column(const std::uint8_t* x, std::size_t rows, std::size_t columns, const std::uint8_t* tables,
                     std::uint8_t* y) {
  constexpr std::size_t kFewest = 24;  // rows of a tile; below, an element at a time is faster
  const std::size_t folded = columns < kLanes ? kLanes / columns : 1;  // so many short rows are one row of a tile
  const std::size_t stride = folded * columns;
  const std::size_t tiled = rows / folded % kLanes < kFewest ? rows / folded / kLanes * kLanes : rows / folded;
  for (std::size_t first_column = 0; first_column < stride && tiled > 0; first_column += kLanes) {
    const std::size_t width = stride - first_column < kLanes ? stride - first_column : kLanes;
    const std::uint8_t* of_column[kLanes];
    for (std::size_t i = 0; i < width; ++i) of_column[i] = tables + (first_column + i) % columns * kTableEntries;
    for (std::size_t row = 0; row < tiled; row += kLanes) {
      const std::size_t at = row * stride + first_column;
      look_up_tile(x + at, tiled - row < kLanes ? tiled - row : kLanes, stride, first(width), of_column, y + at);
    }
  }
  const std::size_t done = tiled * folded;
  look_up_by_column(x + done * columns, rows - done, columns, tables, y + done * columns);
}

}  // namespace

extern const LookupKernels lookup_avx512vbmi = {bytes, words, bytes_by_column, look_up_by_column<std::uint32_t>, multiply,
                                                multiply_by_column};

}  // namespace qcompiler
