#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "ort_operator.h"

/* ---- callbacks that do not depend on the operator ---- */

static const signature *signature_of(const OrtCustomOp *op) { return ((const operator *)op)->signature; }
static const char *name_of(const OrtCustomOp *op) { return signature_of(op)->name; }
static const char *provider_of(const OrtCustomOp *op) { return (void)op, NULL; /* the CPU */ }
static size_t input_count(const OrtCustomOp *op) { return signature_of(op)->count; }
static size_t output_count(const OrtCustomOp *op) { return signature_of(op)->outputs; }
static int tensor_type(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, ORT_FLOAT; }
static int memory_type(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, ORT_MEMORY_DEFAULT; }
static int is_optional(const OrtCustomOp *op, size_t index) {
    return index < signature_of(op)->required ? ORT_INPUT_REQUIRED : ORT_INPUT_OPTIONAL;
}
static int is_optional_output(const OrtCustomOp *op, size_t index) {
    return (void)op, index ? ORT_INPUT_OPTIONAL : ORT_INPUT_REQUIRED;
}
static int one(const OrtCustomOp *op) { return (void)op, 1; }
static int any_version(const OrtCustomOp *op) { return (void)op, INT_MAX; } /* check_version() has a better error */

operator operator_of(const signature *signature, const OrtApi *api) {
    return (operator){
        .signature = signature,
        .api = api,
        .op =
            {
                .version = ORT_API_VERSION,
                .GetName = name_of,
                .GetExecutionProviderType = provider_of,
                .GetInputType = tensor_type,
                .GetInputTypeCount = input_count,
                .GetOutputType = tensor_type,
                .GetOutputTypeCount = output_count,
                .GetInputCharacteristic = is_optional,
                .GetOutputCharacteristic = is_optional_output,
                .GetInputMemoryType = memory_type,
                .GetVariadicInputMinArity = one,
                .GetVariadicInputHomogeneity = one,
                .GetVariadicOutputMinArity = one,
                .GetVariadicOutputHomogeneity = one,
                .GetStartVersion = one,
                .GetEndVersion = any_version,
            },
    };
}

void destroy_nothing(void *kernel) { (void)kernel; }

/* ---- errors ---- */

OrtStatus *invalid(const OrtApi *api, const signature *s, const char *format, ...) {
    char message[1000];
    int length = snprintf(message, sizeof message, "mmvmamba::%s: ", s->name);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message + length, sizeof message - (size_t)length, format, arguments);
    va_end(arguments);
    return ORT_CALL(api, CreateStatus)(ORT_INVALID_ARGUMENT, message);
}

OrtStatus *out_of_memory(const OrtApi *api, const signature *s) {
    char message[100];
    snprintf(message, sizeof message, "mmvmamba::%s: not enough memory for the temporary buffers.", s->name);
    return ORT_CALL(api, CreateStatus)(ORT_FAIL, message);
}

/* ---- attributes ---- */

OrtStatus *check_version(const OrtApi *api, const signature *s, const OrtKernelInfo *info) {
    int64_t version = 0;
    OrtStatus *missing = ORT_CALL(api, KernelInfoGetAttribute_int64)(info, "version", &version);
    if (missing) {
        ORT_CALL(api, ReleaseStatus)(missing);
        return invalid(api, s, "the attribute version is missing or not an integer; export the model again.");
    }
    if (version == OPERATORS_VERSION) return NULL;
    return invalid(api, s,
                   "the file contains version %lld of this operator, but the library implements version %d; export the "
                   "model again, or use the library of the mmvmamba that exported it.",
                   (long long)version, OPERATORS_VERSION);
}

OrtStatus *read_integer(const OrtApi *api, const signature *s, const OrtKernelInfo *info, const char *name,
                        int64_t *value) {
    OrtStatus *missing = ORT_CALL(api, KernelInfoGetAttribute_int64)(info, name, value);
    if (!missing) return NULL;
    ORT_CALL(api, ReleaseStatus)(missing);
    return invalid(api, s, "the attribute %s is missing or not an integer.", name);
}

OrtStatus *read_integers(const OrtApi *api, const signature *s, const OrtKernelInfo *info, const char *name,
                         int64_t **values, size_t *count) {
    *values = NULL;
    *count = 0;
    OrtStatus *status = ORT_CALL(api, KernelInfoGetAttributeArray_int64)(info, name, NULL, count);
    if (!status && *count) {
        *values = malloc(*count * sizeof **values);
        if (!*values) return out_of_memory(api, s);
        status = ORT_CALL(api, KernelInfoGetAttributeArray_int64)(info, name, *values, count);
    }
    if (!status && *count) return NULL;
    if (status) ORT_CALL(api, ReleaseStatus)(status);
    free(*values);
    *values = NULL;
    return invalid(api, s, "the attribute %s must be a list of at least one integer.", name);
}

/* ---- tensors ---- */

description describe(const int64_t *shape, size_t rank) {
    description d = {"("};
    if (rank > MAX_RANK) {
        snprintf(d.text, sizeof d.text, "of rank %zu", rank);
        return d;
    }
    for (size_t i = 0, at = 1; i < rank; i++)
        at += (size_t)snprintf(d.text + at, sizeof d.text - at, i ? ", %lld" : "%lld", (long long)shape[i]);
    strcat(d.text, rank == 1 ? ",)" : ")");
    return d;
}

static OrtStatus *read_shape(const OrtApi *api, const OrtTensorTypeAndShapeInfo *info, tensor *t) {
    TRY(ORT_CALL(api, GetDimensionsCount)(info, &t->rank));
    return t->rank > MAX_RANK ? NULL : ORT_CALL(api, GetDimensions)(info, t->shape, t->rank);
}

static OrtStatus *read_tensor(const OrtApi *api, const OrtValue *value, tensor *t) {
    void *data;
    OrtTensorTypeAndShapeInfo *info;
    TRY(ORT_CALL(api, GetTensorMutableData)((OrtValue *)value, &data));
    TRY(ORT_CALL(api, GetTensorTypeAndShape)(value, &info));
    t->data = data;
    OrtStatus *status = read_shape(api, info, t);
    ORT_CALL(api, ReleaseTensorTypeAndShapeInfo)(info);
    return status;
}

OrtStatus *read_inputs(const OrtApi *api, const signature *s, OrtKernelContext *context, tensor *inputs) {
    static const float empty[1]; /* onnxruntime may return null for a tensor without elements */
    size_t count;
    TRY(ORT_CALL(api, KernelContext_GetInputCount)(context, &count));
    for (size_t i = 0; i < s->count; i++) {
        const OrtValue *value = NULL;
        inputs[i] = (tensor){.name = s->inputs[i]};
        if (i < count) TRY(ORT_CALL(api, KernelContext_GetInput)(context, i, &value));
        if (value) {
            TRY(read_tensor(api, value, &inputs[i]));
            if (!inputs[i].data) inputs[i].data = empty;
        } else if (i < s->required) return invalid(api, s, "the input %s is missing.", inputs[i].name);
    }
    return NULL;
}

OrtStatus *create_output(const OrtApi *api, OrtKernelContext *context, size_t index, const int64_t *shape, size_t rank,
                         float **data) {
    OrtValue *value;
    void *memory;
    TRY(ORT_CALL(api, KernelContext_GetOutput)(context, index, shape, rank, &value));
    TRY(ORT_CALL(api, GetTensorMutableData)(value, &memory));
    *data = memory;
    return NULL;
}

OrtStatus *check_shape(const OrtApi *api, const signature *s, const tensor *t, const int64_t *shape, size_t rank,
                       const char *context) {
    if (!t->data || (t->rank == rank && !memcmp(t->shape, shape, rank * sizeof *shape))) return NULL;
    return invalid(api, s, "%s has the shape %s, expected %s for %s.", t->name, describe(t->shape, t->rank).text,
                   describe(shape, rank).text, context);
}

OrtStatus *read_rows(const OrtApi *api, const signature *s, const tensor *x, int64_t *rows, int64_t *channels) {
    if (!x->rank || x->rank > MAX_RANK || !x->shape[x->rank - 1])
        return invalid(api, s, "%s is %s, expected 1 to %d dimensions and at least one channel.", x->name,
                       describe(x->shape, x->rank).text, MAX_RANK);
    *channels = x->shape[x->rank - 1];
    *rows = 1;
    for (size_t i = 0; i + 1 < x->rank; i++) *rows *= x->shape[i];
    return NULL;
}

OrtStatus *check_channels(const OrtApi *api, const signature *s, const tensor *t, const tensor *x) {
    char context[200];
    snprintf(context, sizeof context, "%s %s", x->name, describe(x->shape, x->rank).text);
    return check_shape(api, s, t, &x->shape[x->rank - 1], 1, context);
}

scan_map map_of(const void *data, const int64_t *shape, size_t rank) {
    int64_t channels = shape[rank - 1], row = shape[rank - 2] * channels, map = shape[rank - 3] * row;
    return (scan_map){
        .data = (void *)data,
        .dtype = SCAN_FLOAT32,
        .batch = rank == 5 ? shape[1] * map : map,
        .traversal = rank == 5 ? map : 0,
        .row = row,
        .col = channels,
    };
}

/* ---- shape inference ---- */

OrtStatus *inferred_input(const OrtApi *api, const OrtShapeInferContext *context, size_t index, inferred *shape) {
    OrtTensorTypeAndShapeInfo *info; /* belongs to the context */
    *shape = (inferred){0};
    TRY(ORT_CALL(api, ShapeInferContext_GetInputTypeShape)(context, index, &info));
    size_t rank;
    TRY(ORT_CALL(api, GetDimensionsCount)(info, &rank));
    if (rank > MAX_RANK) return NULL;
    shape->rank = rank;
    TRY(ORT_CALL(api, GetDimensions)(info, shape->size, rank));
    return ORT_CALL(api, GetSymbolicDimensions)(info, shape->name, rank);
}

static OrtStatus *set_output(const OrtApi *api, const OrtShapeInferContext *context, size_t index,
                             const inferred *shape, OrtTensorTypeAndShapeInfo *info) {
    TRY(ORT_CALL(api, SetTensorElementType)(info, ORT_FLOAT));
    TRY(ORT_CALL(api, SetDimensions)(info, shape->size, shape->rank));
    TRY(ORT_CALL(api, SetSymbolicDimensions)(info, (const char **)shape->name, shape->rank));
    return ORT_CALL(api, ShapeInferContext_SetOutputTypeShape)(context, index, info);
}

/* The interface cannot express a size that has neither a value nor a name, so such an output has no inferred shape. */
OrtStatus *infer_output(const OrtApi *api, const OrtShapeInferContext *context, size_t index, const inferred *shape) {
    for (size_t i = 0; i < shape->rank; i++)
        if (shape->size[i] < 0 && !*shape->name[i]) return NULL;
    OrtTensorTypeAndShapeInfo *info;
    TRY(ORT_CALL(api, CreateTensorTypeAndShapeInfo)(&info));
    OrtStatus *status = set_output(api, context, index, shape, info);
    ORT_CALL(api, ReleaseTensorTypeAndShapeInfo)(info);
    return status;
}

OrtStatus *infer_shape_of_first_input(const OrtCustomOp *op, OrtShapeInferContext *context) {
    const operator *o = (const operator *)op;
    inferred x;
    TRY(inferred_input(o->api, context, 0, &x));
    for (size_t i = 0; x.rank && i < o->signature->outputs; i++) TRY(infer_output(o->api, context, i, &x));
    return NULL;
}

/* ---- threads ---- */

typedef struct {
    void (*job)(void *, int64_t);
    void *data;
} session_job;

static void run_session_job(void *data, size_t index) {
    const session_job *j = data;
    j->job(j->data, (int64_t)index);
}

static void run_on_session(const scan_pool *pool, int64_t count, void (*job)(void *, int64_t), void *data) {
    session_pool *p = (session_pool *)pool;
    session_job j = {job, data};
    if (!p->status) /* 0: the threads take one job after the other */
        p->status = ORT_CALL(p->api, KernelContext_ParallelFor)(p->context, run_session_job, (size_t)count, 0, &j);
}

session_pool session_pool_of(const OrtApi *api, const OrtKernelContext *context) {
    return (session_pool){.pool = {run_on_session}, .api = api, .context = context};
}
