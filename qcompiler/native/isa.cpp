#include "isa.h"

#include <atomic>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace qcompiler {
namespace {

#if defined(__x86_64__)
bool has_avx512vnni() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
// The state of tiles is large: Linux saves it for processes that have asked, and all their threads. Other systems are not
// asked yet.
bool has_amx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  static const bool allowed = [] {
    constexpr unsigned kBfloat16 = 1u << 22, kTiles = 1u << 24, kInt8 = 1u << 25;  // leaf 7, EDX
    constexpr unsigned kNeeded = kBfloat16 | kTiles | kInt8;
    constexpr long kRequestState = 0x1023, kTileData = 18;   // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    unsigned a = 0, b = 0, c = 0, d = 0;
    return has_avx512vnni() && __builtin_cpu_supports("avx512bf16") &&
           __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kNeeded) == kNeeded &&
           syscall(SYS_arch_prctl, kRequestState, kTileData) == 0;
  }();
  return allowed;
#else
  return false;
#endif
}
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool has_avxvnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;  // compilers do not all know it by name: leaf 7, subleaf 1, EAX bit 4
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1u) != 0;
}
// Processors have AVX512-VNNI without VBMI too; they look up with AVX2.
const LookupKernels& lookup_avx512() {
  return __builtin_cpu_supports("avx512vbmi") ? lookup_avx512vbmi : lookup_avx2;
}
#elif defined(__aarch64__)
bool has_neoni8mm() {
#if defined(__linux__)
  constexpr unsigned long kInt8MatrixProduct = 1ul << 13;  // HWCAP2_I8MM
  return (getauxval(AT_HWCAP2) & kInt8MatrixProduct) != 0;
#else
  return false;  // the system is not asked yet: neondot runs there
#endif
}
bool has_neondot() {
#if defined(__linux__)
  constexpr unsigned long kAsimdDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  return (getauxval(AT_HWCAP) & kAsimdDotProduct) != 0;
#else
  return true;  // every Apple processor that runs 64-bit macOS
#endif
}
#endif
bool always() { return true; }

template <const LookupKernels& kernels>
const LookupKernels& use() {
  return kernels;
}

constexpr Isa kIsas[] = {
#if defined(__x86_64__)
    {"amx", has_amx, observe_avx512vnni, &int4_avx512vnni, &int4_amx, &int8_amx, &int8_amx, &depthwise_avx512vnni, lookup_avx512},
    {"avx512vnni", has_avx512vnni, observe_avx512vnni, &int4_avx512vnni, nullptr, &int8_avx512vnni, &int8_avx512vnni, &depthwise_avx512vnni, lookup_avx512},
    {"avxvnni", has_avxvnni, observe_avx2, &int4_avxvnni, nullptr, &int8_avxvnni, &int8_avxvnni, &depthwise_avxvnni, use<lookup_avx2>},
    {"avx2", has_avx2, observe_avx2, &int4_avx2, nullptr, &int8_avx2, &int8_avx2paired, &depthwise_avx2, use<lookup_avx2>},
#elif defined(__aarch64__)
    {"neoni8mm", has_neoni8mm, observe_neon, &int4_neoni8mm, nullptr, &int8_neondot, &int8_neondot, &depthwise_neondot, use<lookup_neon>},
    {"neondot", has_neondot, observe_neon, &int4_neondot, nullptr, &int8_neondot, &int8_neondot, &depthwise_neondot, use<lookup_neon>},
    {"neon", always, observe_neon, &int4_neon, nullptr, &int8_neon, &int8_neon, &depthwise_neon, use<lookup_neon>},
#endif
    {"scalar", always, observe_scalar, &int4_scalar, nullptr, &int8_scalar, &int8_scalar, &depthwise_scalar, use<lookup_scalar>},
};

constexpr const char* kKnown[] = {"amx", "avx512vnni", "avxvnni", "avx2", "neoni8mm", "neondot", "neon", "scalar"};

std::atomic<const Isa*> g_in_use{nullptr};
std::atomic<std::uint64_t> g_int4_runs[sizeof(kIsas) / sizeof(kIsas[0])];
std::atomic<std::uint64_t> g_int8_runs[sizeof(kIsas) / sizeof(kIsas[0])];

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
  error = std::string("QCOMPILER_ISA=") + wanted + ": unknown; use auto, amx, avx512vnni, avxvnni, "
          "avx2, neoni8mm, neondot, neon or scalar";
  return nullptr;
}

const Isa& isa_in_use() {
  if (const Isa* chosen = g_in_use.load(std::memory_order_acquire)) return *chosen;
  std::string unused;
  return *select_isa(nullptr, unused);
}

void use_isa(const Isa& isa) { g_in_use.store(&isa, std::memory_order_release); }

void count_int4_run(const Isa& isa) { g_int4_runs[&isa - kIsas].fetch_add(1, std::memory_order_relaxed); }
void count_int8_run(const Isa& isa) { g_int8_runs[&isa - kIsas].fetch_add(1, std::memory_order_relaxed); }
std::uint64_t int4_runs(const Isa& isa) { return g_int4_runs[&isa - kIsas].load(std::memory_order_relaxed); }
std::uint64_t int8_runs(const Isa& isa) { return g_int8_runs[&isa - kIsas].load(std::memory_order_relaxed); }

}  // namespace qcompiler
