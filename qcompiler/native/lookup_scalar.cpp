#include "lookup_plain.h"

namespace qcompiler {

extern const LookupKernels lookup_scalar = {look_up<std::uint8_t>, look_up<std::uint32_t>,
                                            look_up_by_column<std::uint8_t>, look_up_by_column<std::uint32_t>, multiply,
                                            multiply_by_column};

}  // namespace qcompiler
