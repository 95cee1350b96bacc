#include "ort_call.h"

#include <atomic>
#include <cmath>

namespace qcompiler {
namespace {

std::atomic<const ort::Api*> g_api{nullptr};

// Functions that write a text take a buffer and its size, and say the size when there is no buffer.
template <typename Read>
bool read_text(const ort::Api& api, const Read& read, std::string& text) {
  std::size_t size = 0;
  if (ort::Status* failed = read(nullptr, &size)) {
    api.ReleaseStatus(failed);
    return false;
  }
  text.resize(size);
  check(read(text.data(), &size));
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return true;
}

}  // namespace

Tensor::Tensor(const ort::Api& api, const ort::Value* value) {
  ort::TensorTypeAndShapeInfo* raw = nullptr;
  check(api.GetTensorTypeAndShape(value, &raw));
  const auto release = [&api](ort::TensorTypeAndShapeInfo* info) { api.ReleaseTensorTypeAndShapeInfo(info); };
  const std::unique_ptr<ort::TensorTypeAndShapeInfo, decltype(release)> info(raw, release);
  check(api.GetTensorElementType(raw, &type));
  std::size_t rank = 0;
  check(api.GetDimensionsCount(raw, &rank));
  shape.resize(rank);
  check(api.GetDimensions(raw, shape.data(), rank));
  // GetTensorMutableData is the only access to a tensor's memory that version 18 has; inputs are only read.
  check(api.GetTensorMutableData(const_cast<ort::Value*>(value), &data));
}

std::size_t Tensor::count() const {
  std::size_t product = 1;
  for (const std::int64_t size : shape) product *= static_cast<std::size_t>(size);
  return product;
}

Tensor constant_input(const ort::Api& api, const ort::KernelInfo* info, std::size_t index, bool& found) {
  found = false;
  std::size_t inputs = 0;
  check(api.KernelInfo_GetInputCount(info, &inputs));
  if (index >= inputs) return {};
  int constant = 0;
  const ort::Value* value = nullptr;
  check(api.KernelInfoGetConstantInput_tensor(info, index, &constant, &value));
  found = constant != 0 && value != nullptr;
  return found ? Tensor(api, value) : Tensor();
}

bool has_input(const ort::Api& api, const ort::KernelInfo* info, std::size_t index) {
  std::size_t inputs = 0;
  check(api.KernelInfo_GetInputCount(info, &inputs));
  if (index >= inputs) return false;
  std::size_t size = 0;
  check(api.KernelInfo_GetInputName(info, index, nullptr, &size));
  return size > 1;  // with its terminating zero
}

Tensor needed_constant(const ort::Api& api, const ort::KernelInfo* info, std::size_t index, const std::string& node,
                       const char* name) {
  bool found = false;
  Tensor tensor = constant_input(api, info, index, found);
  if (!found) throw InvalidNode(node + ": " + name + " is not a constant of the model; make it an initializer");
  return tensor;
}

Tensor single_constant(const ort::Api& api, const ort::KernelInfo* info, std::size_t index, const std::string& node,
                       const char* name) {
  Tensor tensor = needed_constant(api, info, index, node, name);
  if (tensor.count() != 1) {
    throw InvalidNode(node + ": " + name + " has the shape " + shape_text(tensor.shape) + "; make it one value");
  }
  return tensor;
}

float scale_constant(const ort::Api& api, const ort::KernelInfo* info, std::size_t index, const std::string& node,
                     const char* name) {
  const float value = *static_cast<const float*>(single_constant(api, info, index, node, name).data);
  if (!(value > 0) || !std::isfinite(value)) {
    throw InvalidNode(node + ": " + name + " is not a finite number greater than zero");
  }
  return value;
}

std::int64_t int_attribute(const ort::Api& api, const ort::KernelInfo* info, const char* name, std::int64_t otherwise) {
  std::int64_t value = 0;
  if (ort::Status* absent = api.KernelInfoGetAttribute_int64(info, name, &value)) {
    api.ReleaseStatus(absent);
    return otherwise;
  }
  return value;
}

std::vector<std::int64_t> ints_attribute(const ort::Api& api, const ort::KernelInfo* info, const char* name,
                                         std::vector<std::int64_t> otherwise) {
  std::size_t size = 0;
  if (ort::Status* absent = api.KernelInfoGetAttributeArray_int64(info, name, nullptr, &size)) {
    api.ReleaseStatus(absent);
    return otherwise;
  }
  std::vector<std::int64_t> values(size);
  if (size > 0) check(api.KernelInfoGetAttributeArray_int64(info, name, values.data(), &size));
  return values;
}

std::string string_attribute(const ort::Api& api, const ort::KernelInfo* info, const char* name, const char* otherwise) {
  std::string text;
  const auto read = [&](char* out, std::size_t* size) { return api.KernelInfoGetAttribute_string(info, name, out, size); };
  return read_text(api, read, text) ? text : otherwise;
}

const ort::Api& api_in_use() { return *g_api.load(std::memory_order_acquire); }
void use_api(const ort::Api& api) { g_api.store(&api, std::memory_order_release); }

void infer_output(const ort::Api& api, ort::ShapeInferContext* context, std::size_t typed) {
  ort::TensorTypeAndShapeInfo* output = nullptr;  // the context's own, of input 0 until it gets its type
  ort::TensorTypeAndShapeInfo* other = nullptr;
  check(api.ShapeInferContext_GetInputTypeShape(context, 0, &output));
  check(api.ShapeInferContext_GetInputTypeShape(context, typed, &other));
  std::size_t rank = 0;
  check(api.GetDimensionsCount(output, &rank));
  if (rank == 0) return;  // what a shape of which nothing is known looks like too
  std::vector<std::int64_t> sizes(rank);
  std::vector<const char*> names(rank);
  check(api.GetDimensions(output, sizes.data(), rank));
  check(api.GetSymbolicDimensions(output, names.data(), rank));
  for (std::size_t i = 0; i < rank; ++i) {
    if (sizes[i] < 0 && *names[i] == '\0') return;  // ONNX Runtime would take -1 for a size
  }
  ort::ElementType type{};
  check(api.GetTensorElementType(other, &type));
  check(api.SetTensorElementType(output, type));
  check(api.ShapeInferContext_SetOutputTypeShape(context, 0, output));
}

void may_work_in_place(ort::CustomOp& op) {
  op.GetMayInplace = [](int** inputs, int** outputs) -> std::size_t {
    static int first = 0;
    *inputs = *outputs = &first;
    return 1;
  };
  op.ReleaseMayInplace = [](int*, int*) {};
}

std::string describe_node(const ort::Api& api, const ort::KernelInfo* info, const char* op) {
  std::string name;
  read_text(api, [&](char* out, std::size_t* size) { return api.KernelInfo_GetNodeName(info, out, size); }, name);
  if (!name.empty()) return std::string("qcompiler::") + op + ", node '" + name + "'";
  read_text(api, [&](char* out, std::size_t* size) { return api.KernelInfo_GetOutputName(info, 0, out, size); }, name);
  return std::string("qcompiler::") + op + ", the node that makes '" + name + "'";
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

}  // namespace qcompiler
