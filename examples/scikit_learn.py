"""scikit-learn's MLPClassifier with a step of fastopt.

``MLPClassifier`` calls an object to step its arrays.  Here this object is an optimizer of fastopt.  So you can use
rules, schedules and averages that scikit-learn does not have.  scikit-learn still computes gradients and predictions.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import fastopt
from fastopt import schedules

digits = load_digits()
split = train_test_split(digits.data / 16, digits.target, random_state=0)
x_train, x_test, y_train, y_test = split
EPOCHS = 15


class Step:
    """The optimizer that `MLPClassifier` calls."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def update_params(self, params, grads):
        """Update the arrays in place; they are those that the optimizer was made with."""
        self.optimizer.step(grads)

    def iteration_ends(self, time_step):
        """Do nothing: schedules count steps."""


def train(make=None):
    """Train a network, by a step of fastopt if a function makes one; return it and its accuracy after each epoch."""
    network = MLPClassifier((128,), random_state=0, alpha=0)
    classes, accuracy = np.unique(y_train), []
    network.partial_fit(x_train[:1], y_train[:1], classes=classes)  # makes the arrays
    if make:
        network._optimizer = Step(make(network.coefs_ + network.intercepts_))
    for _ in range(EPOCHS):
        network.partial_fit(x_train, y_train)
        accuracy.append(network.score(x_test, y_test))
    return network, accuracy


# %%
# One epoch has 7 batches of 200.

steps = EPOCHS * 7
curves = {
    "scikit-learn, solver='adam'": train()[1],
    "Adam, rate 0.001": train(lambda params: fastopt.Adam(params, lr=1e-3))[1],
    "Adam, rate 0.02 and a cosine": train(lambda params: fastopt.Adam(params, lr=schedules.cosine(0.02, steps)))[1],
    "Lion, rate 0.002": train(lambda params: fastopt.Lion(params, lr=2e-3))[1],
}
fig, ax = plt.subplots(layout="constrained")
for name, accuracy in curves.items():
    print(f"{name:30} {accuracy[-1]:.1%}")
    ax.plot(range(1, EPOCHS + 1), accuracy, label=name)
ax.set(xlabel="epochs", ylabel="accuracy on new digits", ylim=(0.4, 1))
ax.legend()
plt.show()
