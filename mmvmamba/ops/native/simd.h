/* Vectors of LANES floats: GCC/clang vector extensions, and intrinsics where the compiler needs the hint.
 *
 * Every fused multiply-add is explicit and contraction is off: the serial and the parallel schedule must round alike.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if LANES > 4
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu __attribute__((vector_size(LANES * 4)));
typedef uint16_t vh __attribute__((vector_size(LANES * 2)));

INLINE vf load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store(float *p, vf v) { memcpy(p, &v, sizeof v); }
INLINE vf splat(float a) { return a - (vf){0}; } /* not +, which would turn -0 into 0 and stay in the code */
INLINE vf zero(void) { return (vf){0}; }
INLINE vf select(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }

/* a * b + c, and the larger or smaller of both (the second where one is NaN) */
#if LANES == 16
INLINE vf fma_(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vf max_(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE void store_part(float *p, vf v, int64_t n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v); }
#elif LANES == 8
INLINE vf fma_(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vf max_(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf min_(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE void store_part(float *p, vf v, int64_t n) {
    for (int64_t i = 0; i < n; i++) p[i] = v[i];
}
#else
#if defined(__ARM_NEON) && defined(__aarch64__)
INLINE vf fma_(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#else
INLINE vf fma_(vf a, vf b, vf c) { return a * b + c; }
#endif
INLINE vf max_(vf a, vf b) { return select(a > b, a, b); }
INLINE vf min_(vf a, vf b) { return select(a < b, a, b); }
INLINE void store_part(float *p, vf v, int64_t n) {
    for (int64_t i = 0; i < n; i++) p[i] = v[i];
}
#endif

/* 2^x: x is split into an integer and f in [-1/2, 1/2]; 2^f = 1 + f q(f), relative error 1.6e-8.
 * It is exactly 1 at 0: a decay that is off by one part in 1e7 there would add up along the sequence.
 * Underflows to 0, overflows to infinity, passes NaN on. */
INLINE vf exp2_(vf x) {
#if LANES == 16
    vf n = (vf)_mm512_roundscale_ps((__m512)x, 8);
    vf f = (vf)_mm512_reduce_ps((__m512)x, 8); /* x - n, and 0 for an infinite x */
#else
    x = min_(splat(128.f), max_(splat(-127.f), x));
    vf shifted = x + splat(12582912.f); /* 1.5 * 2^23: the sum's last bits are round(x) */
    vf f = x - (shifted - splat(12582912.f));
#endif
    vf q = splat(0.00015370704932138324f);
    q = fma_(q, f, splat(0.0013399848248809576f));
    q = fma_(q, f, splat(0.009618373587727547f));
    q = fma_(q, f, splat(0.05550329014658928f));
    q = fma_(q, f, splat(0.24022647738456726f));
    q = fma_(q, f, splat(0.6931471824645996f));
    q = fma_(q, f, splat(1.f));
#if LANES == 16
    return (vf)_mm512_scalef_ps((__m512)q, (__m512)n);
#else
    return q * (vf)(((vi)shifted << 23) + 0x3f800000);
#endif
}

#define LOG2E 1.44269504088896341f
#define LN2 0.693147180559945309f

/* exp(-|x|), from which both softplus and its slope follow */
INLINE vf exp_minus_abs(vf x) { return exp2_((vf)((vi)x | INT32_MIN) * splat(LOG2E)); }

/* max(x, 0) + log(1 + u) with u = exp(-|x|); log(1 + u) = u p(u), relative error 6e-8 */
INLINE vf softplus(vf x, vf u) {
    vf p = splat(0.005232624243944883f);
    p = fma_(p, u, splat(-0.029504976557656038f));
    p = fma_(p, u, splat(0.07822549343109131f));
    p = fma_(p, u, splat(-0.1366320699453354f));
    p = fma_(p, u, splat(0.1910598874092102f));
    p = fma_(p, u, splat(-0.2484297752380371f));
    p = fma_(p, u, splat(0.3331909477710724f));
    p = fma_(p, u, splat(-0.4999949336051941f));
    p = fma_(p, u, splat(0.9999999403953552f));
    return fma_(u, p, max_(zero(), x));
}

INLINE vf sigmoid(vf x, vf u) { return select(x < zero(), u, splat(1.f)) / (splat(1.f) + u); }

/* 16-bit floats */
INLINE vu load_half(const uint16_t *p) {
    vh v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, vu);
}
INLINE vf from_bfloat16(vu v) { return (vf)(v << 16); }
INLINE vf from_float16(vu v) {
    vu magnitude = (v & 0x7fff) << 13, sign = (v & 0x8000) << 16;
    vf scaled = (vf)magnitude * splat(0x1p112f);    /* rebias the exponent; exact for subnormals too */
    vu special = (vu)((vi)magnitude >= 0x0f800000); /* infinity and NaN keep the largest exponent */
    return (vf)((vu)scaled | (special & 0x7f800000) | sign);
}

/* Sums over the lanes of LANES vectors at once: lane i of the result is the sum of v[i]. */
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vi){__VA_ARGS__})
#endif
#if LANES == 16
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#elif LANES == 8
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define ODD 1, 3, 5, 7, 9, 11, 13, 15
#else
#define EVEN 0, 2, 4, 6
#define ODD 1, 3, 5, 7
#endif
INLINE vf sum_pairs(vf a, vf b) { return SHUFFLE(a, b, EVEN) + SHUFFLE(a, b, ODD); }
INLINE vf sum_lanes_4(const vf *v) { return sum_pairs(sum_pairs(v[0], v[1]), sum_pairs(v[2], v[3])); }
INLINE vf sum_lanes_8(const vf *v) { return sum_pairs(sum_lanes_4(v), sum_lanes_4(v + 4)); }
INLINE vf sum_lanes(const vf *v) {
    return LANES == 16 ? sum_pairs(sum_lanes_8(v), sum_lanes_8(v + 8)) : LANES == 8 ? sum_lanes_8(v) : sum_lanes_4(v);
}
