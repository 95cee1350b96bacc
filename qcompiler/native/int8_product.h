// A product of rows of floats, quantized as they come, with 8-bit weights: see int8.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "abi.h"
#include "int8.h"

namespace qcompiler {

// What products write on the way, for as many rows as the longest of them has.
class Int8Scratch {
 public:
  void reserve(const Int8Matrix& matrix, std::size_t rows);
  std::uint8_t* codes() const { return codes_.get(); }
  Int8Row* rows() { return rows_.data(); }

 private:
  struct Free {
    void operator()(std::uint8_t* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::uint8_t, Free> codes_;
  std::size_t size_ = 0;
  std::vector<Int8Row> rows_;
};

// y [rows, columns] = a [rows, depth] times the matrix, plus bias: null, or as long as the matrix's panels are.
void multiply_int8(const ort::Api& api, const ort::KernelContext* context, const Int8Kernels& kernels,
                   const Int8Matrix& matrix, const float* a, std::size_t rows, const float* bias, float* y,
                   Int8Scratch& scratch);

}  // namespace qcompiler
