#ifdef __x86_64__ /* with -mavx2 -mfma */
#define LANES 8
#define KERNELS scan_avx2
#define NAME "avx2"
#include "variant.inc"
#endif
