// Which instruction set the kernels run with: the best that the processor has, or the one that QCOMPILER_ISA names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "depthwise.h"
#include "int4.h"
#include "int8.h"
#include "lookup.h"
#include "observe.h"

namespace qcompiler {

struct Isa {
  const char* name;
  bool (*supported)();
  ObserveFunction observe;
  const Int4Kernels* int4;
  const Int4ManyRows* int4_many;  // or null
  const Int8Kernels* int8;
  const Int8Kernels* int8_paired;  // for paired matrices, often the same
  const DepthwiseKernels* depthwise;
  const LookupKernels& (*lookup)();
};

// Every instruction set that this library was built with, best first; the last is portable.
const Isa* isa_begin();
const Isa* isa_end();

// `wanted` is a name, "auto", empty or null. Returns null, with the reason in `error`, when it cannot be had.
const Isa* select_isa(const char* wanted, std::string& error);

// What the latest registration with ONNX Runtime chose; before the first, what "auto" would choose.
const Isa& isa_in_use();
void use_isa(const Isa& isa);

// How many products with 4-bit, with 8-bit weights this process has computed with an instruction set: the proof of what ran.
void count_int4_run(const Isa& isa);
void count_int8_run(const Isa& isa);
std::uint64_t int4_runs(const Isa& isa);
std::uint64_t int8_runs(const Isa& isa);

}  // namespace qcompiler
