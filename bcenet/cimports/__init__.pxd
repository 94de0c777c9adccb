# What other Cython projects cimport: `from bcenet.cimports.losses cimport bce`. docs/cython.md
# says how to compile it. The files beside this one come from src_cython: setup.py links them.
