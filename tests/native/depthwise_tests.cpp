// The kernels for convolutions with one filter a channel, without ONNX Runtime: those of every instruction set this processor
// has against the definition. What is read is exactly as large as it must be, what is written has margins that must stay: run
// under sanitizers.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

#include "check.h"
#include "depthwise_weights.h"
#include "isa.h"

#if defined(__x86_64__)
namespace qcompiler {
extern const DepthwiseKernels depthwise_avxvnni_evex;
}
#endif

namespace {

using qcompiler::ConvAxis;
using qcompiler::DepthwiseBlock;
using qcompiler::DepthwiseImage;
using qcompiler::DepthwiseKernels;
using qcompiler::DepthwiseNode;
using qcompiler::DepthwiseWeights;
using qcompiler::PackedMemory;

constexpr std::size_t kMargin = 64;
constexpr std::uint8_t kUntouched = 0xA5;

// On the heap and exactly as large as asked for: the sanitizer sees the first byte past the end.
template <typename T>
std::unique_ptr<T[]> random_values(std::size_t count, std::mt19937& random) {
  std::unique_ptr<T[]> values(new T[count]);
  for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<T>(random());
  return values;
}

struct Case {
  DepthwiseNode node;
  std::size_t rows, columns;
  std::unique_ptr<std::uint8_t[]> x;
  std::unique_ptr<std::int8_t[]> weights;
  std::vector<float> multipliers;
  std::vector<std::int32_t> bias;

  std::size_t y_rows() const { return node.height.results(rows); }
  std::size_t y_columns() const { return node.width.results(columns); }
};

Case random_case(std::size_t channels, const ConvAxis& height, const ConvAxis& width, std::size_t rows, std::size_t columns,
                 bool codes_are_signed, std::mt19937& random) {
  Case made{};
  const int low = codes_are_signed ? -128 : 0;
  made.node = {channels, height, width, codes_are_signed, low + static_cast<int>(random() % 256),
               low + static_cast<int>(random() % 256)};
  made.rows = rows;
  made.columns = columns;
  made.x = random_values<std::uint8_t>(rows * columns * channels, random);
  made.weights = random_values<std::int8_t>(channels * height.taps * width.taps, random);
  for (std::size_t channel = 0; channel < channels; ++channel) {
    made.multipliers.push_back(0.0005f + static_cast<float>(random() % 1000) * 0.00001f);
    made.bias.push_back(static_cast<std::int32_t>(random() % 20000) - 10000);
  }
  return made;
}

// The definition: Y, rows of columns of channels.
std::vector<std::uint8_t> expected(const Case& given) {
  const DepthwiseNode& node = given.node;
  const int low = node.codes_are_signed ? -128 : 0;
  std::vector<std::uint8_t> y;
  for (std::size_t row = 0; row < given.y_rows(); ++row) {
    for (std::size_t column = 0; column < given.y_columns(); ++column) {
      for (std::size_t channel = 0; channel < node.channels; ++channel) {
        std::int32_t sum = given.bias[channel];
        for (std::size_t i = 0; i < node.height.taps; ++i) {
          for (std::size_t j = 0; j < node.width.taps; ++j) {
            const std::size_t at = row * node.height.stride + i * node.height.dilation - node.height.pad;
            const std::size_t to = column * node.width.stride + j * node.width.dilation - node.width.pad;
            if (at >= given.rows || to >= given.columns) continue;
            const std::uint8_t byte = given.x[(at * given.columns + to) * node.channels + channel];
            const int code = node.codes_are_signed ? static_cast<std::int8_t>(byte) : byte;
            sum += (code - node.x_zero_point) * given.weights[(channel * node.height.taps + i) * node.width.taps + j];
          }
        }
        const float rounded = std::nearbyint(static_cast<float>(sum) * given.multipliers[channel]);
        y.push_back(static_cast<std::uint8_t>(std::clamp(static_cast<int>(rounded) + node.y_zero_point, low, low + 255)));
      }
    }
  }
  return y;
}

std::vector<std::uint8_t> convolved(const Case& given, bool upright, const DepthwiseKernels& kernels) {
  const DepthwiseWeights weights(given.node, upright, kernels, given.weights.get(), given.multipliers.data(), given.bias.data());
  const std::size_t channels = given.node.channels, size = given.y_rows() * given.y_columns() * channels;
  std::vector<std::uint8_t> y(size + 2 * kMargin, kUntouched);
  DepthwiseImage image{given.x.get(), y.data() + kMargin, given.rows, given.columns, given.y_columns(),
                       given.columns * channels, channels, given.y_columns() * channels, channels};
  std::size_t y_rows = given.y_rows();
  if (!weights.upright()) {
    image = {given.x.get(), y.data() + kMargin, given.columns, given.rows, given.y_rows(),
             channels, given.columns * channels, channels, given.y_columns() * channels};
    y_rows = given.y_columns();
  }
  for (const DepthwiseBlock& block : weights.blocks()) {
    const std::size_t bytes = qcompiler::woven_bytes(weights.filter(), block.width);
    const std::unique_ptr<std::uint8_t[]> woven(new std::uint8_t[bytes]);
    for (std::size_t row = 0; row < y_rows; row += weights.filter().together) {
      kernels.convolve(weights.filter(), block, image, row, std::min(weights.filter().together, y_rows - row), woven.get());
    }
  }
  const auto untouched = [](std::uint8_t byte) { return byte == kUntouched; };
  CHECK(std::all_of(y.begin(), y.begin() + kMargin, untouched));
  CHECK(std::all_of(y.end() - kMargin, y.end(), untouched));
  return {y.begin() + kMargin, y.end() - kMargin};
}

void holds(const Case& given, const DepthwiseKernels& kernels) {
  const std::vector<std::uint8_t> y = expected(given);
  CHECK(convolved(given, true, kernels) == y);
  CHECK(convolved(given, false, kernels) == y);
}

void is_the_definition(const DepthwiseKernels& kernels) {
  std::mt19937 random(1);
  const std::size_t channels[] = {1, 3, 15, 16, 17, 24, 31, 32, 40, 48, 63, 64, 72, 96, 100, 144};
  const ConvAxis axes[] = {{3, 1, 1, 1, 1}, {3, 2, 1, 1, 0}, {5, 1, 1, 2, 2}, {1, 1, 1, 0, 0}, {7, 2, 1, 3, 3},
                           {3, 1, 2, 2, 2}, {2, 3, 3, 0, 4}, {4, 1, 1, 5, 0}, {9, 1, 1, 0, 0}};
  for (const std::size_t count : channels) {
    for (const ConvAxis& height : axes) {
      const ConvAxis& width = axes[random() % (sizeof axes / sizeof axes[0])];
      const std::size_t rows = 9 + random() % 5, columns = 9 + random() % 14;
      holds(random_case(count, height, width, rows, columns, random() % 2 == 0, random), kernels);
    }
  }
  // More columns than are woven at a time; an image that padding is larger than.
  holds(random_case(64, {3, 1, 1, 1, 1}, {3, 1, 1, 1, 1}, 3, 211, false, random), kernels);
  holds(random_case(48, {5, 2, 1, 2, 2}, {5, 2, 1, 2, 2}, 7, 199, true, random), kernels);
  holds(random_case(32, {3, 1, 1, 4, 4}, {3, 1, 1, 4, 4}, 1, 1, false, random), kernels);
}

void sums_saturate(const DepthwiseKernels& kernels) {
  std::mt19937 random(2);
  Case made = random_case(16, {3, 1, 1, 1, 1}, {3, 1, 1, 1, 1}, 6, 7, false, random);
  for (float& multiplier : made.multipliers) multiplier = 1000.0f;
  const std::vector<std::uint8_t> y = convolved(made, true, kernels);
  CHECK(y == expected(made));
  CHECK(std::count(y.begin(), y.end(), 0) > 0 && std::count(y.begin(), y.end(), 255) > 0);
}

}  // namespace

int main() {
  for (const qcompiler::Isa* isa = qcompiler::isa_begin(); isa != qcompiler::isa_end(); ++isa) {
    if (!isa->supported()) continue;
    std::printf("instruction set %s\n", isa->name);
    is_the_definition(*isa->depthwise);
    sums_saturate(*isa->depthwise);
  }
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl")) {
    std::puts("instruction set avxvnni, encoded as AVX512-VNNI");
    is_the_definition(qcompiler::depthwise_avxvnni_evex);
    sums_saturate(qcompiler::depthwise_avxvnni_evex);
  }
#endif
  return report();
}
