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


@pytest.fixture(params=fastopt._core.available_isas())
def isa(request):
    """Every instruction set that this CPU has, in turn."""
    before = fastopt._core.isa()
    fastopt._core.use_isa(request.param)
    yield request.param
    fastopt._core.use_isa(before)


@pytest.fixture
def files(tmp_path):
    """A folder to save state in, where the library that writes it is to be had."""
    pytest.importorskip("safetensors", reason="saving needs safetensors: pip install 'fastopt[checkpoint]'")
    return tmp_path
