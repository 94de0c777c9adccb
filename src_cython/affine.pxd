# Matrix products for row-major matrices: C[i, :] = sum over k of a(i, k) B[k, :].
#
# Forward pass, deltas and weight gradients all have this shape, with other strides for a:
#   z_l  = [a, 1] [W; b]    a(i, k) is row i of the activations
#   da_l = dz W^T           a(i, k) is row i of dz, B the transposed weights
#   dW_l = [a, 1]^T dz      a(i, k) is column i of the activations, k runs over the batch
# Each element of C is one chain of multiply-adds over k, in order: its bits depend neither on
# the tile it falls into nor on the width of the vectors. Columns come in units of 16, so
# buffers are padded to that; a tile keeps rows x columns accumulators in registers.

from vecmath cimport floating, muladd

cdef extern from "platform.h" nogil:
    enum:
        bcn_units_float32
        bcn_units_float64
        bcn_rows_float32
        bcn_rows_float64
        bcn_rows_narrow

cdef enum:
    UNIT = 16  # columns of the narrowest tile
    MAX_TILE = 6 * 64 + 8 * 16 * 4  # accumulators of the largest tile, with room to spare

cdef enum Finish:
    STORE  # C = A B
    MULTIPLY  # C = C * (A B), element by element: da times the slope already in C


cdef inline Py_ssize_t padded(Py_ssize_t columns) noexcept nogil:
    """Columns rounded up to whole units."""
    return (columns + UNIT - 1) // UNIT * UNIT


cdef inline Py_ssize_t leading(Py_ssize_t columns) noexcept nogil:
    """The leading dimension of a padded matrix.

    Multiples of 256 get one more unit: rows a multiple of 1 KB apart fall into few cache sets.
    """
    cdef Py_ssize_t width = padded(columns)
    return width + UNIT if width % 256 == 0 else width


cdef inline void tile(floating* c, Py_ssize_t ldc, const floating* a, Py_ssize_t a_row,
                      Py_ssize_t a_k, const floating* b, Py_ssize_t ldb, Py_ssize_t depth,
                      Finish finish, Py_ssize_t rows, Py_ssize_t columns) noexcept nogil:
    """One tile. ``finish``, ``rows`` and ``columns`` are constants at every call."""
    cdef floating sums[MAX_TILE]
    cdef Py_ssize_t i, j, k
    cdef floating x
    for i in range(rows):
        for j in range(columns):
            sums[i * columns + j] = 0
    for k in range(depth):
        for i in range(rows):
            x = a[i * a_row + k * a_k]
            for j in range(columns):
                sums[i * columns + j] = muladd(x, b[k * ldb + j], sums[i * columns + j])
    for i in range(rows):
        for j in range(columns):
            if finish == MULTIPLY:
                c[i * ldc + j] *= sums[i * columns + j]
            else:
                c[i * ldc + j] = sums[i * columns + j]


cdef inline void panel(floating* c, Py_ssize_t ldc, const floating* a, Py_ssize_t a_row,
                       Py_ssize_t a_k, const floating* b, Py_ssize_t ldb, Py_ssize_t rows,
                       Py_ssize_t depth, Finish finish, Py_ssize_t tile_rows,
                       Py_ssize_t units) noexcept nogil:
    """All rows of ``units`` * 16 columns; the last three arguments are constants."""
    cdef Py_ssize_t i = 0
    while i + tile_rows <= rows:
        tile(c + i * ldc, ldc, a + i * a_row, a_row, a_k, b, ldb, depth, finish, tile_rows,
             units * UNIT)
        i += tile_rows
    if tile_rows > 4 and i + 4 <= rows:
        tile(c + i * ldc, ldc, a + i * a_row, a_row, a_k, b, ldb, depth, finish, 4,
             units * UNIT)
        i += 4
    if tile_rows > 2 and i + 2 <= rows:
        tile(c + i * ldc, ldc, a + i * a_row, a_row, a_k, b, ldb, depth, finish, 2,
             units * UNIT)
        i += 2
    if i < rows:
        tile(c + i * ldc, ldc, a + i * a_row, a_row, a_k, b, ldb, depth, finish, 1,
             units * UNIT)


cdef inline void product(floating* c, Py_ssize_t ldc, const floating* a, Py_ssize_t a_row,
                         Py_ssize_t a_k, const floating* b, Py_ssize_t ldb, Py_ssize_t rows,
                         Py_ssize_t depth, Py_ssize_t columns, Finish finish) noexcept nogil:
    """C (rows, columns) from a (rows, depth) and B (depth, columns); columns is padded."""
    cdef Py_ssize_t j = 0
    cdef Py_ssize_t units, widest
    if floating is float:
        widest = bcn_units_float32
    else:
        widest = bcn_units_float64
    while j < columns:
        units = min((columns - j) // UNIT, widest)
        if units == widest and floating is float:
            panel(c + j, ldc, a, a_row, a_k, b + j, ldb, rows, depth, finish,
                  bcn_rows_float32, bcn_units_float32)
        elif units == widest:
            panel(c + j, ldc, a, a_row, a_k, b + j, ldb, rows, depth, finish,
                  bcn_rows_float64, bcn_units_float64)
        elif units == 3:
            panel(c + j, ldc, a, a_row, a_k, b + j, ldb, rows, depth, finish,
                  bcn_rows_narrow, 3)
        elif units == 2:
            panel(c + j, ldc, a, a_row, a_k, b + j, ldb, rows, depth, finish,
                  bcn_rows_narrow, 2)
        else:
            panel(c + j, ldc, a, a_row, a_k, b + j, ldb, rows, depth, finish,
                  bcn_rows_narrow, 1)
        j += units * UNIT
