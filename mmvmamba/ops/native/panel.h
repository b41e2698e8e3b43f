/* How a task walks a map.
 *
 * A traversal is a sequence of lines (rows or columns) of steps. It is processed in panels: a few whole neighbouring
 * lines, or a piece of one long line. A panel's inputs are read in memory order into scratch laid out in scan order,
 * the recurrence runs on that scratch, and the results go back in memory order. So a column traversal reads
 * neighbouring columns together instead of jumping a row of the map (and a page of memory) at each step, at the price
 * of one store and load per value.
 */
#include "scan.h"

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define CHANNEL_UNIT 16 /* channels are padded to this in all our own buffers, whatever LANES is */

/* Positions in a panel: row panels stay in L1, column panels in L2. */
#define ROW_PANEL 128
#define COLUMN_PANEL 2048
#define COLUMN_PANEL_LINES 8

/* Axis 0 runs over lines and axis 1 over steps, in the order of the scan. `slow` is the axis with larger strides in the
 * map. */
typedef struct {
    int64_t size[2], panel[2], panels;
    int slow, reversed;
} walk;

typedef struct {
    int64_t first[2], size[2], pitch; /* scratch row t = line * pitch + step */
    int slow;
} panel;

/* A float32 array seen along a panel: the element at (line, step) is at[line * stride[0] + step * stride[1]]. */
typedef struct {
    float *at;
    int64_t stride[2];
} view;

static walk walk_of(const scan_args *s, int64_t code, int64_t column_panel) {
    int column = (code & SCAN_COLUMN) != 0;
    walk w = {.slow = column, .reversed = (code & SCAN_REVERSED) != 0};
    w.size[column] = s->height;
    w.size[!column] = s->width;
    int64_t limit = column ? column_panel : ROW_PANEL;
    w.panel[1] = MIN(w.size[1], limit);
    w.panel[0] = MIN(w.size[0], limit / w.panel[1]);
    if (column) w.panel[0] = MIN(w.panel[0], COLUMN_PANEL_LINES);
    if (w.panel[1] < w.size[1]) w.panel[0] = 1;
    w.panels = ((w.size[0] + w.panel[0] - 1) / w.panel[0]) * ((w.size[1] + w.panel[1] - 1) / w.panel[1]);
    return w;
}

/* Odd, so that the lines of a panel do not compete for the same cache sets. */
static int64_t pitch_of(const walk *w) { return w->panel[1] | 1; }

static panel panel_at(const walk *w, int64_t index) {
    int64_t per_line = (w->size[1] + w->panel[1] - 1) / w->panel[1];
    panel p = {.first = {index / per_line * w->panel[0], index % per_line * w->panel[1]},
               .pitch = pitch_of(w),
               .slow = w->slow};
    for (int a = 0; a < 2; a++) p.size[a] = MIN(w->panel[a], w->size[a] - p.first[a]);
    return p;
}

/* Offset of the panel's first position, and strides along it, in an array with these row and column strides. */
static int64_t locate(const walk *w, const panel *p, int64_t row, int64_t col, int64_t stride[2]) {
    stride[0] = w->slow ? col : row;
    stride[1] = w->slow ? row : col;
    int64_t offset = 0;
    for (int a = 0; a < 2; a++) {
        if (w->reversed) {
            offset += (w->size[a] - 1) * stride[a];
            stride[a] = -stride[a];
        }
        offset += p->first[a] * stride[a];
    }
    return offset;
}

static view view_of(const walk *w, const panel *p, float *base, int64_t row, int64_t col) {
    view v;
    v.at = base + locate(w, p, row, col, v.stride);
    return v;
}

static view scratch_view(const panel *p, float *scratch, int64_t width) {
    return (view){scratch, {p->pitch * width, width}};
}

/* A float32 map with any number of channels, read in place. */
static view map_view(const walk *w, const panel *p, const scan_map *m, int64_t b, int64_t k) {
    return view_of(w, p, (float *)m->data + b * m->batch + k * m->traversal, m->row, m->col);
}

static float as_float(const char *p, int64_t dtype) {
    if (dtype == SCAN_FLOAT32) {
        float f;
        memcpy(&f, p, 4);
        return f;
    }
    uint16_t h;
    memcpy(&h, p, 2);
    vu bits = {h};
    return (dtype == SCAN_BFLOAT16 ? from_bfloat16(bits) : from_float16(bits))[0];
}

/* LANES channels of a map from `channel` on: in place if they are float32 and all there, else converted into `pack`,
 * zeros beyond the last channel. */
static view channel_view(const walk *w, const panel *p, const scan_args *s, const scan_map *m, int64_t b, int64_t k,
                         int64_t channel, float *pack) {
    int64_t count = MAX(0, MIN(LANES, s->channels - channel)), offset = b * m->batch + k * m->traversal + channel;
    if (m->dtype == SCAN_FLOAT32 && count == LANES) return view_of(w, p, (float *)m->data + offset, m->row, m->col);
    int64_t stride[2], size = m->dtype == SCAN_FLOAT32 ? 4 : 2;
    offset += locate(w, p, m->row, m->col, stride);
    int o = p->slow, i = !p->slow;
    view packed = scratch_view(p, pack, LANES);
    for (int64_t y = 0; y < p->size[o]; y++)
        for (int64_t x = 0; x < p->size[i]; x++) {
            const char *from = (const char *)m->data + (offset + y * stride[o] + x * stride[i]) * size;
            float *to = packed.at + y * packed.stride[o] + x * packed.stride[i];
            if (count == LANES) {
                vu bits = load_half((const uint16_t *)from);
                store(to, m->dtype == SCAN_BFLOAT16 ? from_bfloat16(bits) : from_float16(bits));
            } else {
                vf v = zero();
                for (int64_t c = 0; c < count; c++) v[c] = as_float(from + c * size, m->dtype);
                store(to, v);
            }
        }
    return packed;
}

/* ---- what forward and backward share: the division into tasks, and the parameters in vector layout ---- */

typedef struct {
    const scan_args *s;
    int64_t width;        /* channels, padded */
    int64_t vectors;      /* vectors in the channel block of a task */
    int64_t blocks;       /* channel blocks */
    int64_t panel_floats; /* size of one panel of one vector */
    int64_t column_panel;
    float *A, *bias, *skip,
        *weight; /* (K, n, width) times log2(e), (K, width), (K, width), (K, r, width); padded with zeros */
} plan;

static int64_t vectors_in(const plan *p, int64_t block) {
    return MIN(p->vectors, p->width / LANES - block * p->vectors);
}

/* Everything here follows from the shape alone, never from the number of threads, so that results do not depend on it.
 */
static plan plan_of(const scan_args *s, int64_t column_panel) {
    plan p = {.s = s, .column_panel = column_panel};
    int64_t units = (s->channels + CHANNEL_UNIT - 1) / CHANNEL_UNIT;
    p.width = units * CHANNEL_UNIT;
    int64_t per_block = MAX(1, MIN(4, s->batch * units / 16)); /* wide blocks, while they make 16 tasks */
    p.blocks = (units + per_block - 1) / per_block;
    p.vectors = per_block * (CHANNEL_UNIT / LANES);
    for (int64_t k = 0; k < s->traversals; k++) {
        walk w = walk_of(s, s->codes[k], column_panel);
        p.panel_floats = MAX(p.panel_floats, w.panel[0] * pitch_of(&w) * LANES);
    }
    return p;
}

static int64_t parameter_floats(const plan *p) { return p->s->traversals * (p->s->states + 2 + p->s->rank) * p->width; }

/* (K, d, count) -> (K, count, width), 16 channels at a time to stay in cache. */
static void transpose(const plan *p, const float *from, int64_t count, float scale, float *to) {
    const scan_args *s = p->s;
    for (int64_t k = 0; k < s->traversals; k++)
        for (int64_t first = 0; first < s->channels; first += CHANNEL_UNIT)
            for (int64_t j = 0; j < count; j++)
                for (int64_t c = first; c < MIN(first + CHANNEL_UNIT, s->channels); c++)
                    to[(k * count + j) * p->width + c] = from[(k * s->channels + c) * count + j] * scale;
}

static float *lay_out_parameters(plan *p, float *memory) {
    const scan_args *s = p->s;
    int64_t K = s->traversals, d = s->channels;
    memset(memory, 0, (size_t)parameter_floats(p) * sizeof(float));
    p->A = memory;
    p->bias = p->A + K * s->states * p->width;
    p->skip = p->bias + K * p->width;
    p->weight = p->skip + K * p->width;
    transpose(p, s->A, s->states, LOG2E, p->A);
    if (s->bias) transpose(p, s->bias, 1, 1, p->bias);
    if (s->rank) transpose(p, s->weight, s->rank, 1, p->weight);
    for (int64_t k = 0; s->D && k < K; k++) /* on a shared map the traversals' D x are one term, added with the first */
        for (int64_t c = 0; c < d; c++) p->skip[(s->shared_x ? 0 : k) * p->width + c] += s->D[k * d + c];
    return p->weight + K * s->rank * p->width;
}

static int has_skip(const plan *p, int64_t k) { return p->s->D && (k == 0 || !p->s->shared_x); }

/* ---- delta of a panel ---- */

#define GROUP (LANES == 16 ? 8 : 4) /* positions computed side by side */

/* delta, u = delta x, and on demand the slope d delta / d (dt + bias). `dt` has channels, or is low-rank. */
INLINE void delta_group(int count, const float *const *x, const float *const *dt, const plan *p, const float *weight,
                        vf bias, float *const *delta, int64_t u, int64_t slope) {
    vf z[GROUP];
    for (int i = 0; i < count; i++) z[i] = bias;
    if (p->s->rank) {
        for (int64_t r = 0; r < p->s->rank; r++) {
            vf w = load(weight + r * p->width);
            for (int i = 0; i < count; i++) z[i] = fma_(splat(dt[i][r]), w, z[i]);
        }
    } else {
        for (int i = 0; i < count; i++) z[i] += load(dt[i]);
    }
    for (int i = 0; i < count; i++) {
        vf d = z[i];
        if (p->s->softplus) {
            vf e = exp_minus_abs(z[i]);
            d = softplus(z[i], e);
            if (slope) store(delta[i] + slope, sigmoid(z[i], e));
        } else if (slope) {
            store(delta[i] + slope, splat(1.f));
        }
        store(delta[i], d);
        store(delta[i] + u, d * load(x[i]));
    }
}

/* `u` and `slope` are offsets from `delta`: their panels lie behind it. */
static void compute_delta(const plan *p, const panel *pan, view x, view dt, int64_t k, int64_t channel, float *delta,
                          int64_t u, int64_t slope) {
    const float *weight = p->weight + k * p->s->rank * p->width + channel;
    vf bias = load(p->bias + k * p->width + channel);
    int o = pan->slow, i = !pan->slow;
    view out = scratch_view(pan, delta, LANES);
    /* hardware does not foresee the next row of a column panel */
    int64_t ahead_x = o == 1 ? x.stride[o] : 16 * x.stride[i], ahead_dt = o == 1 ? dt.stride[o] : 16 * dt.stride[i];
    for (int64_t row = 0; row < pan->size[o]; row++) {
        const float *px = x.at + row * x.stride[o], *pdt = dt.at + row * dt.stride[o];
        float *pout = out.at + row * out.stride[o];
        for (int64_t col = 0, size = pan->size[i]; col < size;) {
            const float *xs[GROUP], *dts[GROUP];
            float *outs[GROUP];
            int count = GROUP;
            while (count > size - col) count /= 2;
            for (int j = 0; j < count; j++) {
                xs[j] = px + (col + j) * x.stride[i];
                dts[j] = pdt + (col + j) * dt.stride[i];
                outs[j] = pout + (col + j) * out.stride[i];
                __builtin_prefetch((const char *)((uintptr_t)xs[j] + 4 * (uintptr_t)ahead_x));
                __builtin_prefetch((const char *)((uintptr_t)dts[j] + 4 * (uintptr_t)ahead_dt));
            }
            if (count == GROUP) delta_group(GROUP, xs, dts, p, weight, bias, outs, u, slope);
            else if (count == 4) delta_group(4, xs, dts, p, weight, bias, outs, u, slope);
            else if (count == 2) delta_group(2, xs, dts, p, weight, bias, outs, u, slope);
            else delta_group(1, xs, dts, p, weight, bias, outs, u, slope);
            col += count;
        }
    }
}
