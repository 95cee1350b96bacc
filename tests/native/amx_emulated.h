// The matrix extensions' instructions that the kernels use, in plain C++, for processors that have none: include this first.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace emulated {

struct Tile {
  std::uint8_t bytes[16][64];
};

struct State {
  std::uint8_t shapes[64];  // the operand of LDTILECFG
  Tile tiles[8];

  std::size_t rows(int tile) const { return shapes[48 + tile]; }
  std::size_t row_bytes(int tile) const { return static_cast<std::size_t>(shapes[16 + 2 * tile] | shapes[17 + 2 * tile] << 8); }
};

inline thread_local State g_state;

inline void load_config(const void* shapes) {
  std::memset(&g_state, 0, sizeof g_state);
  std::memcpy(g_state.shapes, shapes, sizeof g_state.shapes);
}
inline void release() { std::memset(&g_state, 0, sizeof g_state); }
inline void zero(int tile) { std::memset(&g_state.tiles[tile], 0, sizeof g_state.tiles[tile]); }

inline void load(int tile, const void* from, long stride) {
  zero(tile);
  for (std::size_t row = 0; row < g_state.rows(tile); ++row) {
    const auto* start = static_cast<const std::uint8_t*>(from) + static_cast<long>(row) * stride;
    std::memcpy(g_state.tiles[tile].bytes[row], start, g_state.row_bytes(tile));
  }
}

inline void store(int tile, void* to, long stride) {
  for (std::size_t row = 0; row < g_state.rows(tile); ++row) {
    auto* start = static_cast<std::uint8_t*>(to) + static_cast<long>(row) * stride;
    std::memcpy(start, g_state.tiles[tile].bytes[row], g_state.row_bytes(tile));
  }
}

// sums += a times b, where add(sum, four bytes of a, four bytes of b) is an element's part.
template <typename Sum, typename Add>
void multiply(int sums, int a, int b, const Add& add) {
  for (std::size_t m = 0; m < g_state.rows(sums); ++m) {
    for (std::size_t n = 0; n < g_state.row_bytes(sums) / 4; ++n) {
      Sum sum;
      std::memcpy(&sum, g_state.tiles[sums].bytes[m] + n * 4, sizeof sum);
      for (std::size_t k = 0; k < g_state.row_bytes(a) / 4; ++k) {
        sum = add(sum, g_state.tiles[a].bytes[m] + k * 4, g_state.tiles[b].bytes[k] + n * 4);
      }
      std::memcpy(g_state.tiles[sums].bytes[m] + n * 4, &sum, sizeof sum);
    }
  }
}

inline void dot_bytes(int sums, int a, int b) {
  multiply<std::int32_t>(sums, a, b, [](std::int32_t sum, const std::uint8_t* codes, const std::uint8_t* weights) {
    for (int i = 0; i < 4; ++i) sum += codes[i] * static_cast<std::int8_t>(weights[i]);
    return sum;
  });
}

inline float from_bfloat16(const std::uint8_t* bytes) {
  const std::uint32_t bits = static_cast<std::uint32_t>(bytes[0] | bytes[1] << 8) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void dot_bfloat16(int sums, int a, int b) {
  multiply<float>(sums, a, b, [](float sum, const std::uint8_t* values, const std::uint8_t* weights) {
    for (int i = 0; i < 4; i += 2) sum += from_bfloat16(values + i) * from_bfloat16(weights + i);
    return sum;
  });
}

}  // namespace emulated

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbusd
#undef _tile_dpbf16ps
#define _tile_loadconfig(shapes) emulated::load_config(shapes)
#define _tile_release() emulated::release()
#define _tile_zero(tile) emulated::zero(tile)
#define _tile_loadd(tile, from, stride) emulated::load(tile, from, stride)
#define _tile_stored(tile, to, stride) emulated::store(tile, to, stride)
#define _tile_dpbusd(sums, a, b) emulated::dot_bytes(sums, a, b)
#define _tile_dpbf16ps(sums, a, b) emulated::dot_bfloat16(sums, a, b)
