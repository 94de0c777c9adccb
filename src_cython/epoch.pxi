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
# activations before it carry a column of ones. Buffers are padded to whole units of columns
# with zeros that stay zeros; `affine` has the sizes.

from libc.stdint cimport int32_t, int64_t

from activations cimport activate
from affine cimport MULTIPLY, STORE, leading, padded, product
from losses cimport bce_block, sigmoid, smooth_block, sum_block
from optimizers cimport Hyper, Step, prepare, update
from source cimport Layout, prefetch_row, read_row
from vecmath cimport bcn_bits32, bcn_bits64, floating

cdef extern from "platform.h" nogil:
    ctypedef struct bcn_member:
        pass
    ctypedef struct bcn_team:
        pass
    int64_t bcn_nanoseconds()
    void bcn_store(int64_t* p, int64_t value)
    int64_t bcn_load(int64_t* p)
    void bcn_store_minimum(int64_t* p, int64_t value)
    void bcn_team_start(bcn_team* team, int size, bcn_member* members,
                        void (*work)(void*, int, int64_t, int) noexcept nogil, void* context)
    void bcn_team_phase(bcn_team* team, int kind, int64_t count)
    void bcn_team_stop(bcn_team* team)

cdef enum:
    ITEM_ROWS = 12  # rows of a parameter tile: two of the widest register tiles
    ITEM_COLUMNS = 64
    ITEM_SIZE = 12 * 64
    NARROW = 4  # outputs of a layer whose gradient is computed transposed
    NARROW_ROWS = 48  # of its tiles, which are 16 columns wide: 48 * 16 = ITEM_SIZE
    INFERENCE_ROWS = 64  # rows of a block in prediction and evaluation
    POLL_NANOSECONDS = 40000000  # between looks for signals
    MOST_PARTIALS = 4  # chains of a batch whose gradients may be kept apart
    NO_LAYER = 1 << 30
    PREFETCH = 8  # rows that a gather looks ahead: shuffled rows lie anywhere in memory

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
    BAD_LOSS  # a loss of the batch is not finite; its step was not taken
    BAD_PARAMETERS  # the step made parameters or optimizer state that are not finite

cdef struct Layer:
    Py_ssize_t fan_in
    Py_ssize_t fan_out
    int activation
    Py_ssize_t ld_w  # of w, first, second and gradient: (fan_in + 1, ld_w)
    Py_ssize_t ld_wt  # of wt: (padded(fan_out), ld_wt)
    Py_ssize_t ld_in  # of the activations before this layer
    Py_ssize_t ld_a  # of a and dz: (capacity, ld_a)
    void* w
    void* first  # optimizer state, or NULL
    void* second
    void* gradient
    void* partial  # MOST_PARTIALS times (fan_in + 1, ld_w), or NULL
    void* wt
    void* input  # x, or a of the layer before
    void* a
    void* dz  # holds the slope g'(z) between the forward and the backward pass

cdef struct Item:
    int layer
    Py_ssize_t row
    Py_ssize_t rows
    Py_ssize_t column
    Py_ssize_t columns

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
    void* pos_weight  # (outputs,)
    int threads
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
    bcn_team team
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
    """Whether no exponent is all ones: integer operations, so the loop vectorises."""
    cdef Py_ssize_t i
    cdef bint bad = False
    if floating is float:
        for i in range(n):
            bad |= (bcn_bits32(values[i]) & 0x7F800000u) == 0x7F800000u
    else:
        for i in range(n):
            bad |= (bcn_bits64(values[i]) & 0x7FF0000000000000u) == 0x7FF0000000000000u
    return not bad


cdef void gather(const Job* job, floating* x, Py_ssize_t buffer_row, Py_ssize_t position,
                 Py_ssize_t rows) noexcept nogil:
    """Rows of X, converted, into the input of the first layer; a 1 follows each."""
    cdef const Layer* layer = &job.plan.layers[0]
    cdef Py_ssize_t i
    x += buffer_row * layer.ld_in
    for i in range(rows):
        if i + PREFETCH < rows:
            prefetch_row(&job.x, source_row(job, position + i + PREFETCH))
        read_row(x, &job.x, source_row(job, position + i))
        x[layer.fan_in] = 1
        x += layer.ld_in


cdef void forward(const Plan* plan, floating* scratch, Py_ssize_t row,
                  Py_ssize_t rows) noexcept nogil:
    """z_l = [a, 1] [W; b], a_l = g(z_l) for rows of the buffers; the last layer stays logits."""
    cdef const Layer* layer
    cdef floating* a
    cdef floating* slope
    cdef Py_ssize_t _row
    cdef int l
    for l in range(plan.n_layers):
        layer = &plan.layers[l]
        a = <floating*> layer.a + row * layer.ld_a
        product(a, layer.ld_a, <floating*> layer.input + row * layer.ld_in, layer.ld_in, 1,
                <floating*> layer.w, layer.ld_w, rows, layer.fan_in + 1, padded(layer.fan_out),
                STORE)
        if l + 1 < plan.n_layers:
            slope = <floating*> layer.dz + row * layer.ld_a
            for _row in range(rows):
                activate(a, slope, layer.activation, padded(layer.fan_out))
                a[layer.fan_out] = 1  # the next layer's intercepts meet a 1
                a += layer.ld_a
                slope += layer.ld_a


cdef void loss_rows(const Job* job, floating* scratch, Py_ssize_t row,
                    Py_ssize_t position, Py_ssize_t rows) noexcept nogil:
    """Weighted losses of rows to row_loss, and w dl/dz to the last layer's dz.

    A batch's mean is taken by the parameters phase, which divides by the sum of the weights.
    """
    cdef const Plan* plan = job.plan
    cdef const Layer* last = &plan.layers[plan.n_layers - 1]
    cdef Py_ssize_t k = plan.outputs
    cdef Py_ssize_t n = rows * k
    cdef Py_ssize_t i, j, source
    # Compact copies of (rows, k), so that the loss runs over contiguous numbers for any k.
    cdef floating* z = scratch
    cdef floating* t = z + n
    cdef floating* weight = t + n
    cdef floating* pos = weight + n
    cdef floating* loss = pos + n
    cdef floating* dz = loss + n
    cdef const floating* logits = <floating*> last.a + row * last.ld_a
    cdef floating* out = <floating*> last.dz + row * last.ld_a
    for i in range(rows):
        source = source_row(job, position + i)
        read_row(t + i * k, &job.y, source)
        if job.has_sample_weight:
            read_row(weight + i * k, &job.sample_weight, source)
        for j in range(k):
            z[i * k + j] = logits[i * last.ld_a + j]
            pos[i * k + j] = (<floating*> plan.pos_weight)[j]
            if not job.has_sample_weight:
                weight[i * k + j] = 1
            elif job.sample_weight.dimensions == 1:
                weight[i * k + j] = weight[i * k]
    if job.smoothing != 0:
        smooth_block(t, job.smoothing, n)
    bce_block(loss, dz, z, t, pos, n)
    for i in range(n):
        loss[i] = 0 if weight[i] == 0 else weight[i] * loss[i]
        dz[i] = weight[i] * dz[i]
    for i in range(rows):
        plan.row_loss[row + i] = sum_block(loss + i * k, k)
        plan.row_weight[row + i] = sum_block(weight + i * k, k)
        for j in range(k):
            out[i * last.ld_a + j] = dz[i * k + j]


cdef void backward(const Plan* plan, floating* scratch, Py_ssize_t row,
                   Py_ssize_t rows) noexcept nogil:
    """da_{l-1} = dz_l W_l^T, dz_{l-1} = da_{l-1} * g'(z_{l-1}): the slope lies in dz_{l-1}."""
    cdef const Layer* layer
    cdef const Layer* before
    cdef int l
    for l in range(plan.n_layers - 1, 0, -1):
        layer = &plan.layers[l]
        before = &plan.layers[l - 1]
        product(<floating*> before.dz + row * before.ld_a, before.ld_a,
                <floating*> layer.dz + row * layer.ld_a, layer.ld_a, 1,
                <floating*> layer.wt, layer.ld_wt, rows, layer.fan_out, padded(layer.fan_in),
                MULTIPLY)


cdef inline Py_ssize_t chain_rows(Py_ssize_t rows) noexcept nogil:
    """Rows that one chain of a weight gradient sums: of the batch's size alone.

    Up to four chains of at least 96 rows, so that up to four threads can each sum their own;
    never more than 1024 rows, because the error of a chain grows with its length. (Chains of 48
    rows made one thread 3 % slower at batch 200, and two threads no faster.)
    """
    cdef Py_ssize_t chains = max(<Py_ssize_t> 1, min(<Py_ssize_t> 4, rows // 96))
    return min(<Py_ssize_t> 1024, (rows + chains - 1) // chains)


cdef void chain(floating* c, Py_ssize_t ldc, floating* scratch, const Plan* plan,
                const Item* item, Py_ssize_t start, Py_ssize_t rows) noexcept nogil:
    """A tile of [a, 1]^T dz over ``rows`` rows of the batch, one chain an element."""
    cdef const Layer* layer = &plan.layers[item.layer]
    cdef const floating* a = <floating*> layer.input + start * layer.ld_in + item.row
    cdef const floating* dz = <floating*> layer.dz + start * layer.ld_a + item.column
    cdef Py_ssize_t width = padded(item.rows)
    cdef Py_ssize_t i, j
    if layer.fan_out > NARROW:
        product(c, ldc, a, 1, layer.ld_in, dz, layer.ld_a, item.rows, rows, item.columns, STORE)
        return
    # A few columns: their transpose dz^T [a, 1] fills the vectors, with the same bits.
    product(scratch, width, dz, 1, layer.ld_a, a, layer.ld_in, layer.fan_out, rows, width, STORE)
    for i in range(item.rows):
        for j in range(layer.fan_out):
            c[i * ldc + j] = scratch[j * width + i]
        for j in range(layer.fan_out, item.columns):
            c[i * ldc + j] = 0


cdef inline floating* partial_tile(const Plan* plan, const Item* item, Py_ssize_t index,
                                   floating* unused) noexcept nogil:
    """Where the tile lies in the partial gradient of one chain; ``unused`` gives the type."""
    cdef const Layer* layer = &plan.layers[item.layer]
    return (<floating*> layer.partial + index * (layer.fan_in + 1) * layer.ld_w
            + item.row * layer.ld_w + item.column)


cdef void gradient_tile(floating* sums, const Job* job, const Item* item,
                        floating scale) noexcept nogil:
    """A tile of [a, 1]^T dz over the batch, times ``scale``.

    Its chains are computed here, or were by whoever had their rows; they merge as a binary
    counter carries: a fixed tree. ``sums`` holds one tile a level of it, and one more to work
    in; the result is the first.
    """
    cdef const Plan* plan = job.plan
    cdef Py_ssize_t ld_w = plan.layers[item.layer].ld_w
    cdef Py_ssize_t size = item.rows * item.columns
    cdef Py_ssize_t rows = chain_rows(job.batch_rows)
    cdef Py_ssize_t index, i, j, carries
    cdef Py_ssize_t level = 0
    cdef floating* tile
    cdef const floating* partial
    for index in range((job.batch_rows + rows - 1) // rows):
        tile = sums + level * ITEM_SIZE
        if job.by_chains:
            partial = partial_tile(plan, item, index, sums)
            for i in range(item.rows):
                for j in range(item.columns):
                    tile[i * item.columns + j] = partial[i * ld_w + j]
        else:
            chain(tile, item.columns, tile + ITEM_SIZE, plan, item, index * rows,
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
    cdef const Layer* layer = &plan.layers[item.layer]
    cdef floating* gradient = <floating*> layer.gradient + item.row * layer.ld_w + item.column
    cdef Py_ssize_t i, j
    for i in range(item.rows):
        for j in range(item.columns):
            gradient[i * layer.ld_w + j] = g[i * item.columns + j]


cdef bint update_tile(const Plan* plan, const Item* item, const floating* g,
                      Py_ssize_t ld_g, const Step* step) noexcept nogil:
    """Apply the optimizer to a tile and renew its transposed copy; whether all stayed finite."""
    cdef const Layer* layer = &plan.layers[item.layer]
    cdef Py_ssize_t offset = item.row * layer.ld_w + item.column
    cdef floating* w = <floating*> layer.w + offset
    cdef floating* first = NULL
    cdef floating* second = NULL
    cdef floating* wt
    cdef Py_ssize_t i, j, runs, run
    cdef bint finite = True
    if layer.first != NULL:
        first = <floating*> layer.first + offset
    if layer.second != NULL:
        second = <floating*> layer.second + offset
    # A tile as wide as its layer is one run of numbers, unless only its last row is the
    # intercepts, which do not decay.
    runs = item.rows
    run = item.columns
    if layer.ld_w == run and ld_g == run and (
            plan.hyper.weight_decay == 0 or item.row + item.rows <= layer.fan_in):
        run *= runs
        runs = 1
    for i in range(runs):
        update(w + i * layer.ld_w, first + i * layer.ld_w, second + i * layer.ld_w,
               g + i * ld_g, &plan.hyper, step, item.row + i < layer.fan_in, run)
        finite &= all_finite(w + i * layer.ld_w, run)
        if second != NULL:
            finite &= all_finite(second + i * layer.ld_w, run)
        elif first != NULL:
            finite &= all_finite(first + i * layer.ld_w, run)
    if item.layer > 0:
        wt = <floating*> layer.wt + item.column * layer.ld_wt + item.row
        for j in range(item.columns):
            for i in range(min(item.rows, layer.fan_in - item.row)):
                wt[j * layer.ld_wt + i] = w[i * layer.ld_w + j]
    return finite


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
        chain(partial_tile(plan, item, index, scratch), plan.layers[item.layer].ld_w, scratch,
              plan, item, start, rows)


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
    cdef const Layer* layer = &plan.layers[item.layer]
    cdef const floating* g = <floating*> layer.gradient
    if not update_tile(plan, item, g + item.row * layer.ld_w + item.column, layer.ld_w,
                       &job.step):
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
        bcn_team_phase(&job.team, CHAINS if job.by_chains else ROWS,
                       (job.batch_rows + block - 1) // block)
        if job.stop == DONE and poll(job):
            job.stop = INTERRUPTED
        if job.stop != DONE:
            job.status = <Status> job.stop
            return
        job.batch_weight = sum_block(<const double*> plan.row_weight, job.batch_rows)
        job.loss += sum_block(<const double*> plan.row_loss, job.batch_rows)
        job.weight += job.batch_weight
        if job.batch_weight == 0:
            continue
        if job.stage != GRADIENT_ONLY:
            plan.steps += 1
        prepare(&job.step, &plan.hyper, plan.steps)
        bcn_team_phase(&job.team, PARAMETERS, plan.n_items)
        if job.stage == UPDATE_STAGED:
            bcn_team_phase(&job.team, UPDATES, plan.n_items)
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
    forward(plan, scratch, row, count)
    if job.has_targets:
        loss_rows(job, scratch, row, position, count)
        job.block_loss[block] = sum_block(<const double*> &plan.row_loss[row], count)
        job.block_weight[block] = sum_block(<const double*> &plan.row_weight[row], count)
        return
    logits = <floating*> last.a + row * last.ld_a
    out = <floating*> job.out + position * plan.outputs
    for i in range(count):
        for j in range(plan.outputs):
            out[i * plan.outputs + j] = logits[i * last.ld_a + j]
    if job.probabilities:
        for i in range(count * plan.outputs):
            out[i] = sigmoid(out[i])


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
