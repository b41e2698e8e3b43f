/* Operations on each row of a matrix (rows, channels), in float32. Maps are matrices with one row per position.
 *
 * bias_gelu:  y = GELU(x + bias), with the exact GELU, v Phi(v)
 * add_norm:   sum = x + residual + bias,     y = (sum - mean(sum)) / sqrt(var(sum) + epsilon) weight + shift
 *             or, with `rms`,                y = sum / sqrt(mean(sum^2) + epsilon) weight + shift
 */
#ifndef MMVMAMBA_ROWWISE_H
#define MMVMAMBA_ROWWISE_H

#include "scan.h"

/* bias may be null. */
struct gelu_args {
    const scan_pool *pool;
    int64_t rows, channels;
    const float *x, *bias;
    float *y;
};

/* residual, bias and shift may be null. If both residual and bias are null, the sum is x, and `sum` is not written;
 * otherwise it may be null if only y is needed. */
struct norm_args {
    const scan_pool *pool;
    int64_t rows, channels;
    const float *x, *residual, *bias, *weight, *shift;
    float epsilon;
    int64_t rms;
    float *sum, *y;
};

void bias_gelu(const gelu_args *args);
void add_norm(const norm_args *args);

#endif
