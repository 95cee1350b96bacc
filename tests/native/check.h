// CHECK(condition) prints what does not hold; report() is what main returns.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>

inline int g_failures = 0;

inline void check(bool holds, const char* what, int line) {
  if (holds) return;
  std::printf("line %d: %s does not hold\n", line, what);
  ++g_failures;
}
#define CHECK(condition) check((condition), #condition, __LINE__)

inline int report() {
  if (g_failures == 0) std::puts("all hold");
  return g_failures == 0 ? 0 : 1;
}

inline float as_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline std::uint32_t as_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
