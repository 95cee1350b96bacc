#include "gather_int4_op.h"

#include <string>

#include "int4_node.h"
#include "int4_weights.h"
#include "isa.h"
#include "kernel_op.h"
#include "ort_call.h"

namespace qcompiler {
namespace {

constexpr std::size_t kWeightsInput = 1;  // then scales, zero_points

class GatherInt4Kernel {
 public:
  static constexpr const char* kName = "GatherInt4";

  GatherInt4Kernel(const ort::Api& api, const ort::KernelInfo* info)
      : api_(api),
        kernels_(*isa_in_use().int4),
        node_(describe_node(api, info, kName)),
        table_(read_int4_source(api, info, kWeightsInput, node_)) {}

  const ort::Api& api() const { return api_; }

  void compute(ort::KernelContext* context) const {
    const ort::Value* value = nullptr;
    check(api_.KernelContext_GetInput(context, 0, &value));
    const Tensor indices(api_, value);
    std::vector<std::int64_t> shape = indices.shape;
    shape.push_back(static_cast<std::int64_t>(table_.depth));
    ort::Value* output = nullptr;
    check(api_.KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &output));
    void* y = nullptr;
    check(api_.GetTensorMutableData(output, &y));

    std::vector<float> row(table_.depth);
    for (std::size_t i = 0; i < indices.count(); ++i) {
      const std::size_t at = i * table_.depth;
      const std::size_t index = row_of(indices, i);
      if (table_.half_scales) {
        read_row(index, row.data());
        kernels_.to_half(row.data(), row.size(), static_cast<std::uint16_t*>(y) + at);
      } else {
        read_row(index, static_cast<float*>(y) + at);
      }
    }
  }

 private:
  std::size_t row_of(const Tensor& indices, std::size_t i) const {
    const std::int64_t given = indices.type == ort::kInt32 ? static_cast<const std::int32_t*>(indices.data)[i]
                                                           : static_cast<const std::int64_t*>(indices.data)[i];
    const auto rows = static_cast<std::int64_t>(table_.columns);
    if (given < -rows || given >= rows) {
      throw InvalidNode(node_ + ": the index " + std::to_string(given) + " is outside of a table of " +
                        std::to_string(rows) + " rows");
    }
    return static_cast<std::size_t>(given < 0 ? given + rows : given);
  }

  void read_row(std::size_t index, float* out) const {
    for (std::size_t group = 0; group < table_.groups(); ++group) {
      const std::uint8_t* bytes = table_.weights + (index * table_.groups() + group) * table_.group_bytes();
      const float scale = table_.scale(index, group);
      const int zero_point = table_.zero_point(index, group);
      for (std::size_t k = 0; k < table_.width(); ++k) {
        const int weight = k % 2 == 0 ? bytes[k / 2] & 15 : bytes[k / 2] >> 4;
        out[group * table_.width() + k] = static_cast<float>(weight - zero_point) * scale;
      }
    }
  }

  const ort::Api& api_;
  const Int4Kernels& kernels_;
  std::string node_;
  Int4Source table_;  // in the model's own memory
};

struct GatherInt4Op : ort::CustomOp {
  ort::ElementType indices;
  ort::ElementType scales;
};

GatherInt4Op make(ort::ElementType indices, ort::ElementType scales) {
  GatherInt4Op op{};
  op.indices = indices;
  op.scales = scales;
  run_kernel<GatherInt4Kernel>(op);
  op.GetInputTypeCount = [](const ort::CustomOp*) -> std::size_t { return kWeightsInput + 3; };
  op.GetInputType = [](const ort::CustomOp* self, std::size_t index) {
    const auto& typed = *static_cast<const GatherInt4Op*>(self);
    return index == 0 ? typed.indices : index == kWeightsInput + 1 ? typed.scales : ort::kUint8;
  };
  op.GetInputCharacteristic = [](const ort::CustomOp*, std::size_t index) {
    return index > kWeightsInput + 1 ? ort::kOptional : ort::kRequired;
  };
  op.GetOutputType = [](const ort::CustomOp* self, std::size_t) { return static_cast<const GatherInt4Op*>(self)->scales; };
  return op;
}

}  // namespace

const std::vector<const ort::CustomOp*>& gather_int4_ops() {
  static const GatherInt4Op ops[] = {make(ort::kInt32, ort::kFloat), make(ort::kInt32, ort::kFloat16),
                                     make(ort::kInt64, ort::kFloat), make(ort::kInt64, ort::kFloat16)};
  static const std::vector<const ort::CustomOp*> pointers = {&ops[0], &ops[1], &ops[2], &ops[3]};
  return pointers;
}

}  // namespace qcompiler
