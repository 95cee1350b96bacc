// Lookups in tables of 256 entries: one for each value of a byte.
//
// Entries are bytes or words of 32 bits. What they stand for, codes or floats, no kernel needs to know.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qcompiler {

inline constexpr std::size_t kTableEntries = 256;

struct LookupKernels {
  // y[i] = table[x[i]] for i below `count`. `y` of bytes may be `x` itself.
  void (*bytes)(const std::uint8_t* x, std::size_t count, const std::uint8_t* table, std::uint8_t* y);
  void (*words)(const std::uint8_t* x, std::size_t count, const std::uint32_t* table, std::uint32_t* y);

  // The same for rows of `columns` elements, one after the other, where every column has a table of its own.
  void (*bytes_by_column)(const std::uint8_t* x, std::size_t rows, std::size_t columns, const std::uint8_t* tables,
                          std::uint8_t* y);
  void (*words_by_column)(const std::uint8_t* x, std::size_t rows, std::size_t columns, const std::uint32_t* tables,
                          std::uint32_t* y);
};

extern const LookupKernels lookup_scalar;
extern const LookupKernels lookup_avx2;
extern const LookupKernels lookup_avx512vbmi;
extern const LookupKernels lookup_neon;

}  // namespace qcompiler
