// What the operators with 4-bit weights have in common: how a node says what its weights are.
//
//   attributes  K, N (int), block_size (int; 0: one scale a column)
//   inputs      B            uint8 [N, blocks, ceil(block / 2)], blocks = K / block_size, or 1
//               scales       float32 or float16 [N, blocks]
//               zero_points  uint8 [N, ceil(blocks / 2)], optional: else 8
// in the layout that int4_weights.h describes, and constants of the model.
#pragma once

#include <string>

#include "abi.h"
#include "int4_weights.h"

namespace qcompiler {

// Reads and checks them. `first` is the index of the input B; scales and zero_points follow it. `node` names the node in
// messages. Throws InvalidNode. What it returns points to the model's memory.
Int4Source read_int4_source(const ort::Api& api, const ort::KernelInfo* info, std::size_t first, const std::string& node);

}  // namespace qcompiler
