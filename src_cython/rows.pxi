# The rows phase: blocks of the batch's rows, through all layers forward, the loss, and back.

cdef void forward_product(floating* c, Py_ssize_t ldc, const floating* a, Py_ssize_t lda,
                          const floating* b, Py_ssize_t ldb, Py_ssize_t panel_size,
                          Py_ssize_t rows, Py_ssize_t depth, Py_ssize_t columns,
                          Finish finish, const floating* gate) noexcept nogil:
    """Rows of a times B. Its own function, so that the tiles are compiled once."""
    product(c, ldc, a, lda, 1, b, ldb, panel_size, rows, depth, columns, finish, gate)


cdef void gather(const Job* job, floating* x, Py_ssize_t buffer_row, Py_ssize_t position,
                 Py_ssize_t rows) noexcept nogil:
    """Rows of X, converted, into the input of the first layer; a 1 follows each."""
    cdef const Layer* layer = &job.plan.layers[0]
    cdef bint plain = is_plain(&job.x, x)
    cdef bint shuffled = job.order_32 != NULL or job.order_64 != NULL
    cdef Py_ssize_t i, row
    x += buffer_row * layer.ld_in
    for i in range(rows):
        # Also of the block to come; where rows lie in order, the hardware does it.
        if shuffled and position + i + PREFETCH < job.rows:
            prefetch_row(&job.x, source_row(job, position + i + PREFETCH))
        row = source_row(job, position + i)
        if plain:
            copy_run(x, <const floating*> (job.x.data + row * job.x.strides[0]), layer.fan_in)
        else:
            read_row(x, &job.x, row)
        x[layer.fan_in] = 1
        x += layer.ld_in


cdef void multiply_layer(const Layer* layer, const floating* before, floating* a,
                         Py_ssize_t rows) noexcept nogil:
    """z = [a, 1] [W; b] for rows of the activations before; relu where it is gated."""
    cdef Py_ssize_t width, j
    if layer.narrow:
        width = padded(layer.fan_in + 1)
        for j in range(layer.fan_out):
            dots(a + j, layer.ld_a, before, layer.ld_in, <floating*> layer.w + j * width, width,
                 rows)
    else:
        # [formula forward]
        forward_product(a, layer.ld_a, before, layer.ld_in, <floating*> layer.w, 0,
                        layer.panel * layer.rows, rows, layer.fan_in + 1, padded(layer.fan_out),
                        RELU if layer.gated else STORE, a)


ctypedef fused place:
    int32_t
    int64_t


cdef inline Py_ssize_t row_start(const Sparse* s, Py_ssize_t row) noexcept nogil:
    return s.starts_64[row] if s.starts_32 == NULL else s.starts_32[row]


cdef inline Py_ssize_t column_of(const Sparse* s, Py_ssize_t entry) noexcept nogil:
    return s.columns_64[entry] if s.columns_32 == NULL else s.columns_32[entry]


cdef inline void prefetch_entries(const Job* job, Py_ssize_t position) noexcept nogil:
    """Ask for the entries of a row to come, and for where those of one far behind it begin."""
    cdef const Sparse* s = &job.entries
    cdef Py_ssize_t row, e
    if position + SPARSE_PREFETCH < job.rows:
        row = source_row(job, position + SPARSE_PREFETCH)
        if s.starts_32 == NULL:
            bcn_prefetch(s.starts_64 + row)
        else:
            bcn_prefetch(s.starts_32 + row)
    if position < job.rows:
        row = source_row(job, position)
        for e in range(row_start(s, row), row_start(s, row + 1), 16):  # 64 bytes of int32
            bcn_prefetch(s.values.data + e * s.values.strides[0])
            if s.columns_32 == NULL:
                bcn_prefetch(s.columns_64 + e)
                bcn_prefetch(s.columns_64 + e + 8)
            else:
                bcn_prefetch(s.columns_32 + e)


cdef inline void read_entries(floating* values, const Sparse* s, Py_ssize_t first,
                              Py_ssize_t n) noexcept nogil:
    read_run(values, &s.values, s.values.data + first * s.values.strides[0],
             s.values.strides[0], n)


cdef inline void add_row(floating* sums, const floating* w, floating x,
                         Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        sums[j] = muladd(x, w[j], sums[j])


cdef void multiply_sparse(const Job* job, floating* a, Py_ssize_t position,
                          Py_ssize_t rows) noexcept nogil:
    """`multiply_layer` of sparse rows: what is 0 is left out of the same chains, so the bits are
    those of dense rows."""
    cdef const Layer* layer = &job.plan.layers[0]
    cdef const Sparse* s = &job.entries
    cdef floating values[SPARSE_ENTRIES]
    cdef floating sums[PANEL_32]
    cdef floating lanes[NARROW * UNIT]
    cdef const floating* w = <floating*> layer.w
    cdef Py_ssize_t i, row, first, last
    for i in range(rows):
        prefetch_entries(job, position + i + SPARSE_PREFETCH)
        row = source_row(job, position + i)
        first = row_start(s, row)
        last = row_start(s, row + 1)
        if layer.narrow and s.columns_32 == NULL:
            sparse_dots(a, layer, w, s, s.columns_64, first, last, values, lanes, layer.fan_out)
        elif layer.narrow and layer.fan_out == 1:
            sparse_dots(a, layer, w, s, s.columns_32, first, last, values, lanes, 1)
        elif layer.narrow:
            sparse_dots(a, layer, w, s, s.columns_32, first, last, values, lanes, layer.fan_out)
        else:
            sparse_panels(a, layer, w, s, first, last, values, sums)
        a += layer.ld_a


cdef inline void sparse_panels(floating* z, const Layer* layer, const floating* w,
                               const Sparse* s, Py_ssize_t first, Py_ssize_t last,
                               floating* values, floating* sums) noexcept nogil:
    """One row, one panel of W's columns after another."""
    cdef Py_ssize_t panel, start, ld, e, n, j
    cdef const floating* stored
    for panel in range((padded(layer.columns) + layer.panel - 1) // layer.panel):
        start = panel * layer.panel
        ld = min(layer.panel, padded(layer.columns) - start)
        stored = w + start * layer.rows
        for j in range(ld):
            sums[j] = 0
        e = first
        while e < last:
            n = min(<Py_ssize_t> SPARSE_ENTRIES, last - e)
            read_entries(values, s, e, n)
            for j in range(n):
                if j + 8 < n:
                    bcn_prefetch(stored + column_of(s, e + j + 8) * ld)
                add_row(sums, stored + column_of(s, e + j) * ld, values[j], ld)
            e += n
        add_row(sums, stored + layer.fan_in * ld, <floating> 1, ld)
        if layer.gated:
            for j in range(ld):
                sums[j] = 0 if sums[j] < 0 else sums[j]
        copy_values(z + start, <const floating*> sums, ld)


cdef inline void sparse_dots(floating* z, const Layer* layer, const floating* w,
                             const Sparse* s, const place* columns, Py_ssize_t first,
                             Py_ssize_t last, floating* values, floating* lanes,
                             Py_ssize_t outputs) noexcept nogil:
    """One row of a narrow layer: the lanes of `dots`."""
    cdef Py_ssize_t width = padded(layer.columns)
    cdef Py_ssize_t e = first
    cdef Py_ssize_t n, i, j
    cdef size_t k
    for j in range(outputs * UNIT):
        lanes[j] = 0
    while e < last:
        n = min(<Py_ssize_t> SPARSE_ENTRIES, last - e)
        read_entries(values, s, e, n)
        for i in range(n):
            if e + i + ENTRIES_AHEAD < last:
                bcn_prefetch(w + columns[e + i + ENTRIES_AHEAD])
            k = <size_t> columns[e + i]
            for j in range(outputs):
                lanes[j * UNIT + k % UNIT] = muladd(values[i], w[j * width + k],
                                                    lanes[j * UNIT + k % UNIT])
        e += n
    for j in range(outputs):
        lanes[j * UNIT + layer.fan_in % UNIT] += w[j * width + layer.fan_in]
        z[j] = lane_sum(<const floating*> lanes + j * UNIT)


cdef bint sparse_finite(const Job* job, Py_ssize_t position, Py_ssize_t rows,
                        floating* unused) noexcept nogil:
    """Whether all entries of rows are; ``unused`` gives the type."""
    cdef floating values[SPARSE_ENTRIES]
    cdef Py_ssize_t i, row, e, last, n
    for i in range(rows):
        row = source_row(job, position + i)
        e = row_start(&job.entries, row)
        last = row_start(&job.entries, row + 1)
        while e < last:
            n = min(<Py_ssize_t> SPARSE_ENTRIES, last - e)
            read_entries(values, &job.entries, e, n)
            if not all_finite(<const floating*> values, n):
                return False
            e += n
    return True


cdef void index_batch(Job* job, floating* unused) noexcept nogil:
    """The entries of the batch by columns of X, for the gradient; ``unused`` gives the type."""
    cdef Index* index = &job.plan.index
    cdef const Sparse* s = &job.entries
    cdef floating values[SPARSE_ENTRIES]
    cdef Py_ssize_t position = job.batch * job.batch_size
    cdef Py_ssize_t i, j, row, e, last, n
    cdef Py_ssize_t total = 0
    cdef int32_t slot
    for i in range(index.count):
        index.slots[index.columns[i]] = -1
    index.count = 0
    for i in range(job.batch_rows):
        prefetch_entries(job, position + i + SPARSE_PREFETCH)
        row = source_row(job, position + i)
        for e in range(row_start(s, row), row_start(s, row + 1)):
            slot = index.slots[column_of(s, e)]
            if slot < 0:
                slot = <int32_t> index.count
                index.slots[column_of(s, e)] = slot
                index.columns[slot] = <int32_t> column_of(s, e)
                index.ends[slot] = 0
                index.count += 1
            index.ends[slot] += 1
            index.places[total] = slot
            total += 1
    total = 0
    for i in range(index.count):  # from how many to where they begin, and then to where they end
        n = index.ends[i]
        index.ends[i] = <int32_t> total
        total += n
    total = 0
    for i in range(job.batch_rows):
        row = source_row(job, position + i)
        e = row_start(s, row)
        last = row_start(s, row + 1)
        while e < last:
            n = min(<Py_ssize_t> SPARSE_ENTRIES, last - e)
            read_entries(values, s, e, n)
            for j in range(n):
                slot = index.places[total + j]
                index.rows[index.ends[slot]] = <int32_t> i
                (<floating*> index.values)[index.ends[slot]] = values[j]
                index.ends[slot] += 1
            total += n
            e += n


cdef inline floating unset(floating unused) noexcept nogil:
    """The NaN of sums that nothing was added to, which arithmetic never makes: all bits are 1."""
    if floating is float:
        return bcn_float32(<uint32_t> 0xFFFFFFFF)
    else:
        return bcn_float64(<uint64_t> 0xFFFFFFFFFFFFFFFF)


cdef inline bint is_unset(floating x) noexcept nogil:
    if floating is float:
        return bcn_bits32(x) == <uint32_t> 0xFFFFFFFF
    else:
        return bcn_bits64(x) == <uint64_t> 0xFFFFFFFFFFFFFFFF


cdef inline floating zero_if(floating x, bint zero) noexcept nogil:
    """x, or 0; by its bits, or the compiler makes a branch of it."""
    if floating is float:
        return bcn_float32(bcn_bits32(x) & (<uint32_t> zero - <uint32_t> 1))
    else:
        return bcn_float64(bcn_bits64(x) & (<uint64_t> zero - <uint64_t> 1))


cdef inline Py_ssize_t scatter_row(floating* sums, int32_t* found, Py_ssize_t count,
                                   const Sparse* s, const place* columns, Py_ssize_t first,
                                   Py_ssize_t last, const floating* dz, floating* values,
                                   Py_ssize_t outputs) noexcept nogil:
    """Add x_ik dz_i of one row to each column's sums; columns not seen before to ``found``.

    Returns their number, which was ``count``.
    """
    cdef Py_ssize_t e = first
    cdef Py_ssize_t n, i, j
    cdef floating* g
    cdef bint is_new
    while e < last:
        n = min(<Py_ssize_t> SPARSE_ENTRIES, last - e)
        read_entries(values, s, e, n)
        for i in range(n):
            if e + i + ENTRIES_AHEAD < last:
                bcn_prefetch(sums + columns[e + i + ENTRIES_AHEAD] * outputs)
            g = sums + columns[e + i] * outputs
            # No branch: where columns are as frequent as words, half would be mispredicted.
            is_new = is_unset(g[0])
            found[count] = <int32_t> columns[e + i]
            count += is_new
            for j in range(outputs):
                g[j] = muladd(values[i], dz[j], zero_if(g[j], is_new))
        e += n
    return count


cdef void scatter_batch(Job* job, floating* unused) noexcept nogil:
    """The gradient of a narrow layer, column by column of the batch's entries, row after row:
    the chains of `column_chain` without an index. ``unused`` gives the type."""
    cdef const Layer* layer = &job.plan.layers[0]
    cdef Index* index = &job.plan.index
    cdef const Sparse* s = &job.entries
    cdef floating values[SPARSE_ENTRIES]
    cdef floating* sums = <floating*> index.sums
    cdef const floating* dz = <floating*> layer.dz
    cdef Py_ssize_t position = job.batch * job.batch_size
    cdef Py_ssize_t count = 0
    cdef Py_ssize_t i, row, first, last
    for i in range(job.batch_rows):
        row = source_row(job, position + i)
        first = row_start(s, row)
        last = row_start(s, row + 1)
        if s.columns_32 == NULL:
            count = scatter_row(sums, index.columns, count, s, s.columns_64, first, last, dz,
                                values, layer.fan_out)
        elif layer.fan_out == 1:
            count = scatter_row(sums, index.columns, count, s, s.columns_32, first, last, dz,
                                values, 1)
        else:
            count = scatter_row(sums, index.columns, count, s, s.columns_32, first, last, dz,
                                values, layer.fan_out)
        dz += layer.ld_a
    index.count = count


cdef void activate_layer(const Job* job, int l, floating* a, Py_ssize_t row,
                         Py_ssize_t position, Py_ssize_t rows) noexcept nogil:
    """From z in ``a``, rows of the buffers from ``row`` on: the normalisation, g, dropout."""
    cdef const Layer* layer = &job.plan.layers[l]
    cdef floating* slope = <floating*> layer.dz + row * layer.ld_a
    cdef floating* normed = NULL
    cdef const floating* gain = <floating*> layer.gains.w
    cdef Py_ssize_t i
    if layer.norm != NO_NORM:
        normed = <floating*> layer.normed + row * layer.ld_a
    for i in range(rows):
        if layer.norm == LAYER_NORM:
            (<floating*> layer.inverse)[row + i] = normalize_row(a, normed, gain,
                                                                 gain + layer.ld_a, layer.fan_out)
        elif layer.norm == BATCH_NORM:
            standardize_row(a, normed, <const floating*> layer.mean,
                            <const floating*> layer.inverse, gain, gain + layer.ld_a,
                            layer.fan_out)
        if layer.narrow or not layer.gated:
            activate(a, slope, layer.activation, padded(layer.fan_out))
        if job.drops and layer.drop_rate > 0:
            drop_row(a, slope, layer.drop_rate, <floating> layer.keep_scale, job.seed, job.epoch,
                     row_number(job, position + i), <uint32_t> l, layer.fan_out)
        a[layer.fan_out] = 1  # the next layer's intercepts meet a 1
        a += layer.ld_a
        slope += layer.ld_a
        if layer.norm != NO_NORM:
            normed += layer.ld_a


cdef int forward(const Job* job, floating* scratch, Py_ssize_t row, Py_ssize_t position,
                 Py_ssize_t rows, int at) noexcept nogil:
    """z_l = [a, 1] [W; b], a_l = g_l(z_l) for rows of the buffers; the last layer stays logits.

    Goes on behind layer ``at``, whose z is there; -1: from X. Returns the layer whose batch
    normalisation must know all rows' z before it goes on, or the number of layers.
    """
    cdef const Plan* plan = job.plan
    cdef const Layer* layer
    cdef floating* a
    cdef int l
    for l in range(max(at, 0), plan.n_layers):
        layer = &plan.layers[l]
        a = <floating*> layer.a + row * layer.ld_a
        if l != at:
            if l == 0 and plan.sparse:
                multiply_sparse(job, a, position, rows)
            else:
                multiply_layer(layer, <floating*> layer.input + row * layer.ld_in, a, rows)
            if layer.norm == BATCH_NORM and plan.batch_statistics:
                return l
        if l + 1 < plan.n_layers:
            activate_layer(job, l, a, row, position, rows)
    return plan.n_layers


cdef void read_targets(const Job* job, floating* t, Py_ssize_t position,
                       Py_ssize_t rows) noexcept nogil:
    """The targets of rows, (rows, outputs)."""
    cdef Py_ssize_t k = job.plan.outputs
    cdef Py_ssize_t i
    if k == 1 and is_plain(&job.y, t):
        for i in range(rows):
            t[i] = (<const floating*> (job.y.data + source_row(job, position + i)
                                       * job.y.strides[0]))[0]
        return
    for i in range(rows):
        read_row(t + i * k, &job.y, source_row(job, position + i))


cdef void read_weights(const Job* job, floating* weight, Py_ssize_t position,
                       Py_ssize_t rows) noexcept nogil:
    """The sample weights of rows, (rows, outputs): one a row serves all its outputs."""
    cdef Py_ssize_t k = job.plan.outputs
    cdef Py_ssize_t i, j
    for i in range(rows):
        if not job.has_sample_weight:
            weight[i * k] = 1
        else:
            read_row(weight + i * k, &job.sample_weight, source_row(job, position + i))
        if not job.has_sample_weight or job.sample_weight.dimensions == 1:
            for j in range(1, k):
                weight[i * k + j] = weight[i * k]


cdef inline void mask(floating* t, floating* weight, Py_ssize_t n) noexcept nogil:
    """Targets that are missing, NaN, weigh nothing."""
    cdef Py_ssize_t i
    for i in range(n):
        weight[i] = weight[i] if t[i] == t[i] else 0
        t[i] = t[i] if t[i] == t[i] else 0


cdef void add_offset(const Job* job, floating* z, floating* offset, Py_ssize_t position,
                     Py_ssize_t rows) noexcept nogil:
    """Add each row's base logits; ``offset`` has room for one row."""
    cdef Py_ssize_t k = job.plan.outputs
    cdef Py_ssize_t i, j
    for i in range(rows):
        read_row(offset, &job.offset, source_row(job, position + i))
        for j in range(k):
            z[i * k + j] += offset[j]


cdef inline bint is_weighted(const Job* job) noexcept nogil:
    return not job.has_derivatives and (job.has_sample_weight or job.plan.objective.masked)


cdef void loss_rows(const Job* job, floating* scratch, Py_ssize_t row,
                    Py_ssize_t position, Py_ssize_t rows) noexcept nogil:
    """Weighted losses of rows to row_loss, and w dl/dz to the last layer's dz.

    A batch's mean is taken by the parameters phase, which divides by the sum of the weights.
    """
    cdef const Plan* plan = job.plan
    cdef const Layer* last = &plan.layers[plan.n_layers - 1]
    cdef Py_ssize_t k = plan.outputs
    cdef Py_ssize_t n = rows * k
    cdef Py_ssize_t i, j
    cdef floating* t = scratch
    cdef floating* loss = t + n
    cdef floating* weight = loss + n
    cdef floating* z = <floating*> last.a + row * last.ld_a
    cdef floating* dz = <floating*> last.dz + row * last.ld_a
    if last.ld_a != k:  # compact copies: the loss runs over contiguous numbers
        z = weight + n
        dz = z + n
        for i in range(rows):
            for j in range(k):
                z[i * k + j] = (<floating*> last.a)[(row + i) * last.ld_a + j]
    read_targets(job, t, position, rows)
    if job.has_derivatives:
        for i in range(n):
            dz[i] = t[i]
            loss[i] = 0
    else:
        if job.has_offset:
            add_offset(job, z, weight, position, rows)
        if is_weighted(job):
            read_weights(job, weight, position, rows)
        if plan.objective.masked:
            mask(t, weight, n)
        if plan.objective.smoothing != 0:
            smooth_block(t, plan.objective.smoothing, n)
        loss_block(loss, dz, z, t, <const floating*> plan.pos_weight, plan.objective.loss,
                   plan.objective.focus, n)
        if is_weighted(job):
            for i in range(n):
                loss[i] = 0 if weight[i] == 0 else weight[i] * loss[i]
                dz[i] = weight[i] * dz[i]
            for i in range(rows):
                plan.row_weight[row + i] = sum_block(weight + i * k, k)
    for i in range(rows):
        plan.row_loss[row + i] = loss[i] if k == 1 else sum_block(loss + i * k, k)
    if last.ld_a != k:
        for i in range(rows):
            for j in range(k):
                (<floating*> last.dz)[(row + i) * last.ld_a + j] = dz[i * k + j]


cdef double weight_of(const Job* job, Py_ssize_t row, Py_ssize_t rows) noexcept nogil:
    """The sum of the weights of rows of the buffers, after their loss."""
    if is_weighted(job):
        return sum_block(<const double*> &job.plan.row_weight[row], rows)
    return <double> (rows * job.plan.outputs)


cdef void normalize_back(const Plan* plan, const Layer* layer, floating* dz, Py_ssize_t row,
                         Py_ssize_t rows) noexcept nogil:
    """dz before a normalisation from dy behind it."""
    cdef const floating* dy = <floating*> layer.dy + row * layer.ld_a
    cdef const floating* normed = <floating*> layer.normed + row * layer.ld_a
    cdef const floating* gain = <floating*> layer.gains.w
    cdef const floating* slopes = <floating*> layer.slopes
    cdef Py_ssize_t i
    for i in range(rows):
        if layer.norm == LAYER_NORM:
            normalize_row_back(dz, dy, normed, gain, (<floating*> layer.inverse)[row + i],
                               layer.fan_out)
        else:
            standardize_row_back(dz, dy, normed, <const floating*> layer.inverse, gain, slopes,
                                 slopes + layer.ld_a, layer.fan_out)
        dz += layer.ld_a
        dy += layer.ld_a
        normed += layer.ld_a


cdef void multiply_back(const Layer* layer, const Layer* before, const floating* dz,
                        floating* dz_before, const floating* gate,
                        Py_ssize_t rows) noexcept nogil:
    """da_{l-1} = dz_l W_l^T, times the slope that lies in ``dz_before`` or follows from a."""
    cdef Finish finish = GATE if before.gated else MULTIPLY
    cdef Py_ssize_t i
    if layer.narrow:
        forward_product(dz_before, before.ld_a, dz, layer.ld_a, <floating*> layer.w,
                        padded(layer.columns), 0, rows, layer.fan_out, padded(layer.fan_in),
                        finish, gate)
        if layer.fan_in % UNIT != 0:  # the intercepts lie in the padding: no delta
            for i in range(rows):
                dz_before[i * before.ld_a + layer.fan_in] = 0
    else:
        # [formula hidden-da], finished by [formula hidden-dz]
        forward_product(dz_before, before.ld_a, dz, layer.ld_a, <floating*> layer.wt, 0,
                        panel_columns(dz) * padded(layer.fan_out), rows, layer.fan_out,
                        padded(layer.fan_in), finish, gate)


cdef void backward(const Plan* plan, floating* scratch, Py_ssize_t row, Py_ssize_t rows,
                   int at) noexcept nogil:
    """da_{l-1} = dz_l W_l^T, dz_{l-1} = da_{l-1} * g'(z_{l-1}).

    From layer ``at`` down, whose dz is there (dy if it is batch-normalised), to the next batch
    normalisation that must know all rows' dy, or to the first layer. The slope lies in
    dz_{l-1}, but that of relu: it is 1 where a_{l-1} is positive, else 0.
    """
    cdef const Layer* layer
    cdef const Layer* before
    cdef floating* dz
    cdef floating* dz_before
    cdef int l
    for l in range(at, -1, -1):
        layer = &plan.layers[l]
        dz = <floating*> layer.dz + row * layer.ld_a
        if layer.norm != NO_NORM and l + 1 < plan.n_layers:
            if layer.norm == BATCH_NORM and plan.batch_statistics and l != at:
                return
            normalize_back(plan, layer, dz, row, rows)
        if l == 0:
            return
        before = &plan.layers[l - 1]
        dz_before = <floating*> before.dz + row * before.ld_a
        multiply_back(layer, before, dz, dz_before, <floating*> before.a + row * before.ld_a,
                      rows)
        if before.norm != NO_NORM:
            copy_values(<floating*> before.dy + row * before.ld_a, <const floating*> dz_before,
                        rows * before.ld_a)


cdef void statistics_item(Job* job, floating* scratch, int64_t index) noexcept nogil:
    """Mean and variance of a line of columns of z over the batch."""
    cdef const Layer* layer = &job.plan.layers[job.at]
    cdef const floating* z = <floating*> layer.a + index * LINE
    cdef double sums[LINE]
    cdef double away
    cdef floating* mean = <floating*> layer.mean + index * LINE
    cdef floating* inverse = <floating*> layer.inverse + index * LINE
    cdef Py_ssize_t n = job.batch_rows
    cdef Py_ssize_t i, j
    for j in range(LINE):
        sums[j] = 0
    for i in range(n):
        for j in range(LINE):
            sums[j] += <double> z[i * layer.ld_a + j]
    for j in range(LINE):
        mean[j] = <floating> (sums[j] / n)
        sums[j] = 0
    for i in range(n):
        for j in range(LINE):
            away = <double> z[i * layer.ld_a + j] - <double> mean[j]
            sums[j] += away * away
    for j in range(LINE):
        layer.variance[index * LINE + j] = sums[j] / n
        inverse[j] = <floating> deviation_inverse(sums[j] / n)


cdef void norm_sums(const Layer* layer, double* sums, floating* unused, Py_ssize_t column,
                    Py_ssize_t rows) noexcept nogil:
    """Sums over rows of dy normed, and of dy, for a line of columns: (2, LINE)."""
    cdef const floating* dy = <floating*> layer.dy + column
    cdef const floating* normed = <floating*> layer.normed + column
    cdef Py_ssize_t i, j
    for j in range(2 * LINE):
        sums[j] = 0
    for i in range(rows):
        for j in range(LINE):
            sums[j] += (<double> dy[i * layer.ld_a + j]) * <double> normed[i * layer.ld_a + j]
            sums[LINE + j] += <double> dy[i * layer.ld_a + j]


cdef void reductions_item(Job* job, floating* scratch, int64_t index) noexcept nogil:
    """What the backward pass of a batch normalisation needs of all rows, for a line of columns."""
    cdef const Layer* layer = &job.plan.layers[job.at]
    cdef floating* slopes = <floating*> layer.slopes + index * LINE
    cdef double sums[2 * LINE]
    cdef Py_ssize_t j
    norm_sums(layer, sums, scratch, index * LINE, job.batch_rows)
    for j in range(LINE):
        layer.sums[index * LINE + j] = sums[j]
        layer.sums[layer.ld_a + index * LINE + j] = sums[LINE + j]
        slopes[j] = <floating> (sums[LINE + j] / job.batch_rows)
        slopes[layer.ld_a + j] = <floating> (sums[j] / job.batch_rows)


cdef void store_logits(const Job* job, floating* out, Py_ssize_t row, Py_ssize_t position,
                       Py_ssize_t rows) noexcept nogil:
    """The logits of rows, or their probabilities, to ``out`` from row ``position`` on.

    With offsets the row of ``out`` itself is where they are read to: it is written after them.
    """
    cdef const Plan* plan = job.plan
    cdef const Layer* last = &plan.layers[plan.n_layers - 1]
    cdef const floating* logits = <floating*> last.a + row * last.ld_a
    cdef Py_ssize_t k = plan.outputs
    cdef Py_ssize_t i, j
    out += position * k
    for i in range(rows):
        if job.has_offset:
            read_row(out + i * k, &job.offset, source_row(job, position + i))
            for j in range(k):
                out[i * k + j] += logits[i * last.ld_a + j]
        else:
            for j in range(k):
                out[i * k + j] = logits[i * last.ld_a + j]
    if job.probabilities:
        for i in range(rows * k):
            out[i] = sigmoid(out[i])


cdef void through_layers(Job* job, floating* scratch, Py_ssize_t row,
                         Py_ssize_t count) noexcept nogil:
    """Rows of the batch through all layers and back, or as far as they go alone."""
    cdef const Plan* plan = job.plan
    cdef Py_ssize_t position = job.batch * job.batch_size + row
    if job.backwards:
        backward(plan, scratch, row, count, job.at)
        return
    if job.at < 0 and not plan.sparse:
        gather(job, <floating*> plan.layers[0].input, row, position, count)
    if forward(job, scratch, row, position, count, job.at) < plan.n_layers:
        return
    if job.stage == LOGITS_ONLY:
        store_logits(job, <floating*> job.out, row, position, count)
        return
    loss_rows(job, scratch, row, position, count)
    if not all_finite(&plan.row_loss[row], count):
        bcn_store(&job.stop, BAD_LOSS)
    backward(plan, scratch, row, count, plan.n_layers - 1)


cdef void rows_item(Job* job, floating* scratch, int64_t block) noexcept nogil:
    """One block of the batch's rows; the one after the last is the index of sparse rows."""
    cdef Py_ssize_t row = block * job.block_rows
    if row >= job.batch_rows:
        index_batch(job, scratch)
        return
    through_layers(job, scratch, row, min(job.block_rows, job.batch_rows - row))
