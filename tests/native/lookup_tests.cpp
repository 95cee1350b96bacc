// The kernels for lookups, without ONNX Runtime: those of every instruction set this processor has against the definition.
// What is read is exactly as large as it must be, what is written has margins that must stay: run under sanitizers.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "check.h"
#include "isa.h"

namespace {

using qcompiler::kTableEntries;
using qcompiler::LookupKernels;
using qcompiler::Product;

constexpr std::size_t kMargin = 64;

// On the heap and exactly as large as asked for: the sanitizer sees the first byte past the end.
template <typename T>
std::unique_ptr<T[]> random_values(std::size_t count, std::mt19937& random) {
  std::unique_ptr<T[]> values(new T[count]);
  for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<T>(random());
  return values;
}

// Y with a margin before and after, whose bits are those of a NaN.
template <typename Entry>
class Output {
 public:
  explicit Output(std::size_t count) : memory_(count + 2 * kMargin, kNan) {}
  Entry* data() { return memory_.data() + kMargin; }
  bool margins_stay() const {
    const auto stays = [](Entry entry) { return entry == kNan; };
    return std::all_of(memory_.begin(), memory_.begin() + kMargin, stays) &&
           std::all_of(memory_.end() - kMargin, memory_.end(), stays);
  }

 private:
  static constexpr auto kNan = static_cast<Entry>(0x7FC0DEADu);
  std::vector<Entry> memory_;
};

std::vector<std::size_t> counts() {
  std::vector<std::size_t> all;
  for (std::size_t count = 0; count <= 330; ++count) all.push_back(count);
  for (const std::size_t count : {509u, 512u, 1021u, 4099u}) all.push_back(count);
  return all;
}

template <typename Entry, typename Kernel>
void one_table(Kernel kernel) {
  std::mt19937 random(1);
  for (const std::size_t count : counts()) {
    const auto x = random_values<std::uint8_t>(count, random);
    const auto table = random_values<Entry>(kTableEntries, random);
    Output<Entry> y(count);
    kernel(x.get(), count, table.get(), y.data());
    bool right = true;
    for (std::size_t i = 0; i < count; ++i) right = right && y.data()[i] == table[x[i]];
    CHECK(right);
    CHECK(y.margins_stay());
  }
}

template <typename Entry, typename Kernel>
void a_table_for_each_column(Kernel kernel) {
  std::mt19937 random(2);
  for (const std::size_t rows : {1u, 2u, 3u, 17u, 63u, 64u, 65u, 88u, 131u, 2053u}) {
    for (const std::size_t columns : {1u, 2u, 3u, 15u, 16u, 17u, 31u, 32u, 33u, 63u, 64u, 65u, 127u, 131u}) {
      if (rows * columns > 70000) continue;
      const auto x = random_values<std::uint8_t>(rows * columns, random);
      const auto tables = random_values<Entry>(columns * kTableEntries, random);
      Output<Entry> y(rows * columns);
      kernel(x.get(), rows, columns, tables.get(), y.data());
      bool right = true;
      for (std::size_t i = 0; i < rows * columns; ++i) {
        right = right && y.data()[i] == tables[i % columns * kTableEntries + x[i]];
      }
      CHECK(right);
      CHECK(y.margins_stay());
    }
  }
}

void every_code_in_every_place(const LookupKernels& kernels) {
  std::uint8_t turned[kTableEntries];  // no entry is its own index
  for (std::size_t i = 0; i < kTableEntries; ++i) turned[i] = static_cast<std::uint8_t>(i + 101);
  for (std::size_t first = 0; first < kTableEntries; ++first) {
    std::uint8_t x[kTableEntries], y[kTableEntries];
    for (std::size_t i = 0; i < kTableEntries; ++i) x[i] = static_cast<std::uint8_t>(first + i);
    kernels.bytes(x, kTableEntries, turned, y);
    bool right = true;
    for (std::size_t i = 0; i < kTableEntries; ++i) right = right && y[i] == static_cast<std::uint8_t>(x[i] + 101);
    CHECK(right);
  }
}

void bytes_are_looked_up_where_they_lie(const LookupKernels& kernels) {
  std::mt19937 random(3);
  for (const std::size_t count : counts()) {
    const auto x = random_values<std::uint8_t>(count, random);
    const auto tables = random_values<std::uint8_t>(5 * kTableEntries, random);
    Output<std::uint8_t> y(count);
    std::copy_n(x.get(), count, y.data());
    kernels.bytes(y.data(), count, tables.get(), y.data());
    bool right = true;
    for (std::size_t i = 0; i < count; ++i) right = right && y.data()[i] == tables[x[i]];
    std::copy_n(x.get(), count, y.data());
    kernels.bytes_by_column(y.data(), count / 5, 5, tables.get(), y.data());
    for (std::size_t i = 0; i < count / 5 * 5; ++i) right = right && y.data()[i] == tables[i % 5 * kTableEntries + x[i]];
    CHECK(right);
    CHECK(y.margins_stay());
  }
}

int multiplied(const Product& product, std::uint8_t byte) {
  const int code = product.sign == 0 ? byte : static_cast<std::int8_t>(byte), smallest = -product.sign;
  const float exact = static_cast<float>((code - product.x_zero_point) * product.factor) * product.scale;
  const float nearest = std::nearbyint(std::fmin(std::fmax(exact, -1000.0f), 1000.0f));
  return std::clamp(static_cast<int>(nearest) + product.y_zero_point, smallest, smallest + 255);
}

void products_are_rounded_and_saturated(const LookupKernels& kernels) {
  std::mt19937 random(4);
  for (const std::uint8_t sign : {std::uint8_t{0}, std::uint8_t{0x80}}) {
    const auto zero_point = [&] { return static_cast<std::int32_t>(random() % 256) - sign; };
    for (const float scale : {0.0f, 1e-40f, 1e-6f, 0.0013f, 0.0078125f, 0.5f, 1.0f, 3e38f}) {
      for (const std::int32_t factor : {-255, -128, -1, 0, 1, 7, 100, 255}) {
        const Product product{zero_point(), factor, scale, zero_point(), sign};
        for (const std::size_t count : {0u, 1u, 7u, 31u, 64u, 100u, 256u, 771u}) {
          const auto x = random_values<std::uint8_t>(count, random);
          Output<std::uint8_t> y(count);
          kernels.multiply(product, x.get(), count, y.data());
          bool right = true;
          for (std::size_t i = 0; i < count; ++i) {
            right = right && y.data()[i] == static_cast<std::uint8_t>(multiplied(product, x[i]));
          }
          std::copy_n(x.get(), count, y.data());
          kernels.multiply(product, y.data(), count, y.data());
          for (std::size_t i = 0; i < count; ++i) {
            right = right && y.data()[i] == static_cast<std::uint8_t>(multiplied(product, x[i]));
          }
          const float factors[] = {static_cast<float>(factor), 255.0f, 0.0f, -31.0f, 3.0f};
          for (const std::size_t period : {1u, 3u, 5u}) {
            kernels.multiply_by_column(product, factors, period, x.get(), count, y.data());
            for (std::size_t i = 0; i < count; ++i) {
              Product other = product;
              other.factor = static_cast<std::int32_t>(factors[i % period]);
              right = right && y.data()[i] == static_cast<std::uint8_t>(multiplied(other, x[i]));
            }
          }
          CHECK(right);
          CHECK(y.margins_stay());
        }
      }
    }
  }
}

void every_instruction_set(const char* name, const LookupKernels& kernels) {
  std::printf("instruction set %s\n", name);
  one_table<std::uint8_t>(kernels.bytes);
  one_table<std::uint32_t>(kernels.words);
  a_table_for_each_column<std::uint8_t>(kernels.bytes_by_column);
  a_table_for_each_column<std::uint32_t>(kernels.words_by_column);
  every_code_in_every_place(kernels);
  bytes_are_looked_up_where_they_lie(kernels);
  products_are_rounded_and_saturated(kernels);
}

}  // namespace

int main() {
  for (const auto* isa = qcompiler::isa_begin(); isa != qcompiler::isa_end(); ++isa) {
    if (isa->supported()) every_instruction_set(isa->name, isa->lookup());
  }
  return report();
}
