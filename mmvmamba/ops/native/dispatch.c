/* Selects the kernels for this processor. MMVMAMBA_ISA=baseline|avx2|avx512 limits the instruction set. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "conv.h"
#include "rowwise.h"
#include "scan.h"

#define EXPORT __attribute__((visibility("default")))

static const scan_kernels *kernels(void) {
#ifdef __x86_64__
    const char *wanted = getenv("MMVMAMBA_ISA");
    if (!wanted) wanted = "";
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                 __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (avx512 && strcmp(wanted, "baseline") && strcmp(wanted, "avx2")) return &scan_avx512;
    if (avx2 && strcmp(wanted, "baseline")) return &scan_avx2;
#endif
    return &scan_baseline;
}

#define CONSTANT(name, value) {#name, value},
#define MAP_FIELD(type, name) {"scan_map." #name, offsetof(scan_map, name)},
#define ARGS_FIELD(type, name) {"scan_args." #name, offsetof(scan_args, name)},
#define CONV_FIELD(type, name) {"conv_args." #name, offsetof(conv_args, name)},

/* clang-format off */
static const scan_entry interface[] = {
    SCAN_CONSTANTS(CONSTANT)
    SCAN_MAP(MAP_FIELD) {"scan_map", sizeof(scan_map)},
    SCAN_ARGS(ARGS_FIELD) {"scan_args", sizeof(scan_args)},
    CONV_ARGS(CONV_FIELD) {"conv_args", sizeof(conv_args)},
    {NULL, 0},
};
/* clang-format on */

EXPORT const scan_entry *scan_interface(void) { return interface; }
EXPORT const char *scan_isa(void) { return kernels()->name; }
EXPORT int scan_forward(const scan_args *args) { return kernels()->forward(args); }
EXPORT int scan_backward(const scan_args *args) { return kernels()->backward(args); }
EXPORT int conv_forward(const conv_args *args) { return kernels()->conv_forward(args); }
EXPORT int conv_backward(const conv_args *args) { return kernels()->conv_backward(args); }
EXPORT void bias_gelu(const gelu_args *args) { kernels()->bias_gelu(args); }
EXPORT void add_norm(const norm_args *args) { kernels()->add_norm(args); }
