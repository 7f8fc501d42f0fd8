"""The state of an optimizer as torch shows it: tensors by torch's names, in the memory that steps update."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..nest import Array
from ..optimizer import Optimizer
from ..stored import Stored
from .tensors import tensor_of

STEP = "step"


def names_of(rule: type[Optimizer], letters: Mapping[str, Any]) -> dict[str, str]:
    """Return the name in torch.optim of each letter of a state."""
    return {letter: rule._torch_names.get(letter, letter) for letter in letters}


def shown(array: Array | Stored) -> torch.Tensor:
    """Return a buffer as a tensor: in its memory, unless it is stored in codes."""
    if not isinstance(array, Stored):
        return tensor_of(array)
    if array.format == "bfloat16":
        return tensor_of(array.codes.view(np.int16)).view(torch.bfloat16)
    return tensor_of(array.codes if array.format == "float16" else np.asarray(array))


class State(defaultdict[torch.Tensor, dict[str, Any]]):
    """The state of each parameter that has made a step, by the parameter."""

    def __init__(self) -> None:
        super().__init__(dict)

    def show(self, tensors: Sequence[torch.Tensor], inner: Optimizer) -> None:
        """Have entries for the parameters that have made a step, with their counts of steps."""
        rows = zip(tensors, inner.state.values(), inner._table.steps(), strict=True)
        for tensor, letters, steps in rows:
            if not steps:
                self.pop(tensor, None)
                continue
            if tensor not in self:
                names = names_of(type(inner), letters)
                buffers = {names[letter]: shown(array) for letter, array in letters.items()}
                self[tensor] = {STEP: torch.tensor(0.0), **buffers}
            self[tensor][STEP].fill_(steps)


def native(inner: Optimizer, tensors: Sequence[torch.Tensor], state: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the state dict of an optimizer of fastopt with the state that torch has; others are as before a step."""
    given = inner.state_dict()
    for (name, letters), tensor in zip(inner.state.items(), tensors, strict=True):
        saved, entry = given["state"][name], state.get(tensor)
        saved.pop("decays", None)
        saved[STEP] = 0 if entry is None else int(entry[STEP])
        for letter, of_torch in names_of(type(inner), letters).items():
            if entry is None:
                saved[letter] = saved[letter] * 0
            elif of_torch in entry:
                saved[letter] = entry[of_torch].numpy().astype(saved[letter].dtype)
    given["step_count"] = max((entry[STEP] for entry in given["state"].values()), default=0)
    return given
