#include "depthwise_conv_op.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "channels.h"
#include "depthwise_weights.h"
#include "isa.h"
#include "kernel_op.h"
#include "ort_call.h"
#include "packed_memory.h"

namespace qcompiler {
namespace {

constexpr const char* kInputs[] = {"X", "x_scale", "x_zero_point", "W", "w_scale", "y_scale", "y_zero_point", "B"};
enum : std::size_t { kX, kXScale, kXZeroPoint, kW, kWScale, kYScale, kYZeroPoint, kB };

constexpr std::int64_t kLargestTaps = 65536;      // 255 * 128 times as many still fit 32 bits
constexpr double kLargestResult = 1 << 30;        // what is rounded to 32 bits
constexpr std::size_t kStaysInCache = 256 * 1024;  // bytes of an image

class DepthwiseConvKernel {
 public:
  static constexpr const char* kName = "DepthwiseConvInt8";

  DepthwiseConvKernel(const ort::Api& api, const ort::KernelInfo* info)
      : api_(api), kernels_(*isa_in_use().depthwise), node_(describe_node(api, info, kName)) {
    const Tensor w = constant(info, kW), w_scale = constant(info, kWScale);
    if (w.shape.size() != 4 || w.shape[1] != 1 || w.count() == 0 || w.shape[2] > kLargestTaps / w.shape[3]) {
      refuse("W has the shape " + shape_text(w.shape) + "; it must be [C, 1, kH, kW], none 0 and no more than " +
             std::to_string(kLargestTaps) + " taps");
    }
    DepthwiseNode node{};
    node.channels = static_cast<std::size_t>(w.shape[0]);
    const auto strides = numbers(info, "strides", {1, 1}, 1), dilations = numbers(info, "dilations", {1, 1}, 1);
    const auto pads = numbers(info, "pads", {0, 0, 0, 0}, 0);
    const auto axis = [&](std::size_t i) {
      return ConvAxis{static_cast<std::size_t>(w.shape[2 + i]), strides[i], dilations[i], pads[i], pads[2 + i]};
    };
    node.height = height_ = axis(0);
    node.width = width_ = axis(1);
    const Tensor x_zero_point = single(info, kXZeroPoint), y_zero_point = single(info, kYZeroPoint);
    node.codes_are_signed = x_zero_point.type == ort::kInt8;
    node.x_zero_point = code(x_zero_point);
    node.y_zero_point = code(y_zero_point);

    if (w_scale.count() != node.channels && w_scale.count() != 1) {
      refuse("w_scale has the shape " + shape_text(w_scale.shape) + " where W makes it [" + std::to_string(node.channels) +
             "], or one for all");
    }
    bool has_bias = false;
    const Tensor bias = constant_input(api, info, kB, has_bias);
    if (!has_bias && has_input(api, info, kB)) refuse("B is not a constant of the model; make it an initializer");
    if (has_bias && bias.count() != node.channels) {
      refuse("B has the shape " + shape_text(bias.shape) + " where W makes it [" + std::to_string(node.channels) + "]");
    }
    const auto* weights = static_cast<const std::int8_t*>(w.data);
    const auto* biases = has_bias ? static_cast<const std::int32_t*>(bias.data) : nullptr;
    const float x_scale = scale(info, kXScale), y_scale = scale(info, kYScale);
    std::vector<float> multipliers(node.channels);
    const std::size_t taps = w.count() / node.channels;
    for (std::size_t channel = 0; channel < node.channels; ++channel) {
      const float of_weights = static_cast<const float*>(w_scale.data)[w_scale.count() == 1 ? 0 : channel];
      multipliers[channel] = x_scale * of_weights / y_scale;
      double largest = biases == nullptr ? 0 : std::fabs(static_cast<double>(biases[channel]));
      for (std::size_t tap = 0; tap < taps; ++tap) largest += 255.0 * std::abs(weights[channel * taps + tap]);
      if (!(largest * std::fabs(static_cast<double>(multipliers[channel])) <= kLargestResult)) {
        refuse("the sums of channel " + std::to_string(channel) +
               " times x_scale * w_scale / y_scale do not fit 32 bits; y_scale is too small for them");
      }
    }
    channels_ = node.channels;
    upright_.emplace(node, true, kernels_, weights, multipliers.data(), biases);
    if (node.height.taps != node.width.taps) lying_.emplace(node, false, kernels_, weights, multipliers.data(), biases);
  }

  const ort::Api& api() const { return api_; }

  void compute(ort::KernelContext* context) const {
    const ort::Value* value = nullptr;
    check(api_.KernelContext_GetInput(context, kX, &value));
    const Tensor x(api_, value);
    if (x.shape.size() != 4 || x.shape[3] != static_cast<std::int64_t>(channels_)) {
      refuse("X has the shape " + shape_text(x.shape) + "; it must be [N, H, W, " + std::to_string(channels_) + "]");
    }
    const auto size = [&](std::size_t axis) { return static_cast<std::size_t>(x.shape[axis]); };
    const std::size_t heights = height_.results(size(1)), widths = width_.results(size(2));
    const std::vector<std::int64_t> shape = {x.shape[0], static_cast<std::int64_t>(heights),
                                             static_cast<std::int64_t>(widths), x.shape[3]};
    ort::Value* output = nullptr;
    check(api_.KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &output));
    void* y = nullptr;
    check(api_.GetTensorMutableData(output, &y));
    if (size(0) * heights * widths == 0) return;

    DepthwiseImage image{};
    image.rows = size(1);
    image.columns = size(2);
    image.y_columns = widths;
    image.x_row = size(2) * channels_;
    image.y_row = widths * channels_;
    image.x_column = image.y_column = channels_;
    std::size_t y_rows = heights;
    const DepthwiseWeights& weights = weights_for(heights, widths);
    if (!weights.upright()) {
      std::swap(image.rows, image.columns);
      std::swap(image.x_row, image.x_column);
      std::swap(image.y_row, image.y_column);
      image.y_columns = heights;
      y_rows = widths;
    }
    convolve(context, weights, image, y_rows, size(0), static_cast<const std::uint8_t*>(x.data), static_cast<std::uint8_t*>(y));
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const { throw InvalidNode(node_ + ": " + why); }

  Tensor constant(const ort::KernelInfo* info, std::size_t index) const {
    return needed_constant(api_, info, index, node_, kInputs[index]);
  }
  Tensor single(const ort::KernelInfo* info, std::size_t index) const {
    return single_constant(api_, info, index, node_, kInputs[index]);
  }
  float scale(const ort::KernelInfo* info, std::size_t index) const {
    return scale_constant(api_, info, index, node_, kInputs[index]);
  }

  // An attribute of as many numbers as `otherwise` has, none below `least`.
  std::vector<std::size_t> numbers(const ort::KernelInfo* info, const char* name, std::vector<std::int64_t> otherwise,
                                   std::int64_t least) const {
    const std::size_t count = otherwise.size();
    const std::vector<std::int64_t> values = ints_attribute(api_, info, name, std::move(otherwise));
    const bool fine = std::all_of(values.begin(), values.end(), [&](std::int64_t value) {
      return value >= least && value <= kLargestTaps;
    });
    if (values.size() != count || !fine) {
      refuse(std::string(name) + " is " + shape_text(values) + "; make it " + std::to_string(count) + " numbers from " +
             std::to_string(least) + " to " + std::to_string(kLargestTaps));
    }
    return {values.begin(), values.end()};
  }

  static std::int32_t code(const Tensor& codes) {
    if (codes.type == ort::kInt8) return *static_cast<const std::int8_t*>(codes.data);
    return *static_cast<const std::uint8_t*>(codes.data);
  }

  // Of the two axes the one that takes fewer products is woven, unless there is too little of the other one to make several
  // results at a time.
  const DepthwiseWeights& weights_for(std::size_t heights, std::size_t widths) const {
    constexpr std::size_t kSeveral = 4;
    if (!lying_ || (heights < kSeveral && widths >= kSeveral)) return *upright_;
    if (widths < kSeveral && heights >= kSeveral) return *lying_;
    return lying_->filter().taps() < upright_->filter().taps() ? *lying_ : *upright_;
  }

  // A unit is one block of channels of one or two rows. A small image stays in the cache while block after block is made of
  // it; of a large one, all blocks of some rows are made before the next rows.
  void convolve(ort::KernelContext* context, const DepthwiseWeights& weights, const DepthwiseImage& whole,
                std::size_t y_rows, std::size_t images, const std::uint8_t* x, std::uint8_t* y) const {
    const DepthwiseFilter& filter = weights.filter();
    const std::vector<DepthwiseBlock>& blocks = weights.blocks();
    const std::size_t pairs = (y_rows + filter.together - 1) / filter.together, units = pairs * blocks.size();
    const std::size_t x_size = whole.rows * whole.columns * channels_;
    const std::size_t y_size = y_rows * whole.y_columns * channels_;
    const bool by_block = x_size <= kStaysInCache;
    const std::size_t work = y_size * filter.taps() / units + 1;
    std::size_t woven_size = 0;
    for (const DepthwiseBlock& block : blocks) woven_size = std::max(woven_size, woven_bytes(filter, block.width));
    in_shares(api_, context, images * units, work, [&](std::size_t begin, std::size_t end) {
      const PackedMemory woven = packed_memory(woven_size);
      for (std::size_t i = begin; i < end; ++i) {
        const std::size_t unit = i % units;
        const DepthwiseBlock& block = blocks[by_block ? unit / pairs : unit % blocks.size()];
        const std::size_t row = (by_block ? unit % pairs : unit / blocks.size()) * filter.together;
        DepthwiseImage image = whole;
        image.x = x + i / units * x_size;
        image.y = y + i / units * y_size;
        kernels_.convolve(filter, block, image, row, std::min(filter.together, y_rows - row), woven.get());
      }
    });
  }

  const ort::Api& api_;
  const DepthwiseKernels& kernels_;
  std::string node_;
  ConvAxis height_{}, width_{};
  std::size_t channels_ = 0;
  std::optional<DepthwiseWeights> upright_, lying_;
};

struct DepthwiseConvOp : ort::CustomOp {
  ort::ElementType codes;
};

DepthwiseConvOp make(ort::ElementType codes) {
  DepthwiseConvOp op{};
  op.codes = codes;
  run_kernel<DepthwiseConvKernel>(op);
  op.GetInputTypeCount = [](const ort::CustomOp*) { return std::size(kInputs); };
  op.GetInputType = [](const ort::CustomOp* self, std::size_t index) {
    switch (index) {
      case kXScale:
      case kWScale:
      case kYScale: return ort::kFloat;
      case kW: return ort::kInt8;
      case kB: return ort::kInt32;
      default: return static_cast<const DepthwiseConvOp*>(self)->codes;
    }
  };
  op.GetInputCharacteristic = [](const ort::CustomOp*, std::size_t index) {
    return index == kB ? ort::kOptional : ort::kRequired;
  };
  op.GetOutputType = [](const ort::CustomOp* self, std::size_t) { return static_cast<const DepthwiseConvOp*>(self)->codes; };
  return op;
}

}  // namespace

const std::vector<const ort::CustomOp*>& depthwise_conv_ops() {
  static const DepthwiseConvOp ops[] = {make(ort::kUint8), make(ort::kInt8)};
  static const std::vector<const ort::CustomOp*> pointers = {&ops[0], &ops[1]};
  return pointers;
}

}  // namespace qcompiler
