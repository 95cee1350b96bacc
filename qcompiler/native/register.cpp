// RegisterCustomOps: what ONNX Runtime calls when a session's options name this library.

#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <string>

#include "abi.h"
#include "depthwise_conv_op.h"
#include "gather_int4_op.h"
#include "gru_int8_op.h"
#include "isa.h"
#include "matmul_int4_op.h"
#include "matmul_int8_op.h"
#include "observe_op.h"
#include "ort_call.h"
#include "table_lookup2_op.h"
#include "table_lookup_op.h"

namespace qcompiler {
namespace {

constexpr const char* kDomain = "qcompiler";

struct Release {
  const ort::Api* api;
  void operator()(ort::CustomOpDomain* domain) const { api->ReleaseCustomOpDomain(domain); }
};

// Session options point to the domain without owning it, so it lives as long as the library is loaded.
std::unique_ptr<ort::CustomOpDomain, Release> g_domain(nullptr, Release{nullptr});
std::mutex g_domain_mutex;

ort::Status* add_domain(const ort::Api& api, ort::SessionOptions* options) {
  const std::lock_guard<std::mutex> lock(g_domain_mutex);
  if (g_domain == nullptr) {
    ort::CustomOpDomain* created = nullptr;
    if (ort::Status* failed = api.CreateCustomOpDomain(kDomain, &created)) return failed;
    std::unique_ptr<ort::CustomOpDomain, Release> domain(created, Release{&api});
    if (ort::Status* failed = api.CustomOpDomain_Add(domain.get(), &observe_op())) return failed;
    for (const auto* ops : {&depthwise_conv_ops(), &gather_int4_ops(), &gru_int8_ops(), &matmul_int4_ops(),
                            &matmul_int8_ops(), &table_lookup_ops(), &table_lookup2_ops()}) {
      for (const ort::CustomOp* op : *ops) {
        if (ort::Status* failed = api.CustomOpDomain_Add(domain.get(), op)) return failed;
      }
    }
    g_domain = std::move(domain);
  }
  return api.AddCustomOpDomain(options, g_domain.get());
}

}  // namespace
}  // namespace qcompiler

QCOMPILER_EXPORT qcompiler::ort::Status* QCOMPILER_ORT_CALL RegisterCustomOps(
    qcompiler::ort::SessionOptions* options, const qcompiler::ort::ApiBase* base) noexcept {
  namespace ort = qcompiler::ort;
  const ort::Api* api = base->GetApi(ort::kApiVersion);
  if (api == nullptr) {
    const ort::Api* oldest = base->GetApi(1);  // CreateStatus stands in the first slot of every version
    return oldest->CreateStatus(ort::kFail, "qcompiler's operators need ONNX Runtime 1.18 or newer");
  }
  try {
    std::string error;
    const qcompiler::Isa* isa = qcompiler::select_isa(std::getenv("QCOMPILER_ISA"), error);
    if (isa == nullptr) return api->CreateStatus(ort::kInvalidArgument, error.c_str());
    qcompiler::use_isa(*isa);
    qcompiler::use_api(*api);
    return qcompiler::add_domain(*api, options);
  } catch (const std::exception& error) {
    return api->CreateStatus(ort::kRuntimeException, error.what());
  }
}
