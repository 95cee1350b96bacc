#include "observe_op.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <string>

#include "half.h"
#include "isa.h"
#include "table.h"

namespace qcompiler {
namespace {

class ObserveKernel {
 public:
  ObserveKernel(const ort::Api& api, std::shared_ptr<Table> table, std::size_t slot, const Isa& isa)
      : api_(api), table_(std::move(table)), slot_(table_->slot(slot)), isa_(isa) {}

  ort::Status* compute(ort::KernelContext* context) const {
    const ort::Value* input = nullptr;
    if (ort::Status* failed = api_.KernelContext_GetInput(context, 0, &input)) return failed;

    ort::TensorTypeAndShapeInfo* raw = nullptr;
    if (ort::Status* failed = api_.GetTensorTypeAndShape(input, &raw)) return failed;
    const auto release = [this](ort::TensorTypeAndShapeInfo* info) { api_.ReleaseTensorTypeAndShapeInfo(info); };
    const std::unique_ptr<ort::TensorTypeAndShapeInfo, decltype(release)> info(raw, release);
    ort::ElementType type{};
    std::size_t count = 0;
    if (ort::Status* failed = api_.GetTensorElementType(info.get(), &type)) return failed;
    if (ort::Status* failed = api_.GetTensorShapeElementCount(info.get(), &count)) return failed;

    // GetTensorMutableData is the only access to a tensor's memory that version 18 has; the input is only read.
    void* data = nullptr;
    if (ort::Status* failed = api_.GetTensorMutableData(const_cast<ort::Value*>(input), &data)) return failed;

    if (type == ort::kFloat) {
      slot_.add(isa_.observe, static_cast<const std::uint32_t*>(data), count);
    } else if (type == ort::kFloat16) {
      add_halves(static_cast<const std::uint16_t*>(data), count);
    } else {
      return api_.CreateStatus(ort::kInvalidArgument, "qcompiler::Observe: X is neither float32 nor float16");
    }

    const std::int64_t shape[] = {1};
    ort::Value* output = nullptr;
    if (ort::Status* failed = api_.KernelContext_GetOutput(context, 0, shape, 1, &output)) return failed;
    if (ort::Status* failed = api_.GetTensorMutableData(output, &data)) return failed;
    *static_cast<std::int64_t*>(data) = static_cast<std::int64_t>(count);
    return nullptr;
  }

  const ort::Api& api() const { return api_; }

 private:
  void add_halves(const std::uint16_t* halves, std::size_t count) const {
    std::uint32_t bits[1024];
    while (count > 0) {
      const std::size_t part = std::min<std::size_t>(count, std::size(bits));
      for (std::size_t i = 0; i < part; ++i) bits[i] = half_to_float_bits(halves[i]);
      slot_.add(isa_.observe, bits, part);
      halves += part;
      count -= part;
    }
  }

  const ort::Api& api_;
  std::shared_ptr<Table> table_;
  Slot& slot_;
  const Isa& isa_;
};

ort::Status* create(const ort::Api& api, const ort::KernelInfo* info, void** kernel) {
  std::int64_t id = 0;
  std::int64_t slot = 0;
  if (ort::Status* failed = api.KernelInfoGetAttribute_int64(info, "table", &id)) return failed;
  if (ort::Status* failed = api.KernelInfoGetAttribute_int64(info, "slot", &slot)) return failed;

  auto table = find_table(id);
  if (table == nullptr) {
    const auto text = "qcompiler::Observe: there is no table " + std::to_string(id) + "; create it before the session";
    return api.CreateStatus(ort::kInvalidArgument, text.c_str());
  }
  if (slot < 0 || static_cast<std::uint64_t>(slot) >= table->size()) {
    const auto text = "qcompiler::Observe: slot " + std::to_string(slot) + " is outside of table " +
                      std::to_string(id) + ", which has " + std::to_string(table->size()) + " slots";
    return api.CreateStatus(ort::kInvalidArgument, text.c_str());
  }
  *kernel = new ObserveKernel(api, std::move(table), static_cast<std::size_t>(slot), isa_in_use());
  return nullptr;
}

// No C++ exception may travel through ONNX Runtime's C callbacks.
ort::Status* create_guarded(const ort::CustomOp*, const ort::Api* api, const ort::KernelInfo* info, void** kernel) {
  try {
    return create(*api, info, kernel);
  } catch (const std::exception& error) {
    return api->CreateStatus(ort::kRuntimeException, error.what());
  }
}

ort::Status* compute_guarded(void* kernel, ort::KernelContext* context) {
  const auto& observe = *static_cast<const ObserveKernel*>(kernel);
  try {
    return observe.compute(context);
  } catch (const std::exception& error) {
    return observe.api().CreateStatus(ort::kRuntimeException, error.what());
  }
}

ort::CustomOp make_observe() {
  ort::CustomOp op{};
  op.version = ort::kApiVersion;
  op.GetName = [](const ort::CustomOp*) { return "Observe"; };
  op.GetExecutionProviderType = [](const ort::CustomOp*) -> const char* { return nullptr; };  // the CPU
  op.GetInputTypeCount = [](const ort::CustomOp*) -> std::size_t { return 1; };
  op.GetInputType = [](const ort::CustomOp*, std::size_t) { return ort::kUndefined; };  // any; checked when it runs
  op.GetInputCharacteristic = [](const ort::CustomOp*, std::size_t) { return ort::kRequired; };
  op.GetInputMemoryType = [](const ort::CustomOp*, std::size_t) { return ort::kMemoryDefault; };
  op.GetOutputTypeCount = [](const ort::CustomOp*) -> std::size_t { return 1; };
  op.GetOutputType = [](const ort::CustomOp*, std::size_t) { return ort::kInt64; };
  op.GetOutputCharacteristic = [](const ort::CustomOp*, std::size_t) { return ort::kRequired; };
  op.GetStartVersion = [](const ort::CustomOp*) { return 1; };
  op.GetEndVersion = [](const ort::CustomOp*) { return INT32_MAX; };
  op.CreateKernelV2 = create_guarded;
  op.KernelComputeV2 = compute_guarded;
  op.KernelDestroy = [](void* kernel) { delete static_cast<ObserveKernel*>(kernel); };
  return op;
}

}  // namespace

const ort::CustomOp& observe_op() {
  static const ort::CustomOp op = make_observe();
  return op;
}

}  // namespace qcompiler
