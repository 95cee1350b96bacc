#include "table_lookup_op.h"

#include <string>

#include "channels.h"
#include "isa.h"
#include "kernel_op.h"
#include "lookup.h"
#include "ort_call.h"

namespace qcompiler {
namespace {

constexpr std::size_t kTableInput = 1;

class TableLookupKernel {
 public:
  static constexpr const char* kName = "TableLookup";

  TableLookupKernel(const ort::Api& api, const ort::KernelInfo* info)
      : api_(api),
        kernels_(isa_in_use().lookup()),
        node_(describe_node(api, info, kName)),
        axis_(int_attribute(api, info, "axis", 1)),
        table_(constant_input(api, info, kTableInput, table_is_constant_)) {
    if (table_is_constant_) check_table(table_);
  }

  const ort::Api& api() const { return api_; }

  void compute(ort::KernelContext* context) const {
    const ort::Value* value = nullptr;
    check(api_.KernelContext_GetInput(context, 0, &value));
    const Tensor x(api_, value);
    Tensor given;
    if (!table_is_constant_) {
      check(api_.KernelContext_GetInput(context, kTableInput, &value));
      given = Tensor(api_, value);
      check_table(given);
    }
    const Tensor& table = table_is_constant_ ? table_ : given;
    const Channels channels = channels_of(x, table);
    ort::Value* output = nullptr;
    check(api_.KernelContext_GetOutput(context, 0, x.shape.data(), x.shape.size(), &output));
    void* y = nullptr;
    check(api_.GetTensorMutableData(output, &y));
    const auto* codes = static_cast<const std::uint8_t*>(x.data);
    if (table.type == ort::kFloat) {
      look_up(context, channels, kernels_.words, kernels_.words_by_column, codes,
              static_cast<const std::uint32_t*>(table.data), static_cast<std::uint32_t*>(y));
    } else {
      look_up(context, channels, kernels_.bytes, kernels_.bytes_by_column, codes,
              static_cast<const std::uint8_t*>(table.data), static_cast<std::uint8_t*>(y));
    }
  }

 private:
  void check_table(const Tensor& table) const {
    const std::size_t rank = table.shape.size();
    if ((rank == 1 || rank == 2) && table.shape.back() == static_cast<std::int64_t>(kTableEntries)) return;
    throw InvalidNode(node_ + ": table has the shape " + shape_text(table.shape) +
                      "; make it [256], or [C, 256] for C channels");
  }

  Channels channels_of(const Tensor& x, const Tensor& table) const {
    if (table.shape.size() == 1) return Channels::one(x.count());
    const auto rank = static_cast<std::int64_t>(x.shape.size());
    if (axis_ < -rank || axis_ >= rank) {
      throw InvalidNode(node_ + ": X has the shape " + shape_text(x.shape) + ", which has no axis " + std::to_string(axis_));
    }
    const auto at = x.shape.begin() + (axis_ < 0 ? axis_ + rank : axis_);
    if (*at != table.shape.front()) {
      throw InvalidNode(node_ + ": X has the shape " + shape_text(x.shape) + ", whose size along axis " +
                        std::to_string(axis_) + " is not the number of tables, " + std::to_string(table.shape.front()));
    }
    if (*at == 1) return Channels::one(x.count());
    return {x.count(), static_cast<std::size_t>(*at), product_of(at + 1, x.shape.end())};
  }

  template <typename Kernel, typename ByColumn, typename Entry>
  void look_up(ort::KernelContext* context, const Channels& channels, Kernel kernel, ByColumn by_column,
               const std::uint8_t* x, const Entry* tables, Entry* y) const {
    if (channels.count == 0) return;
    if (channels.inner == 1 && channels.channels > 1) {
      const std::size_t columns = channels.channels;
      in_shares(api_, context, channels.count / columns, columns * sizeof(Entry), [&](std::size_t begin, std::size_t end) {
        by_column(x + begin * columns, end - begin, columns, tables, y + begin * columns);
      });
      return;
    }
    in_shares(api_, context, channels.count, sizeof(Entry), [&](std::size_t begin, std::size_t end) {
      channels.for_each_stretch(begin, end, [&](std::size_t first, std::size_t last, std::size_t channel) {
        kernel(x + first, last - first, tables + channel * kTableEntries, y + first);
      });
    });
  }

  const ort::Api& api_;
  const LookupKernels& kernels_;
  std::string node_;
  std::int64_t axis_;
  bool table_is_constant_;
  Tensor table_;  // in the model's own memory
};

struct TableLookupOp : ort::CustomOp {
  ort::ElementType codes;
  ort::ElementType entries;
};

TableLookupOp make(ort::ElementType codes, ort::ElementType entries) {
  TableLookupOp op{};
  op.codes = codes;
  op.entries = entries;
  run_kernel<TableLookupKernel>(op);
  op.GetInputTypeCount = [](const ort::CustomOp*) -> std::size_t { return kTableInput + 1; };
  op.GetInputType = [](const ort::CustomOp* self, std::size_t index) {
    const auto& typed = *static_cast<const TableLookupOp*>(self);
    return index == kTableInput ? typed.entries : typed.codes;
  };
  op.GetInputCharacteristic = [](const ort::CustomOp*, std::size_t) { return ort::kRequired; };
  op.GetOutputType = [](const ort::CustomOp* self, std::size_t) {
    return static_cast<const TableLookupOp*>(self)->entries;
  };
  op.InferOutputShapeFn = [](const ort::CustomOp*, ort::ShapeInferContext* context) {
    const ort::Api& api = api_in_use();
    return guarded(api, [&] { infer_output(api, context, kTableInput); });
  };
  if (entries != ort::kFloat) {  // Y may be written over X where nobody else needs X
    may_work_in_place(op);
  }
  return op;
}

}  // namespace

const std::vector<const ort::CustomOp*>& table_lookup_ops() {
  static const TableLookupOp ops[] = {make(ort::kUint8, ort::kUint8), make(ort::kUint8, ort::kInt8),
                                      make(ort::kUint8, ort::kFloat), make(ort::kInt8, ort::kUint8),
                                      make(ort::kInt8, ort::kInt8),   make(ort::kInt8, ort::kFloat)};
  static const std::vector<const ort::CustomOp*> pointers = {&ops[0], &ops[1], &ops[2], &ops[3], &ops[4], &ops[5]};
  return pointers;
}

}  // namespace qcompiler
