#include "isa.h"

#include <atomic>
#include <cstring>

namespace qcompiler {
namespace {

#if defined(__x86_64__)
bool has_avx512vnni() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif
bool always() { return true; }

constexpr Isa kIsas[] = {
#if defined(__x86_64__)
    {"avx512vnni", has_avx512vnni, observe_avx512vnni},
    {"avx2", has_avx2, observe_avx2},
#elif defined(__aarch64__)
    {"neon", always, observe_neon},
#endif
    {"scalar", always, observe_scalar},
};

constexpr const char* kKnown[] = {"avx512vnni", "avx2", "neon", "scalar"};

std::atomic<const Isa*> g_in_use{nullptr};

}  // namespace

const Isa* isa_begin() { return kIsas; }
const Isa* isa_end() { return kIsas + sizeof(kIsas) / sizeof(kIsas[0]); }

const Isa* select_isa(const char* wanted, std::string& error) {
  const bool automatic = wanted == nullptr || *wanted == '\0' || std::strcmp(wanted, "auto") == 0;
  for (const Isa* isa = isa_begin(); isa != isa_end(); ++isa) {
    if (automatic ? isa->supported() : std::strcmp(wanted, isa->name) == 0) {
      if (isa->supported()) return isa;
      error = std::string("QCOMPILER_ISA=") + wanted + ": this processor does not have it; unset it or set it to auto";
      return nullptr;
    }
  }
  for (const char* known : kKnown) {
    if (std::strcmp(wanted, known) == 0) {
      error = std::string("QCOMPILER_ISA=") + wanted + ": another kind of processor; unset it or set it to auto";
      return nullptr;
    }
  }
  error = std::string("QCOMPILER_ISA=") + wanted + ": unknown; use auto, avx512vnni, avx2, neon or scalar";
  return nullptr;
}

const Isa& isa_in_use() {
  if (const Isa* chosen = g_in_use.load(std::memory_order_acquire)) return *chosen;
  std::string unused;
  return *select_isa(nullptr, unused);
}

void use_isa(const Isa& isa) { g_in_use.store(&isa, std::memory_order_release); }

}  // namespace qcompiler
