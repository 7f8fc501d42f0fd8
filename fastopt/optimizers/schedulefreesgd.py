"""ScheduleFreeSGD, and its rule in plain NumPy."""

from __future__ import annotations

from typing import ClassVar

from ..declarations import Number, Rate, number, rate
from ._plain import Array, State, gradient
from .schedulefree import ScheduleFree, average_weight


class ScheduleFreeSGD(ScheduleFree):
    r"""Schedule-free SGD: gradients at points between the iterates and their running mean, which is the result.

    ::

        lr_t = lr * min(1, t / warmup_steps)
        c = w_t / (w_1 + ... + w_t)                 w_t = t^r * max(lr_1, ..., lr_t)^weight_lr_power
        z = z - lr_t * g                            z = p before the first step
        x = (1 - c) * x + c * z
        p = (1 - momentum) * z + momentum * x       point of the next gradient: the paper's y

    It replaces SGD with momentum and a decaying learning rate, if the number of steps is not known in advance, or if
    you need results at any time.  Compute gradients at the parameters; evaluate and keep ``x``::

        with opt.swapped("x"):                      # the parameters hold x
            accuracy = evaluate(params)

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1.0
        Learning rate, without a schedule.  It is usually larger than for SGD with a schedule.
    momentum : float, in (0, 1), default 0.9
        Share of x in the point of the gradient.  Fixed after the first step, since x is computed with it.
    warmup_steps : float, >= 0, default 0
        Steps over which the learning rate grows to its value.
    r : float, >= 0, default 0
        Power of t in the weights of the mean.
    weight_lr_power : float, >= 0, default 2
        Power of the largest learning rate so far in the weights of the mean.
    **shared
        weight_decay=0.0 (L2, of p), maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``z``, of the parameter's shape and `state_dtype`, and ``weight_sum`` and ``lr_max``, a float64 each.  ``x``
    is not stored: `swapped` and ``opt.x`` compute it from p and z.

    As in the authors' package schedulefree, whose ``optimizer.eval()`` is `swapped` here.  optax's schedule_free_sgd
    has no r, and with warm-up its first step has a learning rate of 0.  According to the authors, a model with batch
    normalisation must see some batches with x before it is evaluated.

    References
    ----------
    Defazio, Yang, Mehta, Mishchenko, Khaled and Cutkosky, "The road less scheduled", 2024,
    https://arxiv.org/abs/2405.15682.
    """

    _rules: ClassVar = {"schedulefreesgd": {}}

    lr: Rate = rate(default=1.0, kw_only=False)
    momentum: Number = number(default=0.9, fixed="steps")
    warmup_steps: Number = number(default=0)
    r: Number = number(default=0.0)
    weight_lr_power: Number = number(default=2.0)


def schedulefreesgd(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1.0,
    momentum: float = 0.9,
    warmup_steps: float = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Schedule-free SGD. Defazio et al., "The road less scheduled", 2024.

    ::

        z -= lr * g
        x = (1 - c) * x + c * z
        p = (1 - momentum) * z + momentum * x
    """
    g = gradient(p, g, weight_decay, maximize)
    lr, c = average_weight(state, p, t, lr, warmup_steps, r, weight_lr_power)
    x = (p - (1 - momentum) * state["z"]) / momentum
    state["z"] -= lr * g
    p[...] = (1 - momentum) * state["z"] + momentum * ((1 - c) * x + c * state["z"])
