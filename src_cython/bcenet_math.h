/* What the elementary functions need of the compiler and the processor. Other projects compile
 * it too, with the kernels they cimport: see docs/cython.md.
 */
#ifndef BCENET_MATH_H
#define BCENET_MATH_H

#include <stdint.h>
#include <string.h>

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "bcenet's kernels lose their digits and their NaN under -ffast-math, -Ofast and -ffinite-math-only"
#endif

/* ---- multiply-add -------------------------------------------------------------------------
 * One macro is the fused multiply-add where the hardware has it, and two roundings elsewhere:
 * a software fma is a hundred times slower. bcn_has_fma says which.
 */
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__aarch64__)
#define bcn_has_fma 1
#define bcn_muladd(a, b, c) __builtin_fma((a), (b), (c))
#define bcn_muladdf(a, b, c) __builtin_fmaf((a), (b), (c))
#else
#define bcn_has_fma 0
#define bcn_muladd(a, b, c) ((a) * (b) + (c))
#define bcn_muladdf(a, b, c) ((a) * (b) + (c))
#endif

#define bcn_sqrt(x) __builtin_sqrt(x)
#define bcn_sqrtf(x) __builtin_sqrtf(x)

/* ---- bit patterns (memcpy is the defined way, and compiles to nothing) --------------------- */
static inline uint32_t bcn_bits32(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
static inline uint64_t bcn_bits64(double x) { uint64_t u; memcpy(&u, &x, 8); return u; }
static inline float bcn_float32(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }
static inline double bcn_float64(uint64_t u) { double x; memcpy(&x, &u, 8); return x; }

#endif
