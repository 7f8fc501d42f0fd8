"""The base class of the schedule-free optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..averages import average
from ..nest import Array, Name
from ..optimizer import Optimizer
from ._plain import State


class ScheduleFree(Optimizer):
    """Base of the schedule-free rules: their average, and the options that it excludes."""

    _averages = ("x",)

    @classmethod
    def _check_together(cls, label: str, hyper: Mapping[str, Any]) -> None:
        name, beta = ("betas[0]", hyper["betas"][0]) if "betas" in hyper else ("momentum", hyper["momentum"])
        if beta == 0:
            raise ValueError(f"{label}: {name} must be > 0, since x is computed from its share in p, got {beta!r}")
        if hyper["corrected_decay"]:
            raise ValueError(f"{label}: corrected_decay must be False for a rule without a schedule of lr, got True")
        if hyper["weight_decay_form"] not in ("l2", "own"):
            forms = "l2 or own" if cls._decay_form == "own" else "l2"
            raise ValueError(
                f"{label}: weight_decay_form must be {forms}, since the others would shrink p but not z,"
                f" got {hyper['weight_decay_form']}"
            )

    @classmethod
    def _average_of(cls, p: Array, state: Mapping[str, Array], hyper: Mapping[str, Any]) -> Array:
        beta = hyper["betas"][0] if "betas" in hyper else hyper["momentum"]
        x: Array = p + p.dtype.type(1 - 1 / beta) * (state["z"] - p)
        return x

    @property
    def x(self) -> dict[Name, Array]:
        """The average of each parameter, by name, computed from p and z: evaluate and keep it; see `swapped`."""
        self._table.check_own(f"{type(self).__name__}.x")
        return average(self._layout, "x")


def average_weight(
    state: State, p: Array, t: int, lr: float, warmup_steps: float, r: float, weight_lr_power: float
) -> tuple[float, float]:
    """Return the learning rate of a step, and the share of z in the mean x."""
    if t == 1:
        state |= {"z": p.copy(), "weight_sum": 0.0, "lr_max": 0.0}
    lr *= min(1.0, t / warmup_steps) if warmup_steps else 1.0
    state["lr_max"] = max(state["lr_max"], lr)
    weight = t**r * state["lr_max"] ** weight_lr_power
    state["weight_sum"] += weight
    return lr, weight / state["weight_sum"] if state["weight_sum"] else 0.0
