"""A loss scale that adapts itself."""

from __future__ import annotations

from reprlib import repr as brief
from typing import Any

from .parameters import check_number

SMALLEST, LARGEST = 2.0**-126, 2.0**126  # float32 has the inverse of each as a normal number


def _check_value(label: str, value: Any) -> None:
    """Raise TypeError or ValueError unless a value can be a scale."""
    check_number(label, "grad_scale", value)
    if not SMALLEST <= value <= LARGEST:
        raise ValueError(f"{label} must be in [2^-126, 2^126], got {value!r}")


class LossScale:
    """What to multiply the loss by, so that small gradients do not vanish in a narrow format.

    It grows while gradients stay finite, and backs off when they do not, as torch's ``GradScaler``::

        scale = fastopt.LossScale()
        opt = fastopt.Adam(params, grad_scale=scale, nonfinite="skip")
        ...
        grads = backward(loss * scale.value)
        opt.step(grads)         # divides by scale.value; skips if anything overflowed; adapts the scale

    Parameters
    ----------
    value : float, default 65536
        The scale to begin with, where float32 has it and its inverse: in [2^-126, 2^126], which it never leaves.
    growth : float, default 2
        Factor after `interval` good steps in a row, >= 1.
    backoff : float, default 0.5
        Factor after a step that was skipped, in (0, 1).
    interval : int, default 2000
        Good steps in a row until the scale grows, >= 1.

    Raises
    ------
    TypeError, ValueError
        For values out of range.

    References
    ----------
    Micikevicius et al., "Mixed precision training", 2018, https://arxiv.org/abs/1710.03740.
    """

    def __init__(self, value: float = 65536.0, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000) -> None:
        _check_value("LossScale: value", value)
        check_number("LossScale: growth", "grad_scale", growth)
        check_number("LossScale: backoff", "grad_scale", backoff)
        if growth < 1:
            raise ValueError(f"LossScale: growth must be >= 1, got {growth!r}")
        if backoff >= 1:
            raise ValueError(f"LossScale: backoff must be in (0, 1), got {backoff!r}")
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            raise ValueError(f"LossScale: interval must be an integer >= 1, got {brief(interval)}")
        #: The scale of the next step.
        self.value = float(value)
        self.growth, self.backoff, self.interval = float(growth), float(backoff), interval
        #: Good steps since the scale last changed.
        self.good_steps = 0

    def update(self, made: bool) -> None:
        """Take note of a step that was made, or skipped."""
        if not made:
            self.value = max(self.value * self.backoff, SMALLEST)
            self.good_steps = 0
            return
        self.good_steps += 1
        if self.good_steps >= self.interval:
            self.value = min(self.value * self.growth, LARGEST)
            self.good_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the scale and the count of good steps."""
        return {"value": self.value, "good_steps": self.good_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        if not isinstance(state_dict, dict) or set(state_dict) != {"value", "good_steps"}:
            raise ValueError(
                f"LossScale.load_state_dict: the state must have value and good_steps, got {brief(state_dict)}"
            )
        value, good_steps = state_dict["value"], state_dict["good_steps"]
        _check_value("LossScale.load_state_dict: value", value)
        if isinstance(good_steps, bool) or not isinstance(good_steps, int) or not 0 <= good_steps < self.interval:
            raise ValueError(
                f"LossScale.load_state_dict: good_steps must be an integer in [0, {self.interval}),"
                f" got {brief(good_steps)}"
            )
        self.value, self.good_steps = float(value), good_steps

    def __repr__(self) -> str:
        return (
            f"LossScale({self.value!r}, growth={self.growth!r}, backoff={self.backoff!r}, interval={self.interval!r},"
            f" good_steps={self.good_steps!r})"
        )
