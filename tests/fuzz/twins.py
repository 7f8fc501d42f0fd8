"""Two optimizers that must stay alike to the bit: on other threads, copied, saved and loaded, stepped one by one.

These hold for every rule and every format, also where the oracles do not follow: rules that read what they have just
stored, and rows that share groups of codes.
"""

from __future__ import annotations

import copy
import pickle
import random
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import fastopt
from fuzz.arrays import BFLOAT16, FORMATS, Placed, a_shape, defined, image, numbers, of_buffer
from fuzz.outcomes import Calls, WrongResultError, attempt, expect
from fuzz.values import Array
from support import reference
from support.cases import CASES

WORDS = ("bfloat16", "float16", "8bit")


def everything(opt: Any, params: dict[str, Array]) -> Any:
    """The bits of an optimizer and of its parameters."""
    of_state = [(key, of_buffer(one)) for letters in opt.state.values() for key, one in letters.items()]
    return image([defined(p) for p in params.values()]), of_state, opt._table.steps()


def saved_and_loaded(opt: Any, params: dict[str, Array], make: Callable[..., Any]) -> tuple[Any, dict[str, Array]]:
    """Another optimizer, of arrays that lie in memory alike, that has what this one saves."""
    others = {name: array.copy(order="K") for name, array in params.items()}
    other = make(others)
    if find_spec("safetensors") is None:
        other.load_state_dict(opt.state_dict())
        return other, others
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state")
        fastopt.save(path, opt, parameters=True)
        for array in others.values():
            array[...] = 0
        fastopt.load(path, other, parameters=True)
    return other, others


def twins(rng: random.Random, tell: Callable[..., None]) -> Calls:
    """An optimizer on one thread, and another that is moved about, with the same gradients."""
    case = rng.choice(CASES)
    by_rows = rng.random() < 0.3 and fastopt._core.Settings(case.rule).rule_name not in reference.ALONE
    params: dict[str, Array] = {}
    for i in range(rng.choice((1, 1, 2, 3))):
        dtype = rng.choice((np.float32, np.float64, np.float16, BFLOAT16, BFLOAT16))
        shape = (rng.choice((1, 3, 40)), rng.choice((1, 5, 64, 100))) if by_rows else a_shape(rng, dtype)
        values = numbers(rng, shape, dtype, 0.02)
        params[f"p{i}"] = values if by_rows or dtype is BFLOAT16 else Placed(rng, values).array
    storage: dict[str, Any] = {"rounding": rng.choice(("stochastic", "nearest")), "seed": rng.randrange(5)}
    if rng.random() < 0.8:
        storage["state_dtype"] = rng.choice(WORDS)
    if any(array.dtype == BFLOAT16 for array in params.values()):
        masters = ("auto", "split16", "split8", "float32", None)
        storage["master"] = rng.choice(("auto", "float32", None) if by_rows or len(params) > 1 else masters)
    if rng.random() < 0.2:
        storage["ema_decay"] = 0.5
    others = {name: array.copy(order="K") for name, array in params.items()}

    def make(arrays: dict[str, Array], threads: int = 2) -> Any:
        return case.make(arrays, num_threads=threads, **storage)

    tell(case.name, params, storage)
    outcome, opt = attempt(make, params, 1)
    yield "make twins", outcome
    if outcome != "right":
        return
    other, moved = make(others), False
    for _ in range(rng.randrange(1, 6)):
        grads: dict[str, Any] = {}
        for name, p in params.items():
            g = numbers(rng, p.shape, rng.choice(FORMATS), 0.02)
            if by_rows and opt._table.takes_rows(0) and rng.random() < 0.7:
                rows = np.array([rng.randrange(len(p)) for _ in range(rng.choice((0, 1, 2, 5)))], np.int64)
                g = fastopt.RowGrad(rows, g[rows])
            grads[name] = g
        way = rng.choice(("other threads", "copy", "pickle", "save", "one by one", "rebind"))
        tell(case.name, way, params, storage, grads)
        of_one, _ = attempt(opt.step, grads)
        if way == "copy":
            others, other = copy.deepcopy((others, other))
        elif way == "pickle":
            others, other = pickle.loads(pickle.dumps((others, other)))
        elif way == "save" and not moved:  # else arrays that lie otherwise would be walked otherwise
            other, others = saved_and_loaded(other, others, make)
        elif way == "rebind":
            others = {name: array.copy() for name, array in others.items()}
            other.rebind(others)
        moved = moved or way in ("copy", "pickle", "rebind")
        if way == "one by one" and case.rule not in reference.TOGETHER:
            outcomes = {attempt(other.step_one, name, g)[0] for name, g in grads.items()}
            of_other = outcomes.pop() if len(outcomes) == 1 else "mixed"
        else:
            of_other, _ = attempt(other.step, grads)
        if of_one == of_other == "refused":
            yield "twins", "refused"
            return
        expect(of_one, "right")
        expect(of_other, "right")
        for one, two in zip(everything(opt, params), everything(other, others), strict=True):
            if one != two:
                raise WrongResultError(f"{way}: {one!r:.500}, expected {two!r:.500}")
        yield "twins", "right"
