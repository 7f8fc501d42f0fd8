"""A network in plain NumPy.

Two layers and their gradients by hand, trained on handwritten digits with SGD, Adam and Muon.  The optimizer updates
the arrays of the network in place; everything else is NumPy.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import fastopt
from fastopt import schedules

digits = load_digits()
images, labels = (digits.data / 16).astype(np.float32), digits.target
train, test = slice(0, 1500), slice(1500, None)


def new_network(rng):
    """Two layers, whose weights keep the size of the signal."""
    return {
        "hidden.w": rng.standard_normal((64, 128), np.float32) / 8,
        "hidden.b": np.zeros(128, np.float32),
        "out.w": rng.standard_normal((128, 10), np.float32) / 11,
        "out.b": np.zeros(10, np.float32),
    }


def forward(net, x):
    """The hidden layer and the scores of the ten digits."""
    hidden = np.maximum(x @ net["hidden.w"] + net["hidden.b"], 0)
    return hidden, hidden @ net["out.w"] + net["out.b"]


def loss_and_gradients(net, x, y):
    """The cross-entropy of a batch, and its gradient for each array."""
    hidden, scores = forward(net, x)
    scores -= scores.max(axis=1, keepdims=True)
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    error = np.exp(log_p)
    error[np.arange(len(y)), y] -= 1
    error /= len(y)
    back = (error @ net["out.w"].T) * (hidden > 0)
    return -log_p[np.arange(len(y)), y].mean(), {
        "hidden.w": x.T @ back,
        "hidden.b": back.sum(axis=0),
        "out.w": hidden.T @ error,
        "out.b": error.sum(axis=0),
    }


# %%
# Three optimizers.  Muon is for the matrix between hidden layers; AdamW takes the other arrays.  `Combined` steps both.

STEPS = 600
optimizers = {
    "SGD": lambda net: fastopt.SGD(net, lr=schedules.cosine(0.1, STEPS), momentum=0.9, nesterov=True),
    "Adam": lambda net: fastopt.Adam(net, lr=schedules.cosine(0.01, STEPS), clip_norm=1.0),
    "Muon": lambda net: fastopt.Combined(
        [
            fastopt.Muon({"hidden.w": net.pop("hidden.w")}, lr=schedules.cosine(0.02, STEPS)),
            fastopt.AdamW(net, lr=schedules.cosine(0.01, STEPS)),
        ]
    ),
}

# %%
# The loop is the same for all.

fig, ax = plt.subplots(layout="constrained")
for name, make in optimizers.items():
    rng = np.random.default_rng(0)
    net, losses = new_network(rng), []
    opt = make(dict(net))
    for _ in range(STEPS):
        batch = rng.integers(0, 1500, 64)
        loss, grads = loss_and_gradients(net, images[batch], labels[batch])
        opt.step(grads)
        losses.append(loss)
    right = forward(net, images[test])[1].argmax(axis=1) == labels[test]
    print(f"{name:4} loss {np.mean(losses[-50:]):.4f}   right on new digits: {right.mean():.1%}")
    ax.plot(np.convolve(losses, np.ones(20) / 20, "valid"), label=name)
ax.set(xlabel="steps", ylabel="loss, mean of 20 batches", yscale="log")
ax.legend()
plt.show()
