/* Depthwise convolution with bias and SiLU. Types and conventions are those of scan.h.
 *
 *     z_k[h, w] = bias_k + sum_ij weight_k[i, j] x[h + i - rows / 2, w + j - left_k],     y_k = z_k sigmoid(z_k)
 *
 * for each of K kernels and every channel of a channels-last map with zero padding. Arithmetic is float32.
 */
#ifndef MMVMAMBA_CONV_H
#define MMVMAMBA_CONV_H

#include "scan.h"

/* The kernel index takes the place of a scan's traversal index. Parameters are contiguous. All outputs are overwritten;
 * y and grad_x have the dtype of their maps. bias may be null. d is the number of channels. threads and pool are those
 * of scan_args. */
#define CONV_ARGS(FIELD)                                                                                               \
    FIELD(int64_t, batch)                                                                                              \
    FIELD(int64_t, height)                                                                                             \
    FIELD(int64_t, width)                                                                                              \
    FIELD(int64_t, channels)                                                                                           \
    FIELD(int64_t, kernels)                                                                                            \
    FIELD(int64_t, rows)                                                                                               \
    FIELD(int64_t, columns)                                                                                            \
    FIELD(int64_t, threads)                                                                                            \
    FIELD(const scan_pool *, pool)                                                                                     \
    FIELD(const int64_t *, left) /* (K) */                                                                             \
    FIELD(scan_map, x)                                                                                                 \
    FIELD(scan_map, y)                                                                                                 \
    FIELD(scan_map, grad_y)                                                                                            \
    FIELD(scan_map, grad_x)                                                                                            \
    FIELD(const float *, weight) /* (K, d, rows, columns) */                                                           \
    FIELD(const float *, bias)   /* (K, d) */                                                                          \
    FIELD(float *, grad_weight)  /* (K, d, rows, columns) */                                                           \
    FIELD(float *, grad_bias)    /* (K, d) */

struct conv_args {
    CONV_ARGS(SCAN_MEMBER)
};

int conv_forward(const conv_args *args);
int conv_backward(const conv_args *args);

#endif
