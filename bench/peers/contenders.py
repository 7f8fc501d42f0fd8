"""Who races: fastopt, and what a user would pick instead.

A contender takes start values as NumPy arrays, makes steps, and gives its parameters back. Libraries are imported when
a contender is made, because each contender lives in a process of its own and should load nothing else.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from time import perf_counter
from types import MappingProxyType
from typing import Any

import numpy as np

from .workloads import RULES, Array, Workload


class UnavailableError(Exception):
    """This contender cannot take part; the message says why."""


@dataclass
class Entry:
    """What a contender is made from: a workload, its start values, and the threads it may use.

    The arrays come one by one, so that a contender that copies them never holds two copies of all.
    """

    workload: Workload
    params: Iterable[Array]
    grads: Iterable[Array]
    hyper: dict[str, Any]
    threads: int


class Contender:
    """What the race needs of a contender.

    Attributes
    ----------
    note : str
        What a reader has to know about this contender's maths.
    compared_with : mapping
        Hyperparameters that fastopt's run must change before this contender's result is compared with it, where its
        library cannot be brought to the race's.
    """

    note = ""
    compared_with: Mapping[str, Any] = MappingProxyType({})

    def run(self, steps: int) -> None:
        """Make that many steps with the same gradients, and return when they are done."""
        raise NotImplementedError

    def load_gradients(self, grads: Iterable[Array]) -> None:
        raise NotImplementedError

    def parameters(self) -> Iterator[Array]:
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
    """What contenders share whose parameters and gradients are NumPy arrays."""

    def __init__(self, entry: Entry) -> None:
        self.params, self.grads = list(entry.params), list(entry.grads)
        self.clip_norm = entry.workload.clip_norm

    def load_gradients(self, grads: Iterable[Array]) -> None:
        for mine, new in zip(self.grads, grads, strict=True):
            mine[...] = new

    def parameters(self) -> Iterator[Array]:
        return iter(self.params)


class Fastopt(OnNumPy):
    def __init__(self, entry: Entry) -> None:
        import fastopt

        super().__init__(entry)
        optimizer = getattr(fastopt, RULES[entry.workload.rule].optimizer)
        options = self.options(entry)
        if self.clip_norm is not None and "clip_norm" in inspect.signature(optimizer).parameters:
            options["clip_norm"] = self.clip_norm
            self.clip_norm = None
        if self.clip_norm is not None:
            self.note = "clipped by NumPy before the step"
            self.clipped = [np.empty_like(g) for g in self.grads]
        self.optimizer = optimizer(self.params, **entry.hyper, **options)

    def options(self, entry: Entry) -> dict[str, Any]:
        return {}

    def run(self, steps: int) -> None:
        step, grads = self.optimizer.step, self.grads
        if self.clip_norm is None:
            for _ in range(steps):
                step(grads)
        else:
            for _ in range(steps):
                clip_into(self.clipped, grads, self.clip_norm)
                step(self.clipped)


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
        self.optimizer.bind(self.grads)

    def run(self, steps: int) -> None:
        step = self.optimizer.step
        for _ in range(steps):
            step()


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


class NumPy(OnNumPy):
    """The rule as its paper writes it."""

    def __init__(self, entry: Entry) -> None:
        from fastopt import numpy_rules

        super().__init__(entry)
        self.rule: Callable[..., None] = getattr(numpy_rules, RULES[entry.workload.rule].optimizer.lower())
        self.hyper = entry.hyper
        self.states: list[dict[str, Any]] = [{} for _ in self.params]
        self.t = 0

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.t += 1
            grads = self.grads if self.clip_norm is None else self.clipped(self.clip_norm)
            for p, g, state in zip(self.params, grads, self.states, strict=True):
                self.rule(p, g, state, self.t, **self.hyper)

    def clipped(self, clip_norm: float) -> list[Array]:
        norm = math.sqrt(sum(float(np.sum(g**2)) for g in self.grads))
        return [g * min(1.0, clip_norm / norm) for g in self.grads]


class NumPyOut(OnNumPy):
    """NumPy with preallocated buffers and out=."""

    def __init__(self, entry: Entry) -> None:
        from . import numpy_out

        super().__init__(entry)
        self.rule, names = numpy_out.RULES[entry.workload.rule]
        self.hyper = entry.hyper
        self.states = [{name: np.zeros_like(p) for name in names} for p in self.params]
        largest = max(p.size for p in self.params)
        scratch = np.empty((2, largest), np.float32)
        self.scratch = [[row[: p.size].reshape(p.shape) for row in scratch] for p in self.params]
        self.clipped = [np.empty_like(g) for g in self.grads] if self.clip_norm is not None else self.grads
        self.t = 0

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.t += 1
            if self.clip_norm is not None:
                clip_into(self.clipped, self.grads, self.clip_norm)
            for p, g, state, (s, r) in zip(self.params, self.clipped, self.states, self.scratch, strict=True):
                self.rule(p, g, state, self.t, s, r, **self.hyper)


def clip_into(clipped: list[Array], grads: list[Array], clip_norm: float) -> None:
    norm = math.sqrt(sum(float(np.dot(g.reshape(-1), g.reshape(-1))) for g in grads))
    factor = min(1.0, clip_norm / norm)
    for out, g in zip(clipped, grads, strict=True):
        np.multiply(g, factor, out=out)


class Numba(OnNumPy):
    """One fused loop per array, compiled by Numba, on all threads."""

    parallel = True

    def __init__(self, entry: Entry) -> None:
        _need("numba")
        from . import numba_rules

        super().__init__(entry)
        rule = entry.workload.rule
        self.rule = numba_rules.compiled(rule, self.parallel)
        self.scalars = numba_rules.scalars(rule, entry.hyper)
        self.buffers = [
            (p.reshape(-1), g.reshape(-1), *numba_rules.states(rule, p.reshape(-1)))
            for p, g in zip(self.params, self.grads, strict=True)
        ]
        self.t = 0

    def run(self, steps: int) -> None:
        rule, scalars = self.rule, self.scalars
        for _ in range(steps):
            self.t += 1
            for buffers in self.buffers:
                rule(*buffers, self.t, *scalars)


class NumbaSerial(Numba):
    parallel = False


class Torch(Contender):
    """torch.optim with its defaults, on tensors of torch's own."""

    options: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, entry: Entry) -> None:
        torch = _need("torch")
        torch.set_num_threads(entry.threads)
        self.params = [torch.nn.Parameter(self.tensor(torch.from_numpy(p))) for p in entry.params]
        for p, g in zip(self.params, entry.grads, strict=True):
            p.grad = self.tensor(torch.from_numpy(g))
        self.optimizer = self.make_optimizer(entry)
        self.clip: Callable[[], Any] | None = None
        if (clip_norm := entry.workload.clip_norm) is not None:
            foreach = self.options.get("foreach")
            self.clip = lambda: torch.nn.utils.clip_grad_norm_(self.params, clip_norm, foreach=foreach)

    def tensor(self, tensor: Any) -> Any:
        return tensor.clone()

    def make_optimizer(self, entry: Entry) -> Any:
        import torch

        optimizer = getattr(torch.optim, RULES[entry.workload.rule].optimizer)
        if missing := set(self.options) - set(inspect.signature(optimizer).parameters):
            raise UnavailableError(f"torch.optim.{optimizer.__name__} has no {' or '.join(missing)} form")
        return optimizer(self.params, **entry.hyper, **self.options)

    def run(self, steps: int) -> None:
        step, clip = self.optimizer.step, self.clip
        for _ in range(steps):
            if clip is not None:
                clip()
            step()

    def load_gradients(self, grads: Iterable[Array]) -> None:
        import torch

        for p, g in zip(self.params, grads, strict=True):
            p.grad.copy_(torch.from_numpy(g))

    def parameters(self) -> Iterator[Array]:
        return (p.detach().numpy() for p in self.params)


class TorchForeach(Torch):
    options: Mapping[str, Any] = MappingProxyType({"foreach": True})


class TorchFused(Torch):
    options: Mapping[str, Any] = MappingProxyType({"fused": True})


class TorchShared(TorchFused):
    """torch's fused step on tensors that share the memory of NumPy arrays."""

    note = "torch.from_numpy, fused=True"

    def tensor(self, tensor: Any) -> Any:
        return tensor


class DeepSpeed(Torch):
    """DeepSpeed's CPU operators, compiled on first use."""

    def make_optimizer(self, entry: Entry) -> Any:
        rule = entry.workload.rule
        if rule not in ("adam", "adagrad"):
            raise UnavailableError("DeepSpeed has no CPU operator for this rule")
        operators = _need(f"deepspeed.ops.{rule}")
        try:
            if rule == "adam":
                return operators.DeepSpeedCPUAdam(self.params, **entry.hyper, adamw_mode=False)
            return operators.DeepSpeedCPUAdagrad(self.params, **entry.hyper)
        except RuntimeError as error:
            raise UnavailableError(f"{error} ({error.__cause__})") from error


class Optax(Contender):
    """optax under jit, parameters and state donated."""

    def __init__(self, entry: Entry) -> None:
        jax, optax = _need("jax"), _need("optax")

        self.jax = jax
        self.params = [jax.numpy.array(p) for p in entry.params]
        self.grads = [jax.numpy.array(g) for g in entry.grads]
        transform = self.transform(optax, entry.workload.rule, dict(entry.hyper))
        if entry.workload.clip_norm is not None:
            transform = optax.chain(optax.clip_by_global_norm(entry.workload.clip_norm), transform)
        self.state = transform.init(self.params)

        def update(params: Any, state: Any, grads: Any) -> Any:
            updates, state = transform.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        self.update = jax.jit(update, donate_argnums=(0, 1))

    def transform(self, optax: Any, rule: str, hyper: dict[str, Any]) -> Any:
        lr = hyper.pop("lr")
        if "betas" in hyper:
            hyper["b1"], hyper["b2"] = hyper.pop("betas")
        if rule == "adagrad":
            # There is no way to have eps outside the root, where it does not matter unless a gradient is tiny.
            self.note = "eps=0, because optax adds it under the root"
            hyper.update(eps=0.0, initial_accumulator_value=0.0)
        elif rule == "rmsprop":
            hyper.update(decay=hyper.pop("alpha"), eps_in_sqrt=False)
        elif rule == "nadam":
            self.note = "constant momentum; compared with NAdam(momentum_decay=None)"
            self.compared_with = {"momentum_decay": None}
            del hyper["momentum_decay"]
        name = "sgd" if rule in ("momentum", "nesterov") else rule
        return getattr(optax, name)(lr, **hyper)

    def run(self, steps: int) -> None:
        params, state, grads, update = self.params, self.state, self.grads, self.update
        for _ in range(steps):
            params, state = update(params, state, grads)
        self.params, self.state = self.jax.block_until_ready((params, state))

    def load_gradients(self, grads: Iterable[Array]) -> None:
        self.grads = [self.jax.numpy.array(g) for g in grads]

    def parameters(self) -> Iterator[Array]:
        return (np.asarray(p) for p in self.params)


class MemoryLimit(Contender):
    """What no optimizer can beat: a loop with the same traffic on the same memory, and one addition for each store."""

    def __init__(self, entry: Entry) -> None:
        import fastopt

        rule, size = RULES[entry.workload.rule], entry.workload.elements
        p, self.g = np.ones(size, np.float32), np.ones(size, np.float32)
        self.optimizer = getattr(fastopt, rule.optimizer)([p], **entry.hyper)
        self.threads = entry.threads

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer._table.traffic(0, self.g, self.threads)


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
    make: Callable[[Entry], Contender]


FASTOPT = "fastopt"
MEMORY_LIMIT = "memory-limit"

CONTENDERS: Mapping[str, Card] = {
    FASTOPT: Card("fastopt", Fastopt),
    "fastopt-bound": Card("fastopt, bound", FastoptBound),
    "fastopt-kernel": Card("fastopt.kernels", FastoptKernel),
    "fastopt-1": Card("fastopt, 1 thread", FastoptOneThread),
    "fastopt-all": Card("fastopt, all threads", FastoptAllThreads),
    "numpy": Card("NumPy", NumPy),
    "numpy-out": Card("NumPy, out=", NumPyOut),
    "numba": Card("Numba", Numba),
    "numba-serial": Card("Numba, 1 thread", NumbaSerial),
    "torch": Card("torch", Torch),
    "torch-foreach": Card("torch, foreach", TorchForeach),
    "torch-fused": Card("torch, fused", TorchFused),
    "torch-shared": Card("torch, fused, shared", TorchShared),
    "optax": Card("optax, jit", Optax),
    "deepspeed": Card("DeepSpeed", DeepSpeed),
    MEMORY_LIMIT: Card("memory limit", MemoryLimit),
}
