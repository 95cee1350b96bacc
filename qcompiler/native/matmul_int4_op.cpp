#include "matmul_int4_op.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "int4_node.h"
#include "int4_weights.h"
#include "isa.h"
#include "kernel_op.h"
#include "ort_call.h"

namespace qcompiler {
namespace {

constexpr std::size_t kWeightsInput = 1;  // then scales, zero_points
constexpr std::size_t kBiasInput = 4;
constexpr std::size_t kRowsTogether = 16;  // that Int4ManyRows may pack

// Below these, in multiplications and in values of A, handing work to threads takes longer than doing it.
constexpr std::size_t kWorthThreads = std::size_t{1} << 19;
constexpr std::size_t kWorthPackingInThreads = std::size_t{1} << 15;

struct Aligned {
  void operator()(std::uint8_t* memory) const { std::free(memory); }
};
using Scratch = std::unique_ptr<std::uint8_t, Aligned>;

Scratch scratch(std::size_t size) {
  constexpr std::size_t kCacheLine = 64;
  Scratch memory(static_cast<std::uint8_t*>(std::aligned_alloc(kCacheLine, (size / kCacheLine + 1) * kCacheLine)));
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

class MatMulInt4Kernel {
 public:
  static constexpr const char* kName = "MatMulInt4";

  MatMulInt4Kernel(const ort::Api& api, const ort::KernelInfo* info)
      : api_(api),
        isa_(isa_in_use()),
        kernels_(*isa_.int4),
        node_(describe_node(api, info, kName)),
        weights_(share_int4(read_int4_source(api, info, kWeightsInput, node_))) {
    const std::string activations = string_attribute(api, info, "activations", "int8");
    if (activations != "int8" && activations != "float") {
      throw InvalidNode(node_ + ": activations = '" + activations + "'; use int8 or float");
    }
    quantized_ = activations == "int8";
    constant_input(api, info, kBiasInput, bias_is_constant_);
    if (bias_is_constant_) bias_ = read_bias(constant_input(api, info, kBiasInput, bias_is_constant_));
  }

  const ort::Api& api() const { return api_; }

  void compute(ort::KernelContext* context) const {
    const Int4Matrix& matrix = weights_->matrix();
    const ort::Value* value = nullptr;
    check(api_.KernelContext_GetInput(context, 0, &value));
    const Tensor a(api_, value);
    if (a.type != ort::kFloat && a.type != ort::kFloat16) throw InvalidNode(node_ + ": A is neither float32 nor float16");
    if (a.shape.empty() || a.shape.back() != static_cast<std::int64_t>(matrix.depth)) {
      throw InvalidNode(node_ + ": A has the shape " + shape_text(a.shape) + ", whose last size is not K = " +
                        std::to_string(matrix.depth));
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
    multiply(context, a, y, bias.empty() ? nullptr : bias.data());
    count_int4_run(isa_);
  }

 private:
  std::vector<float> read_bias(const Tensor& tensor) const {
    const Int4Matrix& matrix = weights_->matrix();
    if (tensor.count() != matrix.columns) {
      throw InvalidNode(node_ + ": bias has the shape " + shape_text(tensor.shape) + " where N makes it [" +
                        std::to_string(matrix.columns) + "]");
    }
    // As long as the panels are, so that kernels need not look where it ends.
    std::vector<float> bias((matrix.columns + kPanelColumns - 1) / kPanelColumns * kPanelColumns);
    if (tensor.type == ort::kFloat) {
      std::copy_n(static_cast<const float*>(tensor.data), matrix.columns, bias.data());
    } else if (tensor.type == ort::kFloat16) {
      kernels_.from_half(static_cast<const std::uint16_t*>(tensor.data), matrix.columns, bias.data());
    } else {
      throw InvalidNode(node_ + ": bias is neither float32 nor float16");
    }
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

  // How a number of rows is multiplied.
  struct Way {
    const Int4ManyRows* many;  // null: as the kernels for few rows do
    std::size_t rows;          // of a tile
    std::size_t row_bytes;
    void (*multiply)(const Int4Matrix&, const std::uint8_t*, const std::uint8_t*, std::size_t, const float*, std::size_t,
                     float*, std::size_t);
  };

  Way way_for(std::size_t rows) const {
    const Int4Matrix& matrix = weights_->matrix();
    if (!quantized_) return {nullptr, kernels_.rows, matrix.float_row_bytes(), kernels_.multiply_float};
    const Int4ManyRows* many = isa_.int4_many;
    if (many != nullptr && rows >= many->fewest) return {many, many->rows, many->row_bytes(matrix), many->multiply};
    return {nullptr, kernels_.rows, matrix.quantized_row_bytes(), kernels_.multiply_quantized};
  }

  void multiply(ort::KernelContext* context, const Tensor& a, void* y, const float* bias) const {
    const Int4Matrix& matrix = weights_->matrix();
    const std::size_t rows = a.count() / matrix.depth;
    const Way way = way_for(rows);
    const std::size_t row_bytes = way.row_bytes;
    const bool as_they_are = !quantized_ && a.type == ort::kFloat && row_bytes == matrix.depth * sizeof(float);
    const std::size_t packed_rows = (rows + kRowsTogether - 1) / kRowsTogether * kRowsTogether;
    const Scratch memory = as_they_are ? nullptr : scratch(packed_rows * row_bytes);
    const std::uint8_t* packed = as_they_are ? static_cast<const std::uint8_t*>(a.data) : memory.get();
    if (!as_they_are) {
      for_each(api_, context, rows, rows * matrix.depth >= kWorthPackingInThreads,
               [&](std::size_t row) { pack(a, row, way, memory.get()); });
    }

    const std::size_t tiles = (rows + way.rows - 1) / way.rows;
    // Tiles as equal as can be: 8 rows are 4 and 4 rather than 6 and 2. Many rows are packed for tiles that are full.
    const auto first_row = [&](std::size_t tile) {
      return way.many != nullptr ? std::min(tile * way.rows, rows) : tile * (rows / tiles) + std::min(tile, rows % tiles);
    };
    const auto multiply_tile = [&](std::size_t panel, std::size_t panels, std::size_t tile) {
      const std::size_t first = first_row(tile), count = first_row(tile + 1) - first;
      const std::size_t column = panel * kPanelColumns;
      const std::size_t columns = std::min(panels * kPanelColumns, matrix.columns - column);
      const float* panel_bias = bias == nullptr ? nullptr : bias + column;
      const std::uint8_t* weights = matrix.panels + panel * matrix.panel_bytes();
      const std::uint8_t* tile_rows = packed + first * row_bytes;
      const std::size_t at = first * matrix.columns + column;
      if (a.type == ort::kFloat) {
        way.multiply(matrix, weights, tile_rows, count, panel_bias, columns, static_cast<float*>(y) + at, matrix.columns);
        return;
      }
      std::vector<float> result(count * columns);
      way.multiply(matrix, weights, tile_rows, count, panel_bias, columns, result.data(), columns);
      for (std::size_t row = 0; row < count; ++row) {
        kernels_.to_half(result.data() + row * columns, columns, static_cast<std::uint16_t*>(y) + at + row * matrix.columns);
      }
    };

    // A panel stays in the second-level cache while tile after tile of rows is multiplied with it, and so do the rows while
    // panel after panel is: more rows than fit are divided. So are fewer, where panels are too few for the threads.
    constexpr std::size_t kRowsInCache = std::size_t{640} << 10;  // bytes
    constexpr std::size_t kEnough = 32;
    const std::size_t panels = (matrix.columns + kPanelColumns - 1) / kPanelColumns;
    const std::size_t parts = std::min(tiles, std::max((rows * row_bytes + kRowsInCache - 1) / kRowsInCache, (kEnough + panels - 1) / panels));
    const std::size_t together = way.many == nullptr ? 1 : std::clamp<std::size_t>(panels / kEnough, 1, way.many->panels);
    const std::size_t strips = (panels + together - 1) / together;
    const auto multiply_part = [&](std::size_t unit) {
      const std::size_t part = unit / strips, panel = unit % strips * together;
      for (std::size_t tile = part * tiles / parts; tile < (part + 1) * tiles / parts; ++tile) {
        multiply_tile(panel, std::min(together, panels - panel), tile);
      }
    };
    for_each(api_, context, strips * parts, rows * matrix.depth * matrix.columns >= kWorthThreads, multiply_part);
  }

  // One row as the kernels want it, among those at `packed`.
  void pack(const Tensor& a, std::size_t row, const Way& way, std::uint8_t* packed) const {
    const Int4Matrix& matrix = weights_->matrix();
    const std::size_t depth = matrix.depth;
    const bool half = a.type == ort::kFloat16;
    const auto pack_floats = [&](const float* values) {
      if (way.many != nullptr) {
        way.many->pack_row(matrix, values, row, packed);
      } else if (quantized_) {
        kernels_.quantize_row(matrix, values, packed + row * way.row_bytes);
      } else {
        std::memcpy(packed + row * way.row_bytes, values, way.row_bytes);
      }
    };
    if (quantized_ && !half) {
      pack_floats(static_cast<const float*>(a.data) + row * depth);
      return;
    }
    std::vector<float> values(quantized_ ? depth : matrix.block * matrix.blocks);
    if (half) {
      kernels_.from_half(static_cast<const std::uint16_t*>(a.data) + row * depth, depth, values.data());
    } else {
      std::copy_n(static_cast<const float*>(a.data) + row * depth, depth, values.data());
    }
    pack_floats(values.data());
  }

  const ort::Api& api_;
  const Isa& isa_;
  const Int4Kernels& kernels_;
  std::string node_;
  std::shared_ptr<const Int4Weights> weights_;
  bool quantized_ = true;
  bool bias_is_constant_ = false;
  std::vector<float> bias_;
};

struct MatMulInt4Op : ort::CustomOp {
  ort::ElementType values;
  ort::ElementType scales;
};

ort::ElementType input_type(const ort::CustomOp* op, std::size_t index) {
  const auto& typed = *static_cast<const MatMulInt4Op*>(op);
  if (index == 0 || index == kBiasInput) return typed.values;
  return index == kWeightsInput + 1 ? typed.scales : ort::kUint8;
}

MatMulInt4Op make(ort::ElementType values, ort::ElementType scales) {
  MatMulInt4Op op{};
  op.values = values;
  op.scales = scales;
  run_kernel<MatMulInt4Kernel>(op);
  op.GetInputTypeCount = [](const ort::CustomOp*) -> std::size_t { return kBiasInput + 1; };
  op.GetInputType = input_type;
  op.GetInputCharacteristic = [](const ort::CustomOp*, std::size_t index) {
    return index > kWeightsInput + 1 ? ort::kOptional : ort::kRequired;
  };
  op.GetOutputType = [](const ort::CustomOp* self, std::size_t) { return input_type(self, 0); };
  return op;
}

}  // namespace

const std::vector<const ort::CustomOp*>& matmul_int4_ops() {
  static const MatMulInt4Op ops[] = {make(ort::kFloat, ort::kFloat), make(ort::kFloat, ort::kFloat16),
                                     make(ort::kFloat16, ort::kFloat), make(ort::kFloat16, ort::kFloat16)};
  static const std::vector<const ort::CustomOp*> pointers = {&ops[0], &ops[1], &ops[2], &ops[3]};
  return pointers;
}

}  // namespace qcompiler
