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
# needs the whole gradient first (clipping) or bounds the whole of what it made (max-norm).
# Both forms run the same tiles, so they give the same bits. A batch normalisation ends the rows
# phase where it must know all rows, forward and back.
#
# Every number is computed by one thread in an order that depends on shapes alone, so the result
# is the same for any number of threads.

cdef inline bint poll(Job* job) noexcept nogil:
    """Let the caller's thread look for signals now and then; True: stop."""
    cdef int64_t now = bcn_nanoseconds()
    if now < job.next_poll:
        return False
    job.next_poll = now + POLL_NANOSECONDS
    return job.poll(job.owner)


cdef void rows_phases(Job* job) noexcept nogil:
    """The rows of the batch through all layers and back, from one batch normalisation to the
    next."""
    cdef Plan* plan = job.plan
    cdef Py_ssize_t block = chain_rows(job.batch_rows) if job.by_chains else job.block_rows
    cdef Py_ssize_t blocks = (job.batch_rows + block - 1) // block
    cdef int count = plan.n_batch_norms if plan.batch_statistics else 0
    cdef int i
    job.at = -1
    job.backwards = False
    for i in range(count + 1):
        bcn_team_phase(&plan.team, CHAINS if job.by_chains else ROWS,
                       blocks + (1 if plan.index.slots != NULL and i == 0 else 0))
        if i < count:
            job.at = plan.batch_norms[i]
            bcn_team_phase(&plan.team, STATISTICS, lines(&plan.layers[job.at]))
    if job.stage == LOGITS_ONLY:
        return
    job.backwards = True
    for i in range(count - 1, -1, -1):
        job.at = plan.batch_norms[i]
        bcn_team_phase(&plan.team, REDUCTIONS, lines(&plan.layers[job.at]))
        bcn_team_phase(&plan.team, ROWS, blocks)


cdef inline Py_ssize_t lines(const Layer* layer) noexcept nogil:
    """Lines of a layer's columns."""
    return (layer.fan_out + LINE - 1) // LINE


cdef void stripes(Job* job, int kind, Py_ssize_t count) noexcept nogil:
    """A phase that goes through stored matrices, stripe by stripe: a small one not as a phase."""
    cdef Py_ssize_t i
    if job.plan.n_parameters > FEW_PARAMETERS:
        bcn_team_phase(&job.plan.team, kind, count)
        return
    for i in range(count):
        job.run(job, kind, i, 0)


cdef double total(const Plan* plan, Py_ssize_t n) noexcept nogil:
    return sum_block(<const double*> plan.sums, n)


cdef void staged_update(Job* job) noexcept nogil:
    """The second half of a staged step, from the stored gradient."""
    cdef Plan* plan = job.plan
    cdef double norm
    job.clip_factor = 1
    if plan.objective.clip_norm > 0:
        stripes(job, SQUARES, plan.n_stripes)
        if plan.item_size == 4:
            other_squares(plan, <float*> NULL)
        else:
            other_squares(plan, <double*> NULL)
        norm = square_root(total(plan, plan.n_sums))
        if not_finite(norm):  # its squares overflowed: clipped by it, every step would be 0
            bcn_store_minimum(&job.bad_layer, 0)
            return
        if norm > plan.objective.clip_norm:
            job.clip_factor = plan.objective.clip_norm / norm
    bcn_team_phase(&plan.team, UPDATES, plan.n_items)
    if plan.objective.max_norm > 0:
        bcn_team_phase(&plan.team, MAX_NORMS, plan.n_layers)
    if plan.scaled:
        stripes(job, EFFECTIVE, plan.n_first_stripes)


cdef void store_gradient(Job* job) noexcept nogil:
    """The batch's gradient to its place among those of all batches."""
    cdef Plan* plan = job.plan
    cdef Py_ssize_t offset = (job.batch - job.first_batch) * flat_count(plan, GRADIENT)
    if plan.item_size == 4:
        copy_part(plan, GRADIENT, <float*> job.gradients + offset, True)
    else:
        copy_part(plan, GRADIENT, <double*> job.gradients + offset, True)


cdef void train(Job* job) noexcept nogil:
    """All batches, phase by phase: what the caller's thread runs, and leads the helpers in.

    A step that is stopped in its rows phase changes nothing; one in its parameters phase is
    finished.
    """
    cdef Plan* plan = job.plan
    cdef double labels = plan.outputs if plan.objective.label_sum else 1
    cdef bint by_rows = plan.objective.label_sum and job.stage != GRADIENT_ONLY
    cdef double share
    for job.batch in range(job.first_batch, job.last_batch):
        job.batch_rows = min(job.batch_size, job.rows - job.batch * job.batch_size)
        rows_phases(job)
        if job.stop == DONE and poll(job):
            job.stop = INTERRUPTED
        if job.stop != DONE:
            job.status = <Status> job.stop
            return
        if job.stage == LOGITS_ONLY:
            continue
        job.batch_weight = weight_of(job, 0, job.batch_rows)
        if job.batch_weight == 0:
            continue
        # An epoch's loss is the mean of its batches' losses: by their weights, or, as
        # scikit-learn has it, by their rows.
        share = job.batch_rows / job.batch_weight if by_rows else 1
        job.loss += share * sum_block(<const double*> plan.row_loss, job.batch_rows)
        job.weight += job.batch_rows if by_rows else job.batch_weight
        if job.has_derivatives:  # the caller has divided; penalties have the rows
            job.gradient_scale = 1
            job.penalty_scale = 1 / <double> job.batch_rows
        else:
            job.gradient_scale = job.penalty_scale = labels / job.batch_weight
        if has_penalty(plan):
            stripes(job, PENALTIES, plan.n_stripes)
            job.penalty += share * total(plan, plan.n_sums - plan.n_layers - 1)
        if job.stage != GRADIENT_ONLY:
            plan.steps += 1
            if plan.objective.average_rate > 0:
                job.average_rate = 1 if plan.averaged == 0 else plan.objective.average_rate
                plan.averaged += 1
        prepare(&job.step, &plan.hyper, 1 if job.rates == NULL else job.rates[job.batch],
                plan.steps)
        bcn_team_phase(&plan.team, PARAMETERS, plan.n_items if not plan.objective.lazy else
                       lazy_items(plan) + plan.n_items - plan.n_first_items)
        if job.stop != DONE:  # no update was asked for, so there is none to finish
            job.status = <Status> job.stop
            return
        if plan.scaled:
            stripes(job, SCALING, plan.n_first_stripes)
        if job.gradients != NULL:
            store_gradient(job)
        if job.stage == UPDATE_STAGED:
            staged_update(job)
        if job.bad_layer != NO_LAYER:
            job.status = BAD_PARAMETERS
            return


cdef void inference_item(Job* job, floating* scratch, int64_t block,
                         int thread) noexcept nogil:
    """A block of rows through the forward pass: to outputs, or to weighted losses.

    Thread t works in rows t * INFERENCE_ROWS and following of the buffers.
    """
    cdef const Plan* plan = job.plan
    cdef Py_ssize_t row = thread * INFERENCE_ROWS
    cdef Py_ssize_t position = block * INFERENCE_ROWS
    cdef Py_ssize_t count = min(<Py_ssize_t> INFERENCE_ROWS, job.rows - position)
    cdef Py_ssize_t i
    cdef bint finite
    if plan.sparse:
        finite = sparse_finite(job, position, count, scratch)
    else:
        gather(job, <floating*> plan.layers[0].input, row, position, count)
        finite = all_finite(<floating*> plan.layers[0].input + row * plan.layers[0].ld_in,
                            count * plan.layers[0].ld_in)
    if not finite:
        bcn_store(&job.stop, BAD_INPUT)
        return
    if not plan.sparse:
        # The hardware reads ahead only to the end of a page: 1 to 2 % of the time.
        for i in range(position + INFERENCE_ROWS, min(position + 2 * INFERENCE_ROWS, job.rows)):
            prefetch_row(&job.x, i)
    forward(job, scratch, row, position, count, -1)
    if job.has_targets:
        loss_rows(job, scratch, row, position, count)
        job.block_loss[block] = sum_block(<const double*> &plan.row_loss[row], count)
        job.block_weight[block] = weight_of(job, row, count)
    else:
        store_logits(job, <floating*> job.out, row, position, count)


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
    elif kind == STATISTICS:
        statistics_item(job, scratch, item)
    elif kind == REDUCTIONS:
        reductions_item(job, scratch, item)
    elif kind == PENALTIES:
        penalties_item(job, scratch, item)
    elif kind == PARAMETERS:
        parameters_item(job, scratch, item)
    elif kind == SCALING:
        scaling_item(job, scratch, item)
    elif kind == SQUARES:
        squares_item(job, scratch, item)
    elif kind == UPDATES:
        update_item(job, scratch, item)
    elif kind == MAX_NORMS:
        max_norm_item(job, scratch, item)
    else:
        effective_rows(job.plan, &job.plan.stripes[item], scratch)
    if thread == 0 and (kind <= REDUCTIONS or job.stage == GRADIENT_ONLY) and poll(job):
        bcn_store(&job.stop, INTERRUPTED)
