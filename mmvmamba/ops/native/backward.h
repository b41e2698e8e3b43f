/* The backward scan, with g_t = dL/dh_t walked against the traversal:
 *
 *     g_t = C_t dy_t + a_{t+1} g_{t+1},                   a_t = exp(delta_t A)
 *     dC_t = sum_d dy_t h_t,    dB_t = sum_d g_t u_t,     u_t = delta_t x_t
 *     dx_t = delta_t <B_t, g_t> + D dy_t
 *     ddelta_t = x_t <B_t, g_t> + <A, g_t a_t h_{t-1}>,   dA = sum_t delta_t g_t a_t h_{t-1}
 *
 * A task owns a block of channels of one image. Per traversal, a first sweep keeps the state at the start of every tile
 * of at most TILE steps; the second one goes through the tiles backwards and rebuilds the states inside each in L1.
 * What sums over channels or images is written as one part per task and added up in a fixed order at the end: no
 * atomics, and the same bits for any number of threads.
 */
#define TILE 16
#define BACKWARD_COLUMN_PANEL 1024
#define BACKWARD_MAX_STATES 4

/* A tile: the run, its gradients, and where its share of dB and dC goes: (states, all steps) of this traversal, in scan
 * order. */
typedef struct {
    run r;
    const float *grad_y;
    float *grad_u, *grad_delta; /* <B, g> and log2(e) <A, g a h> */
    float *grad_A, *grad_B, *grad_C;
    int64_t part_stride;
    int accumulate; /* grad_B and grad_C already hold the sums of other vectors of the block */
} tile;

/* Adds or stores the lane sums of `steps` vectors, of TILE; the others are zero. */
INLINE void put_lane_sums(const vf *v, int64_t steps, float *to, int accumulate) {
    for (int first = 0; first < TILE; first += LANES) {
        int64_t count = MIN(LANES, steps - first);
        if (count <= 0) return;
        vf sums = sum_lanes(v + first);
        if (accumulate) {
            vf old = zero();
            memcpy(&old, to + first, (size_t)count * sizeof(float));
            sums += old;
        }
        store_part(to + first, sums, count);
    }
}

INLINE void adjoint_tile(const tile *q, int count, int add, const float *start, float *g_carried) {
    vf decay[BACKWARD_MAX_STATES][TILE], kept[BACKWARD_MAX_STATES][TILE]; /* a_t and a_t h_{t-1} */
    vf parts_B[BACKWARD_MAX_STATES][TILE], parts_C[BACKWARD_MAX_STATES][TILE];
    vf a[BACKWARD_MAX_STATES], h[BACKWARD_MAX_STATES], g[BACKWARD_MAX_STATES], grad_A[BACKWARD_MAX_STATES];
    const run *r = &q->r;
    for (int j = 0; j < count; j++) {
        a[j] = load(r->A + j * r->states_stride);
        h[j] = load(start + j * LANES);
        g[j] = load(g_carried + j * LANES);
        grad_A[j] = zero();
    }
    for (int64_t t = 0; t < r->steps; t++) {
        vf delta = load(r->delta + t * LANES), u = load(r->u + t * LANES), dy = load(q->grad_y + t * LANES);
        for (int j = 0; j < count; j++) {
            decay[j][t] = exp2_(delta * a[j]);
            kept[j][t] = decay[j][t] * h[j];
            h[j] = fma_(decay[j][t], h[j], u * splat(r->B[t * r->B_step + j]));
            parts_C[j][t] = dy * h[j];
        }
    }
    for (int64_t t = r->steps - 1; t >= 0; t--) {
        vf delta = load(r->delta + t * LANES), u = load(r->u + t * LANES), dy = load(q->grad_y + t * LANES);
        vf grad_u = add ? load(q->grad_u + t * LANES) : zero(),
           grad_delta = add ? load(q->grad_delta + t * LANES) : zero();
        for (int j = 0; j < count; j++) {
            g[j] = fma_(dy, splat(r->C[t * r->C_step + j]), g[j]);
            vf through = g[j] * kept[j][t];
            grad_u = fma_(g[j], splat(r->B[t * r->B_step + j]), grad_u);
            grad_delta = fma_(through, a[j], grad_delta);
            grad_A[j] = fma_(through, delta, grad_A[j]);
            parts_B[j][t] = g[j] * u;
            g[j] = decay[j][t] * g[j];
        }
        store(q->grad_u + t * LANES, grad_u);
        store(q->grad_delta + t * LANES, grad_delta);
    }
    for (int j = 0; j < count; j++) {
        for (int64_t t = r->steps; t < TILE; t++) parts_B[j][t] = parts_C[j][t] = zero();
        put_lane_sums(parts_B[j], r->steps, q->grad_B + j * q->part_stride, q->accumulate);
        put_lane_sums(parts_C[j], r->steps, q->grad_C + j * q->part_stride, q->accumulate);
        store(g_carried + j * LANES, g[j]);
        float *to = q->grad_A + j * r->states_stride;
        store(to, load(to) + grad_A[j]);
    }
}

#define ADJOINT_TILE(count)                                                                                            \
    static void adjoint_tile_##count(const tile *q, int add, const float *start, float *g) {                           \
        if (add) adjoint_tile(q, count, 1, start, g);                                                                  \
        else adjoint_tile(q, count, 0, start, g);                                                                      \
    }
ADJOINT_TILE(1)
ADJOINT_TILE(2)
ADJOINT_TILE(4)

static void adjoint_states(tile q, int64_t states, const float *start, float *g) {
    for (int64_t j = 0; j < states;) {
        int64_t count = BACKWARD_MAX_STATES;
        while (count > states - j) count /= 2;
        switch (count) {
            case 1:
                adjoint_tile_1(&q, j > 0, start + j * LANES, g + j * LANES);
                break;
            case 2:
                adjoint_tile_2(&q, j > 0, start + j * LANES, g + j * LANES);
                break;
            default:
                adjoint_tile_4(&q, j > 0, start + j * LANES, g + j * LANES);
        }
        j += count;
        q.r.A += count * q.r.states_stride;
        q.grad_A += count * q.r.states_stride;
        q.r.B += count;
        q.r.C += count;
        q.grad_B += count * q.part_stride;
        q.grad_C += count * q.part_stride;
    }
}

/* Sums over positions and images that a task adds to; laid out like the parameters of the plan, one set per image. */
typedef struct {
    float *A, *bias, *D, *weight;
} parameter_grads;

static parameter_grads parameter_grads_at(const plan *p, float *memory, int64_t b, int64_t k, int64_t channel) {
    const scan_args *s = p->s;
    int64_t rows = s->states + 2 + s->rank;
    float *at = memory + (b * s->traversals + k) * rows * p->width + channel;
    return (parameter_grads){at, at + s->states * p->width, at + (s->states + 1) * p->width,
                             at + (s->states + 2) * p->width};
}

/* dx and dz, z = dt + bias before softplus, in memory order; dz replaces grad_delta in scratch, and goes to grad_dt if
 * given. */
static void finish_panel(const panel *pan, view x, view dy, view grad_x, view grad_dt, const float *delta,
                         const float *slope, const float *grad_u, float *grad_delta, const float *skip, int first,
                         int skips, const parameter_grads *grads) {
    int o = pan->slow, i = !pan->slow;
    int64_t line[2] = {pan->pitch * LANES, LANES};
    vf D = load(skip), bias_sum = zero(), D_sum = zero();
    vf short_bias = zero(), short_D = zero(); /* sums of sums of about 32: less rounding */
    int64_t summed = 0;
    for (int64_t row = 0; row < pan->size[o]; row++) {
        for (int64_t col = 0; col < pan->size[i]; col++) {
            int64_t t = row * line[o] + col * line[i];
            vf gu = load(grad_u + t), vx = load(x.at + row * x.stride[o] + col * x.stride[i]);
            vf dx = gu * load(delta + t), dz = fma_(load(grad_delta + t), splat(LN2), gu * vx) * load(slope + t);
            if (skips) {
                vf vy = load(dy.at + row * dy.stride[o] + col * dy.stride[i]);
                dx = fma_(D, vy, dx);
                short_D = fma_(vx, vy, short_D);
            }
            float *to = grad_x.at + row * grad_x.stride[o] + col * grad_x.stride[i];
            store(to, first ? dx : load(to) + dx);
            short_bias += dz;
            store(grad_delta + t, dz);
            if (grad_dt.at) store(grad_dt.at + row * grad_dt.stride[o] + col * grad_dt.stride[i], dz);
        }
        summed += pan->size[i];
        if (summed >= 32 || row == pan->size[o] - 1) {
            bias_sum += short_bias;
            D_sum += short_D;
            short_bias = short_D = zero();
            summed = 0;
        }
    }
    store(grads->bias, load(grads->bias) + bias_sum);
    store(grads->D, load(grads->D) + D_sum);
}

/* dweight (r, channels) += low^T dz, for `count` ranks from r on */
INLINE void weight_grads(const panel *pan, view low, const float *dz, int64_t width, int64_t r, int count,
                         float *grad_weight) {
    vf sum[8];
    for (int j = 0; j < count; j++) sum[j] = zero();
    for (int64_t line = 0; line < pan->size[0]; line++)
        for (int64_t t = 0; t < pan->size[1]; t++) {
            const float *at = low.at + line * low.stride[0] + t * low.stride[1] + r;
            vf z = load(dz + (line * pan->pitch + t) * LANES);
            for (int j = 0; j < count; j++) sum[j] = fma_(z, splat(at[j]), sum[j]);
        }
    for (int j = 0; j < count; j++) {
        float *to = grad_weight + (r + j) * width;
        store(to, load(to) + sum[j]);
    }
}

/* dlow (positions, r) [+]= dz weight, a vector of ranks at a time, for `count` positions. weight: (LANES, ranks padded)
 */
INLINE void low_grads(int count, const float *const *dz, const float *weight, int64_t ranks, int64_t rank,
                      float *const *to, int accumulate) {
    for (int64_t r = 0; r < rank; r += LANES) {
        int64_t part = MIN(LANES, rank - r);
        vf sum[GROUP];
        for (int j = 0; j < count; j++) {
            sum[j] = zero();
            if (accumulate) memcpy(&sum[j], to[j] + r, (size_t)part * sizeof(float));
        }
        for (int64_t c = 0; c < LANES; c++) {
            vf w = load(weight + c * ranks + r);
            for (int j = 0; j < count; j++) sum[j] = fma_(splat(dz[j][c]), w, sum[j]);
        }
        for (int j = 0; j < count; j++) store_part(to[j] + r, sum[j], part);
    }
}

static void low_rank_panel(const plan *p, const panel *pan, view low, view grad_low, const float *dz,
                           const float *weight, int64_t ranks, float *grad_weight, int accumulate) {
    int64_t rank = p->s->rank, r = 0;
    for (; r + 8 <= rank; r += 8) weight_grads(pan, low, dz, p->width, r, 8, grad_weight);
    for (; r + 2 <= rank; r += 2) weight_grads(pan, low, dz, p->width, r, 2, grad_weight);
    for (; r < rank; r++) weight_grads(pan, low, dz, p->width, r, 1, grad_weight);

    const float *from[GROUP];
    float *to[GROUP];
    for (int64_t line = 0; line < pan->size[0]; line++)
        for (int64_t t = 0; t < pan->size[1];) {
            int count = GROUP;
            while (count > pan->size[1] - t) count /= 2;
            for (int j = 0; j < count; j++) {
                from[j] = dz + (line * pan->pitch + t + j) * LANES;
                to[j] = grad_low.at + line * grad_low.stride[0] + (t + j) * grad_low.stride[1];
            }
            if (count == GROUP) low_grads(GROUP, from, weight, ranks, rank, to, accumulate);
            else if (count == 4) low_grads(4, from, weight, ranks, rank, to, accumulate);
            else if (count == 2) low_grads(2, from, weight, ranks, rank, to, accumulate);
            else low_grads(1, from, weight, ranks, rank, to, accumulate);
            t += count;
        }
}

/* Copies a panel into scratch in scan order, unless conversion has put it there. */
static void gather(const panel *p, view *from, float *scratch) {
    if (from->at == scratch) return;
    int o = p->slow, i = !p->slow;
    view to = scratch_view(p, scratch, LANES);
    for (int64_t row = 0; row < p->size[o]; row++)
        for (int64_t col = 0; col < p->size[i]; col++)
            store(to.at + row * to.stride[o] + col * to.stride[i],
                  load(from->at + row * from->stride[o] + col * from->stride[i]));
    *from = to;
}

static int64_t tiles_in(const panel *pan) { return pan->size[0] * ((pan->size[1] + TILE - 1) / TILE); }

typedef struct {
    const plan *p;
    float *parts_B, *parts_C; /* (b, blocks, K, n, L), time in scan order */
    float *parts_low;         /* (b, blocks, K, L, r), natural order */
    float *parameters;        /* see parameter_grads */
    float *weight;            /* (K, width, ranks): dt_weight with its ranks padded to vectors */
    int64_t ranks;
} backward_plan;

/* Panels of scratch: delta, u, slope, grad_u, grad_delta, grad_y, two for inputs to convert. */
#define BACKWARD_PANELS 8

static void backward_traversal(const backward_plan *bp, int64_t b, int64_t block, int64_t k, float *scratch,
                               float *starts) {
    const plan *p = bp->p;
    const scan_args *s = p->s;
    walk w = walk_of(s, s->codes[k], p->column_panel);
    int64_t n = s->states, L = s->height * s->width, size = p->panel_floats, vectors = vectors_in(p, block);
    float *delta = scratch, *u = delta + size, *slope = u + size, *grad_u = slope + size, *grad_delta = grad_u + size,
          *grad_y = grad_delta + size, *pack_x = grad_y + size, *pack_dt = pack_x + size, *h = pack_dt + size,
          *g = h + vectors * n * LANES;
    memset(h, 0, (size_t)(2 * vectors * n * LANES) * sizeof(float)); /* and g */

    int64_t tiles = 0; /* starts: (tiles, vectors, n, LANES), a panel's tiles together per vector */
    for (int64_t index = 0; index < w.panels; index++) {
        panel pan = panel_at(&w, index);
        view B = map_view(&w, &pan, &s->B, b, k);
        for (int64_t v = 0; v < vectors; v++) {
            int64_t channel = (block * p->vectors + v) * LANES;
            view x = channel_view(&w, &pan, s, &s->x, b, k, channel, pack_x);
            view dt = s->rank ? map_view(&w, &pan, &s->dt, b, k)
                              : channel_view(&w, &pan, s, &s->dt, b, k, channel, pack_dt);
            compute_delta(p, &pan, x, dt, k, channel, delta, size, 0);
            float *start = starts + (tiles * vectors + v * tiles_in(&pan)) * n * LANES;
            for (int64_t line = 0; line < pan.size[0]; line++)
                for (int64_t t = 0; t < pan.size[1]; t += TILE, start += n * LANES) {
                    int64_t at = (line * pan.pitch + t) * LANES;
                    memcpy(start, h + v * n * LANES, (size_t)(n * LANES) * sizeof(float));
                    run r = {MIN(TILE, pan.size[1] - t),
                             p->width,
                             p->A + k * n * p->width + channel,
                             delta + at,
                             u + at,
                             B.at + line * B.stride[0] + t * B.stride[1],
                             NULL,
                             B.stride[1],
                             0,
                             NULL};
                    r.C = r.B; /* not read */
                    scan_states(r, n, 0, h + v * n * LANES, NULL);
                }
        }
        tiles += tiles_in(&pan);
    }

    for (int64_t index = w.panels - 1; index >= 0; index--) {
        panel pan = panel_at(&w, index);
        tiles -= tiles_in(&pan);
        view B = map_view(&w, &pan, &s->B, b, k), C = map_view(&w, &pan, &s->C, b, k);
        for (int64_t v = 0; v < vectors; v++) {
            int64_t channel = (block * p->vectors + v) * LANES, of_lines = (pan.size[1] + TILE - 1) / TILE;
            parameter_grads grads = parameter_grads_at(p, bp->parameters, b, k, channel);
            view x = channel_view(&w, &pan, s, &s->x, b, k, channel, pack_x);
            view dt = s->rank ? map_view(&w, &pan, &s->dt, b, k)
                              : channel_view(&w, &pan, s, &s->dt, b, k, channel, pack_dt);
            view dy = channel_view(&w, &pan, s, &s->grad_y, b, k, channel, grad_y);
            compute_delta(p, &pan, x, dt, k, channel, delta, size, 2 * size);
            gather(&pan, &dy, grad_y);
            float *start = starts + (tiles * vectors + v * tiles_in(&pan)) * n * LANES;
            for (int64_t line = pan.size[0] - 1; line >= 0; line--)
                for (int64_t i = of_lines - 1; i >= 0; i--) {
                    int64_t t = i * TILE, at = (line * pan.pitch + t) * LANES;
                    int64_t time = (pan.first[0] + line) * w.size[1] + pan.first[1] + t;
                    int64_t part = ((b * p->blocks + block) * s->traversals + k) * n * L + time;
                    tile q = {
                        .r = {MIN(TILE, pan.size[1] - t), p->width, p->A + k * n * p->width + channel, delta + at,
                              u + at, B.at + line * B.stride[0] + t * B.stride[1],
                              C.at + line * C.stride[0] + t * C.stride[1], B.stride[1], C.stride[1], NULL},
                        .grad_y = grad_y + at,
                        .grad_u = grad_u + at,
                        .grad_delta = grad_delta + at,
                        .grad_A = grads.A,
                        .grad_B = bp->parts_B + part,
                        .grad_C = bp->parts_C + part,
                        .part_stride = L,
                        .accumulate = v > 0,
                    };
                    adjoint_states(q, n, start + (line * of_lines + i) * n * LANES, g + v * n * LANES);
                }
            int64_t row = s->width * p->width, map = s->height * row;
            view grad_x = view_of(&w, &pan, s->grad_x + (s->shared_x ? b : b * s->traversals + k) * map + channel, row,
                                  p->width);
            view grad_dt = {0};
            if (!s->rank)
                grad_dt = view_of(&w, &pan, s->grad_dt + (b * s->traversals + k) * map + channel, row, p->width);
            finish_panel(&pan, x, dy, grad_x, grad_dt, delta, slope, grad_u, grad_delta,
                         p->skip + k * p->width + channel, k == 0 || !s->shared_x, has_skip(p, k), &grads);
            if (s->rank) {
                float *low = bp->parts_low + ((b * p->blocks + block) * s->traversals + k) * L * s->rank;
                low_rank_panel(p, &pan, dt, view_of(&w, &pan, low, s->width * s->rank, s->rank), grad_delta,
                               bp->weight + (k * p->width + channel) * bp->ranks, bp->ranks, grads.weight, v > 0);
            }
        }
    }
}

/* grad_B or grad_C (b, K, H, W, n) of one image and traversal from the parts of its channel blocks. */
static void sum_state_parts(const plan *p, const float *parts, float *to, int64_t b, int64_t k) {
    const scan_args *s = p->s;
    int64_t n = s->states, L = s->height * s->width, K = s->traversals;
    walk w = walk_of(s, s->codes[k], p->column_panel);
    panel whole = {.size = {w.size[0], w.size[1]}, .slow = w.slow};
    view out = view_of(&w, &whole, to + (b * K + k) * L * n, s->width * n, n);
    for (int64_t line = 0; line < w.size[0]; line++)
        for (int64_t t = 0; t < w.size[1]; t++)
            for (int64_t j = 0; j < n; j++) {
                const float *part = parts + ((b * p->blocks * K + k) * n + j) * L + line * w.size[1] + t;
                float sum = 0;
                for (int64_t block = 0; block < p->blocks; block++) sum += part[block * K * n * L];
                out.at[line * out.stride[0] + t * out.stride[1] + j] = sum;
            }
}

static void sum_low_parts(const plan *p, const float *parts, int64_t b, int64_t k) {
    const scan_args *s = p->s;
    int64_t size = s->height * s->width * s->rank, K = s->traversals;
    const float *part = parts + (b * p->blocks * K + k) * size;
    float *to = s->grad_dt + (b * K + k) * size;
    memcpy(to, part, (size_t)size * sizeof(float));
    for (int64_t block = 1; block < p->blocks; block++)
        for (int64_t i = 0; i < size; i++) to[i] += part[block * K * size + i];
}

/* Adds up the images and hands the rows of traversal k out. */
static void sum_parameter_grads(const plan *p, float *memory, int64_t k) {
    const scan_args *s = p->s;
    int64_t n = s->states, r = s->rank, width = p->width, rows = (n + 2 + r) * width;
    float *sum = memory + k * rows;
    for (int64_t b = 1; b < s->batch; b++)
        for (int64_t i = 0; i < rows; i++) sum[i] += memory[(b * s->traversals + k) * rows + i];
    memcpy(s->grad_A + k * n * width, sum, (size_t)(n * width) * sizeof(float));
    memcpy(s->grad_bias + k * width, sum + n * width, (size_t)width * sizeof(float));
    memcpy(s->grad_D + k * width, sum + (n + 1) * width, (size_t)width * sizeof(float));
    if (r) memcpy(s->grad_weight + k * r * width, sum + (n + 2) * width, (size_t)(r * width) * sizeof(float));
}

static int backward(const scan_args *s) {
    plan p = plan_of(s, BACKWARD_COLUMN_PANEL);
    int64_t n = s->states, K = s->traversals, L = s->height * s->width, tasks = s->batch * p.blocks;
    int64_t threads = MAX(1, MIN(s->threads, tasks)), ranks = (s->rank + LANES - 1) / LANES * LANES, tiles = 0;
    for (int64_t k = 0; k < K; k++) {
        walk w = walk_of(s, s->codes[k], p.column_panel);
        tiles = MAX(tiles, w.panels * w.panel[0] * ((w.panel[1] + TILE - 1) / TILE));
    }
    int64_t scratch_floats = BACKWARD_PANELS * p.panel_floats + (2 + tiles) * p.vectors * n * LANES;
    int64_t state_parts = tasks * K * n * L, low_parts = tasks * K * L * s->rank;
    int64_t image_grads = parameter_floats(&p), weight = K * p.width * ranks;
    size_t floats = (size_t)(parameter_floats(&p) + s->batch * image_grads + weight + threads * scratch_floats +
                             2 * state_parts + low_parts);
    float *memory = aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64);
    if (!memory) return 1;
    backward_plan bp = {.p = &p, .ranks = ranks};
    bp.parameters = lay_out_parameters(&p, memory);
    bp.weight = bp.parameters + s->batch * image_grads;
    memset(bp.parameters, 0, (size_t)(s->batch * image_grads + weight) * sizeof(float)); /* and weight */
    float *scratches = bp.weight + weight;
    bp.parts_B = scratches + threads * scratch_floats;
    bp.parts_C = bp.parts_B + state_parts;
    bp.parts_low = bp.parts_C + state_parts;
    for (int64_t i = 0; s->rank && i < K * s->channels; i++)
        memcpy(bp.weight + (i / s->channels * p.width + i % s->channels) * ranks, s->weight + i * s->rank,
               (size_t)s->rank * sizeof(float));

#pragma omp parallel num_threads((int)threads)
    {
        float *scratch = scratches + thread_index() * scratch_floats;
        float *starts = scratch + scratch_floats - tiles * p.vectors * n * LANES;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++)
            for (int64_t k = 0; k < K; k++)
                backward_traversal(&bp, task / p.blocks, task % p.blocks, k, scratch, starts);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < s->batch * K; i++) {
            sum_state_parts(&p, bp.parts_B, s->grad_B, i / K, i % K);
            sum_state_parts(&p, bp.parts_C, s->grad_C, i / K, i % K);
            if (s->rank) sum_low_parts(&p, bp.parts_low, i / K, i % K);
        }
#pragma omp for
        for (int64_t k = 0; k < K; k++) sum_parameter_grads(&p, bp.parameters, k);
    }
    for (int64_t k = 1; s->shared_x && k < K;
         k++) /* the same for all traversals of a shared map, computed with the first */
        memcpy(s->grad_D + k * p.width, s->grad_D, (size_t)p.width * sizeof(float));
    free(memory);
    return 0;
}
