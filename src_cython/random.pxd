# Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy
# as 1, 2, 3", SC 2011). A number is a function of its key and counter, never of time or thread.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from bcenet.cimports.vecmath cimport floating

ctypedef fused row_index:
    int32_t
    int64_t

cdef extern from "platform.h" nogil:
    uint64_t bcn_high_product(uint64_t a, uint64_t b)
    void bcn_philox(uint32_t* word, uint32_t key_0, uint32_t key_1)

cdef enum:
    LANES = 8  # counters side by side
    UNITS = 64  # of a row that they serve in dropout: 16 bits each
    DROPS = 65536  # a drop rate is a whole number of these parts
    DRAWS = 256  # numbers of 64 bits that a shuffle draws at a time


cdef inline void random_words(uint32_t* word, uint64_t first, uint32_t step_0, uint32_t third,
                              uint32_t fourth, uint32_t step_3, uint64_t seed) noexcept nogil:
    """Four random words of each of 8 counters: word k of lane i at word[8 k + i].

    Counter i is (first + i step_0 in two words, third, fourth + i step_3).
    """
    cdef Py_ssize_t i
    for i in range(LANES):
        word[i] = <uint32_t> (first + i * step_0)
        word[LANES + i] = <uint32_t> ((first + i * step_0) >> 32)
        word[2 * LANES + i] = third
        word[3 * LANES + i] = fourth + <uint32_t> i * step_3
    bcn_philox(word, <uint32_t> seed, <uint32_t> (seed >> 32))


cdef inline void drop_row(floating* a, floating* slope, uint32_t rate, floating scale,
                          uint64_t seed, uint32_t epoch, uint64_t row, uint32_t layer,
                          Py_ssize_t n) noexcept nogil:
    """Dropout (Srivastava et al. 2014): each of n units becomes 0 with probability rate / 65536,
    its slope too; the others are multiplied by ``scale``.

    A unit's fate is a function of (seed, epoch, row, layer, unit): unit u has the lower or the
    upper half (u % 2) of word u // 2 % 4 of the counter (row, epoch, layer + 1, u // 8). The last
    word of the counter is 0 in `shuffle` and never here.
    """
    cdef uint32_t word[4 * LANES]
    cdef uint32_t bits[UNITS]
    cdef Py_ssize_t chunk, start, count, i, k
    for chunk in range((n + UNITS - 1) // UNITS):
        start = chunk * UNITS
        random_words(word, row, 0, epoch,
                     ((layer + 1) << 20) + <uint32_t> (chunk * LANES), 1, seed)
        for i in range(LANES):
            for k in range(4):
                bits[8 * i + 2 * k] = word[LANES * k + i] & 0xFFFF
                bits[8 * i + 2 * k + 1] = word[LANES * k + i] >> 16
        count = min(<Py_ssize_t> UNITS, n - start)
        for i in range(count):
            a[start + i] = a[start + i] * scale if bits[i] >= rate else 0
            slope[start + i] = slope[start + i] * scale if bits[i] >= rate else 0


cdef inline void shuffle(row_index* order, Py_ssize_t n, uint64_t seed,
                         uint32_t epoch) noexcept nogil:
    """A random permutation of 0..n-1 (Fisher and Yates), a function of (seed, epoch, n).

    Four words of Philox make two numbers of 64 bits: counter i // 2 serves rows i and i ^ 1.
    """
    cdef uint32_t word[4 * LANES]
    cdef uint64_t draws[DRAWS + 2 * LANES + 2]
    cdef Py_ssize_t i, j, first, counter, block
    cdef Py_ssize_t last = n
    cdef row_index kept
    for i in range(n):
        order[i] = <row_index> i
    while last > 1:
        first = max(<Py_ssize_t> 1, last - DRAWS)
        counter = first // 2
        for block in range(((last - 1) // 2 - counter) // LANES + 1):
            random_words(word, <uint64_t> (counter + LANES * block), 1, epoch, 0, 0, seed)
            for i in range(LANES):
                j = 2 * (LANES * block + i)
                draws[j] = word[i] | <uint64_t> word[LANES + i] << 32
                draws[j + 1] = word[2 * LANES + i] | <uint64_t> word[3 * LANES + i] << 32
        for i in range(last - 1, first - 1, -1):
            j = <Py_ssize_t> bcn_high_product(draws[i - 2 * counter], <uint64_t> (i + 1))
            kept = order[i]
            order[i] = order[j]
            order[j] = kept
        last = first
