"""Who races: fastopt, and what a user would pick instead.

A contender takes start values as NumPy arrays, makes steps, and gives its parameters back. Libraries are imported when
a contender is made, because each contender lives in a process of its own and should load nothing else.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any

import numpy as np

from . import twins
from .workloads import STEP_OPTIONS, Array, Rule, Workload

CLIP_EPS = 1e-6  # added to the norm, as torch does


class UnavailableError(Exception):
    """This contender cannot take part; the message says why."""


@dataclass
class Entry:
    """The material of a contender: a workload, its start values, and the threads it may use.

    The arrays come one by one, so that a contender that copies them never holds two copies of all.
    """

    workload: Workload
    params: Iterable[Array]
    grads: Iterable[Array]
    hyper: dict[str, Any]
    threads: int


class Contender:
    """The methods that a race calls; a contender defines one of `run` and `single`.

    Attributes
    ----------
    offers : set of str
        Which of a workload's options it has, see `workloads.STEP_OPTIONS`.
    note : str
        What a reader has to know about this contender's maths.
    compared_with : mapping
        Hyperparameters that fastopt's run must change before this contender's result is compared with it, where its
        library cannot be brought to the race's.
    """

    offers: Set[str] = frozenset()
    note = ""
    compared_with: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, entry: Entry) -> None:
        raise NotImplementedError

    def run(self, steps: int) -> None:
        """Make that many steps with the gradients that are there, and return when they are done."""
        step = self.single()
        for _ in range(steps):
            step()

    def single(self) -> Callable[[], object]:
        """Return what makes one step, with as little around it as the library allows."""
        return partial(self.run, 1)

    def load_gradients(self, grads: Iterable[Array]) -> None:
        raise NotImplementedError

    def answer(self) -> Iterator[Array]:
        """Return the parameters, then their averages, then gradients that have to be zero, as the workload has them."""
        raise NotImplementedError

    def measure(self, batches: int, steps: int) -> list[float]:
        """Return seconds per step for each of some batches of steps."""
        seconds = []
        for _ in range(batches):
            start = perf_counter()
            self.run(steps)
            seconds.append((perf_counter() - start) / steps)
        return seconds


class OnNumPy(Contender):
    """A contender whose parameters and gradients are NumPy arrays."""

    def __init__(self, entry: Entry) -> None:
        self.workload = entry.workload
        dtype = numpy_dtype(self.workload.dtype)
        self.params: list[Any] = [p.astype(dtype, copy=False) for p in entry.params]
        self.grads: list[Any] = [g.astype(dtype, copy=False) for g in entry.grads]

    def load_gradients(self, grads: Iterable[Array]) -> None:
        for mine, new in zip(self.grads, grads, strict=True):
            mine[...] = new

    def answer(self) -> Iterator[Array]:
        arrays = chain(self.params, self.averages(), self.grads if self.workload.zero else ())
        return (np.asarray(array, np.float32) for array in arrays)

    def averages(self) -> Iterable[Array]:
        return ()


class Fastopt(OnNumPy):
    offers = STEP_OPTIONS.keys()

    def __init__(self, entry: Entry) -> None:
        import fastopt

        super().__init__(entry)
        workload = entry.workload
        asked = {"clip_norm": workload.clip_norm, "zero_grads": workload.zero, "ema_decay": workload.ema}
        options = {name: value for name, value in asked.items() if value} | dict(workload.storage or {})
        optimizer = getattr(fastopt, workload.rule.optimizer)
        self.optimizer = optimizer(self.params, **entry.hyper, **options, **self.options(entry))
        self.given: list[Any] = self.grads
        if workload.rows:
            self.note = "fastopt.RowGrad"
            self.given = [fastopt.RowGrad(rows, g) for rows, g in zip(workload.row_numbers(), self.grads, strict=True)]

    def options(self, entry: Entry) -> dict[str, Any]:
        return {}

    def single(self) -> Callable[[], object]:
        return partial(self.optimizer.step, self.given)

    def averages(self) -> Iterable[Array]:
        return self.optimizer.ema.values() if self.workload.ema else ()


class FastoptFloat32(Fastopt):
    """fastopt with all in float32, for races of those that take fewer bytes."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(replace(entry, workload=replace(entry.workload, dtype="float32", storage=None)))


class AnotherRevision(Fastopt):
    """fastopt from another folder than the race's own."""

    def __init__(self, entry: Entry) -> None:
        import fastopt

        super().__init__(entry)
        self.note = str(Path(fastopt.__file__).parent)


class FastoptOneThread(Fastopt):
    def options(self, entry: Entry) -> dict[str, Any]:
        return {"num_threads": 1}


class FastoptAllThreads(Fastopt):
    def options(self, entry: Entry) -> dict[str, Any]:
        return {"num_threads": entry.threads}


class FastoptBound(Fastopt):
    """fastopt with gradient buffers that never move."""

    note = "opt.bind(grads), then opt.step()"

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        self.optimizer.bind(self.given)

    def single(self) -> Callable[[], object]:
        step: Callable[[], object] = self.optimizer.step
        return step


class FastoptKernel(OnNumPy):
    """The function for embedding, on the caller's own buffers."""

    note = "fastopt.kernels.adam on the caller's buffers"

    def __init__(self, entry: Entry) -> None:
        import fastopt

        super().__init__(entry)
        (self.p,), (self.g,) = self.params, self.grads
        self.m, self.v = np.zeros_like(self.p), np.zeros_like(self.p)
        self.t = 0
        self.kernel = fastopt.kernels.adam
        self.lr, self.betas, self.eps = (entry.hyper[name] for name in ("lr", "betas", "eps"))

    def run(self, steps: int) -> None:
        kernel, p, g, m, v, lr, (beta1, beta2), eps = (
            *(self.kernel, self.p, self.g, self.m, self.v),
            *(self.lr, self.betas, self.eps),
        )
        for t in range(self.t + 1, self.t + 1 + steps):
            kernel(p, g, m, v, step=t, lr=lr, beta1=beta1, beta2=beta2, eps=eps)
        self.t += steps


class StepInNumPy(OnNumPy):
    """A training step in NumPy around a rule in NumPy: the norm before it, the average and the zeros after it."""

    offers = frozenset({"clip_norm", "zero", "ema"})

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        self.hyper = entry.hyper
        self.means = [p.copy() for p in self.params] if self.workload.ema else []
        self.t = 0

    def single(self) -> Callable[[], object]:
        return self.step

    def step(self) -> None:
        self.t += 1
        self.update(self.grads if self.workload.clip_norm is None else self.clipped(self.workload.clip_norm))
        if self.workload.ema:
            self.average(1 - self.workload.ema)
        if self.workload.zero:
            for g in self.grads:
                g.fill(0)

    def update(self, grads: list[Array]) -> None:
        raise NotImplementedError

    def clipped(self, clip_norm: float) -> list[Array]:
        raise NotImplementedError

    def average(self, rest: float) -> None:
        raise NotImplementedError

    def averages(self) -> Iterable[Array]:
        return self.means


class NumPy(StepInNumPy):
    """The rule as its paper writes it."""

    def __init__(self, entry: Entry) -> None:
        from fastopt.optimizers import plain

        super().__init__(entry)
        self.rule: Callable[..., None] = plain(entry.workload.rule.optimizer)
        self.states: list[dict[str, Any]] = [{} for _ in self.params]

    def update(self, grads: list[Array]) -> None:
        for p, g, state in zip(self.params, grads, self.states, strict=True):
            self.rule(p, g, state, self.t, **self.hyper)

    def clipped(self, clip_norm: float) -> list[Array]:
        norm = math.sqrt(sum(float(np.sum(g**2)) for g in self.grads))
        return [g * min(1.0, clip_norm / (norm + CLIP_EPS)) for g in self.grads]

    def average(self, rest: float) -> None:
        for mean, p in zip(self.means, self.params, strict=True):
            mean += rest * (p - mean)


class NumPyRows(NumPy):
    """The rule on the rows that have gradients, taken out and put back."""

    offers = frozenset({"rows"})
    note = "p[rows] and the state's"

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        self.rows = entry.workload.row_numbers()

    def update(self, grads: list[Array]) -> None:
        for p, g, state, rows in zip(self.params, grads, self.states, self.rows, strict=True):
            part = p[rows]
            state_of_part = {name: array[rows] for name, array in state.items()}
            self.rule(part, g, state_of_part, self.t, **self.hyper)
            p[rows] = part
            for name, array in state_of_part.items():
                if name not in state:
                    state[name] = np.zeros_like(p)
                state[name][rows] = array


class NumPyOut(StepInNumPy):
    """NumPy with preallocated buffers and out=."""

    def __init__(self, entry: Entry) -> None:
        from . import numpy_out

        super().__init__(entry)
        rule, names = numpy_out.RULES[entry.workload.rule.name]
        self.rule = partial(rule, **taken(rule, entry.hyper))
        self.states = [{name: np.zeros_like(p) for name in names} for p in self.params]
        largest = max(p.size for p in self.params)
        scratch = np.empty((2, largest), np.float32)
        self.scratch = [[row[: p.size].reshape(p.shape) for row in scratch] for p in self.params]
        self.buffers = [np.empty_like(g) for g in self.grads] if self.workload.clip_norm else []

    def update(self, grads: list[Array]) -> None:
        for p, g, state, (s, r) in zip(self.params, grads, self.states, self.scratch, strict=True):
            self.rule(p, g, state, self.t, s, r)

    def clipped(self, clip_norm: float) -> list[Array]:
        norm = math.sqrt(sum(float(np.dot(g.reshape(-1), g.reshape(-1))) for g in self.grads))
        factor = min(1.0, clip_norm / (norm + CLIP_EPS))
        for out, g in zip(self.buffers, self.grads, strict=True):
            np.multiply(g, factor, out=out)
        return self.buffers

    def average(self, rest: float) -> None:
        for mean, p, (s, _) in zip(self.means, self.params, self.scratch, strict=True):
            np.subtract(p, mean, out=s)
            s *= rest
            mean += s


class Numba(OnNumPy):
    """One fused loop per array, compiled by Numba, on all threads."""

    parallel = True

    def __init__(self, entry: Entry) -> None:
        _need("numba")
        from . import numba_rules

        super().__init__(entry)
        rule = entry.workload.rule.name
        self.rule = numba_rules.compiled(rule, self.parallel)
        self.scalars = numba_rules.scalars(rule, entry.hyper)
        self.buffers = [
            (p.reshape(-1), g.reshape(-1), *numba_rules.states(rule, entry.workload.rule.states, p.reshape(-1)))
            for p, g in zip(self.params, self.grads, strict=True)
        ]
        self.t = 0

    def single(self) -> Callable[[], object]:
        return self.step

    def step(self) -> None:
        self.t += 1
        for buffers in self.buffers:
            self.rule(*buffers, self.t, *self.scalars)


class NumbaSerial(Numba):
    parallel = False


class Torch(Contender):
    """torch.optim with its defaults, on tensors of torch's own."""

    offers: Set[str] = frozenset({"clip_norm", "zero", "ema"})
    options: Mapping[str, Any] = MappingProxyType({})
    foreach_clip: bool | None = None

    def __init__(self, entry: Entry) -> None:
        torch = _need("torch")
        torch.set_num_threads(entry.threads)
        self.workload = entry.workload
        self.params = [torch.nn.Parameter(self.tensor(torch.from_numpy(p))) for p in entry.params]
        self.set_gradients(entry.grads)
        self.optimizer = self.make_optimizer(entry)
        self.means: list[Any] = []
        self.calls = list(self.training_step(torch))

    def training_step(self, torch: Any) -> Iterator[Callable[[], Any]]:
        """Return the calls that a step is made of, in their order."""
        workload, params = self.workload, self.params
        if workload.clip_norm is not None:
            clip = torch.nn.utils.clip_grad_norm_
            yield lambda: clip(params, workload.clip_norm, foreach=self.foreach_clip)
        yield self.optimizer.step
        if workload.zero:
            yield lambda: self.optimizer.zero_grad(set_to_none=False)
        if workload.ema is not None:
            current, rest = [p.detach() for p in params], 1 - workload.ema
            self.means = [p.clone() for p in current]
            yield lambda: torch._foreach_lerp_(self.means, current, rest)

    def tensor(self, tensor: Any) -> Any:
        import torch

        return tensor.to(getattr(torch, self.workload.dtype), copy=True)

    def make_optimizer(self, entry: Entry) -> Any:
        import torch

        optimizer = getattr(torch.optim, self.optimizer_name(entry.workload.rule))
        if missing := set(self.options) - set(inspect.signature(optimizer).parameters):
            raise UnavailableError(f"torch.optim.{optimizer.__name__} has no {' or '.join(missing)} form")
        return optimizer(self.params, **taken(optimizer, entry.hyper), **self.options)

    def optimizer_name(self, rule: Rule) -> str:
        return rule.optimizer

    def single(self) -> Callable[[], object]:
        return self.calls[0] if len(self.calls) == 1 else self.step

    def step(self) -> None:
        for call in self.calls:
            call()

    def set_gradients(self, grads: Iterable[Array]) -> None:
        import torch

        for p, g in zip(self.params, grads, strict=True):
            p.grad = self.tensor(torch.from_numpy(g))

    def load_gradients(self, grads: Iterable[Array]) -> None:
        import torch

        for p, g in zip(self.params, grads, strict=True):
            p.grad.copy_(torch.from_numpy(g))

    def answer(self) -> Iterator[Array]:
        grads = (p.grad for p in self.params) if self.workload.zero else ()
        return (tensor.detach().float().numpy() for tensor in chain(self.params, self.means, grads))


class TorchForeach(Torch):
    options: Mapping[str, Any] = MappingProxyType({"foreach": True})
    foreach_clip = True


class TorchFused(Torch):
    options: Mapping[str, Any] = MappingProxyType({"fused": True})
    foreach_clip = True  # there is no fused form, and this one takes less time with many arrays


class TorchShared(TorchFused):
    """torch's fused step on tensors that share the memory of NumPy arrays."""

    note = "torch.from_numpy, fused=True"

    def tensor(self, tensor: Any) -> Any:
        return tensor


class FastoptTorch(TorchShared):
    """fastopt's classes for torch, on the same tensors: all of a step is one call."""

    offers: Set[str] = frozenset({"clip_norm", "zero"})
    options: Mapping[str, Any] = MappingProxyType({})
    note = "fastopt.torch, torch.from_numpy"

    def training_step(self, torch: Any) -> Iterator[Callable[[], Any]]:
        yield self.optimizer.step

    def make_optimizer(self, entry: Entry) -> Any:
        import fastopt.torch

        workload = entry.workload
        optimizer = getattr(fastopt.torch, self.optimizer_name(workload.rule))
        options = {"clip_norm": workload.clip_norm, "zero_grads": workload.zero}
        return optimizer(self.params, **taken(optimizer, entry.hyper), **options)


class TorchSharedOneThread(TorchShared):
    """The same on one thread, which does not wait for a core that BLAS holds."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(replace(entry, threads=1))


class TorchBfloat16(TorchFused):
    """torch's fused step of bfloat16 parameters and state, all rounded to nearest."""

    offers = frozenset({"storage"})
    note = "parameters and state of bfloat16, which lose small updates"


class LowBits(Torch):
    """An optimizer of another library that stores in fewer bytes, on tensors of torch."""

    offers = frozenset({"storage"})
    library = ""

    def optimizer_class(self, library: Any, name: str) -> Any:
        raise NotImplementedError

    def make_optimizer(self, entry: Entry) -> Any:
        torch, library = _need("torch"), _need(self.library)
        try:
            optimizer = self.optimizer_class(library, entry.workload.rule.optimizer)
            hyper = {**taken(optimizer, entry.hyper), **self.options}
            tried = torch.nn.Parameter(torch.zeros(4096, dtype=self.params[0].dtype))
            tried.grad = torch.ones_like(tried)
            optimizer([tried], **hyper).step()
        except Exception as error:  # whatever a library raises that has no such optimizer, or none for CPUs
            raise UnavailableError(f"{self.library}: {type(error).__name__}: {error!s:.200}") from error
        return optimizer(self.params, **hyper)


class Bitsandbytes(LowBits):
    library = "bitsandbytes"
    options = MappingProxyType({"min_8bit_size": 1})

    def optimizer_class(self, library: Any, name: str) -> Any:
        return getattr(library.optim, f"{name}8bit")


class TorchAO(LowBits):
    library = "torchao.optim"
    note = "arrays of fewer than 4096 elements keep state of float32"

    def optimizer_class(self, library: Any, name: str) -> Any:
        return getattr(library, f"{name}8bit")


class TorchAOBfloat16(LowBits):
    library = "torchao.optim"
    note = "stochastic rounding of parameters"
    options = MappingProxyType({"bf16_stochastic_round": True})

    def optimizer_class(self, library: Any, name: str) -> Any:
        return getattr(library, f"_{name}")


class TorchSparse(Torch):
    """torch's lazy Adam for gradients of some rows."""

    offers = frozenset({"rows"})
    note = "torch.optim.SparseAdam"

    def optimizer_name(self, rule: Rule) -> str:
        return f"Sparse{rule.optimizer}"

    def set_gradients(self, grads: Iterable[Array]) -> None:
        import torch

        for p, g, rows in zip(self.params, grads, self.workload.row_numbers(), strict=True):
            values, indices = torch.from_numpy(g).clone(), torch.from_numpy(rows)[None]
            p.grad = torch.sparse_coo_tensor(indices, values, p.shape, check_invariants=False)

    load_gradients = set_gradients


class DeepSpeed(Torch):
    """DeepSpeed's CPU operators, compiled on first use."""

    offers: Set[str] = frozenset()

    def make_optimizer(self, entry: Entry) -> Any:
        name = entry.workload.rule.optimizer
        decoupled = {"adamw_mode": name.endswith("W")} if name.startswith("Adam") else {}
        name = name.removesuffix("W")
        try:
            operator = getattr(_need(f"deepspeed.ops.{name.lower()}"), f"DeepSpeedCPU{name}")
            return operator(self.params, **taken(operator, entry.hyper), **decoupled)
        except (AttributeError, RuntimeError) as error:
            raise UnavailableError(f"{error} ({error.__cause__})") from error


class Optax(Contender):
    """optax under jit, parameters and state donated."""

    offers = frozenset({"clip_norm"})

    def __init__(self, entry: Entry) -> None:
        jax, optax = _need("jax"), _need("optax")

        self.jax = jax
        self.params = [jax.numpy.array(p) for p in entry.params]
        self.grads = [jax.numpy.array(g) for g in entry.grads]
        twin = twins.twin(entry.workload.rule.name)
        own = {name: value for name, value in twin.options.items() if entry.hyper[name] != value}
        if own:
            self.compared_with = own
            self.note = "compared with " + ", ".join(f"{name}={value}" for name, value in own.items())
        transform = twin.peer(optax)
        if entry.workload.clip_norm is not None:
            transform = optax.chain(optax.clip_by_global_norm(entry.workload.clip_norm), transform)
        # Some keep the parameters that they start from, which are donated too.
        self.state = jax.tree.map(jax.numpy.copy, transform.init(self.params))

        def update(params: Any, state: Any, grads: Any) -> Any:
            updates, state = transform.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        self.update = jax.jit(update, donate_argnums=(0, 1))

    def run(self, steps: int) -> None:
        params, state, grads, update = self.params, self.state, self.grads, self.update
        for _ in range(steps):
            params, state = update(params, state, grads)
        self.params, self.state = self.jax.block_until_ready((params, state))

    def load_gradients(self, grads: Iterable[Array]) -> None:
        self.grads = self.jax.block_until_ready([self.jax.numpy.array(g) for g in grads])

    def answer(self) -> Iterator[Array]:
        return (np.asarray(p) for p in self.params)


class MemoryLimit(Contender):
    """The limit of every optimizer: a loop of the same traffic on the same memory, with one addition for each store."""

    offers = frozenset({"storage"})

    def __init__(self, entry: Entry) -> None:
        import fastopt

        workload = entry.workload
        dtype = numpy_dtype(workload.dtype)
        p, self.g = np.ones(workload.elements, dtype), np.ones(workload.elements, dtype)
        optimizer = getattr(fastopt, workload.rule.optimizer)
        self.optimizer = optimizer([p], **entry.hyper, **(workload.storage or {}))
        self.threads = entry.threads

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer._table.traffic(0, self.g, self.threads)


def taken(function: Callable[..., Any], hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters that a function takes, which are all that differ from 0 there."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in hyper.items() if name in names}


def numpy_dtype(name: str) -> Any:
    """Return the dtype of NumPy arrays."""
    return np.float32 if name == "float32" else getattr(_need("ml_dtypes"), name)


def _need(library: str) -> Any:
    """Import a library that a peer runs on."""
    try:
        return import_module(library)
    except Exception as error:
        raise UnavailableError(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Card:
    """How a contender is listed."""

    label: str
    colour: str
    contender: type[Contender]

    def make(self, entry: Entry) -> Contender:
        """Return the contender, unless it has no way to do what the workload asks for."""
        if missing := entry.workload.options - self.contender.offers:
            raise UnavailableError(f"has no way to do {' and '.join(sorted(missing))}")
        return self.contender(entry)


FASTOPT = "fastopt"
MEMORY_LIMIT = "memory-limit"
ANOTHER_REVISION = "fastopt-another"

# One hue per library, darker for what is faster as a rule, so that a colour means the same in every picture.
CONTENDERS: Mapping[str, Card] = {
    FASTOPT: Card("fastopt", "#c2185b", Fastopt),
    "fastopt-bound": Card("fastopt, bound", "#c2185b", FastoptBound),
    "fastopt-kernel": Card("fastopt.kernels", "#c2185b", FastoptKernel),
    "fastopt-1": Card("fastopt, 1 thread", "#e78bb0", FastoptOneThread),
    "fastopt-all": Card("fastopt, all threads", "#d8548b", FastoptAllThreads),
    "fastopt-float32": Card("fastopt, float32", "#e78bb0", FastoptFloat32),
    ANOTHER_REVISION: Card("fastopt, another", "#d8548b", AnotherRevision),
    "numpy": Card("NumPy", "#9aa0a6", NumPy),
    "numpy-out": Card("NumPy, out=", "#5f6368", NumPyOut),
    "numpy-rows": Card("NumPy, rows", "#5f6368", NumPyRows),
    "numba": Card("Numba", "#1b8a5a", Numba),
    "numba-serial": Card("Numba, 1 thread", "#7cc4a4", NumbaSerial),
    "torch": Card("torch", "#f6c39a", Torch),
    "torch-foreach": Card("torch, foreach", "#f09a52", TorchForeach),
    "torch-fused": Card("torch, fused", "#d9661f", TorchFused),
    "torch-shared": Card("torch, fused, shared", "#d9661f", TorchShared),
    "fastopt-torch": Card("fastopt.torch", "#d8548b", FastoptTorch),
    "torch-shared-1": Card("torch, fused, shared, 1 thread", "#f09a52", TorchSharedOneThread),
    "torch-sparse": Card("torch, sparse", "#d9661f", TorchSparse),
    "torch-bf16": Card("torch, fused, bf16", "#d9661f", TorchBfloat16),
    "torchao-8bit": Card("torchao, 8-bit", "#a8441a", TorchAO),
    "torchao-bf16": Card("torchao, bf16", "#a8441a", TorchAOBfloat16),
    "bitsandbytes": Card("bitsandbytes, 8-bit", "#8a6d1b", Bitsandbytes),
    "optax": Card("optax, jit", "#3b6fd4", Optax),
    "deepspeed": Card("DeepSpeed", "#7b4fb5", DeepSpeed),
    MEMORY_LIMIT: Card("memory limit", "#202124", MemoryLimit),
}
