"""Rprop."""

import numpy as np

from support.arithmetic import Flushed, flush, larger
from support.rule import ByHand, Class, Rule
from support.twins import TorchTwin, always


def rprop(p, g, prev, step_size, *, t, lr, eta_minus, eta_plus, step_min, step_max):
    T = p.dtype.type
    numbers = [T(x) for x in (lr, eta_minus, eta_plus, step_min, step_max)]
    lr, eta_minus, eta_plus, step_min, step_max = abs(flush(numbers))  # 0 for -0, and for subnormals
    if t == 1:
        step_size[...] = lr

    def sign(x):
        return np.where(x > 0, T(1), np.where(x < 0, T(-1), T(0))).view(Flushed)

    turn = sign(g) * sign(prev)
    eta = np.where(turn > 0, T(eta_plus), np.where(turn < 0, T(eta_minus), T(1)))
    raised = larger(step_size * eta, T(step_min))
    step_size[...] = np.where(raised > T(step_max), T(step_max), raised)
    p -= np.where(turn < 0, T(0), sign(g)).view(Flushed) * step_size
    prev[...] = np.where(turn < 0, T(0), g - T(0))


RULES = [Rule(rprop, starts=True)]


def etas(rng: np.random.Generator) -> tuple[float, float]:
    return float(rng.uniform(0.3, 0.9)), float(rng.uniform(1.05, 2))


CLASSES = [
    Class(
        "Rprop",
        {"lr": 1e-2, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0)},
        "rprop",
        options={"limits": {"etas": (0.25, 2.0), "step_sizes": (4e-3, 2e-2)}},
        conflict=lambda settings: settings["step_sizes"][0] > settings["step_sizes"][1],
        start=lambda settings: {"step_size": settings["lr"]},
        by_hand={
            # steps 0.1, 0.2, 0.05 in the other direction but not taken where the sign turns, 0.05, 0.1
            "": ByHand({"etas": (0.25, 2.0)}, [3, 1, -2, -5, -0.1], [0.9, 0.7, 0.7, 0.75, 0.85]),
            # 0 neither grows nor shrinks the step, and leaves the parameter
            "no gradient": ByHand({"etas": (0.25, 2.0)}, [3, 0, -2], [0.9, 0.9, 1.0]),
            # 0.1, at least 0.125;  0.125 * 2, at most 0.15;  0.15 * 0.25, at least 0.125
            "limits": ByHand(
                {"etas": (0.25, 2.0), "step_sizes": (0.125, 0.15)}, [1, 1, -1, -1], [0.875, 0.725, 0.725, 0.85]
            ),
        },
        torch=TorchTwin({"etas": etas}, {"step_sizes": {"step_sizes": always((2e-3, 2e-2))}}, has_decay=False),
    ),
]
