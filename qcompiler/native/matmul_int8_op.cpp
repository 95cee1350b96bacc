#include "matmul_int8_op.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "int8_product.h"
#include "int8_weights.h"
#include "isa.h"
#include "kernel_op.h"
#include "ort_call.h"

namespace qcompiler {
namespace {

constexpr std::size_t kBiasInput = 3;

class MatMulInt8Kernel {
 public:
  static constexpr const char* kName = "MatMulInt8";

  MatMulInt8Kernel(const ort::Api& api, const ort::KernelInfo* info)
      : api_(api), isa_(isa_in_use()), node_(describe_node(api, info, kName)), weights_(read_weights(info)),
        kernels_(weights_.matrix().paired ? *isa_.int8_paired : *isa_.int8) {
    const Tensor bias = constant_input(api, info, kBiasInput, bias_is_constant_);
    if (bias_is_constant_) bias_ = read_bias(bias);
  }

  const ort::Api& api() const { return api_; }

  void compute(ort::KernelContext* context) const {
    const Int8Matrix& matrix = weights_.matrix();
    const ort::Value* value = nullptr;
    check(api_.KernelContext_GetInput(context, 0, &value));
    const Tensor a(api_, value);
    if (a.shape.empty() || a.shape.back() != static_cast<std::int64_t>(matrix.depth)) {
      refuse("A has the shape " + shape_text(a.shape) + ", whose last size is not K = " + std::to_string(matrix.depth));
    }
    std::vector<std::int64_t> shape = a.shape;
    shape.back() = static_cast<std::int64_t>(matrix.columns);
    ort::Value* output = nullptr;
    check(api_.KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &output));
    void* y = nullptr;
    check(api_.GetTensorMutableData(output, &y));
    if (a.count() == 0) return;

    std::vector<float> given_bias;
    if (!bias_is_constant_) given_bias = bias_of_this_run(context);
    const std::vector<float>& bias = bias_is_constant_ ? bias_ : given_bias;
    Int8Scratch scratch;
    multiply_int8(api_, context, kernels_, matrix, static_cast<const float*>(a.data), a.count() / matrix.depth,
                  bias.empty() ? nullptr : bias.data(), static_cast<float*>(y), scratch);
    count_int8_run(isa_);
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const { throw InvalidNode(node_ + ": " + why); }

  Int8Weights read_weights(const ort::KernelInfo* info) const {
    const Tensor weights = needed_constant(api_, info, 1, node_, "B");
    const Tensor scales = needed_constant(api_, info, 2, node_, "scales");
    if (weights.shape.size() != 2 || weights.count() == 0) {
      refuse("B has the shape " + shape_text(weights.shape) + "; it must be [K, N], both at least 1");
    }
    const std::size_t depth = static_cast<std::size_t>(weights.shape[0]);
    const std::size_t columns = static_cast<std::size_t>(weights.shape[1]);
    if (depth > kInt8LargestDepth) {
      refuse("K = " + std::to_string(depth) + " is more than " + std::to_string(kInt8LargestDepth) +
             ", beyond which sums do not fit 32 bits; divide the product");
    }
    if (scales.count() != columns && scales.count() != 1) {
      refuse("scales has the shape " + shape_text(scales.shape) + " where B makes it [" + std::to_string(columns) +
             "], or one for all");
    }
    const float* given = static_cast<const float*>(scales.data);
    std::vector<float> steps(columns, given[0]);
    if (scales.count() == columns) std::copy_n(given, columns, steps.begin());
    for (std::size_t column = 0; column < columns; ++column) {
      if (!std::isfinite(steps[column])) {
        refuse("the scale of column " + std::to_string(column) + " is not finite; the weights it was made from were not");
      }
    }
    return Int8Weights(static_cast<const std::int8_t*>(weights.data), steps.data(), depth, columns);
  }

  // As long as the panels are, so that kernels need not look where it ends.
  std::vector<float> read_bias(const Tensor& tensor) const {
    const Int8Matrix& matrix = weights_.matrix();
    if (tensor.count() != matrix.columns) {
      refuse("bias has the shape " + shape_text(tensor.shape) + " where B makes it [" + std::to_string(matrix.columns) + "]");
    }
    std::vector<float> bias(matrix.panel_count() * kInt8Columns);
    std::copy_n(static_cast<const float*>(tensor.data), matrix.columns, bias.data());
    return bias;
  }

  std::vector<float> bias_of_this_run(ort::KernelContext* context) const {
    std::size_t inputs = 0;
    check(api_.KernelContext_GetInputCount(context, &inputs));
    if (inputs <= kBiasInput) return {};
    const ort::Value* value = nullptr;
    check(api_.KernelContext_GetInput(context, kBiasInput, &value));
    return value == nullptr ? std::vector<float>{} : read_bias(Tensor(api_, value));
  }

  const ort::Api& api_;
  const Isa& isa_;
  std::string node_;
  Int8Weights weights_;
  const Int8Kernels& kernels_;
  bool bias_is_constant_ = false;
  std::vector<float> bias_;
};

ort::CustomOp make() {
  ort::CustomOp op{};
  run_kernel<MatMulInt8Kernel>(op);
  op.GetInputTypeCount = [](const ort::CustomOp*) -> std::size_t { return kBiasInput + 1; };
  op.GetInputType = [](const ort::CustomOp*, std::size_t index) { return index == 1 ? ort::kInt8 : ort::kFloat; };
  op.GetInputCharacteristic = [](const ort::CustomOp*, std::size_t index) {
    return index == kBiasInput ? ort::kOptional : ort::kRequired;
  };
  op.GetOutputType = [](const ort::CustomOp*, std::size_t) { return ort::kFloat; };
  return op;
}

}  // namespace

const std::vector<const ort::CustomOp*>& matmul_int8_ops() {
  static const ort::CustomOp op = make();
  static const std::vector<const ort::CustomOp*> pointers = {&op};
  return pointers;
}

}  // namespace qcompiler
