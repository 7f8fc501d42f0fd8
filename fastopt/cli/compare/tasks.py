"""The tasks: small models on data that packages ship, with backpropagation written by hand.

A task makes its parameters from a seed, yields minibatches from a seed, and computes loss and gradients, so that every
rule meets the same start and the same minibatches. Each is small enough that a training takes a tenth of a second.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastopt
from fastopt.cli.networks import Array, Labels, backprop, cross_entropy, forward, network

__all__ = ["TASKS", "Batch", "Cancer", "Diabetes", "Digits", "Params", "Task", "Text", "Words", "WordsRows", "task"]

Params = dict[str, Array]
Grads = dict[str, Any]  # arrays, or fastopt.RowGrad


class Batch(NamedTuple):
    """Some of the data: inputs (numbers, or indices of rows of an embedding) and targets."""

    x: NDArray[Any]
    y: NDArray[Any]


class Task:
    """A model, its data and the length of its training.

    Losses are computed on `train` and `held_out`; `least` is the least possible loss on `train` if it is known, else
    0.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    steps: ClassVar[int]
    batch_size: ClassVar[int | None]  # None: all of the data in every step
    rows: ClassVar[bool] = False  # whether a gradient is a fastopt.RowGrad
    train: Batch
    held_out: Batch
    least: float = 0.0

    def start(self, rng: np.random.Generator) -> Params:
        """Return parameters to start from."""
        raise NotImplementedError

    def gradient(self, params: Params, batch: Batch) -> tuple[float, Grads]:
        """Return the loss on a batch and its gradients."""
        raise NotImplementedError

    def loss(self, params: Params, batch: Batch) -> float:
        """Return the loss on a batch."""
        raise NotImplementedError

    def batches(self, steps: int, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield shuffled minibatches, epoch after epoch, or always all of the data."""
        size, count = self.batch_size, len(self.train.y)
        order = rng.permutation(count)
        start = 0
        for _ in range(steps):
            if size is None:
                yield self.train
                continue
            if start + size > count:
                order, start = rng.permutation(count), 0
            chosen = order[start : start + size]
            yield Batch(self.train.x[chosen], self.train.y[chosen])
            start += size


def split(x: NDArray[Any], y: NDArray[Any], every: int) -> tuple[Batch, Batch]:
    """Return the training data, and one of `every` rows, held out."""
    held_out = np.arange(len(y)) % every == every - 1
    return Batch(x[~held_out], y[~held_out]), Batch(x[held_out], y[held_out])


class Digits(Task):
    """A multilayer perceptron."""

    name = "digits"
    title = "Handwritten digits"
    summary = "perceptron 64-48-48-10, minibatches of 64"
    steps = 120
    batch_size = 64

    def __init__(self) -> None:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]

        x, y = load_digits(return_X_y=True)
        self.train, self.held_out = split((x / 16).astype(np.float32), y, 6)

    def start(self, rng: np.random.Generator) -> Params:
        """Return weights and biases."""
        return named(network([64, 48, 48, 10], "float32", rng))

    def gradient(self, params: Params, batch: Batch) -> tuple[float, Grads]:
        """Return the cross-entropy and its gradients."""
        loss, grads, _ = backprop(list(params.values()), batch.x, batch.y)
        return loss, dict(zip(params, grads, strict=True))

    def loss(self, params: Params, batch: Batch) -> float:
        """Return the cross-entropy."""
        return cross_entropy(forward(list(params.values()), batch.x)[-1], batch.y)[0]


class Diabetes(Task):
    """Least squares on features as they were measured, so that curvatures differ by a factor of 5e7."""

    name = "diabetes"
    title = "Diabetes, unscaled"
    summary = "least squares, condition number 5e7, full batches"
    steps = 500
    batch_size = None

    def __init__(self) -> None:
        from sklearn.datasets import load_diabetes

        x, y = load_diabetes(return_X_y=True, scaled=False)
        self.train, self.held_out = split(np.column_stack([x, np.ones(len(x))]), y / y.std(), 5)
        best: Array = np.linalg.lstsq(*self.train, rcond=None)[0]
        self.least = self.loss({"w": best}, self.train)

    def start(self, rng: np.random.Generator) -> Params:
        """Return weights near 0; the last one is the weight of the constant."""
        return {"w": rng.normal(0, 1e-3, (self.train.x.shape[1],))}

    def gradient(self, params: Params, batch: Batch) -> tuple[float, Grads]:
        """Return half the mean squared error and its gradient."""
        error = batch.x @ params["w"] - batch.y
        return 0.5 * float(np.mean(error**2)), {"w": batch.x.T @ error / len(error)}

    def loss(self, params: Params, batch: Batch) -> float:
        """Return half the mean squared error."""
        return 0.5 * float(np.mean((batch.x @ params["w"] - batch.y) ** 2))


class Cancer(Task):
    """Logistic regression with a small penalty: smooth, convex, one minimum."""

    name = "cancer"
    title = "Breast cancer, logistic"
    summary = "convex, standardised features, minibatches of 16"
    steps = 400
    batch_size = 16
    penalty = 1e-3

    def __init__(self) -> None:
        from sklearn.datasets import load_breast_cancer

        x, y = load_breast_cancer(return_X_y=True)
        x = (x - x.mean(axis=0)) / x.std(axis=0)
        self.train, self.held_out = split(np.column_stack([x, np.ones(len(x))]), 2.0 * y - 1, 5)
        self.least = self.loss({"w": self.newton()}, self.train)

    def newton(self) -> Array:
        """Return the minimum, by Newton's method."""
        x, _ = self.train
        w = np.zeros(x.shape[1])
        for _ in range(30):
            p = 1 / (1 + np.exp(-x @ w))
            hessian = (x.T * (p * (1 - p))) @ x / len(x) + self.penalty * np.eye(len(w))
            w -= np.linalg.solve(hessian, self.gradient({"w": w}, self.train)[1]["w"])
        return w

    def start(self, rng: np.random.Generator) -> Params:
        """Return random weights; the last one is the weight of the constant."""
        return {"w": rng.normal(0, 0.1, (self.train.x.shape[1],))}

    def gradient(self, params: Params, batch: Batch) -> tuple[float, Grads]:
        """Return the mean logistic loss with its penalty, and the gradient."""
        w = params["w"]
        share = -batch.y / (1 + np.exp(batch.y * (batch.x @ w)))
        return self.loss(params, batch), {"w": batch.x.T @ share / len(share) + self.penalty * w}

    def loss(self, params: Params, batch: Batch) -> float:
        """Return the mean logistic loss with its penalty."""
        w = params["w"]
        return float(np.logaddexp(0, -batch.y * (batch.x @ w)).mean() + 0.5 * self.penalty * (w @ w))


class Text(Task):
    """A language model of characters: eight embedded characters, a hidden layer, the next one's probabilities."""

    name = "text"
    title = "Characters of a text"
    summary = "the next one from 8, one hidden layer, minibatches of 64"
    steps = 400
    batch_size = 64
    context, width, hidden = 8, 16, 64

    def __init__(self) -> None:
        text = np.array([ord(character) for character in reference()])
        _, codes, counts = np.unique(text, return_inverse=True, return_counts=True)
        common = counts >= 20  # one symbol for all the others
        codes = np.where(common, np.cumsum(common) - 1, common.sum())[codes].astype(np.intp)
        self.symbols = int(common.sum()) + 1
        x = np.lib.stride_tricks.sliding_window_view(codes[:-1], self.context)
        y = codes[self.context :]
        # The last tenth is held out; of the rest, training losses use one place in 200.
        end = len(y) * 9 // 10
        self.places = Batch(x[:end], y[:end])
        self.train, self.held_out = Batch(x[:end:200], y[:end:200]), Batch(x[end::40], y[end::40])

    def batches(self, steps: int, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield places anywhere in the text."""
        for _ in range(steps):
            chosen = rng.integers(0, len(self.places.y), self.batch_size)
            yield Batch(self.places.x[chosen], self.places.y[chosen])

    def start(self, rng: np.random.Generator) -> Params:
        """Return the embedding, weights and biases."""
        table = rng.standard_normal((self.symbols, self.width)).astype(np.float32)
        return named(network([self.context * self.width, self.hidden, self.symbols], "float32", rng), table)

    def gradient(self, params: Params, batch: Batch) -> tuple[float, Grads]:
        """Return the cross-entropy and its gradients."""
        table, *layers = params.values()
        x = table[batch.x].reshape(len(batch.y), -1)
        loss, grads, dx = backprop(layers, x, batch.y)
        first = embedding_gradient(table, batch.x.ravel(), dx.reshape(-1, self.width), self.rows)
        return loss, dict(zip(params, [first, *grads], strict=True))

    def loss(self, params: Params, batch: Batch) -> float:
        """Return the cross-entropy."""
        table, *layers = params.values()
        return cross_entropy(forward(layers, table[batch.x].reshape(len(batch.y), -1))[-1], batch.y)[0]


class Words(Task):
    """The topic of a bag of embedded words: the gradient of a step has few rows of the table that are not 0."""

    name = "words"
    title = "Words, dense gradients"
    summary = "the topic from the mean embedding of 16 words"
    steps = 400
    batch_size = 16
    window, width, fewest = 16, 32, 20

    def __init__(self) -> None:
        topics = [re.findall("[a-z]+", text.lower()) for text in topics_of_reference()]
        topics = [words for words in topics if len(words) >= self.fewest * self.window]
        counts = Counter(word for words in topics for word in words)
        common = sorted(word for word, count in counts.items() if count >= 2)
        place = {word: i for i, word in enumerate(common)}
        self.vocabulary, self.topics = len(common) + 1, len(topics)
        x = [[place.get(word, len(common)) for word in window] for words in topics for window in self.windows(words)]
        y = [i for i, words in enumerate(topics) for _ in self.windows(words)]
        self.train, self.held_out = split(np.array(x), np.array(y), 5)

    def windows(self, words: list[str]) -> list[list[str]]:
        """Return a text in pieces of equal length."""
        return [words[i : i + self.window] for i in range(0, len(words) - self.window + 1, self.window)]

    def start(self, rng: np.random.Generator) -> Params:
        """Return the embedding, weights and bias."""
        table = rng.standard_normal((self.vocabulary, self.width)).astype(np.float32)
        return named(network([self.width, self.topics], "float32", rng), table)

    def gradient(self, params: Params, batch: Batch) -> tuple[float, Grads]:
        """Return the cross-entropy and its gradients."""
        table, *layer = params.values()
        loss, grads, dx = backprop(layer, table[batch.x].mean(axis=1), batch.y)
        values = np.repeat(dx / np.float32(self.window), self.window, axis=0)
        first = embedding_gradient(table, batch.x.ravel(), values, self.rows)
        return loss, dict(zip(params, [first, *grads], strict=True))

    def loss(self, params: Params, batch: Batch) -> float:
        """Return the cross-entropy."""
        table, *layer = params.values()
        return cross_entropy(forward(layer, table[batch.x].mean(axis=1))[-1], batch.y)[0]


class WordsRows(Words):
    """The same, but a step reads and writes only the rows that have a gradient."""

    name = "words-rows"
    title = "Words, rows only"
    summary = "the embedding's gradient as a fastopt.RowGrad"
    rows = True


def embedding_gradient(table: Array, rows: Labels, values: Array, sparse: bool) -> Array | fastopt.RowGrad:
    """Return the gradient of an embedding: of the rows alone, or with zeros for all others."""
    if sparse:
        return fastopt.RowGrad(rows, values)
    dense = np.zeros_like(table)
    np.add.at(dense, rows, values)
    return dense


def named(layers: list[Array], table: Array | None = None) -> Params:
    """Return the parameters by name: embedding, W1, b1, W2, b2, ..."""
    params = {} if table is None else {"embedding": table}
    return params | {f"{'Wb'[i % 2]}{i // 2 + 1}": array for i, array in enumerate(layers)}


def topics_of_reference() -> list[str]:
    """Return the texts that Python's ``help()`` shows, about half a megabyte; they differ a little by version."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def reference() -> str:
    """Return all of these texts."""
    return "\n".join(topics_of_reference())


TASKS: dict[str, type[Task]] = {cls.name: cls for cls in (Digits, Diabetes, Cancer, Text, Words, WordsRows)}


@cache
def task(name: str) -> Task:
    """Return the task of this name, its data read once."""
    return TASKS[name]()
