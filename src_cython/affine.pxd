# Matrix products for row-major matrices: C[i, :] = sum over k of a(i, k) B[k, :].
#
# Forward pass, deltas and weight gradients all have this shape, with other strides for a:
#   z_l  = [a, 1] [W; b]    a(i, k) is row i of the activations
#   da_l = dz W^T           a(i, k) is row i of dz, B the transposed weights
#   dW_l = [a, 1]^T dz      a(i, k) is column i of the activations, k runs over the batch
# Each element of C is one chain of multiply-adds over k, in order: its bits depend neither on
# the tile it falls into nor on the width of the vectors. Columns come in units of 8, so
# buffers are padded to that; a tile keeps rows x columns accumulators in registers.
#
# Matrices that are read as B again and again (weights and their transposes) are stored in
# panels as wide as the widest tile, one below the other: a tile then reads B from one address
# on, which the hardware prefetches; rows a leading dimension apart it does not.

from bcenet.cimports.vecmath cimport floating, muladd

cdef extern from "platform.h" nogil:
    enum:
        bcn_units_float32
        bcn_units_float64
        bcn_rows_float32
        bcn_rows_float64
        bcn_rows_narrow
    void bcn_transpose_float32(float* to, Py_ssize_t ld_to, const float* source,
                               Py_ssize_t ld_source)
    void bcn_transpose_float64(double* to, Py_ssize_t ld_to, const double* source,
                               Py_ssize_t ld_source)

cdef enum:
    UNIT = 8  # columns of the narrowest tile
    LINE = 16  # leading dimensions are multiples of this: rows begin on a cache line
    MAX_TILE = 6 * 64  # accumulators of the largest tile
    PANEL_32 = 8 * bcn_units_float32  # columns of a panel, and of the widest tile
    PANEL_64 = 8 * bcn_units_float64

cdef enum Finish:
    # What is done with the sums s of a tile.
    STORE  # C = s
    RELU  # C = max(s, 0); a NaN stays a NaN
    MULTIPLY  # C = C * s: da times the slope that lies in C
    GATE  # C = s where the gate is positive, else 0: da times the slope of relu


cdef inline Py_ssize_t padded(Py_ssize_t columns) noexcept nogil:
    """Columns rounded up to whole units."""
    return (columns + UNIT - 1) // UNIT * UNIT


cdef inline Py_ssize_t leading(Py_ssize_t columns) noexcept nogil:
    """The leading dimension of a padded matrix that is not in panels.

    Multiples of 256 get one line more: rows a multiple of 1 KB apart fall into few cache sets.
    """
    cdef Py_ssize_t width = (columns + LINE - 1) // LINE * LINE
    return width + LINE if width % 256 == 0 else width


cdef inline floating positive_part(floating x) noexcept nogil:
    """max(x, 0); a NaN stays a NaN."""
    return 0 if x < 0 else x


cdef inline floating gated(floating x, floating gate) noexcept nogil:
    """x where the gate is positive, else 0. A function: both are read whatever the gate."""
    return x if gate > 0 else 0


cdef inline void store(floating* c, Py_ssize_t ldc, const floating* sums, Py_ssize_t rows,
                       Py_ssize_t columns) noexcept nogil:
    cdef Py_ssize_t i, j
    for i in range(rows):
        for j in range(columns):
            c[i * ldc + j] = sums[i * columns + j]


cdef inline void tile(floating* c, Py_ssize_t ldc, const floating* a, Py_ssize_t a_row,
                      Py_ssize_t a_k, const floating* b, Py_ssize_t ldb, Py_ssize_t depth,
                      Finish finish, const floating* gate, Py_ssize_t rows,
                      Py_ssize_t columns) noexcept nogil:
    """One tile; depth is 1 or more. ``rows`` and ``columns`` are constants at every call."""
    cdef floating sums[MAX_TILE]
    cdef Py_ssize_t i, j, k
    cdef floating x
    for i in range(rows):
        for j in range(columns):
            sums[i * columns + j] = 0
    k = 0
    while True:  # no test before the first term: with one, gcc keeps the sums in memory
        for i in range(rows):
            x = a[i * a_row + k * a_k]
            for j in range(columns):
                sums[i * columns + j] = muladd(x, b[k * ldb + j], sums[i * columns + j])
        k += 1
        if k >= depth:
            break
    if finish == STORE:
        store(c, ldc, sums, rows, columns)
    elif finish == RELU:
        for i in range(rows):
            for j in range(columns):
                sums[i * columns + j] = positive_part(sums[i * columns + j])
        store(c, ldc, sums, rows, columns)
    elif finish == MULTIPLY:
        for i in range(rows):
            for j in range(columns):
                sums[i * columns + j] *= c[i * ldc + j]  # [formula hidden-dz]
        store(c, ldc, sums, rows, columns)
    else:
        for i in range(rows):
            for j in range(columns):
                # [formula hidden-dz] of relu
                sums[i * columns + j] = gated(sums[i * columns + j], gate[i * ldc + j])
        store(c, ldc, sums, rows, columns)


cdef inline void strip(floating* c, Py_ssize_t ldc, const floating* a, Py_ssize_t a_row,
                       Py_ssize_t a_k, const floating* b, Py_ssize_t ldb, Py_ssize_t rows,
                       Py_ssize_t depth, Finish finish, const floating* gate,
                       Py_ssize_t tile_rows, Py_ssize_t units) noexcept nogil:
    """All rows of ``units`` * 8 columns; the last two arguments are constants."""
    cdef Py_ssize_t i = 0
    while i + tile_rows <= rows:
        tile(c + i * ldc, ldc, a + i * a_row, a_row, a_k, b, ldb, depth, finish,
             gate + i * ldc, tile_rows, units * UNIT)
        i += tile_rows
    if tile_rows > 4 and i + 4 <= rows:
        tile(c + i * ldc, ldc, a + i * a_row, a_row, a_k, b, ldb, depth, finish,
             gate + i * ldc, 4, units * UNIT)
        i += 4
    if tile_rows > 2 and i + 2 <= rows:
        tile(c + i * ldc, ldc, a + i * a_row, a_row, a_k, b, ldb, depth, finish,
             gate + i * ldc, 2, units * UNIT)
        i += 2
    if i < rows:
        tile(c + i * ldc, ldc, a + i * a_row, a_row, a_k, b, ldb, depth, finish,
             gate + i * ldc, 1, units * UNIT)


cdef inline void product(floating* c, Py_ssize_t ldc, const floating* a, Py_ssize_t a_row,
                         Py_ssize_t a_k, const floating* b, Py_ssize_t ldb,
                         Py_ssize_t panel_size, Py_ssize_t rows, Py_ssize_t depth,
                         Py_ssize_t columns, Finish finish,
                         const floating* gate) noexcept nogil:
    """C (rows, columns) from a (rows, depth) and B (depth, columns); columns is padded.

    B lies in panels if ``panel_size``, the numbers of a whole one, is not 0; else its rows are
    ``ldb`` apart. ``gate`` has the layout of C, and is read by GATE alone.
    """
    cdef Py_ssize_t j = 0
    cdef Py_ssize_t units, widest, panel
    if floating is float:
        widest = bcn_units_float32
        panel = PANEL_32
    else:
        widest = bcn_units_float64
        panel = PANEL_64
    while j < columns:
        units = (columns - j) // UNIT
        if panel_size > 0 and j % panel == 0:
            ldb = min(panel, columns - j)
        if units >= widest:
            units = widest
            if floating is float:
                strip(c + j, ldc, a, a_row, a_k, b, ldb, rows, depth, finish, gate + j,
                      bcn_rows_float32, bcn_units_float32)
            else:
                strip(c + j, ldc, a, a_row, a_k, b, ldb, rows, depth, finish, gate + j,
                      bcn_rows_float64, bcn_units_float64)
        elif units >= 6 and widest > 6:
            units = 6
            strip(c + j, ldc, a, a_row, a_k, b, ldb, rows, depth, finish, gate + j,
                  bcn_rows_narrow, 6)
        elif units >= 4 and widest > 4:
            units = 4
            strip(c + j, ldc, a, a_row, a_k, b, ldb, rows, depth, finish, gate + j,
                  bcn_rows_narrow, 4)
        elif units >= 2 and widest > 2:
            units = 2
            strip(c + j, ldc, a, a_row, a_k, b, ldb, rows, depth, finish, gate + j,
                  bcn_rows_narrow, 2)
        else:
            units = 1
            strip(c + j, ldc, a, a_row, a_k, b, ldb, rows, depth, finish, gate + j,
                  bcn_rows_narrow, 1)
        j += units * UNIT
        b += panel_size if panel_size > 0 and j % panel == 0 else units * UNIT


cdef inline void dot_lanes(floating* lanes, const floating* a, const floating* b,
                           Py_ssize_t n) noexcept nogil:
    """The 8 chains of a dot product of n terms, a multiple of 8: lane j has terms j, j + 8, …"""
    cdef floating sums[UNIT]
    cdef Py_ssize_t i, j
    for j in range(UNIT):
        sums[j] = 0
    for i in range(n // UNIT):
        for j in range(UNIT):
            sums[j] = muladd(a[UNIT * i + j], b[UNIT * i + j], sums[j])
    for j in range(UNIT):
        lanes[j] = sums[j]


cdef inline floating lane_sum(const floating* lanes) noexcept nogil:
    """The tree that ends a dot product."""
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + (
        (lanes[1] + lanes[5]) + (lanes[3] + lanes[7]))


cdef inline void dots(floating* c, Py_ssize_t c_row, const floating* a, Py_ssize_t lda,
                      const floating* b, Py_ssize_t n, Py_ssize_t rows) noexcept nogil:
    """c_i = sum over k of a(i, k) b_k: 8 chains, then a tree, in one fixed order for every row.

    The trees of 8 rows are added side by side.
    """
    cdef floating lanes[UNIT * UNIT]
    cdef floating turned[UNIT * UNIT]
    cdef floating sums[UNIT]
    cdef Py_ssize_t start, count, i
    for start in range(0, rows, 8):
        count = min(<Py_ssize_t> UNIT, rows - start)
        for i in range(count):
            dot_lanes(lanes + UNIT * i, a + (start + i) * lda, b, n)
        if floating is float:
            bcn_transpose_float32(turned, UNIT, lanes, UNIT)
        else:
            bcn_transpose_float64(turned, UNIT, lanes, UNIT)
        for i in range(UNIT):
            sums[i] = ((turned[i] + turned[4 * UNIT + i])
                       + (turned[2 * UNIT + i] + turned[6 * UNIT + i])) + (
                (turned[UNIT + i] + turned[5 * UNIT + i])
                + (turned[3 * UNIT + i] + turned[7 * UNIT + i]))
        for i in range(count):
            c[(start + i) * c_row] = sums[i]
