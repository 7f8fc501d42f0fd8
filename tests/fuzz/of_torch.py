"""Optimizers of fastopt.torch beside those of fastopt, on tensors that lie in memory alike."""

from __future__ import annotations

import copy
import io
import math
import os
import pickle
import random
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from math import inf
from typing import Any

import numpy as np

from fuzz.arrays import BFLOAT16, FORMATS, a_shape, defined, numbers, of_buffer
from fuzz.damage import an_entry
from fuzz.outcomes import Calls, Tell, WrongResultError, attempt, expect
from fuzz.values import Array, a_value, defaults, garbage, kind_of
from support.cases import AVERAGING, DEFAULTS
from support.registry import CLASSES, RULES

# AddressSanitizer finds what it should not in torch's libraries.
HAS_TORCH = find_spec("torch") is not None and "asan" not in os.environ.get("LD_PRELOAD", "")
WORDS = ("float32", "bfloat16", "float16", "8bit")


def as_array(tensor: Any) -> Array:
    """The memory of a tensor as an array."""
    import torch

    tensor = tensor.detach()
    return tensor.view(torch.int16).numpy().view(BFLOAT16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def as_tensor(array: Array) -> Any:
    """An array in C order as a tensor, in its memory."""
    import torch

    return (
        torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) if array.dtype == BFLOAT16 else torch.tensor(array)
    )


class Laid:
    """Values in a tensor of some layout, and how to lay others so."""

    def __init__(self, rng: random.Random, values: Array) -> None:
        self.order, self.steps = list(range(values.ndim)), [1] * values.ndim
        if rng.random() < 0.5 and values.ndim < 10:
            rng.shuffle(self.order)
            self.steps = [rng.choice((1, 1, 2, 3)) for _ in self.order]
        extents = [n * step for n, step in zip(values.shape, self.steps, strict=True)]
        self.memory = np.zeros([extents[axis] for axis in self.order], values.dtype)
        self.view(self.memory)[...] = values

    def view(self, memory: Array) -> Array:
        """The elements in this memory."""
        turned = memory.transpose(np.argsort(self.order)) if memory.ndim else memory
        return turned[(..., *(slice(None, None, step) for step in self.steps))]

    def tensor(self) -> Any:
        """The elements as a tensor, in memory of its own."""
        whole = as_tensor(self.memory.copy())
        turned = whole.permute(*np.argsort(self.order).tolist()) if whole.ndim else whole
        return turned[tuple(slice(None, None, step) for step in self.steps)] if whole.ndim else turned

    def array(self) -> Array:
        """The same as an array."""
        return self.view(self.memory.copy())


class Run:
    """Each method makes one call of both optimizers, and returns its outcome."""

    def __init__(self, rng: random.Random, tell: Tell) -> None:
        self.rng, self.tell = rng, tell
        self.cls = rng.choice(list(DEFAULTS))
        self.tensors: list[Any] = []
        self.arrays: list[Array] = []
        self.sizes: list[int] = []
        self.settings: list[dict[str, Any]] = []

    def hyper(self) -> dict[str, Any]:
        names = [name for name in defaults(self.cls) if self.rng.random() < 0.3]
        return {name: a_value(self.rng, kind_of(self.cls, name)) for name in names}

    def options(self) -> dict[str, Any]:
        """Options of the step, averages and formats."""
        rng, found = self.rng, {}
        if rng.random() < 0.3:
            found["nonfinite"] = rng.choice(("propagate", "raise", "skip"))
        if rng.random() < 0.2:
            found |= {"clip_norm": rng.choice((1e-3, 1.0, inf)), "clip_norm_per": rng.choice(("all", "parameter"))}
        if rng.random() < 0.1:
            found["clip_value"] = rng.choice((1e-3, inf))
        if rng.random() < 0.3:
            averages = {"ema_decay": 0.5, "swa": (1, 2), "lookahead": (2, 0.5)}
            if self.cls in AVERAGING:
                del averages["lookahead"]
            found |= {name: averages[name] for name in averages if rng.random() < 0.6}
        if rng.random() < 0.4:
            found["state_dtype"] = rng.choice(WORDS)
        if rng.random() < 0.3:
            found["master"] = rng.choice(("auto", "split16", "split8", "float32", None))
        if rng.random() < 0.3:
            found["rounding"] = rng.choice(("nearest", "stochastic"))
        if rng.random() < 0.2:
            found["in_backward"] = True
            found.pop("nonfinite", None)  # by which each parameter would be left out by itself
        return found

    def a_group(self) -> tuple[list[Any], list[Array]]:
        """New parameters: tensors, and arrays that lie alike."""
        tensors, arrays = [], []
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            dtype = self.rng.choice(FORMATS)
            laid = Laid(self.rng, numbers(self.rng, a_shape(self.rng, dtype), dtype, 0.05))
            tensors.append(laid.tensor().requires_grad_())
            arrays.append(laid.array())
        return tensors, arrays

    def begin(self) -> bool:
        """Make both optimizers; False when they are refused, as they should be."""
        import fastopt.torch

        groups, of_twin = [], []
        shared, options = {**defaults(self.cls), **self.hyper()}, self.options()
        for _ in range(self.rng.choice((1, 1, 2))):
            tensors, arrays = self.a_group()
            own = self.hyper() if self.rng.random() < 0.3 else {}
            groups.append({"params": tensors, **own})
            of_twin.append({"params": tuple(arrays), **own})
            self.add(tensors, arrays, {**shared, "lr_scale": 1.0, **own})
        self.tell(self.cls, groups, shared, options)
        outcome, self.opt = attempt(getattr(fastopt.torch, self.cls), groups, **shared, **options)
        self.in_backward = options.pop("in_backward", False)
        self.sums_elements = "clip_norm" in options or bool(
            RULES[CLASSES[self.cls].rule_of(CLASSES[self.cls].defaults)].gathers
        )
        of_other, self.twin = attempt(getattr(fastopt, self.cls), of_twin, **shared, **options)
        if not (self.in_backward and outcome == "refused"):
            expect(outcome, of_other)
        return outcome == "right"

    def add(self, tensors: list[Any], arrays: list[Array], settings: dict[str, Any]) -> None:
        self.tensors += tensors
        self.arrays += arrays
        self.sizes.append(len(tensors))
        self.settings.append(settings)

    def grouped(self, entries: Sequence[Any]) -> list[tuple[Any, ...]]:
        """One entry per parameter, by groups."""
        rest = iter(entries)
        return [tuple(next(rest) for _ in range(size)) for size in self.sizes]

    def check(self) -> None:
        """Both optimizers are the same to the bit."""
        for i, (tensor, array) in enumerate(zip(self.tensors, self.arrays, strict=True)):
            if defined(as_array(tensor)).tobytes() != defined(array).tobytes():
                raise WrongResultError(f"parameter {i}: {as_array(tensor)}, expected {array}")
        inner = self.opt._inner
        for name, letters in self.twin.state.items():
            for letter, buffer in letters.items():
                if of_buffer(inner.state[name][letter]) != of_buffer(buffer):
                    raise WrongResultError(f"{letter} of {name}: {inner.state[name][letter]}, expected {buffer}")
        if inner._table.steps() != self.twin._table.steps():
            raise WrongResultError(f"steps {inner._table.steps()}, expected {self.twin._table.steps()}")
        for name in ("step_count", "skipped_steps"):
            if repr(getattr(self.opt, name)) != repr(getattr(self.twin, name)):
                raise WrongResultError(f"{name} {getattr(self.opt, name)}, expected {getattr(self.twin, name)}")

    def some_gradients(self) -> list[Array | None]:
        """Give each parameter a gradient, or none; as arrays."""
        grads: list[Array | None] = []
        for tensor, array in zip(self.tensors, self.arrays, strict=True):
            tensor.grad = None
            if self.rng.random() < 0.1:
                grads.append(None)
                continue
            shape = array.shape
            if shape and self.rng.random() < 0.1:
                laid = Laid(self.rng, numbers(self.rng, (*shape[:-1], 1), array.dtype, 0.2))
                g = laid.tensor().expand(shape)
            else:
                g = Laid(self.rng, numbers(self.rng, shape, array.dtype, 0.2)).tensor()
            tensor.grad = g
            grads.append(as_array(g).copy())
        return grads

    def backward(self, gradients: Sequence[Any]) -> None:
        """Have parameters get their gradients by one call of backward or by several; step() may find some of them."""
        import torch

        losses = [(p * g).sum() for p, g in zip(self.tensors, gradients, strict=True) if g is not None]
        while losses:
            part = [losses.pop() for _ in range(self.rng.randint(1, len(losses)))]
            with self.opt.accumulating() if self.rng.random() < 0.3 else nullcontext():
                torch.autograd.backward(part)

    def step(self) -> str:
        grads = self.some_gradients()
        self.tell("step", self.grouped(grads))
        of_twin, _ = attempt(self.twin.step, self.grouped(grads))
        versions = [tensor._version for tensor in self.tensors]
        given = [None if tensor.grad is None else tensor.grad.clone() for tensor in self.tensors]
        if self.in_backward:
            for tensor in self.tensors:
                tensor.grad = None
            self.backward(given)
        outcome, _ = attempt(self.opt.step)
        expect(outcome, of_twin)
        stepped = outcome == "right" and not self.twin.skipped_steps
        if stepped and not self.in_backward and repr(self.opt.grad_norm) != repr(self.twin.grad_norm):
            raise WrongResultError(f"grad_norm {self.opt.grad_norm}, expected {self.twin.grad_norm}")
        for tensor, g, version in zip(self.tensors, given, versions, strict=True):
            if not self.in_backward and g is not None and as_array(g).tobytes() != as_array(tensor.grad).tobytes():
                raise WrongResultError("a gradient was written")
            if outcome == "right" and g is not None and tensor._version == version and not self.twin.skipped_steps:
                raise WrongResultError("a parameter was changed, but its version was not")
        return outcome

    def move(self) -> str:
        """Some parameters lie elsewhere from now on."""
        if self.sums_elements:  # a copy, whose walk is of the new order, may have another last bit of a sum
            return self.step()
        for i, tensor in enumerate(self.tensors):
            if self.rng.random() < 0.5:
                laid = Laid(self.rng, as_array(tensor))
                tensor.data = laid.tensor()
                self.arrays[i] = laid.array()
        self.tell("move", self.tensors)
        outcome, _ = attempt(self.twin.rebind, [{"params": group} for group in self.grouped(self.arrays)])
        expect(outcome, "right")
        return self.step()

    def set_hyper(self) -> str:
        """Set a hyperparameter; the next step takes it, or refuses it."""
        i = self.rng.randrange(len(self.settings))
        group, name = self.opt.param_groups[i], self.rng.choice(list(defaults(self.cls)))
        value = a_value(self.rng, kind_of(self.cls, name)) if self.rng.random() < 0.7 else garbage(self.rng)
        if name == "weight_decay_form" and value is None:
            return self.step()  # it is the default
        if name == "momentum":
            return self.step()  # a layout that comes later would follow from it whether there is a buffer
        before, had = group.get(name), name in group
        self.tell("set", i, name, value)
        group[name] = value
        of_twin, _ = attempt(self.twin.groups[i].__setitem__, name, value)
        if of_twin == "right":
            return self.step()
        self.some_gradients()
        outcome, _ = attempt(self.opt.step)
        if had:
            group[name] = before
        else:
            del group[name]
        expect(outcome, "refused")
        return outcome

    def reload(self) -> str:
        """Save, make some steps, go back."""
        import torch

        saved, of_twin = self.opt.state_dict(), self.twin.state_dict()
        if self.rng.random() < 0.3:
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file, weights_only=False)
        for _ in range(self.rng.randrange(3)):
            self.step()
        self.tell("load_state_dict", saved)
        outcome, _ = attempt(self.opt.load_state_dict, saved)
        expect(outcome, "right")
        self.twin.load_state_dict(of_twin)
        return outcome

    def load_badly(self) -> str:
        """Load a state with an entry damaged: it is refused, or else the run ends here."""
        saved = self.opt.state_dict()
        damage(self.rng, saved)
        self.tell("load_state_dict", saved)
        try:
            outcome, _ = attempt(self.opt.load_state_dict, saved)
        except (KeyError, RecursionError):  # by torch, which matches the parameters first, and copies the groups
            outcome = "refused"
        if outcome == "refused":
            return outcome
        self.some_gradients()
        attempt(self.opt.step)
        return "over"

    def add_group(self) -> str:
        tensors, arrays = self.a_group()
        own = self.hyper()
        self.tell("add_param_group", tensors, own)
        outcome, _ = attempt(self.opt.add_param_group, {"params": tensors, **own})
        of_twin, _ = attempt(self.twin.add_param_group, {"params": tuple(arrays), **own})
        expect(outcome, of_twin)
        if outcome == "right":
            self.add(tensors, arrays, own)
        return outcome

    def replace(self) -> str:
        """Go on with copies."""
        self.tell("copy or pickle")
        if self.rng.random() < 0.5:
            self.tensors, self.opt = copy.deepcopy((self.tensors, self.opt))
        else:
            self.tensors, self.opt = pickle.loads(pickle.dumps((self.tensors, self.opt)))
        return "right"


def damage(rng: random.Random, saved: dict[Any, Any]) -> None:
    """Change one entry of a state dict of torch."""
    import torch

    if not (found := an_entry(rng, saved)):
        return
    target, key = found
    value = target[key]
    ways = [lambda: target.__setitem__(key, garbage(rng)), lambda: target.pop(key)]
    if isinstance(value, torch.Tensor):
        ways += [
            lambda: target.__setitem__(key, value[None]),
            lambda: target.__setitem__(key, torch.cat([value.reshape(-1), value.reshape(-1)])),
            lambda: target.__setitem__(key, value.to(torch.int32)),
            lambda: target.__setitem__(key, value.to(torch.complex64)),
            lambda: target.__setitem__(key, value.to("meta")),
            lambda: target.__setitem__(key, value.to_sparse()),
            lambda: target.__setitem__(key, value.tolist()),
            lambda: target.__setitem__(key, torch.full_like(value, -1)),
        ]
        if value.is_floating_point():
            ways.append(lambda: target.__setitem__(key, torch.full_like(value, rng.choice((math.nan, inf)))))
    rng.choice(ways)()


CALLS = ("step",) * 6 + ("move", "set_hyper", "set_hyper", "reload", "load_badly", "add_group", "replace")


def of_torch(rng: random.Random, tell: Tell) -> Calls:
    """An optimizer of torch from its making through some calls."""
    subject = Run(rng, tell)
    if not HAS_TORCH:
        return
    if not subject.begin():
        yield "make of torch", "refused"
        return
    yield "make of torch", "right"
    for _ in range(rng.randrange(8)):
        name = rng.choice(CALLS)
        outcome = getattr(subject, name)()
        if outcome == "over":
            return
        subject.check()
        yield f"{name} torch", outcome
