/* The interface between the Python loader and the kernels: plain structs of 8-byte fields, no torch, no Python.
 *
 *     delta_t = softplus(dt_t [+ weight low_t] + bias)
 *     h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t,     y += <C_t, h_t> + D x_t
 *
 * for every traversal of a channels-last map, summed in natural order. State and arithmetic are float32.
 *
 * What both sides must agree on stands in lists, from which come the declarations here and what scan_interface() tells
 * the loader: it compares every name and number with its own.
 */
#ifndef MMVMAMBA_SCAN_H
#define MMVMAMBA_SCAN_H

#include <stdint.h>

/* SCAN_COLUMN and SCAN_REVERSED are the bits of a traversal code. The channels of outputs and of all our own buffers
 * are padded to a multiple of SCAN_CHANNEL_UNIT. */
#define SCAN_CONSTANTS(CONSTANT)                                                                                       \
    CONSTANT(SCAN_FLOAT32, 0)                                                                                          \
    CONSTANT(SCAN_BFLOAT16, 1)                                                                                         \
    CONSTANT(SCAN_FLOAT16, 2)                                                                                          \
    CONSTANT(SCAN_COLUMN, 1)                                                                                           \
    CONSTANT(SCAN_REVERSED, 2)                                                                                         \
    CONSTANT(SCAN_CHANNEL_UNIT, 16)

/* A strided map; strides count elements, channels are adjacent. A map shared by the traversals has traversal = 0. */
#define SCAN_MAP(FIELD)                                                                                                \
    FIELD(void *, data)                                                                                                \
    FIELD(int64_t, dtype)                                                                                              \
    FIELD(int64_t, batch)                                                                                              \
    FIELD(int64_t, traversal)                                                                                          \
    FIELD(int64_t, row)                                                                                                \
    FIELD(int64_t, col)

/* All arrays but the maps are dense. B, C and a low-rank dt are float32; dt has rank channels if rank > 0. Outputs are
 * float32 and fully written. Null pointers: D, bias and weight where there is none. K traversals, d channels, d16 of
 * them with padding, n states, rank r. */
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

/* One set of kernels per instruction set; they return 0, or 1 if memory ran out. */
typedef struct {
    const char *name;
    int (*forward)(const scan_args *);
    int (*backward)(const scan_args *);
    int (*conv_forward)(const conv_args *);
    int (*conv_backward)(const conv_args *);
} scan_kernels;

extern const scan_kernels scan_baseline, scan_avx2, scan_avx512;

/* What the library exports. */
typedef struct {
    const char *name; /* of a constant, "scan_map.row" for a field, "scan_map" for a size; null behind the last */
    int64_t value;    /* the constant, the field's offset, the size */
} scan_entry;

const scan_entry *scan_interface(void);
const char *scan_isa(void);
int scan_forward(const scan_args *args);
int scan_backward(const scan_args *args);

#endif
