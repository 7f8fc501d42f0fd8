"""Steps inside of backward: each parameter is stepped when its gradient is complete, and the gradient is freed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch.autograd.graph import increment_version
from torch.utils.hooks import RemovableHandle

from ..loss_scale import LossScale
from ..optimizer import Optimizer
from .sharded import is_dtensor


class Hooked(Protocol):
    """An optimizer of torch as the hooks at its parameters use it."""

    _in_backward: InBackward | None
    _inner: Optimizer | None
    _options: dict[str, Any]
    _tensors: tuple[torch.Tensor, ...]

    def _has_changed(self) -> bool: ...
    def _follow(self) -> None: ...
    def _move(self) -> None: ...
    def _gradients(self) -> tuple[tuple[torch.Tensor | None, ...], tuple[torch.Tensor, ...]]: ...


class InBackward:
    """The hooks at the parameters of an optimizer, and the parts of a step that they have made.

    A step begins with the first hook that is called, or with ``step()`` where none was, and ends with ``step()``.
    Copies have no hooks: the copy of the optimizer adds its own when it is laid out.
    """

    def __init__(self) -> None:
        self._has_begun = False
        self._stepped: set[int] = set()  # identities of the parameters that have had their part of this step
        self._open_blocks = 0  # of `accumulating`
        self._tensors: tuple[torch.Tensor, ...] = ()  # of the optimizer, and their places there by identity
        self._places: dict[int, int] = {}
        self._without_hook: list[torch.Tensor] = []  # parameters that are frozen
        self._handles: dict[int, RemovableHandle] = {}
        weakref.finalize(self, remove_all, self._handles).atexit = False

    def __reduce__(self) -> tuple[type[InBackward], tuple[()]]:
        return InBackward, ()

    # -- hooks --

    def follow(self, optimizer: Hooked) -> None:
        """Have hooks at the parameters that an optimizer has now.

        Raises ValueError for options that need all gradients.
        """
        tensors = optimizer._tensors
        if tensors is self._tensors:
            return
        check_options(optimizer)
        self._tensors = tensors
        self._places = {id(tensor): i for i, tensor in enumerate(tensors)}
        self._stepped &= self._places.keys()
        self._has_begun = False  # the hyperparameters of the step are not set for these
        for gone in self._handles.keys() - self._places.keys():
            self._handles.pop(gone).remove()
        self._without_hook = [tensor for tensor in tensors if id(tensor) not in self._handles]
        self._add_hooks(optimizer)

    def _add_hooks(self, optimizer: Hooked) -> None:
        """Add hooks to the parameters without one that can have a gradient now."""
        for tensor in self._without_hook:
            if tensor.requires_grad:
                hook = partial(step_in_backward, weakref.ref(optimizer))
                handle = tensor.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
                self._handles[id(tensor)] = handle
        self._without_hook = [tensor for tensor in self._without_hook if id(tensor) not in self._handles]

    # -- the step --

    def _begin(self, optimizer: Hooked) -> None:
        """Take over changes of param_groups, and set the hyperparameters of the step."""
        take_over(optimizer)
        if optimizer._inner is not None:
            optimizer._inner._table.begin_parts()
        self._has_begun = True

    def step(self, optimizer: Hooked, tensor: torch.Tensor) -> None:
        """Step a parameter whose gradient is complete, and free the gradient."""
        if self._open_blocks:
            return
        if not self._has_begun:
            self._begin(optimizer)
        if id(tensor) in self._places:  # else it has been taken out of param_groups
            self._check_first(optimizer, tensor)
            self._step(optimizer, tensor)

    def _check_first(self, optimizer: Hooked, tensor: torch.Tensor) -> None:
        """Raise RuntimeError where a parameter has had its part of this step."""
        if id(tensor) in self._stepped:
            raise RuntimeError(
                f"{type(optimizer).__name__}: parameter {self._places[id(tensor)]} must get one gradient a step with"
                f" in_backward=True, got another one after its update: call step() after each backward(), or run all"
                f" but the last backward() of a step within accumulating(); zero_grad() and step() end this step"
            )

    def _step(self, optimizer: Hooked, tensor: torch.Tensor) -> None:
        try:
            while not self._has_made_part(optimizer, tensor):
                optimizer._move()
                self._begin(optimizer)
                if id(tensor) not in self._places:  # it has been taken out of param_groups within this step
                    return
        except (FloatingPointError, TypeError, ValueError) as error:
            raise type(error)(
                f"{error}; this parameter keeps its value and its gradient, and {len(self._stepped)} of"
                f" {len(self._places)} parameters have been updated before it: zero_grad() and step() end this step"
            ) from error
        self._stepped.add(id(tensor))
        tensor.grad = None
        increment_version(tensor)

    def _has_made_part(self, optimizer: Hooked, tensor: torch.Tensor) -> bool:
        assert optimizer._inner is not None
        return optimizer._inner._table.step_part(self._places[id(tensor)], tensor)

    def finish(self, optimizer: Hooked) -> None:
        """End the step: update the parameters that still have a gradient, and count it."""
        take_over(optimizer)
        if optimizer._inner is not None:
            gradients, _ = optimizer._gradients()
            optimizer._inner._table.begin_parts()
            left = [t for t, gradient in zip(optimizer._tensors, gradients, strict=True) if gradient is not None]
            for tensor in left:
                self._check_first(optimizer, tensor)
            for tensor in left:
                self._step(optimizer, tensor)
            optimizer._inner._table.end_parts()
        self.forget()
        self._add_hooks(optimizer)

    def forget(self) -> None:
        """Begin with the next step: this one has ended, or another state has been loaded within it."""
        self._stepped.clear()
        self._has_begun = False

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        """Let gradients add up in this block."""
        self._open_blocks += 1
        try:
            yield
        finally:
            self._open_blocks -= 1


def step_in_backward(reference: Callable[[], Hooked | None], tensor: torch.Tensor) -> None:
    """Step a parameter of an optimizer that may have been freed; torch calls this when its gradient is complete."""
    optimizer = reference()
    if optimizer is not None and optimizer._in_backward is not None:
        optimizer._in_backward.step(optimizer, tensor)


def remove_all(handles: Mapping[int, RemovableHandle]) -> None:
    """Remove hooks."""
    for handle in handles.values():
        handle.remove()


def take_over(optimizer: Hooked) -> None:
    """Take over changes of param_groups, and raise ValueError in a group of processes."""
    if optimizer._has_changed():
        optimizer._follow()
    check_processes(type(optimizer).__name__)


def check_options(optimizer: Hooked) -> None:
    """Raise ValueError for a rule and for options that need the gradients of all parameters at once."""
    label, options, inner = type(optimizer).__name__, optimizer._options, optimizer._inner
    if options["clip_norm"] is not None and options["clip_norm_per"] != "parameter":
        raise ValueError(
            f"{label}: clip_norm must be None with in_backward=True, since the norm of all gradients"
            f" (clip_norm_per={options['clip_norm_per']!r}) needs all of them, got {options['clip_norm']!r}: use"
            f' clip_norm_per="parameter", or a rule that limits the update of each parameter, such as StableAdamW'
        )
    if isinstance(options["grad_scale"], LossScale):
        raise ValueError(
            f"{label}: grad_scale must be a number or None with in_backward=True, since a LossScale adapts to all"
            f" gradients of a step, got {options['grad_scale']!r}: use bfloat16, which needs no scale"
        )
    if any(map(is_dtensor, optimizer._tensors)):
        raise ValueError(f"{label}: in_backward must be False for parameters that are DTensors, got True")
    if inner is not None and inner._table.estimates_groups:
        raise ValueError(
            f"{label}: in_backward must be False, since this rule makes one estimate from the gradients of all"
            f" parameters of a group, got True"
        )


def check_processes(label: str) -> None:
    """Raise ValueError where gradients are summed over processes, which is after they are complete here."""
    distributed: Any = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        raise ValueError(
            f"{label}: in_backward must be False in a group of {distributed.get_world_size()} processes, since"
            f" parameters would be updated before gradients are summed over the processes, got True"
        )


def refuse_scaler(label: str) -> None:
    """Raise ValueError for a GradScaler."""
    raise ValueError(
        f"{label}: in_backward must be False with a GradScaler, which comes after backward(), got True: this step was"
        f" made with scaled gradients; use bfloat16, which needs no scale"
    )
