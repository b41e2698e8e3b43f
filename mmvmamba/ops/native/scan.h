/* The interface between the Python loader and the kernels. It uses only plain structs with 8-byte fields and depends
 * on neither torch nor Python.
 *
 *     delta_t = softplus(dt_t + bias), or softplus(weight dt_t + bias) if dt is low-rank
 *     h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t,     y += <C_t, h_t> + D x_t
 *
 * The kernels compute this recurrence for every traversal of a channels-last map and sum the results in row-major order.
 * If the field `softplus` is 0, softplus is omitted. State and arithmetic are float32.
 *
 * X-macro lists define all constants and fields that both sides share. The declarations below and the table that
 * scan_interface() returns are generated from these lists. The loader compares each entry of the table with its own
 * definition.
 */
#ifndef MMVMAMBA_SCAN_H
#define MMVMAMBA_SCAN_H

#include <stdint.h>

/* SCAN_COLUMN and SCAN_REVERSED are the bits of a traversal code. Outputs and internal buffers pad their channels to a
 * multiple of SCAN_CHANNEL_UNIT. */
#define SCAN_CONSTANTS(CONSTANT)                                                                                       \
    CONSTANT(SCAN_FLOAT32, 0)                                                                                          \
    CONSTANT(SCAN_BFLOAT16, 1)                                                                                         \
    CONSTANT(SCAN_FLOAT16, 2)                                                                                          \
    CONSTANT(SCAN_COLUMN, 1)                                                                                           \
    CONSTANT(SCAN_REVERSED, 2)                                                                                         \
    CONSTANT(SCAN_CHANNEL_UNIT, 16)

/* A map: its data, dtype and four strides, in elements. Channels are contiguous. The traversal stride of a map that all
 * traversals share is 0. */
#define SCAN_MAP(FIELD)                                                                                                \
    FIELD(void *, data)                                                                                                \
    FIELD(int64_t, dtype)                                                                                              \
    FIELD(int64_t, batch)                                                                                              \
    FIELD(int64_t, traversal)                                                                                          \
    FIELD(int64_t, row)                                                                                                \
    FIELD(int64_t, col)

/* The threads of a caller. run() calls job(data, 0) ... job(data, count - 1), in any order and on any threads, and returns
 * when all calls have returned. */
typedef struct scan_pool scan_pool;
struct scan_pool {
    void (*run)(const scan_pool *, int64_t count, void (*job)(void *data, int64_t index), void *data);
};

/* All arrays except the maps are contiguous. B, C and a low-rank dt are float32; dt has `rank` channels if rank > 0.
 * The kernels overwrite all outputs, which are float32. D, bias and weight may be null. Sizes: K traversals, d
 * channels, d16 channels with padding, n states, rank r. Forward kernels run on `pool`, or on OpenMP if it is null.
 * `threads` limits the threads of OpenMP, and is the expected number of those of a pool. */
#define SCAN_ARGS(FIELD)                                                                                               \
    FIELD(int64_t, batch)                                                                                              \
    FIELD(int64_t, height)                                                                                             \
    FIELD(int64_t, width)                                                                                              \
    FIELD(int64_t, channels)                                                                                           \
    FIELD(int64_t, states)                                                                                             \
    FIELD(int64_t, rank)                                                                                               \
    FIELD(int64_t, traversals)                                                                                         \
    FIELD(int64_t, shared_x)                                                                                           \
    FIELD(int64_t, softplus)                                                                                           \
    FIELD(int64_t, threads)                                                                                            \
    FIELD(const scan_pool *, pool)                                                                                     \
    FIELD(const int64_t *, codes) /* (K) */                                                                            \
    FIELD(scan_map, x)                                                                                                 \
    FIELD(scan_map, dt)                                                                                                \
    FIELD(scan_map, B)                                                                                                 \
    FIELD(scan_map, C)                                                                                                 \
    FIELD(scan_map, grad_y)                                                                                            \
    FIELD(const float *, A)      /* (K, d, n) */                                                                       \
    FIELD(const float *, D)      /* (K, d) */                                                                          \
    FIELD(const float *, bias)   /* (K, d) */                                                                          \
    FIELD(const float *, weight) /* (K, d, r) */                                                                       \
    FIELD(float *, y)            /* (b, H, W, d16) */                                                                  \
    FIELD(float *, grad_x)       /* (b, [K,] H, W, d16) */                                                             \
    FIELD(float *, grad_dt)      /* (b, K, H, W, d16 or r) */                                                          \
    FIELD(float *, grad_B)       /* (b, K, H, W, n) */                                                                 \
    FIELD(float *, grad_C)       /* (b, K, H, W, n) */                                                                 \
    FIELD(float *, grad_A)       /* (K, n, d16) */                                                                     \
    FIELD(float *, grad_D)       /* (K, d16) */                                                                        \
    FIELD(float *, grad_bias)    /* (K, d16) */                                                                        \
    FIELD(float *, grad_weight)  /* (K, r, d16) */

#define SCAN_ENUMERATOR(name, value) name = value,
#define SCAN_MEMBER(type, name) type name;

enum { SCAN_CONSTANTS(SCAN_ENUMERATOR) };
typedef struct {
    SCAN_MAP(SCAN_MEMBER)
} scan_map;
typedef struct {
    SCAN_ARGS(SCAN_MEMBER)
} scan_args;

typedef struct conv_args conv_args; /* conv.h */
typedef struct gelu_args gelu_args; /* rowwise.h */
typedef struct norm_args norm_args;

/* The kernels for one instruction set. A kernel returns 0 on success and 1 if it cannot allocate memory, or nothing if it
 * needs no memory. */
typedef struct {
    const char *name;
    int (*forward)(const scan_args *);
    int (*backward)(const scan_args *);
    int (*conv_forward)(const conv_args *);
    int (*conv_backward)(const conv_args *);
    void (*bias_gelu)(const gelu_args *);
    void (*add_norm)(const norm_args *);
} scan_kernels;

extern const scan_kernels scan_baseline, scan_avx2, scan_avx512;

/* An entry of the table that scan_interface() returns. */
typedef struct {
    const char *name; /* "SCAN_COLUMN", "scan_map.row" or "scan_map"; null marks the end of the table */
    int64_t value;    /* value of a constant, offset of a field, or size of a struct */
} scan_entry;

/* The exported functions. */
const scan_entry *scan_interface(void);
const char *scan_isa(void);
int scan_forward(const scan_args *args);
int scan_backward(const scan_args *args);

#endif
