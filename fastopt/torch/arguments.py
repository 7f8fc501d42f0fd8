"""The arguments of a rule as torch.optim has them, and its hyperparameters from a group of torch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from reprlib import repr as brief
from typing import Any

import torch

from ..calls import problem
from ..optimizer import Optimizer
from .tensors import plain

# Arguments that choose among torch's implementations of one rule, of which there is one here.
IMPLEMENTATIONS = ("foreach", "fused")
IN_BACKWARD = inspect.Parameter("in_backward", inspect.Parameter.KEYWORD_ONLY, default=False)


class Arguments:
    """The arguments of a rule: those of its class in torch.optim first, in their order, then fastopt's by name."""

    def __init__(self, rule: type[Optimizer]) -> None:
        self.declaration = rule._declaration
        own = rule.__signature__.parameters
        twin = getattr(torch.optim, rule.__name__, None) if rule._own_rule is None else None
        first = own if twin is None else inspect.signature(twin).parameters
        others = [p.replace(kind=p.KEYWORD_ONLY) for name, p in own.items() if name not in first]
        self.signature = inspect.Signature([*first.values(), *others, IN_BACKWARD])
        self._of_torch = [name for name in first if name not in own]
        others_than_groups = {"params", IN_BACKWARD.name, *self.declaration.options}
        self._of_groups = [name for name in self.signature.parameters if name not in others_than_groups]

    def given(
        self, label: str, by_position: Sequence[Any], by_name: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any], dict[str, Any], bool]:
        """Return the parameters, the defaults of groups, the options of the step, and whether backward makes it.

        Raises TypeError, ValueError.
        """
        try:
            bound = self.signature.bind(*by_position, **by_name)
        except TypeError as error:
            parameters = self.signature.parameters.values()
            names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
            keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
            text = problem(label, names, keywords, ["params"], by_position, by_name)
            raise TypeError(text) from error
        bound.apply_defaults()
        values = bound.arguments
        for name in self._of_torch:
            default = self.signature.parameters[name].default
            if name not in IMPLEMENTATIONS and values[name] != default:
                raise ValueError(f"{label}: {name} must be {default!r} on a CPU, got {brief(values[name])}")
        defaults = {name: values[name] for name in self._of_groups}
        options = {name: values[name] for name in self.declaration.options}
        if not isinstance(values["in_backward"], bool):
            raise TypeError(f"{label}: in_backward must be True or False, got {brief(values['in_backward'])}")
        return values["params"], defaults, options, values["in_backward"]

    def hyper(self, label: str, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return the hyperparameters of a group of torch as fastopt takes them; or raise TypeError, ValueError."""
        declaration = self.declaration
        values = {
            key: plain(f"{label}: {key}", group.get(key, declared.default))
            for key, declared in declaration.hyper.items()
        }
        for other in declaration.other_names:
            if other.name in group:
                other.put(label, values, group[other.name])
        if values["weight_decay_form"] is None:
            values["weight_decay_form"] = declaration.decay_form
        return values
