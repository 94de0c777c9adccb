# Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy
# as 1, 2, 3", SC 2011). A number is a function of its key and counter, never of time or thread.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from vecmath cimport floating

ctypedef fused row_index:
    int32_t
    int64_t

cdef extern from "platform.h" nogil:
    uint64_t bcn_high_product(uint64_t a, uint64_t b)


cdef inline void philox(uint32_t* counter, uint32_t key_0, uint32_t key_1) noexcept nogil:
    """Replace the four words of ``counter`` by four random ones."""
    cdef uint64_t product_0, product_1
    cdef uint32_t low_0, low_1
    cdef int _round
    for _round in range(10):
        product_0 = <uint64_t> 0xD2511F53 * counter[0]
        product_1 = <uint64_t> 0xCD9E8D57 * counter[2]
        low_0 = <uint32_t> product_0
        low_1 = <uint32_t> product_1
        counter[0] = <uint32_t> (product_1 >> 32) ^ counter[1] ^ key_0
        counter[2] = <uint32_t> (product_0 >> 32) ^ counter[3] ^ key_1
        counter[1] = low_1
        counter[3] = low_0
        key_0 += <uint32_t> 0x9E3779B9
        key_1 += <uint32_t> 0xBB67AE85


cdef enum:
    UNITS = 8  # of a row that one call of Philox serves: 16 bits each
    CALLS = 16  # made side by side, so that they vectorise
    DROPS = 65536  # a drop rate is a whole number of these parts


cdef inline void drop_row(floating* a, floating* slope, uint32_t rate, floating scale,
                          uint64_t seed, uint32_t epoch, uint64_t row, uint32_t layer,
                          Py_ssize_t n) noexcept nogil:
    """Dropout (Srivastava et al. 2014): each of n units becomes 0 with probability rate / 65536,
    its slope too; the others are multiplied by ``scale``.

    A unit's fate is a function of (seed, epoch, row, layer, unit); the last word of the counter
    is 0 in `shuffle` and never here.
    """
    cdef uint32_t words[4 * CALLS]
    cdef uint32_t bits[UNITS * CALLS]
    cdef uint32_t word[4]
    cdef Py_ssize_t chunk, start, count, i, j
    for chunk in range((n + UNITS * CALLS - 1) // (UNITS * CALLS)):
        start = chunk * UNITS * CALLS
        for i in range(CALLS):
            word[0] = <uint32_t> row
            word[1] = <uint32_t> (row >> 32)
            word[2] = epoch
            word[3] = ((layer + 1) << 20) + <uint32_t> (start // UNITS + i)
            philox(word, <uint32_t> seed, <uint32_t> (seed >> 32))
            words[4 * i] = word[0]
            words[4 * i + 1] = word[1]
            words[4 * i + 2] = word[2]
            words[4 * i + 3] = word[3]
        for i in range(4 * CALLS):
            bits[2 * i] = words[i] & 0xFFFF
            bits[2 * i + 1] = words[i] >> 16
        count = min(<Py_ssize_t> (UNITS * CALLS), n - start)
        for j in range(count):
            a[start + j] = a[start + j] * scale if bits[j] >= rate else 0
            slope[start + j] = slope[start + j] * scale if bits[j] >= rate else 0


cdef enum:
    DRAWS = 256  # numbers drawn at a time: the loop over them vectorises, the swaps do not


cdef inline void shuffle(row_index* order, Py_ssize_t n, uint64_t seed,
                         uint32_t epoch) noexcept nogil:
    """A random permutation of 0..n-1 (Fisher and Yates), a function of (seed, epoch, n).

    Four words of Philox make two numbers of 64 bits: counter i // 2 serves rows i and i ^ 1.
    """
    cdef uint32_t word[4]
    cdef uint64_t draws[DRAWS + 2]
    cdef Py_ssize_t i, j, first, counter
    cdef Py_ssize_t last = n
    cdef row_index kept
    for i in range(n):
        order[i] = <row_index> i
    while last > 1:
        first = max(<Py_ssize_t> 1, last - DRAWS)
        counter = first // 2
        for i in range((last - 1) // 2 - counter + 1):
            word[0] = <uint32_t> (counter + i)
            word[1] = <uint32_t> (<uint64_t> (counter + i) >> 32)
            word[2] = epoch
            word[3] = 0
            philox(word, <uint32_t> seed, <uint32_t> (seed >> 32))
            draws[2 * i] = word[0] | <uint64_t> word[1] << 32
            draws[2 * i + 1] = word[2] | <uint64_t> word[3] << 32
        for i in range(last - 1, first - 1, -1):
            j = <Py_ssize_t> bcn_high_product(draws[i - 2 * counter], <uint64_t> (i + 1))
            kept = order[i]
            order[i] = order[j]
            order[j] = kept
        last = first
