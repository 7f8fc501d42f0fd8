"""Independent implementations of a rule: how to draw options for torch.optim, how to make the same with optax."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

# ---- torch ----

Draw = Callable[[np.random.Generator], Any]


class TorchTwin(NamedTuple):
    """The class of the same name in torch.optim, compared with options that are drawn."""

    own: Mapping[str, Draw] = {}  # always
    options: Mapping[str, Mapping[str, Draw]] = {}  # sets of more, by name
    has_decay: bool = True


def between(low: float, high: float) -> Draw:
    return lambda rng: float(rng.uniform(low, high))


def power_of_ten(low: float, high: float) -> Draw:
    return lambda rng: float(10 ** rng.uniform(low, high))


def betas(rng: np.random.Generator) -> tuple[float, float]:
    return float(rng.uniform(0.5, 0.95)), float(rng.uniform(0.9, 0.9999))


def always(value: Any) -> Draw:
    return lambda rng: value


EPS = power_of_ten(-8, -6)
MOMENTUM = {"momentum": between(0.5, 0.99)}
DECOUPLED = {"decoupled_weight_decay": {"weight_decay": power_of_ten(-3, -1), "decoupled_weight_decay": always(True)}}

# ---- optax ----

WARMUP = 7  # steps


class OptaxTwin(NamedTuple):
    """Options of a class, and a function that makes the same optimizer from the module optax."""

    options: dict[str, Any]
    peer: Callable[[Any], Any]
    start: Mapping[str, float] = {}  # state before the first step, where optax has it otherwise
    average: Callable[[Any], Callable[[Any, Any], Any]] | None = None  # from optax: of state and parameters, as opt.x


def share(count: Any) -> Any:
    """How much of a warm-up is over at a step, counted from 0."""
    return ((count.astype("float64") + 1) / WARMUP).clip(max=1)


# ---- pytorch_optimizer ----


class PytorchOptimizerTwin(NamedTuple):
    """Options of a class, and a function of the module pytorch_optimizer and tensors that makes the same optimizer."""

    options: dict[str, Any]
    peer: Callable[[Any, Any], Any]


def plain_roots(optimizer: Any) -> Any:
    """An optimizer of pytorch_optimizer that adds nothing under the root, where this adds 1e-15."""
    optimizer.apply_ams_bound = lambda ams_bound, exp_avg_sq, max_exp_avg_sq, eps: exp_avg_sq.sqrt().add_(eps)
    return optimizer
