/* The functions of onnxruntime that demo/onnxruntime_c/classify.c calls, at their places in OrtApi, because the wheel of
 * onnxruntime contains no header. test_abi.py compares it with the real header. */
#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 17

enum { ORT_LOGGING_LEVEL_ERROR = 3 };
enum { OrtArenaAllocator = 1 };
enum { OrtMemTypeDefault = 0 };
enum { ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1 };

typedef struct OrtStatus OrtStatus;
typedef struct OrtEnv OrtEnv;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtSession OrtSession;
typedef struct OrtAllocator OrtAllocator;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtValue OrtValue;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;

typedef struct {
    void *before_2[2];
    const char *(*GetErrorMessage)(const OrtStatus *);
    OrtStatus *(*CreateEnv)(int, const char *, OrtEnv **);
    void *before_7[7 - 4];
    OrtStatus *(*CreateSession)(const OrtEnv *, const char *, const OrtSessionOptions *, OrtSession **);
    void *before_9[1];
    OrtStatus *(*Run)(OrtSession *, const void *, const char *const *, const OrtValue *const *, size_t,
                      const char *const *, size_t, OrtValue **);
    OrtStatus *(*CreateSessionOptions)(OrtSessionOptions **);
    void *before_37[37 - 11];
    OrtStatus *(*SessionGetOutputName)(const OrtSession *, size_t, OrtAllocator *, char **);
    void *before_49[49 - 38];
    OrtStatus *(*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo *, void *, size_t, const int64_t *, size_t, int,
                                                 OrtValue **);
    void *before_51[1];
    OrtStatus *(*GetTensorMutableData)(OrtValue *, void **);
    void *before_64[64 - 52];
    OrtStatus *(*GetTensorShapeElementCount)(const OrtTensorTypeAndShapeInfo *, size_t *);
    OrtStatus *(*GetTensorTypeAndShape)(const OrtValue *, OrtTensorTypeAndShapeInfo **);
    void *before_69[69 - 66];
    OrtStatus *(*CreateCpuMemoryInfo)(int, int, OrtMemoryInfo **);
    void *before_76[76 - 70];
    OrtStatus *(*AllocatorFree)(OrtAllocator *, void *);
    void *before_78[1];
    OrtStatus *(*GetAllocatorWithDefaultOptions)(OrtAllocator **);
    void *before_92[92 - 79];
    void (*ReleaseEnv)(OrtEnv *);
    void (*ReleaseStatus)(OrtStatus *);
    void (*ReleaseMemoryInfo)(OrtMemoryInfo *);
    void (*ReleaseSession)(OrtSession *);
    void (*ReleaseValue)(OrtValue *);
    void *before_99[99 - 97];
    void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo *);
    void (*ReleaseSessionOptions)(OrtSessionOptions *);
    void *before_228[228 - 101];
    OrtStatus *(*RegisterCustomOpsLibrary_V2)(OrtSessionOptions *, const char *);
} OrtApi;

typedef struct {
    const OrtApi *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

const OrtApiBase *OrtGetApiBase(void);
