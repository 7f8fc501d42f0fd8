"""The optimizers: one class per rule, simplest first.

In every equation `t` counts a parameter's steps from 1, and `g` is its gradient after `maximize` (g = -g) and L2 decay
(g = g + weight_decay * p).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from reprlib import repr as brief
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakMethod

import numpy as np

from .nest import Array, Name
from .optimizer import Optimizer, Shared, StepOptions
from .parameters import Number, Params, at
from .scalars import unwrapped

if TYPE_CHECKING:
    from typing_extensions import Unpack


def _as_torch(label: str, decoupled: bool, shared: Shared) -> Shared:
    """Return the shared options with torch's ``decoupled_weight_decay`` among them under our name."""
    if not isinstance(decoupled := unwrapped(decoupled), (bool, np.bool_)):
        raise TypeError(f"{label}: decoupled_weight_decay must be True or False, got {brief(decoupled)}")
    form = shared.get("weight_decay_form")
    if decoupled and form not in (None, "decoupled"):
        raise ValueError(
            f"{label}: weight_decay_form must be None or decoupled with decoupled_weight_decay, got {brief(form)}"
        )
    return {**shared, "weight_decay_form": "decoupled"} if decoupled else shared


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
    lr : float, default 1e-3
        Learning rate, >= 0.
    momentum : float, default 0
        Share of the buffer that is kept, in [0, 1).
    dampening : float, default 0
        Share of the gradient that does not enter the buffer, in [0, 1].
    nesterov : bool, default False
        Look ahead along the buffer; needs momentum > 0 and dampening 0.
    **shared
        weight_decay=0.0 (L2), maximize=False, nonfinite="propagate", num_threads=None; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``b``, of the parameter's shape and dtype, only with momentum.

    The learning rate stays outside the buffer, as in torch.optim.  Keras and scikit-learn put it inside
    (b = momentum * b - lr * g), which differs once the learning rate changes.

    References
    ----------
    Robbins and Monro, "A stochastic approximation method", 1951.  Polyak, "Some methods of speeding up the convergence
    of iteration methods", 1964.  Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum
    in deep learning", 2013.
    """

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-3,
        momentum: Number = 0.0,
        *,
        dampening: Number = 0.0,
        nesterov: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        hyper = {"lr": lr, "momentum": momentum, "dampening": dampening, "nesterov": nesterov}
        super().__init__(params, hyper, **shared)

    @classmethod
    def _rule(cls, hyper: Mapping[str, Any]) -> str:
        if hyper["nesterov"]:
            return "nesterov"
        return "momentum" if hyper["momentum"] else "sgd"

    @classmethod
    def _check(cls, label: str, hyper: Mapping[str, Any]) -> None:
        super()._check(label, hyper)
        if hyper["nesterov"] and not (hyper["momentum"] > 0 and hyper["dampening"] == 0):
            raise ValueError(
                f"{label}: nesterov must have momentum > 0 and dampening 0,"
                f" got momentum {hyper['momentum']!r} and dampening {hyper['dampening']!r}"
            )


class Adagrad(Optimizer):
    r"""Adagrad: each element's step shrinks with the sum of its squared gradients.

    ::

        G = G + g^2
        p = p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(G) + eps)

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1e-2
        Learning rate, >= 0.
    lr_decay : float, default 0
        Decay of the learning rate, >= 0.
    initial_accumulator_value : float, default 0
        What G starts from, >= 0; read when the optimizer is made.
    eps : float, default 1e-10
        Added to the root, >= 0.
    **shared
        weight_decay=0.0 (L2), maximize=False, nonfinite="propagate", num_threads=None; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``G``, of the parameter's shape and dtype.

    As in torch.optim.  Keras puts eps inside the root; optax starts G at 0.1 and puts eps inside the root.

    References
    ----------
    Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and stochastic optimization", 2011.
    """

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-2,
        *,
        lr_decay: Number = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: Number = 1e-10,
        **shared: Unpack[Shared],
    ) -> None:
        hyper = {"lr": lr, "lr_decay": lr_decay, "initial_accumulator_value": initial_accumulator_value, "eps": eps}
        super().__init__(params, hyper, **shared)

    @classmethod
    def _initial_state(cls, hyper: Mapping[str, Any]) -> dict[str, float]:
        return {"G": hyper["initial_accumulator_value"]} if hyper["initial_accumulator_value"] else {}


class Adadelta(Optimizer):
    r"""Adadelta: the step is scaled by the ratio of two running means, so that it needs no learning rate.

    ::

        E = rho * E + (1 - rho) * g^2
        d = sqrt(D + eps) / sqrt(E + eps) * g
        D = rho * D + (1 - rho) * d^2
        p = p - lr * d

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1.0
        Factor on the step, >= 0.  At 1 this is the paper's rule.
    rho : float, default 0.9
        Decay of both running means, in [0, 1).
    eps : float, default 1e-6
        Added inside both roots, >= 0; it sets the size of the first steps.
    **shared
        weight_decay=0.0 (L2), maximize=False, nonfinite="propagate", num_threads=None; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``E`` and ``D``, each of the parameter's shape and dtype.

    As in torch.optim.  Keras defaults to lr=0.001 and rho=0.95.

    References
    ----------
    Zeiler, "ADADELTA: an adaptive learning rate method", 2012, https://arxiv.org/abs/1212.5701.
    """

    def __init__(
        self,
        params: Params,
        lr: Number = 1.0,
        *,
        rho: Number = 0.9,
        eps: Number = 1e-6,
        **shared: Unpack[Shared],
    ) -> None:
        hyper = {"lr": lr, "rho": rho, "eps": eps}
        super().__init__(params, hyper, **shared)


class RMSprop(Optimizer):
    r"""RMSprop: the gradient divided by the root of a running mean of its square.

    ::

        v = alpha * v + (1 - alpha) * g^2
        r = sqrt(v) + eps

        s = alpha * (s + (1 - alpha) * (g - a)^2)   with centered=True
        a = alpha * a + (1 - alpha) * g
        r = sqrt(s) + eps

        p = p - lr * g / r

        b = momentum * b + g / r                    with momentum > 0
        p = p - lr * b

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1e-2
        Learning rate, >= 0.
    alpha : float, default 0.99
        Decay of the running means, in [0, 1).  The lecture's value is 0.9.
    eps : float, default 1e-8
        Added to the root, >= 0.
    momentum : float, default 0
        Share of the buffer that is kept, in [0, 1).
    centered : bool, default False
        Divide by the standard deviation: s is the variance v - a^2, of which nothing cancels.
    **shared
        weight_decay=0.0 (L2), maximize=False, nonfinite="propagate", num_threads=None; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``v``, or ``s`` and ``a`` with centered, with momentum ``b``, each of the parameter's shape and dtype.

    As in torch.optim, which keeps v and a, though: where gradients vary little, rounding leaves nothing right of the
    difference v - a^2, and torch's steps become large or NaN.  v is s + a^2.  Keras and optax put eps inside the root.

    References
    ----------
    Tieleman and Hinton, "Neural networks for machine learning", lecture 6.5, 2012.  Centered: Graves, "Generating
    sequences with recurrent neural networks", 2013, https://arxiv.org/abs/1308.0850; West, "Updating mean and variance
    estimates: an improved method", 1979.
    """

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-2,
        *,
        alpha: Number = 0.99,
        eps: Number = 1e-8,
        momentum: Number = 0.0,
        centered: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        hyper = {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum, "centered": centered}
        super().__init__(params, hyper, **shared)

    @classmethod
    def _rule(cls, hyper: Mapping[str, Any]) -> str:
        return "rmsprop" + "_centered" * bool(hyper["centered"]) + "_momentum" * bool(hyper["momentum"])


class Adam(Optimizer):
    r"""Adam: running means of the gradient and of its square, both corrected for their start at zero.

    ::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        m_hat = m / (1 - beta1^t)
        v_hat = v / (1 - beta2^t)                   with amsgrad: of vmax = max(vmax, v)
        p = p - lr * m_hat / (sqrt(v_hat) + eps)

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1e-3
        Learning rate, >= 0.
    betas : pair of float, default (0.9, 0.999)
        Decay of the two running means, each in [0, 1).
    eps : float, default 1e-8
        Added to the root, >= 0.
    amsgrad : bool, default False
        Divide by the largest v so far instead of v.
    decoupled_weight_decay : bool, default False
        torch's name for ``weight_decay_form="decoupled"``.
    **shared
        weight_decay=0.0 (L2; for decay apart from the gradient see `AdamW`), maximize=False, nonfinite="propagate",
        num_threads=None; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m`` and ``v``, with amsgrad ``vmax``, each of the parameter's shape and dtype.

    Algorithm 1 of the paper, as in torch.optim and optax.  Keras uses the form with "epsilon hat", where eps is added
    to sqrt(v) before the correction.

    Where betas change, by a schedule or set in `groups`, beta^t is the product of the betas on the parameter's steps so
    far: m_hat and v_hat are then means whatever betas do, and a constant gradient gives steps of lr.  torch and optax
    take the power of the present beta, so that the steps after a change are too long or too short.

    References
    ----------
    Kingma and Ba, "Adam: a method for stochastic optimization", 2015, https://arxiv.org/abs/1412.6980.  AMSGrad: Reddi,
    Kale and Kumar, "On the convergence of Adam and beyond", 2018, https://arxiv.org/abs/1904.09237.
    """

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-3,
        *,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
        amsgrad: bool = False,
        decoupled_weight_decay: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        hyper = {"lr": lr, "betas": betas, "eps": eps, "amsgrad": amsgrad}
        super().__init__(params, hyper, **_as_torch(type(self).__name__, decoupled_weight_decay, shared))

    @classmethod
    def _rule(cls, hyper: Mapping[str, Any]) -> str:
        return "amsgrad" if hyper["amsgrad"] else "adam"


class AdamW(Adam):
    r"""Adam with decay apart from the gradient.

    ::

        p = p * (1 - lr * weight_decay)

    and then the step of `Adam`, whose gradient has no decay.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1e-3
        Learning rate, >= 0.
    betas : pair of float, default (0.9, 0.999)
        Decay of the two running means, each in [0, 1).
    eps : float, default 1e-8
        Added to the root, >= 0.
    amsgrad : bool, default False
        Divide by the largest v so far instead of v.
    weight_decay : float, default 1e-2
        Decoupled decay, >= 0.
    **shared
        maximize=False, nonfinite="propagate", num_threads=None; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m`` and ``v``, with amsgrad ``vmax``, each of the parameter's shape and dtype.

    As in torch.optim.  In the paper and in optax, decay is scaled by the schedule alone or by the learning rate
    (optax: lr * weight_decay, default 1e-4).

    Where betas change, their products take the place of beta^t, as in `Adam`.

    References
    ----------
    Loshchilov and Hutter, "Decoupled weight decay regularization", 2019, https://arxiv.org/abs/1711.05101.
    """

    _decoupled = True

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-3,
        *,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
        amsgrad: bool = False,
        weight_decay: Number = 1e-2,
        **shared: Unpack[StepOptions],
    ) -> None:
        super().__init__(params, lr, betas=betas, eps=eps, amsgrad=amsgrad, weight_decay=weight_decay, **shared)


class Adamax(Optimizer):
    r"""Adamax: Adam with the largest recent gradient in place of the root mean square.

    ::

        m = beta1 * m + (1 - beta1) * g
        u = max(beta2 * u, |g| + eps)
        p = p - lr / (1 - beta1^t) * m / u          and 0 where u is 0

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 2e-3
        Learning rate, >= 0.
    betas : pair of float, default (0.9, 0.999)
        Decay of the running mean and of the maximum, each in [0, 1).
    eps : float, default 1e-8
        Added to the size of the gradient, >= 0.  At 0 this is the paper's rule.
    **shared
        weight_decay=0.0 (L2), maximize=False, nonfinite="propagate", num_threads=None; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m`` and ``u``, each of the parameter's shape and dtype.

    As in torch.optim, where eps=0 gives NaN for gradients that were always 0.  Keras and optax add eps to u in the
    division instead.

    Where betas change, their products take the place of beta^t, as in `Adam`.

    References
    ----------
    Kingma and Ba, "Adam: a method for stochastic optimization", 2015, Algorithm 2, https://arxiv.org/abs/1412.6980.
    """

    def __init__(
        self,
        params: Params,
        lr: Number = 2e-3,
        *,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
        **shared: Unpack[Shared],
    ) -> None:
        hyper = {"lr": lr, "betas": betas, "eps": eps}
        super().__init__(params, hyper, **shared)


class NAdam(Optimizer):
    r"""NAdam: Adam with Nesterov's momentum.

    ::

        mu_t = beta1 * (1 - 0.5 * 0.96^(t * momentum_decay))
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        m_bar = mu_(t+1) * m / (1 - mu_1 * ... * mu_(t+1)) + (1 - mu_t) * g / (1 - mu_1 * ... * mu_t)
        v_hat = v / (1 - beta2^t)
        p = p - lr * m_bar / (sqrt(v_hat) + eps)

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 2e-3
        Learning rate, >= 0.
    betas : pair of float, default (0.9, 0.999)
        Decay of the two running means, each in [0, 1).
    eps : float, default 1e-8
        Added to the root, >= 0.
    momentum_decay : float or None, default 4e-3
        How fast mu_t grows to beta1, >= 0.  None is the lecture's constant momentum, mu_t = beta1::

            m_bar = beta1 * m / (1 - beta1^(t+1)) + (1 - beta1) * g / (1 - beta1^t)

    decoupled_weight_decay : bool, default False
        torch's name for ``weight_decay_form="decoupled"``.
    **shared
        weight_decay=0.0 (L2), maximize=False, nonfinite="propagate", num_threads=None; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m`` and ``v``, each of the parameter's shape and dtype, and ``mu_product`` = mu_1 * ... * mu_t, a float64.

    As in torch.optim, which keeps mu_product in its default dtype, so that its float64 runs differ from ours by about
    1e-10.  optax's nadam is the constant momentum.

    Where betas change, mu_product is that of the momenta so far, as in torch, and the product of beta2 takes the place
    of beta2^t, as in `Adam`, not in torch.

    References
    ----------
    Dozat, "Incorporating Nesterov momentum into Adam", 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ.
    """

    def __init__(
        self,
        params: Params,
        lr: Number = 2e-3,
        *,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
        momentum_decay: Number | None = 4e-3,
        decoupled_weight_decay: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        hyper = {"lr": lr, "betas": betas, "eps": eps, "momentum_decay": momentum_decay}
        super().__init__(params, hyper, **_as_torch(type(self).__name__, decoupled_weight_decay, shared))

    @classmethod
    def _flat(cls, hyper: Mapping[str, Any]) -> dict[str, Any]:
        flat = super()._flat(hyper)
        if flat["momentum_decay"] is None:
            flat["momentum_decay"] = float("inf")
        return flat


class RAdam(Optimizer):
    r"""RAdam: Adam that waits for its variance, and warms up by itself.

    ::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        m_hat = m / (1 - beta1^t)
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * t * beta2^t / (1 - beta2^t)

        p = p - lr * m_hat                                              while rho <= 5

        r = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        p = p - lr * r * m_hat * sqrt(1 - beta2^t) / (sqrt(v) + eps)    afterwards

    For what Adam does well once a warm-up of the learning rate has been added: here there is none to choose.  The first
    steps (five by default) are those of momentum, as large as the gradient is.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1e-3
        Learning rate, >= 0.
    betas : pair of float, default (0.9, 0.999)
        Decay of the two running means, each in [0, 1).
    eps : float, default 1e-8
        Added to the root, >= 0.
    decoupled_weight_decay : bool, default False
        torch's name for ``weight_decay_form="decoupled"``.
    **shared
        weight_decay=0.0 (L2), maximize=False, nonfinite="propagate", num_threads=None and others; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m`` and ``v``, each of the parameter's shape and dtype.

    As in torch.optim: eps is added before the root is corrected, and the variance counts where rho > 5, as in the
    authors' code; the paper says 4.  optax's radam corrects before it adds eps, and counts from rho >= 5.

    Where betas change, their products take the place of beta^t, as in `Adam`, not in torch; and rho is 1 plus twice the
    mean age of the gradients in v, by their weights, at most rho_inf, which for one beta2 is the rho above.

    References
    ----------
    Liu, Jiang, He, Chen, Liu, Gao and Han, "On the variance of the adaptive learning rate and beyond", 2020,
    https://arxiv.org/abs/1908.03265.
    """

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-3,
        *,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
        decoupled_weight_decay: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        hyper = {"lr": lr, "betas": betas, "eps": eps}
        super().__init__(params, hyper, **_as_torch(type(self).__name__, decoupled_weight_decay, shared))


class Rprop(Optimizer):
    r"""Rprop: a step size for each element, which grows while its gradient keeps its sign and shrinks when it turns.

    ::

        step_size = min(step_size * etas[1], step_sizes[1])             where g * prev > 0
        step_size = max(step_size * etas[0], step_sizes[0]), g = 0      where g * prev < 0
        p = p - sign(g) * step_size
        prev = g

    For full-batch training of small networks, and other problems whose gradients have no noise, where it is among the
    fastest first-order methods.  The noise of small batches turns signs all the time: do not use it there.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1e-2
        What the step sizes start from, >= 0; read by the first step only.
    etas : pair of float, default (0.5, 1.2)
        Factors on the step size where the sign turns, in (0, 1), and where it stays, > 1.
    step_sizes : pair of float, default (1e-6, 50)
        Smallest and largest step size, >= 0 and in this order.
    **shared
        weight_decay=0.0 (L2), maximize=False, nonfinite="propagate", num_threads=None and others; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``prev``, the gradient of the last step, and ``step_size``, each of the parameter's shape and dtype.

    As in torch.optim, where too a gradient of NaN counts as 0.  torch and optax multiply gradients to compare their
    signs, and so see none where the product is too small for its type; optax holds a step size within step_sizes only
    where it changes.  The paper goes back where the sign turns; without that the rule is also known as iRprop-.

    References
    ----------
    Riedmiller and Braun, "A direct adaptive method for faster backpropagation learning: the RPROP algorithm", 1993.
    Igel and Huesken, "Improving the Rprop learning algorithm", 2000.
    """

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-2,
        *,
        etas: tuple[Number, Number] = (0.5, 1.2),
        step_sizes: tuple[Number, Number] = (1e-6, 50.0),
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, {"lr": lr, "etas": etas, "step_sizes": step_sizes}, **shared)

    @classmethod
    def _check(cls, label: str, hyper: Mapping[str, Any]) -> None:
        super()._check(label, hyper)
        low, high = map(float, hyper["step_sizes"])  # which NumPy's own would be rounded to compare
        if low > high:
            raise ValueError(f"{label}: step_sizes must be a smallest and a largest one, got {(low, high)!r}")

    @classmethod
    def _initial_state(cls, hyper: Mapping[str, Any]) -> dict[str, float]:
        return {"step_size": hyper["lr"] + 0.0}  # 0 for -0


class Lion(Optimizer):
    r"""Lion: steps of one size along the sign of a mean of gradient and momentum.

    ::

        p = p - lr * sign(beta1 * m + (1 - beta1) * g)
        m = beta2 * m + (1 - beta2) * g

    With one buffer, half of Adam's state.  Every element moves by lr in each step, so take a learning rate 3 to 10
    times smaller than Adam's and a decay that much larger.  It was found on large image and language models with large
    batches; with small ones the noise of signs shows.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1e-4
        Learning rate, >= 0.
    betas : pair of float, default (0.9, 0.99)
        Share of the buffer in the step, and that which is kept, each in [0, 1).
    weight_decay : float, default 1e-3
        Decoupled decay, >= 0.
    **shared
        maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m``, of the parameter's shape and dtype.

    As in optax, whose decay is decoupled too.  Where the mean is 0 the element stays, and NaN stays NaN.

    References
    ----------
    Chen et al., "Symbolic discovery of optimization algorithms", 2023, https://arxiv.org/abs/2302.06675.
    """

    _decoupled = True

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-4,
        *,
        betas: tuple[Number, Number] = (0.9, 0.99),
        weight_decay: Number = 1e-3,
        **shared: Unpack[StepOptions],
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas}, weight_decay=weight_decay, **shared)


class Signum(Optimizer):
    r"""Signum: steps of one size along the sign of the momentum.

    ::

        m = beta * m + (1 - beta) * g
        p = p - lr * sign(m)

    For gradients whose sizes say little; it was made for many machines that tell each other one bit per element.  With
    ``beta=0`` it is signSGD.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1e-3
        Learning rate, >= 0.
    beta : float, default 0.9
        Decay of the running mean, in [0, 1).
    **shared
        weight_decay=0.0 (L2), maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m``, of the parameter's shape and dtype.

    As in optax.  Where the mean is 0 the element stays, and NaN stays NaN.

    References
    ----------
    Bernstein, Wang, Azizzadenesheli and Anandkumar, "signSGD: compressed optimisation for non-convex problems", 2018,
    https://arxiv.org/abs/1802.04434.
    """

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-3,
        *,
        beta: Number = 0.9,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, {"lr": lr, "beta": beta}, **shared)


class AdaBelief(Optimizer):
    r"""AdaBelief: Adam that divides by how much gradients differ from what was expected.

    ::

        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * (g - m)^2 + eps
        p = p - lr * m_hat / (sqrt(s_hat) + eps)
        m_hat = m / (1 - beta1^t),  s_hat = s / (1 - beta2^t)

    Large steps where gradients agree, small ones where they do not: in the paper as fast as Adam and as good as SGD on
    images.  It depends on eps more than Adam does: the authors take 1e-16 where Adam does better than SGD (transformers
    and GANs), and 1e-8 where SGD does (convolutional networks on images).

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1e-3
        Learning rate, >= 0.
    betas : pair of float, default (0.9, 0.999)
        Decay of the two running means, each in [0, 1).
    eps : float, default 1e-16
        Added to s and to its root, >= 0.
    weight_decay : float, default 0
        Decoupled decay, >= 0.
    **shared
        maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m`` and ``s``, each of the parameter's shape and dtype.

    As in the paper and in optax, which has a number of its own, eps_root, for the one within the root, and no decay.
    Decay is decoupled as in the authors' code, which by default also rectifies the first steps, as `RAdam` does.

    Where betas change, their products take the place of beta^t, as in `Adam`.

    References
    ----------
    Zhuang, Tang, Ding, Tatikonda, Dvornek, Papademetris and Duncan, "AdaBelief optimizer: adapting stepsizes by the
    belief in observed gradients", 2020, https://arxiv.org/abs/2010.07468.
    """

    _decoupled = True

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-3,
        *,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-16,
        weight_decay: Number = 0.0,
        **shared: Unpack[StepOptions],
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps}, weight_decay=weight_decay, **shared)


class Yogi(Optimizer):
    r"""Yogi: Adam whose second moment cannot change faster than by a share of the squared gradient.

    ::

        m = beta1 * m + (1 - beta1) * g
        v = v - (1 - beta2) * sign(v - g^2) * g^2
        p = p - lr * m_hat / (sqrt(v_hat) + eps)
        m_hat = m / (1 - beta1^t),  v_hat = v / (1 - beta2^t)

    For gradients that are mostly small and at times large, where Adam forgets the large ones too soon and its step
    grows at once.  Its eps and learning rate are larger than Adam's.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1e-2
        Learning rate, >= 0.
    betas : pair of float, default (0.9, 0.999)
        Decay of the two running means, each in [0, 1).
    eps : float, default 1e-3
        Added to the root, >= 0.
    initial_accumulator_value : float, default 1e-6
        What v starts from, >= 0; read when the optimizer is made.
    **shared
        weight_decay=0.0 (L2), maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m`` and ``v``, each of the parameter's shape and dtype.

    Bias is corrected as in optax; the paper does not correct it.  optax starts m from `initial_accumulator_value` too,
    here it starts from 0.

    Where betas change, their products take the place of beta^t, as in `Adam`.

    References
    ----------
    Zaheer, Reddi, Sachan, Kale and Kumar, "Adaptive methods for nonconvex optimization", NeurIPS 2018.
    """

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-2,
        *,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-3,
        initial_accumulator_value: Number = 1e-6,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "initial_accumulator_value": initial_accumulator_value,
            },
            **shared,
        )

    @classmethod
    def _initial_state(cls, hyper: Mapping[str, Any]) -> dict[str, float]:
        return {"v": hyper["initial_accumulator_value"] + 0.0}  # 0 for -0


class Adan(Optimizer):
    r"""Adan: Adam with Nesterov's momentum, by a running mean of how the gradient changes.

    ::

        d = g - prev                                        prev = g on the first step
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * d
        n = beta3 * n + (1 - beta3) * (g + beta2 * d)^2
        p = p - lr * (m_hat + beta2 * v_hat) / (sqrt(n_hat) + eps)
        prev = g
        m_hat = m / (1 - beta1^t),  v_hat = v / (1 - beta2^t),  n_hat = n / (1 - beta3^t)

    For large batches and learning rates up to 10 times those of AdamW, in half to two thirds of its steps according to
    the paper.  It has four buffers, so that a step moves 44 bytes per element where Adam's moves 28.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1e-3
        Learning rate, >= 0.
    betas : three floats, default (0.98, 0.92, 0.99)
        Decay of the three running means, each in [0, 1).
    eps : float, default 1e-8
        Added to the root, >= 0.
    weight_decay : float, default 0
        Decoupled decay, >= 0.
    **shared
        maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m``, ``v``, ``n`` and ``prev``, each of the parameter's shape and dtype.

    As in the authors' code, but for its decay, p / (1 + lr * weight_decay) after the step.  The paper's betas are 1
    minus these.  optax has 1 - beta2 where paper and code have beta2 in front of d and v_hat, and an eps in the root.

    Where betas change, their products take the place of beta^t, as in `Adam`.

    References
    ----------
    Xie, Zhou, Li, Lin and Yan, "Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models", 2022,
    https://arxiv.org/abs/2208.06677.
    """

    _decoupled = True
    _parts: ClassVar = {"betas": ("beta1", "beta2", "beta3")}

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-3,
        *,
        betas: tuple[Number, Number, Number] = (0.98, 0.92, 0.99),
        eps: Number = 1e-8,
        weight_decay: Number = 0.0,
        **shared: Unpack[StepOptions],
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps}, weight_decay=weight_decay, **shared)


class AdEMAMix(Optimizer):
    r"""AdEMAMix: Adam with a second, far longer memory of gradients.

    ::

        m1 = beta1 * m1 + (1 - beta1) * g
        m2 = beta3 * m2 + (1 - beta3) * g
        v = beta2 * v + (1 - beta2) * g^2
        p = p - lr * (m1_hat + alpha * m2) / (sqrt(v_hat) + eps)
        m1_hat = m1 / (1 - beta1^t),  v_hat = v / (1 - beta2^t)

    For long trainings of language models, where gradients of 10,000 steps ago still help; in short ones the long memory
    hardly fills.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1e-3
        Learning rate, >= 0.
    betas : three floats, default (0.9, 0.999, 0.9999)
        Decay of the two running means of Adam and of the long one, each in [0, 1).
    alpha : float, default 5
        Weight of the long memory, >= 0.
    warmup : float, default 0
        Steps, >= 0, over which alpha grows from 0 along a line, and beta3 from beta1 so that 1 / ln(beta3) does; the
        paper takes as many as the whole training has.
    eps : float, default 1e-8
        Added to the root, >= 0.
    weight_decay : float, default 0
        Decoupled decay, >= 0.
    **shared
        maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m1``, ``m2`` and ``v``, each of the parameter's shape and dtype.

    As in the paper.  optax takes schedules for alpha and beta3 in place of `warmup`, whose steps it counts from 0.

    Where betas change, their products take the place of beta^t, as in `Adam`.

    References
    ----------
    Pagliardini, Ablin and Grangier, "The AdEMAMix optimizer: better, faster, older", 2024,
    https://arxiv.org/abs/2409.03137.
    """

    _decoupled = True
    _parts: ClassVar = {"betas": ("beta1", "beta2", "beta3"), "alpha": ("mix",)}

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-3,
        *,
        betas: tuple[Number, Number, Number] = (0.9, 0.999, 0.9999),
        alpha: Number = 5.0,
        warmup: Number = 0.0,
        eps: Number = 1e-8,
        weight_decay: Number = 0.0,
        **shared: Unpack[StepOptions],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "alpha": alpha,
                "warmup": warmup,
                "eps": eps,
            },
            weight_decay=weight_decay,
            **shared,
        )


class ASGD(Optimizer):
    r"""Averaged SGD: gradient descent with slowly shrinking steps, and the mean of the points it visits.

    ::

        p = (1 - lambd * eta) * p - eta * g
        ax = ax + mu * (p - ax)                     mu = 1 / max(1, t - 1 - t0)
        eta = lr / (1 + lambd * lr * t)^alpha       for the next step; lr on the first

    For linear models and other (nearly) convex problems: the mean of the last steps, ``ax``, is better than any one of
    them, without tuning how the learning rate shrinks.  Evaluate and keep ``ax``.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1e-2
        Learning rate, >= 0.
    lambd : float, default 1e-4
        Decay of the parameter, and of the learning rate, >= 0.
    alpha : float, default 0.75
        Power with which eta shrinks, in [0, 1).
    t0 : float, default 1e6
        Steps before averaging starts, >= 0; until then ax is p.
    **shared
        weight_decay=0.0 (L2), maximize=False, nonfinite="propagate", num_threads=None and others; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``ax``, of the parameter's shape and dtype, and ``eta``, a float64.

    As in torch.optim, where too a new learning rate enters eta after the step that follows it.  torch takes any alpha
    and t0.  ``with opt.swapped("ax"):`` puts ax in the place of the parameters.

    References
    ----------
    Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992.  Xu, "Towards optimal one pass
    large scale learning with averaged stochastic gradient descent", 2011, https://arxiv.org/abs/1107.2490.
    """

    _averages = ("ax",)

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-2,
        *,
        lambd: Number = 1e-4,
        alpha: Number = 0.75,
        t0: Number = 1e6,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, {"lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0}, **shared)

    @classmethod
    def _average_of(cls, p: Array, state: Mapping[str, Array], hyper: Mapping[str, Any]) -> Array:
        return state["ax"]


class LARS(Optimizer):
    r"""LARS: momentum whose learning rate is scaled, layer by layer, to the size of the parameter.

    ::

        ratio = trust_coefficient * |p| / (|g| + eps)       1 where either norm is 0
        b = momentum * b + lr * ratio * g
        p = p - b                                           nesterov: p - (momentum * b + lr * ratio * g)

    For large batches of images, where one learning rate is too large for some layers and too small for others.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1.0
        Learning rate, >= 0.
    momentum : float, default 0.9
        Share of the buffer that is kept, in [0, 1).
    trust_coefficient : float, default 1e-3
        Size of a step relative to the parameter, >= 0.
    eps : float, default 0
        Added to the gradient's norm, >= 0.
    nesterov : bool, default False
        Look ahead along the buffer.
    **shared
        weight_decay=0.0 (L2), and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``b``, of the parameter's shape and dtype.  Norms are taken over each array as a whole: cutting an array into
    several changes the rule.

    As in optax: the norm is that of the gradient with decay, where the paper adds the norm of the decay; the learning
    rate is inside the buffer.

    References
    ----------
    You, Gitman and Ginsburg, "Large batch training of convolutional networks", 2017, https://arxiv.org/abs/1708.03888.
    """

    def __init__(
        self,
        params: Params,
        lr: Number = 1.0,
        *,
        momentum: Number = 0.9,
        trust_coefficient: Number = 1e-3,
        eps: Number = 0.0,
        nesterov: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        hyper = {
            "lr": lr,
            "momentum": momentum,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "nesterov": nesterov,
        }
        super().__init__(params, hyper, **shared)

    @classmethod
    def _rule(cls, hyper: Mapping[str, Any]) -> str:
        return "lars_nesterov" if hyper["nesterov"] else "lars"


class LAMB(Optimizer):
    r"""LAMB: Adam whose step is scaled, layer by layer, to the size of the parameter.

    ::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        u = m_hat / (sqrt(v_hat) + eps) + weight_decay * p      m_hat, v_hat as in `Adam`
        p = p - lr * |p| / |u| * u                              lr * u where either norm is 0

    For very large batches of transformers.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1e-3
        Learning rate, >= 0.
    betas : pair of float, default (0.9, 0.999)
        Decay of the two running means, each in [0, 1).
    eps : float, default 1e-6
        Added to the root, >= 0.
    weight_decay : float, default 0
        Decay within the rule, >= 0.
    **shared
        The options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m`` and ``v``, each of the parameter's shape and dtype.  Norms are taken over each array as a whole: to cut
    an array into several changes the rule.

    As in optax.

    Where betas change, their products take the place of beta^t, as in `Adam`.

    References
    ----------
    You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020,
    https://arxiv.org/abs/1904.00962.
    """

    _own_decay = True

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-3,
        *,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-6,
        **shared: Unpack[Shared],
    ) -> None:
        hyper = {"lr": lr, "betas": betas, "eps": eps}
        super().__init__(params, hyper, **shared)


class NovoGrad(Optimizer):
    r"""NovoGrad: momentum of gradients that are divided by a running norm, one number per layer.

    ::

        v = beta2 * v + (1 - beta2) * |g|^2                     |g|^2 on the first step
        m = beta1 * m + g / (sqrt(v) + eps) + weight_decay * p
        p = p - lr * m

    Half the state of Adam; for speech and vision models.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1e-3
        Learning rate, >= 0.
    betas : pair of float, default (0.9, 0.25)
        Decay of momentum and of the norm, each in [0, 1).
    eps : float, default 1e-6
        Added to the root, >= 0.
    weight_decay : float, default 0
        Decay within the rule, >= 0.
    **shared
        The options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m``, of the parameter's shape and dtype, and ``v`` and ``v_exponent``, a float64 each, which stand for
    v * 2^v_exponent; the exponent is 0 unless squares are beyond float64.  The norm is taken over each array as a
    whole: cutting an array into several changes the rule.

    As in optax.

    References
    ----------
    Ginsburg et al., "Stochastic gradient methods with layer-wise adaptive moments for training of deep networks", 2019,
    https://arxiv.org/abs/1905.11286.
    """

    _own_decay = True

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-3,
        *,
        betas: tuple[Number, Number] = (0.9, 0.25),
        eps: Number = 1e-6,
        **shared: Unpack[Shared],
    ) -> None:
        hyper = {"lr": lr, "betas": betas, "eps": eps}
        super().__init__(params, hyper, **shared)


class Prodigy(Optimizer):
    r"""Prodigy: Adam that finds its learning rate, from how far the parameters have moved.

    ::

        dlr = d * lr * sqrt(1 - beta2^t) / (1 - beta1^t)
        m = beta1 * m + (1 - beta1) * d * g
        v = beta2 * v + (1 - beta2) * (d * g)^2
        s = beta3 * s + d / d0 * dlr * g                        with safeguard_warmup: d / d0 * d * g
        r = beta3 * r + d / d0 * dlr * <g, p0 - p>              over all parameters of the group together
        d = max(d, d_coef * r / |s|_1)
        p = p - dlr * (m / (sqrt(v) + d * eps) + weight_decay * p)

    Where nobody has tuned a learning rate; use a schedule that ends at 0 for the last gain.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1.0
        Factor on the step, >= 0; a schedule goes here.
    betas : pair of float, default (0.9, 0.999)
        Decay of the two running means, each in [0, 1).
    beta3 : float or None, default None
        Decay of the sums behind the estimate, in [0, 1); None is sqrt(beta2).
    eps : float, default 1e-8
        Added to the root, times d, >= 0.
    d0 : float, default 1e-6
        What the estimate starts from, > 0.
    d_coef : float, default 1.0
        Factor on the estimate, >= 0.
    safeguard_warmup : bool, default False
        Keep a learning rate that warms up out of the sums.
    weight_decay : float, default 0
        Decay within the rule, decoupled, >= 0.
    **shared
        The options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m``, ``v``, ``s`` and ``p0`` (the parameter before the first step), each of its shape and dtype,
    and ``d`` and ``r``, a float64 each, the same for all parameters of a group.

    As in optax.  A NaN in a gradient makes d, and with it all parameters of the group, NaN.  All parameters of a group
    must be stepped together: `step_one` is refused, and a gradient of None unless those of its whole group are.

    Where betas change, their products take the place of beta^t, as in `Adam`.

    References
    ----------
    Mishchenko and Defazio, "Prodigy: an expeditiously adaptive parameter-free learner", 2024,
    https://arxiv.org/abs/2306.06101.
    """

    _own_decay = True

    def __init__(
        self,
        params: Params,
        lr: Number = 1.0,
        *,
        betas: tuple[Number, Number] = (0.9, 0.999),
        beta3: Number | None = None,
        eps: Number = 1e-8,
        d0: Number = 1e-6,
        d_coef: Number = 1.0,
        safeguard_warmup: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        hyper = {
            "lr": lr,
            "betas": betas,
            "beta3": beta3,
            "eps": eps,
            "d0": d0,
            "d_coef": d_coef,
            "safeguard_warmup": safeguard_warmup,
        }
        super().__init__(params, hyper, **shared)

    @classmethod
    def _flat(cls, hyper: Mapping[str, Any]) -> dict[str, Any]:
        flat = super()._flat(hyper)
        if flat["beta3"] is None:
            flat["beta3"] = math.sqrt(flat["beta2"])
        return flat


class _ScheduleFree(Optimizer):
    """What the schedule-free rules share: their average, and what does not go with it."""

    _averages = ("x",)
    _told_by = ("momentum",)

    @classmethod
    def _check(cls, label: str, hyper: Mapping[str, Any]) -> None:
        super()._check(label, hyper)
        name, beta = ("betas[0]", hyper["betas"][0]) if "betas" in hyper else ("momentum", hyper["momentum"])
        if beta == 0:
            raise ValueError(f"{label}: {name} must be > 0, since x is told by its share in p, got {beta!r}")
        if hyper["weight_decay_form"] not in ("l2", "own"):
            forms = "l2 or own" if cls._own_decay else "l2"
            raise ValueError(
                f"{label}: weight_decay_form must be {forms}, since the others would shrink p but not z,"
                f" got {hyper['weight_decay_form']}"
            )

    @classmethod
    def _average_of(cls, p: Array, state: Mapping[str, Array], hyper: Mapping[str, Any]) -> Array:
        beta = hyper["betas"][0] if "betas" in hyper else hyper["momentum"]
        x: Array = p + p.dtype.type(1 - 1 / beta) * (state["z"] - p)
        return x

    @property
    def x(self) -> dict[Name, Array]:
        """The average to evaluate and to keep, computed from p and z, of each parameter by name; see `swapped`."""
        self._table.check_own(f"{type(self).__name__}.x")
        return self._average("x")


class ScheduleFreeSGD(_ScheduleFree):
    r"""Schedule-free SGD: gradients are taken between a walk and its running mean, and the mean is what is used.

    ::

        lr_t = lr * min(1, t / warmup_steps)
        c = w_t / (w_1 + ... + w_t)                 w_t = t^r * max(lr_1, ..., lr_t)^weight_lr_power
        z = z - lr_t * g                            z = p before the first step
        x = (1 - c) * x + c * z
        p = (1 - momentum) * z + momentum * x       where the next gradient is taken: the paper's y

    In place of SGD with momentum and a learning rate that decays, where the number of steps is not known in advance or
    results are wanted at any time.  Train with the parameters as they are; evaluate and keep ``x``::

        with opt.swapped("x"):                      # the parameters hold x
            accuracy = evaluate(params)

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1.0
        Learning rate, >= 0, without a schedule: larger ones than for SGD with a schedule are usual.
    momentum : float, default 0.9
        Share of x in the point where gradients are taken, in (0, 1).  Fixed once a step is made: x is told by it.
    warmup_steps : float, default 0
        Steps over which the learning rate grows to its value, >= 0.
    r : float, default 0
        Power of t in the weights of the mean, >= 0.
    weight_lr_power : float, default 2
        Power of the largest learning rate so far in the weights of the mean, >= 0.
    **shared
        weight_decay=0.0 (L2, of p), and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``z``, of the parameter's shape and dtype, and ``weight_sum`` and ``lr_max``, a float64 each.  ``x`` is not
    kept: it is computed from p and z when it is asked for, by `swapped` or as ``opt.x``.

    As in the authors' package schedulefree, whose ``optimizer.eval()`` is `swapped` here.  optax's schedule_free_sgd
    has no r, and with warm-up its first step has a learning rate of 0.  A model with batch normalisation must see some
    batches again with x before it is evaluated, as the authors say.

    References
    ----------
    Defazio, Yang, Mehta, Mishchenko, Khaled and Cutkosky, "The road less scheduled", 2024,
    https://arxiv.org/abs/2405.15682.
    """

    def __init__(
        self,
        params: Params,
        lr: Number = 1.0,
        *,
        momentum: Number = 0.9,
        warmup_steps: Number = 0,
        r: Number = 0.0,
        weight_lr_power: Number = 2.0,
        **shared: Unpack[Shared],
    ) -> None:
        hyper = {
            "lr": lr,
            "momentum": momentum,
            "warmup_steps": warmup_steps,
            "r": r,
            "weight_lr_power": weight_lr_power,
        }
        super().__init__(params, hyper, **shared)


class ScheduleFreeAdamW(_ScheduleFree):
    r"""Schedule-free AdamW: gradients are taken between a walk and its running mean, and the mean is what is used.

    ::

        lr_t = lr * min(1, t / warmup_steps)
        c = w_t / (w_1 + ... + w_t)                 w_t = t^r * max(lr_1, ..., lr_t)^weight_lr_power
        v = beta2 * v + (1 - beta2) * g^2
        u = g / (sqrt(v_hat) + eps) + weight_decay * p              v_hat as in `Adam`
        z = z - lr_t * u                            z = p before the first step
        x = (1 - c) * x + c * z
        p = (1 - beta1) * z + beta1 * x             where the next gradient is taken: the paper's y

    In place of AdamW with a learning rate that decays, where the number of steps is not known in advance or results are
    wanted at any time; with as much memory as AdamW.  Train with the parameters as they are; evaluate and keep ``x``::

        with opt.swapped("x"):                      # the parameters hold x
            accuracy = evaluate(params)

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 2.5e-3
        Learning rate, >= 0, without a schedule: larger ones than for AdamW with a schedule are usual.
    betas : pair of float, default (0.9, 0.999)
        Share of x in the point where gradients are taken, in (0, 1), fixed once a step is made, since x is told by it;
        and decay of the running mean of squares, in [0, 1).
    eps : float, default 1e-8
        Added to the root, >= 0.
    warmup_steps : float, default 0
        Steps over which the learning rate grows to its value, >= 0.
    r : float, default 0
        Power of t in the weights of the mean, >= 0.
    weight_lr_power : float, default 2
        Power of the largest learning rate so far in the weights of the mean, >= 0.
    weight_decay : float, default 0
        Decay within the rule, >= 0.
    **shared
        The options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``z`` and ``v``, each of the parameter's shape and dtype, and ``weight_sum`` and ``lr_max``, a float64 each.
    ``x`` is not kept: it is computed from p and z when it is asked for, by `swapped` or as ``opt.x``.

    As in the authors' package schedulefree, whose ``optimizer.eval()`` is `swapped` here; its first versions corrected
    the learning rate instead of v.  optax's schedule_free_adamw has no r, and with warm-up its first step has a
    learning rate of 0.  A model with batch normalisation must see some batches again with x before it is evaluated, as
    the authors say.

    Where betas change, their products take the place of beta^t, as in `Adam`.

    References
    ----------
    Defazio, Yang, Mehta, Mishchenko, Khaled and Cutkosky, "The road less scheduled", 2024,
    https://arxiv.org/abs/2405.15682.
    """

    _own_decay = True
    _told_by = ("betas",)

    def __init__(
        self,
        params: Params,
        lr: Number = 2.5e-3,
        *,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
        warmup_steps: Number = 0,
        r: Number = 0.0,
        weight_lr_power: Number = 2.0,
        **shared: Unpack[Shared],
    ) -> None:
        hyper = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "warmup_steps": warmup_steps,
            "r": r,
            "weight_lr_power": weight_lr_power,
        }
        super().__init__(params, hyper, **shared)


class Adafactor(Optimizer):
    r"""Adafactor: the second moment of a matrix from one running mean per row and one per column.

    ::

        beta = 1 - t^beta2_decay
        R = beta * R + (1 - beta) * (mean of g^2 over each row)
        C = beta * C + (1 - beta) * (mean of g^2 over each column)
        v = R * C / max(mean of R, eps[0])          the entry of its row times that of its column
        v = beta * v + (1 - beta) * g^2             in place of these for arrays with fewer than two axes
        u = g / max(sqrt(v), eps[0])
        p = p - rms(p) * min(lr, 1 / sqrt(t)) * u / max(1, rms(u) / d)

    where rms(x) is sqrt(mean of x^2), and that of p is eps[1] at the least.  Arrays with more than two axes are taken
    as matrices of their last two.

    For large models whose optimizer must take little memory: for a matrix of a rows and b columns a + b numbers in
    place of the 2 a b of Adam.  Usually slower to converge than Adam, for want of momentum.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 1e-2
        Largest step relative to the size of the parameter, >= 0.
    beta2_decay : float, default -0.8
        Power of t by which the running means slow down, <= 0.
    eps : pair of float, default (None, 1e-3)
        What the root of v is at the least, >= 0, where None is the machine epsilon of the parameter's dtype; and what
        the size of the parameter counts as at the least, >= 0.
    d : float, default 1.0
        Size of u above which it is scaled down, >= 1.
    weight_decay : float, default 0
        Decay within the rule, >= 0: p * (1 - lr * weight_decay), once the size of p has been taken.
    **shared
        The options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``R``, of the parameter's shape without its last axis, and ``C``, without its last but one, or, with fewer
    than two axes, ``v`` of the parameter's shape; each of its dtype.  Means are taken over whole matrices: cutting an
    array into several changes the rule.  A step reads the gradient three times and makes no temporary array but sums: a
    few doubles for each row and column, or more where they are cut, at 1024 columns and 65536 elements.

    As in torch.optim, but rows and columns are summed in double, eps[0] = 0 and gradients that were always 0 give no
    update where torch gives NaN, and a NaN in p or u makes the sizes, and with them all of p, NaN, where torch goes on
    without them.  The paper adds eps[0] to g^2 and has 1e-30 there; optax's adafactor differs in its
    defaults, factors only axes of 128 and more, and clips by block.

    References
    ----------
    Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear memory cost", 2018,
    https://arxiv.org/abs/1804.04235.
    """

    _own_decay = True
    _matrices = True
    _parts: ClassVar = {"eps": ("eps1", "eps2")}

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-2,
        *,
        beta2_decay: Number = -0.8,
        eps: tuple[Number | None, Number] = (None, 1e-3),
        d: Number = 1.0,
        **shared: Unpack[Shared],
    ) -> None:
        hyper = {"lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d}
        super().__init__(params, hyper, **shared)

    @classmethod
    def _flat(cls, hyper: Mapping[str, Any]) -> dict[str, Any]:
        flat = super()._flat(hyper)
        if flat["eps1"] is None:
            flat["eps1"] = math.inf
        return flat


class SM3(Optimizer):
    r"""SM3: Adagrad whose sums of squares are told from one number for each row and one for each column.

    ::

        nu = b2 * (smallest mu of the element's axes) + w * g^2     w = 1 - b2, but 1 where b2 is 1
        mu of each index of an axis = largest nu over all the other axes
        u = g / sqrt(nu + eps)                                      0 where nu is 0
        m = momentum * m + (1 - momentum) * u
        p = p - lr * m

    Arrays with fewer than two axes have one mu for each element, which is nu.  For large models with embeddings and
    attention, whose gradients are alike along rows and columns, in little memory.  As Adagrad's, its steps shrink for
    ever, unless b2 < 1.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, default 0.1
        Learning rate, >= 0.
    momentum : float, default 0.9
        Share of the buffer that is kept, in [0, 1).
    b2 : float, default 1.0
        Share of the sums that is kept, in [0, 1].  At 1 this is the paper's rule.
    eps : float, default 1e-8
        Added inside the root, >= 0.
    **shared
        weight_decay=0.0 (L2), and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m``, of the parameter's shape and dtype, and ``mu``, of its dtype: one axis of the parameter after the
    other, so that a matrix of a rows and b columns has a + b numbers; for arrays with fewer than two axes of their own
    shape.  Maxima are taken over each array as a whole: cutting an array into several changes the rule.

    As optax.sm3, whose scale_by_sm3 has b2 and eps as well, and which refuses arrays without axes.  The paper has no
    eps.

    References
    ----------
    Anil, Gupta, Koren and Singer, "Memory-efficient adaptive optimization", 2019, https://arxiv.org/abs/1901.11150.
    """

    _matrices = True

    def __init__(
        self,
        params: Params,
        lr: Number = 0.1,
        *,
        momentum: Number = 0.9,
        b2: Number = 1.0,
        eps: Number = 1e-8,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "b2": b2, "eps": eps}, **shared)


class Muon(Optimizer):
    r"""Muon: momentum whose matrix is replaced by about the nearest orthogonal one, for the matrices of hidden layers.

    ::

        b = momentum * b + (1 - momentum) * g
        u = b                                       nesterov: momentum * b + (1 - momentum) * g
        X = u / max(|u|, eps)                       transposed where it has more rows than columns
        ns_steps times, with ns_coefficients A, B, C:
            X = A * X + (B * X X^T + C * (X X^T)^2) X
        p = p * (1 - lr * weight_decay) - lr * size * X

    The iteration drives all singular values of X to about 1 (0.7 to 1.2 with the coefficients given) and leaves its
    singular vectors.  size is sqrt(max(1, rows / columns)), or with ``adjust_lr_fn="match_rms_adamw"``
    0.2 * sqrt(max(rows, columns)), at which learning rates and decay of `AdamW` can be kept.

    For the hidden layers of transformers and other deep networks, where it needs fewer steps than AdamW.  Embeddings,
    the last layer, biases and gains belong into an optimizer of their own, such as `AdamW`.

    Parameters
    ----------
    params
        The arrays to update in place, with two axes each; see `Optimizer`.
    lr : float, default 1e-3
        Learning rate, >= 0.
    weight_decay : float, default 0.1
        Decoupled decay, >= 0.
    momentum : float, default 0.95
        Share of the buffer that is kept, in [0, 1).
    nesterov : bool, default True
        Look ahead along the buffer.
    ns_coefficients : three floats, default (3.4445, -4.775, 2.0315)
        The coefficients of the iteration.
    eps : float, default 1e-7
        What the norm of u is at the least, >= 0.
    ns_steps : int, default 5
        Iterations, at least 1 and below 100.
    adjust_lr_fn : {None, "original", "match_rms_adamw"}, default None
        How the step is adjusted to the shape; None is "original".
    **shared
        The options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range, and arrays that cannot be updated in place or have not two axes.

    Notes
    -----
    State: ``b``, of the parameter's shape and dtype.  Another array of that size is kept for u.

    As in torch.optim, but X is computed in the parameter's dtype, where torch rounds to bfloat16; so results agree with
    torch's to two digits or so of each step, and are more precise.  The products of matrices are NumPy's, which
    releases the GIL and has threads of its own: unlike those of all other rules, the bits of a step depend on its BLAS,
    and NaN and infinity reach all of their matrix.

    References
    ----------
    Jordan, Jin, Boza, You, Cesista, Newhouse and Bernstein, "Muon: an optimizer for hidden layers in neural networks",
    2024, https://kellerjordan.github.io/posts/muon/.  match_rms_adamw: Liu et al., "Muon is scalable for LLM training",
    2025, https://arxiv.org/abs/2502.16982.
    """

    _decoupled = True
    _parts: ClassVar = {"ns_coefficients": ("ns_coefficient",) * 3}
    _directions: tuple[Array, ...] = ()

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-3,
        *,
        weight_decay: Number = 0.1,
        momentum: Number = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[Number, Number, Number] = (3.4445, -4.775, 2.0315),
        eps: Number = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        **shared: Unpack[StepOptions],
    ) -> None:
        hyper = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        super().__init__(params, hyper, weight_decay=weight_decay, **shared)

    @classmethod
    def _check(cls, label: str, hyper: Mapping[str, Any]) -> None:
        super()._check(label, {key: value for key, value in hyper.items() if key != "adjust_lr_fn"})
        if hyper["ns_steps"] != int(hyper["ns_steps"]):
            raise ValueError(f"{label}: ns_steps must be an integer in [1, 100), got {hyper['ns_steps']!r}")
        how = hyper["adjust_lr_fn"]
        if how is not None and (not isinstance(how, str) or how not in ("original", "match_rms_adamw")):
            raise ValueError(f"{label}: adjust_lr_fn must be None, original or match_rms_adamw, got {brief(how)}")

    @classmethod
    def _check_array(cls, label: str, array: Array) -> None:
        if array.ndim != 2:
            raise ValueError(
                f"{label} must have two axes for this rule, got shape {array.shape}: others belong into an optimizer of"
                f" their own, such as AdamW"
            )

    def _append(self, *args: Any, **kwargs: Any) -> None:
        super()._append(*args, **kwargs)
        new = list(self.state.values())[len(self._directions) :]
        self._directions += tuple(dict.pop(arrays, "u") for arrays in new)  # of one step, so no state
        self._table.call_in_between(WeakMethod(self._orthogonalize))  # the table is not to keep the optimizer alive

    def _orthogonalize(self, used: list[int], step_count: int) -> None:
        """Replace the directions of these parameters by their orthogonal matrices, scaled to their shapes."""
        hyper = [values for group in self.groups for values in [at(group, step_count)] * len(group["params"])]
        for i in used:
            u, of_u = self._directions[i], hyper[i]
            rows, columns = u.shape
            size = math.sqrt(max(1, rows / columns)) if u.size else 1.0
            if of_u["adjust_lr_fn"] == "match_rms_adamw":
                size = 0.2 * math.sqrt(max(rows, columns))
            X = orthogonal(u, of_u["ns_coefficients"], int(of_u["ns_steps"]), of_u["eps"])
            np.multiply(X, u.dtype.type(size), out=u)


def of_norm_one(u: Array, eps: float) -> Array:
    """Return u / max(|u|, eps), also where squares of u overflow or underflow in its dtype."""
    numbers = np.finfo(u.dtype)
    least = max(u.dtype.type(eps), numbers.tiny)
    norm = np.linalg.norm(u)
    if not math.sqrt(u.size * float(numbers.tiny) / float(numbers.eps)) <= norm <= numbers.max:
        exponent = np.frexp(np.max(np.abs(u), initial=0))[1]
        u, least = np.ldexp(u, -exponent), np.ldexp(least, -exponent)
        norm = np.linalg.norm(u)
    scaled: Array = u / np.maximum(norm, least)
    return scaled


def orthogonal(u: Array, coefficients: tuple[float, float, float], steps: int, eps: float) -> Array:
    """Return about the nearest orthogonal matrix, by Newton-Schulz iterations in the matrix's dtype."""
    with np.errstate(all="ignore"):
        X: Array = of_norm_one(u.T if u.shape[0] > u.shape[1] else u, eps)
        A, B, C = map(u.dtype.type, coefficients)
        for _ in range(steps):
            S = X @ X.T
            X = A * X + (B * S + C * (S @ S)) @ X
    return X.T if u.shape[0] > u.shape[1] else X
