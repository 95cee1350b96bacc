// The kernels for 4-bit weights, without ONNX Runtime: the scalar ones against the definition in double precision, those of
// every instruction set this processor has against the scalar ones, and the packing and sharing of weights. Memory is
// exactly as large as it must be, or has margins of NaN: run under sanitizers.

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
#include "half.h"
#include "int4_weights.h"
#include "isa.h"

#if defined(__x86_64__)
namespace qcompiler {
extern const Int4Kernels int4_avxvnni_evex;
extern const Int4ManyRows int4_amx_emulated;
}
#endif

namespace {

using qcompiler::Int4Kernels;
using qcompiler::Int4ManyRows;
using qcompiler::Int4Matrix;
using qcompiler::Int4Source;
using qcompiler::Int4Weights;
using qcompiler::kPanelColumns;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr std::size_t kMargin = 64;

// On the heap and exactly as large as asked for: the sanitizer sees the first byte past the end.
template <typename T>
class Exact {
 public:
  explicit Exact(std::size_t count) : memory_(new T[count == 0 ? 1 : count]), count_(count) {}
  T* data() const { return memory_.get(); }
  std::size_t size() const { return count_; }
  T& operator[](std::size_t i) const { return memory_[i]; }

 private:
  std::unique_ptr<T[]> memory_;
  std::size_t count_;
};

struct Weights {
  Weights(std::size_t depth, std::size_t columns, std::size_t block, bool half_scales, bool with_zero_points,
          std::uint32_t seed)
      : source{nullptr, nullptr, nullptr, half_scales, depth, columns, block},
        bytes(source.weight_bytes()),
        scales(source.scale_count() * (half_scales ? 2 : 4)),
        zero_points(source.zero_point_bytes()) {
    std::mt19937 random(seed);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(random());
    for (std::size_t i = 0; i < zero_points.size(); ++i) zero_points[i] = static_cast<std::uint8_t>(random());
    for (std::size_t i = 0; i < source.scale_count(); ++i) {
      const float scale = (random() % 2 == 0 ? 1.0f : -1.0f) * (0.5f + static_cast<float>(random() % 1000) / 1000.0f);
      const std::uint16_t half = qcompiler::float_bits_to_half(as_bits(scale));
      if (half_scales) {
        std::memcpy(scales.data() + i * 2, &half, 2);
      } else {
        std::memcpy(scales.data() + i * 4, &scale, 4);
      }
    }
    source.weights = bytes.data();
    source.scales = scales.data();
    source.zero_points = with_zero_points ? zero_points.data() : nullptr;
  }

  double value(std::size_t k, std::size_t column) const {
    const std::size_t group = k / source.width(), at = k % source.width();
    const std::uint8_t byte = bytes[(column * source.groups() + group) * source.group_bytes() + at / 2];
    const int weight = at % 2 == 0 ? byte & 15 : byte >> 4;
    return (weight - source.zero_point(column, group)) * static_cast<double>(source.scale(column, group));
  }

  Int4Source source;
  Exact<std::uint8_t> bytes, scales, zero_points;
};

// Rows as the kernels take them.
Exact<std::uint8_t> pack(const Int4Kernels& kernels, const Int4Matrix& matrix, const Exact<float>& rows,
                         std::size_t stride, std::size_t count, bool quantized) {
  const std::size_t row_bytes = quantized ? matrix.quantized_row_bytes() : matrix.float_row_bytes();
  Exact<std::uint8_t> packed(count * row_bytes);
  for (std::size_t row = 0; row < count; ++row) {
    const float* values = rows.data() + row * stride;
    std::uint8_t* to = packed.data() + row * row_bytes;
    if (quantized) {
      kernels.quantize_row(matrix, values, to);
    } else {
      std::memset(to, 0, row_bytes);
      std::memcpy(to, values, matrix.depth * sizeof(float));
    }
  }
  return packed;
}

// Y of rows times all panels, with NaN between and after the rows, which must stay.
std::vector<float> product(const Int4Kernels& kernels, const Int4Matrix& matrix, const Exact<float>& rows,
                           std::size_t stride, std::size_t count, const std::vector<float>& bias, bool quantized) {
  const Exact<std::uint8_t> packed = pack(kernels, matrix, rows, stride, count, quantized);
  const std::size_t out_stride = matrix.columns + kMargin;
  std::vector<float> out(kMargin + count * out_stride, kNan);
  for (std::size_t column = 0; column < matrix.columns; column += kPanelColumns) {
    (quantized ? kernels.multiply_quantized : kernels.multiply_float)(
        matrix, matrix.panels + column / kPanelColumns * matrix.panel_bytes(), packed.data(), count,
        bias.empty() ? nullptr : bias.data() + column, std::min(kPanelColumns, matrix.columns - column),
        out.data() + kMargin + column, out_stride);
  }
  std::vector<float> results;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const bool inside = i >= kMargin && (i - kMargin) % out_stride < matrix.columns;
    CHECK(inside != std::isnan(out[i]));
    if (inside) results.push_back(out[i]);
  }
  return results;
}

Exact<float> random_rows(std::size_t depth, std::size_t stride, std::size_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Exact<float> rows((count - 1) * stride + depth);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = i % stride < depth ? normal(random) : kNan;
  return rows;
}

struct Shape {
  std::size_t depth, columns, block;
};

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {
      {1, 1, 0},     {2, 3, 0},     {31, 33, 0},   {37, 31, 0},   {64, 32, 0},   {127, 65, 0},  {131, 2, 0},
      {16, 1, 16},   {48, 37, 16},  {32, 1, 32},   {96, 31, 32},  {160, 97, 32}, {64, 5, 64},   {192, 33, 64},
      {128, 13, 128}, {384, 17, 128}, {256, 7, 256}, {512, 41, 256},
      {1056, 3, 32}, {1040, 2, 16}, {1031, 1, 0}};
  return all;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  CHECK(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::fabs(static_cast<double>(a[i]) - b[i]));
  return largest;
}

// Calls test(weights, matrix, rows, stride, count, bias, quantized) for every shape in every form.
template <typename Test>
void for_every_product(std::size_t largest_tile, const Test& test) {
  std::uint32_t seed = 0;
  for (const Shape& shape : shapes()) {
    for (int form = 0; form < 8; ++form) {
      const Weights weights(shape.depth, shape.columns, shape.block, form & 1, form & 2, ++seed);
      const Int4Weights packed(weights.source);
      std::vector<float> bias;
      if (form & 4) bias.assign((shape.columns + kPanelColumns - 1) / kPanelColumns * kPanelColumns, 0.5f);
      for (std::size_t count = 1; count <= largest_tile; ++count) {
        const std::size_t stride = shape.depth + (form & 1 ? 3 : 0);
        const Exact<float> rows = random_rows(shape.depth, stride, count, seed);
        for (const bool quantized : {false, true}) test(weights, packed.matrix(), rows, stride, count, bias, quantized);
      }
    }
  }
}

void the_scalar_kernels_are_the_definition() {
  for_every_product(3, [](const Weights& weights, const Int4Matrix& matrix, const Exact<float>& rows, std::size_t stride,
                          std::size_t count, const std::vector<float>& bias, bool quantized) {
    const std::vector<float> y = product(qcompiler::int4_scalar, matrix, rows, stride, count, bias, quantized);
    for (std::size_t row = 0; row < count; ++row) {
      for (std::size_t column = 0; column < matrix.columns; ++column) {
        double exact = bias.empty() ? 0 : 0.5, slack = 1e-6;
        for (std::size_t k = 0; k < matrix.depth; ++k) {
          const double value = rows[row * stride + k], weight = weights.value(k, column);
          exact += value * weight;
          // Half a step of the largest magnitude that a block can have here, or float32's rounding.
          slack += std::fabs(weight) * (quantized ? 0.5 * 5 / 127 : 1e-6);
        }
        CHECK(std::fabs(y[row * matrix.columns + column] - exact) <= slack);
      }
    }
  });
}

void kernels_agree_with_the_scalar_ones(const Int4Kernels& kernels) {
  for_every_product(kernels.rows, [&](const Weights&, const Int4Matrix& matrix, const Exact<float>& rows,
                                      std::size_t stride, std::size_t count, const std::vector<float>& bias,
                                      bool quantized) {
    const Int4Kernels& scalar = qcompiler::int4_scalar;
    const Exact<std::uint8_t> ours = pack(kernels, matrix, rows, stride, count, quantized);
    const Exact<std::uint8_t> reference = pack(scalar, matrix, rows, stride, count, quantized);
    CHECK(std::memcmp(ours.data(), reference.data(), ours.size()) == 0);

    const double difference = largest_difference(product(kernels, matrix, rows, stride, count, bias, quantized),
                                                 product(scalar, matrix, rows, stride, count, bias, quantized));
    CHECK(difference <= 1e-5 * static_cast<double>(matrix.depth) + 1e-5);
  });
}

double to_bfloat16(double value) {
  const std::uint32_t bits = as_bits(static_cast<float>(value));
  return static_cast<double>(as_float((bits + 0x7FFFu + (bits >> 16 & 1u)) & 0xFFFF0000u));
}

void many_rows_are_as_their_definition(const Int4ManyRows& kernels) {
  std::uint32_t seed = 0;
  for (const Shape& shape : shapes()) {
    for (int form = 0; form < 8; ++form) {
      const Weights weights(shape.depth, shape.columns, shape.block, form & 1, form & 2, ++seed);
      const Int4Weights shared(weights.source);
      const Int4Matrix& matrix = shared.matrix();
      std::vector<float> bias;
      if (form & 4) bias.assign((shape.columns + kPanelColumns - 1) / kPanelColumns * kPanelColumns, 0.5f);
      for (const std::size_t count : {1u, 2u, 15u, 16u, 17u, 31u, 32u, 33u, 48u, 61u, 128u}) {
        const Exact<float> rows = random_rows(shape.depth, shape.depth, count, seed);
        Exact<std::uint8_t> packed((count + 15) / 16 * 16 * kernels.row_bytes(matrix));
        for (std::size_t row = 0; row < count; ++row) {
          kernels.pack_row(matrix, rows.data() + row * shape.depth, row, packed.data());
        }
        const std::size_t stride = matrix.columns + kMargin, width = kernels.panels * kPanelColumns;
        std::vector<float> out(kMargin + count * stride, kNan);
        for (std::size_t column = 0; column < matrix.columns; column += width) {
          kernels.multiply(matrix, matrix.panels + column / kPanelColumns * matrix.panel_bytes(), packed.data(), count,
                           bias.empty() ? nullptr : bias.data() + column, std::min(width, matrix.columns - column),
                           out.data() + kMargin + column, stride);
        }
        for (std::size_t i = 0; i < out.size(); ++i) {
          const std::size_t row = (i - kMargin) / stride, column = (i - kMargin) % stride;
          const bool inside = i >= kMargin && column < matrix.columns;
          CHECK(inside != std::isnan(out[i]));
          if (!inside) continue;
          double exact = bias.empty() ? 0 : 0.5, slack = 1e-5;
          for (std::size_t k = 0; k < shape.depth; ++k) {
            const double weight = weights.value(k, column), value = to_bfloat16(static_cast<double>(rows[row * shape.depth + k]));
            exact += to_bfloat16(weight) * value;
            // Where a weight lies halfway between two, either will do.
            const double either = std::fabs(to_bfloat16(weight * (1 + 1e-6)) - to_bfloat16(weight * (1 - 1e-6)));
            slack += (1e-5 * std::fabs(weight) + either) * std::fabs(value);
          }
          CHECK(std::fabs(out[i] - exact) <= slack);
        }
      }
    }
  }
}

void odd_values_are_quantized_alike(const Int4Kernels& kernels) {
  const float infinity = std::numeric_limits<float>::infinity();
  const Weights weights(64, 5, 32, false, false, 1);
  const Int4Weights packed(weights.source);
  const Int4Matrix& matrix = packed.matrix();
  for (const std::vector<float>& values : std::vector<std::vector<float>>{
           {0.0f}, {-0.0f}, {1.0f, -1.0f}, {1.0f, -0.9999f}, {-1.0f, 0.9961f}, {1.0f}, {-1.0f}, {3e38f, -3.4e38f},
           {1e-45f}, {-1e-38f, 1e-39f}, {0x1p-116f}, {0x1p-117f}, {kNan, 1.0f}, {1.0f, -infinity}, {infinity, kNan}}) {
    Exact<float> rows(2 * 64);
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = values[i % values.size()];
    for (std::size_t i = 32; i < 64; ++i) rows[i] = static_cast<float>(i);  // a block in between that is as usual
    const Exact<std::uint8_t> ours = pack(kernels, matrix, rows, 64, 2, true);
    const Exact<std::uint8_t> reference = pack(qcompiler::int4_scalar, matrix, rows, 64, 2, true);
    CHECK(std::memcmp(ours.data(), reference.data(), ours.size()) == 0);
  }
}

void sums_reach_their_extremes(const Int4Kernels& kernels) {
  // Every product at its largest: 15 * -128, which a sum in 16 bits holds 16 times, not 17.
  for (const std::size_t block : {16u, 32u, 256u}) {
    Weights weights(256, 40, block, false, true, 2);
    std::memset(weights.bytes.data(), 0xFF, weights.bytes.size());
    std::memset(weights.zero_points.data(), 0, weights.zero_points.size());
    const Int4Weights packed(weights.source);
    Exact<float> rows(256);
    for (std::size_t k = 0; k < 256; ++k) rows[k] = 1.0f;
    const std::vector<float> y = product(kernels, packed.matrix(), rows, 256, 1, {}, true);
    for (std::size_t column = 0; column < 40; ++column) {
      double exact = 0;
      for (std::size_t k = 0; k < 256; ++k) exact += weights.value(k, column);
      CHECK(std::fabs(y[column] - exact) <= 1e-4 * std::fabs(exact));
    }
  }
}

void halves_are_converted_alike(const Int4Kernels& kernels) {
  Exact<std::uint16_t> halves(65536 + 3), back(65536 + 3);
  Exact<float> floats(65536 + 3), reference(65536 + 3);
  for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<std::uint16_t>(i);
  kernels.from_half(halves.data(), halves.size(), floats.data());
  qcompiler::int4_scalar.from_half(halves.data(), halves.size(), reference.data());
  kernels.to_half(floats.data(), floats.size(), back.data());
  for (std::size_t i = 0; i < halves.size(); ++i) {
    CHECK(std::isnan(reference[i]) ? std::isnan(floats[i]) : as_bits(floats[i]) == as_bits(reference[i]));
    CHECK(std::isnan(reference[i]) ? (back[i] & 0x7FFFu) > 0x7C00u : back[i] == halves[i]);
  }
  std::mt19937 random(3);
  Exact<float> any(100003);
  Exact<std::uint16_t> ours(any.size()), expected(any.size());
  for (std::size_t i = 0; i < any.size(); ++i) any[i] = as_float(static_cast<std::uint32_t>(random()));
  for (std::size_t i = 0; i < any.size(); i += 2) any[i] = std::ldexp(1.0f + static_cast<float>(random() % 8192) / 8192, static_cast<int>(random() % 45) - 28);
  kernels.to_half(any.data(), any.size(), ours.data());
  qcompiler::int4_scalar.to_half(any.data(), any.size(), expected.data());
  for (std::size_t i = 0; i < any.size(); ++i) {
    CHECK(std::isnan(any[i]) ? (ours[i] & 0x7FFFu) > 0x7C00u : ours[i] == expected[i]);
  }
}

void every_instruction_set(const char* name, const Int4Kernels& kernels) {
  std::printf("instruction set %s\n", name);
  kernels_agree_with_the_scalar_ones(kernels);
  odd_values_are_quantized_alike(kernels);
  sums_reach_their_extremes(kernels);
  halves_are_converted_alike(kernels);
}

void equal_weights_are_shared_while_someone_has_them() {
  const Weights weights(64, 40, 32, false, true, 5), same(64, 40, 32, false, true, 5);
  Weights other(64, 40, 32, false, true, 5);
  other.bytes[700] ^= 1;
  const auto first = qcompiler::share_int4(weights.source);
  CHECK(qcompiler::share_int4(same.source) == first);
  CHECK(qcompiler::share_int4(other.source) != first);
  other.bytes[700] ^= 1;
  other.scales[0] ^= 1;
  CHECK(qcompiler::share_int4(other.source) != first);
  other.scales[0] ^= 1;
  other.zero_points[0] ^= 1;
  CHECK(qcompiler::share_int4(other.source) != first);
  std::weak_ptr<const Int4Weights> gone = qcompiler::share_int4(other.source);
  CHECK(gone.expired());
}

void sizes_and_scales_are_checked() {
  CHECK(qcompiler::check_int4_sizes(64, 1, 32).empty());
  CHECK(qcompiler::check_int4_sizes(33, 1, 0).empty());
  CHECK(qcompiler::check_int4_sizes(33, 1, 32).find("K = 33 is not a multiple of block_size = 32") == 0);
  CHECK(qcompiler::check_int4_sizes(64, 1, 48).find("block_size = 48") == 0);
  CHECK(!qcompiler::check_int4_sizes(0, 1, 0).empty() && !qcompiler::check_int4_sizes(1, -1, 0).empty());
  CHECK(!qcompiler::check_int4_sizes(INT64_MAX, 1, 0).empty() && !qcompiler::check_int4_sizes(1, INT64_MAX, 0).empty());
  CHECK(!qcompiler::check_int4_sizes(64, 1, INT64_MIN).empty());
  const Weights weights(64, 3, 32, false, false, 6);
  CHECK(qcompiler::check_int4_scales(weights.source).empty());
  for (const float bad : {0.0f, -0.0f, 1e-40f, kNan, -std::numeric_limits<float>::infinity()}) {
    std::memcpy(weights.scales.data() + 3 * 4, &bad, 4);
    CHECK(qcompiler::check_int4_scales(weights.source).find("the scale of column 1, block 1 is ") == 0);
  }
}

}  // namespace

int main() {
  the_scalar_kernels_are_the_definition();
  for (const auto* isa = qcompiler::isa_begin(); isa != qcompiler::isa_end(); ++isa) {
    if (!isa->supported()) continue;
    every_instruction_set(isa->name, *isa->int4);
    if (isa->int4_many != nullptr) many_rows_are_as_their_definition(*isa->int4_many);
  }
#if defined(__x86_64__)
  std::string unused;
  const auto* vnni = qcompiler::select_isa("avx512vnni", unused);
  if (vnni != nullptr) every_instruction_set("avxvnni, in AVX512-VNNI's encoding", qcompiler::int4_avxvnni_evex);
  if (vnni != nullptr && __builtin_cpu_supports("avx512bf16")) {
    std::printf("many rows, amx, emulated\n");
    many_rows_are_as_their_definition(qcompiler::int4_amx_emulated);
  }
#endif
  equal_weights_are_shared_while_someone_has_them();
  sizes_and_scales_are_checked();
  return report();
}
