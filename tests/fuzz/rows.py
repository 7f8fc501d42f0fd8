"""Gradients of rows of one parameter, with averages, and with steps that rows make up for."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import fastopt
from fuzz.arrays import FORMATS, numbers, same
from fuzz.outcomes import Calls, WrongResultError, attempt, expect
from fuzz.values import Array, garbage
from support import reference
from support.arithmetic import converted, flush
from support.arrays import DTYPES
from support.cases import BY_ROW, Case, Oracle


def step_rows(oracle: Oracle, rows: Array, values: Array, met: Array | None) -> None:
    """The oracle's step for some rows, those that come again summed; with `met`, after making up for missed steps."""
    sums: dict[int, Array] = {}
    for row, value in zip(rows.tolist(), values, strict=True):
        sums[row] = flush(sums[row] + value) if row in sums else value
    oracle.t += 1
    unique = np.array(list(sums), np.intp)
    g = np.array(list(sums.values())) if sums else values[:0]
    p, hyper = oracle.p[unique], oracle.hyper()
    state = {key: value[unique] if isinstance(value, Array) else value for key, value in oracle.state.items()}
    for i, row in enumerate(unique if met is not None and p.size else []):
        if skipped := oracle.t - 1 - int(met[row]):
            catch_up(oracle, p[i : i + 1], {key: value[i : i + 1] for key, value in state.items()}, skipped)
        met[row] = oracle.t
    reference.step(oracle.rule, p, g, state, oracle.t, hyper, **oracle.case.options())
    oracle.p[unique] = p
    for key, value in state.items():
        if isinstance(value, Array):
            oracle.state[key][unique] = value
        else:
            oracle.state[key] = value


def catch_up(oracle: Oracle, p: Array, state: dict[str, Array], skipped: int) -> None:
    reference.catch_up(oracle.rule, p, state, skipped, oracle.hyper())


def bad_rows(rng: random.Random, p: Array, rows: Array, values: Array) -> Any:
    """A RowGrad that does not fit, or an error in making one."""
    gradient = fastopt.RowGrad(rows, values)
    way = rng.randrange(10)
    if way == 0:
        return fastopt.RowGrad(rows, garbage(rng) if len(rows) > 3 else None)
    if way == 1:
        return fastopt.RowGrad(
            np.append(rows, rng.choice((len(p), -1, 2**62, -(2**63)))), np.append(values, values[:1], 0)
        )
    if way == 2:
        gradient.rows[rng.randrange(len(rows))] = rng.choice((len(p), -1, 2**62, -(2**63)))
    elif way == 3:
        gradient.values.resize((len(rows) - 1, *values.shape[1:]), refcheck=False)
    elif way == 4:
        return fastopt.RowGrad(rows, p[:1].repeat(len(rows), 0)[..., None])
    elif way == 5:
        return fastopt.RowGrad(rows, values.astype(rng.choice((">f2", "i8", "c16", ">f4", ">f8"))))
    elif way == 6:
        return fastopt.RowGrad(rows[:1], p[:1])
    elif way == 7:
        return fastopt.RowGrad(rows.astype(float), values)
    elif way == 8:
        return fastopt.RowGrad(rows[:, None], values)
    else:
        return fastopt.RowGrad(rows[1:], values)
    return gradient


def table(rng: random.Random, tell: Callable[..., None]) -> Calls:
    """Gradients of rows of one parameter, with and without making up for missed steps."""
    case, dtype = rng.choice(BY_ROW), rng.choice(DTYPES)
    shape = (rng.choice((1, 3, 17)), *rng.choice(((), (1,), (5,), (2, 40), (1100,), (0,))))
    p = numbers(rng, shape, dtype)
    catches = case.rule in reference.CATCH_UP and rng.random() < 0.6
    if catches:
        case = replace(case, kwargs={**case.kwargs, "weight_decay": 0.0})
    opt = case.make(p, catch_up=catches, num_threads=rng.choice((None, 1, 2, 3)))
    oracle, met = Oracle(case, p), np.zeros(len(p), np.int64) if catches else None

    def make_up() -> None:
        for row in range(len(p)) if catches else ():
            if skipped := oracle.t - int(met[row]):
                state = {key: value[row : row + 1] for key, value in oracle.state.items()}
                catch_up(oracle, oracle.p[row : row + 1], state, skipped)
        if catches and p.size:
            met[:] = oracle.t

    yield "make table", "right"
    for _ in range(rng.randrange(10)):
        way = rng.random()
        rows = np.array([rng.randrange(len(p)) for _ in range(rng.choice((0, 1, 2, 5, 30)))], np.int64)
        given = numbers(rng, (len(rows), *shape[1:]), dtype if rng.random() < 0.7 else rng.choice(FORMATS).type)
        values = converted(given, dtype)
        if way < 0.5:
            tell("RowGrad", case.name, p, catches, rows.tolist(), values)
            outcome, _ = attempt(opt.step, fastopt.RowGrad(rng.choice((list, np.asarray))(rows), given))
            expect(outcome, "right")
            step_rows(oracle, rows, values, met)
        elif way < 0.6:
            g = numbers(rng, shape, dtype)
            tell("whole", case.name, p, catches, g)
            outcome, _ = attempt(opt.step, g)
            expect(outcome, "right")
            make_up()
            oracle.step(g)
            if catches and p.size:
                met[:] = oracle.t
        elif way < 0.7:
            tell("catch_up", case.name, catches)
            outcome, _ = attempt(opt.catch_up)
            expect(outcome, "right" if catches else "refused")
            make_up()
        elif way < 0.8:
            lr = rng.choice((0.0, 0.5, 1e-3))
            tell("lr", case.name, catches, lr)
            outcome, _ = attempt(setattr, opt, "lr", lr)
            expect(outcome, "right")
            make_up()
            oracle.case = Case("", case.cls, case.rule, {**oracle.case.kwargs, "lr": lr})
        elif len(rows) and p.size:
            tell("bad RowGrad", case.name, p, rows.tolist(), values)
            outcome, _ = attempt(lambda rows=rows, values=values: opt.step(bad_rows(rng, p, rows, values)))
            expect(outcome, "refused")
        else:
            continue
        if not same(p, oracle.p):
            raise WrongResultError(f"p: {p}, expected {oracle.p}")
        for key, value in oracle.state.items():
            if not same(opt.state[0][key], np.asarray(value)):
                raise WrongResultError(f"{key}: {opt.state[0][key]}, expected {value}")
        if catches and opt.state[0]["last_step"].tolist() != met.tolist():
            raise WrongResultError(f"last_step: {opt.state[0]['last_step']}, expected {met}")
        yield "rows", outcome
