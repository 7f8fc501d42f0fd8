"""A training loop in NumPy for steps to live in: a perceptron's forward and backward pass, BLAS on all cores."""

from __future__ import annotations

import numpy as np

from .workloads import Array

EXAMPLES = 4096
BATCH = 128


class Perceptron:
    """ReLU layers and a softmax over random labels; gradients go into the arrays given.

    Parameters
    ----------
    layers : tuple of int
        Widths, inputs first.
    params, grads : list of arrays
        Weights and biases in turn, and as many arrays for their gradients.
    """

    def __init__(self, layers: tuple[int, ...], params: list[Array], grads: list[Array]) -> None:
        self.weights, self.biases = params[0::2], params[1::2]
        self.weight_grads, self.bias_grads = grads[0::2], grads[1::2]
        self.random = np.random.default_rng(3)
        self.inputs = self.random.standard_normal((EXAMPLES, layers[0]), dtype=np.float32)
        self.labels = self.random.integers(layers[-1], size=EXAMPLES)

    def backpropagate(self) -> None:
        """Draw a batch and compute the gradients of its loss."""
        chosen = self.random.integers(EXAMPLES, size=BATCH)
        activations = [self.inputs[chosen]]
        for w, b in zip(self.weights, self.biases, strict=True):
            z = activations[-1] @ w
            z += b
            activations.append(np.maximum(z, 0))

        d = np.exp(z - z.max(axis=1, keepdims=True))
        d /= d.sum(axis=1, keepdims=True)
        d[np.arange(BATCH), self.labels[chosen]] -= 1
        d /= BATCH
        for i in reversed(range(len(self.weights))):
            np.matmul(activations[i].T, d, out=self.weight_grads[i])
            np.sum(d, axis=0, out=self.bias_grads[i])
            if i > 0:
                d = d @ self.weights[i].T
                d *= activations[i] > 0
