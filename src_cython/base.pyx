# What every variant shares: compiled for the plainest instruction set, and imported first.

# ---- what this processor can run ---------------------------------------------------------------

cdef extern from "platform.h" nogil:
    int bcn_supports_baseline()
    int bcn_supports_v3()
    int bcn_supports_v4()

SUPPORTED = {
    "baseline": bool(bcn_supports_baseline()),
    "v3": bool(bcn_supports_v3()),
    "v4": bool(bcn_supports_v4()),
}


# ---- what a signal must not split --------------------------------------------------------------

cdef class Exclusive:
    """What one call at a time may hold: see `exclusively`."""

    cdef bint held
    cdef object name

    def __cinit__(self, name):
        self.name = name


def exclusively(list held, function):
    """Call ``function`` holding every Exclusive in ``held``; RuntimeError if another call does.

    Native, so that Ctrl-C cannot leave one held: Python runs signal handlers between bytecodes,
    and a lock that Python code takes and releases stays taken if the handler raises in between.
    """
    cdef Exclusive one
    for one in held:
        if one.held:
            raise RuntimeError(f"this {one.name} is being fitted by another thread or call")
    for one in held:
        one.held = True
    try:
        return function()
    finally:
        for one in held:
            one.held = False
