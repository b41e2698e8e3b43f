/* All kernels for one instruction set. The including file sets LANES, KERNELS and NAME, and the compiler's target. */
#ifdef _OPENMP
#include <omp.h>
static int thread_index(void) { return omp_get_thread_num(); }
#else
static int thread_index(void) { return 0; }
#endif

#include "simd.h"
#include "panel.h"
#include "forward.h"
#include "backward.h"

const scan_kernels KERNELS = {NAME, forward, backward};
