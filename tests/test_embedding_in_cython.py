"""`cimport fastopt` in an extension of a user, which setuptools builds in a folder of its own."""

import re
import subprocess
import sys
import threading
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

import fastopt

SOURCE = Path(__file__).with_name("embed.pyx")
PACKAGE = Path(fastopt.__file__).parent
SETUP = """
from Cython.Build import cythonize
from setuptools import Extension, setup
import fastopt

setup(ext_modules=cythonize([Extension("NAME", ["NAME.pyx"], include_dirs=[fastopt.get_include()])]))
"""


def built(name, source, folder):
    """An extension of this name, which links nothing of fastopt."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    (folder / f"{name}.pyx").write_text(source)
    (folder / "setup.py").write_text(SETUP.replace("NAME", name))
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    (file,) = [*folder.glob(f"{name}*.so"), *folder.glob(f"{name}*.pyd")]
    spec = spec_from_file_location(name, file)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """The extension of a user."""
    return built("embed", SOURCE.read_text(), tmp_path_factory.mktemp("user"))


# ---- The header ----

# Fields that belong to the library, which no caller reads.
PRIVATE = {"fastopt_tensor": {"engine"}, "fastopt_rule": {"tables"}, "fastopt_formats": {"unused"}}


def header():
    """The text of fastopt.h without comments and the struct within a struct, whose fields are the engine's."""
    text = re.sub(r"/\*.*?\*/", "", (PACKAGE / "include" / "fastopt.h").read_text(), flags=re.DOTALL)
    return re.sub(r"struct \{[^{}]*(\{[^{}]*\}[^{}]*)*\} engine;", "int engine;", text)


def functions_of_header():
    """The names of its functions: those that end with _sized are called by others of the same name."""
    names = set(re.findall(r"^(?!typedef)\w[\w *]*?\b(fastopt_\w+)\(", header(), re.MULTILINE))
    assert "fastopt_step" in names
    return {name for name in names if not name.endswith("_sized")}


def fields(body):
    """The names that the body of a struct declares."""
    return {*re.findall(r"(\w+)\s*(?:\[[^]]*\]\s*)*[,;]", re.sub(r"\(\*(\w+)\)\([^()]*\)", r"\1", body))}


def test_cimport_has_all_of_the_header(tmp_path):
    """Every type, constant and field; every function, also its address, without linking."""
    text, ours = header(), re.sub(r" noexcept| nogil", "", (PACKAGE / "c_header.pxd").read_text())
    assert {*re.findall(r"\}\s*(fastopt_\w+);", text)} <= {*re.findall(r"ctypedef \w+ (fastopt_\w+):", ours)}
    types = re.findall(r"^typedef \w+ (fastopt_\w+)\(", text, re.MULTILINE)
    assert "fastopt_sum_parts" in types
    assert {*types} <= {*re.findall(r"ctypedef \w+ (fastopt_\w+)\(", ours)}
    structs = re.findall(r"typedef struct \w*\s*\{([^{}]*)\}\s*(fastopt_\w+);", text)
    assert len(structs) > 10
    for body, name in structs:
        (declared,) = re.findall(rf"ctypedef struct {name}:\n((?: {{8}}.*\n)+)", ours)
        assert fields(declared.replace("\n", ";")) == fields(body) - PRIVATE.get(name, set()), name
    for constants in re.findall(r"\benum \{([^{}]*)\}", text):
        names = re.findall(r"\bFASTOPT_\w+\b(?=\s*[=,\n])", constants + "\n")
        assert names
        assert [name for name in names if not re.search(rf"\b{name}\b", ours)] == []
    lines = [f"    {name!r}: <uintptr_t>&fastopt.{name}," for name in sorted(functions_of_header())]
    source = "cimport fastopt\nfrom libc.stdint cimport uintptr_t\nADDRESSES = {\n" + "\n".join(lines) + "\n}\n"
    assert all(built("reached", source, tmp_path).ADDRESSES.values())


def test_a_rule_of_the_extension(user):
    p, g, b = np.ones(1000, np.float32), np.zeros(1000, np.float32), np.zeros(1000, np.float32)
    assert user.own_rule(p, g, b, 5, 2.0**-6, "pushed") == 5
    expected = np.ones(1000, np.float32)
    opt = fastopt.SGD([expected], lr=lambda step: 2.0**-6 / (step + 1), momentum=0.5)
    for step in range(1, 6):
        opt.step([gradient(step, 1000)])
    np.testing.assert_array_equal(p, expected)
    np.testing.assert_array_equal(b, opt.state[0]["b"])
    assert user.own_rule(p, g, b, 5, 1.0, "a rule") == 'name must be an identifier, got "a rule"'


def test_gradients_of_rows(user):
    p, values = np.ones((6, 3), np.float32), np.ones((4, 3), np.float32)
    values *= np.arange(1, 5, dtype=np.float32)[:, None]
    rows = np.array([4, 0, 4, 5])
    expected = p.copy()
    assert user.sgd_of_rows(p, rows, values, 0.1) == 3
    fastopt.SGD([expected], lr=0.1).step([fastopt.RowGrad(rows, values)])
    np.testing.assert_array_equal(p, expected)


def gradient(step, n):
    return np.array((np.arange(n) + step) % 7 - 3, np.float32)


def trained(make, n, steps):
    """The parameter after steps of an optimizer in Python."""
    p = np.ones(n, np.float32)
    opt = make([p])
    for step in range(1, steps + 1):
        opt.step([gradient(step, n)])
    return p


MAKE = {
    "plain": lambda params: fastopt.Adam(params, lr=1e-2),
    "options": lambda params: fastopt.AdamW(params, lr=1e-2, clip_norm=0.5, zero_grads=True, nonfinite="skip"),
    "per parameter": lambda params: fastopt.SGD(params, lr=1e-2, momentum=0.9, clip_norm=1, clip_norm_per="parameter"),
    "carries numbers": lambda params: fastopt.ScheduleFreeSGD(params, lr=1e-2),
    "schedule": lambda params: fastopt.Adam(params, lr=fastopt.schedules.cosine(1e-2, decay_steps=20)),
    "averages": lambda params: fastopt.Adam(params, lr=1e-2, ema_decay=0.9),
    "scale": lambda params: fastopt.Adam(params, lr=1e-2, grad_scale=fastopt.LossScale(1.0), nonfinite="skip"),
    "schedule of clip_norm": lambda params: fastopt.Adam(params, lr=1e-2, clip_norm=lambda step: 1 / (1 + step)),
}
NEEDS_PYTHON = {"schedule", "averages", "scale", "schedule of clip_norm"}


def test_steps_of_the_c_api(user):
    p, g, m, v = (np.full(1000, value, np.float32) for value in (1, 0, 0, 0))
    assert user.adam_in_c(p, g, m, v, 5, 1e-2) == 5
    np.testing.assert_array_equal(p, trained(MAKE["plain"], 1000, 5))


@pytest.mark.parametrize("n", [100, 100_000])
@pytest.mark.parametrize("name", MAKE)
def test_bound_steps(name, n, user):
    p, g = np.ones(n, np.float32), np.zeros(n, np.float32)
    opt = MAKE[name]([p])
    bound = opt.bind([g])
    assert user.bound_steps(bound, g, 10) == [0] * 10
    user.bound_steps_with_gil(bound, g, 0)
    bound.check()
    assert opt.step_count == 10
    np.testing.assert_array_equal(p, trained(MAKE[name], n, 10))
    if opt.grad_norm is not None:
        assert opt.grad_norm > 0


def test_other_steps_between_bound_ones(user):
    """Bound steps keep their gradients, also after steps with others, new hyperparameters and a rebound parameter."""
    n = 50
    p, q, g = np.ones(n, np.float32), np.ones(n, np.float32), np.zeros(n, np.float32)
    opt, other = fastopt.Adam([p], lr=1e-2), fastopt.Adam([q], lr=1e-2)
    bound = opt.bind([g])
    for turn in range(4):
        assert user.bound_steps(bound, g, 2) == [0, 0]
        for step in (1, 2):
            other.step([gradient(step, n)])
        for one in (opt, other):
            if turn == 0:
                one.step([gradient(7, n)])
            elif turn == 1:
                one.lr = 5e-3
            elif turn == 2:
                one.lr = lambda step: 1 / (1 + step)
        if turn == 1:
            p = p.copy()
            opt.rebind([p])
    np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("name", [name for name in MAKE if name not in NEEDS_PYTHON])
def test_the_gil_is_free_meanwhile(name, user):
    """A step of C goes on while another thread keeps the GIL."""
    p, g = np.ones(10, np.float32), np.zeros(10, np.float32)
    opt = MAKE[name]([p])
    bound = opt.bind([g])
    user.bound_steps(bound, g, 1)
    begin, seen = threading.Event(), []

    def keep_the_gil():
        begin.wait()
        deadline = time.monotonic() + 20
        while opt.step_count < 65 and time.monotonic() < deadline:
            pass
        seen.append(opt.step_count)

    other = threading.Thread(target=keep_the_gil)
    before = sys.getswitchinterval()
    other.start()
    sys.setswitchinterval(1000)  # the thread keeps the GIL until it ends
    try:
        begin.set()
        user.bound_steps(bound, g, 64)
        other.join()
    finally:
        sys.setswitchinterval(before)
    assert seen == [65]


def test_errors_wait_for_a_check(user):
    p, g = np.ones(10, np.float32), np.zeros(10, np.float32)
    opt = fastopt.Adam([p], lr=1e-2, nonfinite="raise")
    bound = opt.bind([g])
    user.bound_steps(bound, g, 3)
    opt.lr = lambda step: 1e-2 if step < 5 else np.nan
    assert user.bound_steps(bound, g, 4) == [0, 0, 2, 2]
    with pytest.raises(ValueError, match="lr"):
        bound.check()
    bound.check()
    opt.lr = 1e-2
    before, count = p.copy(), opt.step_count
    g[3] = np.nan
    with pytest.raises(FloatingPointError, match="finite"):
        bound.step()
    assert opt.step_count == count
    np.testing.assert_array_equal(p, before)


def test_steps_that_are_skipped(user):
    n = 10
    p, g = np.ones(n, np.float32), np.zeros(n, np.float32)
    opt = fastopt.Adam([p], lr=1e-2, nonfinite="skip", max_skips=2, clip_norm=np.inf, zero_grads=True)
    bound = opt.bind([g])
    bound.step()
    before = p.copy()
    for skipped in (1, 2):
        g[:] = np.inf
        assert call(bound) == 0
        assert (opt.skipped_steps, opt.step_count, g.any()) == (skipped, 1, False)
    g[:] = np.nan
    assert call(bound) == 3
    np.testing.assert_array_equal(p, before)
    with pytest.raises(FloatingPointError, match="2 skipped steps"):
        bound.check()


def call(bound):
    """A call through ctypes, which gives the GIL back meanwhile."""
    import ctypes

    step, argument = (ctypes.c_void_p * 2).from_address(bound.address)
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(step)(argument)


def test_parameters_that_are_added():
    p, g = np.ones(10, np.float32), np.ones(10, np.float32)
    opt = fastopt.Adam([p], lr=1e-2)
    bound = opt.bind([g])
    assert call(bound) == 0
    opt.add_param_group({"params": [np.ones(3, np.float32)]})
    assert call(bound) == 2
    with pytest.raises(TypeError, match="bound again"):
        bound.check()


def test_an_average_in_the_place_of_the_parameters():
    p, g = np.ones(10, np.float32), np.ones(10, np.float32)
    opt = fastopt.ScheduleFreeSGD([p], lr=1e-2)
    bound = opt.bind([g])
    assert [call(bound), call(bound)] == [0, 0]
    with opt.swapped("x"):
        assert call(bound) == 2
        with pytest.raises(ValueError, match="swapped"):
            bound.check()
    assert call(bound) == 0


def test_optimizers_that_step_as_one():
    arrays = [np.ones((8, 8), np.float32) for _ in range(4)]
    grads = [np.full((8, 8), 0.5, np.float32) for _ in range(2)]
    one, other = (
        fastopt.Combined([fastopt.Muon([a]), fastopt.AdamW([b], lr=1e-2)], clip_norm=1.0)
        for a, b in (arrays[:2], arrays[2:])
    )
    bound = one.bind([[grads[0]], [grads[1]]])
    for _ in range(3):
        assert call(bound) == 0
        other.step([[grads[0]], [grads[1]]])
    np.testing.assert_array_equal(arrays[0], arrays[2])
    np.testing.assert_array_equal(arrays[1], arrays[3])
