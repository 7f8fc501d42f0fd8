"""Optimizers made of parameters and arguments of any kind."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from fuzz.arrays import BFLOAT16, FORMATS
from fuzz.model import Model
from fuzz.outcomes import Calls, WrongResultError, attempt
from fuzz.values import Array, deep, defaults, endless, garbage, understood
from support.cases import DEFAULTS
from support.rule import OF_THE_STEP, STORAGE


def bad_parameters(rng: random.Random, subject: Model) -> Any:
    """Parameters that cannot be updated in place, among others that can."""
    arrays: list[Any] = [p.array for p in subject.parameters]
    i = rng.randrange(len(arrays))
    a = arrays[i].astype(np.float32) if arrays[i].dtype == BFLOAT16 else arrays[i]  # of which NumPy makes other dtypes
    base = np.arange(64, dtype=a.dtype)
    frozen = a.copy()
    frozen.flags.writeable = False
    arrays[i] = rng.choice(
        (
            lambda: frozen,
            lambda: a.astype(rng.choice(("i4", "i8", ">f2", "c8", "?", "O", "U4", "V4", np.longdouble, "M8[s]"))),
            lambda: a.astype(a.dtype.newbyteorder()),
            lambda: np.ma.masked_array(a),
            lambda: np.broadcast_to(a, (2, *a.shape)) if a.ndim < 60 else frozen,
            lambda: as_strided(base, (4,), (0,)),
            lambda: as_strided(base, (3, 3), (a.itemsize, a.itemsize)),
            lambda: as_strided(base, (5,), (a.itemsize // 2,)),
            lambda: a.tolist() if a.ndim else [0.5],
            lambda: [a],
            lambda: {"params": a},
            lambda: garbage(rng),
        )
    )()
    if isinstance(arrays[i], Array) and arrays[i].dtype == object and arrays[i].size == 0:
        arrays[i] = frozen
    if rng.random() < 0.2 and a.size:
        arrays[i] = a
        arrays.append(a.reshape(-1)[-1:] if a.flags.c_contiguous else a[...])
    else:
        arrays.append(np.ones(2))
    build = rng.choice(
        (
            list,
            tuple,
            deque,
            lambda arrays: {f"p{j}": array for j, array in enumerate(arrays)},
            lambda arrays: [{"params": array} for array in arrays],
            lambda arrays: [{"params": arrays}],
            lambda arrays: [{"params": arrays, "nothing": 1}],
            lambda arrays: {(): arrays[0]},
            lambda arrays: {None: np.ones(2)},
            lambda arrays: [{"lr": 0.1}],
            lambda arrays: [{"params": []}],
            lambda arrays: [{"params": np.ones(2)}, arrays],
            lambda arrays: [{"params": {1: np.ones(2)}}] * 2,
            lambda arrays: [{"params": np.ones(2)}, garbage(rng)],
            lambda arrays: set(),
            lambda arrays: iter(arrays),
            lambda arrays: rng.choice(
                (range(10**30), range(3), "text", b"bytes", {}, [], deep(), endless(), None, 1.5)
            ),
        )
    )
    return build(arrays)


def check_parameters(opt: Any) -> None:
    """Raise ValueError unless every array can be updated in place."""
    seen: set[int] = set()
    for a in (a for group in opt.groups for a in group["params"]):
        if not isinstance(a, Array) or isinstance(a, np.ma.MaskedArray) or not a.flags.writeable:
            raise ValueError
        if a.dtype not in FORMATS:
            raise ValueError
        starts = a.__array_interface__["data"][0] + sum(
            (np.arange(n) * step).reshape(-1, *[1] * (a.ndim - axis - 1))
            for axis, (n, step) in enumerate(zip(a.shape, a.strides, strict=True))
        )
        places = {int(start) + i for start in np.ravel(starts) for i in range(a.itemsize)} if a.size else set()
        if seen & places or len(places) != a.nbytes:
            raise ValueError
        seen |= places


def is_storage(name: str, value: Any) -> bool:
    """Whether a word that says how something is stored has a meaning."""
    if name == "state_dtype":
        return value is None or value == {}
    return name == "master" and value is None


def bad_make(rng: random.Random, tell: Callable[..., None]) -> Calls:
    subject = Model(rng, tell)
    subject.shared, subject.storage, subject.given = {}, {}, [{} for _ in subject.kinds]
    params, spoiled = subject.params(), {}
    way = rng.random()
    if way < 0.5:
        params = bad_parameters(rng, subject)
    elif way < 0.9:
        name = rng.choice(list(DEFAULTS[subject.cls]))
        spoiled[name] = garbage(rng)
        if name == "betas" and rng.random() < 0.5:
            spoiled[name] = (0.5, garbage(rng))
        if subject.grouped and rng.random() < 0.5:
            params[-1][name] = spoiled.pop(name)
    else:
        names = ("nonfinite", "num_threads", "nothing", "params_", *OF_THE_STEP, *STORAGE)
        spoiled[rng.choice(names)] = garbage(rng)
    if spoiled.get("weight_decay_form", 0) is None:
        del spoiled["weight_decay_form"]  # it is the default
    hyper = {**defaults(subject.cls), **{k: v for k, v in spoiled.items() if k in DEFAULTS[subject.cls]}}
    before = [p.placed.memory.copy() for p in subject.parameters]
    outcome, opt = attempt(subject.make, params, **spoiled)
    if outcome == "right":
        try:
            check_parameters(opt)
            if "nothing" in spoiled or "params_" in spoiled:
                raise ValueError
            if subject.options.get("nonfinite", "propagate") != "propagate" and "nonfinite" in spoiled:
                raise ValueError
            if not all(is_storage(name, spoiled[name]) for name in STORAGE if name in spoiled):
                raise ValueError
            for given in params if subject.grouped and way >= 0.5 else [{}]:
                understood(subject.cls, {**hyper, **{k: v for k, v in given.items() if k != "params"}})
        except ValueError:
            raise WrongResultError("it was taken, but must be refused") from None
        if opt.num_threads is not None and opt.num_threads < 1:
            raise WrongResultError(f"num_threads is {opt.num_threads}")
    for p, memory in zip(subject.parameters, before, strict=True):
        if p.placed.memory.tobytes() != memory.tobytes():
            raise WrongResultError("making an optimizer changed a parameter")
    yield "make badly", outcome
