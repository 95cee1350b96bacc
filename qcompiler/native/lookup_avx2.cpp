#include <immintrin.h>

#include "lookup_plain.h"

namespace qcompiler {
namespace {

constexpr std::size_t kFewest = 64;  // below, preparing the table takes longer than looking up an element at a time
constexpr std::size_t kParts = 16;   // a shuffle looks up in 16 entries

// A shuffle gives zero where an index is negative, and else looks at its lower four bits only. So going up by parts of 16
// entries, each subtracted from x before, the part that x lies in is the last one that gives anything. What parts before
// it gave is undone by storing every part combined, by exclusive or, with the one before. Saturation keeps a negative x
// negative: those are the codes from 128 on, looked up the same way after their sign is turned.
void bytes(const std::uint8_t* x, std::size_t count, const std::uint8_t* table, std::uint8_t* y) {
  std::size_t i = 0;
  if (count >= kFewest) {
    __m256i parts[kParts];
    __m256i before = _mm256_setzero_si256();
    for (std::size_t part = 0; part < kParts; ++part) {
      if (part == kParts / 2) before = _mm256_setzero_si256();
      const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table + part * 16));
      const __m256i entries = _mm256_broadcastsi128_si256(sixteen);
      parts[part] = _mm256_xor_si256(entries, before);
      before = entries;
    }
    const __m256i sign = _mm256_set1_epi8(-128), step = _mm256_set1_epi8(16);
    constexpr std::size_t kVectors = 2;
    for (; i + kVectors * 32 <= count; i += kVectors * 32) {
      __m256i given[kVectors], found[kVectors];
      for (std::size_t v = 0; v < kVectors; ++v) {
        given[v] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i + v * 32));
        found[v] = _mm256_setzero_si256();
      }
      for (std::size_t half = 0; half < 2; ++half) {
        __m256i index[kVectors];
        for (std::size_t v = 0; v < kVectors; ++v) index[v] = half == 0 ? given[v] : _mm256_xor_si256(given[v], sign);
        for (std::size_t part = 0; part < kParts / 2; ++part) {
          for (std::size_t v = 0; v < kVectors; ++v) {
            found[v] = _mm256_xor_si256(found[v], _mm256_shuffle_epi8(parts[half * kParts / 2 + part], index[v]));
            index[v] = _mm256_subs_epi8(index[v], step);
          }
        }
      }
      for (std::size_t v = 0; v < kVectors; ++v) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + i + v * 32), found[v]);
      }
    }
  }
  look_up(x + i, count - i, table, y + i);
}

}  // namespace

extern const LookupKernels lookup_avx2 = {bytes, look_up<std::uint32_t>, look_up_by_column<std::uint8_t>,
                                          look_up_by_column<std::uint32_t>, multiply,
                                          multiply_by_column};

}  // namespace qcompiler
