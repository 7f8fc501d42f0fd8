"""Trajectories of optax, in a process of its own: python optax_runs.py OUT.npz.

JAX starts threads, keeps memory for itself and reads its precision once. What is run, and from which numbers, is
told by `RUNS` and `numbers`, which the tests read too.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

STEPS = 50
SHAPES = ((3, 4), (17,), (2, 3, 5), (301,))
DTYPES = ("float32", "float64")
WARMUP = 7
BETAS = (0.9, 0.99)
B = {"b1": 0.9, "b2": 0.99}


class Run(NamedTuple):
    """A class of fastopt, its options, and what makes the same optimizer from the module optax."""

    cls: str
    options: dict[str, Any]
    peer: Callable[[Any], Any]


def share(count: Any) -> Any:
    """How much of a warm-up is over at a step, counted from 0."""
    return ((count.astype("float64") + 1) / WARMUP).clip(max=1)


def ademamix_beta3(count: Any) -> Any:
    """The decay of the long memory, from 0.9 to 0.999, by the formula of the paper."""
    import jax.numpy as jnp

    low, high, x = math.log(0.9), math.log(0.999), share(count)
    return jnp.minimum(jnp.exp(low * high / ((1 - x) * high + x * low)), 0.999)


def schedule_free(optax: Any, lr: float, beta: float, power: float, scale: Any = None) -> Any:
    """With a warm-up that counts steps from 1, where that of optax's own rules counts those of their base from 0."""
    rate = optax.scale_by_learning_rate(lambda count: lr * share(count))
    base = optax.chain(scale, rate) if scale else rate
    return optax.contrib.schedule_free(base, lambda t: lr * share(t - 1), b1=beta, weight_lr_power=power)


RUNS = {
    "lion": Run(
        "Lion", {"lr": 0.01, "betas": BETAS, "weight_decay": 0.1}, lambda optax: optax.lion(0.01, **B, weight_decay=0.1)
    ),
    "signum": Run("Signum", {"lr": 0.01, "beta": 0.9}, lambda optax: optax.signum(0.01, beta=0.9)),
    "signum-plain": Run("Signum", {"lr": 0.01, "beta": 0.0}, lambda optax: optax.sign_sgd(0.01)),
    "adabelief": Run(
        "AdaBelief",
        {"lr": 0.01, "betas": BETAS, "eps": 1e-8},
        lambda optax: optax.adabelief(0.01, **B, eps=1e-8, eps_root=1e-8),
    ),
    "adabelief-defaults": Run("AdaBelief", {"lr": 0.01}, lambda optax: optax.adabelief(0.01)),
    "yogi": Run("Yogi", {"lr": 0.01, "betas": BETAS, "eps": 1e-3}, lambda optax: optax.yogi(0.01, **B, eps=1e-3)),
    # With 1/2 for beta2, 1 - beta2 in its place makes no difference.
    "adan": Run(
        "Adan",
        {"lr": 0.01, "betas": (0.98, 0.5, 0.99), "eps": 1e-8, "weight_decay": 0.1},
        lambda optax: optax.adan(0.01, b1=0.98, b2=0.5, b3=0.99, eps=1e-8, eps_root=0.0, weight_decay=0.1),
    ),
    "ademamix": Run(
        "AdEMAMix",
        {"lr": 0.01, "betas": (*BETAS, 0.999), "alpha": 5.0, "weight_decay": 0.1},
        lambda optax: optax.contrib.ademamix(0.01, **B, b3=0.999, alpha=5.0, weight_decay=0.1),
    ),
    "ademamix-warmup": Run(
        "AdEMAMix",
        {"lr": 0.01, "betas": (*BETAS, 0.999), "alpha": 5.0, "warmup": float(WARMUP)},
        lambda optax: optax.contrib.ademamix(0.01, **B, b3=ademamix_beta3, alpha=lambda count: 5.0 * share(count)),
    ),
    # Without eps it makes no difference that optax corrects the root before it adds eps.
    "radam": Run("RAdam", {"lr": 0.01, "betas": BETAS, "eps": 0.0}, lambda optax: optax.radam(0.01, **B, eps=0.0)),
    "lamb": Run(
        "LAMB",
        {"lr": 0.01, "betas": BETAS, "eps": 1e-6, "weight_decay": 0.1},
        lambda optax: optax.lamb(0.01, **B, eps=1e-6, weight_decay=0.1),
    ),
    "lars": Run(
        "LARS",
        {"lr": 0.1, "momentum": 0.9, "trust_coefficient": 0.01, "weight_decay": 0.1},
        lambda optax: optax.lars(0.1, momentum=0.9, trust_coefficient=0.01, weight_decay=0.1),
    ),
    "lars-nesterov": Run(
        "LARS",
        {"lr": 0.1, "momentum": 0.9, "trust_coefficient": 0.01, "eps": 0.1, "nesterov": True},
        lambda optax: optax.lars(0.1, momentum=0.9, trust_coefficient=0.01, eps=0.1, nesterov=True),
    ),
    "novograd": Run(
        "NovoGrad",
        {"lr": 0.01, "betas": (0.9, 0.25), "eps": 1e-6, "weight_decay": 0.1},
        lambda optax: optax.novograd(0.01, b1=0.9, b2=0.25, eps=1e-6, weight_decay=0.1),
    ),
    "prodigy": Run(
        "Prodigy",
        {"lr": 1.0, "betas": BETAS, "d0": 1e-3, "weight_decay": 0.1},
        lambda optax: optax.contrib.prodigy(1.0, betas=BETAS, estim_lr0=1e-3, weight_decay=0.1),
    ),
    "prodigy-safeguard": Run(
        "Prodigy",
        {"lr": 0.5, "betas": BETAS, "beta3": 0.9, "d0": 1e-3, "d_coef": 2.0, "safeguard_warmup": True},
        lambda optax: optax.contrib.prodigy(
            0.5, betas=BETAS, beta3=0.9, estim_lr0=1e-3, estim_lr_coef=2.0, safeguard_warmup=True
        ),
    ),
    "schedulefreesgd": Run(
        "ScheduleFreeSGD", {"lr": 0.05}, lambda optax: optax.contrib.schedule_free_sgd(0.05, b1=0.9)
    ),
    "schedulefreesgd-decay": Run(
        "ScheduleFreeSGD",
        {"lr": 0.05, "momentum": 0.7, "weight_decay": 0.1},
        lambda optax: optax.contrib.schedule_free_sgd(0.05, b1=0.7, weight_decay=0.1),
    ),
    "schedulefreesgd-warmup": Run(
        "ScheduleFreeSGD", {"lr": 0.05, "warmup_steps": WARMUP}, lambda optax: schedule_free(optax, 0.05, 0.9, 2.0)
    ),
    "schedulefreeadamw": Run(
        "ScheduleFreeAdamW", {"lr": 0.01}, lambda optax: optax.contrib.schedule_free_adamw(0.01, b1=0.9, b2=0.999)
    ),
    "schedulefreeadamw-decay": Run(
        "ScheduleFreeAdamW",
        {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1},
        lambda optax: optax.contrib.schedule_free_adamw(0.01, b1=0.8, b2=0.95, weight_decay=0.1),
    ),
    "schedulefreeadamw-warmup": Run(
        "ScheduleFreeAdamW",
        {"lr": 0.01, "warmup_steps": WARMUP, "weight_lr_power": 1.0},
        lambda optax: schedule_free(
            optax, 0.01, 0.9, 1.0, optax.scale_by_rms(0.999, eps=1e-8, eps_in_sqrt=False, bias_correction=True)
        ),
    ),
    "sm3": Run("SM3", {"lr": 0.05}, lambda optax: optax.sm3(0.05, 0.9)),
    "sm3-b2": Run(
        "SM3",
        {"lr": 0.05, "momentum": 0.5, "b2": 0.9, "eps": 1e-3},
        lambda optax: optax.chain(optax.scale_by_sm3(0.5, 0.9, 1e-3), optax.scale(-0.05)),
    ),
}


def numbers(dtype: str) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Parameters, and the gradients of every step."""
    rng = np.random.default_rng(3)
    draws = [[rng.standard_normal(shape).astype(dtype) for shape in SHAPES] for _ in range(1 + STEPS)]
    return draws[0], draws[1:]


def main(out: Path) -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    import optax

    found = {}
    for name, run in RUNS.items():
        for dtype in DTYPES:
            start, grads = numbers(dtype)
            params, optimizer = [jax.numpy.asarray(p) for p in start], run.peer(optax)
            state, update = optimizer.init(params), jax.jit(optimizer.update)
            for g in grads:
                updates, state = update([jax.numpy.asarray(x) for x in g], state, params)
                params = optax.apply_updates(params, updates)
            found |= {f"{name} {dtype} {i}": np.asarray(p) for i, p in enumerate(params)}
            if run.cls.startswith("ScheduleFree"):
                averages = optax.contrib.schedule_free_eval_params(state, params)
                found |= {f"{name} {dtype} x {i}": np.asarray(x) for i, x in enumerate(averages)}
    np.savez(out, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
