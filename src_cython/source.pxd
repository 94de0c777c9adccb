# Numbers from any NumPy layout: every real dtype up to 64 bits, either byte order, any strides
# (also 0 and negative), unaligned. Kernels read blocks of a Layout into a small buffer of their
# own type, so nothing is ever copied whole.

from libc.stdint cimport (
    int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t,
)
from libc.string cimport memcpy

from bcenet.cimports.vecmath cimport bcn_float32, floating

cdef extern from "platform.h" nogil:
    void bcn_prefetch(const void* p)

cdef enum:
    MAX_DIMENSIONS = 64  # NumPy's own limit

# Of dtypes: Source in module.pxi finds the code of an array's.
cdef enum Code:
    INT8
    INT16
    INT32
    INT64
    UINT8
    UINT16
    UINT32
    UINT64
    FLOAT16
    FLOAT32
    FLOAT64

cdef struct Layout:
    const char* data
    int code
    bint swapped
    Py_ssize_t item_size
    int dimensions
    Py_ssize_t size
    Py_ssize_t[MAX_DIMENSIONS] shape
    Py_ssize_t[MAX_DIMENSIONS] strides  # in bytes

ctypedef fused stored:
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    float
    double


cdef inline void fetch(void* item, const char* p, Py_ssize_t size, bint swapped) noexcept nogil:
    """Copy ``size`` bytes, unaligned, in the processor's byte order."""
    cdef Py_ssize_t i
    if swapped:
        for i in range(size):
            (<char*> item)[i] = p[size - 1 - i]
    else:
        memcpy(item, p, size)


cdef inline float half_to_float(uint16_t bits) noexcept nogil:
    """An IEEE 754 binary16 number; subnormals, infinities and NaN included."""
    cdef uint32_t sign = (<uint32_t> bits & 0x8000) << 16
    cdef uint32_t rest = <uint32_t> bits & 0x7FFF
    if rest >= 0x7C00:
        return bcn_float32(sign | 0x7F800000 | (rest << 13))
    # Shifted in place the exponent is too small by 112, subnormals too: one exact product.
    return bcn_float32(sign | (rest << 13)) * bcn_float32(<uint32_t> (127 + 112) << 23)


cdef inline void read_items(floating* out, stored item, const char* p, Py_ssize_t stride,
                            Py_ssize_t n, bint swapped) noexcept nogil:
    """n items of the type of ``item`` (its value is not used), ``stride`` bytes apart."""
    cdef Py_ssize_t i
    for i in range(n):
        fetch(&item, p + i * stride, sizeof(item), swapped)
        out[i] = <floating> item


cdef inline bint is_plain(const Layout* s, const floating* unused) noexcept nogil:
    """Whether rows can be read as they lie: the type of ``unused``, aligned, contiguous."""
    if floating is float and s.code != FLOAT32 or floating is double and s.code != FLOAT64:
        return False
    if s.swapped:
        return False
    if <size_t> s.data % sizeof(floating) != 0 or s.strides[0] % sizeof(floating) != 0:
        return False
    return s.dimensions == 1 or s.strides[1] == sizeof(floating)


cdef inline void copy_run(floating* out, const floating* p, Py_ssize_t n) noexcept nogil:
    """n numbers: eights, the last of which may overlap the one before."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t j
    if n < 8:
        for j in range(n):
            out[j] = p[j]
        return
    while i + 8 <= n:
        for j in range(8):
            out[i + j] = p[i + j]
        i += 8
    for j in range(8):
        out[n - 8 + j] = p[n - 8 + j]


cdef inline void read_run(floating* out, const Layout* s, const char* p, Py_ssize_t stride,
                          Py_ssize_t n) noexcept nogil:
    """n items from p on, ``stride`` bytes apart, converted."""
    cdef Py_ssize_t i
    cdef uint16_t half
    if not s.swapped and stride == sizeof(floating) and <size_t> p % sizeof(floating) == 0 and (
            s.code == FLOAT32 and floating is float or s.code == FLOAT64 and floating is double):
        copy_run(out, <const floating*> p, n)
    elif s.code == FLOAT32:
        read_items(out, <float> 0, p, stride, n, s.swapped)
    elif s.code == FLOAT64:
        read_items(out, <double> 0, p, stride, n, s.swapped)
    elif s.code == INT8:
        read_items(out, <int8_t> 0, p, stride, n, s.swapped)
    elif s.code == INT16:
        read_items(out, <int16_t> 0, p, stride, n, s.swapped)
    elif s.code == INT32:
        read_items(out, <int32_t> 0, p, stride, n, s.swapped)
    elif s.code == INT64:
        read_items(out, <int64_t> 0, p, stride, n, s.swapped)
    elif s.code == UINT8:
        read_items(out, <uint8_t> 0, p, stride, n, s.swapped)
    elif s.code == UINT16:
        read_items(out, <uint16_t> 0, p, stride, n, s.swapped)
    elif s.code == UINT32:
        read_items(out, <uint32_t> 0, p, stride, n, s.swapped)
    elif s.code == UINT64:
        read_items(out, <uint64_t> 0, p, stride, n, s.swapped)
    elif s.code == FLOAT16:
        for i in range(n):
            fetch(&half, p + i * stride, 2, s.swapped)
            out[i] = half_to_float(half)


cdef inline void prefetch_row(const Layout* s, Py_ssize_t row) noexcept nogil:
    """Ask for the first three cache lines of a row; the hardware follows from there."""
    cdef const char* p = s.data + row * s.strides[0]
    cdef Py_ssize_t bytes = s.item_size * (s.shape[1] if s.dimensions > 1 else 1)
    bcn_prefetch(p)
    bcn_prefetch(p + min(bytes, <Py_ssize_t> 64))
    bcn_prefetch(p + min(bytes, <Py_ssize_t> 128))


cdef inline void read_row(floating* out, const Layout* s, Py_ssize_t row) noexcept nogil:
    """Row ``row`` of a layout of one or two dimensions."""
    cdef const char* p = s.data + row * s.strides[0]
    if s.dimensions == 1:
        read_run(out, s, p, s.item_size, 1)
    else:
        read_run(out, s, p, s.strides[1], s.shape[1])


cdef inline void read_block(floating* out, const Layout* s, Py_ssize_t start,
                            Py_ssize_t n) noexcept nogil:
    """n items from the flat index ``start`` on, in C order, of a layout of any dimensions."""
    cdef Py_ssize_t index[MAX_DIMENSIONS]
    cdef Py_ssize_t rest = start
    cdef Py_ssize_t run
    cdef int d
    cdef int last = s.dimensions - 1
    cdef const char* p = s.data
    if last < 0:
        read_run(out, s, p, s.item_size, n)
        return
    for d in range(last, -1, -1):
        index[d] = rest % s.shape[d]
        rest //= s.shape[d]
        p += index[d] * s.strides[d]
    while n > 0:
        run = min(n, s.shape[last] - index[last])
        read_run(out, s, p, s.strides[last], run)
        out += run
        n -= run
        # On to the next row: the odometer turns.
        p += (run - 1) * s.strides[last]
        index[last] += run - 1
        d = last
        while d >= 0:
            index[d] += 1
            p += s.strides[d]
            if index[d] < s.shape[d]:
                break
            p -= s.shape[d] * s.strides[d]
            index[d] = 0
            d -= 1
