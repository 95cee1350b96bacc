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
      const std::size_t at = row * columns;
      std::size_t i = first;
      for (; i + 8 <= end; i += 8) {
        std::uint64_t eight;
        __builtin_memcpy(&eight, x + at + i, sizeof eight);
        for (std::size_t j = 0; j < 8; ++j) y[at + i + j] = tables[(i + j) * kTableEntries + (eight >> 8 * j & 0xFF)];
      }
      for (; i < end; ++i) y[at + i] = tables[i * kTableEntries + x[at + i]];
    }
  }
}

// Of a form that compilers turn into vector instructions. `factor` gives the factor of an element.
template <typename Factor>
inline void multiply_with(const Product& product, const Factor& factor, const std::uint8_t* x, std::size_t count,
                          std::uint8_t* y) {
  // Added to a small number, this leaves the number's nearest integer in the lowest bits.
  constexpr float kRounding = 0x1.8p23f;
  constexpr std::int32_t kRoundingBits = 0x4B400000;
  const Product p = product;  // a copy that no store to y can change
  const std::int32_t offset = p.sign;  // signed codes, their sign turned, are unsigned ones and 128 more
  const float low = static_cast<float>(0 - offset - p.y_zero_point);
  const float high = static_cast<float>(255 - offset - p.y_zero_point);
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t code = (x[i] ^ p.sign) - offset - p.x_zero_point;
    float value = static_cast<float>(code) * factor(i) * p.scale;
    value = value > low ? value : low;
    value = value < high ? value : high;
    value += kRounding;
    std::int32_t rounded;
    __builtin_memcpy(&rounded, &value, sizeof rounded);
    y[i] = static_cast<std::uint8_t>((rounded - kRoundingBits + p.y_zero_point + offset) ^ p.sign);
  }
}

void multiply(const Product& product, const std::uint8_t* x, std::size_t count, std::uint8_t* y) {
  const float factor = static_cast<float>(product.factor);
  multiply_with(product, [factor](std::size_t) { return factor; }, x, count, y);
}

void multiply_by_column(const Product& product, const float* factors, std::size_t period, const std::uint8_t* x,
                        std::size_t count, std::uint8_t* y) {
  for (std::size_t at = 0; at < count; at += period) {
    const std::size_t part = count - at < period ? count - at : period;
    multiply_with(product, [factors](std::size_t i) { return factors[i]; }, x + at, part, y + at);
  }
}

}  // namespace
}  // namespace qcompiler
