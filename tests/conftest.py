import os
from pathlib import Path

import pytest
from hypothesis import settings

import fastopt

pytest.register_assert_rewrite("support")

# Processes that tests start import the package that is tested, whatever else is installed.
paths = [str(Path(fastopt.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

# The same examples on every run, and no limit on the time of one: a busy machine is not a bug.
settings.register_profile("fastopt", derandomize=True, deadline=None, max_examples=200)
settings.load_profile("fastopt")


# The instruction sets that tests go through: fewer than this CPU has where all would take too long.
ISAS = os.environ.get("FASTOPT_TEST_ISAS", "").split() or fastopt._core.available_isas()


class InstructionSets:
    """A loop over them puts one after the other to use, until the next is asked for."""

    def __iter__(self):
        for name in ISAS:
            fastopt._core.use_isa(name)
            yield name


@pytest.fixture
def isas():
    """Every instruction set. Tests loop over them, outermost, so that an oracle is computed once for all of them."""
    before = fastopt._core.isa()
    yield InstructionSets()
    fastopt._core.use_isa(before)


@pytest.fixture
def files(tmp_path):
    """A folder to save state in, where the library that writes it is to be had."""
    pytest.importorskip("safetensors", reason="saving needs safetensors: pip install 'fastopt[checkpoint]'")
    return tmp_path


@pytest.fixture(scope="module")
def torch_doubles():
    """float64 as torch's default dtype, in which some of its rules keep numbers for parameters of any dtype."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def builds(tmp_path_factory):
    """A folder for what compilers make. The workers of a run share it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    (folder / "builds").mkdir(exist_ok=True)
    return folder / "builds"
