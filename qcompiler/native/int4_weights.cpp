#include "int4_weights.h"

#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "half.h"

namespace qcompiler {
namespace {

// A block that the kernels can work in, for a column of one scale: the largest that adds no more zeros than the smallest.
std::size_t block_for_channel(std::size_t depth) {
  const std::size_t rounded = (depth + 31) / 32 * 32;
  for (const std::size_t block : {128u, 64u}) {
    if (rounded % block == 0) return block;
  }
  return 32;
}

Int4Matrix describe(const Int4Source& source) {
  Int4Matrix matrix{};
  matrix.depth = source.depth;
  matrix.columns = source.columns;
  matrix.block = source.block == 0 ? block_for_channel(source.depth) : source.block;
  matrix.blocks = (source.depth + matrix.block - 1) / matrix.block;
  matrix.half_scales = source.half_scales;
  matrix.zero_points = source.zero_points != nullptr;
  matrix.block_bytes = matrix.scale_bytes() + matrix.zero_point_bytes() + matrix.block / 8 * kGroupBytes;
  return matrix;
}

// Moves the four halves of 16 bits to the low halves of four bytes.
std::uint32_t spread(std::uint32_t halves) {
  halves = (halves | halves << 8) & 0x00FF00FFu;
  return (halves | halves << 4) & 0x0F0F0F0Fu;
}

void pack_panel(const Int4Source& source, const Int4Matrix& matrix, std::size_t panel, std::uint8_t* out) {
  std::memset(out, 0, matrix.panel_bytes());
  const std::size_t first = panel * kPanelColumns;
  const std::size_t columns = std::min(kPanelColumns, source.columns - first);
  const std::size_t scale_size = source.half_scales ? 2 : 4;
  for (std::size_t b = 0; b < matrix.blocks; ++b) {
    const std::size_t group = source.block == 0 ? 0 : b;
    const std::size_t start = source.block == 0 ? b * matrix.block / 2 : 0;  // in bytes, within the group
    std::uint8_t* zero_points = out + matrix.scale_bytes();
    std::uint8_t* weights = zero_points + matrix.zero_point_bytes();
    for (std::size_t c = 0; c < columns; ++c) {
      const std::size_t at = (first + c) * source.groups() + group;
      std::memcpy(out + c * scale_size, static_cast<const std::uint8_t*>(source.scales) + at * scale_size, scale_size);
      if (matrix.zero_points) {
        const auto zero_point = static_cast<std::int16_t>(source.zero_point(first + c, group));
        std::memcpy(zero_points + c * 2, &zero_point, 2);
      }
      const std::uint8_t* from = source.weights + at * source.group_bytes() + start;
      std::size_t left = std::min(source.group_bytes() - start, matrix.block / 2);
      for (std::size_t eight = 0; left > 0; ++eight) {
        const std::size_t size = std::min<std::size_t>(left, 4);
        std::uint32_t halves = 0;
        for (std::size_t i = 0; i < size; ++i) halves |= static_cast<std::uint32_t>(from[eight * 4 + i]) << (8 * i);
        const std::uint32_t packed = spread(halves & 0xFFFFu) | spread(halves >> 16) << 4;
        for (std::size_t i = 0; i < 4; ++i) {
          weights[eight * kGroupBytes + c * 4 + i] = static_cast<std::uint8_t>(packed >> (8 * i));
        }
        left -= size;
      }
    }
    out += matrix.block_bytes;
  }
}

std::size_t panel_count(const Int4Matrix& matrix) { return (matrix.columns + kPanelColumns - 1) / kPanelColumns; }

// FNV-1a. It only has to tell most matrices apart: what it finds equal is then compared.
std::uint64_t hash(const Int4Source& source) {
  std::uint64_t value = 0xCBF29CE484222325u;
  const auto add = [&](const void* data, std::size_t size, std::size_t step) {
    for (std::size_t i = 0; i < size; i += step) {
      value = (value ^ static_cast<const std::uint8_t*>(data)[i]) * 0x100000001B3u;
    }
  };
  add(source.weights, source.weight_bytes(), source.weight_bytes() / 4096 + 1);
  const std::size_t scale_bytes = source.scale_count() * (source.half_scales ? 2 : 4);
  add(source.scales, scale_bytes, scale_bytes / 4096 + 1);
  return value;
}

using Key = std::tuple<std::size_t, std::size_t, std::size_t, bool, bool, std::uint64_t>;
std::mutex g_shared_mutex;
std::multimap<Key, std::weak_ptr<const Int4Weights>> g_shared;

}  // namespace

float Int4Source::scale(std::size_t column, std::size_t group) const {
  const std::size_t at = column * groups() + group;
  std::uint32_t bits;
  if (half_scales) {
    std::uint16_t half;
    std::memcpy(&half, static_cast<const std::uint8_t*>(scales) + at * sizeof half, sizeof half);
    bits = half_to_float_bits(half);
  } else {
    std::memcpy(&bits, static_cast<const std::uint8_t*>(scales) + at * sizeof bits, sizeof bits);
  }
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

int Int4Source::zero_point(std::size_t column, std::size_t group) const {
  if (zero_points == nullptr) return 8;
  const std::uint8_t byte = zero_points[column * ((groups() + 1) / 2) + group / 2];
  return group % 2 == 0 ? byte & 15 : byte >> 4;
}

std::string check_int4_sizes(std::int64_t depth, std::int64_t columns, std::int64_t block) {
  constexpr std::int64_t kLimit = std::int64_t{1} << 31;  // products of two sizes stay within 64 bits
  if (depth < 1 || depth >= kLimit) return "K = " + std::to_string(depth) + " is not between 1 and 2^31";
  if (columns < 1 || columns >= kLimit) return "N = " + std::to_string(columns) + " is not between 1 and 2^31";
  if (block == 0) return "";
  if (block != 16 && block != 32 && block != 64 && block != 128 && block != 256) {
    return "block_size = " + std::to_string(block) + "; use 16, 32, 64, 128, 256, or 0 for one scale a column";
  }
  if (depth % block != 0) {
    return "K = " + std::to_string(depth) + " is not a multiple of block_size = " + std::to_string(block) +
           "; quantize with a block that divides K, or with block_size = 0";
  }
  return "";
}

std::string check_int4_scales(const Int4Source& source) {
  const float smallest = source.half_scales ? 0x1p-14f : 0x1p-126f;
  for (std::size_t column = 0; column < source.columns; ++column) {
    for (std::size_t group = 0; group < source.groups(); ++group) {
      const float scale = source.scale(column, group);
      if (std::fabs(scale) >= smallest && std::isfinite(scale)) continue;
      const char* kind = std::isnan(scale) ? "NaN" : std::isinf(scale) ? "infinite" : scale == 0 ? "zero" : "subnormal";
      return "the scale of column " + std::to_string(column) + ", block " + std::to_string(group) + " is " + kind +
             (std::isfinite(scale) ? "; a block of zeros can have the scale 1, a small one needs float32 scales"
                                   : "; the weights it was made from were not finite");
    }
  }
  return "";
}

Int4Weights::Int4Weights(const Int4Source& source) : matrix_(describe(source)) {
  const std::size_t size = panel_count(matrix_) * matrix_.panel_bytes();
  memory_ = packed_memory(size);
  for (std::size_t panel = 0; panel < panel_count(matrix_); ++panel) {
    pack_panel(source, matrix_, panel, memory_.get() + panel * matrix_.panel_bytes());
  }
  matrix_.panels = memory_.get();
}

bool Int4Weights::equals(const Int4Source& source) const {
  std::vector<std::uint8_t> packed(matrix_.panel_bytes());
  for (std::size_t panel = 0; panel < panel_count(matrix_); ++panel) {
    pack_panel(source, matrix_, panel, packed.data());
    if (std::memcmp(packed.data(), matrix_.panels + panel * packed.size(), packed.size()) != 0) return false;
  }
  return true;
}

std::shared_ptr<const Int4Weights> share_int4(const Int4Source& source) {
  const Key key{source.depth, source.columns, source.block, source.half_scales, source.zero_points != nullptr,
                hash(source)};
  const std::lock_guard<std::mutex> lock(g_shared_mutex);
  for (auto entry = g_shared.begin(); entry != g_shared.end();) {
    const auto weights = entry->second.lock();
    if (weights != nullptr && entry->first == key && weights->equals(source)) return weights;
    entry = weights == nullptr ? g_shared.erase(entry) : std::next(entry);
  }
  auto weights = std::make_shared<const Int4Weights>(source);
  g_shared.emplace(key, weights);
  return weights;
}

}  // namespace qcompiler
