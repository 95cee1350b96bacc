// Calling ONNX Runtime from C++: a failed call becomes an exception, and every exception becomes a status again before it
// reaches ONNX Runtime's C code.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "abi.h"

namespace qcompiler {

// Something a user can put right; `what()` is the whole message.
class InvalidNode : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A status that ONNX Runtime made.
class OrtFailure : public std::exception {
 public:
  explicit OrtFailure(ort::Status* made) : status(made) {}
  ort::Status* status;
};

inline void check(ort::Status* status) {
  if (status != nullptr) throw OrtFailure(status);
}

template <typename Function>
ort::Status* guarded(const ort::Api& api, Function&& function) noexcept {
  try {
    function();
    return nullptr;
  } catch (const OrtFailure& failure) {
    return failure.status;
  } catch (const InvalidNode& error) {
    return api.CreateStatus(ort::kInvalidArgument, error.what());
  } catch (const std::exception& error) {
    return api.CreateStatus(ort::kRuntimeException, error.what());
  }
}

// A tensor's memory, type and shape. The memory is ONNX Runtime's.
struct Tensor {
  void* data = nullptr;
  ort::ElementType type{};
  std::vector<std::int64_t> shape;

  Tensor() = default;
  Tensor(const ort::Api& api, const ort::Value* value);
  std::size_t count() const;
};

// The index-th input as a constant of the model; `found` is false where it is computed or left out.
Tensor constant_input(const ort::Api& api, const ort::KernelInfo* info, std::size_t index, bool& found);

// Whether the node names an index-th input; one that is left out has no name.
bool has_input(const ort::Api& api, const ort::KernelInfo* info, std::size_t index);

// A constant that the operator cannot do without. Throws InvalidNode, for the node and the input so called.
Tensor needed_constant(const ort::Api& api, const ort::KernelInfo* info, std::size_t index, const std::string& node,
                       const char* name);
// The same of one value; the second, of a float that is finite and greater than zero.
Tensor single_constant(const ort::Api& api, const ort::KernelInfo* info, std::size_t index, const std::string& node,
                       const char* name);
float scale_constant(const ort::Api& api, const ort::KernelInfo* info, std::size_t index, const std::string& node,
                     const char* name);

std::int64_t int_attribute(const ort::Api& api, const ort::KernelInfo* info, const char* name, std::int64_t otherwise);
std::vector<std::int64_t> ints_attribute(const ort::Api& api, const ort::KernelInfo* info, const char* name,
                                         std::vector<std::int64_t> otherwise);
std::string string_attribute(const ort::Api& api, const ort::KernelInfo* info, const char* name, const char* otherwise);

// For callbacks that are given no API: that of the runtime which registered the library last.
const ort::Api& api_in_use();
void use_api(const ort::Api& api);

// Tells ONNX Runtime, as far as it is known when a session is made, that output 0 has the shape of input 0 and the type of
// the input `typed`.
void infer_output(const ort::Api& api, ort::ShapeInferContext* context, std::size_t typed);

// Lets output 0 be written over input 0 where nobody else needs that.
void may_work_in_place(ort::CustomOp& op);

// "qcompiler::OPERATOR, node 'NAME'", or its output where the node has no name.
std::string describe_node(const ort::Api& api, const ort::KernelInfo* info, const char* op);

std::string shape_text(const std::vector<std::int64_t>& shape);

// Calls function(i) for each i below `total`, in ONNX Runtime's own threads. Threads take a share when they are through
// with one: more shares than threads even out what else the machine does.
template <typename Function>
void parallel_for(const ort::Api& api, const ort::KernelContext* context, std::size_t total, const Function& function) {
  constexpr std::size_t kShares = 64;
  check(api.KernelContext_ParallelFor(
      context,
      [](void* data, std::size_t index) { (*static_cast<const Function*>(data))(index); },
      total, total < kShares ? total : kShares, const_cast<Function*>(&function)));
}

// The same where it is worth threads, else one after another.
template <typename Function>
void for_each(const ort::Api& api, const ort::KernelContext* context, std::size_t total, bool in_threads,
              const Function& function) {
  if (in_threads && total > 1) {
    parallel_for(api, context, total, function);
  } else {
    for (std::size_t i = 0; i < total; ++i) function(i);
  }
}

}  // namespace qcompiler
