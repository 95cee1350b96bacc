// Tensors of which each channel is treated in its own way: where the channels lie, and the work divided among threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "ort_call.h"

namespace qcompiler {

// Element i is of the channel i / inner % channels.
struct Channels {
  std::size_t count;
  std::size_t channels;
  std::size_t inner;

  static Channels one(std::size_t count) { return {count, 1, count}; }

  // Calls function(begin, end, channel) for the stretches of one channel that elements `begin` to `end` are.
  template <typename Function>
  void for_each_stretch(std::size_t begin, std::size_t end, const Function& function) const {
    std::size_t channel = begin / inner % channels;
    std::size_t left = inner - begin % inner;
    while (begin < end) {
      const std::size_t stretch = std::min(left, end - begin);
      function(begin, begin + stretch, channel);
      begin += stretch;
      left = inner;
      channel = channel + 1 == channels ? 0 : channel + 1;
    }
  }
};

inline std::size_t product_of(std::vector<std::int64_t>::const_iterator begin,
                              std::vector<std::int64_t>::const_iterator end) {
  return std::accumulate(begin, end, std::size_t{1},
                         [](std::size_t product, std::int64_t size) { return product * static_cast<std::size_t>(size); });
}

// Calls function(begin, end) for shares of `total` pieces, each of which makes `size` bytes: in threads where there are bytes
// enough, else at once.
template <typename Function>
void in_shares(const ort::Api& api, const ort::KernelContext* context, std::size_t total, std::size_t size,
               const Function& function) {
  constexpr std::size_t kWorthAThread = std::size_t{1} << 16;  // with fewer bytes, waking it takes longer than they do
  constexpr std::size_t kMost = 64;
  const std::size_t shares = std::min({total, total * size / kWorthAThread, kMost});
  if (shares <= 1) return function(std::size_t{0}, total);
  const auto bound = [&](std::size_t share) { return total / shares * share + std::min(share, total % shares); };
  parallel_for(api, context, shares, [&](std::size_t share) { function(bound(share), bound(share + 1)); });
}

}  // namespace qcompiler
