/* mmvmamba::BiasGelu, the operation bias_gelu of rowwise.h.
 *
 * Inputs: x (..., c), bias (c). Output: the shape of x. Attribute: version.
 */
#include "ort_operator.h"

enum { X, BIAS, INPUTS };

static const char *const NAMES[INPUTS] = {"x", "bias"};
static const signature GELU = {"BiasGelu", NAMES, INPUTS, INPUTS, 1};

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    (void)op;
    *kernel = (void *)api;
    return check_version(api, &GELU, info);
}

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
    const OrtApi *api = kernel;
    tensor in[INPUTS];
    int64_t rows, channels;
    float *y;
    TRY(read_inputs(api, &GELU, context, in));
    TRY(read_rows(api, &GELU, &in[X], &rows, &channels));
    TRY(check_channels(api, &GELU, &in[BIAS], &in[X]));
    TRY(create_output(api, context, 0, in[X].shape, in[X].rank, &y));
    session_pool session = session_pool_of(api, context);
    if (rows)
        bias_gelu(&(gelu_args){
            .pool = &session.pool, .rows = rows, .channels = channels, .x = in[X].data, .bias = in[BIAS].data, .y = y});
    return session.status;
}

operator bias_gelu_operator(const OrtApi *api) {
    operator o = operator_of(&GELU, api);
    o.op.CreateKernelV2 = create;
    o.op.KernelDestroy = destroy_nothing;
    o.op.KernelComputeV2 = compute;
    o.op.InferOutputShapeFn = infer_shape_of_first_input;
    return o;
}
