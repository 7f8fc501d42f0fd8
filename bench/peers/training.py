"""Training loops for steps to live in, in NumPy and in torch: forward and backward passes on all cores."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

import numpy as np

from .workloads import Array, Workload

EXAMPLES = 4096
BATCH = 128
BATCH_OF_STACK = 64


class Network(Protocol):
    """The part of a training loop that is not the step."""

    def backpropagate(self) -> None:
        """Draw a batch and compute the gradients of its loss."""


def network(workload: Workload, params: list[Array], grads: list[Array], threads: int) -> Network:
    """Return the network of a workload that has a loop; its gradients go into the arrays given."""
    return Perceptron(workload.layers, params, grads) if workload.layers else Stack(params, grads, threads)


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


class Stack:
    """Blocks of a linear layer, GELU and layer norm in torch; tensors share the memory of the arrays given.

    Parameters
    ----------
    params, grads : list of arrays
        Weight and bias of the linear layer and of the norm, block by block, and as many arrays for their gradients,
        which are NumPy's views of each parameter's ``grad``.
    threads : int
        Threads of torch.
    """

    def __init__(self, params: list[Array], grads: list[Array], threads: int) -> None:
        torch: Any = import_module("torch")
        nn = torch.nn
        torch.set_num_threads(threads)
        width = len(params[0])
        layers = [(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width)) for _ in range(len(params) // 4)]
        self.model = nn.Sequential(*(layer for block in layers for layer in block))
        for tensor, p, g in zip(self.model.parameters(), params, grads, strict=True):
            tensor.data = torch.from_numpy(p)
            tensor.grad = torch.from_numpy(g)
        random = torch.Generator().manual_seed(3)
        self.inputs, self.targets = (torch.randn(EXAMPLES, width, generator=random) for _ in range(2))
        self.chosen: Any = lambda: torch.randint(EXAMPLES, (BATCH_OF_STACK,), generator=random)
        self.loss = nn.MSELoss()

    def backpropagate(self) -> None:
        """Draw a batch and compute the gradients of its loss."""
        chosen = self.chosen()
        self.model.zero_grad(set_to_none=False)
        self.loss(self.model(self.inputs[chosen]), self.targets[chosen]).backward()
