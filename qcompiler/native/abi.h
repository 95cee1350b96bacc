// The part of ONNX Runtime's C API that this library uses, written down from its documented layout.
//
// ONNX Runtime hands out one struct of function pointers that only ever grows at its end, so a function is its slot in
// that struct, and the layout that version 18 has is the layout that every later one begins with. Slots nobody here
// calls are counted, not named. tests/native/abi_test.cpp holds every slot, signature and struct against the official
// header.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef _WIN32
#define QCOMPILER_ORT_CALL __stdcall
#define QCOMPILER_EXPORT extern "C" __declspec(dllexport)
#else
#define QCOMPILER_ORT_CALL
#define QCOMPILER_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace qcompiler::ort {

// The oldest API asked for: ONNX Runtime 1.18. A newer runtime serves it too.
inline constexpr std::uint32_t kApiVersion = 18;

struct Status;
struct Value;
struct KernelInfo;
struct KernelContext;
struct SessionOptions;
struct CustomOpDomain;
struct TensorTypeAndShapeInfo;
struct ShapeInferContext;

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2, kRuntimeException = 6 };
enum ElementType : int { kUndefined = 0, kFloat = 1, kUint8 = 2, kInt8 = 3, kInt32 = 6, kInt64 = 7, kFloat16 = 10 };
enum Characteristic : int { kRequired = 0, kOptional = 1 };
enum MemoryType : int { kMemoryDefault = 0 };

struct CustomOp;
using Unused = void (*)();

struct Api {
  Status*(QCOMPILER_ORT_CALL* CreateStatus)(ErrorCode code, const char* message) noexcept;  // slot 0
  Unused slot_1[1];
  const char*(QCOMPILER_ORT_CALL* GetErrorMessage)(const Status* status) noexcept;  // slot 2
  Unused slots_3_to_26[23];
  Status*(QCOMPILER_ORT_CALL* CreateCustomOpDomain)(const char* name, CustomOpDomain** out) noexcept;  // slot 26
  Status*(QCOMPILER_ORT_CALL* CustomOpDomain_Add)(CustomOpDomain* domain, const CustomOp* op) noexcept;  // slot 27
  Status*(QCOMPILER_ORT_CALL* AddCustomOpDomain)(SessionOptions* options, CustomOpDomain* domain) noexcept;  // slot 28
  Unused slots_29_to_51[22];
  Status*(QCOMPILER_ORT_CALL* GetTensorMutableData)(Value* value, void** out) noexcept;  // slot 51
  Unused slots_52_to_58[6];
  Status*(QCOMPILER_ORT_CALL* SetTensorElementType)(TensorTypeAndShapeInfo* info, ElementType type) noexcept;  // slot 58
  Unused slot_59[1];
  Status*(QCOMPILER_ORT_CALL* GetTensorElementType)(const TensorTypeAndShapeInfo* info,
                                                    ElementType* out) noexcept;  // slot 60
  Status*(QCOMPILER_ORT_CALL* GetDimensionsCount)(const TensorTypeAndShapeInfo* info, std::size_t* out) noexcept;  // slot 61
  Status*(QCOMPILER_ORT_CALL* GetDimensions)(const TensorTypeAndShapeInfo* info, std::int64_t* dimensions,
                                             std::size_t rank) noexcept;  // slot 62
  Status*(QCOMPILER_ORT_CALL* GetSymbolicDimensions)(const TensorTypeAndShapeInfo* info, const char** names,
                                                     std::size_t rank) noexcept;  // slot 63
  Status*(QCOMPILER_ORT_CALL* GetTensorShapeElementCount)(const TensorTypeAndShapeInfo* info,
                                                          std::size_t* out) noexcept;  // slot 64
  Status*(QCOMPILER_ORT_CALL* GetTensorTypeAndShape)(const Value* value, TensorTypeAndShapeInfo** out) noexcept;  // slot 65
  Unused slots_66_to_86[20];
  Status*(QCOMPILER_ORT_CALL* KernelInfoGetAttribute_int64)(const KernelInfo* info, const char* name,
                                                            std::int64_t* out) noexcept;  // slot 86
  Status*(QCOMPILER_ORT_CALL* KernelInfoGetAttribute_string)(const KernelInfo* info, const char* name, char* out,
                                                             std::size_t* size) noexcept;  // slot 87
  Status*(QCOMPILER_ORT_CALL* KernelContext_GetInputCount)(const KernelContext* context, std::size_t* out) noexcept;  // slot 88
  Unused slot_89[1];
  Status*(QCOMPILER_ORT_CALL* KernelContext_GetInput)(const KernelContext* context, std::size_t index,
                                                      const Value** out) noexcept;  // slot 90
  Status*(QCOMPILER_ORT_CALL* KernelContext_GetOutput)(KernelContext* context, std::size_t index,
                                                       const std::int64_t* dimensions, std::size_t rank,
                                                       Value** out) noexcept;  // slot 91
  Unused slot_92[1];
  void(QCOMPILER_ORT_CALL* ReleaseStatus)(Status* status) noexcept;  // slot 93
  Unused slots_94_to_99[5];
  void(QCOMPILER_ORT_CALL* ReleaseTensorTypeAndShapeInfo)(TensorTypeAndShapeInfo* info) noexcept;  // slot 99
  Unused slot_100[1];
  void(QCOMPILER_ORT_CALL* ReleaseCustomOpDomain)(CustomOpDomain* domain) noexcept;  // slot 101
  Unused slots_102_to_163[61];
  Status*(QCOMPILER_ORT_CALL* KernelInfoGetAttributeArray_int64)(const KernelInfo* info, const char* name, std::int64_t* out,
                                                                 std::size_t* size) noexcept;  // slot 163
  Unused slots_164_to_230[66];
  Status*(QCOMPILER_ORT_CALL* KernelInfo_GetInputCount)(const KernelInfo* info, std::size_t* out) noexcept;  // slot 230
  Unused slot_231[1];
  Status*(QCOMPILER_ORT_CALL* KernelInfo_GetInputName)(const KernelInfo* info, std::size_t index, char* out,
                                                       std::size_t* size) noexcept;  // slot 232
  Status*(QCOMPILER_ORT_CALL* KernelInfo_GetOutputName)(const KernelInfo* info, std::size_t index, char* out,
                                                        std::size_t* size) noexcept;  // slot 233
  Unused slots_234_to_244[10];
  Status*(QCOMPILER_ORT_CALL* KernelInfo_GetNodeName)(const KernelInfo* info, char* out,
                                                      std::size_t* size) noexcept;  // slot 244
  Unused slots_245_to_249[4];
  Status*(QCOMPILER_ORT_CALL* KernelInfoGetConstantInput_tensor)(const KernelInfo* info, std::size_t index,
                                                                 int* is_constant,
                                                                 const Value** out) noexcept;  // slot 249
  Unused slots_250_to_268[18];
  Status*(QCOMPILER_ORT_CALL* ShapeInferContext_GetInputTypeShape)(const ShapeInferContext* context, std::size_t index,
                                                                   TensorTypeAndShapeInfo** out) noexcept;  // slot 268
  Unused slot_269[1];
  Status*(QCOMPILER_ORT_CALL* ShapeInferContext_SetOutputTypeShape)(
      const ShapeInferContext* context, std::size_t index, const TensorTypeAndShapeInfo* info) noexcept;  // slot 270
  Unused slots_271_to_274[3];
  Status*(QCOMPILER_ORT_CALL* KernelContext_ParallelFor)(const KernelContext* context,
                                                         void (*function)(void* data, std::size_t index),
                                                         std::size_t total, std::size_t batches,
                                                         void* data) noexcept;  // slot 274
};

struct ApiBase {
  const Api*(QCOMPILER_ORT_CALL* GetApi)(std::uint32_t version) noexcept;
  const char*(QCOMPILER_ORT_CALL* GetVersionString)() noexcept;
};

// An operator as ONNX Runtime sees it: a struct of callbacks, here as it stands in API version 18.
struct CustomOp {
  std::uint32_t version;
  void*(QCOMPILER_ORT_CALL* CreateKernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char*(QCOMPILER_ORT_CALL* GetName)(const CustomOp*);
  const char*(QCOMPILER_ORT_CALL* GetExecutionProviderType)(const CustomOp*);
  ElementType(QCOMPILER_ORT_CALL* GetInputType)(const CustomOp*, std::size_t index);
  std::size_t(QCOMPILER_ORT_CALL* GetInputTypeCount)(const CustomOp*);
  ElementType(QCOMPILER_ORT_CALL* GetOutputType)(const CustomOp*, std::size_t index);
  std::size_t(QCOMPILER_ORT_CALL* GetOutputTypeCount)(const CustomOp*);
  void(QCOMPILER_ORT_CALL* KernelCompute)(void* kernel, KernelContext*);
  void(QCOMPILER_ORT_CALL* KernelDestroy)(void* kernel);
  Characteristic(QCOMPILER_ORT_CALL* GetInputCharacteristic)(const CustomOp*, std::size_t index);
  Characteristic(QCOMPILER_ORT_CALL* GetOutputCharacteristic)(const CustomOp*, std::size_t index);
  MemoryType(QCOMPILER_ORT_CALL* GetInputMemoryType)(const CustomOp*, std::size_t index);
  int(QCOMPILER_ORT_CALL* GetVariadicInputMinArity)(const CustomOp*);
  int(QCOMPILER_ORT_CALL* GetVariadicInputHomogeneity)(const CustomOp*);
  int(QCOMPILER_ORT_CALL* GetVariadicOutputMinArity)(const CustomOp*);
  int(QCOMPILER_ORT_CALL* GetVariadicOutputHomogeneity)(const CustomOp*);
  Status*(QCOMPILER_ORT_CALL* CreateKernelV2)(const CustomOp*, const Api*, const KernelInfo*, void** kernel);
  Status*(QCOMPILER_ORT_CALL* KernelComputeV2)(void* kernel, KernelContext*);
  Status*(QCOMPILER_ORT_CALL* InferOutputShapeFn)(const CustomOp*, ShapeInferContext*);
  int(QCOMPILER_ORT_CALL* GetStartVersion)(const CustomOp*);
  int(QCOMPILER_ORT_CALL* GetEndVersion)(const CustomOp*);
  std::size_t(QCOMPILER_ORT_CALL* GetMayInplace)(int** input_index, int** output_index);
  void(QCOMPILER_ORT_CALL* ReleaseMayInplace)(int* input_index, int* output_index);
  std::size_t(QCOMPILER_ORT_CALL* GetAliasMap)(int** input_index, int** output_index);
  void(QCOMPILER_ORT_CALL* ReleaseAliasMap)(int* input_index, int* output_index);
};

}  // namespace qcompiler::ort
