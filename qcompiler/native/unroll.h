// How the bodies of kernels ask for loops unrolled and functions inlined.
#pragma once

#if defined(__clang__)
#define QCOMPILER_UNROLL _Pragma("clang loop unroll(full)")
#else
#define QCOMPILER_UNROLL _Pragma("GCC unroll 16")
#endif
#define QCOMPILER_INLINE inline __attribute__((always_inline))
