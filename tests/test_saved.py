"""Files that released versions have saved load, to the bit, and the run goes on."""

import json
from pathlib import Path

import numpy as np
import pytest

import fastopt
from fastopt.checkpoint import Work, read
from support.asserts import assert_same_bits
from support.released import optimizer, step

FILES = sorted(Path(__file__).with_name("saved").glob("*.safetensors"))

pytest.importorskip("safetensors", reason="needs the safetensors library")


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_file_of_a_released_version(path):
    text, tensors, _ = read(path, Work("load", None))
    content = json.loads(text)
    parts = content.get("optimizers", [content])
    rules = [part["rule"] for part in parts]
    opt = optimizer(rules)
    fastopt.load(path, opt)
    assert opt.step_count == 2
    for name, saved in tensors.items():
        place, letter = name.rpartition("/")[::2]
        rule = json.loads(place.partition("/")[2] if len(parts) > 1 else place)
        assert_same_bits(np.asarray(opt.state[rule][letter]), saved)
    step(opt, rules)
    assert opt.step_count == 3


def test_every_released_version_has_a_file():
    """Those of tests/abi, which has their headers."""
    headers = {path.stem.removeprefix("fastopt-") for path in Path(__file__).with_name("abi").glob("*.h")}
    assert headers <= {path.stem.partition("-")[0] for path in FILES}
