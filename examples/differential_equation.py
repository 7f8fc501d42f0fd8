"""Fit a differential equation.

Predators and prey: the program estimates the four rates of the Lotka-Volterra equations from noisy counts.  The
gradient comes from the sensitivities, which are integrated together with the solution.  The optimizer works on
logarithms, so that rates stay positive.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastopt
from fastopt import schedules

DT, COUNT = 0.05, 400


def change(state, rates):
    """How fast prey x and predators y change, and its derivatives by the state and by the rates."""
    (x, y), (a, b, c, d) = state, rates
    f = np.array([a * x - b * x * y, c * x * y - d * y])
    by_state = np.array([[a - b * y, -b * x], [c * y, c * x - d]])
    by_rates = np.array([[x, -x * y, 0, 0], [0, 0, x * y, -y]])
    return f, by_state, by_rates


def solve(rates, start=(1.0, 0.5)):
    """The solution, and its derivative by the rates, by the midpoint rule."""
    state, slope = np.array(start), np.zeros((2, 4))
    states, slopes = [state], [slope]
    for _ in range(COUNT - 1):
        f, by_state, by_rates = change(state, rates)
        middle, middle_slope = state + DT / 2 * f, slope + DT / 2 * (by_state @ slope + by_rates)
        f, by_state, by_rates = change(middle, rates)
        state, slope = state + DT * f, slope + DT * (by_state @ middle_slope + by_rates)
        states.append(state)
        slopes.append(slope)
    return np.array(states), np.array(slopes)


true_rates = np.array([1.1, 0.8, 0.6, 0.9])
rng = np.random.default_rng(1)
counts = solve(true_rates)[0] * rng.lognormal(0, 0.1, (COUNT, 2))

# %%
# Adam with clipped gradients, since the loss is steep far from the solution.

log_rates = np.log([0.7, 0.7, 0.7, 0.7])
opt = fastopt.Adam(log_rates, lr=schedules.cosine(0.05, decay_steps=300), clip_norm=1.0)
losses, first = [], solve(np.exp(log_rates))[0]
for _ in range(300):
    rates = np.exp(log_rates)
    states, slopes = solve(rates)
    error = states - counts
    opt.step(2 * np.einsum("ti,tij->j", error, slopes) / COUNT * rates)
    losses.append((error**2).mean())
print("true rates ", true_rates)
print("found rates", np.exp(log_rates).round(3))

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.semilogy(losses)
left.set(xlabel="steps", ylabel="mean squared error")
time = np.arange(COUNT) * DT
for i, (name, colour) in enumerate([("prey", "tab:blue"), ("predators", "tab:orange")]):
    right.plot(time, counts[:, i], ".", ms=2, color=colour, alpha=0.5)
    right.plot(time, first[:, i], "--", lw=1, color=colour)
    right.plot(time, solve(np.exp(log_rates))[0][:, i], color=colour, label=name)
right.set(xlabel="time", title="counts, start (dashed) and fit", ylim=(0, 5))
right.legend()
plt.show()
