"""SGD, and its rule in plain NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..declarations import Number, Rate, flag, number, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient


class SGD(Optimizer):
    r"""Gradient descent, with momentum or Nesterov's accelerated momentum.

    Without momentum::

        p = p - lr * g

    With momentum (b = g on the first step), and with ``nesterov=True``::

        b = momentum * b + (1 - dampening) * g
        p = p - lr * b                              momentum
        p = p - lr * (g + momentum * b)             nesterov

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-3
        Learning rate.
    momentum : float, in [0, 1), default 0
        Share of the buffer that is kept.
    dampening : float, in [0, 1], default 0
        Share of the gradient that does not enter the buffer.
    nesterov : bool, default False
        Look ahead along the buffer; needs momentum > 0 and dampening 0.
    **shared
        weight_decay=0.0 (L2), maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``b``, of the parameter's shape and `state_dtype`, only with momentum.  It stays as it is while momentum is
    set to 0 later.

    The learning rate stays outside the buffer, as in torch.optim.  Keras and scikit-learn put it inside
    (b = momentum * b - lr * g).  Steps differ after the learning rate changes.

    References
    ----------
    Robbins and Monro, "A stochastic approximation method", 1951.  Polyak, "Some methods of speeding up the convergence
    of iteration methods", 1964.  Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum
    in deep learning", 2013.
    """

    _rules: ClassVar = {
        "sgd": {},
        "momentum": {"momentum": 0.9},
        "nesterov": {"momentum": 0.9, "nesterov": True},
    }
    _torch_names: ClassVar = {"b": "momentum_buffer"}

    lr: Rate = rate(default=1e-3, kw_only=False)
    momentum: Number = number(default=0.0, kw_only=False)
    dampening: Number = number(default=0.0)
    nesterov: bool = flag(default=False, fixed="layout")

    @classmethod
    def _check_together(cls, label: str, hyper: Mapping[str, Any]) -> None:
        if hyper["nesterov"] and not (hyper["momentum"] > 0 and hyper["dampening"] == 0):
            raise ValueError(
                f"{label}: nesterov must have momentum > 0 and dampening 0,"
                f" got momentum {hyper['momentum']!r} and dampening {hyper['dampening']!r}"
            )


def sgd(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Gradient descent, and the two momenta.

    SGD, Robbins & Monro, "A stochastic approximation method", 1951::

        p -= lr * g

    Momentum, Polyak, "Some methods of speeding up the convergence of iteration methods", 1964; b = g on step 1::

        b = momentum * b + (1 - dampening) * g
        p -= lr * b

    Nesterov, as in Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013::

        b = momentum * b + g
        p -= lr * (g + momentum * b)
    """
    g = gradient(p, g, weight_decay, maximize)
    if momentum:
        if t == 1:
            state["b"] = g.copy()
        else:
            state["b"] = momentum * state["b"] + (1 - dampening) * g
        g = g + momentum * state["b"] if nesterov else state["b"]
    p -= lr * g
