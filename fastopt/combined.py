"""Several optimizers that step as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from reprlib import repr as brief
from typing import Any, Literal

from . import _core
from .calls import checks_arguments
from .declarations import Number
from .fixed import FixedDict
from .group import Group, put_hyper, rates_of
from .layout import Parameters
from .loss_scale import LossScale
from .nest import Array, Name, describe
from .optimizer import Optimizer
from .options import checked_options
from .parameters import check_names
from .saving import FORMAT, Loaded, check_entries
from .scheduled import warn_of_passed
from .stepping import Stepping

# The options of the step, which all share, and their defaults.
SHARED = {
    "nonfinite": "propagate",
    "num_threads": None,
    "grad_scale": None,
    "clip_norm": None,
    "clip_norm_per": "all",
    "clip_value": None,
    "max_skips": None,
    "zero_grads": False,
}


class Combined(Stepping):
    """Several optimizers in one step: one call, one norm, one loss scale, one decision to skip.

    For models that need several rules, such as `Muon` for the hidden matrices and `AdamW` for the rest::

        opt = fastopt.Combined(
            [fastopt.Muon(hidden, lr=0.02), fastopt.AdamW(rest, lr=3e-4)],
            clip_norm=1.0,                  # the norm of all gradients
            grad_scale=fastopt.LossScale(), # adapts once per step
            nonfinite="skip",               # NaN in one gradient skips the step of all
        )
        opt.step(grads)                     # one mapping by name, or [gradients of hidden, gradients of rest]

    Parameters
    ----------
    optimizers : sequence of Optimizer
        At least one, of any rules, each with its own groups, schedules and averages.  They may have made steps already.
        Their parameters must not share memory, and each name must be unique.
    nonfinite, num_threads, grad_scale, clip_norm, clip_norm_per, clip_value, max_skips, zero_grads
        The options of the step, as in `Optimizer`, for all gradients.  The optimizers themselves must not have them.  A
        schedule of clip_norm uses `step_count`.

    Raises
    ------
    TypeError, ValueError
        For a value that is not an optimizer; for an optimizer that occurs twice or has options of the step; for a
        parameter or a name that occurs twice; and for options out of range.

    Notes
    -----
    Gradients are one mapping by name, if every parameter has a name, or a sequence with one entry per optimizer.
    Parameters without a name are numbered over all optimizers, in `state`, in `step_one` and in messages.

    Without clipping, results have the bits of separate steps, for any number of threads.  A rule that uses all of its
    parameters (`Prodigy`) uses those of its group, as without `Combined`.

    The optimizers keep their parameters, state, hyperparameters and counts.  You may change, save or step them alone
    between steps; such a step does not have the options given here.  Calls of other threads wait.  `step_count` is the
    largest of their counts.  A step takes about as long as the steps of the optimizers one after another.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> hidden, bias = {"w": np.ones((2, 2))}, {"b": np.zeros(2)}
    >>> opt = fastopt.Combined([fastopt.Muon(hidden), fastopt.AdamW(bias)], clip_norm=1.0)
    >>> opt.step({"w": np.full((2, 2), 2.0), "b": np.full(2, 3.0)})
    >>> round(opt.grad_norm, 3)
    5.831
    """

    @checks_arguments
    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        *,
        nonfinite: Literal["propagate", "raise", "skip"] = "propagate",
        num_threads: int | None = None,
        grad_scale: float | LossScale | None = None,
        clip_norm: Number | None = None,
        clip_norm_per: Literal["all", "group", "parameter"] = "all",
        clip_value: float | None = None,
        max_skips: int | None = None,
        zero_grads: bool = False,
    ) -> None:
        if not _core.is_sequence(optimizers):
            raise TypeError(f"Combined: optimizers must be a sequence of optimizers, got {type(optimizers).__name__}")
        #: The optimizers, in the order in which gradients come.
        self.optimizers = tuple(optimizers)
        options = {
            "nonfinite": nonfinite,
            "num_threads": num_threads,
            "grad_scale": grad_scale,
            "clip_norm": clip_norm,
            "clip_norm_per": clip_norm_per,
            "clip_value": clip_value,
            "max_skips": max_skips,
            "zero_grads": zero_grads,
        }
        self._check_optimizers()
        options = checked_options("Combined", options)
        self._join()
        self._configure(options)

    def _check_optimizers(self) -> None:
        """Raise TypeError or ValueError unless these optimizers can step as one."""
        if not self.optimizers:
            raise ValueError("Combined: optimizers must hold at least one optimizer, got none")
        for i, optimizer in enumerate(self.optimizers):
            where = f"Combined: optimizers[{i}]"
            if isinstance(optimizer, Combined):
                raise TypeError(f"{where} must be an optimizer of one rule, got a Combined: give its optimizers")
            if not isinstance(optimizer, Optimizer):
                raise TypeError(f"{where} must be an optimizer, got {brief(optimizer)}")
            if any(optimizer is other for other in self.optimizers[:i]):
                raise ValueError(
                    f"{where} must differ from the optimizers before it, got the same {type(optimizer).__name__}"
                )
            for option, default in SHARED.items():
                if optimizer._options[option] != default:
                    raise ValueError(
                        f"{where}: {option} must be an option of Combined, not of its optimizers, got"
                        f" {brief(optimizer._options[option])} of the {type(optimizer).__name__}"
                    )

    def _join(self) -> None:
        """Lay out one table for the parameters of all optimizers."""
        layouts = [optimizer._layout for optimizer in self.optimizers]
        members: list[list[Name]] = []
        for layout in layouts:
            first = sum(map(len, members))
            for structure, names in zip(layout.structure, layout.members, strict=True):
                by_name = isinstance(structure, (tuple, dict))
                members.append(names if by_name else [moved(name, first) for name in names])
        arrays = [array for layout in layouts for array in layout.arrays]
        arenas = [arena for layout in layouts for arena in layout.arenas]
        joined = Parameters(True, [], members, arrays, arenas)  # gradients come in the structures of the optimizers
        names = joined.names
        check_names("Combined", names)
        _core.check_disjoint("Combined", [describe(name) for name in names], arrays)
        tables = tuple(optimizer._table for optimizer in self.optimizers)
        self._joined, self._layout = _core.Table.joined("Combined.step", names, tables), joined
        self._joined.runner.group_of = joined.group_of

    @property
    def _table(self) -> _core.Table:  # type: ignore[override]
        """The table of all parameters, laid out anew once an optimizer has got others."""
        if not self._joined.joins([optimizer._table for optimizer in self.optimizers]):
            if self._accumulator is not None and self._accumulator.step_count:
                raise ValueError(
                    "Combined: gradients must be accumulated again after an optimizer got other parameters; discard()"
                    " drops the earlier gradients"
                )
            skipped_steps = self._joined.runner.skipped_steps
            skips = dict(zip(self._layout.names, self._joined.runner.skips(), strict=True))
            self._join()
            self._configure(self._options)
            self._joined.runner.skipped_steps = skipped_steps
            self._joined.runner.skips([skips.get(name, 0) for name in self._layout.names])
        return self._joined

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of all optimizers, whose hyperparameters can be set here."""
        return tuple(group for optimizer in self.optimizers for group in optimizer.groups)

    @property
    def state(self) -> dict[Name, dict[str, Array]]:
        """Each parameter's state arrays, by its name and by the letter of the paper."""
        return FixedDict(self._by_name([optimizer.state for optimizer in self.optimizers]))

    @property
    def nbytes(self) -> int:
        """The bytes of the parameters and of their state, of all optimizers; see `Optimizer.nbytes`."""
        return sum(optimizer.nbytes for optimizer in self.optimizers)

    @checks_arguments
    def nbytes_of(self, name: Name) -> int:
        """Return the bytes of one parameter and of its state."""
        sizes = self._by_name([{key: one.nbytes_of(key) for key in one.state} for one in self.optimizers])
        if name not in sizes:
            raise KeyError(f"Combined: name must be the name of a parameter, got {brief(name)}")
        size: int = sizes[name]
        return size

    def _by_name(self, parts: list[dict[Name, Any]]) -> dict[Name, Any]:
        """Return values of the optimizers for each of their parameters, by the names here."""
        return dict(zip(self._layout.names, (value for part in parts for value in part.values()), strict=True))

    @property
    def lr(self) -> float | tuple[float, ...]:
        """The learning rate of the next step, or a tuple if groups differ.

        A number or a schedule sets the rate of every group; a tuple or list has one rate for each group.
        """
        rates: list[float] = []
        for optimizer in self.optimizers:
            rate = optimizer.lr
            rates += rate if isinstance(rate, tuple) else [rate] * len(optimizer.groups)
        return tuple(rates) if any(rate != rates[0] for rate in rates) else rates[0]

    @lr.setter
    def lr(self, value: Number | Sequence[Number]) -> None:
        changes = rates_of("Combined", self.groups, value)
        for group, hyper in changes:
            group.checked(hyper)
        parts = []
        for optimizer in self.optimizers:
            part, changes = changes[: len(optimizer.groups)], changes[len(optimizer.groups) :]
            optimizer._table.check_not_held()
            warn_of_passed([(group.class_name, hyper) for group, hyper in part], optimizer.step_count)
            parts.append((optimizer._table, part))
        for table, part in parts:
            put_hyper(table, part)

    @property
    def step_count(self) -> int:
        """How many steps have been made: the largest count of the optimizers."""
        return max(optimizer.step_count for optimizer in self.optimizers)

    @checks_arguments
    def catch_up(self) -> None:
        """Bring all rows up to date that have missed steps, in the optimizers with the option `catch_up`."""
        those = [optimizer for optimizer in self.optimizers if optimizer._options["catch_up"]]
        if not those:
            raise ValueError("Combined: catch_up() needs the option catch_up=True of an optimizer, got none")
        for optimizer in those:
            optimizer.catch_up()

    # Averages.

    @property
    def averages(self) -> tuple[str, ...]:
        """The averages of the parameters that all optimizers keep, as `swapped` takes them."""
        first, *others = (optimizer.averages for optimizer in self.optimizers)
        return tuple(name for name in first if all(name in other for other in others))

    @property
    def ema(self) -> dict[Name, Array]:
        """The exponential moving average of each parameter, by name, if all optimizers have `ema_decay`."""
        return self._by_name([optimizer.ema for optimizer in self.optimizers])

    @property
    def swa(self) -> dict[Name, Array]:
        """The mean of each parameter over the steps of `swa`, by name, if all optimizers have `swa`."""
        return self._by_name([optimizer.swa for optimizer in self.optimizers])

    @checks_arguments
    @contextmanager
    def swapped(self, average: str) -> Iterator[None]:
        """Put an average that all optimizers keep in the place of the parameters; see `Optimizer.swapped`."""
        if not isinstance(average, str) or average not in self.averages:
            there = ", ".join(self.averages) or "one that all optimizers keep, which have none in common"
            raise ValueError(f"Combined.swapped: average must be {there}, got {brief(average)}")
        with ExitStack() as stack:
            for optimizer in self.optimizers:
                stack.enter_context(optimizer.swapped(average))
            yield

    # Save and load.

    @checks_arguments
    def state_dict(self) -> dict[str, Any]:
        """Return everything but the parameters, as plain data: the `state_dict` of each optimizer."""
        with self._table:
            optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"format": FORMAT, "rule": "Combined", "optimizers": optimizers}

    @checks_arguments
    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        *,
        strict: bool = True,
        hyperparameters: Literal["saved", "current"] = "saved",
        convert: bool = False,
    ) -> tuple[Loaded, ...]:
        """Restore the result of `state_dict` to the bit, for all optimizers or none; see `Optimizer.load_state_dict`.

        Returns
        -------
        tuple of Loaded
            For each optimizer, the names that did not fit.

        Raises
        ------
        TypeError, ValueError
            If the state is damaged, or of other optimizers or parameters.  Then nothing has changed.
        """
        return self._prepared_load(state_dict, strict, hyperparameters, convert)()

    def _prepared_load(
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,
        hyperparameters: str = "saved",
        convert: bool = False,
        parameters: Sequence[Mapping[Name, Array]] | None = None,
    ) -> Callable[[], tuple[Loaded, ...]]:
        """Return a function that restores the states, and parameters if given, once all is valid; or raise."""
        label = "Combined.load_state_dict"
        self._table.check_not_held()
        given = check_entries(label, "the state", state_dict, ["format", "rule", "optimizers"])
        for key, required in (("format", FORMAT), ("rule", "Combined")):
            if type(given[key]) is not type(required) or given[key] != required:
                raise ValueError(f"{label}: {key} must be {required!r}, got {brief(given[key])}")
        states = given["optimizers"]
        if not isinstance(states, (list, tuple)) or len(states) != len(self.optimizers):
            raise ValueError(f"{label}: optimizers must be a list of {len(self.optimizers)}, got {brief(states)}")
        loads = []
        of_parts = parameters if parameters is not None else [None] * len(states)
        for i, (optimizer, state, of_part) in enumerate(zip(self.optimizers, states, of_parts, strict=True)):
            try:
                loads.append(optimizer._prepared_load(state, strict, hyperparameters, convert, of_part))
            except (TypeError, ValueError) as error:
                raise type(error)(f"{label}: optimizers[{i}]: {error}") from None

        def load_all() -> tuple[Loaded, ...]:
            with self._table:
                return tuple(load() for load in loads)

        return load_all

    def __getstate__(self) -> dict[str, Any]:
        return {
            "optimizers": self.optimizers,
            "options": {**self._options, "num_threads": self.num_threads},
            "skipped_steps": self.skipped_steps,
            "skips": self._table.runner.skips(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.optimizers = state["optimizers"]
        self._join()
        self._configure(state["options"])
        self._table.runner.skipped_steps = state["skipped_steps"]
        self._table.runner.skips(state["skips"])

    def __repr__(self) -> str:
        options = "".join(
            f", {key}={self._options[key]!r}" for key, default in SHARED.items() if self._options[key] != default
        )
        size = f"{len(self._layout.names)} parameters, {self.nbytes:,} bytes"
        lines = [f"Combined({size}, {self.step_count} steps{options}"]
        for optimizer in self.optimizers:
            lines += [f"  {line}" for line in repr(optimizer).splitlines()]
        return "\n".join(lines) + ")"


def moved(name: Name, first: int) -> Name:
    """Return the name of a parameter that is counted, where the count begins at `first`."""
    if isinstance(name, int):
        return first + name
    place, _, rest = name.partition(".")
    return f"{first + int(place)}.{rest}"
