// The kernels for 8-bit weights, without ONNX Runtime: the scalar ones against the definition in double precision, those of
// every instruction set this processor has against the scalar ones. Memory is exactly as large as it must be, or has
// margins of NaN: run under sanitizers.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "int8_weights.h"
#include "isa.h"

#if defined(__x86_64__)
namespace qcompiler {
extern const Int8Kernels int8_avxvnni_evex;
extern const Int8Kernels int8_amx_emulated;
}
#endif

namespace {

using qcompiler::Int8Kernels;
using qcompiler::Int8Matrix;
using qcompiler::Int8Row;
using qcompiler::Int8Weights;
using qcompiler::kInt8Columns;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::size_t kMargin = 64;

// On the heap and exactly as large as asked for: the sanitizer sees the first byte past the end.
template <typename T>
class Exact {
 public:
  explicit Exact(std::size_t count) : memory_(new T[count]), count_(count) {}
  T* data() const { return memory_.get(); }
  std::size_t size() const { return count_; }
  T& operator[](std::size_t i) const { return memory_[i]; }

 private:
  std::unique_ptr<T[]> memory_;
  std::size_t count_;
};

struct Weights {
  // `paired`: no two together are more than kInt8LargestPair.
  Weights(std::size_t depth, std::size_t columns, std::uint32_t seed, bool paired)
      : bytes(depth * columns), scales(columns) {
    std::mt19937 random(seed);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<std::int8_t>(paired ? static_cast<int>(random() % 129) - 64 : static_cast<int>(random() % 256) - 128);
    }
    for (std::size_t i = 0; i < columns; ++i) scales[i] = 0.5f + static_cast<float>(random() % 1000) / 1000.0f;
  }
  Exact<std::int8_t> bytes;
  Exact<float> scales;
};

// Rows as an operator quantizes them: codes row_bytes() apart, the last one's no longer than kernels may read.
struct Rows {
  Rows(const Int8Kernels& kernels, const Int8Matrix& matrix, const Exact<float>& values, std::size_t count)
      : codes(count * matrix.row_bytes()), scales(count) {
    for (std::size_t row = 0; row < count; ++row) {
      scales[row] = kernels.quantize_row(matrix, values.data() + row * matrix.depth, codes.data() + row * matrix.row_bytes());
    }
  }
  Exact<std::uint8_t> codes;
  Exact<Int8Row> scales;
};

// Y of rows times all panels, with NaN between and after the rows, which must stay.
std::vector<float> product(const Int8Kernels& kernels, const Int8Matrix& matrix, const Rows& rows, std::size_t count,
                           const std::vector<float>& bias) {
  const std::size_t stride = matrix.columns + kMargin;
  std::vector<float> out(kMargin + count * stride, kNan);
  for (std::size_t panel = 0; panel < matrix.panel_count(); ++panel) {
    const std::size_t column = panel * kInt8Columns;
    kernels.multiply(matrix, matrix.panels + panel * matrix.panel_bytes(), rows.codes.data(), rows.scales.data(), count,
                     bias.empty() ? nullptr : bias.data() + column, std::min(kInt8Columns, matrix.columns - column),
                     out.data() + kMargin + column, stride);
  }
  std::vector<float> results;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const bool inside = i >= kMargin && (i - kMargin) % stride < matrix.columns;
    CHECK(inside != std::isnan(out[i]));
    if (inside) results.push_back(out[i]);
  }
  return results;
}

Exact<float> random_values(std::size_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.5f);
  Exact<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = normal(random);
  return values;
}

// Calls test(weights, matrix, values, count, bias) for every shape, with a bias and without.
template <typename Test>
void for_every_product(std::size_t largest_tile, bool paired, const Test& test) {
  std::uint32_t seed = 0;
  for (const std::size_t depth : {1, 2, 3, 4, 5, 15, 16, 17, 31, 64, 65, 127, 131, 256}) {
    for (const std::size_t columns : {1, 7, 16, 31, 32, 33, 48, 64, 65, 97, 131}) {
      const Weights weights(depth, columns, ++seed, paired);
      const Int8Weights packed(weights.bytes.data(), weights.scales.data(), depth, columns);
      for (std::size_t count = 1; count <= largest_tile; ++count) {
        const Exact<float> values = random_values(count * depth, seed);
        std::vector<float> bias;
        if (count % 2 == 0) bias.assign(packed.matrix().panel_count() * kInt8Columns, 0.5f);
        test(weights, packed.matrix(), values, count, bias);
      }
    }
  }
}

void the_scalar_kernels_are_the_definition() {
  for_every_product(3, false, [](const Weights& weights, const Int8Matrix& matrix, const Exact<float>& values, std::size_t count,
                          const std::vector<float>& bias) {
    const Rows rows(qcompiler::int8_scalar, matrix, values, count);
    const std::vector<float> y = product(qcompiler::int8_scalar, matrix, rows, count, bias);
    for (std::size_t row = 0; row < count; ++row) {
      for (std::size_t column = 0; column < matrix.columns; ++column) {
        double exact = bias.empty() ? 0 : 0.5, slack = 1e-5;
        for (std::size_t k = 0; k < matrix.depth; ++k) {
          const double weight = weights.bytes[k * matrix.columns + column] * static_cast<double>(weights.scales[column]);
          exact += static_cast<double>(values[row * matrix.depth + k]) * weight;
          slack += std::fabs(weight) * (0.501 * static_cast<double>(rows.scales[row].scale) + 1e-6);
        }
        CHECK(std::fabs(y[row * matrix.columns + column] - exact) <= slack);
      }
    }
  });
}

void same_codes(const Int8Matrix& matrix, const Rows& ours, const Rows& reference, std::size_t count) {
  for (std::size_t row = 0; row < count; ++row) {
    const std::size_t at = row * matrix.row_bytes();
    CHECK(std::memcmp(ours.codes.data() + at, reference.codes.data() + at, matrix.groups() * 4) == 0);
    CHECK(as_bits(ours.scales[row].scale) == as_bits(reference.scales[row].scale) ||
          (std::isnan(ours.scales[row].scale) && std::isnan(reference.scales[row].scale)));
    CHECK(ours.scales[row].offset == reference.scales[row].offset || std::isnan(reference.scales[row].offset));
  }
}

void kernels_agree_with_the_scalar_ones(const Int8Kernels& kernels, bool paired) {
  for_every_product(kernels.rows, paired, [&](const Weights&, const Int8Matrix& matrix, const Exact<float>& values,
                                      std::size_t count, const std::vector<float>& bias) {
    const Rows ours(kernels, matrix, values, count), reference(qcompiler::int8_scalar, matrix, values, count);
    CHECK(matrix.paired || !paired);
    same_codes(matrix, ours, reference, count);
    const std::vector<float> y = product(kernels, matrix, ours, count, bias);
    const std::vector<float> expected = product(qcompiler::int8_scalar, matrix, ours, count, bias);
    // Integers are exact; what is left is the rounding of a few float operations on numbers this large.
    const double largest = 1e-6 * 128 * 1.5 * 8 * static_cast<double>(matrix.depth) + 1e-6;
    for (std::size_t i = 0; i < y.size(); ++i) CHECK(std::fabs(y[i] - expected[i]) <= largest);
  });
}

void odd_values_are_quantized_alike(const Int8Kernels& kernels) {
  const Weights weights(37, 5, 1, false);
  const Int8Weights packed(weights.bytes.data(), weights.scales.data(), 37, 5);
  for (const std::vector<float>& pattern : std::vector<std::vector<float>>{
           {0.0f}, {-0.0f}, {2.5f}, {1.0f, -1.0f}, {3e38f, 1e38f}, {3e38f, -3e38f}, {1e-45f}, {-1e-38f, 1e-39f},
           {0.0f, 0x1p-116f}, {0.0f, 0x1p-117f}, {1e6f, 1e6f + 1.0f}, {kNan, 1.0f}, {1.0f, kNan}, {1.0f, -kInfinity},
           {kInfinity}, {kInfinity, kNan}}) {
    for (const std::size_t plain : {0u, 20u, 36u}) {  // how many of the first values are as usual
      Exact<float> values(37);
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = i < plain ? 0.0f : pattern[i % pattern.size()];
      const Rows ours(kernels, packed.matrix(), values, 1), reference(qcompiler::int8_scalar, packed.matrix(), values, 1);
      same_codes(packed.matrix(), ours, reference, 1);
    }
  }
}

void sums_reach_their_extremes(const Int8Kernels& kernels, bool paired) {
  // Every product at its largest, as many as are allowed: 255 * 128 * 65536 is just below 2^31.
  const std::size_t depth = qcompiler::kInt8LargestDepth;
  for (const int extreme : paired ? std::vector<int>{-64, 64} : std::vector<int>{-128, 127}) {
    const Weights weights(depth, 2, 2, paired);
    for (std::size_t i = 0; i < weights.bytes.size(); ++i) weights.bytes[i] = static_cast<std::int8_t>(extreme);
    weights.scales[0] = weights.scales[1] = 1.0f;
    const Int8Weights packed(weights.bytes.data(), weights.scales.data(), depth, 2);
    Exact<float> values(depth);
    for (std::size_t k = 0; k < depth; ++k) values[k] = 255.0f;
    values[0] = 0.0f;
    const std::vector<float> y = product(kernels, packed.matrix(), Rows(kernels, packed.matrix(), values, 1), 1, {});
    const double exact = 255.0 * extreme * static_cast<double>(depth - 1);
    for (const float value : y) CHECK(std::fabs(value - exact) <= 1e-6 * std::fabs(exact));
  }
}

// A pair is told by the two together, and only where both are of one column and the first k is even.
void pairs_are_told() {
  const std::int8_t fits[] = {-128, 127, 0, 1, 127, -64, -1, -64, 100, 100};  // [5, 2]
  const float scales[] = {1.0f, 1.0f};
  CHECK(Int8Weights(fits, scales, 5, 2).matrix().paired);
  for (const std::size_t index : {2u, 6u}) {
    std::int8_t over[10];
    std::copy(std::begin(fits), std::end(fits), over);
    over[index] = -2;
    CHECK(!Int8Weights(over, scales, 5, 2).matrix().paired);
  }
}

void every_instruction_set(const char* name, const Int8Kernels& kernels, bool paired = false) {
  std::printf("instruction set %s%s\n", name, paired ? ", pairs" : "");
  kernels_agree_with_the_scalar_ones(kernels, paired);
  odd_values_are_quantized_alike(kernels);
  sums_reach_their_extremes(kernels, paired);
}

}  // namespace

int main() {
  the_scalar_kernels_are_the_definition();
  pairs_are_told();
  for (const auto* isa = qcompiler::isa_begin(); isa != qcompiler::isa_end(); ++isa) {
    if (!isa->supported()) continue;
    every_instruction_set(isa->name, *isa->int8);
    if (isa->int8_paired != isa->int8) every_instruction_set(isa->name, *isa->int8_paired, true);
  }
#if defined(__x86_64__)
  std::string unused;
  const auto* vnni = qcompiler::select_isa("avx512vnni", unused);
  if (vnni != nullptr) {
    every_instruction_set("avxvnni, in AVX512-VNNI's encoding", qcompiler::int8_avxvnni_evex);
    every_instruction_set("amx, emulated", qcompiler::int8_amx_emulated);
  }
#endif
  return report();
}
