/* mmvmamba::AddNorm, the operation add_norm of rowwise.h: a layer norm or RMS norm, with the additions before it.
 *
 * Inputs: x (..., c), weight (c), and optionally shift (c), residual (the shape of x) and bias (c). Outputs: y and
 * optionally sum, of the shape of x. Attributes: version, epsilon, rms (0: layer norm, 1: RMS norm).
 */
#include "ort_operator.h"

enum { X, WEIGHT, SHIFT, RESIDUAL, BIAS, INPUTS };

static const char *const NAMES[INPUTS] = {"x", "weight", "shift", "residual", "bias"};
static const signature NORM = {"AddNorm", NAMES, INPUTS, SHIFT, 2};

typedef struct {
    const OrtApi *api;
    int64_t rms;
    float epsilon;
} norm_kernel;

static OrtStatus *read_attributes(const OrtKernelInfo *info, norm_kernel *k) {
    TRY(check_version(k->api, &NORM, info));
    TRY(read_integer(k->api, &NORM, info, "rms", &k->rms));
    OrtStatus *missing = ORT_CALL(k->api, KernelInfoGetAttribute_float)(info, "epsilon", &k->epsilon);
    if (!missing) return NULL;
    ORT_CALL(k->api, ReleaseStatus)(missing);
    return invalid(k->api, &NORM, "the attribute epsilon is missing or not a float.");
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    (void)op;
    norm_kernel *k = calloc(1, sizeof *k);
    if (!k) return out_of_memory(api, &NORM);
    k->api = api;
    OrtStatus *status = read_attributes(info, k);
    if (status) free(k);
    else *kernel = k;
    return status;
}

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
    const norm_kernel *k = kernel;
    const OrtApi *api = k->api;
    tensor in[INPUTS];
    int64_t rows, channels;
    size_t outputs;
    float *y, *sum = NULL;
    TRY(read_inputs(api, &NORM, context, in));
    TRY(read_rows(api, &NORM, &in[X], &rows, &channels));
    TRY(check_shape(api, &NORM, &in[RESIDUAL], in[X].shape, in[X].rank, "x"));
    for (int i = 0; i < INPUTS; i++)
        if (i != X && i != RESIDUAL) TRY(check_channels(api, &NORM, &in[i], &in[X]));
    TRY(ORT_CALL(api, KernelContext_GetOutputCount)(context, &outputs));
    if (outputs > 1 && !in[RESIDUAL].data && !in[BIAS].data)
        return invalid(api, &NORM, "the node has the output sum, but nothing is added to x.");
    TRY(create_output(api, context, 0, in[X].shape, in[X].rank, &y));
    if (outputs > 1) TRY(create_output(api, context, 1, in[X].shape, in[X].rank, &sum));
    session_pool session = session_pool_of(api, context);
    if (rows)
        add_norm(&(norm_args){
            .pool = &session.pool,
            .rows = rows,
            .channels = channels,
            .x = in[X].data,
            .residual = in[RESIDUAL].data,
            .bias = in[BIAS].data,
            .weight = in[WEIGHT].data,
            .shift = in[SHIFT].data,
            .epsilon = k->epsilon,
            .rms = k->rms,
            .sum = sum,
            .y = y,
        });
    return session.status;
}

operator add_norm_operator(const OrtApi *api) {
    operator o = operator_of(&NORM, api);
    o.op.CreateKernelV2 = create;
    o.op.KernelDestroy = free;
    o.op.KernelComputeV2 = compute;
    o.op.InferOutputShapeFn = infer_shape_of_first_input;
    return o;
}
