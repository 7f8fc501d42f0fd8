"""Variational inference.

How do I fit a distribution of parameters from noisy gradients?  Each coefficient of a logistic regression has a
Gaussian, whose mean and standard deviation are fitted to the posterior.  A step draws a few coefficients and a few
patients, so that its gradient is noisy.  The average of the parameters (``swa``) is nearer to the solution than the
last parameters.  A Markov chain gives the true posterior, up to the noise of its draws.  Its coefficients are
correlated.  The fitted Gaussians are not, and are therefore narrower.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer

import fastopt
from fastopt import schedules

STEPS, DRAWS, BATCH = 4000, 8, 64
rng = np.random.default_rng(0)
x, label = load_breast_cancer(return_X_y=True)
x = np.column_stack([np.ones(len(x)), (x - x.mean(axis=0)) / x.std(axis=0)])
side, size = 2.0 * label - 1, x.shape[1]


def log_posterior(w):
    """The log posterior of coefficients with a standard normal prior, up to a constant."""
    return -np.logaddexp(0, -side * (x @ w)).sum() - w @ w / 2


def slope(w, rows=slice(None)):
    """The derivatives of the log posterior for each row of w, estimated from some patients."""
    share = len(side[rows]) / len(side)
    miss = side[rows] / (1 + np.exp(side[rows] * (w @ x[rows].T)))
    return miss @ x[rows] / share - w


# %%
# The gradient of the lower bound: coefficients are mean + sd * noise, and the entropy is the sum of log sd.

q = {"mean": np.zeros(size), "log_sd": np.full(size, -1.0)}
opt = fastopt.Adam(q, lr=schedules.cosine(0.05, STEPS, 0.1), maximize=True, swa=(STEPS // 2, 1))
for _ in range(STEPS):
    noise, sd = rng.standard_normal((DRAWS, size)), np.exp(q["log_sd"])
    by_w = slope(q["mean"] + sd * noise, rng.integers(0, len(x), BATCH))
    opt.step({"mean": by_w.mean(axis=0), "log_sd": (by_w * noise * sd).mean(axis=0) + 1})
with opt.swapped("swa"):
    mean, sd = q["mean"].copy(), np.exp(q["log_sd"])

# %%
# The Laplace approximation, by Newton's steps; and a chain of Metropolis steps that are drawn from it.

w = np.zeros(size)
for _ in range(20):
    p = 1 / (1 + np.exp(-x @ w))
    precision = (x.T * (p * (1 - p))) @ x + np.eye(size)
    w += np.linalg.solve(precision, slope(w))
covariance = np.linalg.inv(precision)
moves = 2.4 / size**0.5 * rng.standard_normal((40_000, size)) @ np.linalg.cholesky(covariance).T
chain, at, log_p = [], w, log_posterior(w)
for move in moves:
    new = log_posterior(at + move)
    if np.log(rng.random()) < new - log_p:
        at, log_p = at + move, new
    chain.append(at)
chain = np.array(chain[4000:])  # without its beginning

results = {
    "Markov chain": (chain.mean(axis=0), chain.std(axis=0)),
    "average of steps": (mean, sd),
    "last step": (q["mean"], np.exp(q["log_sd"])),
    "Laplace": (w, covariance.diagonal() ** 0.5),
}
print("                  error of means   width, both in standard deviations of the chain")
fig, ax = plt.subplots(figsize=(9, 4), layout="constrained")
(center, width), *_ = results.values()
for i, (name, (mean, sd)) in enumerate(results.items()):
    print(f"{name:16} {np.mean(((mean - center) / width) ** 2) ** 0.5:15.3f} {np.mean(sd / width):7.2f}")
    ax.errorbar(np.arange(size) + i / 6, mean, sd, fmt=".", label=name)
ax.set(xlabel="coefficient", ylabel="mean and standard deviation")
fig.legend(loc="outside upper center", ncols=4)
plt.show()
