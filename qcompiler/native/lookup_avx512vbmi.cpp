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
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const __m512i a = _mm512_loadu_si512(x + i), b = _mm512_loadu_si512(x + i + kLanes);
    _mm512_storeu_si512(y + i, table.look_up(a));
    _mm512_storeu_si512(y + i + kLanes, table.look_up(b));
  }
  while (i < count) {
    const std::size_t part = count - i < kLanes ? count - i : kLanes;
    const __mmask64 mask = first(part);
    _mm512_mask_storeu_epi8(y + i, mask, table.look_up(_mm512_maskz_loadu_epi8(mask, x + i)));
    i += part;
  }
}

// A table of words is looked up as four tables of bytes, whose results are woven together.
void words(const std::uint8_t* x, std::size_t count, const std::uint32_t* entries, std::uint32_t* y) {
  constexpr std::size_t kFewest = 256;  // below, taking the table apart takes longer than looking up an element at a time
  std::size_t i = 0;
  if (count >= kFewest) {
    std::uint8_t planes[4][kTableEntries];
    for (std::size_t entry = 0; entry < kTableEntries; entry += 16) {
      const __m512i sixteen = _mm512_loadu_si512(entries + entry);
      for (unsigned plane = 0; plane < 4; ++plane) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(planes[plane] + entry),
                         _mm512_cvtepi32_epi8(_mm512_srli_epi32(sixteen, 8 * plane)));
      }
    }
    const Table tables[4] = {Table(planes[0]), Table(planes[1]), Table(planes[2]), Table(planes[3])};
    // Weaving works within quarters of a register. So that the words come out in order, quarter j of the indices must
    // hold the fours 4 * k + j.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (; i + kLanes <= count; i += kLanes) {
      const __m512i index = _mm512_permutexvar_epi32(order, _mm512_loadu_si512(x + i));
      const __mmask64 upper = _mm512_movepi8_mask(index);
      __m512i found[4];
      for (std::size_t plane = 0; plane < 4; ++plane) found[plane] = tables[plane].look_up(index, upper);
      const __m512i lower[2] = {_mm512_unpacklo_epi8(found[0], found[1]), _mm512_unpackhi_epi8(found[0], found[1])};
      const __m512i higher[2] = {_mm512_unpacklo_epi8(found[2], found[3]), _mm512_unpackhi_epi8(found[2], found[3])};
      for (std::size_t half = 0; half < 2; ++half) {
        _mm512_storeu_si512(y + i + half * 32, _mm512_unpacklo_epi16(lower[half], higher[half]));
        _mm512_storeu_si512(y + i + half * 32 + 16, _mm512_unpackhi_epi16(lower[half], higher[half]));
      }
    }
  }
  look_up(x + i, count - i, entries, y + i);
}

}  // namespace

extern const LookupKernels lookup_avx512vbmi = {bytes, words, look_up_by_column<std::uint8_t>,
                                                look_up_by_column<std::uint32_t>, multiply};

}  // namespace qcompiler
