"""The base class of fastopt's rules as optimizers of torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from functools import cache
from operator import is_
from reprlib import repr as brief
from typing import Any, ClassVar

import numpy as np
import torch
from torch._C._autograd import _profiler_enabled
from torch.autograd.graph import increment_version
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from .. import _core
from ..group import RATES, Group, set_hyper
from ..nest import Array, Name
from ..optimizer import Optimizer
from ..scheduled import at, is_scheduled
from .arguments import Arguments
from .in_backward import InBackward, refuse_scaler
from .sharded import check_shared_out, gradients_of, is_dtensor, local_of, set_parts
from .state import State, check_form, kept_whole, letters_of, load, saved
from .tensors import Counters, array_of, can_be_stepped, may_change_in_place


class TorchOptimizer(torch.optim.Optimizer):
    """A rule of fastopt as an optimizer of torch.

    It steps the memory of its parameters through an optimizer of fastopt, whose parameters are views of this memory.
    Changes between steps (of values in `param_groups`, of parameters, of the memory of a parameter) take effect with
    the next step.  `of_rule` makes the classes of the rules.

    Parameters
    ----------
    in_backward : bool, default False
        Update each parameter during ``backward()``, as soon as its gradient is complete, and free the gradient
        (``p.grad`` is None).  `step` then updates parameters that still have a gradient, and counts the step; see
        `accumulating`.  Results are those of ordinary steps, to the bit.  But nonfinite="skip" and "raise" apply to
        each parameter alone, and new values in `param_groups` take effect with the next ``backward()``.
    """

    _rule: ClassVar[type[Optimizer]]
    _arguments: ClassVar[Arguments]
    __signature__: ClassVar[inspect.Signature]

    param_groups: list[dict[str, Any]]
    defaults: dict[str, Any]
    _options: dict[str, Any]  # of the step and of averages
    _in_backward: InBackward | None  # where backward makes the steps
    _inner: Optimizer | None  # None while there are no parameters
    _tensors: tuple[torch.Tensor, ...]  # in whose memory the parameters of `_inner` lie, in their order
    _has_shards: bool  # whether one of these is a DTensor
    _counters: Counters | None  # of the versions of these; None where some may be others
    _state: State
    # What param_groups was when `_inner` last took it over: the list; its groups, and their lists of parameters, as
    # changed_container() takes them; how many groups and parameters; and whether a value can change in place.
    _known_groups: list[dict[str, Any]] | None
    _watched: list[tuple[Any, ...]]
    _lists: list[tuple[Any, ...]]
    _counts: tuple[int, int]
    _has_live_values: bool

    def __init__(self, *by_position: Any, **by_name: Any) -> None:
        params, defaults, self._options, in_backward = self._arguments.given(type(self).__name__, by_position, by_name)
        check_shared_out(type(self).__name__, self._rule, self._options)
        self._in_backward = InBackward() if in_backward else None
        self._inner, self._tensors, self._state, self._known_groups = None, (), State(), None
        super().__init__(params, defaults)
        self._lay_out()

    # -- parameters --

    def _lay_out(self) -> None:
        """Make the optimizer of fastopt for the parameters that there are; those that stay keep their state."""
        before = {} if self._inner is None else dict(zip(self._tensors, self._inner.state.values(), strict=True))
        inner, tensors = self._made(self._orders(), before)
        if inner is not None and self._inner is not None:
            carry_over(type(self).__name__, self._inner, self._tensors, inner, tensors)
        self._use(inner, tensors)

    def _orders(self) -> dict[Name, tuple[int, ...]]:
        """Return the orders in which parameters are walked that may have come to lie otherwise, by their new names."""
        if self._inner is None:
            return {}
        orders = self._inner._layout.orders
        of_tensors = {
            id(tensor): orders.get(name) for name, tensor in zip(self._inner.state, self._tensors, strict=True)
        }
        found = (
            (i, of_tensors.get(id(tensor)), tensor) for i, tensor in enumerate(self._tensors_of(self.param_groups))
        )
        return {i: order for i, order, tensor in found if order is not None and len(order) == tensor.ndim}

    def _made(
        self, orders: Mapping[Name, tuple[int, ...]], state: Mapping[torch.Tensor, Collection[str]]
    ) -> tuple[Optimizer | None, tuple[torch.Tensor, ...]]:
        """Return a new optimizer of fastopt for the parameters that there are, and these in its order.

        It has room for state of these letters, though the hyperparameters may not ask for it now.
        """
        tensors = self._tensors_of(self.param_groups)
        arrays = iter(self._arrays_of(tensors))
        groups = [self._group_of_inner(i, arrays) for i in range(len(self.param_groups))]
        kept = [
            {letter for tensor in self._tensors_of([group]) for letter in state.get(tensor, ())}
            for group in self.param_groups
        ]
        master = self.defaults["master"]
        inner = self._rule._laid_out_as(orders, kept, groups, master=master, **self._options) if tensors else None
        if inner is not None:
            self._set_parts(inner, tensors)
        return inner, tensors

    def _use(self, inner: Optimizer | None, tensors: tuple[torch.Tensor, ...]) -> None:
        """Step by this optimizer of fastopt from now on."""
        self._has_shards = any(map(is_dtensor, tensors))
        self._inner, self._tensors, self._counters = inner, tensors, None
        self._state.forget()
        self._watch()

    def _set_parts(self, inner: Optimizer, tensors: tuple[torch.Tensor, ...]) -> None:
        """Have steps know of which parameters there are shards."""
        if any(map(is_dtensor, tensors)):
            set_parts(type(self).__name__, inner, tensors)

    def _group_of_inner(self, i: int, arrays: Iterator[Array]) -> dict[str, Any]:
        """Return a group as the optimizer of fastopt takes it, with the next of these arrays."""
        group = self.param_groups[i]
        hyper = self._arguments.hyper(f"{type(self).__name__}: param_groups[{i}]", group)
        if hyper["master"] == self.defaults["master"]:  # which need not have an effect in every group
            del hyper["master"]
        return {"params": tuple(next(arrays) for _ in self._tensors_of([group])), **hyper}

    @staticmethod
    def _tensors_of(groups: Sequence[dict[str, Any]]) -> tuple[torch.Tensor, ...]:
        """Return the parameters of groups that can be stepped."""
        return tuple(tensor for group in groups for tensor in group["params"] if can_be_stepped(tensor))

    def _arrays_of(self, tensors: Sequence[torch.Tensor], first: int = 0) -> list[Array]:
        label = type(self).__name__
        return [array_of(f"{label}: parameter {i}", local_of(tensor)) for i, tensor in enumerate(tensors, first)]

    def _watch(self) -> None:
        """Remember what param_groups is now."""
        self._known_groups = self.param_groups
        lists = [group["params"] for group in self.param_groups]
        self._counts = self._counts_now()
        self._watched = [(group, tuple(group), tuple(group.values())) for group in self.param_groups]
        self._lists = [(one, tuple(range(len(one))), tuple(one)) for one in lists if one]
        values = (value for group in self.param_groups for key, value in group.items() if key != "params")
        self._has_live_values = any(map(may_change_in_place, values))
        if self._in_backward is not None:
            self._in_backward.follow(self)

    def _counts_now(self) -> tuple[int, int]:
        """Return the numbers of groups and of their parameters."""
        return len(self.param_groups), sum(len(group["params"]) for group in self.param_groups)

    def _has_changed(self) -> bool:
        """Return whether param_groups may be another than at the last step, or the state may have been edited."""
        return (
            self._state.is_current
            or self._has_live_values
            or _core.changed_container(self._watched) is not None
            or self._has_others()
        )

    def _has_others(self) -> bool:
        """Return whether there are other groups or parameters than at the last step."""
        return (
            self._known_groups is not self.param_groups
            or _core.changed_container(self._lists) is not None
            or self._counts_now() != self._counts
        )

    def _follow(self) -> None:
        """Take over changes of param_groups and edits of the state."""
        self._take_edits()
        if self._has_others() or not self._follow_rates():
            self._follow_all()

    def _follow_rates(self) -> bool:
        """Take over numbers that are learning rates and decays, or return False where something else has changed."""
        inner = self._inner
        if inner is None or self._has_live_values:
            return False
        changes: list[tuple[Group, dict[str, float]]] = []
        watched: list[tuple[Any, ...]] = []
        for group, (before, keys, values), of_inner in zip(self.param_groups, self._watched, inner.groups, strict=True):
            if group is not before or tuple(group) != keys:
                return False
            now = tuple(group.values())
            rates: dict[str, float] = {}
            for key, value, old in zip(keys, now, values, strict=True):
                if value is not old:
                    if key not in RATES or type(value) is not float:
                        return False
                    rates[key] = value
            watched.append((group, keys, now))
            if rates:
                changes.append((of_inner, rates))
        if changes:  # else rows that catch up would do so now
            set_hyper(inner._table, changes)
        self._watched = watched
        return True

    def _follow_all(self) -> None:
        """Take over whatever has changed."""
        inner = self._inner
        groups = () if inner is None else inner.groups
        sizes = [len(self._tensors_of([group])) for group in self.param_groups]
        tensors = self._tensors_of(self.param_groups)
        same = sizes == [len(group["params"]) for group in groups] and all(map(is_, tensors, self._tensors))
        if inner is None or not same:
            self._lay_out()
            return
        changes: list[tuple[Group, dict[str, Any]]] = []
        for i, (group, of_inner) in enumerate(zip(self.param_groups, groups, strict=True)):
            hyper = self._arguments.hyper(f"{type(self).__name__}: param_groups[{i}]", group)
            if changed := {key: value for key, value in hyper.items() if not is_same(value, of_inner[key])}:
                changes.append((of_inner, changed))
        if any(of_inner.needs_more_state(changed) for of_inner, changed in changes):
            self._lay_out()
            return
        if changes:
            set_hyper(inner._table, changes)
        self._watch()

    def _move(self) -> None:
        """Take over the memory in which the parameters lie now."""
        inner = self._inner
        assert inner is not None
        arrays = self._arrays_of(self._tensors)
        for i, (array, old, steps) in enumerate(zip(arrays, inner._layout.arrays, inner._table.steps(), strict=True)):
            if (array.shape, array.dtype) == (old.shape, old.dtype):
                continue
            if not steps:
                self._lay_out()
                return
            raise ValueError(
                f"{type(self).__name__}.step: parameter {i} must keep shape {old.shape} and dtype {old.dtype}, for"
                f" which its state was made, got {array.shape} and {array.dtype}"
            )
        of_inner = iter(arrays)
        self._counters = None
        inner.rebind([{"params": tuple(next(of_inner) for _ in group["params"])} for group in inner.groups])
        self._set_parts(inner, self._tensors)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as torch.optim has it."""
        if self._known_groups is None:  # while the optimizer is made
            super().add_param_group(param_group)
            return
        if self._has_changed():
            self._follow()
        super().add_param_group(param_group)
        try:
            self._add(len(self.param_groups) - 1)
        except BaseException:
            self.param_groups.pop()
            raise

    def _add(self, i: int) -> None:
        """Step the parameters of a group too that has been added."""
        added = self._tensors_of([self.param_groups[i]])
        if self._inner is None or any(map(is_dtensor, added)):
            self._lay_out()
            return
        self._inner.add_param_group(self._group_of_inner(i, iter(self._arrays_of(added, len(self._tensors)))))
        self._tensors, self._counters = self._tensors + added, None
        self._watch()

    # -- the step --

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Parameters
        ----------
        closure : callable, optional
            Computes the gradients and returns the loss.

        Returns
        -------
        The loss that the closure returned, or None.
        """
        if type(self).step is not TorchOptimizer.step or not self._is_observed():
            return self._step(closure)
        return observed(self) if closure is None else observed(self, closure)

    # torch wraps a method that is not marked so, to call hooks and to tell the profiler, which takes as long as a small
    # step. Here steps are wrapped where there are hooks or a profiler.
    step.hooked = True  # type: ignore[attr-defined]

    def _is_observed(self) -> bool:
        """Return whether there are hooks to call, or a profiler that records."""
        return bool(
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or _profiler_enabled()
        )

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._in_backward is not None:
            self._in_backward.finish(self)
            return loss
        if self._has_changed():
            self._follow()
        if self._inner is not None:
            gradients, changed = self._gradients()
            self._inner._step_flat(gradients, located=True)
            increment_version(changed)
        return loss

    def _gradients(self) -> tuple[tuple[torch.Tensor | None, ...], tuple[torch.Tensor, ...]]:
        """Return the gradients of the parameters, and what to mark as changed, after taking over the memory of all.

        These are tensors that share the version counters of parameters that have a gradient, not the parameters.
        """
        found = self._found()
        if found is None:
            self._move()
            found = self._found()
            assert found is not None
        return found

    def _found(self) -> tuple[tuple[torch.Tensor | None, ...], tuple[torch.Tensor, ...]] | None:
        """Return the same, or None where the memory of a parameter is another one."""
        assert self._inner is not None
        table, tensors = self._inner._table, self._tensors
        if self._has_shards:
            return gradients_of(table, tensors)
        if self._counters is None:
            self._counters = Counters(tensors)
        return table.gradients_of(tensors, None, self._counters.tensors)

    def accumulating(self) -> AbstractContextManager[None]:
        """Add up gradients, with `in_backward`, instead of making a step in each ``backward()``.

        ::

            with opt.accumulating():
                for x in micro_batches[:-1]:
                    loss(model(x)).backward()
            loss(model(micro_batches[-1])).backward()      # steps with the sums
            opt.step()

        Without `in_backward`, gradients always add up, and this has no effect.
        """
        return nullcontext() if self._in_backward is None else self._in_backward.accumulating()

    # -- state --

    @property  # type: ignore[override]
    def state(self) -> State:
        """The state of each parameter that has made a step, by torch's names; it can be edited, see `State`."""
        if self._inner is not None and not self._state.is_current:
            self._state.show(self._inner, self._tensors)
        return self._state

    @state.setter
    def state(self, value: Any) -> None:
        if self._inner is not None:
            load(self._inner, self._tensors, value)
            self._state.forget()

    def _take_edits(self) -> None:
        """Take over edits of the state, once it has been shown."""
        state = self._state
        if self._inner is not None and state.is_current and state.is_edited(self._inner, self._tensors):
            load(self._inner, self._tensors, state)
        state.is_current = False

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the groups in torch's form, as copies: no later step changes them.

        Returns
        -------
        dict
            The form of torch.optim's class of the same rule, which can load it.  torch ignores additional entries (see
            docs/torch.md).
        """
        if self._has_others():
            self._follow()
        found = super().state_dict()
        if self._inner is not None:
            names = {tensor: i for i, tensor in enumerate(p for group in self.param_groups for p in group["params"])}
            found |= saved(self._inner, [names[tensor] for tensor in self._tensors], found["state"])
            found["param_groups"] = deepcopy([dict(at(group, self.step_count)) for group in found["param_groups"]])
        return found

    def load_state_dict(self, state_dict: Any) -> None:
        """Load a state and groups, also those of torch.optim's class of the same rule.

        Parameters
        ----------
        state_dict : dict
            The result of `state_dict` of an optimizer of the same rule, of fastopt.torch or torch.optim.

        Raises
        ------
        ValueError
            For other groups, or state of another shape or of another rule.  Then nothing has changed.

        Notes
        -----
        For parameters of 16 bits, this keeps each bit of float32 state, unlike torch.optim.
        """
        check_form(f"{type(self).__name__}.load_state_dict", state_dict)
        handle = self.register_load_state_dict_pre_hook(kept_whole)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        if self._has_changed():
            self._follow()
        inner = self._inner
        return {
            "defaults": self.defaults,
            "param_groups": self.param_groups,
            "_options": self._options,
            "_in_backward": self._in_backward,
            "native": None if inner is None else inner.state_dict(),
            "orders": self._orders(),
            "skips": None if inner is None else (inner.skipped_steps, inner._table.runner.skips()),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "native" not in state:
            self._load(state)
            return
        native = ("native", "orders", "skips")
        super().__setstate__({key: value for key, value in state.items() if key not in native})
        self._inner, self._tensors, self._state = None, (), State()
        native_state = () if state["native"] is None else state["native"]["state"].values()
        tensors = self._tensors_of(self.param_groups)
        self._use(*self._made(state["orders"], dict(zip(tensors, native_state, strict=True))))
        if self._inner is not None:
            self._inner.load_state_dict(state["native"], hyperparameters="current")
            runner, (skipped_steps, skips) = self._inner._table.runner, state["skips"]
            runner.skipped_steps = skipped_steps
            runner.skips(skips)

    def _load(self, state: dict[str, Any]) -> None:
        """Take over the state and the groups that load_state_dict() of torch has matched with the parameters."""
        before, old = self.param_groups, self._inner
        for group, of_before in zip(state["param_groups"], before, strict=True):
            for key, value in of_before.items():
                if key not in group or is_scheduled({key: value}):  # torch.optim does not have it, or only its value
                    group[key] = value
        if old is not None:
            old._table.check_own(f"{type(self).__name__}.load_state_dict")
        orders = self._orders()
        self.param_groups = state["param_groups"]
        try:
            given, tensors = state["state"], self._tensors_of(self.param_groups)
            inner, tensors = self._made(orders, {one: letters_of(self._rule, given.get(one, {})) for one in tensors})
            if inner is not None:
                load(inner, tensors, given)
        except BaseException:
            self.param_groups = before
            raise
        if inner is not None and old is not None:
            inner._table.runner.skipped_steps = old.skipped_steps
        self._use(inner, tensors)
        if self._in_backward is not None:
            self._in_backward.forget()

    # -- what fastopt has besides --

    @property
    def step_count(self) -> int:
        """How many steps have been made."""
        return 0 if self._inner is None else self._inner.step_count

    @property
    def skipped_steps(self) -> int:
        """How many steps ``nonfinite="skip"`` has left out."""
        return 0 if self._inner is None else self._inner.skipped_steps

    @property
    def grad_norm(self) -> float | None:
        """The norm of all gradients of the last step, before clipping.  None without `clip_norm`, and in backward."""
        return None if self._inner is None or self._in_backward is not None else self._inner.grad_norm

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether a GradScaler leaves scaling to the step, as it asks before each."""
        if self._in_backward is not None:
            refuse_scaler(type(self).__name__)
        return False

    def swapped(self, average: str) -> AbstractContextManager[None]:
        """Put an average in the place of the parameters within a ``with`` block; the parameters return to the bit.

        ::

            opt = fastopt.torch.AdamW(model.parameters(), ema_decay=0.999)
            ...
            with opt.swapped("ema"):
                accuracy = evaluate(model)

        Parameters
        ----------
        average : str
            "ema" with `ema_decay`, "swa" with `swa`, or the average of a rule; see `fastopt.Optimizer.swapped`.

        Raises
        ------
        ValueError
            For an average that does not exist, and within another `swapped`.
        """
        if self._has_changed():
            self._follow()
        if self._inner is None:
            return nullcontext()
        self._gradients()  # takes over the memory in which the parameters lie now
        return self._inner.swapped(average)


observed = torch.optim.Optimizer.profile_hook_step(TorchOptimizer._step)


def is_same(value: Any, known: Any) -> bool:
    """Return whether a hyperparameter is the known one; an array is none, and a truth value is no number."""
    if isinstance(value, tuple) and isinstance(known, tuple):
        return len(value) == len(known) and all(map(is_same, value, known))
    are_truths = [isinstance(one, (bool, np.bool_)) for one in (value, known)]
    return not isinstance(value, np.ndarray) and are_truths[0] == are_truths[1] and bool(value == known)


def carry_over(
    label: str,
    before: Optimizer,
    tensors_before: Sequence[torch.Tensor],
    after: Optimizer,
    tensors: Sequence[torch.Tensor],
) -> None:
    """Give the parameters that an optimizer has from another one the state that they had there; or raise ValueError."""
    saved, given = before.state_dict(), after.state_dict()
    rows = zip(tensors_before, before.state, before._layout.all_groups(), strict=True)
    places = {id(tensor): (name, group) for tensor, name, group in rows}
    for name, tensor, group in zip(after.state, tensors, after._layout.all_groups(), strict=True):
        if id(tensor) not in places:
            continue
        name_before, group_before = places[id(tensor)]
        fresh, entry = given["state"][name], saved["state"][name_before]
        if entry["step"]:
            group.check_compatible(label, group_before, "stay")
        formats = fresh.get("formats", {}) | entry.get("formats", {})
        given["state"][name] = {**fresh, **entry, **({"formats": formats} if formats else {})}
    given["step_count"] = saved["step_count"]
    after.load_state_dict(given, strict=False, hyperparameters="current")
    after._table.runner.skipped_steps = before.skipped_steps


def of_rule(rule: type[Optimizer], module: str) -> type[TorchOptimizer]:
    """Return the class of a rule for torch."""
    arguments = Arguments(rule)
    doc = f"{rule.__name__} as an optimizer of torch, see `fastopt.{rule.__name__}`.\n\n{inspect.getdoc(rule)}"
    attributes = {
        "_rule": rule,
        "_arguments": arguments,
        "__signature__": arguments.signature,
        "__module__": module,
        "__qualname__": rule.__name__,
        "__doc__": doc,
    }
    return type(rule.__name__, (TorchOptimizer,), attributes)


def wrap(rule: type[Optimizer]) -> type[TorchOptimizer]:
    """Return the class for torch of a rule of your own, from `fastopt.rule`.

    ::

        opt = fastopt.torch.wrap(sign_momentum)(model.parameters(), lr=3e-4)

    Parameters
    ----------
    rule : type
        A class from `fastopt.rule`.  The rules of fastopt have their classes in this module.

    Returns
    -------
    type
        A subclass of `torch.optim.Optimizer`, the same one for each call with a rule.

    Raises
    ------
    TypeError
        For another value.
    """
    if not isinstance(rule, type) or not issubclass(rule, Optimizer) or rule._own_rule is None:
        raise TypeError(f"wrap: rule must be a class that fastopt.rule has made, got {brief(rule)}")
    own: Any = rule
    return wrapped(own)


@cache
def wrapped(rule: Any) -> type[TorchOptimizer]:
    """Return the one class for torch of a rule of one's own.  Pickles find the rule by its name, but not this class."""

    def reduced(optimizer: TorchOptimizer) -> tuple[Any, ...]:
        return new_of, (rule,), optimizer.__getstate__()

    made = of_rule(rule, rule.__module__)
    made.__reduce__ = reduced  # type: ignore[assignment, method-assign]
    return made


def new_of(rule: type[Optimizer]) -> TorchOptimizer:
    """Return a new optimizer of a wrapped rule, which a copy fills."""
    cls = wrap(rule)
    return cls.__new__(cls)
