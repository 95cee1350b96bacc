#include "gru_int8_op.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "int8_product.h"
#include "int8_weights.h"
#include "isa.h"
#include "kernel_op.h"
#include "ort_call.h"

namespace qcompiler {
namespace {

constexpr const char* kInputs[] = {"X", "W", "w_scales", "R", "r_scales", "B", "sequence_lens", "initial_h"};
enum : std::size_t { kX, kW, kWScales, kR, kRScales, kB, kLengths, kInitial };

// e^x within 2e-7 of it, relative, written so that compilers vectorize loops over it. Cody and Waite 1980, chapter 6: e^x is
// 2^n times e^r with |r| at most log(2)/2, for which seven terms of the series do. NaN stays.
inline float exponential(float x) {
  constexpr float kHighest = 87.0F, kLog2E = 1.44269504F, kLog2High = 0.693359375F, kLog2Low = -2.12194440e-4F;
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: what is added to it is rounded to a whole number
  const float within = std::min(std::max(x, -kHighest), kHighest);
  const float n = (within * kLog2E + kRound) - kRound;
  const float r = (within - n * kLog2High) - n * kLog2Low;
  const float series =
      1.0F + r * (1.0F + r * (1.0F / 2 + r * (1.0F / 6 + r * (1.0F / 24 + r * (1.0F / 120 + r * (1.0F / 720))))));
  const float known = n == n ? n : 0.0F;  // a NaN has no bits of an exponent
  const std::int32_t bits = (static_cast<std::int32_t>(known) + 127) * (1 << 23);
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return series * power;
}

inline float sigmoid(float x) { return 1.0F / (1.0F + exponential(-x)); }
inline float hyperbolic_tangent(float x) { return 1.0F - 2.0F / (1.0F + exponential(2.0F * x)); }

// `columns` of a matrix [depth, all], from `first` on.
Int8Weights columns_of(const std::int8_t* weights, const float* scales, std::size_t depth, std::size_t all,
                       std::size_t first, std::size_t columns) {
  std::vector<std::int8_t> part(depth * columns);
  for (std::size_t k = 0; k < depth; ++k) std::copy_n(weights + k * all + first, columns, part.data() + k * columns);
  return Int8Weights(part.data(), scales + first, depth, columns);
}

std::vector<float> in_panels(const Int8Weights& weights, std::vector<float> bias) {
  bias.resize(weights.matrix().panel_count() * kInt8Columns);
  return bias;
}

struct Direction {
  bool reverse;
  Int8Weights input;   // [I, 3H]
  Int8Weights gates;   // [H, 2H], or [H, 3H] where the reset gate is applied behind the product
  std::optional<Int8Weights> hidden;  // [H, H], elsewhere
  std::vector<float> input_bias, gates_bias, hidden_bias;
};

class GruKernel {
 public:
  static constexpr const char* kName = "GRUInt8";

  GruKernel(const ort::Api& api, const ort::KernelInfo* info)
      : api_(api), isa_(isa_in_use()), node_(describe_node(api, info, kName)),
        reset_behind_(int_attribute(api, info, "linear_before_reset", 0) != 0) {
    const std::string direction = string_attribute(api, info, "direction", "forward");
    if (direction != "forward" && direction != "reverse" && direction != "bidirectional") {
      refuse("direction is '" + direction + "'; it must be forward, reverse or bidirectional");
    }
    const std::size_t ways = direction == "bidirectional" ? 2 : 1;
    const Tensor w = constant(info, kW), r = constant(info, kR);
    if (r.shape.size() != 3 || r.count() == 0 || r.shape[2] != 3 * r.shape[1]) {
      refuse("R has the shape " + shape_text(r.shape) + "; it must be [D, H, 3H], none 0");
    }
    hidden_ = static_cast<std::size_t>(r.shape[1]);
    if (w.shape.size() != 3 || w.count() == 0 || w.shape[2] != r.shape[2]) {
      refuse("W has the shape " + shape_text(w.shape) + " where R makes it [D, I, " + std::to_string(3 * hidden_) + "]");
    }
    inputs_ = static_cast<std::size_t>(w.shape[1]);
    if (std::max(hidden_, inputs_) > kInt8LargestDepth) {
      refuse("sums of more than " + std::to_string(kInt8LargestDepth) + " products do not fit 32 bits");
    }
    if (w.shape[0] != static_cast<std::int64_t>(ways) || r.shape[0] != w.shape[0]) {
      refuse("W and R have " + std::to_string(w.shape[0]) + " and " + std::to_string(r.shape[0]) +
             " directions where direction is '" + direction + "'");
    }
    const float* w_scales = scales(info, kWScales, ways);
    const float* r_scales = scales(info, kRScales, ways);
    bool has_bias = false;
    const Tensor b = constant_input(api, info, kB, has_bias);
    if (!has_bias && has_input(api, info, kB)) refuse("B is not a constant of the model; make it an initializer");
    if (has_bias && b.count() != ways * 6 * hidden_) {
      refuse("B has the shape " + shape_text(b.shape) + " where R makes it [" + std::to_string(ways) + ", " +
             std::to_string(6 * hidden_) + "]");
    }
    for (std::size_t way = 0; way < ways; ++way) {
      const std::size_t all = 3 * hidden_;
      const auto* own_w = static_cast<const std::int8_t*>(w.data) + way * inputs_ * all;
      const auto* own_r = static_cast<const std::int8_t*>(r.data) + way * hidden_ * all;
      const float* own_b = has_bias ? static_cast<const float*>(b.data) + way * 2 * all : nullptr;
      add(direction == "reverse" || way == 1, own_w, w_scales + way * all, own_r, r_scales + way * all, own_b);
    }
  }

  const ort::Api& api() const { return api_; }

  void compute(ort::KernelContext* context) const {
    const Tensor x = input(context, kX);
    if (x.shape.size() != 3 || x.shape[2] != static_cast<std::int64_t>(inputs_)) {
      refuse("X has the shape " + shape_text(x.shape) + "; it must be [steps, batch, " + std::to_string(inputs_) + "]");
    }
    const auto ways = static_cast<std::int64_t>(directions_.size()), units = static_cast<std::int64_t>(hidden_);
    const std::size_t steps = static_cast<std::size_t>(x.shape[0]), batch = static_cast<std::size_t>(x.shape[1]);
    float* y = output(context, 0, {x.shape[0], ways, x.shape[1], units});
    float* last = output(context, 1, {ways, x.shape[1], units});
    const std::vector<std::size_t> lengths = read_lengths(context, steps, batch);
    const Tensor initial = input(context, kInitial);
    if (initial.data != nullptr && initial.shape != std::vector<std::int64_t>{ways, x.shape[1], units}) {
      refuse("initial_h has the shape " + shape_text(initial.shape) + " where X and R make it [" +
             std::to_string(ways) + ", " + std::to_string(batch) + ", " + std::to_string(hidden_) + "]");
    }
    const std::size_t state = batch * hidden_;
    for (std::size_t way = 0; way < directions_.size(); ++way) {
      float* own = last + way * state;
      if (initial.data == nullptr) {
        std::fill_n(own, state, 0.0F);
      } else {
        std::copy_n(static_cast<const float*>(initial.data) + way * state, state, own);
      }
      if (steps * batch != 0) {
        run(context, directions_[way], static_cast<const float*>(x.data), steps, batch, lengths, own, y + way * state);
      }
    }
    count_int8_run(isa_);
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const { throw InvalidNode(node_ + ": " + why); }

  Tensor constant(const ort::KernelInfo* info, std::size_t index) const {
    return needed_constant(api_, info, index, node_, kInputs[index]);
  }

  const float* scales(const ort::KernelInfo* info, std::size_t index, std::size_t ways) const {
    const Tensor given = constant(info, index);
    if (given.count() != ways * 3 * hidden_) {
      refuse(std::string(kInputs[index]) + " has the shape " + shape_text(given.shape) + " where R makes it [" +
             std::to_string(ways) + ", " + std::to_string(3 * hidden_) + "]");
    }
    const auto* values = static_cast<const float*>(given.data);
    if (!std::all_of(values, values + given.count(), [](float value) { return std::isfinite(value); })) {
      refuse(std::string("a number of ") + kInputs[index] + " is not finite; the weights it was made from were not");
    }
    return values;
  }

  void add(bool reverse, const std::int8_t* w, const float* w_scales, const std::int8_t* r, const float* r_scales,
           const float* b) {
    const std::size_t all = 3 * hidden_, gates = reset_behind_ ? all : 2 * hidden_;
    Direction made{reverse, Int8Weights(w, w_scales, inputs_, all), columns_of(r, r_scales, hidden_, all, 0, gates),
                   std::nullopt, {}, {}, {}};
    if (!reset_behind_) made.hidden.emplace(columns_of(r, r_scales, hidden_, all, 2 * hidden_, hidden_));
    std::vector<float> of_input(all), of_gates(gates), of_hidden(hidden_);
    if (b != nullptr) {
      std::copy_n(b, all, of_input.begin());
      std::copy_n(b + all, gates, of_gates.begin());
      std::copy_n(b + all + 2 * hidden_, hidden_, of_hidden.begin());
    }
    made.input_bias = in_panels(made.input, of_input);
    made.gates_bias = in_panels(made.gates, of_gates);
    if (made.hidden) made.hidden_bias = in_panels(*made.hidden, of_hidden);
    directions_.push_back(std::move(made));
  }

  Tensor input(ort::KernelContext* context, std::size_t index) const {
    std::size_t count = 0;
    check(api_.KernelContext_GetInputCount(context, &count));
    const ort::Value* value = nullptr;
    if (index < count) check(api_.KernelContext_GetInput(context, index, &value));
    return value == nullptr ? Tensor() : Tensor(api_, value);
  }

  float* output(ort::KernelContext* context, std::size_t index, const std::vector<std::int64_t>& shape) const {
    ort::Value* value = nullptr;
    check(api_.KernelContext_GetOutput(context, index, shape.data(), shape.size(), &value));
    void* data = nullptr;
    check(api_.GetTensorMutableData(value, &data));
    return static_cast<float*>(data);
  }

  std::vector<std::size_t> read_lengths(ort::KernelContext* context, std::size_t steps, std::size_t batch) const {
    std::vector<std::size_t> lengths(batch, steps);
    const Tensor given = input(context, kLengths);
    if (given.data == nullptr) return lengths;
    if (given.count() != batch) {
      refuse("sequence_lens has the shape " + shape_text(given.shape) + " where X makes it [" + std::to_string(batch) + "]");
    }
    for (std::size_t row = 0; row < batch; ++row) {
      const std::int32_t length = static_cast<const std::int32_t*>(given.data)[row];
      if (length < 0 || static_cast<std::size_t>(length) > steps) {
        refuse("sequence_lens has " + std::to_string(length) + " where X has " + std::to_string(steps) + " steps");
      }
      lengths[row] = static_cast<std::size_t>(length);
    }
    return lengths;
  }

  const Int8Kernels& kernels(const Int8Weights& weights) const {
    return weights.matrix().paired ? *isa_.int8_paired : *isa_.int8;
  }

  void multiply(ort::KernelContext* context, const Int8Weights& weights, const std::vector<float>& bias, const float* a,
                std::size_t rows, std::vector<float>& y, Int8Scratch& scratch) const {
    multiply_int8(api_, context, kernels(weights), weights.matrix(), a, rows, bias.data(), y.data(), scratch);
  }

  // One direction: `state` [batch, H] is what it starts from and becomes what it ends with; a step's results are
  // directions * batch * H floats behind those of the step before, from `y` on.
  void run(ort::KernelContext* context, const Direction& own, const float* x, std::size_t steps, std::size_t batch,
           const std::vector<std::size_t>& lengths, float* state, float* y) const {
    const std::size_t all = 3 * hidden_, stride = directions_.size() * batch * hidden_;
    const std::size_t gates = own.gates.matrix().columns;
    std::vector<float> given(steps * batch * all), recurrent(batch * gates), reset(batch * hidden_),
        candidate(batch * hidden_);
    Int8Scratch scratch;
    multiply(context, own.input, own.input_bias, x, steps * batch, given, scratch);
    const std::size_t longest = *std::max_element(lengths.begin(), lengths.end());
    const auto place = [&](std::size_t step, std::size_t row) { return own.reverse ? lengths[row] - 1 - step : step; };

    for (std::size_t step = 0; step < longest; ++step) {
      multiply(context, own.gates, own.gates_bias, state, batch, recurrent, scratch);
      for (std::size_t row = 0; row < batch; ++row) {
        if (step >= lengths[row]) continue;
        const float* from = given.data() + (place(step, row) * batch + row) * all;
        float* gate = recurrent.data() + row * gates;
        for (std::size_t unit = 0; unit < 2 * hidden_; ++unit) gate[unit] = sigmoid(gate[unit] + from[unit]);
        if (reset_behind_) continue;
        for (std::size_t unit = 0; unit < hidden_; ++unit) {
          reset[row * hidden_ + unit] = gate[hidden_ + unit] * state[row * hidden_ + unit];
        }
      }
      if (own.hidden) multiply(context, *own.hidden, own.hidden_bias, reset.data(), batch, candidate, scratch);
      for (std::size_t row = 0; row < batch; ++row) {
        if (step >= lengths[row]) continue;
        const std::size_t where = place(step, row);
        const float* from = given.data() + (where * batch + row) * all + 2 * hidden_;
        const float* gate = recurrent.data() + row * gates;
        float* held = state + row * hidden_;
        float* out = y + where * stride + row * hidden_;
        if (reset_behind_) {
          for (std::size_t unit = 0; unit < hidden_; ++unit) {
            const float fresh = hyperbolic_tangent(from[unit] + gate[hidden_ + unit] * gate[2 * hidden_ + unit]);
            held[unit] = fresh + gate[unit] * (held[unit] - fresh);
          }
        } else {
          const float* product = candidate.data() + row * hidden_;
          for (std::size_t unit = 0; unit < hidden_; ++unit) {
            const float fresh = hyperbolic_tangent(from[unit] + product[unit]);
            held[unit] = fresh + gate[unit] * (held[unit] - fresh);
          }
        }
        std::copy_n(held, hidden_, out);
      }
    }
    for (std::size_t row = 0; row < batch; ++row) {
      for (std::size_t step = lengths[row]; step < steps; ++step) {
        std::fill_n(y + step * stride + row * hidden_, hidden_, 0.0F);
      }
    }
  }

  const ort::Api& api_;
  const Isa& isa_;
  std::string node_;
  bool reset_behind_;
  std::size_t hidden_ = 0, inputs_ = 0;
  std::vector<Direction> directions_;
};

ort::CustomOp make() {
  ort::CustomOp op{};
  run_kernel<GruKernel>(op);
  op.GetInputTypeCount = [](const ort::CustomOp*) -> std::size_t { return kInitial + 1; };
  op.GetInputType = [](const ort::CustomOp*, std::size_t index) {
    return index == kW || index == kR ? ort::kInt8 : index == kLengths ? ort::kInt32 : ort::kFloat;
  };
  op.GetInputCharacteristic = [](const ort::CustomOp*, std::size_t index) {
    return index >= kB ? ort::kOptional : ort::kRequired;
  };
  op.GetOutputTypeCount = [](const ort::CustomOp*) -> std::size_t { return 2; };
  op.GetOutputType = [](const ort::CustomOp*, std::size_t) { return ort::kFloat; };
  return op;
}

}  // namespace

const std::vector<const ort::CustomOp*>& gru_int8_ops() {
  static const ort::CustomOp op = make();
  static const std::vector<const ort::CustomOp*> pointers = {&op};
  return pointers;
}

}  // namespace qcompiler
