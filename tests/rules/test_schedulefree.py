"""Schedule-free SGD and AdamW."""

import math

import numpy as np

from support.arithmetic import above_root, pow_of, power, take
from support.rule import ByHand, Class, Rule
from support.twins import WARMUP, OptaxTwin, share


def schedulefree(p, z, t, carry, lr, beta, warmup_steps, r, weight_lr_power):
    """The numbers of a step, and z before the first."""
    T = p.dtype.type
    if t == 1:
        z[...] = p - T(0)
        carry["weight_sum"], carry["lr_max"] = 0.0, 0.0
    lr_t = lr * (t / warmup_steps) if t < warmup_steps else lr
    carry["lr_max"] = lr_t if lr_t > carry["lr_max"] else carry["lr_max"]
    weight = pow_of(t, r) * pow_of(carry["lr_max"], weight_lr_power)
    carry["weight_sum"] += weight
    c = weight / carry["weight_sum"] if carry["weight_sum"] > 0 else 0.0
    return T(lr_t), T(c), T(lr_t * (1 - beta * (1 - c)))


def schedulefreesgd(p, g, z, *, t, carry, lr, momentum, warmup_steps, r, weight_lr_power):
    lr_t, c, rate = schedulefree(p, z, t, carry, lr, momentum, warmup_steps, r, weight_lr_power)
    p[...] = p + c * (z - p) - rate * g
    z -= lr_t * g


def schedulefreeadamw(p, g, z, v, *, t, carry, lr, beta1, beta2, eps, decay, warmup_steps, r, weight_lr_power):
    T = p.dtype.type
    lr_t, c, rate = schedulefree(p, z, t, carry, lr, beta1, warmup_steps, r, weight_lr_power)
    v[...] = take(v, g * g, beta2)
    root2 = math.sqrt(1 - power(beta2, t))
    u = T(root2) * g / (np.sqrt(v) + above_root(T, beta2, eps * root2, t)) + T(decay) * p
    p[...] = p + c * (z - p) - rate * u
    z -= lr_t * u


RULES = [
    Rule(schedulefreesgd, carries=("weight_sum", "lr_max"), starts=True),
    Rule(schedulefreeadamw, carries=("weight_sum", "lr_max"), corrected=("beta2",), starts=True),
]


BETAS = (0.5, 0.75)


def of_optax(optax, lr, beta, power, scale=None):
    """With a warm-up that counts steps from 1, where that of optax's own rules counts those of their base from 0."""
    rate = optax.scale_by_learning_rate(lambda count: lr * share(count))
    base = optax.chain(scale, rate) if scale else rate
    return optax.contrib.schedule_free(base, lambda t: lr * share(t - 1), b1=beta, weight_lr_power=power)


def average_of_optax(optax):
    return optax.contrib.schedule_free_eval_params


FORMS = ("l2", "own")  # of weight decay: others would shrink p, and not z

CLASSES = [
    Class(
        "ScheduleFreeSGD",
        {"lr": 1.0, "momentum": 0.9, "warmup_steps": 0, "r": 0.0, "weight_lr_power": 2.0},
        "schedulefreesgd",
        options={"warmup": {"warmup_steps": 4, "r": 1.0, "lr": 0.5}},
        averages=True,
        average_from="momentum",
        conflict=lambda settings: settings["momentum"] == 0 or settings["weight_decay_form"] not in FORMS,
        by_hand={
            # c = 1: z = x = p = 0.8;  c = 1/2: z = 0.7, x = (0.8 + 0.7) / 2, p halfway
            "": ByHand({"momentum": 0.5}, [2, 1], [0.8, 0.725]),
            # lr = 0.05: z = x = 0.9;  lr = 0.1, c = 0.01 / (0.0025 + 0.01): z = 0.8, x = 0.2 * 0.9 + 0.8 * 0.8
            "warm-up": ByHand({"momentum": 0.5, "warmup_steps": 2}, [2, 1], [0.9, 0.81]),
            # weights 1 and 2, c = 2/3: z = 0.7, x = 0.8 / 3 + 2 * 0.7 / 3
            "r": ByHand({"momentum": 0.5, "r": 1.0, "weight_lr_power": 0.0}, [2, 1], [0.8, 0.35 + 1.1 / 3]),
        },
        optax={
            "": OptaxTwin(
                {"lr": 0.05}, lambda optax: optax.contrib.schedule_free_sgd(0.05, b1=0.9), average=average_of_optax
            ),
            "decay": OptaxTwin(
                {"lr": 0.05, "momentum": 0.7, "weight_decay": 0.1},
                lambda optax: optax.contrib.schedule_free_sgd(0.05, b1=0.7, weight_decay=0.1),
                average=average_of_optax,
            ),
            "warmup": OptaxTwin(
                {"lr": 0.05, "warmup_steps": WARMUP},
                lambda optax: of_optax(optax, 0.05, 0.9, 2.0),
                average=average_of_optax,
            ),
        },
    ),
    Class(
        "ScheduleFreeAdamW",
        {"lr": 2.5e-3, "betas": (0.9, 0.999), "eps": 1e-8, "warmup_steps": 0, "r": 0.0, "weight_lr_power": 2.0},
        "schedulefreeadamw",
        options={"weights": {"r": 0.5, "weight_lr_power": 0.0}},
        decay_form="own",
        averages=True,
        average_from="betas",
        conflict=lambda settings: settings["betas"][0] == 0 or settings["weight_decay_form"] not in FORMS,
        by_hand={
            # as adam, u = 1/2;  then u = 4 / (sqrt(76/7) + 2): z = 0.95 - 0.1 u, x = 0.95 - 0.05 u
            "": ByHand({"betas": BETAS, "eps": 2.0}, [2, 4], [0.95, 0.95 - 0.075 * 4 / (math.sqrt(76 / 7) + 2)]),
            # u = 1/2 + 0.5 * 1
            "decay": ByHand({"betas": BETAS, "eps": 2.0, "weight_decay": 0.5}, [2], [0.9]),
        },
        optax={
            "": OptaxTwin(
                {"lr": 0.01},
                lambda optax: optax.contrib.schedule_free_adamw(0.01, b1=0.9, b2=0.999),
                average=average_of_optax,
            ),
            "decay": OptaxTwin(
                {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1},
                lambda optax: optax.contrib.schedule_free_adamw(0.01, b1=0.8, b2=0.95, weight_decay=0.1),
                average=average_of_optax,
            ),
            "warmup": OptaxTwin(
                {"lr": 0.01, "warmup_steps": WARMUP, "weight_lr_power": 1.0},
                lambda optax: of_optax(
                    optax, 0.01, 0.9, 1.0, optax.scale_by_rms(0.999, eps=1e-8, eps_in_sqrt=False, bias_correction=True)
                ),
                average=average_of_optax,
            ),
        },
    ),
]
