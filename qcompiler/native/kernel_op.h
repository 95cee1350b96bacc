// What the operators of this library have alike: they run on the CPU, have one output and one version, and their kernel is an
// object of a class with
//
//   static constexpr const char* kName
//   Kernel(const ort::Api&, const ort::KernelInfo*)    throws what `guarded` knows
//   const ort::Api& api() const
//   void compute(ort::KernelContext*) const
#pragma once

#include <cstdint>

#include "abi.h"
#include "ort_call.h"

namespace qcompiler {

// Leaves to the caller what an operator's inputs are and the type of its output.
template <typename Kernel>
void run_kernel(ort::CustomOp& op) {
  op.version = ort::kApiVersion;
  op.GetName = [](const ort::CustomOp*) { return Kernel::kName; };
  op.GetExecutionProviderType = [](const ort::CustomOp*) -> const char* { return nullptr; };  // the CPU
  op.GetInputMemoryType = [](const ort::CustomOp*, std::size_t) { return ort::kMemoryDefault; };
  op.GetOutputTypeCount = [](const ort::CustomOp*) -> std::size_t { return 1; };
  op.GetOutputCharacteristic = [](const ort::CustomOp*, std::size_t) { return ort::kRequired; };
  op.GetStartVersion = [](const ort::CustomOp*) { return 1; };
  op.GetEndVersion = [](const ort::CustomOp*) { return INT32_MAX; };
  op.CreateKernelV2 = [](const ort::CustomOp*, const ort::Api* api, const ort::KernelInfo* info, void** kernel) {
    return guarded(*api, [&] { *kernel = new Kernel(*api, info); });
  };
  op.KernelComputeV2 = [](void* kernel, ort::KernelContext* context) {
    const auto& self = *static_cast<const Kernel*>(kernel);
    return guarded(self.api(), [&] { self.compute(context); });
  };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
}

}  // namespace qcompiler
