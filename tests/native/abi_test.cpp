// Compiled, not run: abi.h against ONNX Runtime's own header. Every function stands at the same offset and takes the same
// arguments, every callback of an operator too, every number we name has the same value.

#include <onnxruntime_c_api.h>

#include <cstddef>
#include <type_traits>

#include "abi.h"

namespace ours = qcompiler::ort;

// Opaque types differ in name and enums in spelling: what a call passes is the kind of each argument.
template <typename T, typename = void>
struct Kind {
  using type = T;
};
template <typename T>
struct Kind<T, std::enable_if_t<std::is_enum_v<T>>> {
  using type = int;
};
template <typename T>
struct Kind<T*, void> {
  using type = void*;
};
template <typename T>
struct Kind<T* const, void> {
  using type = void*;
};

template <typename Function>
struct Signature;
template <typename Result, typename... Arguments>
struct Signature<Result (*)(Arguments...)> {
  using type = typename Kind<Result>::type(typename Kind<Arguments>::type...);
};
template <typename Result, typename... Arguments>
struct Signature<Result (*)(Arguments...) noexcept> : Signature<Result (*)(Arguments...)> {};

#define SAME(OURS, THEIRS, NAME)                                                              \
  static_assert(offsetof(OURS, NAME) == offsetof(THEIRS, NAME), #NAME " stands elsewhere");   \
  static_assert(std::is_same_v<typename Signature<decltype(OURS::NAME)>::type,                \
                               typename Signature<decltype(THEIRS::NAME)>::type>,             \
                #NAME " is called otherwise")
#define SLOT(NUMBER, NAME)                                                           \
  static_assert(offsetof(ours::Api, NAME) == (NUMBER) * sizeof(void*), #NAME);       \
  SAME(ours::Api, ::OrtApi, NAME)
#define CALLBACK(NAME) SAME(ours::CustomOp, ::OrtCustomOp, NAME)

SAME(ours::ApiBase, ::OrtApiBase, GetApi);
SAME(ours::ApiBase, ::OrtApiBase, GetVersionString);

SLOT(0, CreateStatus);
SLOT(2, GetErrorMessage);
SLOT(26, CreateCustomOpDomain);
SLOT(27, CustomOpDomain_Add);
SLOT(28, AddCustomOpDomain);
SLOT(51, GetTensorMutableData);
SLOT(58, SetTensorElementType);
SLOT(60, GetTensorElementType);
SLOT(61, GetDimensionsCount);
SLOT(62, GetDimensions);
SLOT(63, GetSymbolicDimensions);
SLOT(64, GetTensorShapeElementCount);
SLOT(65, GetTensorTypeAndShape);
SLOT(86, KernelInfoGetAttribute_int64);
SLOT(87, KernelInfoGetAttribute_string);
SLOT(88, KernelContext_GetInputCount);
SLOT(90, KernelContext_GetInput);
SLOT(91, KernelContext_GetOutput);
SLOT(93, ReleaseStatus);
SLOT(99, ReleaseTensorTypeAndShapeInfo);
SLOT(101, ReleaseCustomOpDomain);
SLOT(163, KernelInfoGetAttributeArray_int64);
SLOT(230, KernelInfo_GetInputCount);
SLOT(232, KernelInfo_GetInputName);
SLOT(233, KernelInfo_GetOutputName);
SLOT(244, KernelInfo_GetNodeName);
SLOT(249, KernelInfoGetConstantInput_tensor);
SLOT(268, ShapeInferContext_GetInputTypeShape);
SLOT(270, ShapeInferContext_SetOutputTypeShape);
SLOT(274, KernelContext_ParallelFor);
static_assert(sizeof(ours::Api) == 275 * sizeof(void*));

static_assert(offsetof(ours::CustomOp, version) == offsetof(::OrtCustomOp, version));
static_assert(std::is_same_v<decltype(ours::CustomOp::version), decltype(::OrtCustomOp::version)>);
CALLBACK(CreateKernel);
CALLBACK(GetName);
CALLBACK(GetExecutionProviderType);
CALLBACK(GetInputType);
CALLBACK(GetInputTypeCount);
CALLBACK(GetOutputType);
CALLBACK(GetOutputTypeCount);
CALLBACK(KernelCompute);
CALLBACK(KernelDestroy);
CALLBACK(GetInputCharacteristic);
CALLBACK(GetOutputCharacteristic);
CALLBACK(GetInputMemoryType);
CALLBACK(GetVariadicInputMinArity);
CALLBACK(GetVariadicInputHomogeneity);
CALLBACK(GetVariadicOutputMinArity);
CALLBACK(GetVariadicOutputHomogeneity);
CALLBACK(CreateKernelV2);
CALLBACK(KernelComputeV2);
CALLBACK(InferOutputShapeFn);
CALLBACK(GetStartVersion);
CALLBACK(GetEndVersion);
CALLBACK(GetMayInplace);
CALLBACK(ReleaseMayInplace);
CALLBACK(GetAliasMap);
CALLBACK(ReleaseAliasMap);
static_assert(sizeof(ours::CustomOp) == sizeof(::OrtCustomOp));

static_assert(static_cast<int>(ours::kFail) == ORT_FAIL);
static_assert(static_cast<int>(ours::kInvalidArgument) == ORT_INVALID_ARGUMENT);
static_assert(static_cast<int>(ours::kRuntimeException) == ORT_RUNTIME_EXCEPTION);
static_assert(static_cast<int>(ours::kUndefined) == ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED);
static_assert(static_cast<int>(ours::kFloat) == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
static_assert(static_cast<int>(ours::kUint8) == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
static_assert(static_cast<int>(ours::kInt8) == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8);
static_assert(static_cast<int>(ours::kInt32) == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32);
static_assert(static_cast<int>(ours::kInt64) == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
static_assert(static_cast<int>(ours::kFloat16) == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16);
static_assert(static_cast<int>(ours::kRequired) == INPUT_OUTPUT_REQUIRED);
static_assert(static_cast<int>(ours::kOptional) == INPUT_OUTPUT_OPTIONAL);
static_assert(static_cast<int>(ours::kMemoryDefault) == OrtMemTypeDefault);
static_assert(ours::kApiVersion <= ORT_API_VERSION);
