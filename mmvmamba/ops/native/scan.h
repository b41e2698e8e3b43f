/* The interface between the Python loader and the kernels: plain structs of 8-byte fields, no torch, no Python.
 *
 *     delta_t = softplus(dt_t [+ weight low_t] + bias)
 *     h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t,     y += <C_t, h_t> + D x_t
 *
 * for every traversal of a channels-last map, summed in natural order. State and arithmetic are float32.
 */
#ifndef MMVMAMBA_SCAN_H
#define MMVMAMBA_SCAN_H

#include <stdint.h>

enum { SCAN_FLOAT32 = 0, SCAN_BFLOAT16 = 1, SCAN_FLOAT16 = 2 };
enum { SCAN_COLUMN = 1, SCAN_REVERSED = 2 }; /* bits of a traversal code */

/* A strided map; strides count elements, channels are adjacent. A map shared by the traversals has traversal = 0. */
typedef struct {
    void *data;
    int64_t dtype, batch, traversal, row, col;
} scan_map;

/* Outputs are dense float32 and fully written; where they have channels, their channel dimension is rounded up to a
 * multiple of 16. Null pointers: D, bias and weight where there is none. */
typedef struct {
    int64_t batch, height, width, channels, states, rank, traversals, shared_x, softplus, threads;
    const int64_t *codes;
    scan_map x, dt, B, C, grad_y;       /* B, C and a low-rank dt are float32; dt has rank channels if rank > 0 */
    const float *A, *D, *bias, *weight; /* (K, d, n), (K, d), (K, d), (K, d, r), dense */
    float *y;                           /* (b, H, W, d16) */
    float *grad_x, *grad_dt, *grad_B, *grad_C; /* ([K,] H, W, d16), (K, H, W, d16 or r), (K, H, W, n): all after b */
    float *grad_A, *grad_D, *grad_bias, *grad_weight; /* (K, n, d16), (K, d16), (K, d16), (K, r, d16) */
} scan_args;

/* One set of kernels per instruction set; they return 0, or 1 if memory ran out. */
typedef struct {
    const char *name;
    int (*forward)(const scan_args *);
    int (*backward)(const scan_args *);
} scan_kernels;

extern const scan_kernels scan_baseline, scan_avx2, scan_avx512;

#endif
