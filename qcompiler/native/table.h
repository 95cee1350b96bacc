// Tables of histograms that Observe nodes fill while a session runs and that the caller reads afterwards.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

#include "observe.h"

namespace qcompiler {

// What was seen besides the bins. smallest > largest (infinities) while nothing finite was seen.
struct Observed {
  float smallest;
  float largest;
  std::uint64_t finite;
  std::uint64_t nan;
  std::uint64_t positive_infinity;
  std::uint64_t negative_infinity;
  std::int64_t first_bad = -1;  // the sample that held the first value that is not finite; negative while there is none
  // The same as they were when the latest sample began: with them, what a failing sample added can be taken back.
  float smallest_before = 0;
  float largest_before = 0;
  std::int64_t first_bad_before = -1;
};

// The histogram of one tensor. Sessions and threads may add to it at once; they take turns.
class Slot {
 public:
  // Throws std::bad_alloc.
  void add(ObserveFunction observe, const std::uint32_t* bits, std::size_t count);
  // Whatever is added from now on comes with the sample of this number.
  void begin(std::int64_t sample);
  void read(std::uint64_t* bins, Observed& observed) const;
  void reset();

 private:
  struct Free {
    void operator()(std::uint32_t* memory) const { std::free(memory); }
  };
  void spill();
  std::uint64_t bad() const;  // values in lanes_ that are not finite

  mutable std::mutex mutex_;
  // [kBins][kLanes], zero pages of the system until a bin in them is used: activations use few of them.
  std::unique_ptr<std::uint32_t[], Free> lanes_;
  std::uint64_t pending_ = 0;           // elements in lanes_: no lane of a bin can hold more
  std::vector<std::uint64_t> spilled_;  // [kBins] once pending_ has come near the lanes' 32 bits, empty before
  Extremes extremes_;
  Extremes extremes_before_;
  std::int64_t sample_ = 0;
  std::int64_t first_bad_ = -1;
  std::int64_t first_bad_before_ = -1;
};

class Table {
 public:
  explicit Table(std::size_t slots) : slots_(slots) {}
  std::size_t size() const { return slots_.size(); }
  Slot& slot(std::size_t index) { return slots_[index]; }

 private:
  std::vector<Slot> slots_;
};

// Tables by number, as the `table` attribute of an Observe node names them. Numbers are never used twice.
// A session that observes into a table keeps it alive.
std::int64_t add_table(std::size_t slots);
bool remove_table(std::int64_t id);
std::shared_ptr<Table> find_table(std::int64_t id);  // null when there is none

}  // namespace qcompiler
