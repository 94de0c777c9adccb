# What the epoch engine works on: the network as it is stored, its buffers, and one call's job.
#
# Layer l holds one matrix [W; b] of (fan_in + 1, fan_out): its last row is the intercept, and the
# activations before it carry a column of ones. It is stored in panels of columns (`affine` says
# why), padded to whole units with zeros that stay zeros. A narrow layer, of up to four outputs,
# stores the transpose instead: its outputs are dot products, and its gradient and its deltas
# then have full vectors.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from bcenet.cimports.activations cimport RELU as RELU_ACTIVATION, activate
from affine cimport (
    Finish, GATE, LINE, MULTIPLY, PANEL_32, PANEL_64, RELU, STORE, UNIT, bcn_transpose_float32,
    bcn_transpose_float64, dots, lane_sum, leading, padded, product,
)
from bcenet.cimports.losses cimport loss_block, sigmoid, smooth_block, sum_block
from norms cimport (
    BATCH_NORM, LAYER_NORM, NO_NORM, deviation_inverse, normalize_row, normalize_row_back,
    standardize_row, standardize_row_back,
)
from optimizers cimport (
    COEFS, GROUPS, Group, Hyper, INTERCEPTS, NORMS, SCALE, STATES, Step, average, penalize,
    prepare, update,
)
from random cimport drop_row
from source cimport Layout, bcn_prefetch, copy_run, is_plain, prefetch_row, read_row, read_run
from bcenet.cimports.vecmath cimport (
    absolute, bcn_bits32, bcn_bits64, bcn_float32, bcn_float64, floating, muladd, not_finite,
    square_root,
)

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
    void bcn_team_rest(bcn_team* team, int count)

cdef enum:
    ITEM_SIZE = 24 * 64  # numbers of a parameter tile: whole register tiles, whole transposes
    NARROW = 4  # outputs of a layer that is stored transposed
    INFERENCE_ROWS = 96  # rows of a block in prediction and evaluation
    POLL_NANOSECONDS = 40000000  # between looks for signals
    MOST_PARTIALS = 4  # chains of a batch whose gradients may be kept apart
    NO_LAYER = 1 << 30
    PREFETCH = 24  # rows that a gather looks ahead: shuffled rows lie anywhere in memory
    SPARSE_PREFETCH = 8  # the same of sparse rows, of which more are in flight at once
    SPARSE_ENTRIES = 64  # of a row that are converted at a time
    ENTRIES_AHEAD = 16  # entries whose weights or sums are asked for before they are used
    LAZY_COLUMNS = 64  # of X that one item of a lazy step updates
    COLUMNS_AHEAD = 4  # of them whose weights and state are asked for before they are updated
    STRIPE_ROWS = 32  # of a stored matrix, for what goes through all of it
    FEW_PARAMETERS = 1 << 14  # that the leader goes through faster than a phase opens and closes

cdef enum Stage:
    UPDATE_PLAIN  # gradient and update in one pass over the tiles
    UPDATE_STAGED  # all gradient tiles, then all updates
    GRADIENT_ONLY  # no update
    LOGITS_ONLY  # the forward pass of training alone

cdef enum Kind:
    # Kinds of phases in training; inference has one kind.
    ROWS
    CHAINS  # rows, with their part of the gradient
    STATISTICS  # mean and variance of a batch normalisation
    REDUCTIONS  # the means that its backward pass needs
    PENALTIES  # |w| and w^2, summed
    PARAMETERS
    SCALING  # gradients of the factors of X's columns
    SQUARES  # of the gradient, summed
    UPDATES
    MAX_NORMS
    EFFECTIVE  # weights times the factors of X's columns

cdef enum Status:
    DONE
    INTERRUPTED
    BAD_INPUT  # a number of X is not finite: in prediction, which did not check it before
    BAD_LOSS  # a loss of the batch is not finite; its step was not taken
    BAD_PARAMETERS  # the step made parameters, statistics or state that are not finite

cdef enum Part:
    # What is copied to and from flat arrays, laid out as Network.parameters or .statistics.
    WEIGHTS
    AVERAGE
    GRADIENT
    STATISTIC  # running means and variances
    STATE  # the optimizer's first; the others follow

cdef struct Values:
    # Parameters, and what belongs to each of them: arrays of one layout, or NULL.
    void* w
    void* state[STATES]
    void* average
    void* gradient

cdef struct Layer:
    Py_ssize_t fan_in
    Py_ssize_t fan_out
    int activation
    bint narrow
    bint gated  # relu without slopes: it is 1 where a is positive
    # The values and each partial hold one matrix: [W; b], or its transpose if the layer is
    # narrow. It is (rows, padded(columns)), in panels of ``panel`` columns.
    Py_ssize_t rows
    Py_ssize_t columns
    Py_ssize_t panel
    Py_ssize_t ld_in  # of the activations before this layer
    Py_ssize_t ld_a  # of a and dz: (capacity, ld_a)
    Values matrix
    void* w  # that the passes read: the matrix, its rows times the factors of X's columns
    void* partial  # MOST_PARTIALS matrices, or NULL
    void* wt  # W^T, (padded(fan_out), padded(fan_in)) in panels; not of narrow layers
    void* input  # x, or a of the layer before
    void* a
    void* dz  # holds the slope g'(z) between the forward and the backward pass, if not gated
    int norm
    Values gains  # (2, ld_a): gain and shift of the normalisation
    void* running  # (2, ld_a): mean and variance for predictions, of a batch normalisation
    void* normed  # (capacity, ld_a): z, normalised
    void* dy  # (capacity, ld_a): the deltas behind the normalisation
    void* mean  # (ld_a,): of z, of a batch normalisation
    void* inverse  # 1 / deviation: one a column (batch), or one a row of the buffers (layer)
    void* slopes  # (2, ld_a): means of dy and of dy normed over the batch; 0 where it is constant
    double* variance  # (ld_a,): of the batch
    double* sums  # (2, ld_a): over the batch, of dy normed and of dy
    uint32_t drop_rate  # in parts of 65536
    double keep_scale

cdef struct Sparse:
    # Rows of numbers at columns, compressed (CSR); the columns of a row rise.
    Layout values
    const int32_t* columns_32  # in one of two widths, like the starts
    const int64_t* columns_64
    const int32_t* starts_32  # of each row's entries, and the end of the last
    const int64_t* starts_64

cdef struct Index:
    # The entries of a batch by the columns of X that it has, each a slot: rows in order.
    # Lazy steps of a narrow layer need the columns alone: each row's entries are added to sums.
    void* sums  # (fan_in, fan_out): gradients, unset where the batch lacks a column; or NULL
    int32_t* slots  # (fan_in,): of each column, or -1
    int32_t* columns  # of each slot
    int32_t* ends  # of each slot's entries
    int32_t* places  # slots, in the order of the rows
    int32_t* rows  # of each entry, in the batch
    void* values
    Py_ssize_t count  # slots

cdef enum ItemKind:
    TILE  # of a layer's matrix
    GAINS  # of a normalisation
    FACTORS  # of X's columns

cdef struct Item:
    # Parameters that one thread updates: a tile lies within one panel.
    ItemKind kind
    int layer
    Py_ssize_t row
    Py_ssize_t rows
    Py_ssize_t column
    Py_ssize_t columns
    Py_ssize_t offset  # of its first number in the stored matrix
    Py_ssize_t ld

cdef struct Stripe:
    # Rows of a layer's stored matrix.
    int layer
    Py_ssize_t row
    Py_ssize_t rows
    Py_ssize_t index  # of the first among all layers' rows

cdef struct Objective:
    # What a fit makes small, and the bounds that it keeps.
    int loss
    double focus  # of the focal loss
    double smoothing
    bint label_sum  # a row's loss is the sum over its labels, not their mean
    bint masked  # NaN targets are left out
    bint lazy  # the first layer's weights of columns that a batch of sparse rows lacks stay
    double l1
    double l2
    double clip_norm  # of the gradient; 0: none
    double max_norm  # of a unit's weights; 0: none
    double average_rate  # of the moving average of the parameters, a step; 0: none

cdef struct Plan:
    int item_size  # 4 or 8 bytes: what every void* of real numbers points to
    int n_layers
    Layer* layers
    Item* items
    Py_ssize_t n_items
    Py_ssize_t n_first_items  # tiles of the first layer: they come first
    Stripe* stripes
    Py_ssize_t n_stripes
    Py_ssize_t n_first_stripes  # of the first layer
    Py_ssize_t n_parameters  # as stored
    double* sums  # one a stored row, one a normalisation, one for the factors
    Py_ssize_t n_sums
    bint scaled
    Values factors  # (fan_in of the first layer,): of X's columns
    int* batch_norms  # layers
    int n_batch_norms
    bint batch_statistics  # batch normalisation takes the batch's, else the running ones
    bint sparse  # X is: the first layer has no input buffer
    Index index
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
    Objective objective
    Py_ssize_t steps  # taken so far
    Py_ssize_t averaged  # steps, or epochs, in the average
    void** blocks  # what was allocated
    Py_ssize_t n_blocks
    Py_ssize_t room

cdef struct Job:
    # One call: what to run the plan on, and what came of it.
    Plan* plan
    Layout x  # or, where the plan is sparse, the next
    Sparse entries
    Layout y  # targets, or derivatives of the logits
    Layout sample_weight
    Layout offset
    bint has_targets
    bint has_derivatives
    bint has_sample_weight
    bint has_offset
    const int32_t* order_32  # the order of the rows, in one of two widths; NULL: as they lie
    const int64_t* order_64
    const double* rates  # factors of the learning rate, one a batch; NULL: 1
    uint64_t seed  # of dropout, with the next two
    uint32_t epoch
    Py_ssize_t sequence  # place of the first row in its epoch's, if that is a row's number; or -1
    bint drops  # whether layers drop units
    Py_ssize_t rows
    Py_ssize_t batch_size
    Py_ssize_t block_rows
    Py_ssize_t first_batch
    Py_ssize_t last_batch
    Stage stage
    bint by_chains  # each chain's rows and gradient on one thread, else tiles over all rows
    bint inference
    void (*run)(void* job, int kind, int64_t item, int thread) noexcept nogil
    bint (*poll)(void* owner) noexcept nogil  # True: stop
    void* owner
    int64_t next_poll  # when to look for signals, in ns
    int at  # the batch normalisation to go on from; -1: none
    bint backwards
    Py_ssize_t batch_rows  # of the batch in work, like what follows
    double batch_weight
    double gradient_scale
    double penalty_scale
    double clip_factor
    double average_rate
    Step step
    int64_t stop  # a Status: DONE while all is well
    int64_t bad_layer
    Status status
    Py_ssize_t batch  # in work; in the end the one that was stopped, or bad
    double loss  # weighted sum over the batches taken
    double weight  # of the same batches
    double penalty  # summed over the same batches
    void* out  # inference and logits: (rows, outputs), or NULL
    void* gradients  # (batches, parameters): the gradient of each batch, or NULL
    bint probabilities
    double* block_loss  # evaluation: one a block
    double* block_weight


cdef inline Py_ssize_t panel_columns(const floating* unused) noexcept nogil:
    """Columns of a panel; ``unused`` gives the type."""
    if floating is float:
        return PANEL_32
    else:
        return PANEL_64


cdef inline Py_ssize_t source_row(const Job* job, Py_ssize_t position) noexcept nogil:
    if job.order_32 != NULL:
        return job.order_32[position]
    if job.order_64 != NULL:
        return job.order_64[position]
    return position


cdef inline uint64_t row_number(const Job* job, Py_ssize_t position) noexcept nogil:
    """What dropout knows a row by."""
    if job.sequence >= 0:
        return <uint64_t> (job.sequence + position)
    return <uint64_t> source_row(job, position)


cdef inline bint all_finite(const floating* values, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef bint bad = False
    for i in range(n):
        bad |= not_finite(values[i])
    return not bad


cdef inline void copy_values(floating* to, const floating* values, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        to[i] = values[i]


# ---- flat arrays -------------------------------------------------------------------------------

cdef void copy_matrix(floating* matrix, const Layer* layer, floating* flat,
                      bint to_flat) noexcept nogil:
    """[W; b] of a layer from a row-major array to its stored form, or back."""
    cdef Py_ssize_t i, j, start, ld, count
    cdef floating* stored
    cdef floating* row
    if layer.narrow:
        ld = padded(layer.columns)
        for i in range(layer.fan_in + 1):
            for j in range(layer.fan_out):
                if to_flat:
                    flat[i * layer.fan_out + j] = matrix[j * ld + i]
                else:
                    matrix[j * ld + i] = flat[i * layer.fan_out + j]
        return
    start = 0
    while start < layer.fan_out:
        ld = min(layer.panel, padded(layer.fan_out) - start)
        count = min(ld, layer.fan_out - start)
        for i in range(layer.fan_in + 1):
            stored = matrix + start * layer.rows + i * ld
            row = flat + i * layer.fan_out + start
            if to_flat:
                copy_values(row, <const floating*> stored, count)
            else:
                copy_values(stored, <const floating*> row, count)
        start += layer.panel


cdef void copy_vector(floating* stored, floating* flat, bint to_flat,
                      Py_ssize_t n) noexcept nogil:
    if to_flat:
        copy_values(flat, <const floating*> stored, n)
    else:
        copy_values(stored, <const floating*> flat, n)


cdef inline void* part_of(const Values* values, int part) noexcept nogil:
    if part == WEIGHTS:
        return values.w
    if part == AVERAGE:
        return values.average
    if part == GRADIENT:
        return values.gradient
    return values.state[part - STATE]


cdef void copy_part(const Plan* plan, int part, floating* flat, bint to_flat) noexcept nogil:
    """A part to or from its flat array: W1, b1, W2, b2, …, then gain and shift of each
    normalised layer, then the factors of X's columns; or mean and variance of each
    batch-normalised layer."""
    cdef const Layer* layer
    cdef int l, i
    if part != STATISTIC:
        for l in range(plan.n_layers):
            layer = &plan.layers[l]
            copy_matrix(<floating*> part_of(&layer.matrix, part), layer, flat, to_flat)
            flat += (layer.fan_in + 1) * layer.fan_out
    for l in range(plan.n_layers):
        layer = &plan.layers[l]
        if layer.norm == NO_NORM or part == STATISTIC and layer.norm != BATCH_NORM:
            continue
        for i in range(2):
            if part == STATISTIC:
                copy_vector(<floating*> layer.running + i * layer.ld_a, flat, to_flat,
                            layer.fan_out)
            else:
                copy_vector(<floating*> part_of(&layer.gains, part) + i * layer.ld_a, flat,
                            to_flat, layer.fan_out)
            flat += layer.fan_out
    if plan.scaled and part != STATISTIC:
        copy_vector(<floating*> part_of(&plan.factors, part), flat, to_flat,
                    plan.layers[0].fan_in)


cdef Py_ssize_t flat_count(const Plan* plan, int part) noexcept nogil:
    """Numbers of a part's flat array."""
    cdef const Layer* layer
    cdef Py_ssize_t count = 0
    cdef int l
    for l in range(plan.n_layers):
        layer = &plan.layers[l]
        if part != STATISTIC:
            count += (layer.fan_in + 1) * layer.fan_out
        if layer.norm == BATCH_NORM or layer.norm != NO_NORM and part != STATISTIC:
            count += 2 * layer.fan_out
    if plan.scaled and part != STATISTIC:
        count += plan.layers[0].fan_in
    return count
