# Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy
# as 1, 2, 3", SC 2011). A number is a function of its key and counter, never of time or thread.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

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
