// 8-bit weights as a model has them, packed as the kernels of int8.h want them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "int8.h"
#include "packed_memory.h"

namespace qcompiler {

class Int8Weights {
 public:
  // `weights` [depth, columns], `scales` [columns].
  Int8Weights(const std::int8_t* weights, const float* scales, std::size_t depth, std::size_t columns);
  const Int8Matrix& matrix() const { return matrix_; }

 private:
  Int8Matrix matrix_;
  PackedMemory memory_;
};

}  // namespace qcompiler
