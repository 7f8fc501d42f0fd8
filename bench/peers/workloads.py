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
    """An update rule.

    Parameters
    ----------
    label, optimizer : str
        Its name for people, and its class in fastopt and, where it has the rule, in torch.optim.
    states : int
        How many state arrays it has.
    hyper : mapping
        Its hyperparameters.
    streams : int, optional
        Arrays that a step reads plus arrays that it writes, for rules that pass over them twice.
    checked_steps : int
        Steps after which answers are compared.
    """

    label: str
    optimizer: str
    states: int
    hyper: Mapping[str, Any]
    streams: int | None = None
    checked_steps: int = 3

    @property
    def bytes_per_element(self) -> int:
        """Traffic of one step: the gradient is read, the parameter and each state array are read and written."""
        return FLOAT * (self.streams or 1 + 2 * (1 + self.states))

    @property
    def one_pass(self) -> bool:
        return self.streams is None


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
    "adamw": Rule("AdamW", "AdamW", 2, {**ADAM_HYPER, "weight_decay": 0.1}),
    # Its sixth step is the first with a variance.
    "radam": Rule("RAdam", "RAdam", 2, ADAM_HYPER, checked_steps=8),
    # Signs stay the same from the third checked step to the fourth.
    "rprop": Rule("Rprop", "Rprop", 2, {"lr": 1e-3, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0)}, checked_steps=4),
    "asgd": Rule("ASGD", "ASGD", 1, {"lr": 1e-2, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6}),
    # The means of rows and columns, then the norms of step and parameter, then the step.
    "adafactor": Rule(
        "Adafactor",
        "Adafactor",
        0,
        {"lr": 1e-2, "beta2_decay": -0.8, "eps": (None, 1e-3), "d": 1.0, "weight_decay": 0.0},
        streams=6,
    ),
    "lion": Rule("Lion", "Lion", 1, {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 1e-3}),
    # All are read and the state is written, then all but the gradient are read and the parameter is written.
    "lamb": Rule("LAMB", "LAMB", 2, {**ADAM_HYPER, "eps": 1e-6, "weight_decay": 0.1}, streams=10),
    # optax has 1 - beta2 where the paper has beta2: at 0.5 they agree.
    "adan": Rule("Adan", "Adan", 4, {"lr": 1e-3, "betas": (0.98, 0.5, 0.99), "eps": 1e-8, "weight_decay": 0.0}),
    "adabelief": Rule("AdaBelief", "AdaBelief", 2, {**ADAM_HYPER, "eps": 1e-16}),
    "yogi": Rule("Yogi", "Yogi", 2, {**ADAM_HYPER, "eps": 1e-3}),
}
LECTURE = ("sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "adamax", "nadam")

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
TORCH_PEERS = ("torch", "torch-foreach", "torch-fused")
CLIPPING_PEERS = ("numpy", "numpy-out", *TORCH_PEERS, "optax")
STEP_PEERS = ("numpy", "numpy-out", *TORCH_PEERS)  # whole steps, gradients set to zero
ROW_PEERS = ("numpy-rows", "torch-sparse")
LOOP_PEERS = (
    *("fastopt-1", "fastopt-all"),
    *("numpy", "numpy-out", "numba", "numba-serial"),
    *("torch-shared", "torch-shared-1"),
)
TORCH_LOOP_PEERS = ("fastopt-1", "fastopt-all", "torch-shared")  # all on the memory of the network's tensors
BLOCKS = 8


# What a step can do besides the rule, and the arrays it reads plus those it writes for that.
STEP_OPTIONS = {"clip_norm": 1, "zero": 1, "ema": 2, "rows": 0}


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
    zero : bool
        Gradients are set to zero at the end of every step, and new ones are there before the next.
    ema : float, optional
        Decay of an exponential moving average of the parameters, updated at the end of every step.
    rows : int
        If given, gradients are of this many rows of each array, drawn at random.
    layers : tuple of int
        If given, steps are timed inside a NumPy training loop of a perceptron with these widths.
    blocks : int
        If given, steps are timed inside a torch training loop of a stack of so many blocks.
    hyper : mapping
        What this race changes in the rule's hyperparameters.
    """

    name: str
    title: str
    rule: str
    shapes: tuple[Shape, ...]
    peers: tuple[str, ...] = PEERS
    clip_norm: float | None = None
    zero: bool = False
    ema: float | None = None
    rows: int = 0
    layers: tuple[int, ...] = ()
    blocks: int = 0
    hyper: Mapping[str, Any] = field(default_factory=dict)

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def options(self) -> frozenset[str]:
        """What a step does besides the rule, by the names of the fields."""
        return frozenset(name for name in STEP_OPTIONS if getattr(self, name) not in (None, 0))

    @property
    def loop(self) -> str:
        """Whose training loop the steps are inside; empty where there is none."""
        return "NumPy" if self.layers else "torch" if self.blocks else ""

    @property
    def gradient_shapes(self) -> tuple[Shape, ...]:
        return tuple((self.rows, *shape[1:]) for shape in self.shapes) if self.rows else self.shapes

    @property
    def touched(self) -> int:
        """Elements that a step reads and writes."""
        return sum(math.prod(shape) for shape in self.gradient_shapes)

    @property
    def traffic(self) -> int:
        """Bytes that one step has to move.

        Clipping reads the gradients once more, zeroing writes them, an average is read and written.
        """
        extra = FLOAT * sum(STEP_OPTIONS[name] for name in self.options)
        return self.touched * (RULES[self.rule].bytes_per_element + extra)

    @property
    def footprint(self) -> int:
        """Bytes of parameters, gradients, state and average, and of new gradients where the old are set to zero."""
        kept = self.elements * (1 + RULES[self.rule].states + (self.ema is not None))
        return FLOAT * (kept + self.touched * (1 + self.zero))

    def hyperparameters(self, **changes: Any) -> dict[str, Any]:
        return {**RULES[self.rule].hyper, **self.hyper, **changes}

    def parameters(self) -> Iterator[Array]:
        """Make the parameters' start values, one array at a time; the same in every process."""
        return _values(self.shapes, seed=1, scale=PARAMETER_SCALE)

    def gradients(self, scale: float = 1.0) -> Iterator[Array]:
        return _values(self.gradient_shapes, seed=2, scale=scale)

    def row_numbers(self) -> list[NDArray[np.int64]]:
        """Draw the rows, each once, that the gradients belong to."""
        random = np.random.default_rng(4)
        return [random.choice(shape[0], self.rows, replace=False) for shape in self.shapes]


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


def stack(width: int, blocks: int) -> tuple[Shape, ...]:
    """Return the shapes of blocks of a linear layer, GELU and layer norm: weight and bias, twice."""
    return ((width, width), (width,), (width,), (width,)) * blocks


def adam(name: str, title: str, shapes: tuple[Shape, ...], **options: Any) -> Workload:
    return Workload(f"adam-{name}", f"Adam, {title}", "adam", shapes, **options)


def training_step(name: str, title: str, **options: Any) -> Workload:
    return Workload(
        f"adamw-32M-{name}", f"AdamW, {title}, 32M", "adamw", ONE_LARGE, peers=STEP_PEERS, zero=True, **options
    )


def rows(name: str, count: int) -> Workload:
    # torch's SparseAdam adds eps before it corrects the root's bias: where eps is small that is the same answer.
    return adam(
        f"rows-{name}",
        f"4096 rows of {name} x 64",
        ((count, 64),),
        peers=ROW_PEERS,
        rows=4096,
        hyper={"eps": 1e-12},
    )


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


def inside_torch_loop(width: int) -> Workload:
    return Workload(
        f"torch-loop-{width}",
        f"AdamW in a torch training loop, {BLOCKS} x (Linear({width}), GELU, LayerNorm)",
        "adamw",
        stack(width, BLOCKS),
        peers=TORCH_LOOP_PEERS,
        blocks=BLOCKS,
        hyper={"lr": 1e-5},
    )


POWER_OF_TWO = 2**25
ONE_LARGE: tuple[Shape, ...] = ((POWER_OF_TWO,),)
ODD_SIZE = 31_234_567
ALONE: tuple[str, ...] = ()  # only fastopt, against the memory limit
CLIP: Mapping[str, Any] = {"peers": CLIPPING_PEERS, "clip_norm": 1.0}
EMA = 0.99  # an average with more memory would not show within the checked steps that it is wrong
LARGE = (ONE_LARGE, "one array of 32M")
# The rules beyond the lecture's: who has them, and on what they run.
NEWER: Mapping[str, tuple[tuple[str, ...], tuple[Shape, ...], str]] = {
    "adamw": (PEERS, *LARGE),
    "radam": (("numpy", *TORCH_PEERS, "optax"), *LARGE),
    "rprop": (("numpy", *TORCH_PEERS), *LARGE),  # optax's makes each step one call late
    "asgd": (("numpy", *TORCH_PEERS), *LARGE),
    # It looks at rows and columns. Of one matrix of 32M numbers torch's norm, in float32, would be another.
    "adafactor": (("numpy", *TORCH_PEERS), ((2048, 2048),) * 8, "8 arrays of 2048x2048"),
    "lion": (("numpy", "optax"), *LARGE),
    "lamb": (("numpy", "optax"), *LARGE),
    "adan": (("numpy", "optax"), *LARGE),
    "adabelief": (("numpy", "optax"), *LARGE),
    "yogi": (("numpy", "optax"), *LARGE),
}

WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (
        adam("1024", "one array of 1024", ((1024,),), peers=("fastopt-bound", "fastopt-kernel", *PEERS)),
        adam("64k", "one array of 64k", ((2**16,),)),
        adam("1M", "one array of 1M", ((2**20,),)),
        adam("32M", "one array of 32M", ONE_LARGE),
        adam("31M", "one array of 31,234,567", ((ODD_SIZE,),)),
        adam("1000x1024", "1000 arrays of 1024", ((1024,),) * 1000, peers=("fastopt-bound", *PEERS)),
        adam("64x512x512", "64 arrays of 512x512", ((512, 512),) * 64),
        adam("gpt2", "GPT-2 small, 148 arrays, 124M", gpt2_small()),
        adam("1000x1024-clip", "clipped, 1000 arrays of 1024", ((1024,),) * 1000, **CLIP),
        adam("32M-clip", "clipped, one array of 32M", ONE_LARGE, **CLIP),
        adam("64x512x512-clip", "clipped, 64 arrays of 512x512", ((512, 512),) * 64, **CLIP),
        adam("gpt2-clip", "clipped, GPT-2 small", gpt2_small(), **CLIP),
        training_step("clip-zero", "clipped, zeroing", clip_norm=1.0),
        training_step("clip-zero-ema", "clipped, zeroing, EMA", clip_norm=1.0, ema=EMA),
        rows("10k", 10_000),
        rows("100k", 100_000),
        rows("1M", 1_000_000),
        *(
            Workload(f"{name}-32M", f"{RULES[name].label}, one array of 32M", name, ONE_LARGE)
            for name in LECTURE
            if name != "adam"
        ),
        *(
            Workload(f"{name}-31M", f"{RULES[name].label}, one array of 31,234,567", name, ((ODD_SIZE,),), peers=ALONE)
            for name in LECTURE
            if name != "adam"
        ),
        *(
            Workload(f"{name}-32M", f"{RULES[name].label}, {size}", name, shapes, peers=peers)
            for name, (peers, shapes, size) in NEWER.items()
        ),
        inside_loop("100k", "100k", (256, 192, 192, 64)),
        inside_loop("1M", "1M", (784, 640, 640, 128)),
        inside_loop("10M", "10M", (1024, 2048, 2048, 1792)),
        *(inside_torch_loop(width) for width in (64, 256, 512)),
    )
}

QUICK = (
    "adam-1024",
    "adam-32M",
    "adam-1000x1024",
    "adam-64x512x512",
    "adamw-32M-clip-zero-ema",
    "adam-rows-1M",
    "loop-1M",
    "torch-loop-256",
)
# Peers that another of the same library stands for, or that take long to load.
NOT_QUICK = ("torch", "deepspeed")

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
