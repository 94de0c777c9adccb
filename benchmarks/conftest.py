"""NumPy's BLAS runs on one thread here, as bcenet does: set before NumPy is imported."""

import os

for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, "1")
