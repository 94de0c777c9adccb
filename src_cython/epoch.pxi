# The epoch engine: gather, forward, loss, backward and update for every mini-batch, in one call
# without the GIL, on a team of threads that belongs to the call.
#
# A step has two phases; each ends when all its items are done:
#   rows        Threads take blocks of the batch's rows and carry each through all layers
#               forward, the loss, and all layers back, while it is in cache.
#   parameters  Threads take tiles of the weights. A tile of [a, 1]^T dz is summed over the batch,
#               the optimizer is applied to it, and the transposed copy that the next backward
#               pass reads is written with it.
# Small networks on several threads move the gradient's sums into the rows phase: whoever has the
# rows of a chain sums them for every parameter, and the parameters phase adds the chains. Far
# fewer numbers then change from one core's cache to another's; their values are the same.
# The staged step stores the gradient tiles, and updates in a third phase: for what
# needs the whole gradient first. Both forms run the same tiles, so they give the same bits.
#
# Every number is computed by one thread in an order that depends on shapes alone, so the result
# is the same for any number of threads.
#
# Layer l holds one matrix [W; b] of (fan_in + 1, fan_out): its last row is the intercept, and the
# activations before it carry a column of ones. It is stored in panels of columns (`affine` says
# why), padded to whole units with zeros that stay zeros. A narrow layer, of up to four outputs,
# stores the transpose instead: its outputs are dot products, and its gradient and its deltas
# then have full vectors.

from libc.stdint cimport int32_t, int64_t

from bcenet.cimports.activations cimport RELU as RELU_ACTIVATION, activate
from affine cimport (
    Finish, GATE, MULTIPLY, PANEL_32, PANEL_64, RELU, STORE, UNIT, bcn_transpose_float32,
    bcn_transpose_float64, dots, leading, padded, product,
)
from bcenet.cimports.losses cimport bce_block, sigmoid, smooth_block, sum_block
from optimizers cimport Hyper, Step, prepare, update
from source cimport Layout, copy_run, is_plain, prefetch_row, read_row
from bcenet.cimports.vecmath cimport floating, not_finite

cdef extern from "platform.h" nogil:
    ctypedef struct bcn_member:
        pass
    ctypedef struct bcn_team:
        pass
    int64_t bcn_nanoseconds()
    void bcn_store(int64_t* p, int64_t value)
    int64_t bcn_load(int64_t* p)
    void bcn_store_minimum(int64_t* p, int64_t value)
    bint bcn_team_started(const bcn_team* team)
    void bcn_team_start(bcn_team* team, int size, bcn_member* members,
                        void (*work)(void*, int, int64_t, int) noexcept nogil)
    void bcn_team_begin(bcn_team* team, void* context)
    void bcn_team_end(bcn_team* team)
    void bcn_team_phase(bcn_team* team, int kind, int64_t count)
    void bcn_team_stop(bcn_team* team)

cdef enum:
    ITEM_SIZE = 24 * 64  # numbers of a parameter tile: whole register tiles, whole transposes
    NARROW = 4  # outputs of a layer that is stored transposed
    INFERENCE_ROWS = 96  # rows of a block in prediction and evaluation
    POLL_NANOSECONDS = 40000000  # between looks for signals
    MOST_PARTIALS = 4  # chains of a batch whose gradients may be kept apart
    NO_LAYER = 1 << 30
    PREFETCH = 24  # rows that a gather looks ahead: shuffled rows lie anywhere in memory

cdef enum Stage:
    UPDATE_PLAIN  # gradient and update in one pass over the tiles
    UPDATE_STAGED  # all gradient tiles, then all updates
    GRADIENT_ONLY  # no update

cdef enum Kind:
    # Kinds of phases in training; inference has one kind. The team's ticket has two bits for it.
    ROWS
    CHAINS  # rows, with their part of the gradient
    PARAMETERS
    UPDATES

cdef enum Status:
    DONE
    INTERRUPTED
    BAD_INPUT  # a number of X is not finite: in prediction, which did not check it before
    BAD_LOSS  # a loss of the batch is not finite; its step was not taken
    BAD_PARAMETERS  # the step made parameters or optimizer state that are not finite

cdef struct Layer:
    Py_ssize_t fan_in
    Py_ssize_t fan_out
    int activation
    bint narrow
    # w, first, second, gradient and each partial hold one matrix: [W; b], or its transpose if
    # the layer is narrow. It is (rows, padded(columns)), in panels of ``panel`` columns.
    Py_ssize_t rows
    Py_ssize_t columns
    Py_ssize_t panel
    Py_ssize_t ld_in  # of the activations before this layer
    Py_ssize_t ld_a  # of a and dz: (capacity, ld_a)
    void* w
    void* first  # optimizer state, or NULL
    void* second
    void* gradient
    void* partial  # MOST_PARTIALS matrices, or NULL
    void* wt  # W^T, (padded(fan_out), padded(fan_in)) in panels; not of narrow layers
    void* input  # x, or a of the layer before
    void* a
    void* dz  # holds the slope g'(z) between the forward and the backward pass, not for relu

cdef struct Item:
    # A tile of the parameters, within one panel.
    int layer
    Py_ssize_t row
    Py_ssize_t rows
    Py_ssize_t column
    Py_ssize_t columns
    Py_ssize_t offset  # of its first number in the stored matrix
    Py_ssize_t ld

cdef struct Plan:
    int item_size  # 4 or 8 bytes: what every void* of real numbers points to
    int n_layers
    Layer* layers
    Item* items
    Py_ssize_t n_items
    Py_ssize_t outputs
    Py_ssize_t capacity  # rows that the buffers hold
    double* row_loss  # (capacity,): weighted, summed over the row's outputs
    double* row_weight
    void* pos_weight  # (rows of the largest block, outputs)
    int threads
    bcn_team team
    bcn_member* members  # room for the team
    void** scratch  # one a thread
    Hyper hyper
    Py_ssize_t steps  # taken so far
    void** blocks  # what was allocated
    Py_ssize_t n_blocks
    Py_ssize_t room

cdef struct Job:
    # One call: what to run the plan on, and what came of it.
    Plan* plan
    Layout x
    Layout y
    Layout sample_weight
    bint has_targets
    bint has_sample_weight
    const int32_t* order_32  # the order of the rows, in one of two widths; NULL: as they lie
    const int64_t* order_64
    Py_ssize_t rows
    Py_ssize_t batch_size
    Py_ssize_t block_rows
    Py_ssize_t first_batch
    Py_ssize_t last_batch
    double smoothing
    Stage stage
    bint by_chains  # each chain's rows and gradient on one thread, else tiles over all rows
    bint inference
    bint (*poll)(void* owner) noexcept nogil  # True: stop
    void* owner
    int64_t next_poll  # when to look for signals, in ns
    Py_ssize_t batch_rows  # of the batch in work, like the next three
    double batch_weight
    Step step
    int64_t stop  # a Status: DONE while all is well
    int64_t bad_layer
    Status status
    Py_ssize_t batch  # in work; in the end the one that was stopped, or bad
    double loss  # weighted sum over the batches taken
    double weight  # of the same batches
    void* out  # inference: (rows, outputs), or NULL
    bint probabilities
    double* block_loss  # evaluation: one a block
    double* block_weight


cdef inline Py_ssize_t source_row(const Job* job, Py_ssize_t position) noexcept nogil:
    if job.order_32 != NULL:
        return job.order_32[position]
    if job.order_64 != NULL:
        return job.order_64[position]
    return position


cdef inline bint all_finite(const floating* values, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef bint bad = False
    for i in range(n):
        bad |= not_finite(values[i])
    return not bad


cdef void forward_product(floating* c, Py_ssize_t ldc, const floating* a, Py_ssize_t lda,
                          const floating* b, Py_ssize_t ldb, Py_ssize_t panel_size,
                          Py_ssize_t rows, Py_ssize_t depth, Py_ssize_t columns,
                          Finish finish, const floating* gate) noexcept nogil:
    """Rows of a times B. Its own function, so that the tiles are compiled once."""
    product(c, ldc, a, lda, 1, b, ldb, panel_size, rows, depth, columns, finish, gate)


cdef void gradient_product(floating* c, Py_ssize_t ldc, const floating* a, Py_ssize_t lda,
                           const floating* b, Py_ssize_t ldb, Py_ssize_t rows,
                           Py_ssize_t depth, Py_ssize_t columns) noexcept nogil:
    """Columns of a times B: a sum over rows of the batch."""
    product(c, ldc, a, 1, lda, b, ldb, 0, rows, depth, columns, STORE, c)


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


cdef void forward(const Plan* plan, floating* scratch, Py_ssize_t row,
                  Py_ssize_t rows) noexcept nogil:
    """z_l = [a, 1] [W; b], a_l = g_l(z_l) for rows of the buffers; the last layer stays logits."""
    cdef const Layer* layer
    cdef const floating* before
    cdef floating* a
    cdef floating* slope
    cdef Py_ssize_t i, j, width
    cdef bint last, relu
    cdef int l
    for l in range(plan.n_layers):
        layer = &plan.layers[l]
        last = l + 1 == plan.n_layers
        relu = layer.activation == RELU_ACTIVATION and not layer.narrow and not last
        before = <floating*> layer.input + row * layer.ld_in
        a = <floating*> layer.a + row * layer.ld_a
        if layer.narrow:
            width = padded(layer.fan_in + 1)
            for j in range(layer.fan_out):
                dots(a + j, layer.ld_a, before, layer.ld_in, <floating*> layer.w + j * width,
                     width, rows)
        else:
            forward_product(a, layer.ld_a, before, layer.ld_in, <floating*> layer.w, 0,
                            layer.panel * layer.rows, rows, layer.fan_in + 1,
                            padded(layer.fan_out), RELU if relu else STORE, a)
        if last:
            return
        slope = <floating*> layer.dz + row * layer.ld_a
        for i in range(rows):
            if not relu:
                activate(a, slope, layer.activation, padded(layer.fan_out))
            a[layer.fan_out] = 1  # the next layer's intercepts meet a 1
            a += layer.ld_a
            slope += layer.ld_a


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
        read_row(weight + i * k, &job.sample_weight, source_row(job, position + i))
        if job.sample_weight.dimensions == 1:
            for j in range(1, k):
                weight[i * k + j] = weight[i * k]


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
    if job.smoothing != 0:
        smooth_block(t, job.smoothing, n)
    bce_block(loss, dz, z, t, <const floating*> plan.pos_weight, n)
    if job.has_sample_weight:
        read_weights(job, weight, position, rows)
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
    if job.has_sample_weight:
        return sum_block(<const double*> &job.plan.row_weight[row], rows)
    return <double> (rows * job.plan.outputs)


cdef void backward(const Plan* plan, floating* scratch, Py_ssize_t row,
                   Py_ssize_t rows) noexcept nogil:
    """da_{l-1} = dz_l W_l^T, dz_{l-1} = da_{l-1} * g'(z_{l-1}).

    The slope lies in dz_{l-1}, but that of relu: it is 1 where a_{l-1} is positive, else 0.
    """
    cdef const Layer* layer
    cdef const Layer* before
    cdef const floating* dz
    cdef const floating* gate
    cdef floating* dz_before
    cdef Py_ssize_t i, panel
    cdef Finish finish
    cdef int l
    panel = panel_columns(scratch)
    for l in range(plan.n_layers - 1, 0, -1):
        layer = &plan.layers[l]
        before = &plan.layers[l - 1]
        dz = <floating*> layer.dz + row * layer.ld_a
        dz_before = <floating*> before.dz + row * before.ld_a
        gate = <floating*> before.a + row * before.ld_a
        finish = GATE if before.activation == RELU_ACTIVATION else MULTIPLY
        if layer.narrow:
            forward_product(dz_before, before.ld_a, dz, layer.ld_a, <floating*> layer.w,
                            padded(layer.columns), 0, rows, layer.fan_out,
                            padded(layer.fan_in), finish, gate)
            if layer.fan_in % UNIT != 0:  # the intercepts lie in the padding: no delta
                for i in range(rows):
                    dz_before[i * before.ld_a + layer.fan_in] = 0
        else:
            forward_product(dz_before, before.ld_a, dz, layer.ld_a, <floating*> layer.wt, 0,
                            panel * padded(layer.fan_out), rows, layer.fan_out,
                            padded(layer.fan_in), finish, gate)


cdef inline Py_ssize_t panel_columns(const floating* unused) noexcept nogil:
    """Columns of a panel; ``unused`` gives the type."""
    if floating is float:
        return PANEL_32
    else:
        return PANEL_64


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
    if not layer.narrow:
        gradient_product(c, ldc, a + item.row, layer.ld_in, dz + item.column, layer.ld_a,
                         item.rows, rows, item.columns)
        return
    gradient_product(c, ldc, dz, layer.ld_a, a + item.column, layer.ld_in, item.rows, rows,
                     item.columns)
    for i in range(item.rows):  # the padding of the activations may hold g(0)
        for j in range(layer.columns - item.column, item.columns):
            c[i * ldc + j] = 0


cdef inline floating* partial_tile(const Plan* plan, const Item* item, Py_ssize_t index,
                                   floating* unused) noexcept nogil:
    """Where the tile lies in the partial gradient of one chain; ``unused`` gives the type."""
    cdef const Layer* layer = &plan.layers[item.layer]
    return <floating*> layer.partial + index * layer.rows * padded(layer.columns) + item.offset


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


cdef void store_tile(const Plan* plan, const Item* item, const floating* g) noexcept nogil:
    cdef floating* gradient = <floating*> plan.layers[item.layer].gradient + item.offset
    cdef Py_ssize_t i, j
    for i in range(item.rows):
        for j in range(item.columns):
            gradient[i * item.ld + j] = g[i * item.columns + j]


cdef bint update_run(const Plan* plan, const Layer* layer, Py_ssize_t offset,
                     const floating* g, const Step* step, bint decays,
                     Py_ssize_t n) noexcept nogil:
    """Apply the optimizer to n parameters that lie together; whether all stayed finite."""
    cdef floating* w = <floating*> layer.w + offset
    cdef floating* first = NULL
    cdef floating* second = NULL
    if layer.first != NULL:
        first = <floating*> layer.first + offset
    if layer.second != NULL:
        second = <floating*> layer.second + offset
    return update(w, first, second, g, &plan.hyper, step, decays, n)


cdef bint update_tile(const Plan* plan, const Item* item, const floating* g,
                      Py_ssize_t ld_g, const Step* step) noexcept nogil:
    """Apply the optimizer to a tile and renew its transposed copy; whether all stayed finite.

    Intercepts do not decay: they are the last row, or column if the layer is narrow.
    """
    cdef const Layer* layer = &plan.layers[item.layer]
    cdef bint finite = True
    cdef Py_ssize_t i, weights
    if layer.narrow:
        weights = min(item.columns, layer.fan_in - item.column)
        for i in range(item.rows):
            finite &= update_run(plan, layer, item.offset + i * item.ld, g + i * ld_g, step,
                                 True, weights)
            finite &= update_run(plan, layer, item.offset + i * item.ld + weights,
                                 g + i * ld_g + weights, step, False, item.columns - weights)
        return finite
    weights = min(item.rows, layer.fan_in - item.row)
    finite &= update_run(plan, layer, item.offset, g, step, True, weights * item.ld)
    finite &= update_run(plan, layer, item.offset + weights * item.ld, g + weights * item.ld,
                         step, False, (item.rows - weights) * item.ld)
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


cdef inline bint poll(Job* job) noexcept nogil:
    """Let the caller's thread look for signals now and then; True: stop."""
    cdef int64_t now = bcn_nanoseconds()
    if now < job.next_poll:
        return False
    job.next_poll = now + POLL_NANOSECONDS
    return job.poll(job.owner)


cdef void through_layers(Job* job, floating* scratch, Py_ssize_t row,
                         Py_ssize_t count) noexcept nogil:
    """Rows of the batch through all layers and back."""
    cdef const Plan* plan = job.plan
    cdef Py_ssize_t position = job.batch * job.batch_size + row
    gather(job, <floating*> plan.layers[0].input, row, position, count)
    forward(plan, scratch, row, count)
    loss_rows(job, scratch, row, position, count)
    if not all_finite(&plan.row_loss[row], count):
        bcn_store(&job.stop, BAD_LOSS)
    backward(plan, scratch, row, count)


cdef void rows_item(Job* job, floating* scratch, int64_t block) noexcept nogil:
    """One block of the batch's rows."""
    cdef Py_ssize_t row = block * job.block_rows
    through_layers(job, scratch, row, min(job.block_rows, job.batch_rows - row))


cdef void chain_item(Job* job, floating* scratch, int64_t index) noexcept nogil:
    """The rows of one chain, in blocks, and their part of every gradient."""
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
        chain(partial_tile(plan, item, index, scratch), item.ld, plan, item, start, rows)


cdef void parameters_item(Job* job, floating* scratch, int64_t index) noexcept nogil:
    """One tile of the gradient, and of the parameters where the step is plain."""
    cdef const Plan* plan = job.plan
    cdef const Item* item = &plan.items[index]
    gradient_tile(scratch, job, item, <floating> (1 / job.batch_weight))
    if job.stage != UPDATE_PLAIN:
        store_tile(plan, item, <const floating*> scratch)
    elif not update_tile(plan, item, <const floating*> scratch, item.columns, &job.step):
        bcn_store_minimum(&job.bad_layer, item.layer)


cdef void update_item(Job* job, floating* scratch, int64_t index) noexcept nogil:
    """One tile of the parameters, from the stored gradient: the staged step's second half."""
    cdef const Plan* plan = job.plan
    cdef const Item* item = &plan.items[index]
    cdef const floating* g = <floating*> plan.layers[item.layer].gradient
    if not update_tile(plan, item, g + item.offset, item.ld, &job.step):
        bcn_store_minimum(&job.bad_layer, item.layer)


cdef void train(Job* job) noexcept nogil:
    """All batches, phase by phase: what the caller's thread runs, and leads the helpers in.

    A step that is stopped in its rows phase changes nothing; one in its parameters phase is
    finished.
    """
    cdef Plan* plan = job.plan
    cdef Py_ssize_t block
    for job.batch in range(job.first_batch, job.last_batch):
        job.batch_rows = min(job.batch_size, job.rows - job.batch * job.batch_size)
        block = chain_rows(job.batch_rows) if job.by_chains else job.block_rows
        bcn_team_phase(&plan.team, CHAINS if job.by_chains else ROWS,
                       (job.batch_rows + block - 1) // block)
        if job.stop == DONE and poll(job):
            job.stop = INTERRUPTED
        if job.stop != DONE:
            job.status = <Status> job.stop
            return
        job.batch_weight = weight_of(job, 0, job.batch_rows)
        job.loss += sum_block(<const double*> plan.row_loss, job.batch_rows)
        job.weight += job.batch_weight
        if job.batch_weight == 0:
            continue
        if job.stage != GRADIENT_ONLY:
            plan.steps += 1
        prepare(&job.step, &plan.hyper, plan.steps)
        bcn_team_phase(&plan.team, PARAMETERS, plan.n_items)
        if job.stage == UPDATE_STAGED:
            bcn_team_phase(&plan.team, UPDATES, plan.n_items)
        if job.bad_layer != NO_LAYER:
            job.status = BAD_PARAMETERS
            return


cdef void inference_item(Job* job, floating* scratch, int64_t block,
                         int thread) noexcept nogil:
    """A block of rows through the forward pass: to outputs, or to weighted losses.

    Thread t works in rows t * INFERENCE_ROWS and following of the buffers.
    """
    cdef const Plan* plan = job.plan
    cdef const Layer* last = &plan.layers[plan.n_layers - 1]
    cdef Py_ssize_t row = thread * INFERENCE_ROWS
    cdef Py_ssize_t position = block * INFERENCE_ROWS
    cdef Py_ssize_t count = min(<Py_ssize_t> INFERENCE_ROWS, job.rows - position)
    cdef Py_ssize_t i, j
    cdef floating* out
    cdef const floating* logits
    gather(job, <floating*> plan.layers[0].input, row, position, count)
    if not all_finite(<floating*> plan.layers[0].input + row * plan.layers[0].ld_in,
                      count * plan.layers[0].ld_in):
        bcn_store(&job.stop, BAD_INPUT)
        return
    # The hardware reads ahead only to the end of a page: 1 to 2 % of the time.
    for i in range(position + INFERENCE_ROWS, min(position + 2 * INFERENCE_ROWS, job.rows)):
        prefetch_row(&job.x, i)
    forward(plan, scratch, row, count)
    if job.has_targets:
        loss_rows(job, scratch, row, position, count)
        job.block_loss[block] = sum_block(<const double*> &plan.row_loss[row], count)
        job.block_weight[block] = weight_of(job, row, count)
        return
    logits = <floating*> last.a + row * last.ld_a
    out = <floating*> job.out + position * plan.outputs
    if last.ld_a != plan.outputs:
        for i in range(count):
            for j in range(plan.outputs):
                out[i * plan.outputs + j] = logits[i * last.ld_a + j]
        logits = out
    if job.probabilities:
        for i in range(count * plan.outputs):
            out[i] = sigmoid(logits[i])
    elif logits != out:
        for i in range(count * plan.outputs):
            out[i] = logits[i]


cdef inline void work(Job* job, floating* scratch, int kind, int64_t item,
                      int thread) noexcept nogil:
    """One item of a phase, on any thread of the team."""
    if bcn_load(&job.stop) != DONE:
        return
    if job.inference:
        inference_item(job, scratch, item, thread)
    elif kind == ROWS:
        rows_item(job, scratch, item)
    elif kind == CHAINS:
        chain_item(job, scratch, item)
    elif kind == PARAMETERS:
        parameters_item(job, scratch, item)
    else:
        update_item(job, scratch, item)
    if thread == 0 and kind <= CHAINS and poll(job):
        bcn_store(&job.stop, INTERRUPTED)
