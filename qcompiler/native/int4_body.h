// The body of int4_<isa>, compiled once an instruction set: each int4_<isa>.cpp describes its vectors in a struct V, names
// the table of functions and includes this. As in observe_body.h, nothing of the standard library may be instantiated.
//
// V has, for vectors of kLanes int32 or float32 (types I and F) and for the bytes of kLanes columns (B):
//   rows, vectors(R)       the largest tile, and how many vectors of columns a tile of R rows takes at a time
//   D start(I), dot(D, B, I), I finish(D, I)   sums of products of unsigned 4-bit and signed 8-bit values, four to a
//                          lane; `start` and `finish` are called every 32 k, so a D may be narrower than its sum
//   lines_in_pairs         whether the processor brings two lines of its cache where one is asked for
//   in_pairs               whether two rows are multiplied at a time, by these:
//   exchange(D&, D&)       between the sums of two rows and what dot_pair adds to, in both directions
//   load_pair(row, row)    eight values of each
//   dot_pair(D&, D&, B, B, pair)   sums of eight products, of four k in the first B and four in the second
// and loads, stores and conversions with the usual meanings.

#include "int4.h"
#include "unroll.h"

#ifndef QCOMPILER_INT4
#error "define QCOMPILER_INT4 as the name of the table of functions"
#endif

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

// kGroups groups of eight k for the columns that start at `weights`. W is V.
template <typename W, int R, int kVectors, int kGroups>
QCOMPILER_INLINE void dot_step(typename W::I (&sums)[R][kVectors], const std::uint8_t* weights, const std::uint8_t* values,
                               std::size_t row_bytes) {
  constexpr int kPairs = W::in_pairs ? R / 2 : 0;
  typename W::D dots[R][kVectors];
  QCOMPILER_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    QCOMPILER_UNROLL
    for (int r = 0; r < R; ++r) dots[r][v] = W::start(sums[r][v]);
    if constexpr (kPairs > 0) {
      QCOMPILER_UNROLL
      for (int p = 0; p < kPairs; ++p) W::exchange(dots[2 * p][v], dots[2 * p + 1][v]);
    }
  }
  QCOMPILER_UNROLL
  for (int group = 0; group < kGroups; ++group) {
    typename W::B low[kVectors], high[kVectors];
    QCOMPILER_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const typename W::B both = W::load_bytes(weights + group * static_cast<int>(kGroupBytes) + v * W::kLanes * 4);
      low[v] = W::low_halves(both);
      high[v] = W::high_halves(both);
    }
    const auto row = [&](int r) { return values + static_cast<std::size_t>(r) * row_bytes + group * 8; };
    if constexpr (kPairs > 0) {
      QCOMPILER_UNROLL
      for (int p = 0; p < kPairs; ++p) {
        const typename W::B both = W::load_pair(row(2 * p), row(2 * p + 1));
        QCOMPILER_UNROLL
        for (int v = 0; v < kVectors; ++v) W::dot_pair(dots[2 * p][v], dots[2 * p + 1][v], low[v], high[v], both);
      }
    }
    QCOMPILER_UNROLL
    for (int r = 2 * kPairs; r < R; ++r) {
      const typename W::I four = W::broadcast(row(r));
      QCOMPILER_UNROLL
      for (int v = 0; v < kVectors; ++v) dots[r][v] = W::dot(dots[r][v], low[v], four);
    }
    QCOMPILER_UNROLL
    for (int r = 2 * kPairs; r < R; ++r) {
      const typename W::I four = W::broadcast(row(r) + 4);
      QCOMPILER_UNROLL
      for (int v = 0; v < kVectors; ++v) dots[r][v] = W::dot(dots[r][v], high[v], four);
    }
  }
  QCOMPILER_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    if constexpr (kPairs > 0) {
      QCOMPILER_UNROLL
      for (int p = 0; p < kPairs; ++p) W::exchange(dots[2 * p][v], dots[2 * p + 1][v]);
    }
    QCOMPILER_UNROLL
    for (int r = 0; r < R; ++r) sums[r][v] = W::finish(dots[r][v], sums[r][v]);
  }
}

// kGroups groups of eight k make a step, and one step a block, or several (kSteps = 0) do.
template <int R, int kGroups, int kSteps, bool kZeroPoints>
void multiply_quantized_tile(const Int4Matrix& matrix, const std::uint8_t* panel, const std::uint8_t* packed,
                             const float* bias, std::size_t columns, float* out, std::size_t stride) {
  constexpr int kVectors = V::vectors(R);
  constexpr std::size_t kWidth = kVectors * V::kLanes;
  // Weights are asked for ahead of their use, in time for the first-level cache. One row does so little with them that
  // memory is the limit: where the processor brings lines in pairs, every second one suffices, and asking for more takes
  // the place of what it asks for by itself.
  constexpr bool kSparsely = R == 1 && V::lines_in_pairs;
  constexpr std::size_t kAhead = kSparsely ? 4096 : 2560, kLine = kSparsely ? 128 : 64;
  constexpr int kLocality = kSparsely ? 2 : 3;
  const std::size_t scale_bytes = matrix.scale_bytes();
  const std::size_t header = scale_bytes + (kZeroPoints ? kPanelColumns * 2 : 0);
  const std::size_t row_bytes = matrix.quantized_row_bytes();

  for (std::size_t first = 0; first < kPanelColumns && first < columns; first += kWidth) {
    V::F totals[R][kVectors];
    QCOMPILER_UNROLL
    for (int r = 0; r < R; ++r) {
      QCOMPILER_UNROLL
      for (int v = 0; v < kVectors; ++v) totals[r][v] = V::zero();
    }
    // So that results need not wait for their memory, nor for its page: with many columns each row has pages of its own.
    QCOMPILER_UNROLL
    for (int r = 0; r < R; ++r) {
      const float* row = out + static_cast<std::size_t>(r) * stride + first;
      QCOMPILER_UNROLL
      for (int v = 0; v < kVectors; ++v) __builtin_prefetch(row + v * V::kLanes, 1, 3);
    }
    const std::uint8_t* block = panel;
    const std::uint8_t* rows = packed;
    for (std::size_t b = 0; b < matrix.blocks; ++b) {
      V::I sums[R][kVectors];
      if (kZeroPoints) {
        QCOMPILER_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          const V::I zero_points = V::load_int16(block + scale_bytes + (first + static_cast<std::size_t>(v) * V::kLanes) * 2);
          QCOMPILER_UNROLL
          for (int r = 0; r < R; ++r) sums[r][v] = V::multiply_int16(zero_points, V::broadcast(rows + static_cast<std::size_t>(r) * row_bytes + 4));
        }
      } else {
        QCOMPILER_UNROLL
        for (int r = 0; r < R; ++r) {
          const V::I correction = V::broadcast(rows + static_cast<std::size_t>(r) * row_bytes + 4);
          QCOMPILER_UNROLL
          for (int v = 0; v < kVectors; ++v) sums[r][v] = correction;
        }
      }
      const std::uint8_t* weights = block + header + first * 4;
      const std::uint8_t* values = rows + kRowHeader;
      const std::size_t steps = kSteps == 0 ? matrix.block / (kGroups * 8) : kSteps;
      for (std::size_t step = 0; step < steps; ++step) {
        QCOMPILER_UNROLL
        for (std::size_t line = 0; line < kGroups * kGroupBytes; line += kLine) {
          __builtin_prefetch(weights + kAhead + line, 0, kLocality);
        }
        dot_step<V, R, kVectors, kGroups>(sums, weights, values, row_bytes);
        weights += kGroups * kGroupBytes;
        values += kGroups * 8;
      }
      V::F scales[kVectors];
      QCOMPILER_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        scales[v] = load_scales(matrix, block, first + static_cast<std::size_t>(v) * V::kLanes);
      }
      QCOMPILER_UNROLL
      for (int r = 0; r < R; ++r) {
        const V::F row_scale = V::broadcast_float(rows + static_cast<std::size_t>(r) * row_bytes);
        QCOMPILER_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          totals[r][v] = V::multiply_add(V::to_float(sums[r][v]), V::multiply(scales[v], row_scale), totals[r][v]);
        }
      }
      block += matrix.block_bytes;
      rows += kRowHeader + matrix.block;
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
  const std::size_t row_bytes = matrix.float_row_bytes();

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
              sums[r][v] = V::multiply_add(weight, V::broadcast_float(values + static_cast<std::size_t>(r) * row_bytes + k * 4), sums[r][v]);
            }
          }
        }
        values += 8 * 4;
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

// Blocks are quantized some at a time, in three steps that each do one thing to all of them: what the steps of one block
// would wait for, the next block's need not.
constexpr std::size_t kTogether = 32;

struct Extremes {
  std::uint32_t high[kTogether], low[kTogether];  // the magnitudes' bits
};

// Positive floats are in the order of their bits, and negative ones follow them in the order of their magnitudes. So the
// largest signed integer is the largest value, the largest unsigned one the smallest value, and neither misses a NaN.
template <std::size_t kBlock>
QCOMPILER_INLINE void find_extremes(const float* values, std::size_t block, std::size_t count, Extremes& extremes) {
  const std::size_t size = kBlock == 0 ? block : kBlock;
  for (std::size_t b = 0; b < count; ++b) {
    V::I largest = V::load_int(values), smallest = largest;
    for (std::size_t k = V::kLanes; k < size; k += V::kLanes) {
      const V::I bits = V::load_int(values + k);
      largest = V::max_int(bits, largest);
      smallest = V::max_unsigned(bits, smallest);
    }
    V::reduce_extremes(largest, smallest, extremes.high[b], extremes.low[b]);
    values += size;
  }
}

struct Steps {
  std::uint32_t scale[kTogether], inverse[kTogether];  // the bits of floats
};

// Without a branch: which end is the farther one is a matter of chance.
QCOMPILER_INLINE void choose_steps(const Extremes& extremes, Steps& steps) {
  constexpr std::uint32_t kSign = 0x80000000u, kInfinity = 0x7F800000u, kNan = 0x7FC00000u;
  for (std::size_t b = 0; b < kTogether; ++b) {
    const std::uint32_t high = extremes.high[b] < kSign ? extremes.high[b] : 0;
    const std::uint32_t low = extremes.low[b] > kSign ? extremes.low[b] - kSign : 0;
    const std::uint32_t most = high > low ? high : low, least = high > low ? low : high;
    const std::uint32_t sign = high > low ? kSign : 0;
    float magnitude, other;
    __builtin_memcpy(&magnitude, &most, sizeof magnitude);
    __builtin_memcpy(&other, &least, sizeof other);
    // There is a -128 but no 128: the whole range serves where only one end needs it.
    const bool both_ends = other * 128.0f > magnitude * 127.5f;
    const float scale = magnitude * (both_ends ? 1.0f / 127.0f : 1.0f / 128.0f);
    const float inverse = (both_ends ? 127.0f : 128.0f) / magnitude;
    std::uint32_t scale_bits, inverse_bits;
    __builtin_memcpy(&scale_bits, &scale, sizeof scale);
    __builtin_memcpy(&inverse_bits, &inverse, sizeof inverse);
    const bool nothing = most >= kInfinity || magnitude < kSmallestMagnitude;
    steps.scale[b] = most >= kInfinity ? kNan : nothing ? 0 : scale_bits | sign;
    steps.inverse[b] = nothing ? 0 : inverse_bits | sign;
  }
}

template <std::size_t kBlock>
QCOMPILER_INLINE void quantize_blocks(const float* values, std::size_t block, std::size_t count, const Steps& steps,
                                      std::int32_t factor, std::uint8_t* packed) {
  const std::size_t size = kBlock == 0 ? block : kBlock;
  for (std::size_t b = 0; b < count; ++b) {
    std::int8_t* bytes = reinterpret_cast<std::int8_t*>(packed + kRowHeader);
    std::int32_t sum = 0;
    if (steps.inverse[b] != 0) {
      const V::F inverse = V::broadcast_float(reinterpret_cast<const std::uint8_t*>(steps.inverse + b));
      V::I sums = V::zero_int();
      for (std::size_t k = 0; k < size; k += 16) sums = V::add_int(sums, V::quantize16(values + k, inverse, bytes + k));
      sum = V::reduce_add_int(sums) * factor;
    } else {
      __builtin_memset(bytes, 0, size);
    }
    __builtin_memcpy(packed, steps.scale + b, 4);
    __builtin_memcpy(packed + 4, &sum, 4);
    values += size;
    packed += kRowHeader + size;
  }
}

// Up to kTogether blocks of a row, of kBlock values, or of any number of them where that is 0.
template <std::size_t kBlock>
void quantize_some(const float* values, std::size_t block, std::size_t count, std::int32_t factor, std::uint8_t* packed) {
  Extremes extremes = {};
  Steps steps;
  find_extremes<kBlock>(values, block, count, extremes);
  choose_steps(extremes, steps);
  quantize_blocks<kBlock>(values, block, count, steps, factor, packed);
}

void quantize_row(const Int4Matrix& matrix, const float* values, std::uint8_t* packed) {
  const std::size_t block = matrix.block, whole = matrix.depth / block;
  const std::int32_t factor = matrix.zero_points ? -1 : -8;
  const auto quantize = block == kStep ? quantize_some<kStep> : quantize_some<0>;
  for (std::size_t b = 0; b < whole; b += kTogether) {
    const std::size_t count = whole - b < kTogether ? whole - b : kTogether;
    quantize(values, block, count, factor, packed);
    values += count * block;
    packed += count * (kRowHeader + block);
  }
  if (whole < matrix.blocks) {
    float padded[kLargestBlock] = {};
    for (std::size_t k = 0; whole * block + k < matrix.depth; ++k) padded[k] = values[k];
    quantize(padded, block, 1, factor, packed);
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
                                    quantize_row,
                                    multiply_quantized_rows<V::rows>,
                                    multiply_float_rows<V::rows>,
                                    from_half,
                                    to_half};

}  // namespace qcompiler
