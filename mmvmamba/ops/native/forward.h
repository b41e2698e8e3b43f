/* The forward scan.
 *
 * A task owns a block of channels of one image and runs the traversals one after the other. Where a shape makes too few
 * tasks for a large machine, a traversal is also cut into chunks, each scanned from state zero to know its end state
 * and its sum of delta: a chunk maps its start state h to exp(A sum(delta)) h + end. With enough tasks for the threads,
 * one sweep carries both the true and the chunk's local state; else one parallel pass finds the local ends, and a
 * second one starts from true states. Both schedules do the same arithmetic, so the result does not depend on the
 * number of threads.
 */
#include <stdlib.h>

/* A straight run of steps: scratch in scan order, B and C in place. */
typedef struct {
    int64_t steps, states_stride; /* between the decay rates of successive states */
    const float *A, *delta, *u, *B, *C;
    int64_t B_step, C_step;
    float *y;
} run;

/* `count` states over a run, held in registers. `h` is the true state; `local` starts from zero at the chunk's start.
 */
INLINE void scan_run(const run *r, int count, int emit, int track, int add, float *h, float *local) {
    vf a[8], s[8], l[8];
    for (int j = 0; j < count; j++) {
        a[j] = load(r->A + j * r->states_stride);
        s[j] = load(h + j * LANES);
        if (track) l[j] = load(local + j * LANES);
    }
    const float *B = r->B, *C = r->C;
    for (int64_t t = 0; t < r->steps; t++, B += r->B_step, C += r->C_step) {
        vf delta = load(r->delta + t * LANES), u = load(r->u + t * LANES);
        vf y = zero();
        for (int j = 0; j < count; j++) {
            vf decay = exp2_(delta * a[j]), input = u * splat(B[j]);
            s[j] = fma_(decay, s[j], input);
            if (track) l[j] = fma_(decay, l[j], input);
            if (emit) y = j ? fma_(s[j], splat(C[j]), y) : s[j] * splat(C[j]);
        }
        if (emit) store(r->y + t * LANES, add ? y + load(r->y + t * LANES) : y);
    }
    for (int j = 0; j < count; j++) {
        store(h + j * LANES, s[j]);
        if (track) store(local + j * LANES, l[j]);
    }
}

/* The specialisations: powers of two states, with or without output and tracking. */
#define SCAN_RUN(count)                                                                                                \
    static void scan_run_##count(const run *r, int emit, int add, float *h, float *local) {                            \
        if (!emit) scan_run(r, count, 0, 0, 0, h, NULL);                                                               \
        else if (!local && !add) scan_run(r, count, 1, 0, 0, h, NULL);                                                 \
        else if (!local) scan_run(r, count, 1, 0, 1, h, NULL);                                                         \
        else scan_run(r, count, 1, 1, add, h, local);                                                                  \
    }
SCAN_RUN(1)
SCAN_RUN(2)
SCAN_RUN(4)
SCAN_RUN(8)

#define MAX_STATES (LANES == 16 ? 8 : 4) /* as many as the registers hold */

/* All states of one vector of channels over a run. */
static void scan_states(run r, int64_t states, int emit, float *h, float *local) {
    for (int64_t j = 0; j < states;) {
        int64_t count = MAX_STATES;
        while (count > states - j) count /= 2;
        float *l = local ? local + j * LANES : NULL;
        switch (count) {
            case 1:
                scan_run_1(&r, emit, j > 0, h + j * LANES, l);
                break;
            case 2:
                scan_run_2(&r, emit, j > 0, h + j * LANES, l);
                break;
            case 4:
                scan_run_4(&r, emit, j > 0, h + j * LANES, l);
                break;
            default:
                scan_run_8(&r, emit, j > 0, h + j * LANES, l);
        }
        j += count;
        r.A += count * r.states_stride;
        r.B += count;
        r.C += count;
    }
}

/* y = [y +] scanned [+ skip x] */
static void merge(const panel *p, view y, view x, const float *scanned, const float *skip, int first) {
    int o = p->slow, i = !p->slow;
    int64_t line[2] = {p->pitch * LANES, LANES};
    vf D = skip ? load(skip) : zero();
    for (int64_t row = 0; row < p->size[o]; row++) {
        const float *from = scanned + row * line[o], *px = x.at + row * x.stride[o];
        float *to = y.at + row * y.stride[o];
        for (int64_t col = 0; col < p->size[i]; col++, from += line[i], px += x.stride[i], to += y.stride[i]) {
            vf v = load(from);
            if (skip) v = fma_(D, load(px), v);
            store(to, first ? v : load(to) + v);
        }
    }
}

static void add_deltas(const panel *p, const float *delta, float *sum) {
    vf total = zero();
    for (int64_t line = 0; line < p->size[0]; line++)
        for (int64_t t = 0; t < p->size[1]; t++) total += load(delta + (line * p->pitch + t) * LANES);
    store(sum, load(sum) + total);
}

/* Panels [first, last) of traversal k for one channel block. h, local: (vectors, n, LANES); sum: (vectors, LANES).
 * Writes y if `emit`; keeps track of the chunk's own map if `sum`. */
static void forward_panels(const plan *p, int64_t b, int64_t block, int64_t k, int64_t first, int64_t last, int emit,
                           float *h, float *local, float *sum, float *scratch) {
    const scan_args *s = p->s;
    walk w = walk_of(s, s->codes[k], p->column_panel);
    float *delta = scratch, *scanned = delta + 2 * p->panel_floats, *pack_x = scanned + p->panel_floats,
          *pack_dt = pack_x + p->panel_floats;
    int64_t n = s->states;
    for (int64_t index = first; index < last; index++) {
        panel pan = panel_at(&w, index);
        view B = map_view(&w, &pan, &s->B, b, k), C = map_view(&w, &pan, &s->C, b, k);
        for (int64_t v = 0; v < vectors_in(p, block); v++) {
            int64_t channel = (block * p->vectors + v) * LANES;
            view x = channel_view(&w, &pan, s, &s->x, b, k, channel, pack_x);
            view dt = s->rank ? map_view(&w, &pan, &s->dt, b, k)
                              : channel_view(&w, &pan, s, &s->dt, b, k, channel, pack_dt);
            compute_delta(p, &pan, x, dt, k, channel, delta, p->panel_floats, 0);
            if (sum) add_deltas(&pan, delta, sum + v * LANES);
            for (int64_t line = 0; line < pan.size[0]; line++) {
                int64_t at = line * pan.pitch * LANES;
                run r = {pan.size[1],
                         p->width,
                         p->A + k * n * p->width + channel,
                         delta + at,
                         delta + p->panel_floats + at,
                         B.at + line * B.stride[0],
                         C.at + line * C.stride[0],
                         B.stride[1],
                         C.stride[1],
                         scanned + at};
                scan_states(r, n, emit, h + v * n * LANES, local ? local + v * n * LANES : NULL);
            }
            if (emit) {
                view y = view_of(&w, &pan, s->y + b * s->height * s->width * p->width + channel, s->width * p->width,
                                 p->width);
                merge(&pan, y, x, scanned, has_skip(p, k) ? p->skip + k * p->width + channel : NULL, k == 0);
            }
        }
    }
}

/* The start state of the next chunk. */
static void carry_over(const plan *p, int64_t block, int64_t k, const float *start, const float *local,
                       const float *sum, float *next) {
    int64_t n = p->s->states;
    for (int64_t v = 0; v < vectors_in(p, block); v++)
        for (int64_t j = 0; j < n; j++) {
            const float *A = p->A + (k * n + j) * p->width + (block * p->vectors + v) * LANES;
            int64_t at = (v * n + j) * LANES;
            store(next + at, fma_(exp2_(load(A) * load(sum + v * LANES)), load(start + at), load(local + at)));
        }
}

/* Chunks a traversal is cut into: of at least 512 steps, and only for shapes with few tasks. With many states tracking
 * the local ones costs more, so these are cut later. */
static int64_t chunks_of(const plan *p) {
    const scan_args *s = p->s;
    int64_t tasks = s->batch * (p->width / CHANNEL_UNIT), wanted = s->states == 1 ? 16 : 4;
    int64_t panels = INT64_MAX;
    for (int64_t k = 0; k < s->traversals; k++) panels = MIN(panels, walk_of(s, s->codes[k], p->column_panel).panels);
    return MAX(1, MIN(MIN(wanted / tasks, s->height * s->width / 512), panels));
}

static int forward(const scan_args *s) {
    plan p = plan_of(s, COLUMN_PANEL);
    int64_t tasks = s->batch * p.blocks, chunks = chunks_of(&p), block_states = p.vectors * s->states * LANES;
    int64_t deltas = p.vectors * LANES, scratch_floats = 5 * p.panel_floats + 3 * block_states + deltas;
    int64_t threads = MAX(1, MIN(s->threads, tasks * chunks));
    int parallel_chunks = chunks > 1 && threads > tasks;
    int64_t carried = parallel_chunks ? tasks * chunks : 0; /* chunks whose start, end and sum are kept */
    size_t floats = (size_t)(parameter_floats(&p) + threads * scratch_floats + carried * (2 * block_states + deltas));
    float *memory = aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64);
    if (!memory) return 1;
    float *scratches = lay_out_parameters(&p, memory), *starts = scratches + threads * scratch_floats;
    float *ends = starts + carried * block_states, *sums = ends + carried * block_states;

#pragma omp parallel num_threads((int)threads)
    {
        float *scratch = scratches + thread_index() * scratch_floats;
        float *h = scratch + 5 * p.panel_floats, *start = h + block_states, *local = start + block_states,
              *sum = local + block_states;
        if (!parallel_chunks) {
#pragma omp for schedule(dynamic)
            for (int64_t task = 0; task < tasks; task++) {
                int64_t b = task / p.blocks, block = task % p.blocks;
                for (int64_t k = 0; k < s->traversals; k++) {
                    int64_t panels = walk_of(s, s->codes[k], p.column_panel).panels;
                    memset(h, 0, (size_t)block_states * sizeof(float));
                    for (int64_t c = 0; c < chunks; c++) {
                        memset(local, 0, (size_t)(block_states + deltas) * sizeof(float)); /* and sum */
                        if (chunks > 1) memcpy(start, h, (size_t)block_states * sizeof(float));
                        forward_panels(&p, b, block, k, panels * c / chunks, panels * (c + 1) / chunks, 1, h,
                                       chunks > 1 ? local : NULL, chunks > 1 ? sum : NULL, scratch);
                        if (chunks > 1) carry_over(&p, block, k, start, local, sum, h);
                    }
                }
            }
        } else {
            for (int64_t k = 0; k < s->traversals; k++) { /* in turn: they add to the same y */
                int64_t panels = walk_of(s, s->codes[k], p.column_panel).panels;
#pragma omp for schedule(dynamic)
                for (int64_t i = 0; i < tasks * chunks; i++) {
                    int64_t task = i / chunks, c = i % chunks;
                    memset(ends + i * block_states, 0, (size_t)block_states * sizeof(float));
                    memset(sums + i * deltas, 0, (size_t)deltas * sizeof(float));
                    if (c < chunks - 1)
                        forward_panels(&p, task / p.blocks, task % p.blocks, k, panels * c / chunks,
                                       panels * (c + 1) / chunks, 0, ends + i * block_states, NULL, sums + i * deltas,
                                       scratch);
                }
#pragma omp for
                for (int64_t task = 0; task < tasks; task++) {
                    int64_t i = task * chunks;
                    memset(starts + i * block_states, 0, (size_t)block_states * sizeof(float));
                    for (; i < (task + 1) * chunks - 1; i++)
                        carry_over(&p, task % p.blocks, k, starts + i * block_states, ends + i * block_states,
                                   sums + i * deltas, starts + (i + 1) * block_states);
                }
#pragma omp for schedule(dynamic)
                for (int64_t i = 0; i < tasks * chunks; i++) {
                    int64_t task = i / chunks, c = i % chunks;
                    forward_panels(&p, task / p.blocks, task % p.blocks, k, panels * c / chunks,
                                   panels * (c + 1) / chunks, 1, starts + i * block_states, NULL, NULL, scratch);
                }
            }
        }
    }
    free(memory);
    return 0;
}
