"""RAdam."""

import math

import numpy as np
import pytest

import fastopt
from support.arithmetic import above_root, age_deficit, moments, power, weight
from support.rule import ByHand, Class, Rule
from support.twins import DECOUPLED, EPS, OptaxTwin, TorchTwin, always, betas


def radam(p, g, m, v, *, t, lr, beta1, beta2, eps):
    T = p.dtype.type
    power2, rho_inf = power(beta2, t), 2 / (1 - beta2) - 1
    rho = min(rho_inf - 2 * age_deficit(beta2, t), rho_inf)
    lr_t = lr / weight(T, beta1, t)
    if rho > 5:
        r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        lr_t *= r * math.sqrt(1 - power2)
    moments(m, v, g, beta1, beta2)
    p -= T(lr_t) * m / (np.sqrt(v) + above_root(T, beta2, eps, t) if rho > 5 else T(1))


RULES = [Rule(radam, corrected=("beta1", "beta2"))]


BETAS = (0.5, 0.75)
RHO_6 = 19 - 12 * 0.9**6 / (1 - 0.9**6)
R_6 = math.sqrt((RHO_6 - 4) * (RHO_6 - 2) * 19 / (15 * 17 * RHO_6))


CLASSES = [
    Class(
        "RAdam",
        {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "decoupled_weight_decay": False},
        "radam",
        options={
            "never_rectified": {"betas": (0.9, 0.6)},
            "as_torch": {"weight_decay": 0.1, "decoupled_weight_decay": True},
        },
        corrects_by_age=True,
        by_hand={
            # rho = 1, momentum alone: m_hat = 2;  m = 0.5 * 1 + 0.5 * 4 = 2.5, m_hat = 2.5 / 0.75
            "": ByHand({"betas": BETAS}, [2, 4], [0.8, 0.8 - 1 / 3]),
            # rho_inf = 19, and rho is above 5 on step 6: m = 0.5, m_hat = 0.5 / (1 - 0.5^6), v_hat = 0.1 / (1 - 0.9^6)
            "rectified": ByHand(
                {"betas": (0.5, 0.9), "eps": 0.0},
                [0, 0, 0, 0, 0, 1],
                [1, 1, 1, 1, 1, 1 - 0.1 * R_6 * 32 / 63 * math.sqrt(10 * (1 - 0.9**6))],
            ),
        },
        torch=TorchTwin({"betas": betas, "eps": EPS}, {"never_rectified": {"betas": always((0.9, 0.6))}, **DECOUPLED}),
        optax={
            # Without eps it makes no difference that optax corrects the root before it adds eps.
            "": OptaxTwin(
                {"lr": 0.01, "betas": (0.9, 0.99), "eps": 0.0},
                lambda optax: optax.radam(0.01, b1=0.9, b2=0.99, eps=0.0),
            ),
        },
    ),
]


@pytest.mark.parametrize("betas2", [(0.9, 0.999), (0.999, 0.9), (0.99, 0.5), (0.5, 0.99), (0.0, 0.95)])
def test_the_window_where_betas_change(betas2):
    """rho is 1 plus twice the mean age of the gradients in v, at most what it tends to, from all their weights."""
    p, lr = np.zeros(1), 0.1
    opt = fastopt.RAdam(p, lr=lr, betas=(0.9, betas2[0]), eps=0.0)
    used = []
    for t in range(1, 41):
        used.append(betas2[t > 20])
        opt.groups[0]["betas"] = (0.9, used[-1])
        before = p.copy()
        opt.step(np.ones(1))
        weights = [(1 - beta) * math.prod(used[i + 1 :]) for i, beta in enumerate(used)]
        ages = np.arange(t - 1, -1, -1)
        rho_inf = 2 / (1 - used[-1]) - 1
        rho = min(2 * np.average(ages, weights=weights) + 1, rho_inf)
        r = (
            math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            if rho > 5 + 1e-9
            else 1.0
        )
        assert r <= 1
        np.testing.assert_allclose(before - p, lr * r, rtol=1e-10)
