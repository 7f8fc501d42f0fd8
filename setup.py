"""Build fastopt._core: the Cython bridge and the C core."""

import gzip
import os
import re
import shutil
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
HEADER = HERE / "csrc/include/fastopt.h"
# No fast-math in any form, and no fused multiply-add: every build gives the same bits.
UNIX_FLAGS = ["-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden"]
UNIX_FLAGS += ["-pthread", "-g0"]  # the static library takes these objects as they are, without debug information
MSVC_FLAGS = ["/O2", "/std:c11", "/fp:precise"]
# FASTOPT_OPENMP=1: OpenMP makes the team's threads, not the system.
OPENMP_FLAGS = {
    "msvc": (["/openmp"], []),
    "unix": (["-Xpreprocessor", "-fopenmp"], ["-lomp"]) if sys.platform == "darwin" else (["-fopenmp"], ["-fopenmp"]),
}


EMBEDDED = ["include", "lib"]  # folders of the package for programs in C and C++: see csrc/packaging


class BuildExt(build_ext):
    """build_ext with flags for the compiler at hand; also builds the files for programs in C and C++."""

    def build_extensions(self):
        """Add the flags, then build."""
        msvc = self.compiler.compiler_type == "msvc"
        if msvc and not self.compiler.initialized:
            self.compiler.initialize()
        compile_in_turn = self.compiler.compile

        def compile_all(sources, **options):
            """Compile sources in parallel, since half of the time goes into three of them."""
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return list(chain(*pool.map(lambda source: compile_in_turn([source], **options), sources)))

        self.compiler.compile = compile_all
        for extension in self.extensions:
            extension.extra_compile_args += MSVC_FLAGS if msvc else UNIX_FLAGS
            extension.extra_link_args += [] if msvc else ["-pthread"]
            if os.environ.get("FASTOPT_OPENMP"):
                compile_flags, link_flags = OPENMP_FLAGS["msvc" if msvc else "unix"]
                extension.extra_compile_args += compile_flags
                extension.extra_link_args += link_flags
                extension.define_macros.append(("FASTOPT_OPENMP", "1"))
        super().build_extensions()
        self.embed([] if msvc else ["-pthread", "-lm", *(link_flags if os.environ.get("FASTOPT_OPENMP") else [])])

    def embed(self, system_libs):
        """Put the header, a static library of the core's objects and the files that find both into the package."""
        package = Path(self.build_lib, "fastopt")
        for folder in EMBEDDED:
            shutil.rmtree(package / folder, ignore_errors=True)
        (package / "include").mkdir(parents=True)
        shutil.copy(HEADER, package / "include")
        sources = [source for source in core.sources if source.startswith("csrc")]
        objects = self.compiler.object_filenames(sources, output_dir=self.build_temp)
        self.compiler.create_static_lib(objects, "fastopt_core", output_dir=str(package / "lib"))
        values = {
            "VERSION": version,
            "LIBRARY": self.compiler.library_filename("fastopt_core"),
            "SYSTEM_LIBS": " ".join(system_libs),
        }
        for template in HERE.glob("csrc/packaging/*.in"):
            file = package / "lib" / ("cmake/fastopt" if ".cmake" in template.suffixes else "pkgconfig") / template.stem
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(re.sub(r"@(\w+)@", lambda name: values[name[1]], template.read_text()))

    def copy_extensions_to_source(self):
        """Copy what was built into the source tree."""
        super().copy_extensions_to_source()
        for folder in EMBEDDED:
            shutil.rmtree(HERE / "fastopt" / folder, ignore_errors=True)
            shutil.copytree(Path(self.build_lib, "fastopt", folder), HERE / "fastopt" / folder)


class Sdist(sdist):
    """sdist whose bytes follow from the sources alone: no times, owners or order of the machine that builds it."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        """Write the archive."""
        if format != "gztar":
            raise ValueError(f"sdist: the format must be gztar, got {format}")
        time = int(os.environ.get("SOURCE_DATE_EPOCH", 0))

        def plain(entry):
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = time, 0, 0, "", ""
            entry.mode = 0o755 if entry.mode & 0o100 else 0o644
            return entry

        file = Path(f"{base_name}.tar.gz")
        file.parent.mkdir(parents=True, exist_ok=True)
        files = sorted(path for path in Path(base_dir).rglob("*") if path.is_file())
        with (
            open(file, "wb") as out,
            gzip.GzipFile("", "wb", fileobj=out, mtime=time) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for path in files:
                archive.add(path, recursive=False, filter=plain)
        return str(file)


os.chdir(HERE)
core = Extension(
    "fastopt._core",
    sources=["fastopt/_core/module.pyx", *sorted(str(path.relative_to(HERE)) for path in HERE.glob("csrc/**/*.c"))],
    depends=[str(path.relative_to(HERE)) for path in HERE.glob("csrc/**/*") if path.suffix in {".h", ".def"}],
    include_dirs=["csrc/include", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
)
version = re.search(r'FASTOPT_VERSION "(.+)"', HEADER.read_text()).group(1)
setup(
    version=version, ext_modules=cythonize([core], build_dir="build"), cmdclass={"build_ext": BuildExt, "sdist": Sdist}
)
