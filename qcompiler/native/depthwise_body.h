// The body of depthwise_<isa>, compiled once an instruction set: each depthwise_<isa>.cpp describes its vectors in structs, one
// for each width of a block, and names `convolve` of them in its table of functions. As in observe_body.h, nothing of the
// standard library may be instantiated.
//
// A struct V has kChannels and, for vectors of a quarter as many int32 (I) and float32 (F):
//   kColumns                       output columns that share a load of weights
//   C load(bytes, flip)            codes of all channels, with `flip` exclusive-ored
//   weave(C (&rows)[4], bytes)     four codes of each channel, in the order of woven_channel
//   W weights(bytes), A codes(bytes), I dot(I, W, A)
//                                  sums of products of codes and weights, four to a lane
//   in_order(I&)                   nothing; compilers that see many sums at once copy each before they add to it
//   I round(I sum, F multiplier)   to the nearest, to the even one of two
//   H pack(I, I, zero_point), store(H, H, flip, bytes)
//                                  codes, saturated
// and loads with the usual meanings.

#include "depthwise.h"
#include "unroll.h"

namespace qcompiler {
namespace {

// Four rows of the image at one column, and how far the next column is.
struct Lines {
  const std::uint8_t* at[kWovenRows];
  std::size_t step[kWovenRows];
};

inline void copy_bytes(std::uint8_t* to, const std::uint8_t* from, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) to[i] = from[i];
}

// Weaves so many columns, which then lie `apart` bytes from each other.
template <typename V, bool kWhole>
void weave_columns(Lines lines, std::size_t columns, std::uint8_t flip, std::size_t count, std::size_t apart,
                   std::uint8_t* woven) {
  for (std::size_t column = 0; column < columns; ++column, woven += apart) {
    typename V::C codes[kWovenRows];
    QCOMPILER_UNROLL
    for (std::size_t i = 0; i < kWovenRows; ++i) {
      if constexpr (kWhole) {
        codes[i] = V::load(lines.at[i], flip);
      } else {
        std::uint8_t few[V::kChannels] = {};
        copy_bytes(few, lines.at[i], count);
        codes[i] = V::load(few, flip);
      }
      lines.at[i] += lines.step[i];
    }
    V::weave(codes, woven);
  }
}

// Weaves the columns that `count` output columns of the row, from `first` on, are made of, for all groups of rows.
template <typename V>
void weave(const DepthwiseFilter& filter, const DepthwiseBlock& block, const DepthwiseImage& image, std::size_t row,
           std::size_t first, std::size_t count, std::uint8_t* woven) {
  constexpr std::size_t kBytes = V::kChannels * kWovenRows;
  std::uint8_t zero_points[V::kChannels];
  __builtin_memset(zero_points, filter.pad_code, sizeof zero_points);
  const Lines outside = {{zero_points, zero_points, zero_points, zero_points}, {0, 0, 0, 0}};
  const std::size_t apart = filter.groups() * kBytes;
  const std::size_t columns = (count - 1) * filter.across.stride + filter.across.window();
  // Column i of the woven ones is the image's `from + i - pad`; those from `begin` to `end` are inside.
  const std::size_t from = first * filter.across.stride, pad = filter.across.pad;
  const std::size_t before = from < pad ? pad - from : 0, till = image.columns + pad > from ? image.columns + pad - from : 0;
  const std::size_t begin = before < columns ? before : columns;
  const std::size_t end = till < begin ? begin : till < columns ? till : columns;
  for (std::size_t group = 0; group < filter.groups(); ++group) {
    Lines inside = outside;
    for (std::size_t i = 0; i < kWovenRows && begin < end; ++i) {
      const std::size_t index = group * kWovenRows + i;
      const std::size_t at = row * filter.down.stride + index * filter.down.dilation;
      if (index >= filter.rows() || at < filter.down.pad || at - filter.down.pad >= image.rows) continue;
      inside.at[i] =
          image.x + block.first + (at - filter.down.pad) * image.x_row + (from + begin - pad) * image.x_column;
      inside.step[i] = image.x_column;
    }
    std::uint8_t* to = woven + group * kBytes;
    weave_columns<V, true>(outside, begin, filter.flip, 0, apart, to);
    const auto weave_inside = block.count == V::kChannels ? weave_columns<V, true> : weave_columns<V, false>;
    weave_inside(inside, end - begin, filter.flip, block.count, apart, to + begin * apart);
    weave_columns<V, true>(outside, columns - end, filter.flip, 0, apart, to + end * apart);
  }
}

// R output rows of P columns, from the woven column `woven` on; two vectors at a time become one of 16 bits. kTaps are all
// taps of a row, or 0: any number.
template <typename V, int R, std::size_t kTaps, int P>
QCOMPILER_INLINE void multiply(const DepthwiseFilter& filter, const DepthwiseBlock& block, const DepthwiseImage& image,
                               const std::uint8_t* woven, std::uint8_t* y) {
  constexpr std::size_t kVector = V::kChannels, kBytes = kVector * kWovenRows;
  const std::size_t taps = kTaps != 0 ? kTaps : filter.taps(), column_bytes = filter.groups() * kBytes;
  typename V::H packed[2][R][P];
  QCOMPILER_UNROLL
  for (std::size_t half = 0; half < 2; ++half) {
    const std::size_t offset = half * 2 * kVector;
    const std::uint8_t* const multipliers = block.packed + offset;
    const std::uint8_t* const starts = multipliers + kBytes;
    const std::uint8_t* weights = starts + kBytes;
    typename V::I sums[R][P][2];
    QCOMPILER_UNROLL
    for (std::size_t v = 0; v < 2; ++v) {
      const typename V::I start = V::load_int(starts + v * kVector);
      QCOMPILER_UNROLL
      for (int r = 0; r < R; ++r) {
        QCOMPILER_UNROLL
        for (int p = 0; p < P; ++p) sums[r][p][v] = start;
      }
    }
    const auto add_tap = [&](const std::uint8_t* codes) __attribute__((always_inline)) {
      QCOMPILER_UNROLL
      for (std::size_t v = 0; v < 2; ++v) {
        typename V::W of_row[R];
        QCOMPILER_UNROLL
        for (int r = 0; r < R; ++r) {
          of_row[r] = V::weights(weights + static_cast<std::size_t>(r) * taps * kBytes + v * kVector);
        }
        QCOMPILER_UNROLL
        for (int p = 0; p < P; ++p) {
          const std::size_t column = static_cast<std::size_t>(p) * filter.across.stride * column_bytes;
          const typename V::A four = V::codes(codes + column + v * kVector);
          QCOMPILER_UNROLL
          for (int r = 0; r < R; ++r) {
            sums[r][p][v] = V::dot(sums[r][p][v], of_row[r], four);
            V::in_order(sums[r][p][v]);
          }
        }
      }
      weights += kBytes;
    };
    const std::uint8_t* codes = woven + offset;
    if constexpr (kTaps != 0) {
      QCOMPILER_UNROLL
      for (std::size_t tap = 0; tap < kTaps; ++tap) add_tap(codes + tap * kBytes);
    } else {
      for (std::size_t tap = 0; tap < filter.across.taps; ++tap, codes += filter.across.dilation * column_bytes) {
        for (std::size_t group = 0; group < column_bytes; group += kBytes) add_tap(codes + group);
      }
    }
    const typename V::F first = V::load(multipliers), second = V::load(multipliers + kVector);
    QCOMPILER_UNROLL
    for (int r = 0; r < R; ++r) {
      QCOMPILER_UNROLL
      for (int p = 0; p < P; ++p) {
        packed[half][r][p] =
            V::pack(V::round(sums[r][p][0], first), V::round(sums[r][p][1], second), filter.y_zero_point);
      }
    }
  }
  QCOMPILER_UNROLL
  for (int r = 0; r < R; ++r) {
    QCOMPILER_UNROLL
    for (int p = 0; p < P; ++p) {
      std::uint8_t* to = y + static_cast<std::size_t>(r) * image.y_row + static_cast<std::size_t>(p) * image.y_column;
      if (block.count == V::kChannels) {
        V::store(packed[0][r][p], packed[1][r][p], filter.y_flip, to);
      } else {
        std::uint8_t few[V::kChannels];
        V::store(packed[0][r][p], packed[1][r][p], filter.y_flip, few);
        copy_bytes(to, few, block.count);
      }
    }
  }
}

// Tiles of columns; the last one takes some of those before it again.
template <typename V, int R, std::size_t kTaps>
void multiply_columns(const DepthwiseFilter& filter, const DepthwiseBlock& block, const DepthwiseImage& image,
                      std::size_t columns, const std::uint8_t* woven, std::uint8_t* y) {
  constexpr std::size_t kMost = V::kColumns;
  const std::size_t step = filter.across.stride * filter.groups() * kWovenRows * V::kChannels;
  if (columns < kMost) {
    for (std::size_t column = 0; column < columns; ++column) {
      multiply<V, R, kTaps, 1>(filter, block, image, woven + column * step, y + column * image.y_column);
    }
    return;
  }
  for (std::size_t done = 0; done < columns; done += kMost) {
    const std::size_t column = done + kMost <= columns ? done : columns - kMost;
    multiply<V, R, kTaps, V::kColumns>(filter, block, image, woven + column * step, y + column * image.y_column);
  }
}

template <typename V>
void convolve_block(const DepthwiseFilter& filter, const DepthwiseBlock& block, const DepthwiseImage& image,
                    std::size_t row, std::size_t rows, std::uint8_t* woven) {
  constexpr std::size_t kCommon = 3;  // those of 3 × 3 and of 3 × 4 taps
  const bool common = filter.taps() == kCommon && filter.groups() == 1 && filter.across.dilation == 1;
  const auto multiply_any = rows == 2 ? (common ? multiply_columns<V, 2, kCommon> : multiply_columns<V, 2, 0>)
                                      : (common ? multiply_columns<V, 1, kCommon> : multiply_columns<V, 1, 0>);
  const std::size_t most = columns_together(filter, V::kChannels);
  for (std::size_t first = 0; first < image.y_columns; first += most) {
    const std::size_t count = image.y_columns - first < most ? image.y_columns - first : most;
    weave<V>(filter, block, image, row, first, count, woven);
    multiply_any(filter, block, image, count, woven, image.y + block.first + row * image.y_row + first * image.y_column);
  }
}

// With the vectors of the block's width.
template <typename V, typename... Narrower>
void convolve(const DepthwiseFilter& filter, const DepthwiseBlock& block, const DepthwiseImage& image, std::size_t row,
              std::size_t rows, std::uint8_t* woven) {
  if (block.width == V::kChannels) {
    convolve_block<V>(filter, block, image, row, rows, woven);
  } else if constexpr (sizeof...(Narrower) > 0) {
    convolve<Narrower...>(filter, block, image, row, rows, woven);
  }
}

}  // namespace
}  // namespace qcompiler
