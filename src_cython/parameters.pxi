# The parameters phase: tiles of the gradient, the optimizer's step, and what a staged step does
# between the two and after.

cdef void gradient_product(floating* c, Py_ssize_t ldc, const floating* a, Py_ssize_t lda,
                           const floating* b, Py_ssize_t ldb, Py_ssize_t rows,
                           Py_ssize_t depth, Py_ssize_t columns) noexcept nogil:
    """Columns of a times B: a sum over rows of the batch."""
    product(c, ldc, a, 1, lda, b, ldb, 0, rows, depth, columns, STORE, c)


cdef inline Py_ssize_t chain_rows(Py_ssize_t rows) noexcept nogil:
    """Rows that one chain of a weight gradient sums: of the batch's size alone.

    Up to four chains of at least 96 rows, so that up to four threads can each sum their own;
    never more than 1024 rows, because the error of a chain grows with its length. (Chains of 48
    rows made one thread 3 % slower at batch 200, and two threads no faster.)
    """
    cdef Py_ssize_t chains = max(<Py_ssize_t> 1, min(<Py_ssize_t> 4, rows // 96))
    return min(<Py_ssize_t> 1024, (rows + chains - 1) // chains)


cdef void chain(floating* c, Py_ssize_t ldc, const Plan* plan, const Item* item,
                Py_ssize_t start, Py_ssize_t rows) noexcept nogil:
    """A tile of [a, 1]^T dz, or of its transpose, over ``rows`` rows of the batch."""
    cdef const Layer* layer = &plan.layers[item.layer]
    cdef const floating* a = <floating*> layer.input + start * layer.ld_in
    cdef const floating* dz = <floating*> layer.dz + start * layer.ld_a
    cdef Py_ssize_t i, j
    # [formula weight-gradient], whose last row is [formula bias-gradient], of some of the rows
    if not layer.narrow:
        gradient_product(c, ldc, a + item.row, layer.ld_in, dz + item.column, layer.ld_a,
                         item.rows, rows, item.columns)
        return
    gradient_product(c, ldc, dz, layer.ld_a, a + item.column, layer.ld_in, item.rows, rows,
                     item.columns)
    for i in range(item.rows):  # the padding of the activations may hold g(0)
        for j in range(layer.columns - item.column, item.columns):
            c[i * ldc + j] = 0


cdef void sparse_chain(floating* c, Py_ssize_t ldc, const Plan* plan, const Item* item,
                       Py_ssize_t start, Py_ssize_t rows) noexcept nogil:
    """`chain` of the first layer where X is sparse: the same sums without their zeros."""
    cdef const Layer* layer = &plan.layers[0]
    cdef const floating* dz = <floating*> layer.dz
    cdef Py_ssize_t i, j, k
    for i in range(item.rows):
        for j in range(item.columns):
            c[i * ldc + j] = 0
    if layer.narrow:
        for k in range(item.column, min(item.column + item.columns, layer.columns)):
            for j in range(item.rows):
                column_chain(c + j * ldc + k - item.column, plan, k, dz + j, start, rows, 1)
        return
    for i in range(item.rows):
        column_chain(c + i * ldc, plan, item.row + i, dz + item.column, start, rows,
                     item.columns)


cdef inline void column_chain(floating* sums, const Plan* plan, Py_ssize_t k,
                              const floating* dz, Py_ssize_t start, Py_ssize_t rows,
                              Py_ssize_t n) noexcept nogil:
    """Add x_ik dz_i, n numbers of it, over a chain's rows that have column k of [X, 1]."""
    cdef const Layer* layer = &plan.layers[0]
    cdef const Index* index = &plan.index
    cdef Py_ssize_t e, i
    cdef int32_t slot
    if k == layer.fan_in:
        for i in range(start, start + rows):
            add_row(sums, dz + i * layer.ld_a, <floating> 1, n)
        return
    slot = index.slots[k]
    if slot < 0:
        return
    for e in range(0 if slot == 0 else index.ends[slot - 1], index.ends[slot]):
        i = index.rows[e]
        if i >= start and i < start + rows:
            add_row(sums, dz + i * layer.ld_a, (<floating*> index.values)[e], n)


cdef inline floating* partial_tile(const Plan* plan, const Item* item, Py_ssize_t index,
                                   floating* unused) noexcept nogil:
    """Where the tile lies in the partial gradient of one chain; ``unused`` gives the type."""
    cdef const Layer* layer = &plan.layers[item.layer]
    return <floating*> layer.partial + index * layer.rows * padded(layer.columns) + item.offset


cdef void chain_item(Job* job, floating* scratch, int64_t index) noexcept nogil:
    """The rows of one chain, in blocks, and their part of every matrix's gradient."""
    cdef const Plan* plan = job.plan
    cdef const Item* item
    cdef Py_ssize_t rows = chain_rows(job.batch_rows)
    cdef Py_ssize_t start = index * rows
    cdef Py_ssize_t row = start
    cdef Py_ssize_t i
    rows = min(rows, job.batch_rows - start)
    while row < start + rows:
        through_layers(job, scratch, row, min(job.block_rows, start + rows - row))
        row += job.block_rows
    for i in range(plan.n_items):
        item = &plan.items[i]
        if item.kind == TILE:
            chain(partial_tile(plan, item, index, scratch), item.ld, plan, item, start, rows)


cdef void gradient_tile(floating* sums, const Job* job, const Item* item,
                        floating scale) noexcept nogil:
    """A tile of the gradient over the batch, times ``scale``: (rows, columns), compact.

    Its chains are computed here, or were by whoever had their rows; they merge as a binary
    counter carries: a fixed tree. ``sums`` holds one tile a level of it, and one more to work
    in; the result is the first.
    """
    cdef Py_ssize_t size = item.rows * item.columns
    cdef Py_ssize_t rows = chain_rows(job.batch_rows)
    cdef Py_ssize_t index, i, j, carries
    cdef Py_ssize_t level = 0
    cdef floating* tile
    cdef const floating* partial
    for index in range((job.batch_rows + rows - 1) // rows):
        tile = sums + level * ITEM_SIZE
        if job.by_chains:
            partial = partial_tile(job.plan, item, index, sums)
            for i in range(item.rows):
                for j in range(item.columns):
                    tile[i * item.columns + j] = partial[i * item.ld + j]
        elif item.layer == 0 and job.plan.sparse:
            sparse_chain(tile, item.columns, job.plan, item, index * rows,
                         min(rows, job.batch_rows - index * rows))
        else:
            chain(tile, item.columns, job.plan, item, index * rows,
                  min(rows, job.batch_rows - index * rows))
        carries = index + 1
        while carries & 1 == 0:
            level -= 1
            for i in range(size):
                sums[level * ITEM_SIZE + i] += sums[(level + 1) * ITEM_SIZE + i]
            carries >>= 1
        level += 1
    while level > 1:
        level -= 1
        for i in range(size):
            sums[(level - 1) * ITEM_SIZE + i] += sums[level * ITEM_SIZE + i]
    for i in range(size):
        sums[i] *= scale


cdef void penalize_rows(const Plan* plan, const Layer* layer, floating* g, const floating* w,
                        Py_ssize_t ld, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t column,
                        Py_ssize_t columns, double scale) noexcept nogil:
    """Add the penalties' derivatives to rows of a gradient; intercepts have none.

    The rows of g and w are ``ld`` apart.
    """
    cdef floating l1 = <floating> (plan.objective.l1 * scale)
    cdef floating l2 = <floating> (plan.objective.l2 * scale)
    cdef Py_ssize_t i
    if layer.narrow:
        columns = min(columns, layer.fan_in - column)
    else:
        rows = min(rows, layer.fan_in - row)
    for i in range(rows):
        penalize(g + i * ld, w + i * ld, l1, l2, columns)


cdef inline bint has_penalty(const Plan* plan) noexcept nogil:
    return plan.objective.l1 != 0 or plan.objective.l2 != 0


cdef bint update_run(const Job* job, const Values* values, Py_ssize_t offset,
                     const floating* g, int group, Py_ssize_t n) noexcept nogil:
    """Apply the optimizer to n parameters that lie together; whether all stayed finite.

    Their average follows at once, but that of weights whose norm is to be held first.
    """
    cdef floating* w = <floating*> values.w + offset
    cdef floating* state[STATES]
    cdef bint finite
    cdef int i
    for i in range(STATES):
        state[i] = NULL if values.state[i] == NULL else <floating*> values.state[i] + offset
    finite = update(w, state[0], state[1], state[2], g, &job.plan.hyper, &job.step, group, n)
    if job.average_rate > 0 and not (group == COEFS and job.plan.objective.max_norm > 0):
        average(<floating*> values.average + offset, <const floating*> w,
                <floating> job.average_rate, n)
    return finite


cdef bint update_tile(const Job* job, const Item* item, const floating* g,
                      Py_ssize_t ld_g) noexcept nogil:
    """Apply the optimizer to a tile and renew its transposed copy; whether all stayed finite.

    Intercepts are the last row, or column if the layer is narrow.
    """
    cdef const Layer* layer = &job.plan.layers[item.layer]
    cdef const Values* values = &layer.matrix
    cdef bint finite = True
    cdef Py_ssize_t i, weights, offset
    if layer.narrow:
        weights = min(item.columns, layer.fan_in - item.column)
        for i in range(item.rows):
            offset = item.offset + i * item.ld
            finite &= update_run(job, values, offset, g, COEFS, weights)
            finite &= update_run(job, values, offset + weights, g + weights, INTERCEPTS,
                                 item.columns - weights)
            g += ld_g
        return finite
    weights = min(item.rows, layer.fan_in - item.row)
    offset = weights * item.ld
    finite &= update_run(job, values, item.offset, g, COEFS, offset)
    finite &= update_run(job, values, item.offset + offset, g + offset, INTERCEPTS,
                         (item.rows - weights) * item.ld)
    if item.layer > 0:
        transpose_tile(layer, item, weights, <floating*> layer.w + item.offset)
    return finite


cdef void transpose_tile(const Layer* layer, const Item* item, Py_ssize_t rows,
                         const floating* w) noexcept nogil:
    """The first ``rows`` rows of a tile of W into W^T."""
    cdef Py_ssize_t panel = panel_columns(w)
    cdef Py_ssize_t block, i, j, ld, start, row
    cdef floating* wt
    for block in range((rows + UNIT - 1) // UNIT):
        i = block * UNIT
        start = (item.row + i) // panel * panel
        ld = min(panel, padded(layer.fan_in) - start)
        wt = (<floating*> layer.wt + start * padded(layer.fan_out) + item.column * ld
              + item.row + i - start)
        if i + UNIT <= rows:
            for j in range(item.columns // UNIT):
                if floating is float:
                    bcn_transpose_float32(wt + UNIT * j * ld, ld, w + i * item.ld + UNIT * j,
                                          item.ld)
                else:
                    bcn_transpose_float64(wt + UNIT * j * ld, ld, w + i * item.ld + UNIT * j,
                                          item.ld)
        else:
            for j in range(item.columns):
                for row in range(i, rows):
                    wt[j * ld + row - i] = w[row * item.ld + j]


cdef void transpose_all(const Plan* plan, floating* unused) noexcept nogil:
    """W^T of every layer; ``unused`` gives the type."""
    cdef Py_ssize_t i
    cdef const Item* item
    cdef const Layer* layer
    for i in range(plan.n_items):
        item = &plan.items[i]
        layer = &plan.layers[item.layer]
        if item.kind == TILE and layer.wt != NULL:
            transpose_tile(layer, item, min(item.rows, layer.fan_in - item.row),
                           <const floating*> layer.w + item.offset)


cdef bint update_values(const Job* job, const Item* item, floating* unused) noexcept nogil:
    """Apply the optimizer to a line of a normalisation's gains, or to X's factors."""
    cdef const Plan* plan = job.plan
    cdef const Layer* layer = &plan.layers[item.layer]
    cdef Py_ssize_t offset
    cdef bint finite = True
    cdef int i
    if item.kind == FACTORS:
        return update_run(job, &plan.factors, 0, <const floating*> plan.factors.gradient, SCALE,
                          item.columns)
    for i in range(2):
        offset = i * layer.ld_a + item.column
        finite &= update_run(job, &layer.gains, offset,
                             <const floating*> layer.gains.gradient + offset, NORMS,
                             item.columns)
    return finite


cdef bint gains_gradient(const Job* job, const Item* item, floating* unused) noexcept nogil:
    """The gradient of a line of gains and shifts; a step's batch also moves the running
    mean and variance. Returns whether those stayed finite: the batch's own normalisation hides a
    variance that overflows."""
    cdef const Layer* layer = &job.plan.layers[item.layer]
    cdef bint batch = layer.norm == BATCH_NORM and job.plan.batch_statistics
    cdef floating* gain = <floating*> layer.gains.gradient + item.column
    cdef floating* running = <floating*> layer.running + item.column
    cdef floating* variance = running + layer.ld_a
    cdef floating momentum = <floating> 0.1  # as PyTorch's
    cdef double n = job.batch_rows
    cdef double unbiased = n / max(n - 1, <double> 1)
    cdef double sums[2 * LINE]
    cdef bint bad = False
    cdef Py_ssize_t j
    if batch:
        for j in range(item.columns):
            sums[j] = layer.sums[item.column + j]
            sums[LINE + j] = layer.sums[layer.ld_a + item.column + j]
    else:
        norm_sums(layer, sums, unused, item.column, job.batch_rows)
    for j in range(item.columns):
        gain[j] = <floating> (sums[j] * job.gradient_scale)
        gain[layer.ld_a + j] = <floating> (sums[LINE + j] * job.gradient_scale)
    if not batch or job.stage == GRADIENT_ONLY:
        return True
    for j in range(item.columns):
        running[j] += momentum * ((<floating*> layer.mean)[item.column + j] - running[j])
        variance[j] += momentum * (<floating> (layer.variance[item.column + j] * unbiased)
                                   - variance[j])
        bad |= not_finite(running[j]) | not_finite(variance[j])
    return not bad


cdef inline Py_ssize_t lazy_items(const Plan* plan) noexcept nogil:
    """Items of the first layer in a lazy step: its columns' by many, and the intercepts; or one.

    The weights of a narrow layer that one core changed reach another core's cache slower than
    they are changed.
    """
    if plan.layers[0].narrow:
        return 1
    return (plan.index.count + LAZY_COLUMNS - 1) // LAZY_COLUMNS + 1


cdef inline void prefetch_column(const Layer* layer, Py_ssize_t k, floating* unused) noexcept nogil:
    """Ask for the weights of a column of X and their state; ``unused`` gives the type."""
    cdef Py_ssize_t panel, start, ld, offset, j
    cdef int part
    for panel in range(panels(layer)):
        start = panel * layer.panel
        ld = min(layer.panel, padded(layer.columns) - start)
        offset = start * layer.rows + k * ld
        for j in range(ld // UNIT):
            bcn_prefetch(<floating*> layer.matrix.w + offset + j * UNIT)
            for part in range(STATES):
                if layer.matrix.state[part] != NULL:
                    bcn_prefetch(<floating*> layer.matrix.state[part] + offset + j * UNIT)


cdef void lazy_row(Job* job, floating* g, Py_ssize_t k) noexcept nogil:
    """Update the weights of a column of [X, 1] that the batch has: one chain over its rows."""
    cdef const Plan* plan = job.plan
    cdef const Layer* layer = &plan.layers[0]
    cdef floating* w
    cdef Py_ssize_t panel, start, ld, offset, j
    for panel in range(panels(layer)):
        start = panel * layer.panel
        ld = min(layer.panel, padded(layer.columns) - start)
        offset = start * layer.rows + k * ld
        for j in range(ld):
            g[j] = 0
        column_chain(g, plan, k, <floating*> layer.dz + start, 0, job.batch_rows, ld)
        for j in range(ld):
            g[j] *= <floating> job.gradient_scale
        if k < layer.fan_in:
            w = <floating*> layer.matrix.w + offset
            penalize_rows(plan, layer, g, <const floating*> w, ld, k, 1, start, ld,
                          job.penalty_scale)
        if not update_run(job, &layer.matrix, offset, <const floating*> g,
                          COEFS if k < layer.fan_in else INTERCEPTS, ld):
            bcn_store_minimum(&job.bad_layer, 0)


cdef inline void lazy_run(Job* job, floating* scratch, const int32_t* columns, Py_ssize_t n,
                          Py_ssize_t ahead, Py_ssize_t outputs) noexcept nogil:
    """Update the weights of n columns of a narrow layer, which lie apart: they are brought
    together for it. As many as ``ahead`` columns behind them are asked for."""
    cdef const Plan* plan = job.plan
    cdef const Layer* layer = &plan.layers[0]
    cdef Py_ssize_t width = padded(layer.columns)
    cdef floating* sums = <floating*> plan.index.sums
    cdef floating* g = scratch
    cdef floating* w = scratch + LAZY_COLUMNS
    cdef floating* state[STATES]
    cdef floating* stored
    cdef Py_ssize_t i, j
    cdef int part
    for i in range(n, n + ahead):
        bcn_prefetch(sums + columns[i] * outputs)
    for part in range(STATES):
        state[part] = NULL
        if layer.matrix.state[part] != NULL:
            state[part] = scratch + (2 + part) * LAZY_COLUMNS
    for j in range(outputs):
        stored = <floating*> layer.matrix.w + j * width
        for i in range(n, n + ahead):
            bcn_prefetch(stored + columns[i])
        for i in range(n):
            g[i] = sums[columns[i] * outputs + j] * <floating> job.gradient_scale
            sums[columns[i] * outputs + j] = unset(g[i])
            w[i] = stored[columns[i]]
        for part in range(STATES):
            if state[part] != NULL:
                stored = <floating*> layer.matrix.state[part] + j * width
                for i in range(n, n + ahead):
                    bcn_prefetch(stored + columns[i])
                for i in range(n):
                    state[part][i] = stored[columns[i]]
        penalize(g, <const floating*> w, <floating> (plan.objective.l1 * job.penalty_scale),
                 <floating> (plan.objective.l2 * job.penalty_scale), n)
        if not update(w, state[0], state[1], state[2], <const floating*> g, &plan.hyper,
                      &job.step, COEFS, n):
            bcn_store_minimum(&job.bad_layer, 0)
        stored = <floating*> layer.matrix.w + j * width
        for i in range(n):
            stored[columns[i]] = w[i]
        for part in range(STATES):
            if state[part] != NULL:
                stored = <floating*> layer.matrix.state[part] + j * width
                for i in range(n):
                    stored[columns[i]] = state[part][i]


cdef void lazy_narrow(Job* job, floating* scratch) noexcept nogil:
    """Update a narrow layer's weights of the batch's columns, and its intercepts."""
    cdef const Plan* plan = job.plan
    cdef const Layer* layer = &plan.layers[0]
    cdef const int32_t* columns = plan.index.columns
    cdef Py_ssize_t left, n, j
    scatter_batch(job, scratch)
    left = plan.index.count
    while left > 0:
        n = min(<Py_ssize_t> LAZY_COLUMNS, left)
        left -= n
        if layer.fan_out == 1:
            lazy_run(job, scratch, columns, n, min(<Py_ssize_t> LAZY_COLUMNS, left), 1)
        else:
            lazy_run(job, scratch, columns, n, min(<Py_ssize_t> LAZY_COLUMNS, left),
                     layer.fan_out)
        columns += n
    for j in range(layer.fan_out):
        scratch[0] = 0
        column_chain(scratch, plan, layer.fan_in, <floating*> layer.dz + j, 0, job.batch_rows, 1)
        scratch[0] *= <floating> job.gradient_scale
        if not update_run(job, &layer.matrix, j * padded(layer.columns) + layer.fan_in,
                          <const floating*> scratch, INTERCEPTS, 1):
            bcn_store_minimum(&job.bad_layer, 0)


cdef void lazy_item(Job* job, floating* scratch, int64_t index) noexcept nogil:
    """Update some of the columns of X that the batch has, or the first layer's intercepts."""
    cdef const Plan* plan = job.plan
    cdef Py_ssize_t first = index * LAZY_COLUMNS
    cdef Py_ssize_t i
    if plan.layers[0].narrow:
        lazy_narrow(job, scratch)
    elif index + 1 < lazy_items(plan):
        for i in range(first, min(first + LAZY_COLUMNS, plan.index.count)):
            if i + COLUMNS_AHEAD < plan.index.count:
                prefetch_column(&plan.layers[0], plan.index.columns[i + COLUMNS_AHEAD], scratch)
            lazy_row(job, scratch, plan.index.columns[i])
    else:
        lazy_row(job, scratch, plan.layers[0].fan_in)


cdef void parameters_item(Job* job, floating* scratch, int64_t index) noexcept nogil:
    """One item of the gradient, and of the parameters where the step is plain."""
    cdef const Plan* plan = job.plan
    cdef Py_ssize_t lazy = lazy_items(plan) if plan.objective.lazy else 0
    if index < lazy:
        lazy_item(job, scratch, index)
    else:
        plain_item(job, scratch, index if lazy == 0 else index - lazy + plan.n_first_items)


cdef void plain_item(Job* job, floating* scratch, int64_t index) noexcept nogil:
    cdef const Plan* plan = job.plan
    cdef const Item* item = &plan.items[index]
    cdef const Layer* layer = &plan.layers[item.layer]
    cdef floating* w
    cdef floating* gradient
    cdef Py_ssize_t i
    cdef bint finite = True
    if item.kind == TILE:
        gradient_tile(scratch, job, item, <floating> job.gradient_scale)
        if has_penalty(plan) and not (plan.scaled and item.layer == 0):
            w = <floating*> layer.matrix.w + item.offset
            if item.columns == item.ld:
                penalize_rows(plan, layer, scratch, <const floating*> w, item.ld, item.row,
                              item.rows, item.column, item.columns, job.penalty_scale)
            else:
                for i in range(item.rows):
                    penalize_rows(plan, layer, scratch + i * item.columns,
                                  <const floating*> w + i * item.ld, item.ld, item.row + i, 1,
                                  item.column, item.columns, job.penalty_scale)
        if job.stage == UPDATE_PLAIN:
            finite = update_tile(job, item, <const floating*> scratch, item.columns)
        else:
            gradient = <floating*> layer.matrix.gradient + item.offset
            for i in range(item.rows):
                copy_values(gradient + i * item.ld, <const floating*> scratch + i * item.columns,
                            item.columns)
    elif item.kind == GAINS:
        finite = gains_gradient(job, item, scratch)
        if job.stage == UPDATE_PLAIN:
            finite &= update_values(job, item, scratch)
    if not finite:
        bcn_store_minimum(&job.bad_layer, item.layer)


cdef void update_item(Job* job, floating* scratch, int64_t index) noexcept nogil:
    """One item of the parameters, from the stored gradient: the staged step's second half."""
    cdef const Plan* plan = job.plan
    cdef const Item* item = &plan.items[index]
    cdef const Layer* layer = &plan.layers[item.layer]
    cdef floating clip = <floating> job.clip_factor
    cdef floating* g
    cdef Py_ssize_t i, j
    cdef bint finite
    if item.kind == TILE:
        g = <floating*> layer.matrix.gradient + item.offset
        if job.clip_factor != 1:
            for i in range(item.rows):
                for j in range(item.columns):
                    g[i * item.ld + j] *= clip
        finite = update_tile(job, item, <const floating*> g, item.ld)
    else:
        if job.clip_factor != 1:
            if item.kind == FACTORS:
                g = <floating*> plan.factors.gradient
            else:
                g = <floating*> layer.gains.gradient + item.column
            for j in range(item.columns):
                g[j] *= clip
            if item.kind == GAINS:
                for j in range(item.columns):
                    g[layer.ld_a + j] *= clip
        finite = update_values(job, item, scratch)
    if not finite:
        bcn_store_minimum(&job.bad_layer, item.layer)


# ---- stripes: what goes through all rows of the stored matrices --------------------------------

cdef inline Py_ssize_t panels(const Layer* layer) noexcept nogil:
    return (padded(layer.columns) + layer.panel - 1) // layer.panel


cdef inline floating* stored_row(const Layer* layer, void* matrix, Py_ssize_t row,
                                 Py_ssize_t start, floating* unused) noexcept nogil:
    """A row of a stored matrix, within the panel that begins with column ``start``."""
    cdef Py_ssize_t ld = min(layer.panel, padded(layer.columns) - start)
    return <floating*> matrix + start * layer.rows + row * ld


cdef inline void sum_squares(double* lanes, const floating* values, Py_ssize_t n) noexcept nogil:
    """Add n squares to 8 lanes; n is a multiple of 8 but in the last run of a row."""
    cdef Py_ssize_t i, j
    for i in range(n // UNIT):
        for j in range(UNIT):
            lanes[j] += <double> values[UNIT * i + j] * <double> values[UNIT * i + j]
    for i in range(n // UNIT * UNIT, n):
        lanes[i % UNIT] += <double> values[i] * <double> values[i]


cdef inline void sum_absolute(double* lanes, const floating* values,
                              Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i, j
    for i in range(n // UNIT):
        for j in range(UNIT):
            lanes[j] += <double> absolute(values[UNIT * i + j])
    for i in range(n // UNIT * UNIT, n):
        lanes[i % UNIT] += <double> absolute(values[i])


cdef double row_sum(const Layer* layer, void* matrix, Py_ssize_t row, Py_ssize_t columns,
                    bint square, floating* unused) noexcept nogil:
    """The sum of squares, or of absolute values, of a stored row's first ``columns``.

    8 lanes run through the panels, so the sum does not depend on their width.
    """
    cdef double lanes[UNIT]
    cdef Py_ssize_t panel, start, j, n
    for j in range(UNIT):
        lanes[j] = 0
    for panel in range(panels(layer)):
        start = panel * layer.panel
        n = max(<Py_ssize_t> 0, min(layer.panel, columns - start))
        if square:
            sum_squares(lanes, stored_row(layer, matrix, row, start, unused), n)
        else:
            sum_absolute(lanes, stored_row(layer, matrix, row, start, unused), n)
    return lane_sum(<const double*> lanes)


cdef void squares_item(Job* job, floating* scratch, int64_t index) noexcept nogil:
    """Sums of squares of the gradient, one a stored row."""
    cdef const Plan* plan = job.plan
    cdef const Stripe* stripe = &plan.stripes[index]
    cdef const Layer* layer = &plan.layers[stripe.layer]
    cdef Py_ssize_t i
    for i in range(stripe.rows):
        plan.sums[stripe.index + i] = row_sum(layer, layer.matrix.gradient, stripe.row + i,
                                              padded(layer.columns), True, scratch)


cdef void other_squares(const Plan* plan, floating* unused) noexcept nogil:
    """The same of the normalisations' gains and of X's factors: the last of the sums."""
    cdef Py_ssize_t index = plan.n_sums - plan.n_layers - 1
    cdef double lanes[UNIT]
    cdef const Layer* layer
    cdef Py_ssize_t j
    cdef int l
    for l in range(plan.n_layers + 1):
        for j in range(UNIT):
            lanes[j] = 0
        if l == plan.n_layers:
            if plan.scaled:
                sum_squares(lanes, <const floating*> plan.factors.gradient,
                            plan.layers[0].fan_in)
        elif plan.layers[l].norm != NO_NORM:
            layer = &plan.layers[l]
            sum_squares(lanes, <const floating*> layer.gains.gradient, 2 * layer.ld_a)
        plan.sums[index + l] = lane_sum(<const double*> lanes)


cdef void penalties_item(Job* job, floating* scratch, int64_t index) noexcept nogil:
    """l1 |w| + l2 w^2 / 2 of the weights, summed, one a stored row."""
    cdef const Plan* plan = job.plan
    cdef const Stripe* stripe = &plan.stripes[index]
    cdef const Layer* layer = &plan.layers[stripe.layer]
    cdef Py_ssize_t columns = layer.fan_in if layer.narrow else padded(layer.columns)
    cdef double penalty
    cdef Py_ssize_t i
    for i in range(stripe.rows):
        penalty = 0
        if layer.narrow or stripe.row + i < layer.fan_in:
            if plan.objective.l2 != 0:
                penalty += plan.objective.l2 / 2 * row_sum(
                    layer, layer.matrix.w, stripe.row + i, columns, True, scratch)
            if plan.objective.l1 != 0:
                penalty += plan.objective.l1 * row_sum(
                    layer, layer.matrix.w, stripe.row + i, columns, False, scratch)
        plan.sums[stripe.index + i] = penalty


cdef void scaling_item(Job* job, floating* scratch, int64_t index) noexcept nogil:
    """From the gradient g of the effective weights f_j W(j, k), rows of the first layer:
    df_j = sum over k of W(j, k) g(j, k), and dW(j, k) = f_j g(j, k), with its penalties.

    A narrow layer's stripe holds columns of X in the place of rows.
    """
    cdef const Plan* plan = job.plan
    cdef const Layer* layer = &plan.layers[0]
    cdef const Stripe* stripe = &plan.stripes[index]
    cdef floating* factors = <floating*> plan.factors.w
    cdef floating* gradient = <floating*> plan.factors.gradient
    cdef floating* w
    cdef floating* g
    cdef Py_ssize_t width = padded(layer.columns)
    cdef Py_ssize_t panel, start, i, j, n
    cdef double lanes[UNIT]
    cdef double total
    if layer.narrow:  # all of it, in one item: it is small
        if index > 0:
            return
        for j in range(layer.fan_in):
            total = 0
            for i in range(layer.rows):
                w = <floating*> layer.matrix.w + i * width + j
                g = <floating*> layer.matrix.gradient + i * width + j
                total += <double> w[0] * <double> g[0]
                g[0] *= factors[j]
            gradient[j] = <floating> total
        penalize_rows(plan, layer, <floating*> layer.matrix.gradient,
                      <const floating*> layer.matrix.w, width, 0, layer.rows, 0, width,
                      job.penalty_scale)
        return
    for i in range(stripe.row, min(stripe.row + stripe.rows, layer.fan_in)):
        for j in range(UNIT):
            lanes[j] = 0
        for panel in range(panels(layer)):
            start = panel * layer.panel
            n = min(layer.panel, width - start)
            w = stored_row(layer, layer.matrix.w, i, start, scratch)
            g = stored_row(layer, layer.matrix.gradient, i, start, scratch)
            for j in range(n):
                lanes[j % UNIT] += <double> w[j] * <double> g[j]
                g[j] *= factors[i]
            penalize_rows(plan, layer, g, <const floating*> w, n, i, 1, start, n,
                          job.penalty_scale)
        gradient[i] = <floating> lane_sum(<const double*> lanes)


cdef void effective_rows(const Plan* plan, const Stripe* stripe,
                         floating* scratch) noexcept nogil:
    """The weights that the passes read: rows of the first layer times the factors of X."""
    cdef const Layer* layer = &plan.layers[0]
    cdef const floating* factors = <floating*> plan.factors.w
    cdef const floating* w
    cdef floating* effective
    cdef floating factor
    cdef Py_ssize_t width = padded(layer.columns)
    cdef Py_ssize_t panel, start, i, j, n
    for i in range(stripe.row, stripe.row + stripe.rows):
        for panel in range(panels(layer)):
            start = panel * layer.panel
            n = min(layer.panel, width - start)
            w = stored_row(layer, layer.matrix.w, i, start, scratch)
            effective = stored_row(layer, layer.w, i, start, scratch)
            if layer.narrow:
                for j in range(layer.fan_in):
                    effective[j] = w[j] * factors[j]
                effective[layer.fan_in] = w[layer.fan_in]
            else:
                factor = factors[i] if i < layer.fan_in else 1
                for j in range(n):
                    effective[j] = w[j] * factor


cdef inline floating held(double square, double limit, floating* unused) noexcept nogil:
    """What brings a norm within the limit; 1 where it is."""
    return <floating> (limit / square_root(square)) if square > limit * limit else <floating> 1


cdef inline void average_row(const Job* job, const Layer* layer, Py_ssize_t row,
                             Py_ssize_t start, Py_ssize_t n, floating* unused) noexcept nogil:
    """Take weights whose norm is held into their average; ``unused`` gives the type."""
    if job.average_rate > 0:
        average(stored_row(layer, layer.matrix.average, row, start, unused),
                <const floating*> stored_row(layer, layer.matrix.w, row, start, unused),
                <floating> job.average_rate, n)


cdef void max_norm_item(Job* job, floating* scratch, int64_t index) noexcept nogil:
    """Hold the norm of each unit's weights (Srebro and Shraibman 2005) in all columns of a
    layer: the sum of a column runs down the rows, whatever the panels' width. Their average
    follows here."""
    cdef const Plan* plan = job.plan
    cdef const Layer* layer = &plan.layers[index]
    cdef double limit = plan.objective.max_norm
    cdef double sums[PANEL_32]
    cdef floating factors[PANEL_32]
    cdef floating* w
    cdef floating factor
    cdef Py_ssize_t panel, start, i, j, n
    cdef bint bad = False  # a norm that overflowed would hold the weights at 0
    if layer.narrow:
        for i in range(layer.rows):
            sums[0] = row_sum(layer, layer.matrix.w, i, layer.fan_in, True, scratch)
            bad |= not_finite(sums[0])
            factor = held(sums[0], limit, scratch)
            w = <floating*> layer.matrix.w + i * padded(layer.columns)
            for j in range(layer.fan_in):
                w[j] *= factor
            average_row(job, layer, i, 0, layer.fan_in, scratch)
        if bad:
            bcn_store_minimum(&job.bad_layer, index)
        return
    for panel in range(panels(layer)):
        start = panel * layer.panel
        n = min(layer.panel, padded(layer.columns) - start)
        for j in range(n):
            sums[j] = 0
        for i in range(layer.fan_in):
            w = stored_row(layer, layer.matrix.w, i, start, scratch)
            for j in range(n):
                sums[j] += <double> w[j] * <double> w[j]
        for j in range(n):
            bad |= not_finite(sums[j])
            factors[j] = held(sums[j], limit, scratch)
        for i in range(layer.fan_in):
            w = stored_row(layer, layer.matrix.w, i, start, scratch)
            for j in range(n):
                w[j] *= factors[j]
            average_row(job, layer, i, start, n, scratch)
    if bad:
        bcn_store_minimum(&job.bad_layer, index)
    if layer.wt != NULL:
        for i in range(plan.n_items):
            if plan.items[i].kind == TILE and plan.items[i].layer == index:
                transpose_tile(layer, &plan.items[i],
                               min(plan.items[i].rows, layer.fan_in - plan.items[i].row),
                               <const floating*> layer.w + plan.items[i].offset)
