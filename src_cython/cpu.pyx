# What this processor can run: compiled for the plainest instruction set, asked before any other
# native module is imported.

cdef extern from "platform.h" nogil:
    int bcn_supports_baseline()
    int bcn_supports_v3()
    int bcn_supports_v4()

SUPPORTED = {
    "baseline": bool(bcn_supports_baseline()),
    "v3": bool(bcn_supports_v3()),
    "v4": bool(bcn_supports_v4()),
}
