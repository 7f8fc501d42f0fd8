"""The scenarios: each makes some calls, and yields the name of each call with its outcome."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from importlib.util import find_spec
from typing import Any

import numpy as np

from fuzz.arrays import describe
from fuzz.bad_calls import BadCalls
from fuzz.kernels import kernel
from fuzz.making import bad_make
from fuzz.of_torch import of_torch
from fuzz.others import by_pattern, scheduled, settings
from fuzz.outcomes import Calls, Tell
from fuzz.rows import table
from fuzz.together import together
from fuzz.twins import twins

GOOD = ("step", "step", "step", "step", "step_one", "gather", "bind", "step_bound")
GOOD += ("reload", "load_live", "replace", "rebind", "set_hyper", "set_lr")
if find_spec("safetensors"):
    GOOD += ("save",)
BAD = ("step_badly",) * 4 + ("step_read_only", "misplace", "load_badly", "load_badly", "misuse_group")


def life(rng: random.Random, tell: Tell) -> Calls:
    """An optimizer from its making through some calls, well-formed and malformed."""
    subject = BadCalls(rng, tell)
    if not subject.begin():
        yield "make", "refused"
        return
    yield "make", "right"
    for _ in range(rng.randrange(12)):
        name = rng.choice(rng.choice((GOOD, BAD)))
        outcome = getattr(subject, name)()
        subject.check()
        yield name, outcome
        if subject.over:
            return


SCENARIOS = (
    (life,) * 6
    + (bad_make,) * 6
    + (kernel,) * 10
    + (table,) * 4
    + (twins,) * 4
    + (scheduled,) * 3
    + (together,) * 3
    + (of_torch,) * 2
    + (by_pattern, settings)
)


def scenario(seed: int, index: int, counts: Counter[tuple[str, str]]) -> None:
    """Run one scenario; an error names it and the call that went wrong."""
    rng = random.Random(f"{seed} {index}")
    last_call: list[Any] = []

    def tell(*call: Any) -> None:
        last_call[:] = call

    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            counts.update(rng.choice(SCENARIOS)(rng, tell))
    except Exception as error:
        call = ", ".join(describe(value) for value in last_call)
        raise AssertionError(
            f"seed {seed}, scenario {index}: {type(error).__name__}: {error!s:.1000}\n{call}"
        ) from error


def report(counts: Counter[tuple[str, str]]) -> str:
    """A table of how many calls had each outcome."""
    outcomes = ("right", "refused", "nonfinite")
    lines = [f"{'call':>16}" + "".join(f"{outcome:>12}" for outcome in outcomes)]
    for call in sorted({call for call, _ in counts}):
        lines.append(f"{call:>16}" + "".join(f"{counts[call, outcome]:>12,}" for outcome in outcomes))
    totals = [sum(n for (_, outcome), n in counts.items() if outcome == wanted) for wanted in outcomes]
    return "\n".join([*lines, f"{'all':>16}" + "".join(f"{total:>12,}" for total in totals)])
