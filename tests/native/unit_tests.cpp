// What is tested without ONNX Runtime: the kernel of every instruction set this processor has against plain code, slots
// that outgrow their 32-bit lanes, tables, float16, and the choice of an instruction set. Run under sanitizers.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "c_api.h"
#include "check.h"
#include "half.h"
#include "isa.h"
#include "table.h"

QCOMPILER_EXPORT qcompiler::ort::Status* QCOMPILER_ORT_CALL RegisterCustomOps(
    qcompiler::ort::SessionOptions* options, const qcompiler::ort::ApiBase* base) noexcept;

namespace {

using qcompiler::Extremes;
using qcompiler::kBins;
using qcompiler::kLanes;
using qcompiler::Observed;
using Bits = std::vector<std::uint32_t>;

// The definition, one value at a time.
struct Expected {
  std::vector<std::uint64_t> bins = std::vector<std::uint64_t>(kBins);
  Observed rest{std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), 0, 0, 0, 0};

  explicit Expected(const Bits& values) {
    for (const std::uint32_t bits : values) {
      const float value = as_float(bits);
      if (std::isnan(value)) {
        ++rest.nan;
      } else if (std::isinf(value)) {
        ++(value > 0 ? rest.positive_infinity : rest.negative_infinity);
      } else {
        ++rest.finite;
        ++bins[value == 0 ? 0 : bits >> 16];
        rest.smallest = std::min(rest.smallest, value);
        rest.largest = std::max(rest.largest, value);
      }
    }
  }
};

void check_same(const Expected& expected, const std::vector<std::uint64_t>& bins, const Observed& rest) {
  CHECK(bins == expected.bins);
  CHECK(rest.smallest == expected.rest.smallest);
  CHECK(rest.largest == expected.rest.largest);
  CHECK(rest.finite == expected.rest.finite);
  CHECK(rest.nan == expected.rest.nan);
  CHECK(rest.positive_infinity == expected.rest.positive_infinity);
  CHECK(rest.negative_infinity == expected.rest.negative_infinity);
}

std::vector<Bits> inputs() {
  std::mt19937 random(1);
  std::vector<Bits> all = {{}, {as_bits(-0.0f)}, {as_bits(1.0f), 0x7F800000u, 0xFF800000u, 0x7FC00000u}};
  for (const std::size_t size : {1u, 3u, 4u, 7u, 1023u, 1024u, 1025u, 5000u}) {
    Bits any(size), relu(size);
    std::normal_distribution<float> normal;
    for (std::uint32_t& value : any) value = static_cast<std::uint32_t>(random());
    for (std::uint32_t& value : relu) value = as_bits(std::max(normal(random), 0.0f));
    all.push_back(any);
    all.push_back(relu);
    all.push_back(Bits(size, 0x80000001u));  // negative denormals, next to -0.0
    all.push_back(Bits(size, 0xFFFFFFFFu));  // NaN only
  }
  return all;
}

void every_instruction_set_counts_what_plain_code_counts() {
  int tried = 0;
  for (const auto* isa = qcompiler::isa_begin(); isa != qcompiler::isa_end(); ++isa) {
    if (!isa->supported()) continue;
    ++tried;
    std::printf("instruction set %s\n", isa->name);
    for (const Bits& values : inputs()) {
      // Exactly as long as the values, on the heap: the sanitizer sees any read past the end.
      const auto exact = std::make_unique<std::uint32_t[]>(values.size());
      std::copy(values.begin(), values.end(), exact.get());
      qcompiler::Slot slot;
      slot.add(isa->observe, exact.get(), values.size());
      std::vector<std::uint64_t> bins(kBins, 99);
      Observed rest{};
      slot.read(bins.data(), rest);
      check_same(Expected(values), bins, rest);
    }
  }
  CHECK(tried >= 1);
}

// Stands in for four thousand million elements: fills the lanes as far as they go.
void pretend_many(const std::uint32_t*, std::size_t count, std::uint32_t* counts, Extremes* extremes) {
  counts[5 * kLanes] += static_cast<std::uint32_t>(count / 2);
  counts[5 * kLanes + 1] += static_cast<std::uint32_t>(count - count / 2);
  extremes->smallest = extremes->largest = 5 << 16;
}

void a_slot_counts_beyond_32_bits() {
  qcompiler::Slot slot;
  const std::uint32_t nothing = 0;  // pretend_many reads none of it
  const std::uint64_t many = (std::uint64_t{1} << 32) - 10;
  for (int i = 0; i < 5; ++i) slot.add(pretend_many, &nothing, static_cast<std::size_t>(many));
  std::vector<std::uint64_t> bins(kBins);
  Observed rest{};
  slot.read(bins.data(), rest);
  CHECK(bins[5] == 5 * many);
  CHECK(rest.finite == 5 * many);
  slot.reset();
  slot.read(bins.data(), rest);
  CHECK(bins[5] == 0 && rest.finite == 0 && rest.smallest > rest.largest);
}

void tables_are_numbered_and_report_what_they_lack() {
  std::int64_t first = 0, second = 0;
  CHECK(qcompiler_table_create(2, &first) == kQCompilerOk);
  CHECK(qcompiler_table_create(0, &second) == kQCompilerOk);
  CHECK(first > 0 && second > first);
  std::vector<std::uint64_t> bins(kBins);
  Observed rest{};
  CHECK(qcompiler_table_read(first, 1, bins.data(), &rest) == kQCompilerOk);
  CHECK(qcompiler_table_read(first, 2, bins.data(), &rest) == kQCompilerNoSuchSlot);
  CHECK(qcompiler_table_read(second, 0, bins.data(), &rest) == kQCompilerNoSuchSlot);
  CHECK(qcompiler_table_destroy(first) == kQCompilerOk);
  CHECK(qcompiler_table_destroy(first) == kQCompilerNoSuchTable);
  CHECK(qcompiler_table_read(first, 0, bins.data(), &rest) == kQCompilerNoSuchTable);
  CHECK(qcompiler_table_reset(first) == kQCompilerNoSuchTable);
  CHECK(qcompiler_table_destroy(second) == kQCompilerOk);
  CHECK(qcompiler_table_create(std::uint64_t{1} << 62, &first) == kQCompilerOutOfMemory);
}

void threads_take_turns_on_a_slot() {
  std::int64_t id = 0;
  CHECK(qcompiler_table_create(1, &id) == kQCompilerOk);
  const auto table = qcompiler::find_table(id);
  const Bits values(3000, as_bits(1.5f));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int run = 0; run < 50; ++run) table->slot(0).add(qcompiler::isa_in_use().observe, values.data(), 3000);
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<std::uint64_t> bins(kBins);
  Observed rest{};
  CHECK(qcompiler_table_read(id, 0, bins.data(), &rest) == kQCompilerOk);
  CHECK(rest.finite == 4 * 50 * 3000);
  CHECK(bins[as_bits(1.5f) >> 16] == rest.finite);
  CHECK(qcompiler_table_destroy(id) == kQCompilerOk);
}

void halves_become_the_same_floats() {
  for (std::uint32_t half = 0; half < 0x8000; ++half) {
    const std::uint32_t exponent = half >> 10, mantissa = half & 0x3FF;
    const float value = as_float(qcompiler::half_to_float_bits(static_cast<std::uint16_t>(half)));
    const float negative = as_float(qcompiler::half_to_float_bits(static_cast<std::uint16_t>(half | 0x8000u)));
    if (exponent == 31) {
      CHECK(mantissa == 0 ? std::isinf(value) && negative < 0 : std::isnan(value) && std::isnan(negative));
      continue;
    }
    const float expected = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                         : std::ldexp(static_cast<float>(1024 + mantissa), static_cast<int>(exponent) - 25);
    CHECK(value == expected);
    CHECK(negative == -expected && std::signbit(negative));
  }
}

void floats_become_the_nearest_half() {
  for (std::uint32_t half = 0; half < 0x7C00; ++half) {  // each finite half, and the floats around half of the way up
    const float low = as_float(qcompiler::half_to_float_bits(static_cast<std::uint16_t>(half)));
    const double high = half == 0x7BFF ? 65536.0 : as_float(qcompiler::half_to_float_bits(static_cast<std::uint16_t>(half + 1)));
    const auto middle = static_cast<float>((low + high) / 2);
    CHECK(qcompiler::float_bits_to_half(as_bits(low)) == half);
    CHECK(qcompiler::float_bits_to_half(as_bits(std::nextafter(middle, 0.0f))) == half);
    CHECK(qcompiler::float_bits_to_half(as_bits(std::nextafter(middle, 1e9f))) == half + 1);
    CHECK(qcompiler::float_bits_to_half(as_bits(-middle)) == (0x8000u | (half % 2 == 0 ? half : half + 1)));
  }
  CHECK(qcompiler::float_bits_to_half(as_bits(1e30f)) == 0x7C00u);
  CHECK(qcompiler::float_bits_to_half(as_bits(-std::numeric_limits<float>::infinity())) == 0xFC00u);
  CHECK((qcompiler::float_bits_to_half(0x7FC00001u) & 0x7FFFu) > 0x7C00u);
}

void an_instruction_set_is_chosen_by_name() {
  std::string error;
  for (const char* automatic : {static_cast<const char*>(nullptr), "", "auto"}) {
    const auto* isa = qcompiler::select_isa(automatic, error);
    CHECK(isa != nullptr && isa->supported());
  }
  for (const auto* isa = qcompiler::isa_begin(); isa != qcompiler::isa_end(); ++isa) {
    CHECK((qcompiler::select_isa(isa->name, error) == isa) == isa->supported());
  }
  CHECK(qcompiler::select_isa("avx1024", error) == nullptr);
  CHECK(error.find("QCOMPILER_ISA=avx1024: unknown; use auto, ") == 0);
#if defined(__x86_64__)
  CHECK(qcompiler::select_isa("neon", error) == nullptr);
  CHECK(error.find("QCOMPILER_ISA=neon: another kind of processor") == 0);
#endif
}

// A runtime that has no API 18, and remembers what it was told.
std::string g_told;

void an_older_runtime_is_told_what_is_needed() {
  namespace ort = qcompiler::ort;
  static ort::Api oldest{};
  oldest.CreateStatus = [](ort::ErrorCode, const char* message) noexcept {
    g_told = message;
    return reinterpret_cast<ort::Status*>(&g_told);
  };
  ort::ApiBase base{};
  base.GetApi = [](std::uint32_t version) noexcept -> const ort::Api* { return version == 1 ? &oldest : nullptr; };
  CHECK(RegisterCustomOps(nullptr, &base) == reinterpret_cast<ort::Status*>(&g_told));
  CHECK(g_told == "qcompiler's operators need ONNX Runtime 1.18 or newer");
}

}  // namespace

int main() {
  every_instruction_set_counts_what_plain_code_counts();
  a_slot_counts_beyond_32_bits();
  tables_are_numbered_and_report_what_they_lack();
  threads_take_turns_on_a_slot();
  halves_become_the_same_floats();
  floats_become_the_nearest_half();
  an_instruction_set_is_chosen_by_name();
  an_older_runtime_is_told_what_is_needed();
  return report();
}
