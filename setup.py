"""Build fastopt._core: the Cython bridge and the C core."""

import os
import platform
import re
import sys
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
# No fast-math in any form, and no fused multiply-add: every build gives the same bits.
UNIX_FLAGS = ["-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden"]
UNIX_FLAGS += ["-pthread"]
X86_FLAGS = ["-mprefer-vector-width=256"]  # as csrc/kernels/kernels_avx512.c says
MSVC_FLAGS = ["/O2", "/std:c11", "/fp:precise"]
# FASTOPT_OPENMP=1: OpenMP makes the team's threads, not the system.
OPENMP_FLAGS = {
    "msvc": (["/openmp"], []),
    "unix": (["-Xpreprocessor", "-fopenmp"], ["-lomp"]) if sys.platform == "darwin" else (["-fopenmp"], ["-fopenmp"]),
}


class BuildExt(build_ext):
    """build_ext with flags for the compiler at hand."""

    def build_extensions(self):
        """Add the flags, then build."""
        unix = UNIX_FLAGS + (X86_FLAGS if platform.machine() in {"x86_64", "AMD64"} else [])
        msvc = self.compiler.compiler_type == "msvc"
        for extension in self.extensions:
            extension.extra_compile_args += MSVC_FLAGS if msvc else unix
            extension.extra_link_args += [] if msvc else ["-pthread"]
            if os.environ.get("FASTOPT_OPENMP"):
                compile_flags, link_flags = OPENMP_FLAGS["msvc" if msvc else "unix"]
                extension.extra_compile_args += compile_flags
                extension.extra_link_args += link_flags
                extension.define_macros.append(("FASTOPT_OPENMP", "1"))
        super().build_extensions()


os.chdir(HERE)
core = Extension(
    "fastopt._core",
    sources=["fastopt/_core/module.pyx", *sorted(str(path.relative_to(HERE)) for path in HERE.glob("csrc/**/*.c"))],
    depends=[str(path.relative_to(HERE)) for path in HERE.glob("csrc/**/*") if path.suffix in {".h", ".def"}],
    include_dirs=["csrc/include", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
)
version = re.search(r'FASTOPT_VERSION "(.+)"', (HERE / "csrc/include/fastopt.h").read_text()).group(1)
setup(version=version, ext_modules=cythonize([core], build_dir="build"), cmdclass={"build_ext": BuildExt})
