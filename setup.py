"""Builds the native modules: one source, compiled once an instruction set.

Everything else about the package is in pyproject.toml.
"""

import os
import platform
import sys
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("src_cython")
STUBS = Path("build") / "cython"
PUBLIC = Path("bcenet") / "cimports"
PUBLIC_FILES = ["activations.pxd", "bcenet_math.h", "losses.pxd", "vecmath.pxd"]

# No flag that changes values: contraction is off, multiply-adds are written out in the source.
# sqrt and comparisons vectorise only when they need not set errno or trap.
COMMON = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
GCC_ONLY = [
    # Inner loops of 8 columns must be vectorised before they are unrolled; loops over up to 7
    # rows are unrolled first.
    "--param=max-completely-peel-times=6",
    "--param=max-completely-peeled-insns=2000",
    # A tile's zeros are registers, not a memset.
    "-fno-tree-loop-distribute-patterns",
]
INSTRUCTION_SETS = {
    "baseline": ["-march=x86-64-v2"],
    "v3": ["-march=x86-64-v3"],
    "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}

IS_X86 = platform.machine().lower() in ("x86_64", "amd64")


def native_modules():
    """(name, instruction set or None) of each module to build."""
    names = INSTRUCTION_SETS if IS_X86 else {"baseline": []}
    return [(name, INSTRUCTION_SETS[name] if IS_X86 else []) for name in names]


def link_public_files():
    """The name under which all Cython code, in bcenet or not, cimports what is public.

    A wheel holds the files themselves; links, so that an installation in place has them too.
    """
    for name in PUBLIC_FILES:
        link = PUBLIC / name
        if not link.exists():
            link.symlink_to(Path("..", "..", SOURCES, name))


def extensions():
    """The modules; a stub a variant, because one .pyx cannot serve two of them."""
    STUBS.mkdir(parents=True, exist_ok=True)
    link = ["-Wl,--strip-all"] if sys.platform.startswith("linux") else []
    result = [
        Extension(
            "bcenet._base",
            [str(SOURCES / "base.pyx")],
            include_dirs=[str(SOURCES)],
            extra_compile_args=["-O2"],
            extra_link_args=link,
        )
    ]
    depends = ["setup.py", *sorted(str(path) for path in SOURCES.glob("*.[ph]*"))]
    for name, flags in native_modules():
        stub = STUBS / f"_native_{name}.pyx"
        text = f'INSTRUCTION_SET = "{name}"\nFLAGS = {" ".join(COMMON + flags)!r}\n'
        text += 'include "module.pxi"\n'
        if not stub.exists() or stub.read_text(encoding="utf-8") != text:
            stub.write_text(text, encoding="utf-8")
        result.append(
            Extension(
                f"bcenet._native_{name}",
                [str(stub)],
                include_dirs=[str(SOURCES), numpy.get_include()],
                depends=depends,
                define_macros=[
                    # A tile whose sizes are not constants keeps its sums in memory: 5 times slower.
                    ("CYTHON_INLINE", "inline __attribute__((always_inline))"),
                    ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
                ],
                extra_compile_args=[*COMMON, *flags],
                extra_link_args=[*link, "-pthread"],
            )
        )
    return result


class BuildExtensions(build_ext):
    """Adds the flags that only GCC knows, and compiles the variants side by side."""

    def build_extensions(self):
        compiler = " ".join(map(str, getattr(self.compiler, "compiler_so", [])))
        if "clang" not in compiler:
            for extension in self.extensions:
                if "_native_" in extension.name:
                    extension.extra_compile_args += GCC_ONLY
        self.parallel = self.parallel or os.cpu_count()
        super().build_extensions()


link_public_files()
setup(
    ext_modules=cythonize(
        extensions(),
        include_path=[str(SOURCES), "."],
        build_dir=str(STUBS),
        annotate=bool(os.environ.get("BCENET_ANNOTATE")),
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "embedsignature": False,
        },
    ),
    cmdclass={"build_ext": BuildExtensions},
)
