/* The depthwise convolution with bias and SiLU; types and conventions are those of scan.h.
 *
 *     z_k[h, w] = bias_k + sum_ij weight_k[i, j] x[h + i - rows / 2, w + j - left_k],     y_k = z_k sigmoid(z_k)
 *
 * for each of K kernels and every channel of a channels-last map, with zeros around it. Arithmetic is float32.
 */
#ifndef MMVMAMBA_CONV_H
#define MMVMAMBA_CONV_H

#include "scan.h"

/* Kernels stand where a scan has traversals. The parameters are dense; outputs are fully written, y and grad_x in the
 * type that their maps name. bias is null where there is none. d channels. */
#define CONV_ARGS(FIELD)                                                                                               \
    FIELD(int64_t, batch)                                                                                              \
    FIELD(int64_t, height)                                                                                             \
    FIELD(int64_t, width)                                                                                              \
    FIELD(int64_t, channels)                                                                                           \
    FIELD(int64_t, kernels)                                                                                            \
    FIELD(int64_t, rows)                                                                                               \
    FIELD(int64_t, columns)                                                                                            \
    FIELD(int64_t, threads)                                                                                            \
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
