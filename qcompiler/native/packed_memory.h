// Memory for packed weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace qcompiler {

struct FreePacked {
  void operator()(std::uint8_t* memory) const;
};
using PackedMemory = std::unique_ptr<std::uint8_t, FreePacked>;

// Aligned to a cache line, in huge pages where that pays. Throws std::bad_alloc.
PackedMemory packed_memory(std::size_t size);

}  // namespace qcompiler
