#include "table.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <new>

namespace qcompiler {
namespace {

constexpr std::uint64_t kLaneLimit = std::numeric_limits<std::uint32_t>::max();

struct Registry {
  std::mutex mutex;
  std::map<std::int64_t, std::shared_ptr<Table>> tables;
  std::int64_t next = 1;
};

Registry& registry() {
  static Registry instance;
  return instance;
}

float from_key(std::int32_t key) {
  const std::uint32_t bits = key_to_bits(key);
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

float smallest_of(const Extremes& seen) {
  return seen.smallest > seen.largest ? std::numeric_limits<float>::infinity() : from_key(seen.smallest);
}

float largest_of(const Extremes& seen) {
  return seen.smallest > seen.largest ? -std::numeric_limits<float>::infinity() : from_key(seen.largest);
}

}  // namespace

void Slot::add(ObserveFunction observe, const std::uint32_t* bits, std::size_t count) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (lanes_ == nullptr) {
    lanes_.reset(static_cast<std::uint32_t*>(std::calloc(kBins * kLanes, sizeof(std::uint32_t))));
    if (lanes_ == nullptr) throw std::bad_alloc();
  }
  while (count > 0) {
    if (pending_ == kLaneLimit) spill();
    const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(count, kLaneLimit - pending_));
    const std::uint64_t bad_before = bad();
    observe(bits, part, lanes_.get(), &extremes_);
    if (first_bad_ < 0 && bad() != bad_before) first_bad_ = sample_;
    pending_ += part;
    bits += part;
    count -= part;
  }
}

void Slot::begin(std::int64_t sample) {
  const std::lock_guard<std::mutex> lock(mutex_);
  sample_ = sample;
  extremes_before_ = extremes_;
  first_bad_before_ = first_bad_;
}

std::uint64_t Slot::bad() const {
  std::uint64_t count = 0;
  for (const std::uint32_t bin : {kBinNan, kBinPositiveInfinity, kBinNegativeInfinity}) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) count += lanes_[bin * kLanes + lane];
  }
  return count;
}

void Slot::spill() {
  if (spilled_.empty()) spilled_.resize(kBins);
  for (std::size_t bin = 0; bin < kBins; ++bin) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      std::uint32_t& count = lanes_[bin * kLanes + lane];
      if (count == 0) continue;  // do not touch, and so commit, a page that is still the system's zero page
      spilled_[bin] += count;
      count = 0;
    }
  }
  pending_ = 0;
}

void Slot::read(std::uint64_t* bins, Observed& observed) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::uint64_t total = 0;
  for (std::size_t bin = 0; bin < kBins; ++bin) {
    std::uint64_t count = spilled_.empty() ? 0 : spilled_[bin];
    if (lanes_ != nullptr) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) count += lanes_[bin * kLanes + lane];
    }
    bins[bin] = count;
    total += count;
  }
  const auto take = [&](std::uint32_t bin) {
    const std::uint64_t count = bins[bin];
    bins[bin] = 0;
    total -= count;
    return count;
  };
  observed.nan = take(kBinNan);
  observed.positive_infinity = take(kBinPositiveInfinity);
  observed.negative_infinity = take(kBinNegativeInfinity);
  observed.finite = total;
  observed.smallest = smallest_of(extremes_);
  observed.largest = largest_of(extremes_);
  observed.first_bad = first_bad_;
  observed.smallest_before = smallest_of(extremes_before_);
  observed.largest_before = largest_of(extremes_before_);
  observed.first_bad_before = first_bad_before_;
}

void Slot::reset() {
  const std::lock_guard<std::mutex> lock(mutex_);
  lanes_.reset();
  spilled_.clear();
  pending_ = 0;
  extremes_ = extremes_before_ = Extremes{};
  first_bad_ = first_bad_before_ = -1;
}

std::int64_t add_table(std::size_t slots) {
  auto table = std::make_shared<Table>(slots);
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const std::int64_t id = all.next++;
  all.tables.emplace(id, std::move(table));
  return id;
}

bool remove_table(std::int64_t id) {
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  return all.tables.erase(id) == 1;
}

std::shared_ptr<Table> find_table(std::int64_t id) {
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.tables.find(id);
  return found == all.tables.end() ? nullptr : found->second;
}

}  // namespace qcompiler
