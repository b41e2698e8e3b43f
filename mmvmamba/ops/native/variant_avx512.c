#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#define LANES 16
#define KERNELS scan_avx512
#define NAME "avx512"
#include "variant.h"
#endif
