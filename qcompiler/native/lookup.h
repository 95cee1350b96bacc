// Lookups in tables of 256 entries: one for each value of a byte.
//
// Entries are bytes or words of 32 bits. What they stand for, codes or floats, no kernel needs to know.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qcompiler {

inline constexpr std::size_t kTableEntries = 256;

// y = (x - x_zero_point) * factor * scale + y_zero_point, rounded to the nearest, to the even one of two, and saturated.
struct Product {
  std::int32_t x_zero_point;
  std::int32_t factor;  // the other code less its zero point
  float scale;          // of x, times that of the other, over that of y; finite and not negative
  std::int32_t y_zero_point;
  std::uint8_t sign;  // 0x80 where codes and zero points are signed, else 0
};

struct LookupKernels {
  // y[i] = table[x[i]] for i below `count`. `y` of bytes may be `x` itself.
  void (*bytes)(const std::uint8_t* x, std::size_t count, const std::uint8_t* table, std::uint8_t* y);
  void (*words)(const std::uint8_t* x, std::size_t count, const std::uint32_t* table, std::uint32_t* y);

  // The same for rows of `columns` elements, one after the other, where every column has a table of its own.
  void (*bytes_by_column)(const std::uint8_t* x, std::size_t rows, std::size_t columns, const std::uint8_t* tables,
                          std::uint8_t* y);
  void (*words_by_column)(const std::uint8_t* x, std::size_t rows, std::size_t columns, const std::uint32_t* tables,
                          std::uint32_t* y);

  // `y` may be `x` itself.
  void (*multiply)(const Product& product, const std::uint8_t* x, std::size_t count, std::uint8_t* y);

  // The same with factors that come again after `period` elements, in place of the product's own.
  void (*multiply_by_column)(const Product& product, const float* factors, std::size_t period, const std::uint8_t* x,
                             std::size_t count, std::uint8_t* y);
};

extern const LookupKernels lookup_scalar;
extern const LookupKernels lookup_avx2;
extern const LookupKernels lookup_avx512vbmi;
extern const LookupKernels lookup_neon;

}  // namespace qcompiler
