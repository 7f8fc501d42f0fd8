"""First steps worked out by hand. All start at p = 1 with lr = 0.1; other values are chosen so that roots come out."""

from math import exp, log, sqrt

import numpy as np
import pytest

import fastopt

BETAS = (0.5, 0.75)
MU_1 = 0.9 * (1 - 0.5 * 0.96**0.004)
MU_2 = 0.9 * (1 - 0.5 * 0.96**0.008)
RHO_6 = 19 - 12 * 0.9**6 / (1 - 0.9**6)
R_6 = sqrt((RHO_6 - 4) * (RHO_6 - 2) * 19 / (15 * 17 * RHO_6))

# name: class, options, gradients, the parameter after each
STEPS = {
    "sgd": ("SGD", {}, [0.5, -1], [0.95, 1.05]),
    # p = 1, weight_decay = 0.5: g = 2 + 0.5 * 1;  then p = 0.75: g = 0 + 0.375
    "sgd, L2": ("SGD", {"weight_decay": 0.5}, [2, 0], [0.75, 0.7125]),
    "sgd, maximize": ("SGD", {"maximize": True}, [0.5], [1.05]),
    # the decay still pulls to 0: g = -2 + 0.5 * 1
    "sgd, maximize and L2": ("SGD", {"maximize": True, "weight_decay": 0.5}, [2], [1.15]),
    # b = 0.5;  b = 0.9 * 0.5 + 0.5 = 0.95
    "momentum": ("SGD", {"momentum": 0.9}, [0.5, 0.5], [0.95, 0.855]),
    # b = 0.5, undamped on the first step;  b = 0.9 * 0.5 + 0.5 * 0.5 = 0.7
    "momentum, dampening": ("SGD", {"momentum": 0.9, "dampening": 0.5}, [0.5, 0.5], [0.95, 0.88]),
    # b = 0.5, along 0.5 + 0.9 * 0.5 = 0.95;  b = 0.95, along 0.5 + 0.9 * 0.95 = 1.355
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}, [0.5, 0.5], [0.905, 0.7695]),
    # G = 4, 2 / 2 = 1;  G = 6.25, 1.5 / 2.5 = 0.6
    "adagrad": ("Adagrad", {"eps": 0.0}, [2, 1.5], [0.9, 0.84]),
    # the second step has lr = 0.1 / (1 + 1)
    "adagrad, lr_decay": ("Adagrad", {"eps": 0.0, "lr_decay": 1.0}, [2, 1.5], [0.9, 0.87]),
    # G = 5 + 4, 2 / 3
    "adagrad, accumulator": ("Adagrad", {"eps": 0.0, "initial_accumulator_value": 5.0}, [2], [1 - 0.2 / 3]),
    # eps stands outside the root: 2 / (2 + 2)
    "adagrad, eps": ("Adagrad", {"eps": 2.0}, [2], [0.95]),
    # E = 0.25 * 4 = 1, sqrt((0 + 1/3) / (1 + 1/3)) = 1/2, d = 1, D = 0.25
    # E = 0.75 + 1 = 1.75, sqrt((1/4 + 1/3) / (7/4 + 1/3)) = sqrt(7/25), d = 2 sqrt(7) / 5
    "adadelta": ("Adadelta", {"rho": 0.75, "eps": 1 / 3}, [2, 2], [0.9, 0.9 - 0.04 * sqrt(7)]),
    # v = 0.25 * 4 = 1, 2 / (1 + 1) = 1;  v = 0.75 + 0.25 = 1, 1 / (1 + 1) = 0.5
    "rmsprop": ("RMSprop", {"alpha": 0.75, "eps": 1.0}, [2, 1], [0.9, 0.85]),
    # b = 1;  b = 0.5 * 1 + 0.5 = 1
    "rmsprop, momentum": ("RMSprop", {"alpha": 0.75, "eps": 1.0, "momentum": 0.5}, [2, 1], [0.9, 0.8]),
    # v = 0.5 * 4 = 2, a = 1, 2 / (sqrt(2 - 1) + 1) = 1;  v = 1 + 2 = 3, a = 1.5, 2 / (sqrt(3/4) + 1)
    "rmsprop, centered": (
        "RMSprop",
        {"alpha": 0.5, "eps": 1.0, "centered": True},
        [2, 2],
        [0.9, 0.9 - 0.2 / (sqrt(0.75) + 1)],
    ),
    # b = 1;  b = 0.5 * 1 + 2 / (sqrt(3/4) + 1)
    "rmsprop, both": (
        "RMSprop",
        {"alpha": 0.5, "eps": 1.0, "centered": True, "momentum": 0.5},
        [2, 2],
        [0.9, 0.85 - 0.2 / (sqrt(0.75) + 1)],
    ),
    # m_hat = 2, v_hat = 4, 2 / (2 + 2)
    # m = 0.5 * 1 + 0.5 * 4 = 2.5, m_hat = 2.5 / 0.75;  v = 0.75 * 1 + 0.25 * 16 = 4.75, v_hat = 4.75 / 0.4375 = 76/7
    "adam": ("Adam", {"betas": BETAS, "eps": 2.0}, [2, 4], [0.95, 0.95 - 1 / 3 / (sqrt(76 / 7) + 2)]),
    # beta1 = 1/2, then 1/4: m = 0.25 * 1 + 0.75 * 4 = 3.25, m_hat = 3.25 / (1 - 1/2 * 1/4)
    "adam, betas that change": (
        "Adam",
        {"betas": (lambda t: 0.5 if t == 0 else 0.25, 0.75), "eps": 2.0},
        [2, 4],
        [0.95, 0.95 - 0.1 * (3.25 / 0.875) / (sqrt(76 / 7) + 2)],
    ),
    # the first step is lr whatever the gradient
    "adam, first step": ("Adam", {"eps": 0.0}, [1e-3], [0.9]),
    # m = 2, v = 4;  m = 1, m_hat = 4/3, v = 3 but vmax = 4, v_hat = 4 / 0.4375 = 64/7
    "amsgrad": (
        "Adam",
        {"betas": BETAS, "eps": 4.0, "amsgrad": True},
        [4, 0],
        [0.95, 0.95 - 0.4 / 3 / (8 / sqrt(7) + 4)],
    ),
    # L2 joins both moments: g = 1 + 1, so the step is that of adam with 2
    "adam, L2": ("Adam", {"betas": BETAS, "eps": 2.0, "weight_decay": 1.0}, [1], [0.95]),
    # p = 1 * (1 - 0.1 * 0.5), then 2 / (2 + 2)
    "adamw": ("AdamW", {"betas": BETAS, "eps": 2.0, "weight_decay": 0.5}, [2], [0.9]),
    # the decay does not turn round with the gradient: p = 0.95 + 0.05
    "adamw, maximize": ("AdamW", {"betas": BETAS, "eps": 2.0, "weight_decay": 0.5, "maximize": True}, [2], [1.0]),
    # m = 1, u = 2, 0.1 / 0.5 * 1/2 = 0.1;  m = 0.5 + 0.25, u = max(0.5 * 2, 0.5) = 1, 0.1 / 0.75 * 0.75
    "adamax": ("Adamax", {"betas": (0.5, 0.5), "eps": 0.0}, [2, 0.5], [0.9, 0.8]),
    # u = max(0, 2 + 2)
    "adamax, eps": ("Adamax", {"betas": (0.5, 0.5), "eps": 2.0}, [2], [0.95]),
    # u stays 0 until there is a gradient; then m = 0.5 * 2, m_hat = 1 / 0.75, u = 2
    "adamax, no gradient": ("Adamax", {"betas": (0.5, 0.5), "eps": 0.0}, [0, 2], [1, 1 - 0.1 / 1.5]),
    # m = 1, v_hat = 4;  0.5 * 1 / (1 - 0.25) + 0.5 * 2 / (1 - 0.5) = 8/3, over 2 + 2
    "nadam, constant": ("NAdam", {"betas": BETAS, "eps": 2.0, "momentum_decay": None}, [2], [1 - 0.1 * 8 / 3 / 4]),
    # mu_1 = mu_2 = 0.25;  0.25 * 1 / (1 - 0.0625) + 0.75 * 2 / (1 - 0.25) = 34/15, over 2 + 2
    "nadam, no decay": ("NAdam", {"betas": BETAS, "eps": 2.0, "momentum_decay": 0.0}, [2], [1 - 0.1 * 34 / 15 / 4]),
    # rho = 1, momentum alone: m_hat = 2;  m = 0.5 * 1 + 0.5 * 4 = 2.5, m_hat = 2.5 / 0.75
    "radam": ("RAdam", {"betas": BETAS}, [2, 4], [0.8, 0.8 - 1 / 3]),
    # rho_inf = 19, and rho is above 5 on step 6: m = 0.5, m_hat = 0.5 / (1 - 0.5^6), v_hat = 0.1 / (1 - 0.9^6)
    "radam, rectified": (
        "RAdam",
        {"betas": (0.5, 0.9), "eps": 0.0},
        [0, 0, 0, 0, 0, 1],
        [1, 1, 1, 1, 1, 1 - 0.1 * R_6 * 32 / 63 * sqrt(10 * (1 - 0.9**6))],
    ),
    # steps 0.1, 0.2, 0.05 in the other direction but not taken where the sign turns, 0.05, 0.1
    "rprop": ("Rprop", {"etas": (0.25, 2.0)}, [3, 1, -2, -5, -0.1], [0.9, 0.7, 0.7, 0.75, 0.85]),
    # 0 neither grows nor shrinks the step, and leaves the parameter
    "rprop, no gradient": ("Rprop", {"etas": (0.25, 2.0)}, [3, 0, -2], [0.9, 0.9, 1.0]),
    # 0.1, at least 0.125;  0.125 * 2, at most 0.15;  0.15 * 0.25, at least 0.125
    "rprop, limits": (
        "Rprop",
        {"etas": (0.25, 2.0), "step_sizes": (0.125, 0.15)},
        [1, 1, -1, -1],
        [0.875, 0.725, 0.725, 0.85],
    ),
    # c = 0.1 * 2, m = 0.01 * 2;  c = 0.9 * 0.02 - 0.1 * 1 < 0;  c = 0 at m = 0
    "lion": ("Lion", {"weight_decay": 0.0}, [2, -1], [0.9, 1.0]),
    "lion, decay": ("Lion", {"weight_decay": 0.5}, [2, 0], [0.85, 0.85 * 0.95 - 0.1]),
    "lion, zero": ("Lion", {"weight_decay": 0.0}, [0], [1]),
    # m = 1;  m = 0.5 - 0.5 = 0;  m = -0.5
    "signum": ("Signum", {"beta": 0.5}, [2, -1, -1], [0.9, 0.9, 1.0]),
    # m = 1, m_hat = 2, s = 0.25 * 1 + 1, s_hat = 5, 2 / (sqrt(5) + 1)
    "adabelief": ("AdaBelief", {"betas": BETAS, "eps": 1.0}, [2], [1 - 0.2 / (sqrt(5) + 1)]),
    # p = 1 * (1 - 0.1 * 0.5), and no decay in m and s
    "adabelief, decay": (
        "AdaBelief",
        {"betas": BETAS, "eps": 1.0, "weight_decay": 0.5},
        [2],
        [0.95 - 0.2 / (sqrt(5) + 1)],
    ),
    # m_hat = 2, v = 0.5 + 0.25 * 4 = 1.5, v_hat = 6;  m = 0.5, m_hat = 2/3, v = 1.5 - 0, as g = 0
    "yogi": (
        "Yogi",
        {"betas": BETAS, "eps": 0.0, "initial_accumulator_value": 0.5},
        [2, 0],
        [1 - 0.2 / sqrt(6), 1 - 0.2 / sqrt(6) - 0.1 * (0.5 / 0.75) / sqrt(1.5 / 0.4375)],
    ),
    # m_hat = 2, n_hat = 4, 2 / (2 + 2)
    # d = 1, m = 0.5 + 1.5 = 2, m_hat = 8/3, v = 0.25, v_hat = 4/7, n = 2 + 0.5 (3 + 0.75)^2, n_hat = n / 0.75
    "adan": (
        "Adan",
        {"betas": (0.5, 0.75, 0.5), "eps": 2.0},
        [2, 3],
        [0.95, 0.95 - 0.1 * (8 / 3 + 0.75 * 4 / 7) / (sqrt((1 + 0.5 * 3.75**2) / 0.75) + 2)],
    ),
    # m1_hat = 2, m2 = 0.5, v_hat = 4: (2 + 2 * 0.5) / (2 + 1)
    "ademamix": ("AdEMAMix", {"betas": (*BETAS, 0.75), "alpha": 2.0, "eps": 1.0}, [2], [0.9]),
    # x = 1/2: alpha = 1, beta3 = exp(1 / (0.5 / ln 0.5 + 0.5 / ln 0.75))
    "ademamix, warmup": (
        "AdEMAMix",
        {"betas": (*BETAS, 0.75), "alpha": 2.0, "eps": 1.0, "warmup": 2.0},
        [2],
        [1 - 0.1 * (2 + 2 * (1 - exp(1 / (0.5 / log(0.5) + 0.5 / log(0.75))))) / 3],
    ),
    # eta = 0.1, p = (1 - 0.5 * 0.1) * 1 - 0.1 * 0.5;  eta = 0.1 / (1 + 0.5 * 0.1 * 1)^0.5
    "asgd": (
        "ASGD",
        {"lambd": 0.5, "alpha": 0.5},
        [0.5, 1],
        [0.9, 0.9 - 0.1 / sqrt(1.05) * (0.5 * 0.9 + 1)],
    ),
    # p = 1 * (1 - 0.1 * 0.5), then 2 / (2 + 2), as adamw
    "adam, decoupled": (
        "Adam",
        {"betas": BETAS, "eps": 2.0, "weight_decay": 0.5, "decoupled_weight_decay": True},
        [2],
        [0.9],
    ),
    # the default: m = 0.1 * 1, v_hat = 1, eps = 0
    "nadam": ("NAdam", {"eps": 0.0}, [1], [1 - 0.1 * (MU_2 * 0.1 / (1 - MU_1 * MU_2) + (1 - MU_1) / (1 - MU_1))]),
    # c = 1: z = x = p = 0.8;  c = 1/2: z = 0.7, x = (0.8 + 0.7) / 2, p halfway
    "schedulefreesgd": ("ScheduleFreeSGD", {"momentum": 0.5}, [2, 1], [0.8, 0.725]),
    # lr = 0.05: z = x = 0.9;  lr = 0.1, c = 0.01 / (0.0025 + 0.01): z = 0.8, x = 0.2 * 0.9 + 0.8 * 0.8
    "schedulefreesgd, warm-up": ("ScheduleFreeSGD", {"momentum": 0.5, "warmup_steps": 2}, [2, 1], [0.9, 0.81]),
    # weights 1 and 2, c = 2/3: z = 0.7, x = 0.8 / 3 + 2 * 0.7 / 3
    "schedulefreesgd, r": (
        "ScheduleFreeSGD",
        {"momentum": 0.5, "r": 1.0, "weight_lr_power": 0.0},
        [2, 1],
        [0.8, 0.35 + 1.1 / 3],
    ),
    # as adam, u = 1/2;  then u = 4 / (sqrt(76/7) + 2): z = 0.95 - 0.1 u, x = 0.95 - 0.05 u
    "schedulefreeadamw": (
        "ScheduleFreeAdamW",
        {"betas": BETAS, "eps": 2.0},
        [2, 4],
        [0.95, 0.95 - 0.075 * 4 / (sqrt(76 / 7) + 2)],
    ),
    # u = 1/2 + 0.5 * 1
    "schedulefreeadamw, decay": ("ScheduleFreeAdamW", {"betas": BETAS, "eps": 2.0, "weight_decay": 0.5}, [2], [0.9]),
    # v = 4, u = 1, rms(p) = 1, rms(u) = 1;  rest = 1/2: v = 2 + 32 = 34, u = 8 / sqrt(34) > 1 is scaled to 1
    "adafactor, vector": ("Adafactor", {"beta2_decay": -1.0}, [2, 8], [0.9, 0.81]),
    # rest = 1/2: v = 2 + 1/2, u = 1 / sqrt(2.5);  the step is relative to p = 0.9 * 0.95
    "adafactor, decay": (
        "Adafactor",
        {"beta2_decay": -1.0, "weight_decay": 0.5},
        [2, 1],
        [0.85, 0.85 * 0.95 - 0.1 * 0.85 / sqrt(2.5)],
    ),
    # nu = 4, u = 1, m = 1/2;  nu = 5, u = 1 / sqrt(5), m = 1/4 + 1 / (2 sqrt(5))
    "sm3, vector": (
        "SM3",
        {"momentum": 0.5, "eps": 0.0},
        [2, 1],
        [0.95, 0.925 - 0.05 / sqrt(5)],
    ),
    # nu = 3/4 * 4 = 3, u = 2 / sqrt(3 + 1);  nu = 1/4 * 3 = 3/4, u = 0
    "sm3, b2": ("SM3", {"momentum": 0.0, "b2": 0.25, "eps": 1.0}, [2, 0], [0.9, 0.9]),
    # v counts as 4^2: u = 1/2;  p counts as 2: 0.1 * 2 * 1/2
    "adafactor, eps": ("Adafactor", {"eps": (4.0, 2.0)}, [2], [0.9]),
}


@pytest.mark.parametrize(("cls", "kwargs", "grads", "after"), STEPS.values(), ids=STEPS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 4e-16), (np.float32, 2e-7)], ids=["float64", "float32"])
def test_steps(cls, kwargs, grads, after, dtype, tolerance):
    p = np.ones(3, dtype)
    opt = getattr(fastopt, cls)(p, lr=0.1, **kwargs)
    for g, wanted in zip(grads, after, strict=True):
        opt.step(np.full(3, g, dtype))
        np.testing.assert_allclose(p, wanted, rtol=tolerance, atol=0)


def test_learning_rate_outside_the_momentum_buffer():
    """A new learning rate takes effect at once: b = 1, then 1.5; p = 1 - 0.1 * 1 - 0.01 * 1.5."""
    p = np.ones(1)
    opt = fastopt.SGD(p, lr=0.1, momentum=0.5)
    opt.step(np.ones(1))
    opt.lr = 0.01
    opt.step(np.ones(1))
    np.testing.assert_allclose(p, 0.885, rtol=4e-16)


def test_the_average_of_asgd():
    """p = 0.9, 0.8, 0.7, 0.6, 0.5; averaged from the third step: (0.7 + 0.6) / 2, then (0.7 + 0.6 + 0.5) / 3."""
    p = np.ones(1)
    opt = fastopt.ASGD(p, lr=0.1, lambd=0.0, t0=1.0)
    for wanted in (0.9, 0.8, 0.7, 0.65, 0.6):
        opt.step(np.ones(1))
        np.testing.assert_allclose(opt.state[0]["ax"], wanted, rtol=4e-16)


def test_adafactor_of_a_matrix():
    """R = (5, 20) / 2, C = (5, 20) / 2, v = R C / (25 / 4) = ((1, 4), (4, 16)): u = 1 everywhere, rms(p) = 2."""
    p = np.full((2, 2), 2.0)
    opt = fastopt.Adafactor(p, lr=0.1)
    opt.step(np.array([[1.0, -2.0], [2.0, 4.0]]))
    np.testing.assert_allclose(opt.state[0]["R"], [2.5, 10], rtol=4e-16)
    np.testing.assert_allclose(opt.state[0]["C"], [2.5, 10], rtol=4e-16)
    np.testing.assert_allclose(p, [[1.8, 2.2], [1.8, 1.8]], rtol=4e-16)


def test_sm3_of_a_matrix():
    """nu = ((1, 4), (9, 16)), mu = (4, 16) and (9, 16), u = 1;  min of mu = ((4, 4), (9, 16))."""
    p = np.ones((2, 2))
    opt = fastopt.SM3(p, lr=0.1, momentum=0.0, eps=0.0)
    opt.step(np.array([[1.0, -2.0], [3.0, 4.0]]))
    np.testing.assert_allclose(p, [[0.9, 1.1], [0.9, 0.9]], rtol=4e-16)
    np.testing.assert_array_equal(opt.state[0]["mu"], [4, 16, 9, 16])
    # with a gradient of sqrt(12): nu = 4 + 12, 4 + 12, 9 + 12, 16 + 12, and u = sqrt(12) / sqrt(nu)
    opt.step(np.full((2, 2), sqrt(12)))
    np.testing.assert_allclose(opt.state[0]["mu"], [16, 28, 21, 28], rtol=4e-16)
    steps = 0.1 * sqrt(12) / np.sqrt([[16, 16], [21, 28]])
    np.testing.assert_allclose(p, np.array([[0.9, 1.1], [0.9, 0.9]]) - steps, rtol=4e-16)
