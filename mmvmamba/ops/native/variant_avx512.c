#ifdef __x86_64__ /* with -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma */
#define LANES 16
#define KERNELS scan_avx512
#define NAME "avx512"
#include "variant.inc"
#endif
