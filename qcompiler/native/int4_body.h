// The body of int4_<isa>, compiled once an instruction set: each int4_<isa>.cpp describes its vectors in a struct V, names
// the table of functions and includes this. As in observe_body.h, nothing of the standard library may be instantiated.
//
// V has, for vectors of kLanes int32 or float32 (types I and F) and for the bytes of kLanes columns (B):
//   rows, vectors(R)       the largest tile, and how many vectors of columns a tile of R rows takes at a time
//   D start(I), dot(D, B, I), I finish(D, I)   sums of products of unsigned 4-bit and signed 8-bit values, four to a
//                          lane; `start` and `finish` are called every 32 k, so a D may be narrower than its sum
// and loads, stores and conversions with the usual meanings.

#include "int4.h"

#ifndef QCOMPILER_INT4
#error "define QCOMPILER_INT4 as the name of the table of functions"
#endif

#if defined(__clang__)
#define QCOMPILER_UNROLL _Pragma("clang loop unroll(full)")
#else
#define QCOMPILER_UNROLL _Pragma("GCC unroll 16")
#endif
#define QCOMPILER_INLINE inline __attribute__((always_inline))

namespace qcompiler {
namespace {

constexpr std::size_t kStep = 32;  // k between start and finish

QCOMPILER_INLINE V::F load_scales(const Int4Matrix& matrix, const std::uint8_t* scales, std::size_t column) {
  return matrix.half_scales ? V::load_half(scales + column * 2) : V::load(scales + column * 4);
}

template <int R, int kVectors>
QCOMPILER_INLINE void store_tile(const V::F (&totals)[R][kVectors], std::size_t first, const float* bias,
                                 std::size_t columns, float* out, std::size_t stride) {
  constexpr std::size_t kWidth = kVectors * V::kLanes;
  QCOMPILER_UNROLL
  for (int r = 0; r < R; ++r) {
    float narrow[kWidth];
    const bool whole = first + kWidth <= columns;
    float* to = whole ? out + static_cast<std::size_t>(r) * stride + first : narrow;
    QCOMPILER_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      V::F total = totals[r][v];
      if (bias != nullptr) total = V::add(total, V::load(bias + first + static_cast<std::size_t>(v) * V::kLanes));
      V::store(to + static_cast<std::size_t>(v) * V::kLanes, total);
    }
    if (!whole) {
      for (std::size_t i = 0; first + i < columns; ++i) out[static_cast<std::size_t>(r) * stride + first + i] = narrow[i];
    }
  }
}

// kGroups groups of eight k for the columns that start at `weights`.
template <int R, int kVectors, int kGroups>
QCOMPILER_INLINE void dot_step(V::I (&sums)[R][kVectors], const std::uint8_t* weights, const std::uint8_t* values) {
  V::D dots[R][kVectors];
  QCOMPILER_UNROLL
  for (int r = 0; r < R; ++r) {
    QCOMPILER_UNROLL
    for (int v = 0; v < kVectors; ++v) dots[r][v] = V::start(sums[r][v]);
  }
  QCOMPILER_UNROLL
  for (int group = 0; group < kGroups; ++group) {
    V::B low[kVectors], high[kVectors];
    QCOMPILER_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const V::B both = V::load_bytes(weights + group * static_cast<int>(kGroupBytes) + v * V::kLanes * 4);
      low[v] = V::low_halves(both);
      high[v] = V::high_halves(both);
    }
    QCOMPILER_UNROLL
    for (int r = 0; r < R; ++r) {
      const V::I four = V::broadcast(values + (group * 2 * R + r) * 4);
      QCOMPILER_UNROLL
      for (int v = 0; v < kVectors; ++v) dots[r][v] = V::dot(dots[r][v], low[v], four);
    }
    QCOMPILER_UNROLL
    for (int r = 0; r < R; ++r) {
      const V::I four = V::broadcast(values + (group * 2 * R + R + r) * 4);
      QCOMPILER_UNROLL
      for (int v = 0; v < kVectors; ++v) dots[r][v] = V::dot(dots[r][v], high[v], four);
    }
  }
  QCOMPILER_UNROLL
  for (int r = 0; r < R; ++r) {
    QCOMPILER_UNROLL
    for (int v = 0; v < kVectors; ++v) sums[r][v] = V::finish(dots[r][v], sums[r][v]);
  }
}

// kGroups groups of eight k make a step, and one step a block, or several (kSteps = 0) do.
template <int R, int kGroups, int kSteps, bool kZeroPoints>
void multiply_quantized_tile(const Int4Matrix& matrix, const std::uint8_t* panel, const std::uint8_t* packed,
                             const float* bias, std::size_t columns, float* out, std::size_t stride) {
  constexpr int kVectors = V::vectors(R);
  constexpr std::size_t kWidth = kVectors * V::kLanes;
  // Weights are asked for ahead of their use. One row does so little with them that memory is the limit: every second line
  // suffices, the processor brings them in pairs, and asking for more takes the place of what it asks for by itself.
  // Several rows need them in the first-level cache in time.
  constexpr std::size_t kAhead = R == 1 ? 4096 : 2560, kLine = R == 1 ? 128 : 64;
  constexpr int kLocality = R == 1 ? 2 : 3;
  const std::size_t scale_bytes = matrix.scale_bytes();
  const std::size_t header = scale_bytes + (kZeroPoints ? kPanelColumns * 2 : 0);

  for (std::size_t first = 0; first < kPanelColumns && first < columns; first += kWidth) {
    V::F totals[R][kVectors];
    QCOMPILER_UNROLL
    for (int r = 0; r < R; ++r) {
      QCOMPILER_UNROLL
      for (int v = 0; v < kVectors; ++v) totals[r][v] = V::zero();
    }
    const std::uint8_t* block = panel;
    const std::uint8_t* tile = packed;
    for (std::size_t b = 0; b < matrix.blocks; ++b) {
      V::I sums[R][kVectors];
      if (kZeroPoints) {
        QCOMPILER_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          const V::I zero_points = V::load_int16(block + scale_bytes + (first + static_cast<std::size_t>(v) * V::kLanes) * 2);
          QCOMPILER_UNROLL
          for (int r = 0; r < R; ++r) sums[r][v] = V::multiply_int16(zero_points, V::broadcast(tile + (R + r) * 4));
        }
      } else {
        QCOMPILER_UNROLL
        for (int r = 0; r < R; ++r) {
          const V::I correction = V::broadcast(tile + (R + r) * 4);
          QCOMPILER_UNROLL
          for (int v = 0; v < kVectors; ++v) sums[r][v] = correction;
        }
      }
      const std::uint8_t* weights = block + header + first * 4;
      const std::uint8_t* values = tile + R * 8;
      const std::size_t steps = kSteps == 0 ? matrix.block / (kGroups * 8) : kSteps;
      for (std::size_t step = 0; step < steps; ++step) {
        QCOMPILER_UNROLL
        for (std::size_t line = 0; line < kGroups * kGroupBytes; line += kLine) {
          __builtin_prefetch(weights + kAhead + line, 0, kLocality);
        }
        dot_step<R, kVectors, kGroups>(sums, weights, values);
        weights += kGroups * kGroupBytes;
        values += kGroups * 8 * R;
      }
      V::F scales[kVectors];
      QCOMPILER_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        scales[v] = load_scales(matrix, block, first + static_cast<std::size_t>(v) * V::kLanes);
      }
      QCOMPILER_UNROLL
      for (int r = 0; r < R; ++r) {
        const V::F row_scale = V::broadcast_float(tile + r * 4);
        QCOMPILER_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          totals[r][v] = V::multiply_add(V::to_float(sums[r][v]), V::multiply(scales[v], row_scale), totals[r][v]);
        }
      }
      block += matrix.block_bytes;
      tile += R * (matrix.block + 8);
    }
    store_tile<R, kVectors>(totals, first, bias, columns, out, stride);
  }
}

template <int R>
void multiply_float_tile(const Int4Matrix& matrix, const std::uint8_t* panel, const std::uint8_t* packed,
                         const float* bias, std::size_t columns, float* out, std::size_t stride) {
  constexpr int kVectors = V::vectors(R);
  constexpr std::size_t kWidth = kVectors * V::kLanes;
  const std::size_t scale_bytes = matrix.scale_bytes();
  const std::size_t header = scale_bytes + matrix.zero_point_bytes();

  for (std::size_t first = 0; first < kPanelColumns && first < columns; first += kWidth) {
    V::F totals[R][kVectors];
    QCOMPILER_UNROLL
    for (int r = 0; r < R; ++r) {
      QCOMPILER_UNROLL
      for (int v = 0; v < kVectors; ++v) totals[r][v] = V::zero();
    }
    const std::uint8_t* values = packed;
    for (std::size_t b = 0; b < matrix.blocks; ++b) {
      const std::uint8_t* block = panel + b * matrix.block_bytes;
      V::F zero_points[kVectors];
      V::F sums[R][kVectors];
      QCOMPILER_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        const std::size_t column = first + static_cast<std::size_t>(v) * V::kLanes;
        zero_points[v] = matrix.zero_points ? V::to_float(V::load_int16(block + scale_bytes + column * 2)) : V::set(8.0f);
        QCOMPILER_UNROLL
        for (int r = 0; r < R; ++r) sums[r][v] = V::zero();
      }
      for (std::size_t group = 0; group < matrix.block / 8; ++group) {
        const std::uint8_t* weights = block + header + group * kGroupBytes + first * 4;
        QCOMPILER_UNROLL
        for (int k = 0; k < 8; ++k) {
          QCOMPILER_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            const V::I four_bits = V::nibble(V::load_bytes(weights + v * V::kLanes * 4), k % 4 * 8 + k / 4 * 4);
            const V::F weight = V::subtract(V::to_float(four_bits), zero_points[v]);
            QCOMPILER_UNROLL
            for (int r = 0; r < R; ++r) {
              sums[r][v] = V::multiply_add(weight, V::broadcast_float(values + (k * R + r) * 4), sums[r][v]);
            }
          }
        }
        values += 8 * R * 4;
      }
      QCOMPILER_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        const V::F scales = load_scales(matrix, block, first + static_cast<std::size_t>(v) * V::kLanes);
        QCOMPILER_UNROLL
        for (int r = 0; r < R; ++r) totals[r][v] = V::multiply_add(sums[r][v], scales, totals[r][v]);
      }
    }
    store_tile<R, kVectors>(totals, first, bias, columns, out, stride);
  }
}

template <bool kValue>
struct Constant {
  static constexpr bool value = kValue;
};

// Calls the tile of as many rows as there are; R counts down from the largest.
template <int R>
void multiply_quantized_rows(const Int4Matrix& matrix, const std::uint8_t* panel, const std::uint8_t* packed,
                             std::size_t rows, const float* bias, std::size_t columns, float* out, std::size_t stride) {
  if (rows == R) {
    const auto choose = [&](auto zero_points) {
      constexpr bool kZeroPoints = decltype(zero_points)::value;
      if (matrix.block == kStep / 2) return multiply_quantized_tile<R, kStep / 16, 1, kZeroPoints>;
      if (matrix.block == kStep) return multiply_quantized_tile<R, kStep / 8, 1, kZeroPoints>;
      return multiply_quantized_tile<R, kStep / 8, 0, kZeroPoints>;
    };
    const auto tile = matrix.zero_points ? choose(Constant<true>()) : choose(Constant<false>());
    tile(matrix, panel, packed, bias, columns, out, stride);
  } else if constexpr (R > 1) {
    multiply_quantized_rows<R - 1>(matrix, panel, packed, rows, bias, columns, out, stride);
  }
}

template <int R>
void multiply_float_rows(const Int4Matrix& matrix, const std::uint8_t* panel, const std::uint8_t* packed,
                         std::size_t rows, const float* bias, std::size_t columns, float* out, std::size_t stride) {
  if (rows == R) {
    multiply_float_tile<R>(matrix, panel, packed, bias, columns, out, stride);
  } else if constexpr (R > 1) {
    multiply_float_rows<R - 1>(matrix, panel, packed, rows, bias, columns, out, stride);
  }
}

// One row's block. kBlock is the block's size, or 0 where the compiler need not know it.
template <std::size_t kBlock>
QCOMPILER_INLINE void quantize_block(const Int4Matrix& matrix, const float* block, std::size_t rows, std::size_t row,
                                     std::uint8_t* packed) {
  const std::size_t size = kBlock == 0 ? matrix.block : kBlock;
  V::F smallest = V::zero(), largest = V::zero();
  V::F times_zero = V::zero();  // NaN where a value is not finite
  for (std::size_t k = 0; k < size; k += V::kLanes) {
    const V::F value = V::load(block + k);
    smallest = V::min(value, smallest);
    largest = V::max(value, largest);
    times_zero = V::multiply_add(value, V::zero(), times_zero);
  }
  const bool finite = !V::any_nan(times_zero);
  float high, low;
  V::reduce_extremes(smallest, largest, low, high);
  low = -low;
  const float magnitude = high > low ? high : low;
  const float other = high > low ? low : high;
  std::uint8_t* bytes = packed + rows * 8 + row * 4;
  float scale = 0;
  std::int32_t sum = 0;
  if (finite && magnitude >= kSmallestMagnitude) {
    // There is a -128 but no 128: the whole range serves where only one end needs it.
    const float steps = __builtin_copysignf(other * 128.0f > magnitude * 127.5f ? 127.0f : 128.0f, low - high);
    scale = magnitude / steps;
    const V::F inverse = V::set(steps / magnitude);
    V::I sums = V::zero_int();
    for (std::size_t k = 0; k < size; k += 16) {
      std::int8_t quantized[16];
      sums = V::add_int(sums, V::quantize16(block + k, inverse, quantized));
      for (std::size_t i = 0; i < 16; i += 4) __builtin_memcpy(bytes + (k + i) * rows, quantized + i, 4);
    }
    sum = V::reduce_add_int(sums) * (matrix.zero_points ? -1 : -8);
  } else {
    if (!finite) scale = __builtin_nanf("");
    for (std::size_t k = 0; k < size; k += 4) __builtin_memset(bytes + k * rows, 0, 4);
  }
  __builtin_memcpy(packed + row * 4, &scale, 4);
  __builtin_memcpy(packed + (rows + row) * 4, &sum, 4);
}

void quantize_rows(const Int4Matrix& matrix, const float* values, std::size_t stride, std::size_t rows,
                   std::uint8_t* packed) {
  for (std::size_t b = 0; b < matrix.blocks; ++b) {
    const std::size_t start = b * matrix.block;
    for (std::size_t row = 0; row < rows; ++row) {
      const float* block = values + row * stride + start;
      if (start + matrix.block > matrix.depth) {
        float padded[kLargestBlock];
        for (std::size_t k = 0; k < matrix.block; ++k) padded[k] = start + k < matrix.depth ? block[k] : 0.0f;
        quantize_block<0>(matrix, padded, rows, row, packed);
      } else if (matrix.block == kStep) {
        quantize_block<kStep>(matrix, block, rows, row, packed);
      } else {
        quantize_block<0>(matrix, block, rows, row, packed);
      }
    }
    packed += rows * (matrix.block + 8);
  }
}

void copy_rows(const Int4Matrix& matrix, const float* values, std::size_t stride, std::size_t rows,
               std::uint8_t* packed) {
  for (std::size_t row = 0; row < rows; ++row) {
    std::uint8_t* to = packed + row * 4;
    for (std::size_t k = 0; k < matrix.block * matrix.blocks; ++k) {
      const float value = k < matrix.depth ? values[row * stride + k] : 0.0f;
      __builtin_memcpy(to + k * rows * 4, &value, 4);
    }
  }
}

void from_half(const std::uint16_t* halves, std::size_t count, float* floats) {
  std::size_t i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) V::store(floats + i, V::load_half(halves + i));
  if (i == count) return;
  std::uint16_t last[V::kLanes] = {};
  float converted[V::kLanes];
  for (std::size_t k = 0; i + k < count; ++k) last[k] = halves[i + k];
  V::store(converted, V::load_half(last));
  for (std::size_t k = 0; i + k < count; ++k) floats[i + k] = converted[k];
}

void to_half(const float* floats, std::size_t count, std::uint16_t* halves) {
  std::size_t i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) V::store_half(halves + i, V::load(floats + i));
  if (i == count) return;
  float last[V::kLanes] = {};
  std::uint16_t converted[V::kLanes];
  for (std::size_t k = 0; i + k < count; ++k) last[k] = floats[i + k];
  V::store_half(converted, V::load(last));
  for (std::size_t k = 0; i + k < count; ++k) halves[i + k] = converted[k];
}

}  // namespace

const Int4Kernels QCOMPILER_INT4 = {V::rows,
                                    quantize_rows,
                                    copy_rows,
                                    multiply_quantized_rows<V::rows>,
                                    multiply_float_rows<V::rows>,
                                    from_half,
                                    to_half};

}  // namespace qcompiler
