/* Everything that depends on the compiler, the processor or the operating system.
 *
 * The Cython sources stay plain: multiply-add, bit patterns, tile sizes, atomics, threads and
 * the processor's abilities come from here.
 */
#ifndef BCENET_PLATFORM_H
#define BCENET_PLATFORM_H

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
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

/* The upper half of a 128-bit product. */
static inline uint64_t bcn_high_product(uint64_t a, uint64_t b)
{
    return (uint64_t)(((unsigned __int128)a * b) >> 64);
}

/* ---- tiles of the matrix products ----------------------------------------------------------
 * Columns come in units of 16 elements; a tile is ROWS x (UNITS * 16) accumulators, chosen so
 * that they and one row of B fit the vector registers.
 *   v4: 32 registers of 16 float32.   6 x 64: 24 accumulators, 4 of B.
 *   v3: 16 registers of  8 float32.   6 x 16: 12 accumulators, 2 of B.
 *   v2: 16 registers of  4 float32.   3 x 16: 12 accumulators, 2-4 of B.
 */
#if defined(__AVX512F__)
#define bcn_units_float32 4
#define bcn_rows_float32 6
#define bcn_units_float64 2
#define bcn_rows_float64 6
#define bcn_rows_narrow 8
#elif defined(__AVX2__)
#define bcn_units_float32 1
#define bcn_rows_float32 6
#define bcn_units_float64 1
#define bcn_rows_float64 3
#define bcn_rows_narrow 6
#else
#define bcn_units_float32 1
#define bcn_rows_float32 3
#define bcn_units_float64 1
#define bcn_rows_float64 2
#define bcn_rows_narrow 3
#endif

/* ---- memory --------------------------------------------------------------------------------*/
static inline void *bcn_allocate(size_t bytes)
{
    void *p = NULL;
    if (bytes == 0) bytes = 64;
    if (bytes > (size_t)1 << 62 || posix_memalign(&p, 64, bytes)) return NULL;
    memset(p, 0, bytes);
    return p;
}

/* ---- time ---------------------------------------------------------------------------------- */
static inline int64_t bcn_nanoseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- atomics ------------------------------------------------------------------------------- */
static inline int64_t bcn_take(int64_t *counter)
{
    return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}
static inline void bcn_store(int64_t *p, int64_t value)
{
    __atomic_store_n(p, value, __ATOMIC_RELAXED);
}
static inline int64_t bcn_load(int64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void bcn_store_minimum(int64_t *p, int64_t value)
{
    int64_t seen = bcn_load(p);
    while (value < seen
           && !__atomic_compare_exchange_n(p, &seen, value, 0, __ATOMIC_RELAXED,
                                           __ATOMIC_RELAXED)) {}
}

static inline void bcn_pause(void)
{
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* ---- a team of threads that belongs to one call --------------------------------------------
 * bcn_team_run starts up to size - 1 threads, runs work(context, i) on each and on the caller,
 * and joins them. If the system refuses a thread the team is smaller: bcn_team.size is the
 * true one, settled before any work starts. The threads take no signals.
 */
typedef struct bcn_team {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int size;          /* 0 until every thread was started */
    int waiting;       /* in the barrier */
    int64_t round;     /* barriers passed */
    void (*work)(void *context, int index);
    void *context;
} bcn_team;

typedef struct { bcn_team *team; int index; pthread_t thread; } bcn_member;

/* Spinning covers the usual difference between two threads of a step (a few microseconds);
 * longer waits sleep, so that a thread that lost its core is not kept from it. */
#define bcn_spins 1000

static inline void bcn_barrier(bcn_team *team)
{
    if (team->size == 1) return;
    int64_t round = __atomic_load_n(&team->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&team->waiting, 1, __ATOMIC_ACQ_REL) == team->size) {
        __atomic_store_n(&team->waiting, 0, __ATOMIC_RELAXED);
        pthread_mutex_lock(&team->lock);
        __atomic_store_n(&team->round, round + 1, __ATOMIC_RELEASE);
        pthread_cond_broadcast(&team->changed);
        pthread_mutex_unlock(&team->lock);
        return;
    }
    for (int i = 0; i < bcn_spins; i++) {
        if (__atomic_load_n(&team->round, __ATOMIC_ACQUIRE) != round) return;
        bcn_pause();
    }
    pthread_mutex_lock(&team->lock);
    while (__atomic_load_n(&team->round, __ATOMIC_ACQUIRE) == round)
        pthread_cond_wait(&team->changed, &team->lock);
    pthread_mutex_unlock(&team->lock);
}

static void *bcn_member_main(void *argument)
{
    bcn_member *member = (bcn_member *)argument;
    bcn_team *team = member->team;
    pthread_mutex_lock(&team->lock);
    while (team->size == 0) pthread_cond_wait(&team->changed, &team->lock);
    pthread_mutex_unlock(&team->lock);
    team->work(team->context, member->index);
    return NULL;
}

#define bcn_max_threads 256

static inline void bcn_team_run(bcn_team *team, int size, void (*work)(void *, int),
                                void *context)
{
    bcn_member members[bcn_max_threads];
    sigset_t all, before;
    int started = 1;
    if (size > bcn_max_threads) size = bcn_max_threads;
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->changed, NULL);
    team->size = 0;
    team->waiting = 0;
    team->round = 0;
    team->work = work;
    team->context = context;
    if (size > 1) {
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        for (; started < size; started++) {
            members[started].team = team;
            members[started].index = started;
            if (pthread_create(&members[started].thread, NULL, bcn_member_main,
                               &members[started])) break;
        }
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_mutex_lock(&team->lock);
    team->size = started;
    pthread_cond_broadcast(&team->changed);
    pthread_mutex_unlock(&team->lock);
    work(context, 0);
    for (int i = 1; i < started; i++) pthread_join(members[i].thread, NULL);
    pthread_cond_destroy(&team->changed);
    pthread_mutex_destroy(&team->lock);
}

/* ---- what this processor can run ------------------------------------------------------------
 * __builtin_cpu_supports checks the operating system's support of the registers as well.
 */
static inline int bcn_supports_v3(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
        && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2")
        && __builtin_cpu_supports("lzcnt") && __builtin_cpu_supports("movbe")
        && __builtin_cpu_supports("f16c");
#else
    return 0;
#endif
}
static inline int bcn_supports_v4(void)
{
#if defined(__x86_64__)
    return bcn_supports_v3() && __builtin_cpu_supports("avx512f")
        && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
    return 0;
#endif
}
static inline int bcn_supports_baseline(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("ssse3")
        && __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("sse4.2");
#else
    return 1;
#endif
}

#endif
