"""Builds boosted_stumps; everything else about the project is in pyproject.toml."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import bcenet

setup(
    ext_modules=cythonize(
        [
            Extension(
                "boosted_stumps",
                ["boosted_stumps.pyx"],
                include_dirs=[bcenet.get_include()],
                extra_compile_args=[
                    "-O3",
                    "-ffp-contract=off",
                    "-fno-math-errno",
                    "-fno-trapping-math",
                ],
            )
        ]
    )
)
