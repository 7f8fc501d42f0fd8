"""A rule of your own.

MVN-Grad divides each gradient by the root of its variance, and then takes the running mean: Patitucci and Mokhtari,
"Adaptive optimization via momentum on variance-normalized gradients", 2026, https://arxiv.org/abs/2602.10204.  It is
one function, which Numba compiles.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastopt
from fastopt.own_rules import next_mean, product, sqrt, weight


def corrections(t, *, lr, beta1, beta2, eps):
    """Corrections of the bias of the means, as in Adam."""
    root2 = sqrt(1 - product(beta2))
    return lr / weight(beta1), root2, eps * root2, 1 - beta2


@fastopt.rule(scalars=corrections)
def mvn_grad(p, g, m, v, u, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, lr_t, root2, eps_t, rest2):
    """MVN-Grad: v is the variance of the gradient around its mean m, u the mean of normalized gradients."""
    m = beta1 * m + (1 - beta1) * g
    v = next_mean(v, (g - m) ** 2, beta2, rest2)
    u = beta1 * u + (1 - beta1) * (root2 * g / (sqrt(v) + eps_t))
    return p - lr_t * u, m, v, u


def spirals(count, rng):
    """Points of two spirals, and the spiral of each."""
    label = np.arange(count) % 2
    turn = rng.uniform(0.5, 6, count)
    x = turn[:, None] * np.stack([np.cos(turn + np.pi * label), np.sin(turn + np.pi * label)], axis=1) / 6
    return (x + rng.normal(0, 0.02, x.shape)).astype(np.float32), label


def loss_and_gradients(net, x, label):
    """The mean logistic loss of a network with two hidden layers, and its gradients."""
    a = np.maximum(x @ net["w1"] + net["b1"], 0)
    b = np.maximum(a @ net["w2"] + net["b2"], 0)
    side = 2 * label - 1
    margin = side * (b @ net["w3"])[:, 0]
    d_out = (side * (np.tanh(margin / 2) - 1) / 2 / len(x))[:, None].astype(np.float32)
    d_b = (d_out @ net["w3"].T) * (b > 0)
    d_a = (d_b @ net["w2"].T) * (a > 0)
    grads = {"w1": x.T @ d_a, "b1": d_a.sum(0), "w2": a.T @ d_b, "b2": d_b.sum(0), "w3": b.T @ d_out}
    return float(np.mean(np.logaddexp(0, -margin))), grads


def trained(optimizer):
    """The losses of a network in 120 steps."""
    rng = np.random.default_rng(0)
    x, label = spirals(400, rng)
    shapes = {"w1": (2, 64), "b1": (64,), "w2": (64, 64), "b2": (64,), "w3": (64, 1)}
    net = {name: rng.normal(0, shape[0] ** -0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    opt, losses = optimizer(net, lr=3e-3, clip_norm=1.0), []
    for _ in range(120):
        loss, grads = loss_and_gradients(net, x, label)
        losses.append(loss)
        opt.step(grads)
    return losses


for rule in (mvn_grad, fastopt.Adam, fastopt.Lion):
    losses = trained(rule)
    print(f"{rule.__name__:8} loss {losses[0]:.3f} before, {losses[-1]:.3f} after")
    plt.semilogy(losses, label=rule.__name__)
plt.xlabel("step")
plt.ylabel("loss")
plt.legend()
plt.show()
