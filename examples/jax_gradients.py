"""Gradients by JAX, steps by fastopt.

JAX differentiates and compiles the loss.  The parameters are NumPy arrays, which JAX reads and fastopt updates in
place.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import fastopt

SIZES = [(2, 256), (256, 256), (256, 1)]


def new_network():
    """Three layers as a nest of NumPy arrays."""
    rng = np.random.default_rng(0)
    return [
        {"w": rng.normal(0, (2 / m) ** 0.5, (m, n)).astype(np.float32), "b": np.zeros(n, np.float32)} for m, n in SIZES
    ]


def predict(net, x):
    """The value at each point."""
    for layer in net[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return (x @ net[-1]["w"] + net[-1]["b"])[:, 0]


@jax.jit
@jax.value_and_grad
def loss_and_gradients(net, x, y):
    """The mean squared error, and its gradient."""
    return jnp.mean((predict(net, x) - y) ** 2)


def surface(x):
    """A function to learn."""
    return np.sin(3 * x[:, 0]) * np.cos(4 * x[:, 1])


def batches():
    """Points and values, the same in each call."""
    rng = np.random.default_rng(1)
    for _ in range(500):
        x = rng.uniform(-1, 1, (256, 2)).astype(np.float32)
        yield x, surface(x)


# %%
# The loop with fastopt: gradients have the nest of the parameters, and are read in place, without a copy.

net, losses = new_network(), []
opt = fastopt.Adam(net, lr=3e-3)
for x, y in batches():
    loss, grads = loss_and_gradients(net, x, y)
    opt.step(jax.tree.map(np.asarray, grads))
    losses.append(loss)

# %%
# The same with optax, whose step makes new arrays.  The losses agree to rounding.

theirs, their_losses, tx = jax.tree.map(jnp.asarray, new_network()), [], optax.adam(3e-3)
state = tx.init(theirs)
for x, y in batches():
    loss, grads = loss_and_gradients(theirs, x, y)
    updates, state = tx.update(grads, state)
    theirs = optax.apply_updates(theirs, updates)
    their_losses.append(loss)
print(f"loss with fastopt {losses[-1]:.6f}, with optax {their_losses[-1]:.6f}")

fig, ax = plt.subplots(layout="constrained")
ax.semilogy(losses, label="fastopt")
ax.semilogy(their_losses, "--", label="optax")
ax.set(xlabel="steps", ylabel="loss")
ax.legend()
plt.show()
