"""AdEMAMix, and its simplified form."""

import math

import numpy as np

from support.arithmetic import adam_scalars, exp, keep, log, lost_mean, moments, power, rest, take
from support.rule import ByHand, Class, Rule
from support.twins import WARMUP, OptaxTwin, share


def ademamix(p, g, m1, m2, v, *, t, lr, beta1, beta2, beta3, eps, mix, warmup):
    T = p.dtype.type
    if t < warmup:
        x = t / warmup
        logs = [log(beta) if beta > 0 else -math.inf for beta in (beta1, beta3)]
        inverse = (1 - x) / logs[0] + x / logs[1]
        mix, beta3 = mix * x, min(exp(1 / inverse if inverse else -math.inf), beta3)
    moments(m1, v, g, beta1, beta2)
    m2[...] = keep(T, beta3) * m2 + rest(T, beta3) * g
    lr_1, eps_t = adam_scalars(T, t, lr, beta1, beta2, eps)
    p -= (lr_1 * m1 + T(lr * math.sqrt(1 - power(beta2, t)) * mix) * m2) / (np.sqrt(v) + eps_t)


def simplifiedademamix(p, g, m, v, *, t, lr, beta1, beta2, eps, mix):
    T = p.dtype.type
    root2 = math.sqrt(1 - power(beta2, t))
    m[...] = T(beta1) * m + g
    v[...] = take(v, g * g, beta2)
    p -= T(lr * root2) * (m + T(mix) * g) / (np.sqrt(v) + T(eps * root2 + math.sqrt(lost_mean(T, beta2, t))))


RULES = [Rule(ademamix, corrected=("beta1", "beta2")), Rule(simplifiedademamix, corrected=("beta2",))]


BETAS = (0.5, 0.75)


def beta3_of_optax(count):
    """The decay of the long memory, from 0.9 to 0.999, by the formula of the paper."""
    import jax.numpy as jnp

    low, high, x = math.log(0.9), math.log(0.999), share(count)
    return jnp.minimum(jnp.exp(low * high / ((1 - x) * high + x * low)), 0.999)


CLASSES = [
    Class(
        "AdEMAMix",
        {"lr": 1e-3, "betas": (0.9, 0.999, 0.9999), "alpha": 5.0, "warmup": 0.0, "eps": 1e-8},
        "ademamix",
        options={
            "warmup": {"warmup": 4.0, "weight_decay": 0.1},
            "no_start": {"warmup": 9.0, "betas": (0.0, 0.9, 0.99)},
        },
        decay_form="decoupled",
        steps_of_lr=({"alpha": 0.0},),
        by_hand={
            # m1_hat = 2, m2 = 0.5, v_hat = 4: (2 + 2 * 0.5) / (2 + 1)
            "": ByHand({"betas": (*BETAS, 0.75), "alpha": 2.0, "eps": 1.0}, [2], [0.9]),
            # x = 1/2: alpha = 1, beta3 = exp(1 / (0.5 / ln 0.5 + 0.5 / ln 0.75))
            "warmup": ByHand(
                {"betas": (*BETAS, 0.75), "alpha": 2.0, "eps": 1.0, "warmup": 2.0},
                [2],
                [1 - 0.1 * (2 + 2 * (1 - math.exp(1 / (0.5 / math.log(0.5) + 0.5 / math.log(0.75))))) / 3],
            ),
        },
        optax={
            "": OptaxTwin(
                {"lr": 0.01, "betas": (0.9, 0.99, 0.999), "alpha": 5.0, "weight_decay": 0.1},
                lambda optax: optax.contrib.ademamix(0.01, b1=0.9, b2=0.99, b3=0.999, alpha=5.0, weight_decay=0.1),
            ),
            "warmup": OptaxTwin(
                {"lr": 0.01, "betas": (0.9, 0.99, 0.999), "alpha": 5.0, "warmup": float(WARMUP)},
                lambda optax: optax.contrib.ademamix(
                    0.01, b1=0.9, b2=0.99, b3=beta3_of_optax, alpha=lambda count: 5.0 * share(count)
                ),
            ),
        },
    ),
    Class(
        "SimplifiedAdEMAMix",
        {"lr": 1e-4, "betas": (0.99, 0.95), "alpha": 0.0, "eps": 1e-8},
        "simplifiedademamix",
        options={"alpha": {"alpha": 2.0}},
        decay_form="decoupled",
        by_hand={
            # m = 2, v_hat = 4: (2 + 2 * 2) / (2 + 1)
            # m = 1 + 1 = 2, v = 3/4 * 1 + 1/4 = 1, v_hat = 16/7: (2 + 2 * 1) / (4 / sqrt(7) + 1)
            "": ByHand(
                {"betas": BETAS, "alpha": 2.0, "eps": 1.0},
                [2, 1],
                [0.8, 0.8 - 0.4 / (4 / math.sqrt(7) + 1)],
            ),
            # p = 1 * (1 - 0.1 * 0.5), and no decay in m and v
            "decay": ByHand({"betas": BETAS, "alpha": 2.0, "eps": 1.0, "weight_decay": 0.5}, [2], [0.75]),
        },
        optax={
            name: OptaxTwin(
                {"lr": 0.001, "betas": (0.99, 0.95), "alpha": alpha, "weight_decay": 0.1},
                lambda optax, alpha=alpha: optax.contrib.simplified_ademamix(
                    0.001, b1=0.99, b2=0.95, alpha=alpha, weight_decay=0.1
                ),
            )
            for name, alpha in {"": 0.0, "alpha": 2.0}.items()
        },
    ),
]
