"""The programs in docs/embedding.md, built and run."""

import platform
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

import fastopt

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "embedding.md"

pytestmark = [
    pytest.mark.skipif(not PAGE.exists(), reason="needs the source tree"),
    pytest.mark.skipif(platform.system() == "Windows", reason="the commands are those of Unix"),
]


def block(language):
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return found


def output(*command, cwd):
    done = subprocess.run([*map(str, command)], cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def expected():
    """The parameter of each program after its steps."""
    p = np.zeros(1000, np.float32)
    opt = fastopt.Adam([p], lr=1e-2, clip_norm=1.0)
    for _ in range(100):
        opt.step([p - 1])
    assert 0.5 < p[0] < 1
    return p


@pytest.mark.parametrize(
    ("language", "compiler", "flags"),
    [("c", "cc", ["-std=c11"]), ("cpp", "c++", ["-std=c++17", f"-I{ROOT / 'examples' / 'cpp'}"])],
)
def test_programs(language, compiler, flags, tmp_path, expected):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    (tmp_path / f"train.{language}").write_text(block(language))
    libs = output(sys.executable, "-m", "fastopt", "config", "--cflags", "--libs", cwd=tmp_path)
    output(compiler, *flags, f"train.{language}", *shlex.split(libs), "-o", "train", cwd=tmp_path)
    assert output("./train", cwd=tmp_path) == f"{expected[0]:.3f}\n"


def test_cython(tmp_path, expected):
    pytest.importorskip("Cython")
    (tmp_path / "train.pyx").write_text(block("cython"))
    (tmp_path / "setup.py").write_text(
        "from Cython.Build import cythonize\nfrom setuptools import Extension, setup\nimport fastopt\n"
        'setup(ext_modules=cythonize([Extension("train", ["train.pyx"], include_dirs=[fastopt.get_include()])]))\n'
    )
    output(sys.executable, "setup.py", "build_ext", "--inplace", cwd=tmp_path)
    spec = spec_from_file_location("train", next(tmp_path.glob("train*.so")))
    train = module_from_spec(spec)
    spec.loader.exec_module(train)
    p, g = np.zeros(1000, np.float32), np.zeros(1000, np.float32)
    train.fit_bound(fastopt.Adam([p], lr=1e-2, clip_norm=1.0).bind([g]), p, g, 100)
    np.testing.assert_array_equal(p, expected)
    q = np.zeros(1000, np.float32)
    train.fit(q, g, np.zeros_like(q), np.zeros_like(q), 100)
    assert 0.5 < q[0] < 1


def test_numba(expected):
    pytest.importorskip("numba")
    names = {}
    exec(compile(block("python"), str(PAGE), "exec"), names)
    np.testing.assert_array_equal(names["p"], expected)
    assert names["opt"].step_count == 100
