#include "table_lookup2_op.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "channels.h"
#include "isa.h"
#include "kernel_op.h"
#include "lookup.h"
#include "ort_call.h"

namespace qcompiler {
namespace {

constexpr const char* kInputs[] = {"X",       "S",            "x_scale", "x_zero_point",
                                   "s_scale", "s_zero_point", "y_scale", "y_zero_point"};

// A channel of fewer codes is multiplied without a table, which would be 256 products.
constexpr std::size_t kWorthATable = kTableEntries + kTableEntries / 4;

// So many codes at least are multiplied at a time where neighbours are of different channels.
constexpr std::size_t kLongEnough = 512;

// How S lies over X. Along X's axes, S has: any number of sizes 1; X's own sizes, `blocks` together; sizes 1, `rows` of X;
// and again X's own, `columns`.
struct Repetition {
  std::size_t blocks = 1;
  std::size_t rows = 1;
  std::size_t columns = 1;
};

class TableLookup2Kernel {
 public:
  static constexpr const char* kName = "TableLookup2";

  TableLookup2Kernel(const ort::Api& api, const ort::KernelInfo* info)
      : api_(api), kernels_(isa_in_use().lookup()), node_(describe_node(api, info, kName)) {
    float scales[3];
    for (std::size_t i = 0; i < 3; ++i) {
      scales[i] = scale_constant(api, info, 2 + 2 * i, node_, kInputs[2 + 2 * i]);
      zero_points_[i] = single_constant(api, info, 3 + 2 * i, node_, kInputs[3 + 2 * i]);
    }
    scale_ = scales[0] * scales[1] / scales[2];
    if (!std::isfinite(scale_)) refuse("x_scale * s_scale / y_scale is too large for float32");
  }

  const ort::Api& api() const { return api_; }

  void compute(ort::KernelContext* context) const {
    const ort::Value* value = nullptr;
    check(api_.KernelContext_GetInput(context, 0, &value));
    const Tensor x(api_, value);
    check(api_.KernelContext_GetInput(context, 1, &value));
    const Tensor s(api_, value);
    const Repetition repetition = repetition_of(x, s);
    ort::Value* output = nullptr;
    check(api_.KernelContext_GetOutput(context, 0, x.shape.data(), x.shape.size(), &output));
    void* y = nullptr;
    check(api_.GetTensorMutableData(output, &y));
    if (x.count() == 0) return;
    const auto multiply = repetition.columns == 1 ? &TableLookup2Kernel::by_block : &TableLookup2Kernel::by_column;
    (this->*multiply)(context, repetition, x, s, static_cast<std::uint8_t*>(y));
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const { throw InvalidNode(node_ + ": " + why); }

  Repetition repetition_of(const Tensor& x, const Tensor& s) const {
    const std::size_t rank = x.shape.size();
    Repetition found;
    if (s.shape.size() <= rank) {
      const std::size_t added = rank - s.shape.size();
      const auto repeated = [&](std::size_t axis) { return axis < added || s.shape[axis - added] == 1; };
      const auto size = [&](std::size_t axis) { return static_cast<std::size_t>(x.shape[axis]); };
      const auto same = [&](std::size_t axis) { return axis >= added && s.shape[axis - added] == x.shape[axis]; };
      std::size_t axis = 0;
      while (axis < rank && repeated(axis)) ++axis;
      for (; axis < rank && same(axis); ++axis) found.blocks *= size(axis);
      for (; axis < rank && repeated(axis); ++axis) found.rows *= size(axis);
      for (; axis < rank && same(axis); ++axis) found.columns *= size(axis);
      if (axis == rank) return tidy(found, x.count());
    }
    refuse("X has the shape " + shape_text(x.shape) + ", along whose axes S, of the shape " + shape_text(s.shape) +
           ", cannot be repeated");
  }

  // One code for all of X is one block; where no axis between is repeated, or none before, the blocks are columns.
  static Repetition tidy(Repetition found, std::size_t count) {
    if (found.columns == 1 && found.rows == 1) std::swap(found.blocks, found.columns);
    if (found.blocks == 1) found.rows = found.columns == 1 ? count : count / std::max<std::size_t>(found.columns, 1);
    return found;
  }

  void by_block(ort::KernelContext* context, const Repetition& repetition, const Tensor& x, const Tensor& s,
                std::uint8_t* y) const {
    const Channels channels{x.count(), repetition.blocks, repetition.rows};
    const auto* codes = static_cast<const std::uint8_t*>(x.data);
    std::uint8_t every_code[kTableEntries];
    for (std::size_t i = 0; i < kTableEntries; ++i) every_code[i] = static_cast<std::uint8_t>(i);
    in_shares(api_, context, channels.count, 1, [&](std::size_t begin, std::size_t end) {
      channels.for_each_stretch(begin, end, [&](std::size_t first, std::size_t last, std::size_t channel) {
        const Product product = product_with(s, channel);
        if (last - first < kWorthATable) return kernels_.multiply(product, codes + first, last - first, y + first);
        std::uint8_t table[kTableEntries];
        kernels_.multiply(product, every_code, kTableEntries, table);
        kernels_.bytes(codes + first, last - first, table, y + first);
      });
    });
  }

  void by_column(ort::KernelContext* context, const Repetition& repetition, const Tensor& x, const Tensor& s,
                 std::uint8_t* y) const {
    const std::size_t columns = repetition.columns;
    const std::size_t together = std::min(repetition.rows, (kLongEnough + columns - 1) / columns);  // rows at a time
    const std::size_t period = together * columns;
    const Product product = product_with(s, 0);
    std::vector<float> factors(repetition.blocks * period);
    for (std::size_t block = 0; block < repetition.blocks; ++block) {
      float* of_block = factors.data() + block * period;
      for (std::size_t i = 0; i < columns; ++i) {
        of_block[i] = static_cast<float>(code(s, block * columns + i) - code(zero_points_[1], 0));
      }
      for (std::size_t i = columns; i < period; ++i) of_block[i] = of_block[i - columns];
    }
    const Channels rows{x.count() / columns, repetition.blocks, repetition.rows};
    const auto* codes = static_cast<const std::uint8_t*>(x.data);
    in_shares(api_, context, rows.count, columns, [&](std::size_t begin, std::size_t end) {
      rows.for_each_stretch(begin, end, [&](std::size_t first, std::size_t last, std::size_t block) {
        kernels_.multiply_by_column(product, factors.data() + block * period, period, codes + first * columns,
                                    (last - first) * columns, y + first * columns);
      });
    });
  }

  Product product_with(const Tensor& s, std::size_t index) const {
    Product product{};
    product.x_zero_point = code(zero_points_[0], 0);
    product.factor = code(s, index) - code(zero_points_[1], 0);
    product.scale = scale_;
    product.y_zero_point = code(zero_points_[2], 0);
    product.sign = s.type == ort::kInt8 ? 0x80 : 0;
    return product;
  }

  static std::int32_t code(const Tensor& codes, std::size_t index) {
    if (codes.type == ort::kInt8) return static_cast<const std::int8_t*>(codes.data)[index];
    return static_cast<const std::uint8_t*>(codes.data)[index];
  }

  const ort::Api& api_;
  const LookupKernels& kernels_;
  std::string node_;
  Tensor zero_points_[3];  // of X, S and Y
  float scale_ = 0;
};

struct TableLookup2Op : ort::CustomOp {
  ort::ElementType codes;
};

TableLookup2Op make(ort::ElementType codes) {
  TableLookup2Op op{};
  op.codes = codes;
  run_kernel<TableLookup2Kernel>(op);
  op.GetInputTypeCount = [](const ort::CustomOp*) { return std::size(kInputs); };
  op.GetInputType = [](const ort::CustomOp* self, std::size_t index) {
    const bool scale = index == 2 || index == 4 || index == 6;
    return scale ? ort::kFloat : static_cast<const TableLookup2Op*>(self)->codes;
  };
  op.GetInputCharacteristic = [](const ort::CustomOp*, std::size_t) { return ort::kRequired; };
  op.GetOutputType = [](const ort::CustomOp* self, std::size_t) { return static_cast<const TableLookup2Op*>(self)->codes; };
  op.InferOutputShapeFn = [](const ort::CustomOp*, ort::ShapeInferContext* context) {
    const ort::Api& api = api_in_use();
    return guarded(api, [&] { infer_output(api, context, 0); });
  };
  may_work_in_place(op);
  return op;
}

}  // namespace

const std::vector<const ort::CustomOp*>& table_lookup2_ops() {
  static const TableLookup2Op ops[] = {make(ort::kUint8), make(ort::kInt8)};
  static const std::vector<const ort::CustomOp*> pointers = {&ops[0], &ops[1]};
  return pointers;
}

}  // namespace qcompiler
