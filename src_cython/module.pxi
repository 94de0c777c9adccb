# The Python face of the native code, compiled once an instruction set (setup.py writes a stub
# that includes this file). Arguments are checked in Python, by bcenet/kernels.py.

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_RECORDS_RO, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cimport numpy as cnp

from bcenet.cimports cimport activations, losses
cimport optimizers
from bcenet.cimports.losses cimport bce
from random cimport DROPS, shuffle
from source cimport (
    FLOAT16, FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, MAX_DIMENSIONS, UINT8, UINT16, UINT32,
    UINT64, read_block,
)
from bcenet.cimports.vecmath cimport muladd

include "plan.pxi"
include "rows.pxi"
include "parameters.pxi"
include "epoch.pxi"

cnp.import_array()

cdef extern from "platform.h" nogil:
    void* bcn_allocate(size_t size)

cdef enum:
    BLOCK = 1024  # elements that the elementwise kernels handle at a time, on the stack

ACTIVATIONS = {
    "identity": <int> activations.IDENTITY,
    "relu": <int> activations.RELU,
    "leaky_relu": <int> activations.LEAKY_RELU,
    "elu": <int> activations.ELU,
    "selu": <int> activations.SELU,
    "gelu": <int> activations.GELU,
    "silu": <int> activations.SILU,
    "tanh": <int> activations.TANH,
    "sigmoid": <int> activations.SIGMOID,
    "softplus": <int> activations.SOFTPLUS,
}

LOSSES = {
    "bce": <int> losses.BCE,
    "focal": <int> losses.FOCAL,
}

RULES = {
    "sgd": <int> optimizers.SGD,
    "adam": <int> optimizers.ADAM,
    "amsgrad": <int> optimizers.AMSGRAD,
    "rmsprop": <int> optimizers.RMSPROP,
    "lion": <int> optimizers.LION,
}

# Groups of parameters with a learning rate of their own.
GROUP_CODES = {
    "coefs": <int> COEFS,
    "intercepts": <int> INTERCEPTS,
    "norms": <int> NORMS,
    "scale": <int> SCALE,
}

NORMALIZATIONS = {
    None: <int> NO_NORM,
    "batch": <int> BATCH_NORM,
    "layer": <int> LAYER_NORM,
}

STAGES = {
    "plain": <int> UPDATE_PLAIN,
    "staged": <int> UPDATE_STAGED,
    "gradient": <int> GRADIENT_ONLY,
    "logits": <int> LOGITS_ONLY,
}

STATUSES = {
    <int> DONE: "done",
    <int> INTERRUPTED: "interrupted",
    <int> BAD_INPUT: "bad input",
    <int> BAD_LOSS: "bad loss",
    <int> BAD_PARAMETERS: "bad parameters",
}

_CODES = {
    "b1": <int> UINT8, "i1": <int> INT8, "i2": <int> INT16, "i4": <int> INT32, "i8": <int> INT64,
    "u1": <int> UINT8, "u2": <int> UINT16, "u4": <int> UINT32, "u8": <int> UINT64,
    "f2": <int> FLOAT16, "f4": <int> FLOAT32, "f8": <int> FLOAT64,
}


cdef void* address(object array, size_t size, bint writable) except NULL:
    """Where a C-contiguous array of ``size`` bytes lies. The caller keeps the array alive."""
    cdef Py_buffer view
    cdef void* pointer
    PyObject_GetBuffer(array, &view, PyBUF_C_CONTIGUOUS | (PyBUF_WRITABLE if writable else 0))
    pointer = view.buf
    if <size_t> view.len != size:
        length = view.len
        PyBuffer_Release(&view)
        raise ValueError(f"array must have {size} bytes; got {length}")
    PyBuffer_Release(&view)
    return pointer


cdef class Source:
    """An array of any layout, to be read block by block in float32 or float64."""

    cdef Py_buffer view
    cdef Layout layout
    cdef bint held

    def __cinit__(self, array):
        cdef int d
        dtype = array.dtype
        PyObject_GetBuffer(array, &self.view, PyBUF_RECORDS_RO)
        self.held = True
        self.layout.code = _CODES[f"{dtype.kind}{dtype.itemsize}"]
        self.layout.swapped = not dtype.isnative
        self.layout.data = <const char*> self.view.buf
        self.layout.item_size = self.view.itemsize
        self.layout.dimensions = self.view.ndim
        self.layout.size = 1
        for d in range(self.view.ndim):
            self.layout.shape[d] = self.view.shape[d]
            self.layout.strides[d] = self.view.strides[d]
            self.layout.size *= self.view.shape[d]

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)


cdef class SparseSource:
    """Rows of a compressed sparse matrix (CSR) of checked indices, to be read entry by entry."""

    cdef Source values
    cdef object columns
    cdef object starts
    cdef Sparse entries
    cdef readonly Py_ssize_t rows

    def __cinit__(self, values, columns, starts):
        self.values = Source(values)
        self.columns = columns
        self.starts = starts
        self.rows = starts.size - 1
        self.entries.values = self.values.layout
        if columns.itemsize == 4:
            self.entries.columns_32 = <int32_t*> address(columns, columns.nbytes, False)
        else:
            self.entries.columns_64 = <int64_t*> address(columns, columns.nbytes, False)
        if starts.itemsize == 4:
            self.entries.starts_32 = <int32_t*> address(starts, starts.nbytes, False)
        else:
            self.entries.starts_64 = <int64_t*> address(starts, starts.nbytes, False)


cdef Py_ssize_t rows_of(x) except -1:
    """Of a Source or a SparseSource."""
    if isinstance(x, SparseSource):
        return (<SparseSource> x).rows
    return (<Source?> x).layout.shape[0]


cdef Py_ssize_t first_unsorted(const Sparse* s, Py_ssize_t rows, Py_ssize_t entries,
                               Py_ssize_t width) noexcept nogil:
    cdef Py_ssize_t row, e, before, first, last
    if row_start(s, 0) != 0 or row_start(s, rows) != entries:
        return -2
    for row in range(rows):
        first = row_start(s, row)
        last = row_start(s, row + 1)
        if first > last or last > entries:
            return -2
        before = -1
        for e in range(first, last):
            if column_of(s, e) <= before or column_of(s, e) >= width:
                return row
            before = column_of(s, e)
    return -1


def find_unsorted(SparseSource matrix not None, Py_ssize_t width):
    """The first row whose columns do not rise within [0, width), or -1; -2 for bad starts."""
    cdef Py_ssize_t row
    with nogil:
        row = first_unsorted(&matrix.entries, matrix.rows, matrix.values.layout.size, width)
    return row


# ---- elementwise kernels -------------------------------------------------------------------

cdef void sigmoid_all(floating* out, const Layout* z) noexcept nogil:
    cdef Py_ssize_t block, start, n, i
    for block in range((z.size + BLOCK - 1) // BLOCK):
        start = block * BLOCK
        n = min(<Py_ssize_t> BLOCK, z.size - start)
        read_block(out + start, z, start, n)
        for i in range(n):
            out[start + i] = sigmoid(out[start + i])


def apply_sigmoid(Source logits not None, out):
    """s(z) of every logit, into the C-contiguous ``out`` of the kernel's dtype."""
    cdef Py_ssize_t n = logits.layout.size
    cdef void* p
    if n == 0:
        return
    p = address(out, n * out.itemsize, True)
    if out.itemsize == 4:
        with nogil:
            sigmoid_all(<float*> p, &logits.layout)
    else:
        with nogil:
            sigmoid_all(<double*> p, &logits.layout)


cdef Py_ssize_t bce_all(floating* loss_out, floating* gradient_out, const Layout* z,
                        const Layout* t, const Layout* weight, const Layout* pos,
                        double smoothing, double divisor, double* total) noexcept nogil:
    """Returns the flat index of the first target outside [0, 1], or -1."""
    cdef floating z_block[BLOCK]
    cdef floating t_block[BLOCK]
    cdef floating w_block[BLOCK]
    cdef floating pos_block[BLOCK]
    cdef floating loss[BLOCK]
    cdef floating dz[BLOCK]
    cdef floating scale = <floating> divisor
    cdef Py_ssize_t block, start, n, i
    cdef bint bad
    total[0] = 0
    for i in range(BLOCK):
        w_block[i] = 1
        pos_block[i] = 1
    for block in range((z.size + BLOCK - 1) // BLOCK):
        start = block * BLOCK
        n = min(<Py_ssize_t> BLOCK, z.size - start)
        read_block(z_block, z, start, n)
        read_block(t_block, t, start, n)
        if weight != NULL:
            read_block(w_block, weight, start, n)
        if pos != NULL:
            read_block(pos_block, pos, start, n)
        bad = False
        for i in range(n):
            bad |= not (t_block[i] >= 0 and t_block[i] <= 1)
        if bad:
            for i in range(n):
                if not (t_block[i] >= 0 and t_block[i] <= 1):
                    return start + i
        if smoothing != 0:
            smooth_block(t_block, smoothing, n)
        for i in range(n):
            loss[i] = bce(&dz[i], z_block[i], t_block[i], pos_block[i])
        if weight != NULL:
            for i in range(n):
                loss[i] = 0 if w_block[i] == 0 else w_block[i] * loss[i]
                dz[i] = w_block[i] * dz[i]
        if loss_out != NULL:
            for i in range(n):
                loss_out[start + i] = loss[i]
        total[0] += sum_block(<const floating*> loss, n)
        if gradient_out != NULL:
            for i in range(n):
                gradient_out[start + i] = dz[i] / scale
    return -1


def apply_bce(Source logits not None, Source targets not None, Source weight, Source pos_weight,
              double smoothing, double divisor, int item_size, loss, gradient):
    """(sum of the weighted losses, index of the first bad target or -1).

    The weighted losses go to ``loss``, the weighted derivatives over ``divisor`` to
    ``gradient``, where they are not None.
    """
    cdef Py_ssize_t n = logits.layout.size
    cdef const Layout* w = NULL if weight is None else &weight.layout
    cdef const Layout* pos = NULL if pos_weight is None else &pos_weight.layout
    cdef void* loss_out = NULL
    cdef void* gradient_out = NULL
    cdef double total = 0
    cdef Py_ssize_t bad = -1
    if n == 0:
        return 0.0, -1
    if loss is not None:
        loss_out = address(loss, n * item_size, True)
    if gradient is not None:
        gradient_out = address(gradient, n * item_size, True)
    if item_size == 4:
        with nogil:
            bad = bce_all(<float*> loss_out, <float*> gradient_out, &logits.layout,
                          &targets.layout, w, pos, smoothing, divisor, &total)
    else:
        with nogil:
            bad = bce_all(<double*> loss_out, <double*> gradient_out, &logits.layout,
                          &targets.layout, w, pos, smoothing, divisor, &total)
    return total, bad


cdef enum Check:
    FINITE
    UNIT_INTERVAL
    UNIT_INTERVAL_OR_NAN
    WEIGHT

CHECKS = {
    "finite": <int> FINITE,
    "in [0, 1]": <int> UNIT_INTERVAL,
    "in [0, 1], or NaN": <int> UNIT_INTERVAL_OR_NAN,
    "finite and not negative": <int> WEIGHT,
}


cdef Py_ssize_t first_bad(floating* buffer, const Layout* s, int check,
                          double* total) noexcept nogil:
    cdef Py_ssize_t block, start, n, i
    cdef floating low = 0
    cdef floating high = 1
    cdef bint bad
    # x - x is NaN for an infinity or a NaN, and fails every comparison.
    for block in range((s.size + BLOCK - 1) // BLOCK):
        start = block * BLOCK
        n = min(<Py_ssize_t> BLOCK, s.size - start)
        read_block(buffer, s, start, n)
        bad = False
        if check == FINITE:
            bad = not all_finite(buffer, n)
        elif check == UNIT_INTERVAL:
            for i in range(n):
                bad |= (not (buffer[i] >= low)) | (not (buffer[i] <= high))
        elif check == UNIT_INTERVAL_OR_NAN:
            for i in range(n):
                bad |= (buffer[i] < low) | (buffer[i] > high)
        else:
            for i in range(n):
                bad |= (not (buffer[i] >= low)) | (not (buffer[i] - buffer[i] == 0))
        if bad:
            for i in range(n):
                if check == UNIT_INTERVAL:
                    bad = not (buffer[i] >= low and buffer[i] <= high)
                elif check == UNIT_INTERVAL_OR_NAN:
                    bad = buffer[i] < low or buffer[i] > high
                else:
                    bad = not (buffer[i] - buffer[i] == 0) or check == WEIGHT and buffer[i] < low
                if bad:
                    return start + i
        if check == WEIGHT:
            total[0] += sum_block(<const floating*> buffer, n)
    return -1


def find_bad(Source values not None, int item_size, int check):
    """(flat index of the first value that fails ``check`` in the kernel's dtype or -1, total).

    The total is the sum where weights are checked, 0 otherwise.
    """
    cdef float buffer_32[BLOCK]
    cdef double buffer_64[BLOCK]
    cdef double total = 0
    cdef Py_ssize_t index
    with nogil:
        if item_size == 4:
            index = first_bad(buffer_32, &values.layout, check, &total)
        else:
            index = first_bad(buffer_64, &values.layout, check, &total)
    return index, total


cdef void activate_all(floating* a, floating* slope, int kind, Py_ssize_t n) noexcept nogil:
    activations.activate(a, slope, kind, n)


def apply_activation(int kind, a, slope):
    """Replace z in ``a`` by g(z), and write g'(z) to ``slope``: C-contiguous, one dtype."""
    cdef Py_ssize_t n = a.size
    cdef void* p
    cdef void* q
    if n == 0:
        return
    p = address(a, n * a.itemsize, True)
    q = address(slope, n * a.itemsize, True)
    if a.itemsize == 4:
        with nogil:
            activate_all(<float*> p, <float*> q, kind, n)
    else:
        with nogil:
            activate_all(<double*> p, <double*> q, kind, n)


cdef void product_all(floating* c, const floating* a, const floating* b, Py_ssize_t rows,
                      Py_ssize_t depth, Py_ssize_t columns, bint transpose_a) noexcept nogil:
    if transpose_a:
        gradient_product(c, columns, a, rows, b, columns, rows, depth, columns)
    else:
        forward_product(c, columns, a, depth, b, columns, 0, rows, depth, columns, STORE, c)


cdef void loss_all(floating* loss, floating* dz, const floating* z, const floating* t,
                   const floating* w, int kind, double focus, Py_ssize_t n) noexcept nogil:
    loss_block(loss, dz, z, t, w, kind, focus, n)


def apply_loss(int kind, loss, dz, z, t, w, double focus):
    """Losses of logits z, and their derivatives: C-contiguous arrays of one dtype and size."""
    cdef Py_ssize_t size = z.itemsize
    cdef Py_ssize_t n = z.size
    cdef void* loss_out
    cdef void* dz_out
    cdef void* z_in
    cdef void* t_in
    cdef void* w_in
    if n == 0:
        return
    loss_out = address(loss, n * size, True)
    dz_out = address(dz, n * size, True)
    z_in = address(z, n * size, False)
    t_in = address(t, n * size, False)
    w_in = address(w, n * size, False)
    if size == 4:
        with nogil:
            loss_all(<float*> loss_out, <float*> dz_out, <float*> z_in, <float*> t_in,
                     <float*> w_in, kind, focus, n)
    else:
        with nogil:
            loss_all(<double*> loss_out, <double*> dz_out, <double*> z_in, <double*> t_in,
                     <double*> w_in, kind, focus, n)


def apply_product(c, a, b, Py_ssize_t rows, Py_ssize_t depth, Py_ssize_t columns,
                  bint transpose_a):
    """C = A B, or A^T B: (rows, columns) from depth terms each; columns a multiple of 8."""
    cdef Py_ssize_t size = c.itemsize
    cdef void* c_data = address(c, rows * columns * size, True)
    cdef void* a_data = address(a, rows * depth * size, False)
    cdef void* b_data = address(b, depth * columns * size, False)
    if columns % UNIT:
        raise ValueError(f"columns must be a multiple of {UNIT}; got {columns}")
    if size == 4:
        with nogil:
            product_all(<float*> c_data, <float*> a_data, <float*> b_data, rows, depth, columns,
                        transpose_a)
    else:
        with nogil:
            product_all(<double*> c_data, <double*> a_data, <double*> b_data, rows, depth,
                        columns, transpose_a)


# ---- randomness ----------------------------------------------------------------------------

def fill_order(order, uint64_t seed, uint32_t epoch):
    """A permutation of 0..n-1 into ``order``, int32 or int64: a function of (seed, epoch, n)."""
    cdef Py_ssize_t n = order.size
    cdef void* p
    if n == 0:
        return
    p = address(order, n * order.itemsize, True)
    if order.itemsize == 4:
        with nogil:
            shuffle(<int32_t*> p, n, seed, epoch)
    else:
        with nogil:
            shuffle(<int64_t*> p, n, seed, epoch)


# ---- the engine ----------------------------------------------------------------------------

cdef void work_item(void* context, int kind, int64_t item, int thread) noexcept nogil:
    cdef Job* job = <Job*> context
    if job.plan.item_size == 4:
        work(job, <float*> job.plan.scratch[thread], kind, item, thread)
    else:
        work(job, <double*> job.plan.scratch[thread], kind, item, thread)


cdef bint signal_pending(void* owner) noexcept nogil:
    """Run Python's signal handlers; what they raise is kept for the end of the call."""
    with gil:
        try:
            PyErr_CheckSignals()
            return False
        except BaseException as error:
            (<Engine> owner).pending = error
            return True


_STATE_NAMES = ("first", "second", "third")  # of the optimizer's state

PARTS = {
    "parameters": <int> WEIGHTS,
    "average": <int> AVERAGE,
    "gradient": <int> GRADIENT,
    "statistics": <int> STATISTIC,
    **{name: <int> STATE + i for i, name in enumerate(_STATE_NAMES)},
}


cdef void average_all(floating* mean, const floating* w, floating rate,
                      Py_ssize_t n) noexcept nogil:
    average(mean, w, rate, n)


cdef class Engine:
    """A private copy of a network, with the buffers and the optimizer state to train it.

    ``capacity`` is the number of rows of a batch; 0 makes an engine for inference alone.
    ``entries`` is the most that a batch of sparse rows has, where X is sparse; it is -1 for dense.
    ``hyper`` holds the fields of the optimizer's Hyper, its rule's code first, and ``objective``
    those of Objective. ``drop_rates`` has one for each layer, in parts of 65536; ``averages``
    makes room for a moving average of the parameters.
    """

    cdef Plan plan
    cdef object pending
    cdef public tuple progress  # (epoch, batches done, loss, weight, penalty): see `train`

    def __cinit__(self, layer_sizes, activation_codes, norm_codes, bint scaled, int item_size,
                  Py_ssize_t capacity, int threads, dict hyper=None, dict objective=None,
                  drop_rates=None, bint batch_statistics=False, bint averages=False,
                  Py_ssize_t entries=-1):
        cdef Py_ssize_t i
        cdef Py_ssize_t rows = capacity if capacity > 0 else threads * INFERENCE_ROWS
        cdef int l
        cdef Plan* plan = &self.plan
        plan.n_layers = len(layer_sizes) - 1
        plan.item_size = item_size
        plan.outputs = layer_sizes[len(layer_sizes) - 1]
        plan.capacity = rows
        plan.threads = threads
        plan.scaled = scaled
        plan.batch_statistics = batch_statistics
        plan.sparse = entries >= 0
        plan.layers = <Layer*> self.allocate(plan.n_layers, sizeof(Layer))
        plan.batch_norms = <int*> self.allocate(plan.n_layers, sizeof(int))
        self.set_hyper({"rule": 0, "learning_rate": 0.0} if hyper is None else hyper)
        for l in range(plan.n_layers):
            self.shape_layer(l, layer_sizes, activation_codes[l], norm_codes[l],
                             0 if drop_rates is None else drop_rates[l])
        self.allocate_rows(rows)
        self.allocate_parameters(rows, capacity > 0, hyper is not None, averages)
        if objective is not None:
            self.set_objective(objective)
        plan.members = <bcn_member*> self.allocate(threads, sizeof(bcn_member))
        if capacity == 0:
            return
        plan.n_items = self.cut(NULL)
        plan.items = <Item*> self.allocate(plan.n_items, sizeof(Item))
        self.cut(plan.items)
        if plan.sparse:
            self.allocate_index(entries)
        plan.n_stripes = self.stripe(NULL)
        plan.stripes = <Stripe*> self.allocate(plan.n_stripes, sizeof(Stripe))
        self.stripe(plan.stripes)
        i = plan.stripes[plan.n_stripes - 1].index + plan.stripes[plan.n_stripes - 1].rows
        plan.n_sums = i + plan.n_layers + 1
        plan.sums = <double*> self.allocate(plan.n_sums, sizeof(double))

    cdef shape_layer(self, int l, layer_sizes, int activation, int norm, uint32_t drop_rate):
        """Set the sizes of a layer, and what it does with z."""
        cdef Plan* plan = &self.plan
        cdef Layer* layer = &plan.layers[l]
        cdef bint last = l + 1 == plan.n_layers
        layer.fan_in = layer_sizes[l]
        layer.fan_out = layer_sizes[l + 1]
        layer.activation = activation
        layer.norm = norm
        layer.drop_rate = drop_rate
        layer.keep_scale = DROPS / <double> (DROPS - drop_rate)
        layer.gated = (activation == RELU_ACTIVATION and norm == NO_NORM and drop_rate == 0
                       and not last)
        layer.narrow = layer.fan_out <= NARROW
        layer.rows = layer.fan_out if layer.narrow else layer.fan_in + 1
        layer.columns = layer.fan_in + 1 if layer.narrow else layer.fan_out
        layer.panel = PANEL_32 if plan.item_size == 4 else PANEL_64
        if layer.narrow:
            layer.panel = padded(layer.columns)
        layer.ld_in = 0 if l == 0 and plan.sparse else leading(layer.fan_in + 1)
        layer.ld_a = leading(layer.fan_out + 1)
        if layer.narrow and last:
            layer.ld_a = layer.fan_out  # logits and their deltas lie together
        if norm == BATCH_NORM:
            plan.batch_norms[plan.n_batch_norms] = l
            plan.n_batch_norms += 1

    cdef allocate_rows(self, Py_ssize_t rows):
        """The buffers that have rows, and each thread's scratch."""
        cdef Plan* plan = &self.plan
        cdef Layer* layer
        cdef Py_ssize_t levels = 3
        cdef Py_ssize_t i, scratch
        cdef int l
        cdef void* before = self.allocate(rows, plan.layers[0].ld_in * plan.item_size)
        for l in range(plan.n_layers):
            layer = &plan.layers[l]
            layer.input = before
            layer.a = self.allocate(rows, layer.ld_a * plan.item_size)
            layer.dz = self.allocate(rows, layer.ld_a * plan.item_size)
            before = layer.a
            if layer.norm != NO_NORM:
                layer.normed = self.allocate(rows, layer.ld_a * plan.item_size)
                layer.dy = self.allocate(rows, layer.ld_a * plan.item_size)
                layer.inverse = self.allocate(max(rows, layer.ld_a), plan.item_size)
                layer.mean = self.allocate(layer.ld_a, plan.item_size)
                layer.slopes = self.allocate(2 * layer.ld_a, plan.item_size)
                layer.variance = <double*> self.allocate(layer.ld_a, sizeof(double))
                layer.sums = <double*> self.allocate(2 * layer.ld_a, sizeof(double))
        plan.row_loss = <double*> self.allocate(rows, sizeof(double))
        plan.row_weight = <double*> self.allocate(rows, sizeof(double))
        while chain_rows(rows) << (levels - 2) < rows:
            levels += 1
        i = self.block_outputs()
        plan.pos_weight = self.allocate(i, plan.item_size)
        self.fill_pos_weight(None)
        scratch = max(ITEM_SIZE * levels, 5 * i)  # `loss_rows` keeps five numbers an output
        plan.scratch = <void**> self.allocate(plan.threads, sizeof(void*))
        for i in range(plan.threads):
            plan.scratch[i] = self.allocate(scratch, plan.item_size)

    cdef allocate_index(self, Py_ssize_t entries):
        """Room for the entries of a batch of sparse rows, by columns."""
        cdef Index* index = &self.plan.index
        cdef Py_ssize_t columns = self.plan.layers[0].fan_in
        cdef Py_ssize_t count
        if self.plan.objective.lazy and self.plan.layers[0].narrow:
            # One more: `scatter_row` writes before it knows whether a column is new.
            index.columns = <int32_t*> self.allocate(min(columns, entries) + 1, sizeof(int32_t))
            count = columns * self.plan.layers[0].fan_out
            index.sums = self.allocate(count, self.plan.item_size)
            memset(index.sums, 0xFF, count * self.plan.item_size)  # unset
            return
        index.slots = <int32_t*> self.allocate(columns, sizeof(int32_t))
        index.columns = <int32_t*> self.allocate(min(columns, entries), sizeof(int32_t))
        index.ends = <int32_t*> self.allocate(min(columns, entries), sizeof(int32_t))
        index.places = <int32_t*> self.allocate(entries, sizeof(int32_t))
        index.rows = <int32_t*> self.allocate(entries, sizeof(int32_t))
        index.values = self.allocate(entries, self.plan.item_size)
        memset(index.slots, 0xFF, columns * sizeof(int32_t))  # -1 everywhere

    cdef allocate_parameters(self, Py_ssize_t rows, bint training, bint updates, bint averages):
        """The parameters, and what belongs to them where the engine trains."""
        cdef Plan* plan = &self.plan
        cdef Layer* layer
        cdef Py_ssize_t matrix
        cdef bint partials = training and plan.threads > 1 and self.has_partials(rows)
        cdef int l
        for l in range(plan.n_layers):
            layer = &plan.layers[l]
            matrix = layer.rows * padded(layer.columns)
            plan.n_parameters += matrix
            self.allocate_values(&layer.matrix, matrix, training, updates, averages)
            layer.w = layer.matrix.w
            if plan.scaled and l == 0:
                layer.w = self.allocate(matrix, plan.item_size)
            if layer.norm != NO_NORM:
                self.allocate_values(&layer.gains, 2 * layer.ld_a, training, updates, averages)
                layer.running = self.allocate(2 * layer.ld_a, plan.item_size)
            if training and l > 0 and not layer.narrow:
                layer.wt = self.allocate(padded(layer.fan_out),
                                         padded(layer.fan_in) * plan.item_size)
            if partials:
                layer.partial = self.allocate(MOST_PARTIALS * matrix, plan.item_size)
        if plan.scaled:
            self.allocate_values(&plan.factors, plan.layers[0].fan_in, training, updates,
                                 averages)

    cdef allocate_values(self, Values* values, Py_ssize_t count, bint training, bint updates,
                         bint averages):
        cdef int i
        values.w = self.allocate(count, self.plan.item_size)
        if training:
            values.gradient = self.allocate(count, self.plan.item_size)
        if training and updates:
            for i in range(optimizers.state_count(&self.plan.hyper)):
                values.state[i] = self.allocate(count, self.plan.item_size)
        if training and averages:
            values.average = self.allocate(count, self.plan.item_size)

    cdef Py_ssize_t cut(self, Item* items):
        """Cut the parameters into items, written where ``items`` is not NULL; their number.

        A layer's matrix is cut into tiles: a tile has the rows that fill it where the panel is
        whole, or a narrow layer's all. The others follow, a line of columns each.
        """
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t start, row, column, rows, columns, ld
        cdef const Layer* layer
        cdef int l
        for l in range(self.plan.n_layers):
            layer = &self.plan.layers[l]
            rows = NARROW if layer.narrow else ITEM_SIZE // layer.panel
            for start in range(0, padded(layer.columns), layer.panel):
                ld = min(layer.panel, padded(layer.columns) - start)
                columns = min(ld, <Py_ssize_t> (ITEM_SIZE // rows))
                for row in range(0, layer.rows, rows):
                    for column in range(start, start + ld, columns):
                        if items != NULL:
                            items[count].kind = TILE
                            items[count].layer = l
                            items[count].row = row
                            items[count].rows = min(rows, layer.rows - row)
                            items[count].column = column
                            items[count].columns = min(columns, start + ld - column)
                            items[count].offset = start * layer.rows + row * ld + column - start
                            items[count].ld = ld
                        count += 1
            if l == 0:
                self.plan.n_first_items = count
        for l in range(self.plan.n_layers):
            layer = &self.plan.layers[l]
            for column in range(0, layer.fan_out if layer.norm != NO_NORM else 0, LINE):
                if items != NULL:
                    items[count].kind = GAINS
                    items[count].layer = l
                    items[count].column = column
                    items[count].columns = min(<Py_ssize_t> LINE, layer.fan_out - column)
                count += 1
        if self.plan.scaled:
            if items != NULL:
                items[count].kind = FACTORS
                items[count].columns = self.plan.layers[0].fan_in
            count += 1
        return count

    cdef Py_ssize_t stripe(self, Stripe* stripes):
        """Cut every layer's stored rows into stripes, as `cut` does; their number."""
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t index = 0
        cdef Py_ssize_t row
        cdef int l
        for l in range(self.plan.n_layers):
            for row in range(0, self.plan.layers[l].rows, STRIPE_ROWS):
                if stripes != NULL:
                    stripes[count].layer = l
                    stripes[count].row = row
                    stripes[count].rows = min(<Py_ssize_t> STRIPE_ROWS,
                                              self.plan.layers[l].rows - row)
                    stripes[count].index = index
                    index += stripes[count].rows
                count += 1
            if l == 0:
                self.plan.n_first_stripes = count
        return count

    cdef void* allocate(self, Py_ssize_t count, Py_ssize_t size) except NULL:
        """count * size zeroed bytes, freed with the engine."""
        cdef void* p = NULL
        cdef void** grown
        if size <= 0 or count <= (<Py_ssize_t> 1 << 62) // size:
            p = bcn_allocate(count * size)
        if p == NULL:
            raise MemoryError(f"no memory for {count} x {size} bytes of a network's buffers")
        if self.plan.n_blocks == self.plan.room:
            grown = <void**> calloc(2 * self.plan.room + 64, sizeof(void*))
            if grown == NULL:
                free(p)
                raise MemoryError("no memory for a network's buffers")
            for i in range(self.plan.n_blocks):
                grown[i] = self.plan.blocks[i]
            free(self.plan.blocks)
            self.plan.blocks = grown
            self.plan.room = 2 * self.plan.room + 64
        self.plan.blocks[self.plan.n_blocks] = p
        self.plan.n_blocks += 1
        return p

    def __dealloc__(self):
        cdef Py_ssize_t i
        bcn_team_stop(&self.plan.team)
        for i in range(self.plan.n_blocks):
            free(self.plan.blocks[i])
        free(self.plan.blocks)

    cdef bint has_partials(self, Py_ssize_t rows):
        """Whether the gradients of a batch's chains are fewer numbers than its activations.

        Both are written by one core and read by another; so are the latter's places when the
        next batch overwrites them. A batch normalisation needs all rows, chain or not.
        """
        cdef Py_ssize_t parameters = 0
        cdef Py_ssize_t width = self.plan.layers[0].ld_in
        cdef Py_ssize_t chains = (rows + chain_rows(rows) - 1) // chain_rows(rows)
        cdef bint all_rows
        cdef int l
        for l in range(self.plan.n_layers):
            parameters += self.plan.layers[l].rows * padded(self.plan.layers[l].columns)
            width += 2 * self.plan.layers[l].ld_a
        all_rows = self.plan.batch_statistics and self.plan.n_batch_norms > 0
        return (2 <= chains <= MOST_PARTIALS and chains * parameters < rows * width
                and not self.plan.sparse and not all_rows)

    cdef Py_ssize_t most_rows(self):
        """Rows whose activations and deltas stay in cache: 384 KB, beside the weights.

        At least 96, so that wide layers do not read their weights again for few rows: with 24 a
        step of 28-2048-2048-1 took 8 % longer.
        """
        cdef Py_ssize_t width = self.plan.layers[0].ld_in
        cdef int l
        for l in range(self.plan.n_layers):
            width += 2 * self.plan.layers[l].ld_a
        return max(<Py_ssize_t> 96, min(<Py_ssize_t> 256,
                                        393216 // (width * self.plan.item_size)))

    cdef Py_ssize_t block_outputs(self):
        """Outputs of the rows of the largest block."""
        return self.plan.outputs * max(<Py_ssize_t> INFERENCE_ROWS, self.most_rows() + 5)

    cdef Py_ssize_t block_rows(self, int threads, Py_ssize_t rows):
        """Rows that a thread takes at once: its share, in equal parts of at most `most_rows`."""
        cdef Py_ssize_t most = self.most_rows()
        cdef Py_ssize_t share = (rows + threads - 1) // threads
        cdef Py_ssize_t parts = (share + most - 1) // most
        share = (share + parts - 1) // parts
        if threads > 1:
            return share  # equal shares: 54 and 46 of 100 rows cost more than a row tile's edge
        return (share + 5) // 6 * 6  # whole tiles: up to 5 rows more

    def configure(self, dict hyper not None):
        """Set the hyperparameters for the steps to come; the state stays.

        Raises: ValueError where they need another number of state values than there are.
        """
        cdef int before = optimizers.state_count(&self.plan.hyper)
        cdef optimizers.Hyper kept = self.plan.hyper
        self.set_hyper(hyper)
        needed = optimizers.state_count(&self.plan.hyper)
        if needed != before:
            self.plan.hyper = kept
            raise ValueError(
                f"optimizer must keep {before} values of state a parameter while it is used; with "
                f"its hyperparameters of now it needs {needed} (a momentum must not begin or end)"
            )

    cdef set_hyper(self, dict hyper):
        cdef optimizers.Hyper* h = &self.plan.hyper
        cdef int i
        h.rule = hyper["rule"]
        h.learning_rate = hyper["learning_rate"]
        h.momentum = hyper.get("momentum", 0.0)
        h.nesterov = hyper.get("nesterov", False)
        h.rate_inside = hyper.get("rate_inside", False)
        h.weight_decay = hyper.get("weight_decay", 0.0)
        h.beta_1 = hyper.get("beta_1", 0.0)
        h.beta_2 = hyper.get("beta_2", 0.0)
        h.epsilon = hyper.get("epsilon", 0.0)
        h.epsilon_inside = hyper.get("epsilon_inside", False)
        h.rho = hyper.get("rho", 0.0)
        for i in range(GROUPS):
            h.rate_factors[i] = 1
        for group, factor in hyper.get("rate_factors", {}).items():
            i = GROUP_CODES[group]
            h.rate_factors[i] = factor

    cdef set_objective(self, dict objective):
        cdef Objective* o = &self.plan.objective
        o.loss = objective["loss"]
        o.focus = objective["focus"]
        o.smoothing = objective["smoothing"]
        o.label_sum = objective["label_sum"]
        o.masked = objective["masked"]
        o.lazy = objective["lazy"]
        o.l1 = objective["l1"]
        o.l2 = objective["l2"]
        o.clip_norm = objective["clip_norm"]
        o.max_norm = objective["max_norm"]
        o.average_rate = objective["average_rate"]
        self.fill_pos_weight(objective["pos_weight"])

    cdef fill_pos_weight(self, pos_weight):
        cdef Py_ssize_t i
        for i in range(self.block_outputs()):
            value = 1.0 if pos_weight is None else pos_weight[i % self.plan.outputs]
            if self.plan.item_size == 4:
                (<float*> self.plan.pos_weight)[i] = value
            else:
                (<double*> self.plan.pos_weight)[i] = value

    @property
    def steps(self):
        """Steps taken so far."""
        return self.plan.steps

    @steps.setter
    def steps(self, Py_ssize_t value):
        self.plan.steps = value

    @property
    def averaged(self):
        """Steps, or epochs, in the average so far."""
        return self.plan.averaged

    @averaged.setter
    def averaged(self, Py_ssize_t value):
        self.plan.averaged = value

    def average(self):
        """Take the parameters into their average, the mean of all that were taken."""
        cdef Plan* plan = &self.plan
        cdef const Layer* layer
        cdef int l
        plan.averaged += 1
        for l in range(plan.n_layers):
            layer = &plan.layers[l]
            self.average_values(&layer.matrix, layer.rows * padded(layer.columns))
            if layer.norm != NO_NORM:
                self.average_values(&layer.gains, 2 * layer.ld_a)
        if plan.scaled:
            self.average_values(&plan.factors, plan.layers[0].fan_in)

    cdef void average_values(self, const Values* values, Py_ssize_t n):
        cdef double rate = 1 / <double> self.plan.averaged
        if self.plan.item_size == 4:
            average_all(<float*> values.average, <float*> values.w, <float> rate, n)
        else:
            average_all(<double*> values.average, <double*> values.w, rate, n)

    def load(self, int which, flat):
        """Copy a part's flat array into the engine: no mixture is seen."""
        cdef void* p = address(flat, flat_count(&self.plan, which) * self.plan.item_size, False)
        if self.plan.item_size == 4:
            copy_part(&self.plan, which, <float*> p, False)
            self.follow(which, <float*> NULL)
        else:
            copy_part(&self.plan, which, <double*> p, False)
            self.follow(which, <double*> NULL)

    cdef void follow(self, int which, floating* unused):
        """Renew what follows from a part that was loaded; ``unused`` gives the type."""
        cdef Plan* plan = &self.plan
        cdef const Layer* layer
        cdef const floating* running
        cdef Stripe whole
        cdef Py_ssize_t j
        cdef int l
        if which == WEIGHTS:
            if plan.scaled:
                whole.layer = 0
                whole.row = 0
                whole.rows = plan.layers[0].rows
                effective_rows(plan, &whole, unused)
            transpose_all(plan, unused)
        elif which == STATISTIC and not plan.batch_statistics:
            for l in range(plan.n_layers):
                layer = &plan.layers[l]
                running = <floating*> layer.running
                for j in range(layer.fan_out if layer.norm == BATCH_NORM else 0):
                    (<floating*> layer.mean)[j] = running[j]
                    (<floating*> layer.inverse)[j] = <floating> deviation_inverse(
                        running[layer.ld_a + j])

    def store(self, int which, flat):
        """Copy a part into its flat array."""
        cdef void* p = address(flat, flat_count(&self.plan, which) * self.plan.item_size, True)
        if self.plan.item_size == 4:
            copy_part(&self.plan, which, <float*> p, True)
        else:
            copy_part(&self.plan, which, <double*> p, True)

    def publish(self, list parts, list counters):
        """Store each (part, flat array), and set each (object, name, value): all or nothing.

        One native call, so no signal handler runs and no other thread looks in between.
        """
        for which, flat in parts:
            self.store(which, flat)
        for holder, name, value in counters:
            setattr(holder, name, value)

    cdef void begin_job(self, Job* job):
        memset(job, 0, sizeof(Job))
        job.plan = &self.plan
        job.owner = <void*> self
        job.run = work_item
        job.poll = signal_pending
        job.bad_layer = NO_LAYER
        job.next_poll = bcn_nanoseconds() + POLL_NANOSECONDS
        job.at = -1
        job.sequence = -1

    cdef prepare_job(self, Job* job, x, Source y, Source weight, Source offset):
        self.begin_job(job)
        if self.plan.sparse:
            job.rows = (<SparseSource?> x).rows
            job.entries = (<SparseSource> x).entries
        else:
            job.rows = (<Source?> x).layout.shape[0]
            job.x = (<Source> x).layout
        if y is not None:
            job.has_targets = True
            job.y = y.layout
        if weight is not None:
            job.has_sample_weight = True
            job.sample_weight = weight.layout
        if offset is not None:
            job.has_offset = True
            job.offset = offset.layout

    cdef raise_pending(self):
        if self.pending is not None:
            error = self.pending
            self.pending = None
            raise error

    cdef run(self, Job* job, Py_ssize_t batch_size, Py_ssize_t first_batch,
             Py_ssize_t last_batch, int stage, int threads):
        """Run a job's batches. The first call starts the threads, and ``close`` ends them."""
        if threads < 1 or threads > self.plan.threads or batch_size > self.plan.capacity:
            raise ValueError("threads and batch_size must fit the engine")
        job.batch_size = batch_size
        job.block_rows = self.block_rows(threads, batch_size)
        job.first_batch = first_batch
        job.last_batch = last_batch
        job.stage = <Stage> stage
        job.by_chains = (self.plan.layers[0].partial != NULL and batch_size > chain_rows(batch_size)
                         and 1 < threads <= (batch_size - 1) // chain_rows(batch_size) + 1
                         and stage != LOGITS_ONLY)
        with nogil:
            if not bcn_team_started(&self.plan.team):
                bcn_team_start(&self.plan.team, threads, self.plan.members, work_item)
            bcn_team_begin(&self.plan.team, job)
            train(job)
            bcn_team_end(&self.plan.team)

    def train(self, x not None, Source y not None, Source weight, Source offset, order,
              rates, Py_ssize_t batch_size, Py_ssize_t first_batch, Py_ssize_t last_batch,
              int stage, int threads, seed=None, uint32_t epoch=0, bint derivatives=False,
              tuple sums=None, Py_ssize_t sequence=-1):
        """Batches first_batch to last_batch - 1 of an epoch over the rows in ``order``.

        ``rates`` holds a factor of the learning rate for each batch, float64, or is None.
        ``seed`` and ``epoch`` decide what dropout drops, with the number of a row: its place in x,
        or, where ``sequence`` is given, in a sequence of rows of which it is the place of the
        first one here. Without a seed nothing is dropped. With ``derivatives`` y holds them, of
        the loss by the logits, in the place of targets. The loss, weight and penalty are added to
        ``sums``, those of the epoch's batches before.

        ``progress`` is then (epoch, batches done, loss, weight, penalty), set in the same native
        call: no signal handler sees the one without the other. Its batch is -1 after a bad step.

        Returns (status, batch, weighted loss, weight, penalty, layer): the batch is the one that
        was stopped, or the bad one. A signal's exception is left for ``take_pending``.
        """
        cdef Job job
        self.prepare_job(&job, x, y, weight, offset)
        job.has_derivatives = derivatives
        self.set_order(&job, order)
        self.set_dropout(&job, seed, epoch)
        job.sequence = sequence
        if rates is not None:
            job.rates = <double*> address(rates, last_batch * sizeof(double), False)
        if sums is not None:
            job.loss, job.weight, job.penalty = sums
        self.run(&job, batch_size, first_batch, last_batch, stage, threads)
        self.progress = (epoch, self.batches_done(&job, last_batch), job.loss, job.weight,
                         job.penalty)
        return (<int> job.status, job.batch, job.loss, job.weight, job.penalty,
                -1 if job.bad_layer == NO_LAYER else job.bad_layer)

    cdef Py_ssize_t batches_done(self, const Job* job, Py_ssize_t last_batch):
        if job.status == BAD_PARAMETERS:
            return -1
        return last_batch if job.status == DONE else job.batch

    cdef set_order(self, Job* job, order):
        cdef void* p
        if order is None:
            return
        p = address(order, job.rows * order.itemsize, False)
        if order.itemsize == 4:
            job.order_32 = <int32_t*> p
        else:
            job.order_64 = <int64_t*> p

    cdef set_dropout(self, Job* job, seed, uint32_t epoch):
        if seed is not None:
            job.drops = True
            job.seed = seed
            job.epoch = epoch

    def gradients(self, x not None, Source y not None, Source weight, Source offset,
                  Py_ssize_t batch_size, out, int threads):
        """The gradient of each batch into ``out``, (batches, parameters); a status as `train`."""
        cdef Job job
        cdef Py_ssize_t batches = (rows_of(x) + batch_size - 1) // batch_size
        self.prepare_job(&job, x, y, weight, offset)
        job.gradients = address(
            out, batches * flat_count(&self.plan, GRADIENT) * self.plan.item_size, True)
        self.run(&job, batch_size, 0, batches, GRADIENT_ONLY, threads)
        return <int> job.status

    def update(self, double rate=1):
        """One step of the optimizer with the gradient that was loaded: how a staged step ends.

        ``rate`` is a factor of the learning rate. Returns a status, as `train` does.
        """
        cdef Job job
        self.begin_job(&job)
        self.plan.steps += 1
        prepare(&job.step, &self.plan.hyper, rate, self.plan.steps)
        with nogil:
            if not bcn_team_started(&self.plan.team):
                bcn_team_start(&self.plan.team, self.plan.threads, self.plan.members, work_item)
            bcn_team_begin(&self.plan.team, &job)
            staged_update(&job)
            bcn_team_end(&self.plan.team)
        return <int> (DONE if job.bad_layer == NO_LAYER else BAD_PARAMETERS)

    def logits(self, x not None, out, int threads, seed=None, uint32_t epoch=0):
        """The logits of one batch as a step on it would compute them."""
        cdef Job job
        self.prepare_job(&job, x, None, None, None)
        job.out = address(out, job.rows * self.plan.outputs * self.plan.item_size, True)
        self.set_dropout(&job, seed, epoch)
        self.run(&job, job.rows, 0, 1, LOGITS_ONLY, threads)
        return <int> job.status

    def rest(self, int count):
        """So many threads do nothing from now on: whoever calls has work for their processors.

        Of more threads than there are helpers all rest; from any thread, also while others train.
        """
        bcn_team_rest(&self.plan.team, count)

    def close(self):
        """End the threads; the next `train` starts them again."""
        with nogil:
            bcn_team_stop(&self.plan.team)

    def take_pending(self):
        """The exception that a signal handler raised during the last call, or None."""
        error = self.pending
        self.pending = None
        return error

    cdef str infer(self, Job* job, int threads):
        """All rows through the forward pass; "done" or what stopped it."""
        cdef Py_ssize_t blocks = (job.rows + INFERENCE_ROWS - 1) // INFERENCE_ROWS
        job.inference = True
        with nogil:
            bcn_team_start(&self.plan.team, min(threads, self.plan.threads), self.plan.members,
                           work_item)
            bcn_team_begin(&self.plan.team, job)
            bcn_team_phase(&self.plan.team, 0, blocks)
            bcn_team_stop(&self.plan.team)
        self.raise_pending()
        return STATUSES[<int> job.stop]

    def predict(self, x not None, Source offset, out, bint probabilities, int threads):
        """Logits, or probabilities, of every row into the C-contiguous ``out``.

        Returns "done", or "bad input" where a number of X is not finite.
        """
        cdef Job job
        if rows_of(x) == 0:
            return STATUSES[<int> DONE]
        self.prepare_job(&job, x, None, None, offset)
        job.out = address(out, job.rows * self.plan.outputs * self.plan.item_size, True)
        job.probabilities = probabilities
        return self.infer(&job, threads)

    def evaluate(self, x not None, Source y not None, Source weight, Source offset,
                 int threads):
        """(weighted loss, weight) over all rows."""
        cdef Job job
        cdef Py_ssize_t blocks = (rows_of(x) + INFERENCE_ROWS - 1) // INFERENCE_ROWS
        cdef double loss, weights
        self.prepare_job(&job, x, y, weight, offset)
        job.block_loss = <double*> calloc(2 * blocks + 1, sizeof(double))
        if job.block_loss == NULL:
            raise MemoryError(f"no memory for the losses of {blocks} blocks")
        job.block_weight = job.block_loss + blocks
        try:
            self.infer(&job, threads)
        except BaseException:
            free(job.block_loss)
            raise
        loss = sum_block(<const double*> job.block_loss, blocks)
        weights = sum_block(<const double*> job.block_weight, blocks)
        free(job.block_loss)
        return loss, weights


# ---- few rows ------------------------------------------------------------------------------

cdef enum:
    FEW_NUMBERS = 4096  # of one layer's activations, on the stack
    FEW_WORK = 1 << 19  # multiply-adds, some 10 us: the GIL is held
    FEW_LAYERS = 16


cdef void few_layer(floating* z, const floating* a, Py_ssize_t rows, const floating* w,
                    Py_ssize_t fan_in, Py_ssize_t fan_out) noexcept nogil:
    """z = a W + b for rows of a, (rows, fan_in), and the row-major [W; b]: the engine's bits."""
    cdef const floating* b = w + fan_in * fan_out
    cdef Py_ssize_t whole = fan_out // UNIT * UNIT
    cdef Py_ssize_t i, j, k, lane
    cdef floating lanes[UNIT]
    cdef floating s
    if fan_out <= NARROW:
        for i in range(rows):
            for j in range(fan_out):
                for lane in range(UNIT):
                    lanes[lane] = 0
                for k in range(fan_in // UNIT):
                    for lane in range(UNIT):
                        lanes[lane] = muladd(a[i * fan_in + UNIT * k + lane],
                                             w[(UNIT * k + lane) * fan_out + j], lanes[lane])
                for k in range(fan_in // UNIT * UNIT, fan_in):
                    lanes[k % UNIT] = muladd(a[i * fan_in + k], w[k * fan_out + j],
                                             lanes[k % UNIT])
                lanes[fan_in % UNIT] += b[j]
                for lane in range(fan_in % UNIT + 1, UNIT):
                    lanes[lane] += 0  # the padding: it makes a -0 a 0
                z[i * fan_out + j] = lane_sum(lanes)
        return
    forward_product(z, fan_out, a, fan_in, w, fan_out, 0, rows, fan_in, whole, STORE, z)
    for i in range(rows):
        for j in range(whole, fan_out):
            s = 0
            for k in range(fan_in):
                s = muladd(a[i * fan_in + k], w[k * fan_out + j], s)
            z[i * fan_out + j] = s
        for j in range(fan_out):
            z[i * fan_out + j] += b[j]


cdef struct Shape:
    int n_layers
    Py_ssize_t[FEW_LAYERS + 1] sizes
    int[FEW_LAYERS] activations


cdef bint few_rows(floating* out, floating* a, const floating* w, const Shape* shape,
                   Py_ssize_t rows, bint probabilities) noexcept nogil:
    """The outputs of the rows in ``a``, (rows, inputs); False if one is not finite."""
    cdef floating other[FEW_NUMBERS]
    cdef floating slope[FEW_NUMBERS]
    cdef floating* before = a
    cdef floating* z = other
    cdef Py_ssize_t i
    cdef Py_ssize_t n = rows * shape.sizes[0]
    cdef int l
    if not all_finite(a, n):
        return False
    for l in range(shape.n_layers):
        n = rows * shape.sizes[l + 1]
        if l + 1 == shape.n_layers:
            z = out
        few_layer(z, before, rows, w, shape.sizes[l], shape.sizes[l + 1])
        if l + 1 < shape.n_layers:
            activations.activate(z, slope, shape.activations[l], n)
        w += (shape.sizes[l] + 1) * shape.sizes[l + 1]
        before, z = z, before
    if probabilities:
        for i in range(n):
            out[i] = sigmoid(out[i])
    return True


cdef bint few_numbers(floating* out, cnp.ndarray X) noexcept:
    """The numbers of X, (rows, inputs), of any strides; False if its dtype is no plain float."""
    cdef const char* p = <const char*> cnp.PyArray_DATA(X)
    cdef Py_ssize_t rows = cnp.PyArray_DIM(X, 0)
    cdef Py_ssize_t columns = cnp.PyArray_DIM(X, 1)
    cdef Py_ssize_t row = cnp.PyArray_STRIDE(X, 0)
    cdef Py_ssize_t column = cnp.PyArray_STRIDE(X, 1)
    cdef Py_ssize_t i, j
    if not (cnp.PyArray_ISALIGNED(X) and cnp.PyArray_ISNOTSWAPPED(X)):
        return False
    if cnp.PyArray_TYPE(X) == cnp.NPY_FLOAT32:
        for i in range(rows):
            for j in range(columns):
                out[i * columns + j] = (<const float*> (p + i * row + j * column))[0]
    elif cnp.PyArray_TYPE(X) == cnp.NPY_FLOAT64:
        for i in range(rows):
            for j in range(columns):
                out[i * columns + j] = <floating> (<const double*> (p + i * row + j * column))[0]
    else:
        return False
    return True


def few_outputs(X, cnp.ndarray parameters not None, tuple layer_sizes, tuple codes,
                bint probabilities):
    """Logits or probabilities of a few rows, straight from W1, b1, W2, b2, …, or None.

    The same bits as `Engine.predict`, at the cost of a call: no buffers, no copy of the
    weights, no thread. None for whatever this does not do: many rows, large networks,
    anything but an array of floats, numbers that are not finite.
    """
    cdef float a_32[FEW_NUMBERS]
    cdef double a_64[FEW_NUMBERS]
    cdef Shape shape
    cdef cnp.ndarray out
    cdef cnp.npy_intp[2] dimensions
    cdef Py_ssize_t rows, i
    cdef Py_ssize_t count = 0
    cdef int kind = cnp.PyArray_TYPE(parameters)
    cdef bint done
    if not cnp.PyArray_CheckExact(X) or cnp.PyArray_NDIM(X) != 2:
        return None
    shape.n_layers = <int> len(layer_sizes) - 1
    rows = cnp.PyArray_DIM(X, 0)
    if rows < 1 or rows > FEW_NUMBERS or shape.n_layers > FEW_LAYERS:
        return None
    for i in range(shape.n_layers + 1):
        shape.sizes[i] = layer_sizes[i]
        if rows * shape.sizes[i] > FEW_NUMBERS:
            return None
        if i > 0:
            count += (shape.sizes[i - 1] + 1) * shape.sizes[i]
            shape.activations[i - 1] = codes[i - 1]
    if (cnp.PyArray_DIM(X, 1) != shape.sizes[0] or rows * count > FEW_WORK
            or cnp.PyArray_SIZE(parameters) != count
            or not cnp.PyArray_IS_C_CONTIGUOUS(parameters)):
        return None
    dimensions[0] = rows
    dimensions[1] = shape.sizes[shape.n_layers]
    out = cnp.PyArray_EMPTY(1 if dimensions[1] == 1 else 2, dimensions, kind, 0)
    if kind == cnp.NPY_FLOAT32:
        done = few_numbers(a_32, <cnp.ndarray> X) and few_rows(
            <float*> cnp.PyArray_DATA(out), a_32, <float*> cnp.PyArray_DATA(parameters), &shape,
            rows, probabilities)
    else:
        done = few_numbers(a_64, <cnp.ndarray> X) and few_rows(
            <double*> cnp.PyArray_DATA(out), a_64, <double*> cnp.PyArray_DATA(parameters),
            &shape, rows, probabilities)
    return out if done else None
