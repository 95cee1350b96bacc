#include "int4_node.h"

#include "ort_call.h"

namespace qcompiler {
namespace {

class Reader {
 public:
  Reader(const ort::Api& api, const ort::KernelInfo* info, const std::string& node) : api_(api), info_(info), node_(node) {}

  [[noreturn]] void refuse(const std::string& why) const { throw InvalidNode(node_ + ": " + why); }

  std::int64_t attribute(const char* name) const {
    constexpr std::int64_t kAbsent = INT64_MIN;
    const std::int64_t value = int_attribute(api_, info_, name, kAbsent);
    if (value == kAbsent) refuse(std::string("the attribute ") + name + " is missing");
    return value;
  }

  Tensor constant(std::size_t index, const char* name) const {
    return needed_constant(api_, info_, index, node_, name);
  }

  // As MatMulNBits does, takes what belongs to blocks as one long row too.
  void expect_shape(const Tensor& tensor, const char* name, const std::vector<std::size_t>& expected) const {
    const std::vector<std::int64_t> shape(expected.begin(), expected.end());
    std::int64_t count = 1;
    for (const std::int64_t size : shape) count *= size;
    const bool flat = shape.size() == 2 && tensor.shape == std::vector<std::int64_t>{count};
    if (tensor.shape != shape && !flat) {
      refuse(std::string(name) + " has the shape " + shape_text(tensor.shape) + " where K, N and block_size make it " +
             shape_text(shape));
    }
  }

 private:
  const ort::Api& api_;
  const ort::KernelInfo* info_;
  const std::string& node_;
};

}  // namespace

Int4Source read_int4_source(const ort::Api& api, const ort::KernelInfo* info, std::size_t first, const std::string& node) {
  const Reader reader(api, info, node);
  const std::int64_t depth = reader.attribute("K");
  const std::int64_t columns = reader.attribute("N");
  const std::int64_t block = reader.attribute("block_size");
  if (const std::string why = check_int4_sizes(depth, columns, block); !why.empty()) reader.refuse(why);

  Int4Source source{};
  source.depth = static_cast<std::size_t>(depth);
  source.columns = static_cast<std::size_t>(columns);
  source.block = static_cast<std::size_t>(block);

  const Tensor weights = reader.constant(first, "B");
  if (weights.type != ort::kUint8) reader.refuse("B is not uint8");
  reader.expect_shape(weights, "B", {source.columns, source.groups(), source.group_bytes()});
  source.weights = static_cast<const std::uint8_t*>(weights.data);

  const Tensor scales = reader.constant(first + 1, "scales");
  if (scales.type != ort::kFloat && scales.type != ort::kFloat16) reader.refuse("scales is neither float32 nor float16");
  reader.expect_shape(scales, "scales", {source.columns, source.groups()});
  source.scales = scales.data;
  source.half_scales = scales.type == ort::kFloat16;
  if (const std::string why = check_int4_scales(source); !why.empty()) reader.refuse(why);

  if (has_input(api, info, first + 2)) {
    const Tensor zero_points = reader.constant(first + 2, "zero_points");
    if (zero_points.type != ort::kUint8) reader.refuse("zero_points is not uint8");
    reader.expect_shape(zero_points, "zero_points", {source.columns, (source.groups() + 1) / 2});
    source.zero_points = static_cast<const std::uint8_t*>(zero_points.data);
  }
  return source;
}

}  // namespace qcompiler
