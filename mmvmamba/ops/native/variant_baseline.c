#define LANES 4
#define KERNELS scan_baseline
#define NAME "baseline"
#include "variant.inc"
