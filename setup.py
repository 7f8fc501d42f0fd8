"""Build fastopt._core: the Cython bridge and the C core, with OpenMP where the compiler has it."""

import os
import platform
import re
import sys
import tempfile
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
# No fast-math in any form, and no fused multiply-add: every build gives the same bits.
UNIX_FLAGS = ["-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden"]
UNIX_FLAGS += ["-pthread"]
X86_FLAGS = ["-mprefer-vector-width=256"]  # as csrc/kernels_avx512.c says
MSVC_FLAGS = ["/O2", "/std:c11", "/fp:precise"]


def openmp_flags(compiler):
    """Return (compile flags, link flags) for OpenMP, both empty when the compiler cannot build with it."""
    if compiler.compiler_type == "msvc":
        candidates = [(["/openmp"], [])]
    elif sys.platform == "darwin":
        # Apple's clang takes the flag only through the preprocessor, and libomp comes from elsewhere.
        roots = [os.environ.get("LIBOMP_PREFIX"), "/opt/homebrew/opt/libomp", "/usr/local/opt/libomp"]
        candidates = [
            (["-Xpreprocessor", "-fopenmp", f"-I{root}/include"], [f"-L{root}/lib", "-lomp"]) for root in roots if root
        ]
        candidates.append((["-fopenmp"], ["-fopenmp"]))
    else:
        candidates = [(["-fopenmp"], ["-fopenmp"])]
    for compile_flags, link_flags in candidates:
        if links(compiler, compile_flags, link_flags):
            return compile_flags, link_flags
    return [], []


def links(compiler, compile_flags, link_flags):
    """Return whether a small OpenMP program compiles and links with these flags."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
        try:
            objects = compiler.compile([str(source)], output_dir=folder, extra_postargs=compile_flags)
            compiler.link_executable(objects, "probe", output_dir=folder, extra_postargs=link_flags)
        except Exception:  # each compiler class has errors of its own, and all mean no
            return False
    return True


class BuildExt(build_ext):
    """build_ext with flags for the compiler at hand."""

    def build_extensions(self):
        """Add the flags, then build."""
        unix = UNIX_FLAGS + (X86_FLAGS if platform.machine() in {"x86_64", "AMD64"} else [])
        compile_flags, link_flags = ([], []) if os.environ.get("FASTOPT_NO_OPENMP") else openmp_flags(self.compiler)
        if not compile_flags:
            print("fastopt: building without OpenMP, threads will be the system's", file=sys.stderr)
        base = MSVC_FLAGS if self.compiler.compiler_type == "msvc" else unix
        for extension in self.extensions:
            extension.extra_compile_args += base + compile_flags
            extension.extra_link_args += link_flags
        super().build_extensions()


os.chdir(HERE)
core = Extension(
    "fastopt._core",
    sources=["fastopt/_core.pyx", *sorted(str(path.relative_to(HERE)) for path in HERE.glob("csrc/**/*.c"))],
    depends=[str(path.relative_to(HERE)) for path in HERE.glob("csrc/**/*") if path.suffix in {".h", ".def"}],
    include_dirs=["csrc", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
)
version = re.search(r'FASTOPT_VERSION "(.+)"', (HERE / "csrc/fastopt.h").read_text()).group(1)
setup(version=version, ext_modules=cythonize([core], build_dir="build"), cmdclass={"build_ext": BuildExt})
