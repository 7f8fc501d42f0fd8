"""Calls of the kernels, on buffers and keywords any of which may be spoiled."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fastopt
from fuzz.arrays import FORMATS, a_shape, image, numbers, same
from fuzz.outcomes import Calls, WrongResultError, attempt, expect
from fuzz.values import Array, a_value, garbage, meaning, row_kind
from support import reference
from support.arithmetic import converted
from support.arrays import DTYPES

DECAYS = ("weight_decay", "decoupled_decay", "independent_decay")
OPTIONAL = (*DECAYS, "maximize", "num_threads")  # keywords of the kernels


def spoil_buffers(rng: random.Random, buffers: list[Any]) -> None:
    i = rng.randrange(len(buffers))
    a = buffers[i]
    way = rng.randrange(10)
    if way == 0:
        del buffers[i]
    elif way == 1:
        buffers.insert(i, np.ones(a.shape, a.dtype))
    elif way == 2:
        a.flags.writeable = False
    elif way == 3:
        buffers[i] = rng.choice((buffers[i - 1], buffers[i - 1].reshape(-1)))
    elif way == 4 and a.size > 1:
        memory = np.ones((*a.shape, 2), a.dtype)
        buffers[i] = memory[..., 0]
    else:
        buffers[i] = rng.choice(
            (
                lambda: a.astype(rng.choice(("f2", "i8", "c16", "O", ">f4", ">f8", np.longdouble))),
                lambda: np.ones((*a.shape, 1)[-64:], a.dtype),
                lambda: np.ones((*a.shape, 2)[-64:], a.dtype),
                lambda: np.ma.masked_array(a),
                lambda: a.tolist(),
                lambda: garbage(rng),
            )
        )()


def are_buffers(rule: str, buffers: list[Any], state: int, carries: int) -> bool:
    """Whether a rule can run on these."""
    if len(buffers) != 2 + state + carries or any(not isinstance(a, Array) for a in buffers):
        return False
    p = buffers[0]
    like_p, single = buffers[: 2 + state], buffers[2 + state :]
    if rule in reference.EXTENTS and p.ndim < 2:
        return False
    shapes = [p.shape, p.shape, *reference.state_shapes(rule, p.shape).values()]
    return (
        not any(isinstance(a, np.ma.MaskedArray) for a in buffers)
        and p.dtype.str in [np.dtype(dtype).str for dtype in DTYPES]
        and all(a.shape == shape for a, shape in zip(like_p, shapes, strict=True))
        and all(a.dtype.str == p.dtype.str for a in (p, *like_p[2:]))
        and buffers[1].dtype.str in FORMATS
        and all((a.size, a.dtype.str) == (1, np.dtype(float).str) for a in single)
        and all(a.flags.c_contiguous and (a.flags.writeable or a is buffers[1]) for a in buffers)
        and not any(np.shares_memory(a, b) for i, a in enumerate(buffers) for b in buffers[:i])
    )


def are_keywords(keywords: dict[str, Any], hyper: Sequence[str]) -> bool:
    """Whether a rule of these hyperparameters has a meaning for these."""
    if not {"step", *hyper} <= set(keywords) <= {"step", *hyper, *OPTIONAL}:
        return False
    try:
        for name, value in keywords.items():
            if name in ("step", "num_threads"):
                most = 1 << 62 if name == "step" else 1 << 30
                if name == "num_threads" and value is None:
                    continue
                if not isinstance(value, (int, np.integer)) or not 1 <= value <= most:
                    return False
            elif meaning(row_kind(name), value) is None:
                return False
    except ValueError:
        return False
    return True


def kernel(rng: random.Random, tell: Callable[..., None]) -> Calls:
    """One rule on buffers and keywords, any of which may be spoiled."""
    rule = rng.choice(fastopt.kernels.__all__)
    hyper, letters, carries = (
        reference.hyper_names(rule),
        reference.state_names(rule),
        reference.CARRIES.get(rule, ()),
    )
    dtype = rng.choice(DTYPES)
    shape = a_shape(rng, dtype)
    of_g = dtype if rng.random() < 0.7 else np.dtype(rng.choice(FORMATS)).type
    buffers: list[Any] = [numbers(rng, shape, dtype), numbers(rng, shape, of_g)]
    buffers += [np.asarray(abs(numbers(rng, each, dtype))) for each in reference.state_shapes(rule, shape).values()]
    buffers += [np.array([0.25]) for _ in carries]
    keywords = {name: a_value(rng, row_kind(name)) for name in hyper}
    keywords["step"] = rng.choice((1, 2, 3, 1000, 2**40, np.int64(5)))
    for name in OPTIONAL:
        if rng.random() < 0.2:
            keywords[name] = rng.choice((1, 2, 5)) if name == "num_threads" else a_value(rng, row_kind(name))

    where = rng.random()
    if where < 0.35:
        spoil_buffers(rng, buffers)
    elif where < 0.7:
        names = [name for name in (*hyper, "step", *OPTIONAL) if name not in hyper or not row_kind(name).is_flag]
        keywords[rng.choice(names)] = garbage(rng)
    elif where < 0.75:
        del keywords[rng.choice((*hyper, "step"))]
    elif where < 0.8:
        keywords[rng.choice(("nothing", "lr ", "betas", "p", "dtype"))] = garbage(rng)

    tell(rule, buffers, keywords)
    before = image(buffers)
    wanted = [a.copy() if type(a) is Array else a for a in buffers]
    outcome, _ = attempt(getattr(fastopt.kernels, rule), *buffers, **keywords)
    if not are_buffers(rule, buffers, len(letters), len(carries)) or not are_keywords(keywords, hyper):
        expect(outcome, "refused")
    elif where >= 0.8:
        expect(outcome, "right")
    if outcome == "refused":
        if image(buffers) != before:
            raise WrongResultError("it was refused, but has changed something")
    else:
        state = dict(zip((*letters, *carries), wanted[2:], strict=True))
        state.update({name: state[name].item() for name in carries})
        meant = {
            name: meaning(row_kind(name), value)
            for name, value in keywords.items()
            if name not in ("step", "num_threads")
        }
        rates = {name: meant.pop(name) for name in hyper}
        g = converted(wanted[1], wanted[0].dtype)
        reference.step(rule, wanted[0], g, state, int(keywords["step"]), rates, **meant)
        for name, actual, right in zip(("p", "g", *state), buffers, [*wanted[:2], *state.values()], strict=True):
            if not same(actual, np.reshape(right, actual.shape)):
                raise WrongResultError(f"{name}: {actual}, expected {right}")
    yield "kernel", outcome
