"""A race: an update rule, the shapes it runs on, and the values it starts from.

Contenders import this module, and must not import fastopt by it: the list of races is in `races`.
"""

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

FLOAT = 4  # bytes
# Bytes of an element, by dtype or by the word of `state_dtype`, and of what a master keeps beside it.
BYTES = {"float32": FLOAT, "bfloat16": 2, "8bit": 1 + FLOAT / 64}
MASTERS = {"split16": 2, "split8": 1, None: 0}
PARAMETER_SCALE = 0.02  # standard deviation of the start values, as in GPT-2; gradients have 1
START_BLOCK = 1_000_003  # random numbers drawn; larger arrays repeat them, out of step with any power of two


@dataclass(frozen=True)
class Rule:
    """An update rule.

    Parameters
    ----------
    name, label : str
        Its name in the catalogue, and for people.
    optimizer : str
        Its class in fastopt and, where it has the rule, in torch.optim.
    states : int
        How many state arrays of the parameter's size it has.
    hyper : mapping
        All hyperparameters that enter the maths, so that no library falls back on a default of its own.
    streams : int, optional
        Arrays that a step reads plus arrays that it writes, for rules that pass over them more than once.
    """

    name: str
    label: str
    optimizer: str
    states: int
    hyper: Mapping[str, Any]
    streams: int | None = None

    @property
    def bytes_per_element(self) -> int:
        """Traffic of one step: the gradient is read, the parameter and each state array are read and written."""
        return FLOAT * (self.streams or 1 + 2 * (1 + self.states))

    @property
    def one_pass(self) -> bool:
        return self.streams is None


# Options of a step besides the rule, each with the arrays that it reads plus the arrays that it writes.
STEP_OPTIONS = {"clip_norm": 1, "zero": 1, "ema": 2, "rows": 0, "storage": 0}


@dataclass(frozen=True)
class Workload:
    """One race.

    Parameters
    ----------
    name, title : str
        For the command line, and for people.
    rule : Rule
        The update rule.
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
    dtype : str
        Of parameters and gradients, "float32" or "bfloat16".
    storage : mapping, optional
        If given, how fastopt stores state and parameters; the others do so in their own ways.
    """

    name: str
    title: str
    rule: Rule
    shapes: tuple[Shape, ...]
    peers: tuple[str, ...] = ()
    clip_norm: float | None = None
    zero: bool = False
    ema: float | None = None
    rows: int = 0
    layers: tuple[int, ...] = ()
    blocks: int = 0
    hyper: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    storage: Mapping[str, Any] | None = None

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def options(self) -> frozenset[str]:
        """The options of a step besides the rule, by the names of the fields."""
        return frozenset(name for name in STEP_OPTIONS if getattr(self, name) not in (None, 0))

    @property
    def loop(self) -> str:
        """The library in whose training loop the steps are; empty where there is no loop."""
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
        if self.storage is None:
            return self.touched * (self.rule.bytes_per_element + extra)
        return round(self.touched * (2 * self._stored + BYTES[self.dtype] + extra))

    @property
    def _stored(self) -> float:
        """Bytes of an element of a parameter and of its state."""
        storage = self.storage or {}
        itself = BYTES[self.dtype] + (MASTERS[storage["master"]] if "master" in storage else 0)
        return itself + self.rule.states * BYTES[storage.get("state_dtype", "float32")]

    @property
    def footprint(self) -> int:
        """Bytes of parameters, gradients, state and average, and of new gradients where the old are set to zero."""
        kept = self.elements * (self._stored + FLOAT * (self.ema is not None))
        return round(kept + BYTES[self.dtype] * self.touched * (1 + self.zero))

    def hyperparameters(self, **changes: Any) -> dict[str, Any]:
        return {**self.rule.hyper, **self.hyper, **changes}

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
