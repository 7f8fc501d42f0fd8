"""A loss scale that adapts itself."""

from __future__ import annotations

from reprlib import repr as brief
from typing import Any
from weakref import WeakSet

from .calls import checks_arguments
from .declarations import check_number
from .scalars import is_integer, unwrapped
from .warn import warn_user

SMALLEST, LARGEST = 2.0**-126, 2.0**126  # float32 has the inverse of each as a normal number


def _checked_value(label: str, value: Any) -> float:
    """Return a scale as a float, or raise TypeError or ValueError."""
    scale = check_number(label, "grad_scale", value)
    if not SMALLEST <= scale <= LARGEST:
        raise ValueError(f"{label} must be in [2^-126, 2^126], got {value!r}")
    return scale


class LossScale:
    """A factor for the loss, so that small gradients do not underflow in a narrow format.

    It grows while gradients are finite, and shrinks after NaN or infinity, as torch's ``GradScaler``::

        scale = fastopt.LossScale()
        opt = fastopt.Adam(params, grad_scale=scale, nonfinite="skip")
        ...
        grads = backward(loss * scale.value)
        opt.step(grads)         # divides by scale.value, skips after an overflow, adapts the scale

    If several optimizers share a scale, it is constant during an iteration, and ``update()`` adapts it::

        scale = fastopt.LossScale()
        generator = fastopt.Adam(params, grad_scale=scale, nonfinite="skip")
        discriminator = fastopt.Adam(others, grad_scale=scale, nonfinite="skip")
        ...
        discriminator.step(gradients of loss * scale.value)
        generator.step(gradients of loss * scale.value)
        scale.update()          # once per iteration: shrinks once if either step overflowed

    Parameters
    ----------
    value : float, default 65536
        First value, in [2^-126, 2^126].  The scale never leaves this range, in which float32 has its inverse.
    growth : float, default 2
        Factor after `interval` good steps in a row, >= 1.
    backoff : float, default 0.5
        Factor after an iteration in which a step was skipped, in (0, 1).
    interval : int, default 2000
        Good iterations in a row until the scale grows, >= 1.

    Raises
    ------
    TypeError, ValueError
        For values out of range.

    Warns
    -----
    RuntimeWarning
        If an optimizer skips a second step without a call of `update` between them, which alone can shrink the scale.

    Notes
    -----
    A step adapts the scale under two conditions: the scale is the ``grad_scale`` of this optimizer and of no other one
    that is alive, and `update` has never been called.  In all other cases, also for ``opt.step(grads,
    grad_scale=scale)``, steps only read `value` and record an overflow.  Then `update` adapts the scale, once for all
    steps since the last call.  `fastopt.Combined` counts as one optimizer.  Copies and pickles have the value and the
    counts.  If `copy.deepcopy` or `pickle` copies an optimizer, the copy has a copy of the scale.

    torch's ``GradScaler`` raises an error for an ``update()`` without a step since the last one, and for a second step
    of an optimizer before ``update()``.  Here such an ``update()`` does nothing, and the steps count together.

    References
    ----------
    Micikevicius et al., "Mixed precision training", 2018, https://arxiv.org/abs/1710.03740.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> scale = fastopt.LossScale(1024.0)
    >>> opt = fastopt.SGD(np.zeros(2), lr=0.1, grad_scale=scale, nonfinite="skip")
    >>> opt.step(np.array([np.inf, 0.0]))
    >>> scale.value, opt.skipped_steps
    (512.0, 1)
    """

    @checks_arguments
    def __init__(
        self,
        value: float = 65536.0,
        growth: float = 2.0,
        backoff: float = 0.5,
        interval: int = 2000,
    ) -> None:
        scale = _checked_value("LossScale: value", value)
        growth = check_number("LossScale: growth", "grad_scale", growth)
        backoff = check_number("LossScale: backoff", "grad_scale", backoff)
        if growth < 1:
            raise ValueError(f"LossScale: growth must be >= 1, got {growth!r}")
        if backoff >= 1:
            raise ValueError(f"LossScale: backoff must be in (0, 1), got {backoff!r}")
        if not is_integer(interval := unwrapped(interval)) or interval < 1:
            raise ValueError(f"LossScale: interval must be an integer >= 1, got {brief(interval)}")
        self._value = scale
        self.growth, self.backoff, self.interval = growth, backoff, int(interval)
        #: Good steps, or iterations, since the scale last changed.
        self.good_steps = 0
        self._moved_by_steps = True  # until update() is called
        self._holders: WeakSet[object] = WeakSet()  # whose own scale this is
        self._forget_steps()

    def _forget_steps(self) -> None:
        """Begin to record anew, once the scale has moved."""
        self._stepped = self._overflowed = False
        self._skipped: WeakSet[object] = WeakSet()  # optimizers that have skipped a step

    @property
    def value(self) -> float:
        """The scale of the next step.  It can be set to a value in its range."""
        return self._value

    @value.setter
    def value(self, value: float) -> None:
        self._value = _checked_value("LossScale: value", value)

    @checks_arguments
    def update(self) -> None:
        """Adapt the scale after an iteration: shrink it if a step since the last update overflowed, else count it.

        For a scale that several optimizers share, or that is an argument of single steps.  Call it once per iteration,
        after the last step.  After the first call, steps only record overflows, also with one optimizer.  Without a
        step since the last update, nothing changes.
        """
        self._moved_by_steps = False
        self._move()

    def _held_by(self, optimizer: object) -> None:
        """Take note of an optimizer that has this scale as its own, for as long as it lives."""
        self._holders.add(optimizer)

    def _record(self, optimizer: object, made: bool) -> None:
        """Take note of a step that was made, or skipped; it moves the scale if that belongs to the optimizer alone."""
        self._stepped = True
        if not made:
            self._overflowed = True
        if self._moved_by_steps and list(self._holders) == [optimizer]:
            self._move()
        elif not made:
            if optimizer in self._skipped:
                warn_user(
                    "LossScale: update() must be called once per iteration for a scale that is shared, or an argument"
                    f" of steps, but a {type(optimizer).__name__} has skipped two steps since the last call",
                    RuntimeWarning,
                )
            self._skipped.add(optimizer)

    def _move(self) -> None:
        """Back off or grow after the steps that have been recorded, if there are any."""
        if self._overflowed:
            self.value = max(self.value * self.backoff, SMALLEST)
            self.good_steps = 0
        elif self._stepped:
            self.good_steps += 1
            if self.good_steps >= self.interval:
                self.value = min(self.value * self.growth, LARGEST)
                self.good_steps = 0
        self._forget_steps()

    @checks_arguments
    def state_dict(self) -> dict[str, Any]:
        """Return the scale and the count of good steps."""
        return {"value": self.value, "good_steps": self.good_steps}

    @checks_arguments
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        if not isinstance(state_dict, dict) or set(state_dict) != {"value", "good_steps"}:
            raise ValueError(
                f"LossScale.load_state_dict: the state must have value and good_steps, got {brief(state_dict)}"
            )
        value, good_steps = state_dict["value"], state_dict["good_steps"]
        value = _checked_value("LossScale.load_state_dict: value", value)
        if not is_integer(good_steps := unwrapped(good_steps)) or not 0 <= good_steps < self.interval:
            raise ValueError(
                f"LossScale.load_state_dict: good_steps must be an integer in [0, {self.interval}),"
                f" got {brief(good_steps)}"
            )
        self.value, self.good_steps = value, int(good_steps)
        self._forget_steps()

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the optimizers: a copy belongs to those that hold the copy."""
        return {key: value for key, value in vars(self).items() if key not in ("_holders", "_skipped")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._holders, self._skipped = WeakSet(), WeakSet()

    def __repr__(self) -> str:
        return (
            f"LossScale({self.value!r}, growth={self.growth!r}, backoff={self.backoff!r}, interval={self.interval!r},"
            f" good_steps={self.good_steps!r})"
        )
