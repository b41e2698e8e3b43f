/* The part of onnxruntime's binary interface that the operators use.
 *
 * OrtApi is a table of function pointers. New versions of onnxruntime only append to it, so a function has the same index
 * in all versions that contain it. GetApi(version) returns null if onnxruntime is older than `version`. The operators
 * request version 17 (onnxruntime 1.17), the first one with KernelContext_ParallelFor. OrtCustomOp contains the version
 * for which it was filled, and its layout below is that of version 17.
 *
 * Only facts about the interface are repeated here: indices, argument types, and values of enumerations, which are ints.
 * tests/test_ort_operators/test_abi.py compares them with onnxruntime_c_api.h.
 */
#ifndef MMVMAMBA_ORT_ABI_H
#define MMVMAMBA_ORT_ABI_H

#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 17

enum { ORT_FLOAT = 1 };                                  /* ONNXTensorElementDataType */
enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };         /* OrtErrorCode */
enum { ORT_INPUT_REQUIRED = 0, ORT_INPUT_OPTIONAL = 1 }; /* OrtCustomOpInputOutputCharacteristic */
enum { ORT_MEMORY_DEFAULT = 0 };                         /* OrtMemType */

typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtShapeInferContext OrtShapeInferContext;
typedef struct OrtCustomOp OrtCustomOp;

/* Index, result, name and arguments. A function that returns OrtStatus * returns null on success. */
#define ORT_FUNCTIONS(FUNCTION)                                                                                        \
    FUNCTION(0, OrtStatus *, CreateStatus, (int code, const char *message))                                            \
    FUNCTION(26, OrtStatus *, CreateCustomOpDomain, (const char *, OrtCustomOpDomain **))                              \
    FUNCTION(27, OrtStatus *, CustomOpDomain_Add, (OrtCustomOpDomain *, const OrtCustomOp *))                          \
    FUNCTION(28, OrtStatus *, AddCustomOpDomain, (OrtSessionOptions *, OrtCustomOpDomain *))                           \
    FUNCTION(51, OrtStatus *, GetTensorMutableData, (OrtValue *, void **))                                             \
    FUNCTION(57, OrtStatus *, CreateTensorTypeAndShapeInfo, (OrtTensorTypeAndShapeInfo **))                            \
    FUNCTION(58, OrtStatus *, SetTensorElementType, (OrtTensorTypeAndShapeInfo *, int))                                \
    FUNCTION(59, OrtStatus *, SetDimensions, (OrtTensorTypeAndShapeInfo *, const int64_t *, size_t))                   \
    FUNCTION(61, OrtStatus *, GetDimensionsCount, (const OrtTensorTypeAndShapeInfo *, size_t *))                       \
    FUNCTION(62, OrtStatus *, GetDimensions, (const OrtTensorTypeAndShapeInfo *, int64_t *, size_t))                   \
    FUNCTION(63, OrtStatus *, GetSymbolicDimensions, (const OrtTensorTypeAndShapeInfo *, const char **, size_t))       \
    FUNCTION(65, OrtStatus *, GetTensorTypeAndShape, (const OrtValue *, OrtTensorTypeAndShapeInfo **))                 \
    FUNCTION(85, OrtStatus *, KernelInfoGetAttribute_float, (const OrtKernelInfo *, const char *, float *))            \
    FUNCTION(86, OrtStatus *, KernelInfoGetAttribute_int64, (const OrtKernelInfo *, const char *, int64_t *))          \
    FUNCTION(88, OrtStatus *, KernelContext_GetInputCount, (const OrtKernelContext *, size_t *))                       \
    FUNCTION(89, OrtStatus *, KernelContext_GetOutputCount, (const OrtKernelContext *, size_t *))                      \
    FUNCTION(90, OrtStatus *, KernelContext_GetInput, (const OrtKernelContext *, size_t, const OrtValue **))           \
    FUNCTION(91, OrtStatus *, KernelContext_GetOutput,                                                                 \
             (OrtKernelContext *, size_t, const int64_t *, size_t, OrtValue **))                                       \
    FUNCTION(93, void, ReleaseStatus, (OrtStatus *))                                                                   \
    FUNCTION(99, void, ReleaseTensorTypeAndShapeInfo, (OrtTensorTypeAndShapeInfo *))                                   \
    FUNCTION(101, void, ReleaseCustomOpDomain, (OrtCustomOpDomain *))                                                  \
    FUNCTION(163, OrtStatus *, KernelInfoGetAttributeArray_int64,                                                      \
             (const OrtKernelInfo *, const char *, int64_t *, size_t *))                                               \
    FUNCTION(271, OrtStatus *, SetSymbolicDimensions, (OrtTensorTypeAndShapeInfo *, const char **, size_t))            \
    FUNCTION(268, OrtStatus *, ShapeInferContext_GetInputTypeShape,                                                    \
             (const OrtShapeInferContext *, size_t, OrtTensorTypeAndShapeInfo **))                                     \
    FUNCTION(270, OrtStatus *, ShapeInferContext_SetOutputTypeShape,                                                   \
             (const OrtShapeInferContext *, size_t, const OrtTensorTypeAndShapeInfo *))                                \
    FUNCTION(274, OrtStatus *, KernelContext_ParallelFor,                                                              \
             (const OrtKernelContext *, void (*job)(void *, size_t), size_t count, size_t batches, void *data))

#define ORT_INDEX(index, result, name, arguments) ORT_INDEX_##name = index,
#define ORT_TYPE(index, result, name, arguments) typedef result(*ort_##name) arguments;

enum { ORT_FUNCTIONS(ORT_INDEX) };
ORT_FUNCTIONS(ORT_TYPE)

typedef struct {
    void (*functions[1])(void);
} OrtApi;

/* ORT_CALL(api, CreateStatus)(...) */
#define ORT_CALL(api, name) ((ort_##name)((api)->functions[ORT_INDEX_##name]))

typedef struct {
    const OrtApi *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

struct OrtCustomOp {
    uint32_t version;
    void *(*CreateKernel)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *); /* unused: CreateKernelV2 */
    const char *(*GetName)(const OrtCustomOp *);
    const char *(*GetExecutionProviderType)(const OrtCustomOp *);
    int (*GetInputType)(const OrtCustomOp *, size_t);
    size_t (*GetInputTypeCount)(const OrtCustomOp *);
    int (*GetOutputType)(const OrtCustomOp *, size_t);
    size_t (*GetOutputTypeCount)(const OrtCustomOp *);
    void (*KernelCompute)(void *, OrtKernelContext *); /* unused: KernelComputeV2 */
    void (*KernelDestroy)(void *);
    int (*GetInputCharacteristic)(const OrtCustomOp *, size_t);
    int (*GetOutputCharacteristic)(const OrtCustomOp *, size_t);
    int (*GetInputMemoryType)(const OrtCustomOp *, size_t);
    int (*GetVariadicInputMinArity)(const OrtCustomOp *);
    int (*GetVariadicInputHomogeneity)(const OrtCustomOp *);
    int (*GetVariadicOutputMinArity)(const OrtCustomOp *);
    int (*GetVariadicOutputHomogeneity)(const OrtCustomOp *);
    OrtStatus *(*CreateKernelV2)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *, void **);
    OrtStatus *(*KernelComputeV2)(void *, OrtKernelContext *);
    OrtStatus *(*InferOutputShapeFn)(const OrtCustomOp *, OrtShapeInferContext *);
    int (*GetStartVersion)(const OrtCustomOp *);
    int (*GetEndVersion)(const OrtCustomOp *);
};

#endif
