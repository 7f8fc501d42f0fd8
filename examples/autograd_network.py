"""Gradients by autograd, steps by fastopt.

How do I replace the optimizer of a loop whose gradients come from autograd?  The parameters stay a nest of NumPy
arrays.  autograd returns gradients in the same nest, and fastopt updates the arrays in place.  The optimizer of
autograd, ``autograd.misc.optimizers.adam``, ends at the same parameters to rounding.
"""

import time

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np
from autograd import value_and_grad
from autograd.misc import flatten, optimizers

import fastopt

SIZES, STEPS, RATE = [(1, 128), (128, 128), (128, 1)], 400, 3e-3
rng = np.random.default_rng(0)
x = np.linspace(-3, 3, 200)[:, None]
y = np.sin(3 * x) * np.exp(-(x**2) / 4) + rng.normal(0, 0.05, x.shape)


def new_network():
    """Three layers in float64."""
    rng = np.random.default_rng(1)
    return [{"w": rng.normal(0, m**-0.5, (m, n)), "b": rng.uniform(-1, 1, n)} for m, n in SIZES]


def predict(net, x):
    """The value at each point."""
    for layer in net[:-1]:
        x = anp.tanh(anp.dot(x, layer["w"]) + layer["b"])
    return anp.dot(x, net[-1]["w"]) + net[-1]["b"]


@value_and_grad
def loss_and_gradients(net):
    """The mean squared error, and its gradient."""
    return anp.mean((predict(net, x) - y) ** 2)


class Gradients:
    """The gradient in the form that autograd's optimizers call; keeps the losses and the seconds that it takes."""

    def __init__(self):
        self.losses, self.seconds = [], 0.0

    def __call__(self, net, step):
        start = time.perf_counter()
        loss, grads = loss_and_gradients(net)
        self.losses.append(loss)
        self.seconds += time.perf_counter() - start
        return grads


# %%
# The loop with fastopt, and the call of autograd's optimizer, which makes new arrays in each step.

ours, our_gradients = new_network(), Gradients()
opt = fastopt.Adam(ours, lr=RATE)
start = time.perf_counter()
for step in range(STEPS):
    opt.step(our_gradients(ours, step))
our_seconds = time.perf_counter() - start - our_gradients.seconds

their_gradients = Gradients()
start = time.perf_counter()
theirs = optimizers.adam(their_gradients, new_network(), num_iters=STEPS, step_size=RATE)
their_seconds = time.perf_counter() - start - their_gradients.seconds

for name, gradients, seconds in [("fastopt", our_gradients, our_seconds), ("autograd", their_gradients, their_seconds)]:
    print(f"{name:8} last loss {gradients.losses[-1]:.6f}   one step {seconds / STEPS * 1e6:6.0f} microseconds")
print(f"largest difference of parameters {abs(flatten(ours)[0] - flatten(theirs)[0]).max():.1e}")

plt.plot(x, y, ".", label="data")
plt.plot(x, predict(ours, x), label="fastopt")
plt.plot(x, predict(theirs, x), "--", label="autograd.misc.optimizers")
plt.legend(loc="upper right")
plt.show()
