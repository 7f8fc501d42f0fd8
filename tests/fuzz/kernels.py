"""Calls of the kernels, on buffers and keywords any of which may be spoiled."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fastopt
from fastopt.stored import Stored
from fuzz.arrays import BFLOAT16, FORMATS, a_shape, image, numbers, parts, same
from fuzz.outcomes import Calls, WrongResultError, attempt, expect
from fuzz.values import Array, a_value, alone, garbage, meaning, row_kind
from support import formats, reference
from support.arithmetic import converted
from support.arrays import DTYPES
from support.registry import RULES

ROUND = ("rounding", "seed", "name")
OPTIONS = ("weight_decay", "decoupled_decay", "independent_decay", "peak_lr", "cautious_decay", "maximize")
OPTIONAL = (*OPTIONS, "num_threads", *ROUND)  # keywords of the kernels
SEEDS = (0, 1, 2**64 - 1, np.int64(7))
NAMES = (0, 3, "w", "block.0", np.int64(3))
SHORT = {np.dtype(np.float16): formats.FLOAT16, np.dtype(BFLOAT16): formats.BFLOAT16}


# ---- Buffers ----


def computed_in(p: Any) -> Any:
    """The dtype in which a rule computes for a parameter."""
    return np.float64 if getattr(p, "dtype", None) == np.float64 else np.float32


def words(settings: Any, s: int, computed: Any) -> tuple[str, ...]:
    """How a state buffer may be stored, besides as the rule computes."""
    if settings.kinds[s] == "exact" or not settings.is_whole(s):
        return ()
    wider = ("float32",) if computed == np.float64 else ()
    return ("float16", "bfloat16", *wider, *(() if settings.takes_matrices else (f"codes_{settings.kinds[s]}",)))


def stored(values: Array, word: str) -> Any:
    """Values as a buffer of a kernel."""
    if word == "float32":
        return np.asarray(formats.narrow(values), np.float32)
    if word in ("float16", "bfloat16"):
        return values.astype(np.float16 if word == "float16" else BFLOAT16)
    data, scales = formats.FORMATS[word].store(np.asarray(formats.narrow(values.ravel())), None)
    return Stored(word, data.reshape(values.shape), scales)


def form_of(buffer: Any) -> formats.Format | None:
    """How a buffer is stored, None where its elements are float32 or float64."""
    return formats.FORMATS[buffer.format] if isinstance(buffer, Stored) else SHORT.get(buffer.dtype)


def elements(buffer: Any, computed: Any) -> Array:
    """The elements of a buffer as the rule sees them."""
    form = form_of(buffer)
    if form is None:
        return buffer.copy() if buffer.dtype == computed else converted(buffer, computed)
    data, rest = (buffer.codes, buffer.scales) if isinstance(buffer, Stored) else (buffer.view(np.uint16), None)
    return formats.loaded(form, data.ravel(), rest, computed).reshape(data.shape)


def wanted(buffer: Any, values: Array, rounding: formats.Rounding) -> list[Array]:
    """The arrays of a buffer once these elements have been stored in it."""
    form = form_of(buffer)
    if form is None:
        return [np.reshape(values if buffer.dtype == values.dtype else formats.narrow(values), buffer.shape)]
    data, rest = form.store(np.asarray(formats.narrow(values.ravel())), rounding.bits(form, values.size))
    if not isinstance(buffer, Stored):
        return [data.view(buffer.dtype).reshape(buffer.shape)]
    return [data.reshape(buffer.shape), *([] if rest is None else [rest])]


def spoil_buffers(rng: random.Random, buffers: list[Any]) -> None:
    i = rng.randrange(len(buffers))
    a = buffers[i]
    way = rng.randrange(10)
    if way == 0:
        del buffers[i]
    elif way == 1:
        buffers.insert(i, np.ones(a.shape, np.float32))
    elif way == 2:
        rng.choice(parts(a)).flags.writeable = False
    elif way == 3:
        buffers[i] = rng.choice((buffers[i - 1], *parts(buffers[i - 1])))
    elif isinstance(a, Stored):
        other = {"codes_signed": "codes_nonnegative", "codes_nonnegative": "codes_signed"}[a.format]
        buffers[i] = rng.choice(
            (
                lambda: a.codes,
                lambda: np.asarray(a),
                lambda: Stored(other, a.codes.view(formats.FORMATS[other].data), a.scales),
                lambda: Stored(a.format, a.codes.repeat(2, -1)[..., ::2], a.scales) if a.ndim else a.scales,
                lambda: Stored(a.format, a.codes.reshape(1, -1, 1), a.scales),
                lambda: Stored(a.format, a.codes, a.scales.repeat(2)[::2]),
                lambda: Stored(a.format, a.codes, a.scales, range(a.ndim)[::-1]),
                lambda: garbage(rng),
            )
        )()
    elif way == 4 and a.size > 1:
        memory = np.ones((*a.shape, 2), a.dtype)
        buffers[i] = memory[..., 0]
    else:
        buffers[i] = rng.choice(
            (
                lambda: a.astype(rng.choice(("f2", "f4", "i8", "c16", "O", ">f4", ">f8", np.longdouble, BFLOAT16))),
                lambda: np.ones((*a.shape, 1)[-64:], a.dtype),
                lambda: np.ones((*a.shape, 2)[-64:], a.dtype),
                lambda: np.ma.masked_array(a),
                lambda: a.tolist(),
                lambda: garbage(rng),
            )
        )()


def is_array(a: Any) -> bool:
    return isinstance(a, Array) and not isinstance(a, np.ma.MaskedArray)


def is_state(a: Any, settings: Any, s: int, computed: Any) -> bool:
    """Whether a state buffer can be stored so."""
    if isinstance(a, Stored):
        order = [axis for axis in a.order if a.shape[axis] > 1]
        return a.format in words(settings, s, computed) and order == sorted(order)
    names = (np.dtype(computed).name, *words(settings, s, computed))
    return is_array(a) and a.dtype.isnative and a.dtype.name in names


def are_buffers(rule: str, buffers: list[Any], state: int, carries: int) -> bool:
    """Whether a rule can run on these."""
    if len(buffers) != 2 + state + carries or not all(is_array(a) for a in (*buffers[:2], *buffers[2 + state :])):
        return False
    p, g = buffers[:2]
    if p.dtype not in FORMATS or g.dtype not in FORMATS or (rule in reference.EXTENTS and p.ndim < 2):
        return False
    computed, settings = computed_in(p), fastopt._core.Settings(rule)
    shapes = [p.shape, p.shape, *reference.state_shapes(rule, p.shape).values()]
    if not all(is_state(a, settings, s, computed) for s, a in enumerate(buffers[2 : 2 + state])):
        return False
    arrays = [array for buffer in buffers for array in parts(buffer)]
    return (
        all(a.shape == shape for a, shape in zip(buffers[: 2 + state], shapes, strict=True))
        and all((a.size, a.dtype) == (1, np.float64) for a in buffers[2 + state :])
        and all(a.flags.c_contiguous and (a.flags.writeable or a is g) for a in arrays)
        and not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
    )


# ---- Keywords ----


def is_meant(name: str, value: Any) -> bool:
    """Whether a keyword that is no hyperparameter and no option of the step has a meaning."""
    if name == "rounding":
        return isinstance(value, str) and value in ("stochastic", "nearest")
    if name == "name":
        return isinstance(value, (str, int, np.integer)) and not isinstance(value, bool)
    if name == "num_threads" and value is None:
        return True
    value = alone(value)
    if not isinstance(value, (int, np.integer)) or (name == "seed" and isinstance(value, bool)):
        return False
    least, most = {"step": (1, 1 << 62), "num_threads": (1, 1 << 30), "seed": (0, 2**64 - 1)}[name]
    return least <= value <= most


def are_keywords(rule: str, keywords: dict[str, Any], hyper: Sequence[str]) -> bool:
    """Whether a rule of these hyperparameters has a meaning for these."""
    if not {"step", *hyper} <= set(keywords) <= {"step", *hyper, *OPTIONAL}:
        return False
    meant = {}
    try:
        for name, value in keywords.items():
            if name in ("step", "num_threads", *ROUND):
                if not is_meant(name, value):
                    return False
            elif (one := meaning(row_kind(name), value)) is None:
                return False
            else:
                meant[name] = one
    except ValueError:
        return False
    mixed = meant.get("decay") and RULES[rule].decay_rate is None
    return not (meant.get("cautious_decay") and mixed)


def a_keyword(rng: random.Random, name: str) -> Any:
    others = {"num_threads": (1, 2, 5), "rounding": ("stochastic", "nearest"), "seed": SEEDS, "name": NAMES}
    return rng.choice(others[name]) if name in others else a_value(rng, row_kind(name))


# ---- The scenario ----


def kernel(rng: random.Random, tell: Callable[..., None]) -> Calls:
    """One rule on buffers and keywords, any of which may be spoiled."""
    rule = rng.choice(fastopt.kernels.__all__)
    hyper, letters, carries = (
        reference.hyper_names(rule),
        reference.state_names(rule),
        reference.CARRIES.get(rule, ()),
    )
    settings, of_p = fastopt._core.Settings(rule), rng.choice((*DTYPES, *DTYPES, np.float16, BFLOAT16))
    computed = np.float64 if of_p is np.float64 else np.float32
    shape = a_shape(rng, computed)
    of_g = of_p if rng.random() < 0.7 else rng.choice(FORMATS).type
    buffers: list[Any] = [numbers(rng, shape, of_p), numbers(rng, shape, of_g)]
    few = rng.random() < 0.5
    for s, each in enumerate(reference.state_shapes(rule, shape).values()):
        values = np.asarray(abs(numbers(rng, each, computed)))
        word = rng.choice(("", *words(settings, s, computed))) if few else ""
        buffers.append(stored(values, word) if word else values)
    buffers += [np.array([0.25]) for _ in carries]
    keywords = {name: a_value(rng, row_kind(name)) for name in hyper}
    keywords["step"] = rng.choice((1, 2, 3, 1000, 2**40, np.int64(5)))
    keywords |= {name: a_keyword(rng, name) for name in OPTIONAL if rng.random() < 0.2}

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
    computed = computed_in(buffers[0]) if buffers else computed
    good = are_buffers(rule, buffers, len(letters), len(carries)) and are_keywords(rule, keywords, hyper)
    values = [elements(a, computed) for a in (buffers[0], *buffers[2 : 2 + len(letters)])] if good else []
    g = converted(buffers[1], computed) if good else None
    carried = dict(zip(carries, (a.item() for a in buffers[2 + len(letters) :] if good), strict=False))
    outcome, _ = attempt(getattr(fastopt.kernels, rule), *buffers, **keywords)
    if not good:
        expect(outcome, "refused")
    elif where >= 0.8:
        expect(outcome, "right")
    if outcome == "refused":
        if image(buffers) != before:
            raise WrongResultError("it was refused, but has changed something")
        yield "kernel", outcome
        return
    state = {**dict(zip(letters, values[1:], strict=True)), **carried}
    meant = {name: meaning(row_kind(name), value) for name, value in keywords.items() if name in (*hyper, *OPTIONS)}
    rates = {name: meant.pop(name) for name in hyper}
    if peak := meant.pop("peak_lr", 0.0):
        meant["largest_lr"] = max(peak, rates["lr"])
    step = int(alone(keywords["step"]))
    reference.step(rule, values[0], g, state, step, rates, **meant)
    key = fastopt.storage.key_of(keywords.get("name", 0))
    rounding = formats.Rounding(keywords.get("rounding", "stochastic"), int(keywords.get("seed", 0)), key, step)
    # A rule that gathers may update the parameter from state that has been stored.
    of_state = buffers[2 : 2 + len(letters)]
    is_stored = any(isinstance(buffer, Stored) or buffer.dtype != computed for buffer in of_state)
    reads_stored = is_stored and RULES[rule].gathers in ("alone", "together")
    for i, (name, right) in enumerate({"p": values[0], **state}.items()):
        buffer = buffers[i + (i > 0)]
        right = wanted(buffer, np.asarray(right), rounding)
        if not (reads_stored and i == 0) and not all(map(same, parts(buffer), right)):
            raise WrongResultError(f"{name}: {parts(buffer)}, expected {right}")
    if image(buffers[1:2]) != before[1:2]:
        raise WrongResultError("the gradient was written")
    yield "kernel", outcome
