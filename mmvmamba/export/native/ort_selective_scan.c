/* mmvmamba::SelectiveScan2D, the scan of scan.h in float32.
 *
 * Inputs: x (b, H, W, d) or (b, K, H, W, d); projected (b, H, W, K c) or (b, K, H, W, c), whose c = r + 2n channels are dt,
 * B and C; A (K, d, n); and optionally D (K, d), dt_bias (K, d) and dt_weight (K, d, r). Without dt_weight, r is d.
 * Output: (b, H, W, d). Attributes: version, codes (one traversal code per traversal), softplus (0 or 1).
 */
#include <stdio.h>
#include <string.h>

#include "ort_operator.h"

enum { X, PROJECTED, A, D, DT_BIAS, DT_WEIGHT, INPUTS };

static const char *const NAMES[INPUTS] = {"x", "projected", "A", "D", "dt_bias", "dt_weight"};
static const signature SCAN = {"SelectiveScan2D", NAMES, INPUTS, D, 1};

typedef struct {
    const OrtApi *api;
    int64_t *codes, softplus;
    size_t traversals;
} scan_kernel;

static void destroy(void *kernel) {
    free(((scan_kernel *)kernel)->codes);
    free(kernel);
}

static OrtStatus *read_attributes(const OrtKernelInfo *info, scan_kernel *k) {
    TRY(check_version(k->api, &SCAN, info));
    TRY(read_integers(k->api, &SCAN, info, "codes", &k->codes, &k->traversals));
    for (size_t i = 0; i < k->traversals; i++)
        if (k->codes[i] < 0 || k->codes[i] > (SCAN_COLUMN | SCAN_REVERSED))
            return invalid(k->api, &SCAN, "the attribute codes contains %lld, expected 0 to %d.",
                           (long long)k->codes[i], SCAN_COLUMN | SCAN_REVERSED);
    return read_integer(k->api, &SCAN, info, "softplus", &k->softplus);
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    (void)op;
    scan_kernel *k = calloc(1, sizeof *k);
    if (!k) return out_of_memory(api, &SCAN);
    k->api = api;
    OrtStatus *status = read_attributes(info, k);
    if (status) destroy(k);
    else *kernel = k;
    return status;
}

static int64_t rank_of(const tensor *in) {
    const tensor *weight = &in[DT_WEIGHT];
    return !weight->data ? in[X].shape[in[X].rank - 1] : weight->rank == 3 ? weight->shape[2] : 0;
}

static OrtStatus *check(const scan_kernel *k, const tensor *in) {
    const OrtApi *api = k->api;
    const tensor *x = &in[X];
    if (x->rank != 4 && x->rank != 5)
        return invalid(api, &SCAN, "x is %s, expected (b, H, W, d) or (b, K, H, W, d).",
                       describe(x->shape, x->rank).text);
    if (in[A].rank != 3)
        return invalid(api, &SCAN, "A is %s, expected (K, d, n).", describe(in[A].shape, in[A].rank).text);
    const int64_t *last = x->shape + x->rank - 3; /* H, W, d */
    if (!last[0] || !last[1] || !last[2])
        return invalid(api, &SCAN, "x is %s, expected at least one position and one channel.",
                       describe(x->shape, x->rank).text);
    int64_t K = (int64_t)k->traversals, b = x->shape[0], H = last[0], W = last[1], d = last[2], n = in[A].shape[2];
    int64_t r = rank_of(in), c = r + 2 * n;
    if (!n || !r)
        return invalid(api, &SCAN, "A is %s and dt_weight %s, expected a state size and a rank of at least 1.",
                       describe(in[A].shape, 3).text, describe(in[DT_WEIGHT].shape, in[DT_WEIGHT].rank).text);
    char context[450];
    snprintf(context, sizeof context, "x %s, A %s, a rank of %lld and %lld traversals",
             describe(x->shape, x->rank).text, describe(in[A].shape, 3).text, (long long)r, (long long)K);
    TRY(check_shape(api, &SCAN, &in[A], (int64_t[]){K, d, n}, 3, context));
    if (x->rank == 5) TRY(check_shape(api, &SCAN, x, (int64_t[]){b, K, H, W, d}, 5, context));
    int64_t side_by_side[] = {b, H, W, K * c}, stacked[] = {b, K, H, W, c};
    if (in[PROJECTED].rank == 4) TRY(check_shape(api, &SCAN, &in[PROJECTED], side_by_side, 4, context));
    else TRY(check_shape(api, &SCAN, &in[PROJECTED], stacked, 5, context));
    TRY(check_shape(api, &SCAN, &in[D], (int64_t[]){K, d}, 2, context));
    TRY(check_shape(api, &SCAN, &in[DT_BIAS], (int64_t[]){K, d}, 2, context));
    return check_shape(api, &SCAN, &in[DT_WEIGHT], (int64_t[]){K, d, r}, 3, context);
}

/* The maps of dt, B and C for all traversals, starting at `channel` of `projected`. */
static scan_map channels_from(const tensor *projected, int64_t traversals, int64_t channel) {
    scan_map map = map_of(projected->data, projected->shape, projected->rank);
    if (projected->rank == 4) map.traversal = map.col / traversals;
    map.data = (float *)map.data + channel;
    return map;
}

static void remove_padding(const float *from, int64_t padded, int64_t positions, int64_t channels, float *to) {
    for (int64_t i = 0; i < positions; i++)
        memcpy(to + i * channels, from + i * padded, (size_t)channels * sizeof(float));
}

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
    const scan_kernel *k = kernel;
    const OrtApi *api = k->api;
    tensor in[INPUTS];
    TRY(read_inputs(api, &SCAN, context, in));
    TRY(check(k, in));
    const tensor *x = &in[X];
    int64_t b = x->shape[0], H = x->shape[x->rank - 3], W = x->shape[x->rank - 2], d = x->shape[x->rank - 1];
    int64_t K = (int64_t)k->traversals, n = in[A].shape[2], r = rank_of(in);
    float *y;
    TRY(create_output(api, context, 0, (int64_t[]){b, H, W, d}, 4, &y));
    if (!b) return NULL;

    int64_t padded = (d + SCAN_CHANNEL_UNIT - 1) / SCAN_CHANNEL_UNIT * SCAN_CHANNEL_UNIT, positions = b * H * W;
    float *output = padded == d ? y : malloc((size_t)(positions * padded) * sizeof(float));
    if (!output) return out_of_memory(api, &SCAN);
    session_pool session = session_pool_of(api, context);
    int failed = scan_forward(&(scan_args){
        .batch = b,
        .height = H,
        .width = W,
        .channels = d,
        .states = n,
        .rank = in[DT_WEIGHT].data ? r : 0,
        .traversals = K,
        .shared_x = x->rank == 4,
        .softplus = k->softplus != 0,
        /* onnxruntime does not tell its number of threads. With 1, each task scans its chunks in one pass, which is the
         * fastest schedule on few cores. The tasks run in parallel in any case. */
        .threads = 1,
        .pool = &session.pool,
        .codes = k->codes,
        .x = map_of(x->data, x->shape, x->rank),
        .dt = channels_from(&in[PROJECTED], K, 0),
        .B = channels_from(&in[PROJECTED], K, r),
        .C = channels_from(&in[PROJECTED], K, r + n),
        .A = in[A].data,
        .D = in[D].data,
        .bias = in[DT_BIAS].data,
        .weight = in[DT_WEIGHT].data,
        .y = output,
    });
    if (output != y) {
        if (!failed) remove_padding(output, padded, positions, d, y);
        free(output);
    }
    return failed ? out_of_memory(api, &SCAN) : session.status;
}

static OrtStatus *infer(const OrtCustomOp *op, OrtShapeInferContext *context) {
    const OrtApi *api = ((const operator *)op)->api;
    inferred x;
    TRY(inferred_input(api, context, X, &x));
    if (x.rank == 5) { /* (b, K, H, W, d) -> (b, H, W, d) */
        x.rank = 4;
        memmove(x.size + 1, x.size + 2, 3 * sizeof *x.size);
        memmove(x.name + 1, x.name + 2, 3 * sizeof *x.name);
    } else if (x.rank != 4) return NULL; /* compute() raises the error */
    return infer_output(api, context, 0, &x);
}

operator selective_scan_operator(const OrtApi *api) {
    operator o = operator_of(&SCAN, api);
    o.op.CreateKernelV2 = create;
    o.op.KernelDestroy = destroy;
    o.op.KernelComputeV2 = compute;
    o.op.InferOutputShapeFn = infer;
    return o;
}
