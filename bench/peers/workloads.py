"""What is raced: the update rules, the shapes they run on, and the values they start from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Shape = tuple[int, ...]

FLOAT = 4  # bytes; every workload is float32
PARAMETER_SCALE = 0.02  # standard deviation of the start values, as in GPT-2; gradients have 1
START_BLOCK = 1_000_003  # random numbers drawn; larger arrays repeat them, out of step with any power of two


@dataclass(frozen=True)
class Rule:
    """An update rule: its name for people, its class in fastopt and torch.optim, how many state arrays it has."""

    label: str
    optimizer: str
    states: int
    hyper: Mapping[str, Any]

    @property
    def bytes_per_element(self) -> int:
        """Traffic of one step: the gradient is read, the parameter and each state array are read and written."""
        return FLOAT * (1 + 2 * (1 + self.states))


ADAM_HYPER = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}

# Every hyperparameter that enters the maths is spelt out, so that no library falls back on a default of its own.
RULES: Mapping[str, Rule] = {
    "sgd": Rule("SGD", "SGD", 0, {"lr": 1e-3}),
    "momentum": Rule("Momentum SGD", "SGD", 1, {"lr": 1e-3, "momentum": 0.9}),
    "nesterov": Rule("Nesterov SGD", "SGD", 1, {"lr": 1e-3, "momentum": 0.9, "nesterov": True}),
    "adagrad": Rule("Adagrad", "Adagrad", 1, {"lr": 1e-2, "eps": 1e-10}),
    "adadelta": Rule("Adadelta", "Adadelta", 2, {"lr": 1.0, "rho": 0.9, "eps": 1e-6}),
    "rmsprop": Rule("RMSprop", "RMSprop", 1, {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8}),
    "adam": Rule("Adam", "Adam", 2, ADAM_HYPER),
    "adamax": Rule("Adamax", "Adamax", 2, {**ADAM_HYPER, "lr": 2e-3}),
    "nadam": Rule("NAdam", "NAdam", 2, {**ADAM_HYPER, "lr": 2e-3, "momentum_decay": 4e-3}),
}

PEERS = (
    "numpy",
    "numpy-out",
    "numba",
    "numba-serial",
    "torch",
    "torch-foreach",
    "torch-fused",
    "optax",
    "deepspeed",
)
CLIPPING_PEERS = ("numpy", "numpy-out", "torch", "torch-foreach", "torch-fused", "optax")
LOOP_PEERS = ("fastopt-1", "fastopt-all", "numpy", "numpy-out", "torch-shared")


@dataclass(frozen=True)
class Workload:
    """One race.

    Parameters
    ----------
    name, title : str
        For the command line, and for people.
    rule : str
        A key of `RULES`.
    shapes : tuple of shapes
        One array per shape.
    peers : tuple of str
        Who races against fastopt.
    clip_norm : float, optional
        Gradients are clipped to this global norm in every step.
    layers : tuple of int
        If given, steps are timed inside a training loop of a network with these widths.
    hyper : mapping
        What this race changes in the rule's hyperparameters.
    """

    name: str
    title: str
    rule: str
    shapes: tuple[Shape, ...]
    peers: tuple[str, ...] = PEERS
    clip_norm: float | None = None
    layers: tuple[int, ...] = ()
    hyper: Mapping[str, Any] = field(default_factory=dict)

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def traffic(self) -> int:
        """Bytes that one step has to move; clipping reads the gradients once more."""
        extra = FLOAT if self.clip_norm is not None else 0
        return self.elements * (RULES[self.rule].bytes_per_element + extra)

    @property
    def footprint(self) -> int:
        """Bytes of parameters, gradients and state."""
        return self.elements * FLOAT * (2 + RULES[self.rule].states)

    def hyperparameters(self, **changes: Any) -> dict[str, Any]:
        return {**RULES[self.rule].hyper, **self.hyper, **changes}

    def parameters(self) -> Iterator[Array]:
        """Make the parameters' start values, one array at a time; the same in every process."""
        return _values(self.shapes, seed=1, scale=PARAMETER_SCALE)

    def gradients(self, scale: float = 1.0) -> Iterator[Array]:
        return _values(self.shapes, seed=2, scale=scale)


def _values(shapes: tuple[Shape, ...], seed: int, scale: float) -> Iterator[Array]:
    total = sum(math.prod(shape) for shape in shapes)
    block = np.random.default_rng(seed).standard_normal(min(total, START_BLOCK), dtype=np.float32)
    block *= np.float32(scale)
    position = 0
    for shape in shapes:
        values = np.empty(math.prod(shape), np.float32)
        filled = 0
        while filled < values.size:
            piece = block[position : position + values.size - filled]
            values[filled : filled + piece.size] = piece
            filled += piece.size
            position = (position + piece.size) % block.size
        yield values.reshape(shape)


def gpt2_small() -> tuple[Shape, ...]:
    """Return the shapes of GPT-2 small's 148 arrays."""
    width, layers, vocabulary, context = 768, 12, 50257, 1024
    norm = ((width,), (width,))
    block = (
        *norm,
        *((width, 3 * width), (3 * width,)),  # attention: query, key, value
        *((width, width), (width,)),  # attention: projection
        *norm,
        *((width, 4 * width), (4 * width,)),  # the two layers of the perceptron
        *((4 * width, width), (width,)),
    )
    return ((vocabulary, width), (context, width), *(block * layers), *norm)


def dense(layers: tuple[int, ...]) -> tuple[Shape, ...]:
    """Return the shapes of a perceptron's weights and biases."""
    return tuple(shape for rows, columns in pairwise(layers) for shape in ((rows, columns), (columns,)))


def adam(name: str, title: str, shapes: tuple[Shape, ...], **options: Any) -> Workload:
    return Workload(f"adam-{name}", f"Adam, {title}", "adam", shapes, **options)


def inside_loop(name: str, title: str, layers: tuple[int, ...]) -> Workload:
    # A small learning rate keeps the loss, and so the size of the gradients, where it starts.
    return Workload(
        f"loop-{name}",
        f"Adam in a training loop, {title}",
        "adam",
        dense(layers),
        peers=LOOP_PEERS,
        layers=layers,
        hyper={"lr": 1e-5},
    )


POWER_OF_TWO = 2**25
ODD_SIZE = 31_234_567
ALONE: tuple[str, ...] = ()  # only fastopt, against the memory limit

WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (
        adam("1024", "one array of 1024", ((1024,),), peers=("fastopt-bound", "fastopt-kernel", *PEERS)),
        adam("64k", "one array of 64k", ((2**16,),)),
        adam("1M", "one array of 1M", ((2**20,),)),
        adam("32M", "one array of 32M", ((POWER_OF_TWO,),)),
        adam("31M", "one array of 31,234,567", ((ODD_SIZE,),)),
        adam("1000x1024", "1000 arrays of 1024", ((1024,),) * 1000, peers=("fastopt-bound", *PEERS)),
        adam("64x512x512", "64 arrays of 512x512", ((512, 512),) * 64),
        adam("gpt2", "GPT-2 small, 148 arrays, 124M", gpt2_small()),
        adam("gpt2-clip", "GPT-2 small, clipped by global norm", gpt2_small(), peers=CLIPPING_PEERS, clip_norm=1.0),
        *(
            Workload(f"{name}-32M", f"{rule.label}, one array of 32M", name, ((POWER_OF_TWO,),))
            for name, rule in RULES.items()
            if name != "adam"
        ),
        *(
            Workload(f"{name}-31M", f"{rule.label}, one array of 31,234,567", name, ((ODD_SIZE,),), peers=ALONE)
            for name, rule in RULES.items()
            if name != "adam"
        ),
        inside_loop("100k", "100k", (256, 192, 192, 64)),
        inside_loop("1M", "1M", (784, 640, 640, 128)),
        inside_loop("10M", "10M", (1024, 2048, 2048, 1792)),
    )
}

QUICK = (
    "adam-1024",
    "adam-1M",
    "adam-32M",
    "adam-1000x1024",
    "adam-64x512x512",
    "momentum-32M",
    "loop-1M",
)
NOT_QUICK = ("torch", "deepspeed")  # peers that another of the same library stands for, or that take long to load

IMPORT, MEMORY, SWEEP = "import", "memory", "sweep"
EXTRAS = {  # what is measured besides races
    IMPORT: "importing fastopt, beyond NumPy, in fresh processes",
    MEMORY: "memory beyond parameters, gradients and state",
    SWEEP: "throughput of Adam against size",
}

SWEEP_PEERS = ("numpy", "numpy-out", "numba", "torch-fused", "optax")


def sweep(largest: float, per_decade: int) -> list[Workload]:
    """Make the races of throughput against size: Adam on one array of 1e2 to `largest` elements."""
    count = round(math.log10(largest / 100) * per_decade) + 1
    sizes = [round(100 * 10 ** (i / per_decade)) for i in range(count)]
    return [adam(f"size-{size}", f"one array of {size:,}", ((size,),), peers=SWEEP_PEERS) for size in sizes]
