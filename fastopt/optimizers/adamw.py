"""AdamW, and its rule in plain NumPy."""

from __future__ import annotations

from ..declarations import Number, number, other_name
from ._plain import Array, State
from .adam import Adam, adam


class AdamW(Adam):
    r"""AdamW: Adam with decoupled weight decay.

    ::

        p = p * (1 - lr * weight_decay)

    and then the step of `Adam`, with a gradient that has no decay.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-3
        Learning rate.
    betas : pair of float, each in [0, 1), default (0.9, 0.999)
        Decay of the two running means.
    eps : float, >= 0, default 1e-8
        Added to the root.
    amsgrad : bool, default False
        Divide by the largest v so far instead of v.
    weight_decay : float, >= 0, default 1e-2
        Decoupled decay.
    **shared
        maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m`` and ``v``, with amsgrad ``vmax``, each of the parameter's shape and `state_dtype`.

    As in torch.optim.  The paper scales decay only by the schedule.  optax scales it by the learning rate, as here,
    with a default of 1e-4.

    If betas change, the product of the betas replaces beta^t, as in `Adam`.

    References
    ----------
    Loshchilov and Hutter, "Decoupled weight decay regularization", 2019, https://arxiv.org/abs/1711.05101.
    """

    _decay_form = "decoupled"

    weight_decay: Number = number(default=1e-2)
    decoupled_weight_decay: bool = other_name(default=False, of="weight_decay_form", value="decoupled", init=False)


def adamw(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    amsgrad: bool = False,
    weight_decay: float = 1e-2,
    maximize: bool = False,
) -> None:
    """AdamW. Loshchilov & Hutter, "Decoupled weight decay regularization", 2019.

    ::

        p *= 1 - lr * weight_decay
        p -= lr * m_hat / (sqrt(v_hat) + eps)        as in Adam
    """
    p *= 1 - lr * weight_decay
    adam(p, g, state, t, lr=lr, betas=betas, eps=eps, amsgrad=amsgrad, maximize=maximize)
