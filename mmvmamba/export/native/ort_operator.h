/* What the operators share: errors, attributes, tensors, shape inference, and onnxruntime's threads. */
#ifndef MMVMAMBA_ORT_OPERATOR_H
#define MMVMAMBA_ORT_OPERATOR_H

#include <stdlib.h>

#include "conv.h"
#include "ort_abi.h"
#include "rowwise.h"
#include "scan.h"

/* The version of the operators' inputs, attributes and results. The exporter writes it into each node as the attribute
 * `version`, so a file from an incompatible version raises an error. See onnx_operators.py. */
#define OPERATORS_VERSION 2

#define MAX_RANK 5

/* Name, inputs and number of outputs of an operator. The inputs after the first `required` ones and the outputs after
 * the first one are optional. */
typedef struct {
    const char *name;
    const char *const *inputs;
    size_t count, required, outputs;
} signature;

/* An operator as registered with onnxruntime. */
typedef struct {
    OrtCustomOp op; /* first, because callbacks receive its address */
    const signature *signature;
    const OrtApi *api;
} operator;

operator selective_scan_operator(const OrtApi *api);
operator conv_silu_operator(const OrtApi *api);
operator bias_gelu_operator(const OrtApi *api);
operator add_norm_operator(const OrtApi *api);

/* Callbacks that do not depend on the operator. */
operator operator_of(const signature *signature, const OrtApi *api);
void destroy_nothing(void *kernel);

/* ---- errors ---- */

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        OrtStatus *status_ = (call);                                                                                   \
        if (status_) return status_;                                                                                   \
    } while (0)

/* Creates an error whose message starts with the name of the operator. */
__attribute__((format(printf, 3, 4))) OrtStatus *invalid(const OrtApi *api, const signature *s, const char *format,
                                                         ...);
OrtStatus *out_of_memory(const OrtApi *api, const signature *s);

/* ---- attributes ---- */

OrtStatus *check_version(const OrtApi *api, const signature *s, const OrtKernelInfo *info);
OrtStatus *read_integer(const OrtApi *api, const signature *s, const OrtKernelInfo *info, const char *name,
                        int64_t *value);

/* Reads a list of integers into memory that the caller frees. */
OrtStatus *read_integers(const OrtApi *api, const signature *s, const OrtKernelInfo *info, const char *name,
                         int64_t **values, size_t *count);

/* ---- tensors ---- */

typedef struct {
    const char *name;
    const float *data; /* null for an input that the node does not have */
    size_t rank;
    int64_t shape[MAX_RANK]; /* if the rank is not larger */
} tensor;

/* Reads all inputs of the node, each in float32 and contiguous. */
OrtStatus *read_inputs(const OrtApi *api, const signature *s, OrtKernelContext *context, tensor *inputs);
OrtStatus *create_output(const OrtApi *api, OrtKernelContext *context, size_t index, const int64_t *shape, size_t rank,
                         float **data);

/* Returns an error unless the tensor is absent or has this shape. `context` completes the sentence. */
OrtStatus *check_shape(const OrtApi *api, const signature *s, const tensor *t, const int64_t *shape, size_t rank,
                       const char *context);

/* The rows and channels of x, (..., channels), as a matrix; an error unless there is at least one channel. */
OrtStatus *read_rows(const OrtApi *api, const signature *s, const tensor *x, int64_t *rows, int64_t *channels);

/* Returns an error unless the tensor is absent or has one value for each channel of x. */
OrtStatus *check_channels(const OrtApi *api, const signature *s, const tensor *t, const tensor *x);

typedef struct {
    char text[120];
} description;
description describe(const int64_t *shape, size_t rank); /* "(2, 3)" */

/* The map (b, [K,] H, W, c) as an argument of the kernels. */
scan_map map_of(const void *data, const int64_t *shape, size_t rank);

/* ---- shape inference ---- */

/* A shape of known, named and unknown sizes. Names belong to onnxruntime. */
typedef struct {
    size_t rank; /* 0: unknown */
    int64_t size[MAX_RANK];
    const char *name[MAX_RANK];
} inferred;

OrtStatus *inferred_input(const OrtApi *api, const OrtShapeInferContext *context, size_t index, inferred *shape);
OrtStatus *infer_output(const OrtApi *api, const OrtShapeInferContext *context, size_t index, const inferred *shape);

/* For operators whose outputs all have the shape of the first input. */
OrtStatus *infer_shape_of_first_input(const OrtCustomOp *op, OrtShapeInferContext *context);

/* ---- threads ---- */

/* The threads of the session. `status` is the error of the first call that failed. */
typedef struct {
    scan_pool pool; /* first */
    const OrtApi *api;
    const OrtKernelContext *context;
    OrtStatus *status;
} session_pool;

session_pool session_pool_of(const OrtApi *api, const OrtKernelContext *context);

#endif
