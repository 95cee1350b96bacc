#include "packed_memory.h"

#include <cstdlib>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace qcompiler {
namespace {

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kHugePage = std::size_t{1} << 21;

}  // namespace

PackedMemory packed_memory(std::size_t size) {
  const std::size_t alignment = size >= 2 * kHugePage ? kHugePage : kCacheLine;
  const std::size_t rounded = (size + alignment - 1) / alignment * alignment;
  PackedMemory memory(static_cast<std::uint8_t*>(std::aligned_alloc(alignment, rounded)));
  if (memory == nullptr) throw std::bad_alloc();
#ifdef __linux__
  // With small pages the processor's own prefetching stops every 4 KB. Refused, the kernels are slower, not wrong.
  if (alignment == kHugePage) (void)madvise(memory.get(), rounded, MADV_HUGEPAGE);
#endif
  return memory;
}

void FreePacked::operator()(std::uint8_t* memory) const { std::free(memory); }

}  // namespace qcompiler
