#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2,fma")
#define LANES 8
#define KERNELS scan_avx2
#define NAME "avx2"
#include "variant.h"
#endif
