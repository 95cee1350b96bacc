#include "c_api.h"

#include <cstring>
#include <exception>
#include <limits>

#include "isa.h"

int qcompiler_table_create(std::uint64_t slots, std::int64_t* id) noexcept {
  if (slots > std::numeric_limits<std::size_t>::max() / sizeof(qcompiler::Slot)) return kQCompilerOutOfMemory;
  try {
    *id = qcompiler::add_table(static_cast<std::size_t>(slots));
    return kQCompilerOk;
  } catch (const std::exception&) {  // bad_alloc or length_error
    return kQCompilerOutOfMemory;
  }
}

int qcompiler_table_destroy(std::int64_t id) noexcept {
  return qcompiler::remove_table(id) ? kQCompilerOk : kQCompilerNoSuchTable;
}

int qcompiler_table_reset(std::int64_t id) noexcept {
  const auto table = qcompiler::find_table(id);
  if (table == nullptr) return kQCompilerNoSuchTable;
  for (std::size_t slot = 0; slot < table->size(); ++slot) table->slot(slot).reset();
  return kQCompilerOk;
}

int qcompiler_table_begin(std::int64_t id, std::int64_t sample) noexcept {
  const auto table = qcompiler::find_table(id);
  if (table == nullptr) return kQCompilerNoSuchTable;
  for (std::size_t slot = 0; slot < table->size(); ++slot) table->slot(slot).begin(sample);
  return kQCompilerOk;
}

int qcompiler_table_read(std::int64_t id, std::uint64_t slot, std::uint64_t* bins,
                         qcompiler::Observed* observed) noexcept {
  const auto table = qcompiler::find_table(id);
  if (table == nullptr) return kQCompilerNoSuchTable;
  if (slot >= table->size()) return kQCompilerNoSuchSlot;
  table->slot(static_cast<std::size_t>(slot)).read(bins, *observed);
  return kQCompilerOk;
}

const char* qcompiler_isa() noexcept { return qcompiler::isa_in_use().name; }

std::uint64_t qcompiler_int4_runs(const char* isa) noexcept {
  for (const qcompiler::Isa* known = qcompiler::isa_begin(); known != qcompiler::isa_end(); ++known) {
    if (std::strcmp(known->name, isa) == 0) return qcompiler::int4_runs(*known);
  }
  return 0;
}

std::uint64_t qcompiler_int8_runs(const char* isa) noexcept {
  for (const qcompiler::Isa* known = qcompiler::isa_begin(); known != qcompiler::isa_end(); ++known) {
    if (std::strcmp(known->name, isa) == 0) return qcompiler::int8_runs(*known);
  }
  return 0;
}
