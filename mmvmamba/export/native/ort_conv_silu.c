/* mmvmamba::ConvSiLU, the depthwise convolution with SiLU of conv.h in float32.
 *
 * Inputs: x (b, H, W, e), weight (K, e, rows, columns) and optionally bias (K, e). Output: (b, H, W, e) for one
 * kernel, else (b, K, H, W, e). Attributes: version, left (for each of the K kernels, its number of columns to the left
 * of a position).
 */
#include <stdio.h>

#include "ort_operator.h"

enum { X, WEIGHT, BIAS, INPUTS };

static const char *const NAMES[INPUTS] = {"x", "weight", "bias"};
static const signature CONV = {"ConvSiLU", NAMES, INPUTS, BIAS, 1};

typedef struct {
    const OrtApi *api;
    int64_t *left;
    size_t kernels;
} conv_kernel;

static void destroy(void *kernel) {
    free(((conv_kernel *)kernel)->left);
    free(kernel);
}

static OrtStatus *read_attributes(const OrtKernelInfo *info, conv_kernel *k) {
    TRY(check_version(k->api, &CONV, info));
    return read_integers(k->api, &CONV, info, "left", &k->left, &k->kernels);
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    (void)op;
    conv_kernel *k = calloc(1, sizeof *k);
    if (!k) return out_of_memory(api, &CONV);
    k->api = api;
    OrtStatus *status = read_attributes(info, k);
    if (status) destroy(k);
    else *kernel = k;
    return status;
}

static OrtStatus *check(const conv_kernel *k, const tensor *in) {
    const OrtApi *api = k->api;
    const tensor *x = &in[X], *weight = &in[WEIGHT];
    description x_shape = describe(x->shape, x->rank), weight_shape = describe(weight->shape, weight->rank);
    if (x->rank != 4) return invalid(api, &CONV, "x is %s, expected (b, H, W, e).", x_shape.text);
    if (!x->shape[1] || !x->shape[2] || !x->shape[3])
        return invalid(api, &CONV, "x is %s, expected at least one position and one channel.", x_shape.text);
    if (weight->rank != 4 || !weight->shape[2] || !weight->shape[3])
        return invalid(api, &CONV, "weight is %s, expected (K, e, rows, columns) with at least one row and column.",
                       weight_shape.text);
    int64_t K = (int64_t)k->kernels, e = x->shape[3], rows = weight->shape[2], columns = weight->shape[3];
    char context[200];
    snprintf(context, sizeof context, "x %s and %lld kernels", x_shape.text, (long long)K);
    TRY(check_shape(api, &CONV, weight, (int64_t[]){K, e, rows, columns}, 4, context));
    TRY(check_shape(api, &CONV, &in[BIAS], (int64_t[]){K, e}, 2, context));
    for (int64_t i = 0; i < K; i++)
        if (k->left[i] < 0 || k->left[i] >= columns)
            return invalid(api, &CONV, "the attribute left contains %lld, expected 0 to %lld for weight %s.",
                           (long long)k->left[i], (long long)columns - 1, weight_shape.text);
    return NULL;
}

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
    const conv_kernel *k = kernel;
    const OrtApi *api = k->api;
    tensor in[INPUTS];
    TRY(read_inputs(api, &CONV, context, in));
    TRY(check(k, in));
    const int64_t *x = in[X].shape, *weight = in[WEIGHT].shape;
    int64_t shape[] = {x[0], weight[0], x[1], x[2], x[3]};
    float *y;
    if (weight[0] == 1) TRY(create_output(api, context, 0, x, 4, &y));
    else TRY(create_output(api, context, 0, shape, 5, &y));
    if (!x[0]) return NULL;
    session_pool session = session_pool_of(api, context);
    int failed = conv_forward(&(conv_args){
        .batch = x[0],
        .height = x[1],
        .width = x[2],
        .channels = x[3],
        .kernels = weight[0],
        .rows = weight[2],
        .columns = weight[3],
        .threads = 1,
        .pool = &session.pool,
        .left = k->left,
        .x = map_of(in[X].data, x, 4),
        .y = map_of(y, shape, 5),
        .weight = in[WEIGHT].data,
        .bias = in[BIAS].data,
    });
    return failed ? out_of_memory(api, &CONV) : session.status;
}

static OrtStatus *infer(const OrtCustomOp *op, OrtShapeInferContext *context) {
    const OrtApi *api = ((const operator *)op)->api;
    inferred x, weight;
    TRY(inferred_input(api, context, X, &x));
    TRY(inferred_input(api, context, WEIGHT, &weight));
    if (x.rank != 4 || weight.rank != 4 || weight.size[0] < 0) return NULL; /* compute() raises an error, if any */
    if (weight.size[0] == 1) return infer_output(api, context, 0, &x);
    inferred y = {
        .rank = 5,
        .size = {x.size[0], weight.size[0], x.size[1], x.size[2], x.size[3]},
        .name = {x.name[0], weight.name[0], x.name[1], x.name[2], x.name[3]},
    };
    return infer_output(api, context, 0, &y);
}

operator conv_silu_operator(const OrtApi *api) {
    operator o = operator_of(&CONV, api);
    o.op.CreateKernelV2 = create;
    o.op.KernelDestroy = destroy;
    o.op.KernelComputeV2 = compute;
    o.op.InferOutputShapeFn = infer;
    return o;
}
