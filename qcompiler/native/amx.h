// What the kernels for Intel's matrix extensions share: the shapes of the eight tiles, which stay as they are until they are
// released. (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.)
//
// Tiles are released at the end of every product: ONNX Runtime's own kernels use them on the same threads, and load their
// shapes only where they find others.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace qcompiler {
namespace {
namespace amx {

inline constexpr std::size_t kTileRows = 16, kTileBytes = 64;  // of a row

// Compilers do not know that a tile, or the shapes, are loaded from memory which they have still to write.
inline __attribute__((always_inline)) void written() { asm volatile("" ::: "memory"); }

// The operand of LDTILECFG.
struct alignas(64) Shapes {
  std::uint8_t palette = 1;
  std::uint8_t first_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};

  // Of `count` neighbouring tiles.
  void set(int first, int count, std::size_t tile_rows, std::size_t tile_row_bytes) {
    for (int tile = first; tile < first + count; ++tile) {
      rows[tile] = static_cast<std::uint8_t>(tile_rows);
      row_bytes[tile] = static_cast<std::uint16_t>(tile_row_bytes);
    }
  }

  __attribute__((always_inline)) void load() const {
    written();
    _tile_loadconfig(this);
  }
};
static_assert(sizeof(Shapes) == 64, "the processor reads 64 bytes");

}  // namespace amx
}  // namespace
}  // namespace qcompiler
