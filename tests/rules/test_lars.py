"""LARS, with momentum or Nesterov's momentum."""

from support.rule import ByHand, Class, Rule
from support.sums import trust
from support.twins import OptaxTwin


def lars(p, g, b, *, t, lr, momentum, trust_coefficient, eps):
    T = p.dtype.type
    step = T(lr * trust(p, g, trust_coefficient, eps)) * g
    b[...] = T(momentum) * b + step
    p -= b


def lars_nesterov(p, g, b, *, t, lr, momentum, trust_coefficient, eps):
    T = p.dtype.type
    step = T(lr * trust(p, g, trust_coefficient, eps)) * g
    b[...] = T(momentum) * b + step
    p -= T(momentum) * b + step


RULES = [
    Rule(lars, gathers="alone"),
    Rule(lars_nesterov, gathers="alone"),
]


CLASSES = [
    Class(
        "LARS",
        {"lr": 1.0, "momentum": 0.9, "trust_coefficient": 1e-3, "eps": 0.0, "nesterov": False},
        lambda settings: "lars_nesterov" if settings["nesterov"] else "lars",
        options={"nesterov": {"nesterov": True}, "eps": {"eps": 0.1, "trust_coefficient": 0.1}},
        by_hand={
            # |p| / |g| = 1 / 2, b = 0.1 * 1/2 * 2;  p = 0.9, |p| / |g| = 0.9 / 4, b = 0.5 * 0.1 + 0.09
            "": ByHand({"momentum": 0.5, "trust_coefficient": 1.0}, [2, 4], [0.9, 0.76]),
            # along 0.5 * 0.1 + 0.1;  p = 0.85, b = 0.05 + 0.085, along 0.0675 + 0.085
            "nesterov": ByHand({"momentum": 0.5, "trust_coefficient": 1.0, "nesterov": True}, [2, 4], [0.85, 0.6975]),
        },
        never_larger=0,  # a norm, to which others add
        optax={
            "": OptaxTwin(
                {"lr": 0.1, "momentum": 0.9, "trust_coefficient": 0.01, "weight_decay": 0.1},
                lambda optax: optax.lars(0.1, momentum=0.9, trust_coefficient=0.01, weight_decay=0.1),
            ),
            "nesterov": OptaxTwin(
                {"lr": 0.1, "momentum": 0.9, "trust_coefficient": 0.01, "eps": 0.1, "nesterov": True},
                lambda optax: optax.lars(0.1, momentum=0.9, trust_coefficient=0.01, eps=0.1, nesterov=True),
            ),
        },
    ),
]
