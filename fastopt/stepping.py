"""The calls that make steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from reprlib import repr as brief
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from . import _core
from .arena import buffer, lay_out
from .calls import checks_arguments
from .declarations import is_schedule
from .layout import Parameters
from .loss_scale import LossScale
from .nest import Array, Name
from .options import NO_OPTIONS, OneStep, checked_for_one_step
from .scheduled import scheduled
from .storage import computed_in

if TYPE_CHECKING:
    from typing_extensions import Never, Unpack

Grads: TypeAlias = Array | Sequence[Any] | Mapping[Name, Any] | Iterable[Any] | None


class Stepping:
    """The calls that make steps, for one optimizer or for several that step together.

    A class that has them sets `_table`, which makes the steps of the parameters in `_layout`, and calls `_configure`.
    """

    _table: _core.Table
    _layout: Parameters
    _options: dict[str, Any]  # of the step, as they were given
    _scale: LossScale | None  # that adapts itself
    _accumulator: _core.Accumulator | None  # of gradients, once some have been gathered
    _plain: bool  # whether a step without options of its own is one call of the table

    def _configure(self, options: dict[str, Any]) -> None:
        """Have the table make its steps with these options, which are known to be valid."""
        self._options = options
        self._accumulator = None
        runner = self._table.runner
        runner.num_threads = options["num_threads"] or 0
        runner.check_finite = options["nonfinite"] != "propagate"
        runner.skip_nonfinite = options["nonfinite"] == "skip"
        self._scale = options["grad_scale"] if isinstance(options["grad_scale"], LossScale) else None
        if self._scale is not None:
            self._scale._held_by(self)
        self._plain = self._scale is None
        runner.grad_scale = 0.0 if self._scale else options["grad_scale"] or 0.0
        clip_norm = options["clip_norm"]
        if is_schedule(clip_norm):
            runner.clip_schedule = partial(scheduled, type(self).__name__, "clip_norm", clip_norm)
        else:
            runner.clip_norm = clip_norm or 0.0
        runner.clip_norm_per = options["clip_norm_per"]
        runner.max_skips = options["max_skips"] or 0
        runner.clip_value = options["clip_value"] or 0.0
        runner.zero_grads = options["zero_grads"]

    def step(self, grads: Grads = None, *others: Never, **changes: Unpack[OneStep]) -> None:
        """Update every parameter that has a gradient, in place.

        Parameters
        ----------
        grads : array, sequence or mapping
            Gradients in the structure of the parameters; for groups, a sequence with one entry per group.  A gradient
            is an array with the shape of its parameter and any strides, or a `RowGrad`.  Its dtype is float16,
            bfloat16, float32 or float64; it is converted and rounded once.  For a parameter without axes, it may be a
            number or an integer array.  Gradients are written only with `zero_grads`.  A gradient of None leaves its
            parameter, its state and its count of steps alone; `ema` and `swa` then include the unchanged parameter,
            after its first step.  Without argument, the step uses the accumulated gradients, else the arrays of
            `bind`.
        **changes
            grad_scale, clip_norm, clip_value and zero_grads replace the options of the optimizer for this step; see
            `Optimizer`.  None has no effect; a clip of infinity does not clip.  accumulated="mean" (the default) or
            "sum" combines the gradients of `accumulate`.

        Raises
        ------
        TypeError, ValueError
            For gradients that do not fit.  Then nothing has changed.
        FloatingPointError
            For NaN or infinity in a gradient, with ``nonfinite="raise"``, or after `max_skips` skipped steps in a row.
            Then nothing has changed.
        """
        if self._plain and not (changes or others):
            self._table.step(grads)
        elif others:  # checked here, since a wrapper would slow every step down
            raise TypeError(
                f"{type(self).__name__}.step: arguments after grads must be given by name, one of"
                f" {', '.join(OneStep.__annotations__)}, got {brief(others[0])} by position"
            )
        elif self._accumulator is not None and self._accumulator.step_count:
            self._step_accumulated(grads, changes)
        else:
            self._step_with(self._table.step_with, (grads,), changes)

    @checks_arguments
    def step_one(self, name: Name, grad: Array | _core.RowGrad, **changes: Unpack[OneStep]) -> None:
        """Update one parameter, while its gradient is still in the cache.

        For loops that compute and release gradients layer by layer.  One call for each parameter gives the bits of one
        `step`.  `step_count` is then the largest count of a parameter.

        Parameters
        ----------
        name : str or int
            The parameter's name: its key, or its index.
        grad : array or RowGrad
            Its gradient, as for `step`.
        **changes
            grad_scale, clip_norm, clip_value and zero_grads replace the options of the optimizer for this step; see
            `Optimizer`.

        Raises
        ------
        TypeError, ValueError
            As for `step`.  Also for rules that need all gradients at once, with `clip_norm` (unless ``clip_norm_per``
            is "parameter"), and with a `LossScale`, which adapts to whole steps: pass its value as `grad_scale`.

        Notes
        -----
        Begin a round of calls with a parameter that has missed no step.  A parameter that has missed steps counts as a
        later one of the round: schedules give it the value of the last step of the others.  `ema` and `swa` include
        the missed steps of a parameter when it is stepped again, or at once with a gradient of None.  They use a closed
        form, to rounding, with the ``ema_decay`` of that step.  With ``nonfinite="skip"`` a NaN skips only this
        parameter, and `max_skips` counts the skips of each parameter.
        """
        label = f"{type(self).__name__}.step_one"
        if "accumulated" in changes:
            raise TypeError(f"{label}: accumulated is an option of step(), got {brief(changes['accumulated'])}")
        scale = changes.get("grad_scale")
        if isinstance(self._options["grad_scale"] if scale is None else scale, LossScale):
            raise ValueError(f"{label}: grad_scale must be a number, since a LossScale adapts to whole steps, got one")
        self._step_with(self._table.step_one, (name, grad), changes)

    @checks_arguments
    def accumulate(self, grads: Grads) -> None:
        """Add the gradients of a micro-batch; the next ``step()`` uses the mean or the sum of all.

        Parameters
        ----------
        grads : array, sequence or mapping
            As for `step`.  If the gradient of a parameter is None in every micro-batch, the step leaves it alone.

        Raises
        ------
        TypeError, ValueError
            For gradients that do not fit.  Then nothing has been added.

        Notes
        -----
        A step after one micro-batch equals the step with its gradients.  If a parameter gets only rows, they stay
        rows: values of one row are added in their order, and the step updates the union of the rows.  If it also gets a
        whole gradient, or if the rule does not accept rows, the step is one with a whole gradient.  The mean is over
        all micro-batches, also those without a gradient for a parameter or a row.

        Whole gradients are added to a buffer of the parameter's size and dtype.  It is allocated for the first one, and
        the step sets it to zero in its pass.  Rows take at most the memory of twice their union and of the last
        micro-batch, until the step.  Accumulated gradients are neither saved nor copied with the optimizer.  An error
        in a step keeps them; `discard` drops them.  The arrays that you pass are never written, also with zero_grads.
        """
        with self._table:  # threads whose first calls come at the same time share one accumulator
            if self._accumulator is None:
                self._accumulator = new_accumulator(f"{type(self).__name__}.accumulate", self._table, self._layout)
        self._plain = False
        self._accumulator.add(grads)

    @checks_arguments
    def discard(self) -> None:
        """Forget the gradients that `accumulate` has gathered."""
        if self._accumulator is not None:
            self._accumulator.discard()

    def _step_flat(self, gradients: tuple[Any, ...], located: bool = False) -> None:
        """Step with gradients in the order of the parameters, `located` as `Table.step_flat` takes it."""
        if self._plain:
            self._table.step_flat(gradients, None, located)
        else:
            self._step_with(self._table.step_flat, (gradients,), {})

    def _step_accumulated(self, grads: Grads, changes: OneStep) -> None:
        label = f"{type(self).__name__}.step"
        if grads is not None:
            raise ValueError(f"{label}: gradients must be None after accumulate(), got others")
        mean = changes.get("accumulated", "mean") == "mean"
        self._step_with(
            self._table.step_with, (None,), {**changes, "zero_grads": True}, accumulated=self._accumulator, mean=mean
        )

    def _step_with(
        self,
        step: Callable[..., bool],
        arguments: tuple[Any, ...],
        changes: OneStep,
        **more: Any,
    ) -> None:
        """Step with options of its own or a scale that adapts itself."""
        given = checked_for_one_step(f"{type(self).__name__}.step", changes, self._options["nonfinite"])
        scale: Any = given.get("grad_scale", self._options["grad_scale"])
        if scale is not None:
            given["grad_scale"] = scale.value if isinstance(scale, LossScale) else scale
        made = step(*arguments, given, **more)
        if isinstance(scale, LossScale):
            scale._record(self, made)

    @checks_arguments
    def bind(self, grads: Grads) -> _core.BoundStep:
        """Use these arrays as the gradients of every later `step()` without argument.

        For loops with gradient buffers that never move.  The structure is searched once.  A step only checks that no
        buffer was replaced in its container, or changed in place to another shape or memory.

        Parameters
        ----------
        grads : array, sequence or mapping
            As for `step`.

        Returns
        -------
        BoundStep
            A step with these gradients for compiled loops, in Cython, Numba (`fastopt.numba`) and C: ``bound.step()``,
            ``bound.capsule``, ``bound.address``, and ``bound.check()``, which raises the first error of such a loop;
            docs/embedding.md explains it.
        """
        self._table.bind(grads)
        return _core.BoundStep(self._table, self._step_flat, self._scale is None)

    @property
    def grad_norm(self) -> float | None:
        """The norm of all gradients of the last step with `clip_norm`, after division by the scale, before clipping.

        After `step_one`, it is the norm of the one gradient.  None after a step without clipping.
        """
        return self._table.runner.grad_norm

    @property
    def grad_norms(self) -> dict[Name, float] | tuple[float, ...] | None:
        """The norms by which the last step clipped, like `grad_norm`, with `clip_norm_per`.

        With ``clip_norm_per="group"``, one norm per group.  With "parameter", one norm per name: 0 for a gradient of
        None; after `step_one`, the norms of other parameters are those of their last steps.  None with "all", and after
        a step without clipping.
        """
        per = self._table.runner.clip_norm_per
        if per == "all" or self._table.runner.grad_norm is None:
            return None
        norms = dict(zip(self._layout.names, self._table.runner.grad_norms(), strict=True))
        return norms if per == "parameter" else tuple(norms[names[0]] for names in self._layout.members)

    @property
    def step_count(self) -> int:
        """How many steps have been made."""
        return self._table.step_count

    @property
    def skipped_steps(self) -> int:
        """How many steps ``nonfinite="skip"`` has left out."""
        return self._table.runner.skipped_steps

    @property
    def num_threads(self) -> int | None:
        """Threads of a step, or None where the optimizer chooses."""
        return self._table.runner.num_threads or None


def new_accumulator(label: str, table: _core.Table, layout: Parameters) -> _core.Accumulator:
    """Return the sums of gradients of these parameters, for the next step of their table."""
    accumulator = _core.Accumulator(label, table)
    gather(accumulator, layout)
    return accumulator


def gather(accumulator: _core.Accumulator, layout: Parameters) -> None:
    """Have an accumulator gather the gradients of these parameters too."""
    kinds = [computed_in(array) for array in layout.arrays]
    orders = [_core.order_of(array) for array in layout.arrays]
    sizes = [[array.size * kind.itemsize] for array, kind in zip(layout.arrays, kinds, strict=True)]
    arena, places = lay_out(layout.arrays, sizes)
    of_each = zip(places, kinds, layout.arrays, orders, strict=True)
    sums = [buffer(arena, at, kind, array.shape, order) for (at,), kind, array, order in of_each]
    with accumulator.sums:
        append_sums(accumulator.sums, layout, sums)


def append_sums(table: _core.Table, layout: Parameters, arrays: list[Array]) -> None:
    """Append arrays in the places of parameters to a table that adds gradients to them; the caller holds its lock."""
    # sum = sum + g is a step of SGD along the gradient.
    adding = _core.Settings("sgd")
    adding.set({"lr": 1.0}, {**NO_OPTIONS, "maximize": True})
    none = np.zeros(0)
    table.append(
        layout.names,
        arrays,
        [adding] * len(arrays),
        [[] for _ in arrays],
        [None] * len(arrays),
        [_core.order_of(array) for array in layout.arrays],
        [none] * len(arrays),
        [None] * len(arrays),
        layout.structure,
        layout.grouped,
        layout.arenas,
        [],
    )
