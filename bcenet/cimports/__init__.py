"""The kernels that other Cython projects cimport: ``from bcenet.cimports.losses cimport bce``.

There is nothing to import from Python. docs/cython.md says how to compile a project with them; in
a checkout the ``.pxd`` files beside this one are links into src_cython, which setup.py makes.
"""
