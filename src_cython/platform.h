/* Everything that depends on the compiler, the processor or the operating system.
 *
 * The Cython sources stay plain: multiply-add, bit patterns, tile sizes, atomics, threads and
 * the processor's abilities come from here.
 */
#ifndef BCENET_PLATFORM_H
#define BCENET_PLATFORM_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bcenet_math.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

/* The upper half of a 128-bit product. */
static inline uint64_t bcn_high_product(uint64_t a, uint64_t b)
{
    return (uint64_t)(((unsigned __int128)a * b) >> 64);
}

/* ---- Philox4x32-10 of 8 counters side by side ------------------------------------------------
 * `word` holds the first word of 8 counters, then their second, ...: they are replaced by random
 * ones. A product of 32-bit halves is one instruction, which gcc does not find in a plain loop: it
 * took 3 times as long.
 */
#if defined(__AVX512F__)
#define BCN_LANES 8
#define bcn_words __m512i
#define bcn_load_words(p) _mm512_cvtepu32_epi64(_mm256_loadu_si256((const __m256i *)(p)))
#define bcn_store_words(p, x) _mm256_storeu_si256((__m256i *)(p), _mm512_cvtepi64_epi32(x))
#define bcn_all_words(x) _mm512_set1_epi64((long long)(x))
#define bcn_times(a, b) _mm512_mul_epu32(a, b)
#define bcn_upper(a) _mm512_srli_epi64(a, 32)
#define bcn_xor(a, b) _mm512_xor_si512(a, b)
#elif defined(__AVX2__)
#define BCN_LANES 4
#define bcn_words __m256i
#define bcn_load_words(p) _mm256_cvtepu32_epi64(_mm_loadu_si128((const __m128i *)(p)))
#define bcn_store_words(p, x)                                                                  \
    _mm_storeu_si128((__m128i *)(p),                                                           \
                     _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(                       \
                         x, _mm256_setr_epi32(0, 2, 4, 6, 0, 0, 0, 0))))
#define bcn_all_words(x) _mm256_set1_epi64x((long long)(x))
#define bcn_times(a, b) _mm256_mul_epu32(a, b)
#define bcn_upper(a) _mm256_srli_epi64(a, 32)
#define bcn_xor(a, b) _mm256_xor_si256(a, b)
#else
#define BCN_LANES 1
#define bcn_words uint64_t
#define bcn_load_words(p) ((uint64_t)*(p))
#define bcn_store_words(p, x) (*(p) = (uint32_t)(x))
#define bcn_all_words(x) ((uint64_t)(x))
#define bcn_times(a, b) ((uint64_t)(uint32_t)(a) * (uint32_t)(b))
#define bcn_upper(a) ((a) >> 32)
#define bcn_xor(a, b) ((a) ^ (b))
#endif

static inline void bcn_philox(uint32_t *word, uint32_t key_0, uint32_t key_1)
{
    const bcn_words factor_0 = bcn_all_words(0xD2511F53), factor_2 = bcn_all_words(0xCD9E8D57);
    for (int lane = 0; lane < 8; lane += BCN_LANES) {
        /* The upper halves of the lanes are never read. */
        bcn_words c0 = bcn_load_words(word + lane), c1 = bcn_load_words(word + 8 + lane);
        bcn_words c2 = bcn_load_words(word + 16 + lane), c3 = bcn_load_words(word + 24 + lane);
        uint32_t k0 = key_0, k1 = key_1;
        for (int i = 0; i < 10; i++) {
            bcn_words product_0 = bcn_times(c0, factor_0), product_2 = bcn_times(c2, factor_2);
            c0 = bcn_xor(bcn_xor(bcn_upper(product_2), c1), bcn_all_words(k0));
            c2 = bcn_xor(bcn_xor(bcn_upper(product_0), c3), bcn_all_words(k1));
            c1 = product_2;
            c3 = product_0;
            k0 += 0x9E3779B9;
            k1 += 0xBB67AE85;
        }
        bcn_store_words(word + lane, c0);
        bcn_store_words(word + 8 + lane, c1);
        bcn_store_words(word + 16 + lane, c2);
        bcn_store_words(word + 24 + lane, c3);
    }
}

/* ---- tiles of the matrix products ----------------------------------------------------------
 * Columns come in units of 8 elements; a tile is ROWS x (UNITS * 8) accumulators, chosen so
 * that they and one row of B fit the vector registers.
 *   v4: 32 registers of 16 float32.   6 x 64: 24 accumulators, 4 of B.
 *   v3: 16 registers of  8 float32.   6 x 16: 12 accumulators, 2 of B.
 *   v2: 16 registers of  4 float32.   3 x 16: 12 accumulators, 2-4 of B.
 * Narrower strips have 6 rows in every build: parameter tiles are 24 rows or a multiple.
 */
#define bcn_rows_narrow 6
#if defined(__AVX512F__)
#define bcn_units_float32 8
#define bcn_rows_float32 6
#define bcn_units_float64 4
#define bcn_rows_float64 6
#elif defined(__AVX2__)
#define bcn_units_float32 2
#define bcn_rows_float32 6
#define bcn_units_float64 1
#define bcn_rows_float64 6
#else
#define bcn_units_float32 2
#define bcn_rows_float32 3
#define bcn_units_float64 1
#define bcn_rows_float64 3
#endif

/* ---- transposes: `to` gets 8 x 8 elements of `from`, exchanged ------------------------------
 * Three rounds of exchanges in registers: element by element it took as long as the products of
 * a small batch.
 */
#if defined(__AVX__)
static inline void bcn_transpose_float32(float *to, ptrdiff_t ld_to, const float *from,
                                         ptrdiff_t ld_from)
{
    __m256 r[8], s[8];
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(from + i * ld_from);
    for (int i = 0; i < 8; i += 2) {
        s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xEE);
        r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(to + i * ld_to, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(to + (i + 4) * ld_to, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}
static inline void bcn_transpose_float64(double *to, ptrdiff_t ld_to, const double *from,
                                         ptrdiff_t ld_from)
{
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 8; j += 4) {
            __m256d r[4], s[4];
            for (int k = 0; k < 4; k++) r[k] = _mm256_loadu_pd(from + (i + k) * ld_from + j);
            for (int k = 0; k < 4; k += 2) {
                s[k] = _mm256_unpacklo_pd(r[k], r[k + 1]);
                s[k + 1] = _mm256_unpackhi_pd(r[k], r[k + 1]);
            }
            for (int k = 0; k < 2; k++) {
                _mm256_storeu_pd(to + (j + k) * ld_to + i,
                                 _mm256_permute2f128_pd(s[k], s[k + 2], 0x20));
                _mm256_storeu_pd(to + (j + k + 2) * ld_to + i,
                                 _mm256_permute2f128_pd(s[k], s[k + 2], 0x31));
            }
        }
}
#else
#define BCN_TRANSPOSE(name, type)                                                              \
static inline void name(type *to, ptrdiff_t ld_to, const type *from, ptrdiff_t ld_from)        \
{                                                                                              \
    for (int j = 0; j < 8; j++)                                                                \
        for (int i = 0; i < 8; i++) to[j * ld_to + i] = from[i * ld_from + j];                 \
}
BCN_TRANSPOSE(bcn_transpose_float32, float)
BCN_TRANSPOSE(bcn_transpose_float64, double)
#endif

/* Ask for the cache line at p; p need not be readable. */
#define bcn_prefetch(p) __builtin_prefetch(p)

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

/* ---- a team of threads that belongs to one fit or prediction -------------------------------
 * The caller leads: it opens one phase after another, each a number of items of one kind, and
 * works on the items itself. Helpers take items while they happen to run; a helper that lost its
 * processor between items holds nobody up. A phase ends when its items are done, which makes it
 * a barrier for the data.
 *
 * `ticket` is (kind << 60 | last << 30 | first): the items first to last - 1 are not yet taken. An
 * item is taken by a compare-and-swap of the whole word, so nobody can take an item of a phase that
 * has ended. Even threads take from the start and odd ones from the end: neighbours share data, and
 * a thread that stays among neighbours fetches less of it from another core.
 *
 * When the leader waits long for an item that a helper holds (the helper lost its processor),
 * the team closes: the leader works alone for a time. The time doubles if a phase took longer while
 * the team was open than it takes alone, and shrinks if not. Other programs are what takes
 * processors, so the time is one for the process: the next team need not learn it again.
 * The helpers take no signals.
 */
static int64_t bcn_reopen;      /* when, in ns */
static int64_t bcn_closed_for;  /* ns, the last time; 0 at first */

typedef struct bcn_team {
    uint64_t ticket;
    int64_t done;           /* items of this phase */
    int64_t sleepers;
    int64_t closed;         /* helpers take nothing while it is 1 */
    int64_t stop;
    int64_t last;           /* helpers of a higher index take nothing */
    char padding[16];       /* what follows changes rarely: another cache line */
    int helpers;
    pid_t process;          /* that started it; 0 before */
    int64_t since;          /* when the team closed, opened or started, in ns */
    int64_t phases;         /* since then */
    struct { int64_t ns, phases; } spent[2];  /* lately: while open, while closed */
    void (*work)(void *context, int kind, int64_t item, int thread);
    void *context;
    pthread_mutex_t lock;
    pthread_cond_t opened;
    struct bcn_member *members;
} bcn_team;

typedef struct bcn_member {
    bcn_team *team;
    int index;
    pthread_t thread;
#if defined(__linux__) && defined(CPU_SET)
    int placed;             /* on a processor of its own */
    cpu_set_t others;       /* all but the leader's */
#endif
} bcn_member;

/* Spinning covers the usual time between two phases, a few microseconds; a longer wait sleeps. */
#define bcn_spins 1000
#define bcn_long_wait 500000        /* ns: more than a helper that runs ever keeps the leader */
#define bcn_first_closing 2000000  /* ns */
#define bcn_last_closing 1000000000
#define bcn_lately 300000000       /* ns: what lies longer ago counts half */

#define bcn_end 30                           /* bits of an item's number */
#define bcn_items ((1ull << bcn_end) - 1)  /* the most items of a phase, and the mask for one end */

static inline int bcn_left(uint64_t ticket)
{
    return (ticket >> bcn_end & bcn_items) != (ticket & bcn_items);
}

/* Take an item: its number, and its kind in *kind; -1 if there is none. */
static inline int64_t bcn_take(bcn_team *team, int *kind, int from_start)
{
    uint64_t ticket = __atomic_load_n(&team->ticket, __ATOMIC_ACQUIRE);
    while (bcn_left(ticket)) {
        uint64_t next = from_start ? ticket + 1 : ticket - (bcn_items + 1);
        if (__atomic_compare_exchange_n(&team->ticket, &ticket, next, 0, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
            *kind = (int)(ticket >> 2 * bcn_end);
            return from_start ? ticket & bcn_items : (ticket >> bcn_end & bcn_items) - 1;
        }
    }
    return -1;
}

static inline int bcn_has_work(bcn_member *member)
{
    bcn_team *team = member->team;
    return !__atomic_load_n(&team->closed, __ATOMIC_RELAXED)
        && member->index <= __atomic_load_n(&team->last, __ATOMIC_RELAXED)
        && bcn_left(__atomic_load_n(&team->ticket, __ATOMIC_SEQ_CST));
}

/* Linux often starts or wakes a thread on the processor of the thread that did it, and moves it
 * away milliseconds later: as long as an epoch takes. So helper i starts on the i-th allowed
 * processor after the leader's, and may move to any but that.
 */
#if defined(__linux__) && defined(CPU_SET)
static inline int bcn_place(pthread_attr_t *attributes, cpu_set_t *others, int helper)
{
    cpu_set_t one;
    int cpu = sched_getcpu();
    int count;
    if (sched_getaffinity(0, sizeof *others, others) || cpu < 0 || !CPU_ISSET(cpu, others))
        return 0;
    CPU_CLR(cpu, others);
    count = CPU_COUNT(others);
    if (count == 0) return 0;
    for (int i = 0; i <= (helper - 1) % count; i++)
        do cpu = (cpu + 1) % CPU_SETSIZE; while (!CPU_ISSET(cpu, others));
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    return !pthread_attr_setaffinity_np(attributes, sizeof one, &one);
}
#endif

static void *bcn_helper(void *argument)
{
    bcn_member *member = (bcn_member *)argument;
    bcn_team *team = member->team;
    int kind = 0;
#if defined(__linux__) && defined(CPU_SET)
    if (member->placed)
        pthread_setaffinity_np(pthread_self(), sizeof member->others, &member->others);
#endif
    while (1) {
        int spins = 0;
        while (!bcn_has_work(member) && !__atomic_load_n(&team->stop, __ATOMIC_ACQUIRE)
               && spins < bcn_spins) {
            bcn_pause();
            spins++;
        }
        if (spins == bcn_spins) {
            pthread_mutex_lock(&team->lock);
            __atomic_add_fetch(&team->sleepers, 1, __ATOMIC_SEQ_CST);
            while (!bcn_has_work(member) && !__atomic_load_n(&team->stop, __ATOMIC_ACQUIRE))
                pthread_cond_wait(&team->opened, &team->lock);
            __atomic_sub_fetch(&team->sleepers, 1, __ATOMIC_SEQ_CST);
            pthread_mutex_unlock(&team->lock);
        }
        if (__atomic_load_n(&team->stop, __ATOMIC_ACQUIRE)) return NULL;
        while (bcn_has_work(member)) {
            int64_t item = bcn_take(team, &kind, !(member->index & 1));
            if (item < 0) break;
            team->work(team->context, kind, item, member->index);
            __atomic_add_fetch(&team->done, 1, __ATOMIC_RELEASE);
        }
    }
}

/* Start up to size - 1 helpers; fewer if the system refuses, and anywhere if it refuses the
 * place. `members` has room for size.
 */
static inline void bcn_team_start(bcn_team *team, int size, bcn_member *members,
                                  void (*work)(void *, int, int64_t, int))
{
    sigset_t all, before;
    pthread_attr_t attributes;
    memset(team, 0, sizeof *team);
    team->process = getpid();
    team->last = INT64_MAX;
    team->work = work;
    team->members = members;
    team->closed = bcn_nanoseconds() < bcn_load(&bcn_reopen);
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->opened, NULL);
    if (size <= 1) return;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    for (int i = 1; i < size; i++) {
        members[i].team = team;
        members[i].index = i;
#if defined(__linux__) && defined(CPU_SET)
        members[i].placed = bcn_place(&attributes, &members[i].others, i);
#endif
        if (pthread_create(&members[i].thread, &attributes, bcn_helper, &members[i])
            && pthread_create(&members[i].thread, NULL, bcn_helper, &members[i])) break;
        team->helpers = i;
    }
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static inline void bcn_wake(bcn_team *team)
{
    int64_t resting = team->helpers - __atomic_load_n(&team->last, __ATOMIC_RELAXED);
    if (__atomic_load_n(&team->sleepers, __ATOMIC_SEQ_CST) <= (resting > 0 ? resting : 0)) return;
    pthread_mutex_lock(&team->lock);
    pthread_cond_broadcast(&team->opened);
    pthread_mutex_unlock(&team->lock);
}

/* Note what the phases took since the team opened, closed or started. */
static inline void bcn_account(bcn_team *team, int64_t now)
{
    int closed = team->closed != 0;
    team->spent[closed].ns += now - team->since;
    team->spent[closed].phases += team->phases;
    if (team->spent[closed].ns > bcn_lately) {
        team->spent[closed].ns /= 2;
        team->spent[closed].phases /= 2;
    }
    team->since = now;
    team->phases = 0;
}

/* After a long wait: the leader works alone for a time. */
static inline void bcn_close(bcn_team *team, int64_t now)
{
    int64_t closed_for = bcn_load(&bcn_closed_for);
    bcn_account(team, now);
    if (team->spent[0].phases > 0 && team->spent[1].phases > 0) {
        double shared = (double)team->spent[0].ns / (double)team->spent[0].phases;
        double alone = (double)team->spent[1].ns / (double)team->spent[1].phases;
        closed_for = shared > alone ? 2 * closed_for : closed_for / 2;
    }
    if (closed_for < bcn_first_closing) closed_for = bcn_first_closing;
    if (closed_for > bcn_last_closing) closed_for = bcn_last_closing;
    bcn_store(&bcn_closed_for, closed_for);
    bcn_store(&bcn_reopen, now + closed_for);
    bcn_store(&team->closed, 1);
}

/* Run the items 0 to count - 1 of a kind; returns when all are done. */
static inline void bcn_team_phase(bcn_team *team, int kind, int64_t count)
{
    int64_t item, begun, worked, now, mine = 0;
    int shared;
    if (team->helpers == 0) {
        for (item = 0; item < count; item++) team->work(team->context, kind, item, 0);
        return;
    }
    begun = bcn_nanoseconds();
    if (team->closed && begun > bcn_load(&bcn_reopen)) {
        bcn_account(team, begun);
        bcn_store(&team->closed, 0);
    }
    shared = !team->closed && count > 1
        && __atomic_load_n(&team->last, __ATOMIC_RELAXED) > 0;
    __atomic_store_n(&team->done, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&team->ticket, (uint64_t)kind << 2 * bcn_end | (uint64_t)count << bcn_end,
                     __ATOMIC_SEQ_CST);
    if (shared) bcn_wake(team);
    while ((item = bcn_take(team, &kind, 1)) >= 0) {
        team->work(team->context, kind, item, 0);
        mine++;
    }
    team->phases++;
    if (mine == count) return;
    for (int spins = 0; __atomic_load_n(&team->done, __ATOMIC_ACQUIRE) + mine < count; spins++) {
        if (spins < bcn_spins) {
            bcn_pause();
            continue;
        }
        worked = bcn_nanoseconds();
        while (__atomic_load_n(&team->done, __ATOMIC_ACQUIRE) + mine < count) sched_yield();
        now = bcn_nanoseconds();
        if (now - worked > bcn_long_wait && (now - worked) * (mine + 1) > 2 * (worked - begun))
            bcn_close(team, now);
    }
}

/* Whether this process has started the team: a child of a fork has its memory, but no helpers. */
static inline int bcn_team_started(const bcn_team *team) { return team->process == getpid(); }

/* Before the phases of one call, and after them. */
static inline void bcn_team_begin(bcn_team *team, void *context)
{
    team->context = context;
    team->since = bcn_nanoseconds();
}
static inline void bcn_team_end(bcn_team *team) { bcn_account(team, bcn_nanoseconds()); }

/* From any thread: the last ``count`` helpers take nothing from now on. */
static inline void bcn_team_rest(bcn_team *team, int count)
{
    int64_t last = count == 0 ? INT64_MAX : team->helpers > count ? team->helpers - count : 0;
    __atomic_store_n(&team->last, last, __ATOMIC_RELAXED);
}

static inline void bcn_team_stop(bcn_team *team)
{
    if (!bcn_team_started(team)) return;
    __atomic_store_n(&team->stop, 1, __ATOMIC_RELEASE);
    pthread_mutex_lock(&team->lock);
    pthread_cond_broadcast(&team->opened);
    pthread_mutex_unlock(&team->lock);
    for (int i = 1; i <= team->helpers; i++) pthread_join(team->members[i].thread, NULL);
    pthread_cond_destroy(&team->opened);
    pthread_mutex_destroy(&team->lock);
    team->process = 0;
}

/* ---- what this processor can run ------------------------------------------------------------
 * __builtin_cpu_supports checks the operating system's support of the registers as well; what
 * needs no registers, and what clang's does not know, is read from the processor.
 */
#if defined(__x86_64__)
static inline int bcn_cpu_bits(unsigned leaf, unsigned ecx_bits)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(leaf, &eax, &ebx, &ecx, &edx) && (ecx & ecx_bits) == ecx_bits;
}
#define bcn_lzcnt (1u << 5)               /* of leaf 0x80000001 */
#define bcn_movbe_f16c (1u << 22 | 1u << 29)  /* of leaf 1 */
#endif
static inline int bcn_supports_v3(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
        && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2")
        && bcn_cpu_bits(0x80000001, bcn_lzcnt) && bcn_cpu_bits(1, bcn_movbe_f16c);
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
