// The kernels of lookup.h, an element at a time: the whole of the scalar ones, and what the others do with few elements.
// Each file that includes this compiles a copy of its own: nothing here may be shared between instruction sets.

#include "lookup.h"

namespace qcompiler {
namespace {

template <typename Entry>
void look_up(const std::uint8_t* x, std::size_t count, const Entry* table, Entry* y) {
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    std::uint64_t eight;  // one load for eight elements
    __builtin_memcpy(&eight, x + i, sizeof eight);
    for (std::size_t j = 0; j < 8; ++j) y[i + j] = table[eight >> 8 * j & 0xFF];
  }
  for (; i < count; ++i) y[i] = table[x[i]];
}

template <typename Entry>
void look_up_by_column(const std::uint8_t* x, std::size_t rows, std::size_t columns, const Entry* tables, Entry* y) {
  // As many columns at a time as leave their tables in the first-level cache.
  constexpr std::size_t kColumns = 64 / sizeof(Entry);
  for (std::size_t first = 0; first < columns; first += kColumns) {
    const std::size_t end = first + kColumns < columns ? first + kColumns : columns;
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t i = first; i < end; ++i) y[row * columns + i] = tables[i * kTableEntries + x[row * columns + i]];
    }
  }
}

}  // namespace
}  // namespace qcompiler
