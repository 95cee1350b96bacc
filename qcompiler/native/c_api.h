// The functions that the library exports besides RegisterCustomOps. Plain C, so that any language can call them.
#pragma once

#include <cstdint>

#include "abi.h"
#include "table.h"


enum QCompilerResult : int {
  kQCompilerOk = 0,
  kQCompilerNoSuchTable = 1,
  kQCompilerNoSuchSlot = 2,
  kQCompilerOutOfMemory = 3,
};


// Makes a table of `slots` empty histograms; its number goes to `*id`.
QCOMPILER_EXPORT int qcompiler_table_create(std::uint64_t slots, std::int64_t* id) noexcept;
// Forgets the table. Its memory goes when the last session that observes into it goes.
QCOMPILER_EXPORT int qcompiler_table_destroy(std::int64_t id) noexcept;
// Empties every slot.
QCOMPILER_EXPORT int qcompiler_table_reset(std::int64_t id) noexcept;
// Says that whatever the table's nodes count from now on comes with the sample of this number, which is not negative.
QCOMPILER_EXPORT int qcompiler_table_begin(std::int64_t id, std::int64_t sample) noexcept;
// Writes the slot's 65536 counts to `bins` and the rest to `observed`. Bins hold finite values only.
QCOMPILER_EXPORT int qcompiler_table_read(std::int64_t id, std::uint64_t slot, std::uint64_t* bins,
                                          qcompiler::Observed* observed) noexcept;
// The name of the instruction set that kernels made from now on run with.
QCOMPILER_EXPORT const char* qcompiler_isa() noexcept;
// How many products with 4-bit weights have run with the instruction set of this name; 0 where it is unknown.
QCOMPILER_EXPORT std::uint64_t qcompiler_int4_runs(const char* isa) noexcept;
// The same with 8-bit weights.
QCOMPILER_EXPORT std::uint64_t qcompiler_int8_runs(const char* isa) noexcept;
