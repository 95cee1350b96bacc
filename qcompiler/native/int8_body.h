// The body of int8_<isa>, compiled once an instruction set: each int8_<isa>.cpp describes its vectors in a struct V, names
// the table of functions and includes this. As in observe_body.h, nothing of the standard library may be instantiated.
//
// V has, for vectors of kLanes int32 or float32 (types I and F):
//   rows, vectors(R)       the largest tile, and how many vectors of columns a tile of R rows takes at a time
//   W weights(bytes), A four(bytes), I start(sums), I dot(I, W, A)
//                          sums of products of unsigned and signed 8-bit values, four to a lane. `sums` are those of the
//                          weights, for instructions that know signed values only: they take 128 less of every code
//   quantize16(from, offset, inverse, to)   16 codes
// and loads, stores and conversions with the usual meanings.

#include "int8.h"
#include "int8_columns.h"
#include "unroll.h"

#ifndef QCOMPILER_INT8
#error "define QCOMPILER_INT8 as the name of the table of functions"
#endif

namespace qcompiler {
namespace {

constexpr std::size_t kCodes = 16;  // that are made at a time

Int8Row quantize_row(const Int8Matrix& matrix, const float* values, std::uint8_t* codes) {
  const std::size_t whole = matrix.depth / kCodes * kCodes;
  float rest[kCodes];
  for (std::size_t i = 0; i < kCodes; ++i) rest[i] = values[whole + i < matrix.depth ? whole + i : 0];

  V::F smallest = V::set(values[0]), largest = smallest;
  V::F times_zero = V::zero();  // NaN where a value is not finite
  const auto look = [&](const float* from) __attribute__((always_inline)) {
    const V::F value = V::load(from);
    smallest = V::min(value, smallest);
    largest = V::max(value, largest);
    times_zero = V::multiply_add(value, V::zero(), times_zero);
  };
  for (std::size_t k = 0; k < whole; k += V::kLanes) look(values + k);
  for (std::size_t i = 0; i < kCodes; i += V::kLanes) look(rest + i);
  float low, high;
  V::reduce_extremes(smallest, largest, low, high);
  const float range = high - low;
  const bool finite = !V::any_nan(times_zero) && range <= __FLT_MAX__;
  if (!finite || range < kInt8SmallestRange) {
    __builtin_memset(codes, 0, matrix.groups() * 4);
    if (finite) return {0.0f, low};
    return {__builtin_nanf(""), __builtin_nanf("")};
  }
  const V::F offset = V::set(low), inverse = V::set(255.0f / range);
  for (std::size_t k = 0; k < whole; k += kCodes) V::quantize16(values + k, offset, inverse, codes + k);
  if (whole < matrix.depth) {
    for (std::size_t i = matrix.depth - whole; i < kCodes; ++i) rest[i] = low;
    V::quantize16(rest, offset, inverse, codes + whole);
  }
  return {range / 255.0f, low};
}

template <int R, int kVectors>
QCOMPILER_INLINE void multiply_columns(const Int8Matrix& matrix, const std::uint8_t* panel, const std::uint8_t* codes,
                                       const Int8Row* scales, std::size_t first, const float* bias, std::size_t columns,
                                       float* out, std::size_t stride) {
  constexpr std::size_t kAhead = 4096;  // few rows do so little with weights that they are asked for ahead of their use
  const std::size_t row_bytes = matrix.row_bytes();
  const std::uint8_t* sums = panel + kInt8Columns * 4;
  V::I dots[R][kVectors];
  QCOMPILER_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    const V::I start = V::start(V::load_int(sums + (first + static_cast<std::size_t>(v) * V::kLanes) * 4));
    QCOMPILER_UNROLL
    for (int r = 0; r < R; ++r) dots[r][v] = start;
  }
  const std::uint8_t* weights = panel + kInt8Header + first * 4;
  const std::uint8_t* const end = codes + matrix.groups() * 4;
  for (; codes < end; codes += 4, weights += kInt8Group) {
    QCOMPILER_UNROLL
    for (int line = 0; line < kVectors * V::kLanes * 4; line += 64) __builtin_prefetch(weights + kAhead + line, 0, 2);
    V::W columns_of[kVectors];
    QCOMPILER_UNROLL
    for (int v = 0; v < kVectors; ++v) columns_of[v] = V::weights(weights + v * V::kLanes * 4);
    QCOMPILER_UNROLL
    for (int r = 0; r < R; ++r) {
      const V::A four = V::four(codes + static_cast<std::size_t>(r) * row_bytes);
      QCOMPILER_UNROLL
      for (int v = 0; v < kVectors; ++v) dots[r][v] = V::dot(dots[r][v], columns_of[v], four);
    }
  }
  // By way of memory: a compiler that sees sums used in another loop may store them in every turn of the first.
  V::I products[R][kVectors];
  QCOMPILER_UNROLL
  for (int r = 0; r < R; ++r) {
    QCOMPILER_UNROLL
    for (int v = 0; v < kVectors; ++v) products[r][v] = dots[r][v];
  }
  store_columns<kVectors>(products, panel, scales, R, first, bias, columns, out, stride);
}

// Calls the tile of as many rows as there are; R counts down from the largest.
template <int R>
void multiply_rows(const Int8Matrix& matrix, const std::uint8_t* panel, const std::uint8_t* codes, const Int8Row* scales,
                   std::size_t rows, const float* bias, std::size_t columns, float* out, std::size_t stride) {
  if (rows == R) {
    constexpr int kMany = V::vectors(R), kFew = (kMany + 1) / 2;  // these for the last columns
    std::size_t first = 0;
    for (; first + kFew * V::kLanes < columns; first += kMany * V::kLanes) {
      multiply_columns<R, kMany>(matrix, panel, codes, scales, first, bias, columns, out, stride);
    }
    if (first < columns) multiply_columns<R, kFew>(matrix, panel, codes, scales, first, bias, columns, out, stride);
  } else if constexpr (R > 1) {
    multiply_rows<R - 1>(matrix, panel, codes, scales, rows, bias, columns, out, stride);
  }
}

}  // namespace

const Int8Kernels QCOMPILER_INT8 = {V::rows, quantize_row, multiply_rows<V::rows>};

}  // namespace qcompiler
