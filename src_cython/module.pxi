# The Python face of the native code, compiled once an instruction set (setup.py writes a stub
# that includes this file). Arguments are checked in Python, by bcenet/kernels.py.

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_RECORDS_RO, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cimport numpy as cnp

from bcenet.cimports cimport activations
cimport optimizers
from affine cimport PANEL_32, PANEL_64, UNIT, lane_sum, leading, padded
from bcenet.cimports.losses cimport bce, sigmoid, smooth_block, sum_block
from random cimport philox, shuffle
from source cimport (
    FLOAT16, FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, Layout, MAX_DIMENSIONS, UINT8, UINT16,
    UINT32, UINT64, read_block,
)
from bcenet.cimports.vecmath cimport floating, muladd

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

RULES = {
    "sgd": <int> optimizers.SGD,
    "adam": <int> optimizers.ADAM,
    "rmsprop": <int> optimizers.RMSPROP,
}

STAGES = {
    "plain": <int> UPDATE_PLAIN,
    "staged": <int> UPDATE_STAGED,
    "gradient": <int> GRADIENT_ONLY,
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
    WEIGHT

CHECKS = {
    "finite": <int> FINITE,
    "in [0, 1]": <int> UNIT_INTERVAL,
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
        else:
            for i in range(n):
                bad |= (not (buffer[i] >= low)) | (not (buffer[i] - buffer[i] == 0))
        if bad:
            for i in range(n):
                if check == UNIT_INTERVAL:
                    bad = not (buffer[i] >= low and buffer[i] <= high)
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
                for j in range(count):
                    row[j] = stored[j]
            else:
                for j in range(count):
                    stored[j] = row[j]
        start += layer.panel


cdef void transpose_all(const Plan* plan, floating* unused) noexcept nogil:
    """W^T of every layer; ``unused`` gives the type."""
    cdef Py_ssize_t i
    cdef const Item* item
    cdef const Layer* layer
    for i in range(plan.n_items):
        item = &plan.items[i]
        layer = &plan.layers[item.layer]
        if layer.wt != NULL:
            transpose_tile(layer, item, min(item.rows, layer.fan_in - item.row),
                           <const floating*> layer.w + item.offset)


cdef enum Part:
    WEIGHTS
    FIRST_STATE
    SECOND_STATE
    GRADIENT

PARTS = {
    "parameters": <int> WEIGHTS,
    "first": <int> FIRST_STATE,
    "second": <int> SECOND_STATE,
    "gradient": <int> GRADIENT,
}


cdef class Engine:
    """A private copy of a network, with the buffers and the optimizer state to train it.

    ``capacity`` is the number of rows of a batch; 0 makes an engine for inference alone.
    ``hyper`` holds the fields of the optimizer's Hyper, its rule's name first.
    """

    cdef Plan plan
    cdef object pending

    def __cinit__(self, layer_sizes, activation_codes, int item_size, Py_ssize_t capacity,
                  int threads, dict hyper=None):
        cdef Py_ssize_t i, matrix, levels, scratch
        cdef Py_ssize_t outputs = layer_sizes[len(layer_sizes) - 1]
        cdef Py_ssize_t rows = capacity if capacity > 0 else threads * INFERENCE_ROWS
        cdef int l
        cdef Layer* layer
        cdef void* before
        cdef Plan* plan = &self.plan
        plan.n_layers = len(layer_sizes) - 1
        plan.item_size = item_size
        plan.outputs = outputs
        plan.capacity = rows
        plan.threads = threads
        plan.layers = <Layer*> self.allocate(plan.n_layers, sizeof(Layer))
        if hyper is not None:
            self.set_hyper(hyper)
        before = self.allocate(rows, leading(layer_sizes[0] + 1) * item_size)
        for l in range(plan.n_layers):
            layer = &plan.layers[l]
            layer.fan_in = layer_sizes[l]
            layer.fan_out = layer_sizes[l + 1]
            layer.activation = activation_codes[l]
            layer.narrow = layer.fan_out <= NARROW
            layer.rows = layer.fan_out if layer.narrow else layer.fan_in + 1
            layer.columns = layer.fan_in + 1 if layer.narrow else layer.fan_out
            layer.panel = PANEL_32 if item_size == 4 else PANEL_64
            if layer.narrow:
                layer.panel = padded(layer.columns)
            layer.ld_in = leading(layer.fan_in + 1)
            layer.ld_a = leading(layer.fan_out + 1)
            if layer.narrow and l + 1 == plan.n_layers:
                layer.ld_a = layer.fan_out  # logits and their deltas lie together
            layer.input = before
            layer.a = self.allocate(rows, layer.ld_a * item_size)
            layer.dz = self.allocate(rows, layer.ld_a * item_size)
            before = layer.a
            matrix = padded(layer.columns) * item_size
            layer.w = self.allocate(layer.rows, matrix)
            if capacity == 0:
                continue
            layer.gradient = self.allocate(layer.rows, matrix)
            if l > 0 and not layer.narrow:
                layer.wt = self.allocate(padded(layer.fan_out), padded(layer.fan_in) * item_size)
            if hyper is not None and optimizers.state_count(&plan.hyper) > 0:
                layer.first = self.allocate(layer.rows, matrix)
            if hyper is not None and optimizers.state_count(&plan.hyper) > 1:
                layer.second = self.allocate(layer.rows, matrix)
        plan.row_loss = <double*> self.allocate(rows, sizeof(double))
        plan.row_weight = <double*> self.allocate(rows, sizeof(double))
        levels = 3
        while chain_rows(rows) << (levels - 2) < rows:
            levels += 1
        i = outputs * max(<Py_ssize_t> INFERENCE_ROWS, self.most_rows() + 5)
        plan.pos_weight = self.allocate(i, item_size)
        scratch = max(ITEM_SIZE * levels, 5 * i)  # `loss_rows` keeps five numbers an output
        plan.members = <bcn_member*> self.allocate(threads, sizeof(bcn_member))
        plan.scratch = <void**> self.allocate(threads, sizeof(void*))
        for i in range(threads):
            plan.scratch[i] = self.allocate(scratch, item_size)
        if capacity == 0:
            return
        if threads > 1 and self.has_partials(rows):
            for l in range(plan.n_layers):
                layer = &plan.layers[l]
                layer.partial = self.allocate(MOST_PARTIALS * layer.rows,
                                              padded(layer.columns) * item_size)
        plan.n_items = self.cut(NULL)
        plan.items = <Item*> self.allocate(plan.n_items, sizeof(Item))
        self.cut(plan.items)

    cdef Py_ssize_t cut(self, Item* items):
        """Cut every layer's matrix into tiles, written where ``items`` is not NULL; their number.

        A tile has the rows that fill it where the panel is whole, or a narrow layer's all.
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
                            items[count].layer = l
                            items[count].row = row
                            items[count].rows = min(rows, layer.rows - row)
                            items[count].column = column
                            items[count].columns = min(columns, start + ld - column)
                            items[count].offset = start * layer.rows + row * ld + column - start
                            items[count].ld = ld
                        count += 1
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
        next batch overwrites them.
        """
        cdef Py_ssize_t parameters = 0
        cdef Py_ssize_t width = self.plan.layers[0].ld_in
        cdef Py_ssize_t chains = (rows + chain_rows(rows) - 1) // chain_rows(rows)
        cdef int l
        for l in range(self.plan.n_layers):
            parameters += self.plan.layers[l].rows * padded(self.plan.layers[l].columns)
            width += 2 * self.plan.layers[l].ld_a
        return 2 <= chains <= MOST_PARTIALS and chains * parameters < rows * width

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
        """Set the hyperparameters for the steps to come; the state stays."""
        self.set_hyper(hyper)

    cdef set_hyper(self, dict hyper):
        cdef optimizers.Hyper* h = &self.plan.hyper
        h.rule = hyper["rule"]
        h.learning_rate = hyper["learning_rate"]
        h.momentum = hyper.get("momentum", 0.0)
        h.nesterov = hyper.get("nesterov", False)
        h.weight_decay = hyper.get("weight_decay", 0.0)
        h.beta_1 = hyper.get("beta_1", 0.0)
        h.beta_2 = hyper.get("beta_2", 0.0)
        h.epsilon = hyper.get("epsilon", 0.0)
        h.epsilon_inside = hyper.get("epsilon_inside", False)
        h.rho = hyper.get("rho", 0.0)

    @property
    def steps(self):
        """Steps taken so far."""
        return self.plan.steps

    @steps.setter
    def steps(self, Py_ssize_t value):
        self.plan.steps = value

    cdef void* part(self, const Layer* layer, int which):
        if which == WEIGHTS:
            return layer.w
        if which == FIRST_STATE:
            return layer.first
        if which == SECOND_STATE:
            return layer.second
        return layer.gradient

    cdef Py_ssize_t flat_size(self):
        cdef Py_ssize_t count = 0
        cdef int l
        for l in range(self.plan.n_layers):
            count += (self.plan.layers[l].fan_in + 1) * self.plan.layers[l].fan_out
        return count * self.plan.item_size

    cdef void copy(self, int which, char* p, bint to_flat):
        """Copy a part to or from a flat array W1, b1, W2, b2, …. Holds the GIL."""
        cdef const Layer* layer
        cdef int l
        for l in range(self.plan.n_layers):
            layer = &self.plan.layers[l]
            if self.plan.item_size == 4:
                copy_matrix(<float*> self.part(layer, which), layer, <float*> p, to_flat)
            else:
                copy_matrix(<double*> self.part(layer, which), layer, <double*> p, to_flat)
            p += (layer.fan_in + 1) * layer.fan_out * self.plan.item_size

    def load(self, int which, flat):
        """Copy a flat array W1, b1, W2, b2, … into a part: no mixture is seen."""
        self.copy(which, <char*> address(flat, self.flat_size(), False), False)
        if which == WEIGHTS and self.plan.item_size == 4:
            transpose_all(&self.plan, <float*> NULL)
        elif which == WEIGHTS:
            transpose_all(&self.plan, <double*> NULL)

    def store(self, int which, flat):
        """Copy a part into a flat array W1, b1, W2, b2, …."""
        self.copy(which, <char*> address(flat, self.flat_size(), True), True)

    def publish(self, list parts, optimizer, Py_ssize_t epoch):
        """Store each (part, flat array), and the counters in ``optimizer``: all or nothing.

        One native call, so no signal handler runs and no other thread looks in between.
        """
        for which, flat in parts:
            self.store(which, flat)
        optimizer.step = self.plan.steps
        optimizer.epoch = epoch

    cdef void prepare_job(self, Job* job, Source x, Source y, Source weight, pos_weight,
                          double smoothing):
        cdef Py_ssize_t i
        memset(job, 0, sizeof(Job))
        job.plan = &self.plan
        job.owner = <void*> self
        job.poll = signal_pending
        job.bad_layer = NO_LAYER
        job.next_poll = bcn_nanoseconds() + POLL_NANOSECONDS
        job.rows = x.layout.shape[0]
        job.smoothing = smoothing
        job.x = x.layout
        if y is not None:
            job.has_targets = True
            job.y = y.layout
        if weight is not None:
            job.has_sample_weight = True
            job.sample_weight = weight.layout
        for i in range(self.plan.outputs * max(<Py_ssize_t> INFERENCE_ROWS,
                                               self.most_rows() + 5)):
            value = 1.0 if pos_weight is None else pos_weight[i % self.plan.outputs]
            if self.plan.item_size == 4:
                (<float*> self.plan.pos_weight)[i] = value
            else:
                (<double*> self.plan.pos_weight)[i] = value

    cdef raise_pending(self):
        if self.pending is not None:
            error = self.pending
            self.pending = None
            raise error

    def train(self, Source x not None, Source y not None, Source weight, order,
              Py_ssize_t batch_size, Py_ssize_t first_batch, Py_ssize_t last_batch, pos_weight,
              double smoothing, int stage, int threads):
        """Batches first_batch to last_batch - 1 of an epoch over the rows in ``order``.

        Returns (status, batch, weighted loss, weight, layer): the batch is the one that was
        stopped, or the bad one. A signal's exception is left for ``take_pending``. The first
        call starts the threads, and ``close`` ends them.
        """
        cdef Job job
        cdef void* p
        if threads < 1 or threads > self.plan.threads or batch_size > self.plan.capacity:
            raise ValueError("threads and batch_size must fit the engine")
        self.prepare_job(&job, x, y, weight, pos_weight, smoothing)
        if order is not None:
            p = address(order, job.rows * order.itemsize, False)
            if order.itemsize == 4:
                job.order_32 = <int32_t*> p
            else:
                job.order_64 = <int64_t*> p
        job.batch_size = batch_size
        job.block_rows = self.block_rows(threads, batch_size)
        job.first_batch = first_batch
        job.last_batch = last_batch
        job.stage = <Stage> stage
        job.by_chains = (self.plan.layers[0].partial != NULL and batch_size > chain_rows(batch_size)
                         and 1 < threads <= (batch_size - 1) // chain_rows(batch_size) + 1)
        with nogil:
            if not bcn_team_started(&self.plan.team):
                bcn_team_start(&self.plan.team, threads, self.plan.members, work_item)
            bcn_team_begin(&self.plan.team, &job)
            train(&job)
            bcn_team_end(&self.plan.team)
        return (<int> job.status, job.batch, job.loss, job.weight,
                -1 if job.bad_layer == NO_LAYER else job.bad_layer)

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

    def predict(self, Source x not None, out, bint probabilities, int threads):
        """Logits, or probabilities, of every row into the C-contiguous ``out``.

        Returns "done", or "bad input" where a number of X is not finite.
        """
        cdef Job job
        if x.layout.shape[0] == 0:
            return STATUSES[<int> DONE]
        self.prepare_job(&job, x, None, None, None, 0)
        job.out = address(out, job.rows * self.plan.outputs * self.plan.item_size, True)
        job.probabilities = probabilities
        return self.infer(&job, threads)

    def evaluate(self, Source x not None, Source y not None, Source weight, pos_weight,
                 double smoothing, int threads):
        """(weighted loss, weight) over all rows."""
        cdef Job job
        cdef Py_ssize_t blocks = (x.layout.shape[0] + INFERENCE_ROWS - 1) // INFERENCE_ROWS
        cdef double loss, weights
        self.prepare_job(&job, x, y, weight, pos_weight, smoothing)
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
