"""Multilayer perceptrons with backpropagation written by hand, which the demo and the comparison train."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Labels", "backprop", "cross_entropy", "forward", "network"]

Array = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]


def network(sizes: Sequence[int], dtype: str, rng: np.random.Generator) -> list[Array]:
    """Return weights and biases for layers of these sizes, input first, with He's initialisation."""
    params: list[Array] = []
    for fan_in, fan_out in pairwise(sizes):
        weights = rng.standard_normal((fan_in, fan_out)) * np.sqrt(2 / fan_in)
        params += [weights.astype(dtype), np.zeros(fan_out, dtype)]
    return params


def forward(params: Sequence[Array], x: Array) -> list[Array]:
    """Return the input of every layer, and the logits last."""
    layers = [x]
    for weights, bias in zip(params[:-2:2], params[1:-2:2], strict=True):
        layers.append(np.maximum(layers[-1] @ weights + bias, 0))
    layers.append(layers[-1] @ params[-2] + params[-1])
    return layers


def cross_entropy(logits: Array, y: Labels) -> tuple[float, Array]:
    """Return the mean cross-entropy of the labels, and its gradient with respect to the logits."""
    logits = logits - logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    rows = np.arange(len(y))
    delta = np.exp(log_p)
    delta[rows, y] -= 1
    delta /= len(y)
    return float(-log_p[rows, y].mean()), delta


def backprop(params: Sequence[Array], x: Array, y: Labels) -> tuple[float, list[Array], Array]:
    """Return the mean cross-entropy of a minibatch, its gradients with respect to the parameters, and to x."""
    *layers, logits = forward(params, x)
    loss, delta = cross_entropy(logits, y)
    grads: list[Array] = []
    for depth, (weights, layer) in enumerate(zip(params[-2::-2], reversed(layers), strict=True), 1):
        grads += [delta.sum(axis=0), layer.T @ delta]
        delta = delta @ weights.T
        if depth < len(layers):  # x has passed no ReLU
            delta *= layer > 0
    return loss, grads[::-1], delta
