"""ASGD."""

import math
import sys

from support.arithmetic import exp, log
from support.rule import ByHand, Class, Rule
from support.twins import TorchTwin, between, power_of_ten


def asgd(p, g, ax, *, t, carry, lr, lambd, alpha, t0):
    T = p.dtype.type
    eta = lr if t == 1 else carry["eta"]
    base = 1 + lambd * lr * t
    carry["eta"] = lr * exp(-alpha * log(min(base, sys.float_info.max)))
    mu = T(1 / (t - 1 - t0) if t - 1 - t0 > 1 else 1)
    p[...] = T(1 - lambd * eta) * p - T(eta) * g
    ax[...] = p if mu == 1 else ax + mu * (p - ax)


RULES = [Rule(asgd, carries=("eta",), starts=True)]


CLASSES = [
    Class(
        "ASGD",
        {"lr": 1e-2, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6},
        "asgd",
        options={"averaging": {"lambd": 0.1, "alpha": 0.5, "t0": 1.0}},
        averages=True,
        by_hand={
            # eta = 0.1, p = (1 - 0.5 * 0.1) * 1 - 0.1 * 0.5;  eta = 0.1 / (1 + 0.5 * 0.1 * 1)^0.5
            "": ByHand({"lambd": 0.5, "alpha": 0.5}, [0.5, 1], [0.9, 0.9 - 0.1 / math.sqrt(1.05) * (0.5 * 0.9 + 1)]),
            # p = 0.9, 0.8, 0.7, 0.6, 0.5, averaged from the third step: (0.7 + 0.6) / 2, then (0.7 + 0.6 + 0.5) / 3
            "average": ByHand(
                {"lambd": 0.0, "t0": 1.0}, [1] * 5, [0.9, 0.8, 0.7, 0.6, 0.5], state={"ax": [0.9, 0.8, 0.7, 0.65, 0.6]}
            ),
        },
        torch=TorchTwin(
            options={"early": {"t0": between(0, 30), "lambd": power_of_ten(-3, -1), "alpha": between(0.5, 0.99)}}
        ),
    ),
]
