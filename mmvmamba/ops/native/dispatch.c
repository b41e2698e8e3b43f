/* Picks the kernels for this processor; MMVMAMBA_ISA=baseline|avx2|avx512 asks for a lesser set. */
#include <stdlib.h>
#include <string.h>

#include "scan.h"

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

static const scan_kernels *kernels(void) {
    const char *wanted = getenv("MMVMAMBA_ISA");
    if (!wanted) wanted = "";
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                 __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (avx512 && strcmp(wanted, "baseline") && strcmp(wanted, "avx2")) return &scan_avx512;
    if (avx2 && strcmp(wanted, "baseline")) return &scan_avx2;
#else
    (void)wanted;
#endif
    return &scan_baseline;
}

EXPORT const char *scan_isa(void) { return kernels()->name; }
EXPORT int scan_forward(const scan_args *args) { return kernels()->forward(args); }
EXPORT int scan_backward(const scan_args *args) { return kernels()->backward(args); }
EXPORT int64_t scan_args_size(void) { return sizeof(scan_args); }
