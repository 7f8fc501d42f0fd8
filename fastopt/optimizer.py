"""The base class of all optimizers: their public methods, and the options that every rule takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from reprlib import repr as brief
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from . import averages, saving
from .calls import checks_arguments
from .declarations import Declaring, Number, Rate, argument, choice, flag, is_schedule, number, rate, state_dtype
from .group import Group, rates_of, set_hyper
from .layout import Layout
from .loss_scale import LossScale
from .nest import Array, Name
from .options import all_options
from .parameters import Params, split_groups
from .saving import Loaded
from .scheduled import scheduled, warn_of_passed
from .stepping import Stepping, gather

if TYPE_CHECKING:
    from typing_extensions import Self


def is_handed_on(parameter: inspect.Parameter, own: Mapping[str, Any]) -> bool:
    """Return whether an argument of a base class is an option that is handed on to it."""
    by_name = parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    return by_name and parameter.name not in own and parameter.name != "params"


class Optimizer(Stepping, Declaring):
    """The base class of all rules: parameters, their state, and one fused pass over both per step.

    Use the classes of the rules, such as `fastopt.Adam`.  This class has their common options and methods.

    Parameters
    ----------
    params : array, sequence of arrays, mapping of name to array, nest of these, or sequence of groups
        The arrays that `step` updates in place: float32, float64, float16 or bfloat16 (of ml_dtypes), writable, any
        shape, any strides.  A sequence may also be a generator or ``dict.values()``.  In a nest, the name of
        ``params["block"][0]`` is "block.0".  A group is a mapping with "params" and the hyperparameters in which it
        differs.  Its learning rate is lr times its "lr_scale", 1 by default.  A group may have keys of your own, such
        as "name", with plain values; they must not be similar to the name of an option.  If you replace an array in a
        mapping or a list, the next step raises an error; see `rebind`.
    weight_decay : float, >= 0, default 0
        Weight decay, in the form of `weight_decay_form`.
    weight_decay_form : {"l2", "decoupled", "independent", "own"}, optional
        "l2": the gradient is g + weight_decay * p.  "decoupled": p = p * (1 - lr * weight_decay) before the rule.
        "independent": p = p * (1 - weight_decay) before the rule, for any learning rate.  The default is the
        form of the authors: "l2" for most, "decoupled" for `AdamW`, "own" if decay is a part of the rule (`LAMB`).
    cautious_decay : bool, default False
        Decay only elements that the rule moves towards 0 or does not move: p = p - lr * (u + weight_decay * p)
        where u * p >= 0, else p = p - lr * u, with u the step of the rule from p (Chen et al. 2025,
        https://arxiv.org/abs/2510.12402).  For the forms "decoupled" and "independent", and for "own" with `Adafactor`
        and `Prodigy`.  Not for rules that keep an average of the parameters.
    corrected_decay : bool, default False
        Scale decay also by lr / largest lr: a step subtracts lr * weight_decay * lr / (largest lr) of p.  So the size
        of weights before a normalisation stays in proportion as lr falls (Defazio 2025,
        https://arxiv.org/abs/2506.02285).  The largest lr is the largest of the parameter's steps so far, including
        the coming one, or the peak of the schedule from `fastopt.schedules` if it is larger, times lr_scale.  `state`
        then has ``largest_lr``.  For the forms "decoupled" and "own".  It cannot be changed later.
    maximize : bool, default False
        Step along the gradient instead of against it.
    state_dtype : {"float32", "bfloat16", "float16", "8bit"} or mapping of letter to these, optional
        Format of the state in memory.  If memory limits a step, fewer bytes make it faster.  The default is the dtype
        in which the rule computes: float32, or float64 for float64 parameters.  "8bit" stores codes with one scale for
        every 64 elements.  Buffers that the rule needs exactly, sums over rows, and averages keep the default.
    master : {"auto", "split16", "split8", "float32"} or None, default "auto"
        Where the full value of a 16-bit parameter is kept, so that small updates are not lost.  "split16": a second
        array has the other 16 bits of a float32, for bfloat16.  "split8": it has 8 of these bits.  "float32": it is a
        float32 copy, which takes over elements that you overwrite.  None: nowhere.  "auto" is "split16" for bfloat16
        and "float32" for float16.  If no parameter has 16 bits, only "auto" and None are accepted.
    rounding : {"stochastic", "nearest"}, default "stochastic"
        Rounding of state and parameters that are stored in fewer bits.  "stochastic" rounds up or down at random, so
        that the mean is right.  "nearest" rounds to the nearest number; running means then stop before they reach the
        value that they decay to.
    seed : int, default 0
        Seed of the random numbers, >= 0, < 2**64.  They depend on the seed, the parameter's name, its step and the
        element.
    nonfinite : {"propagate", "raise", "skip"}, default "propagate"
        Action for NaN or infinity in a gradient: compute with it, raise FloatingPointError, or skip the step and count
        it in `skipped_steps`.  "raise" and "skip" read the gradients once before anything is written, and then leave
        parameters, state and step counts as they were.
    num_threads : int, optional
        Threads of a step, at least 1.  By default the optimizer measures its steps, and chooses a number up to
        `fastopt.get_num_threads()`.
    grad_scale : float or LossScale, > 0, optional
        Factor by which the loss was multiplied.  Gradients are divided by it first.  A `LossScale` adapts itself, and
        needs ``nonfinite="skip"``.  If several optimizers share it, call its ``update()`` once per iteration.
    clip_norm : float or schedule, > 0, optional
        Scale all gradients by min(1, clip_norm / (norm + 1e-6)), where norm is the norm of all gradients, as torch's
        ``clip_grad_norm_`` does.  `grad_norm` is then the norm before clipping; with infinity it is only measured.  The
        gradients are read once more.  A NaN makes the norm NaN, and with it every clipped gradient; `nonfinite`
        prevents this.  No square overflows or underflows: the norm is exact to rounding if it is a float64 number.
    clip_norm_per : {"all", "group", "parameter"}, default "all"
        Clip by the norm of all gradients, of each group, or of each parameter.  `clip_norm` is the limit of each norm;
        see `grad_norms`.
    clip_value : float, > 0, optional
        Clip each element to [-clip_value, clip_value], after `clip_norm`.  Infinity does not clip.
    max_skips : int, optional
        With ``nonfinite="skip"``, the largest number of skipped steps in a row, at least 1.  After them, a step with
        NaN or infinity raises FloatingPointError, as with "raise", until a step succeeds.
    zero_grads : bool, default False
        Set the gradients to zero after use, also in a skipped step.  They must be writable and must not overlap.  The
        values of a `RowGrad` stay.
    ema_decay : float or schedule, in [0, 1), optional
        Keep an exponential moving average of the parameters, updated in the same pass:
        ema = ema + (1 - ema_decay) * (p - ema).  It starts at the value of p before its first step; see `ema`.  A
        schedule may be `fastopt.schedules.ema_warmup`.  As an option of the step, it is not saved.
    swa : pair of int, optional
        ``swa=(start, every)``: keep the mean of the parameters after steps start, start + every, start + 2 * every, ...
        of the optimizer (stochastic weight averaging, Izmailov et al. 2018, https://arxiv.org/abs/1803.05407); see
        `swa`.
    lookahead : pair of int and float, optional
        ``lookahead=(every, rate)``: after each `every` steps of a parameter slow = slow + rate * (p - slow) and
        p = slow (Zhang et al. 2019, https://arxiv.org/abs/1907.08610).  (5, 0.5) is common.  slow starts at the value
        of p before its first step.  Not for rules that keep an average of the parameters.
    catch_up : bool, default False
        For gradients that are `RowGrad`: before its step, a row catches up on the steps that it has missed, as if each
        had been made with a gradient of zero, to rounding.  For rules with a closed form of such steps, such as `SGD`
        and `RMSprop`; docs/rows.md lists them.  Adam has none, since m and v decay at different rates under a root.
        With momentum, missed steps move a row, so call `catch_up()` before you read the table.  Setting a
        hyperparameter also brings all rows up to date.  Schedules of hyperparameters that the closed form needs, weight
        decay and averages are refused.  `state` then has ``last_step``, the last step of each row.

    Raises
    ------
    TypeError, ValueError
        For parameters that cannot be updated in place (another type, read-only, overlapping), and for hyperparameters
        out of range.  The message names the requirement and the value found.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> params = {"w": np.ones((2, 2)), "b": np.zeros(2)}
    >>> opt = fastopt.AdamW(params, lr=0.1, clip_norm=1.0, ema_decay=0.9)
    >>> opt.step({"w": np.full((2, 2), 2.0), "b": np.zeros(2)})
    >>> opt.step_count, opt.grad_norm
    (1, 4.0)
    >>> opt.state["w"]["m"].round(3)
    array([[0.05, 0.05],
           [0.05, 0.05]])
    >>> opt.lr = 0.01
    >>> opt.groups[0]["weight_decay"] = 0.0
    """

    _streams: ClassVar[Mapping[str, tuple[int, ...]]] = {}  # arrays read and written by each pass, of rules of several
    _calls_numpy: ClassVar[bool] = False  # whether NumPy computes a part of its steps

    params: Params = argument(kw_only=False)
    lr: Rate = rate(default=0.0, kw_only=False)
    lr_scale: Number = number(default=1.0, init=False)
    weight_decay: Number = number(default=0.0)
    weight_decay_form: Literal["l2", "decoupled", "independent", "own"] | None = choice(default=None, of=())
    cautious_decay: bool = flag(default=False)
    corrected_decay: bool = flag(default=False, fixed="layout")
    maximize: bool = flag(default=False)
    state_dtype: Any = state_dtype(default=None)
    master: Literal["auto", "split16", "split8", "float32"] | None = choice(
        default="auto", of=("auto", "split16", "split8", "float32", None), fixed="layout"
    )
    rounding: Literal["stochastic", "nearest"] = choice(
        default="stochastic", of=("stochastic", "nearest"), fixed="layout"
    )
    seed: int = argument(default=0)
    nonfinite: Literal["propagate", "raise", "skip"] = argument(default="propagate")
    _num_threads: int | None = argument(default=None, alias="num_threads")
    grad_scale: float | LossScale | None = argument(default=None)
    clip_norm: Number | None = argument(default=None)
    clip_norm_per: Literal["all", "group", "parameter"] = argument(default="all")
    clip_value: float | None = argument(default=None)
    max_skips: int | None = argument(default=None)
    zero_grads: bool = argument(default=False)
    ema_decay: Number | None = argument(default=None)
    _swa: tuple[int, int] | None = argument(default=None, alias="swa")
    lookahead: tuple[int, float] | None = argument(default=None)
    _catch_up: bool = argument(default=False, alias="catch_up")

    __signature__: ClassVar[inspect.Signature]
    _positional: ClassVar[list[str] | None]  # names of the arguments by position; None: any number

    def __init_subclass__(cls) -> None:
        """Set the signature: the declarations of the class, or the arguments of a user's own constructor."""
        super().__init_subclass__()
        if cls.__init__ is Optimizer.__init__:
            kinds = {True: inspect.Parameter.KEYWORD_ONLY, False: inspect.Parameter.POSITIONAL_OR_KEYWORD}
            declared = cls._declaration.arguments.items()
            parameters = [inspect.Parameter(name, kinds[a.kw_only], default=a.default) for name, a in declared]
        else:
            own = inspect.signature(cls.__init__).parameters
            parameters = [p for name, p in own.items() if name != "self" and p.kind is not p.VAR_KEYWORD]
            if len(parameters) + 1 < len(own):
                base = inspect.signature(cls.__mro__[1]).parameters.values()
                parameters += [p.replace(kind=p.KEYWORD_ONLY) for p in base if is_handed_on(p, own)]
        cls.__signature__ = inspect.Signature(parameters)
        any_number = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        by_position = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        cls._positional = None if any_number else by_position

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Raise TypeError for hyperparameters that are given by position, and for this class, which has no rule."""
        if cls is Optimizer:
            raise TypeError("Optimizer: the class of a rule must be used, such as Adam, got the base class")
        positional = cls._positional
        if positional is not None and len(args) > len(positional):
            by_name = ", ".join(name for name in cls.__signature__.parameters if name not in positional)
            raise TypeError(
                f"{cls.__name__}: arguments after {', '.join(positional)} must be given by name, one of {by_name}, got"
                f" {brief(args[len(positional)])} by position"
            )
        return super().__new__(cls)

    def __init__(self, *by_position: Any, **by_name: Any) -> None:
        self._set_up(self._layout_of(by_position, by_name))

    @classmethod
    def _layout_of(
        cls,
        by_position: Sequence[Any],
        by_name: Mapping[str, Any],
        orders: Mapping[Name, tuple[int, ...]] = MappingProxyType({}),
        kept: Sequence[Collection[str]] = (),
    ) -> Layout:
        """Lay out parameters for these arguments, with `orders` and `kept` as `Layout` takes them."""
        label, declaration = cls.__name__, cls._declaration
        given = declaration.given(label, by_position, by_name, cls.__signature__.parameters)
        hyper = {key: given.get(key, declared.default) for key, declared in declaration.hyper.items()}
        if hyper["weight_decay_form"] is None:
            hyper["weight_decay_form"] = declaration.decay_form
        options = {key: given[key] for key in declaration.options}
        if not options.keys().isdisjoint(by_name):  # those that are left out are valid
            options = all_options(label, options, cls._averages)
        grouped, groups_given = split_groups(label, given["params"], hyper)
        return Layout(declaration, grouped, groups_given, options, hyper, kept, orders=orders)

    @classmethod
    def _laid_out_as(
        cls, orders: Mapping[Name, tuple[int, ...]], kept: Sequence[Collection[str]], params: Params, **by_name: Any
    ) -> Self:
        """Make an optimizer with `orders` and `kept` as `Layout` takes them."""
        made = cls.__new__(cls)
        made._set_up(cls._layout_of((params,), by_name, orders, kept))
        return made

    def _set_up(self, layout: Layout) -> None:
        """Step these parameters."""
        self._layout: Layout = layout
        self._table = layout.table
        self._configure(layout.options)
        self._laid_out()

    def _laid_out(self) -> None:
        """Finish new parameters, which have state now: all of them at first, later those of added groups."""

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups: their parameters and their hyperparameters, which can be set here."""
        return self._layout.groups

    @property
    def state(self) -> dict[Name, dict[str, Array]]:
        """The state arrays, by the name of the parameter and the letter of the paper."""
        return self._layout.state

    @property
    def nbytes(self) -> int:
        """The bytes of parameters and state, with codes, scales, averages and masters, without gradients."""
        return sum(self.nbytes_of(name) for name in self.state)

    @checks_arguments
    def nbytes_of(self, name: Name) -> int:
        """Return the bytes of one parameter and of its state."""
        return self._layout.nbytes_of(name)

    @checks_arguments
    def rebind(self, params: Params) -> None:
        """Replace the arrays of the parameters; state, counts, averages and bound gradients stay.

        For code that cannot assign in place by ``params["w"][...] = values``.

        Parameters
        ----------
        params : array, sequence, mapping, or sequence of groups
            Arrays with the structure, names, shapes and dtypes of the parameters that they replace, in any memory
            that neither the state nor a bound gradient uses.  Of a group, only "params" is read.  If an element of 16
            bits has another value than before, the bits that its `master` keeps become 0.

        Raises
        ------
        TypeError, ValueError
            For arrays that do not fit, and within `swapped`.  Then nothing has changed.
        """
        self._layout.rebind(f"{type(self).__name__}.rebind", params)

    @checks_arguments
    def catch_up(self) -> None:
        """Bring all rows up to date that have missed steps, with the option `catch_up`; see `Optimizer`."""
        if not self._options["catch_up"]:
            raise ValueError(f"{type(self).__name__}: catch_up() needs the option catch_up=True, got False")
        self._table.catch_up()

    @checks_arguments
    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add a group of parameters, which later steps update too.

        ::

            opt.add_param_group({"params": {"head.w": w}, "lr": 1e-2})

        Parameters
        ----------
        group : mapping
            "params", and the hyperparameters in which the group differs from the arguments of the optimizer.

        Raises
        ------
        TypeError, ValueError
            For values that are not a group, and for parameters with the name or memory of another parameter.  Then
            nothing has changed.

        Notes
        -----
        The new parameters begin with their own step 1.  Schedules use `step_count` for all groups:
        ``fastopt.schedules.shift(schedule, opt.step_count)`` is a schedule that begins now.  Parameters without names
        get the next numbers.  From now on gradients come as a sequence with one entry per group, or in one mapping if
        all groups are mappings.  Arrays given to `bind` are no longer bound.  Accumulated micro-batches stay.
        """
        label = f"{type(self).__name__}.add_param_group"
        given = self._layout.group(label, group)
        self._table.check_not_held()
        warn_of_passed([(type(self).__name__, given[1])], self._table.step_count)
        with self._table:
            added = self._layout.add(label, given)
            if self._accumulator is not None:
                gather(self._accumulator, added)
            self._laid_out()

    @checks_arguments
    def reset(self, names: Name | Iterable[Name] | None = None) -> None:
        """Forget the state of all parameters, or of some: moments, averages and counts are those of a new optimizer.

        Parameters
        ----------
        names : name or iterable of names, optional
            Which parameters.  By default all of them; `step_count` is then 0, and schedules begin again.  With names,
            `step_count` and schedules continue.

        Raises
        ------
        ValueError
            For an unknown name.  Also for only a part of a group, if the rule has one estimate per group (`Prodigy`).
            Then nothing has changed.

        Notes
        -----
        Parameters, hyperparameters and accumulated gradients stay as they are.
        """
        self._layout.reset(f"{type(self).__name__}.reset", names)

    @property
    def ema(self) -> dict[Name, Array]:
        """The exponential moving average of each parameter, by name, with `ema_decay`.

        Before its first step, a parameter is its own average; so is a row before its first `RowGrad`.  Arrays are those
        of the state if these are up to date, else copies.
        """
        return averages.average(self._layout, "ema")

    @property
    def swa(self) -> dict[Name, Array]:
        """The mean of each parameter over the steps of `swa`, by name, as `ema`; an error before the first of them.

        A parameter counts from its first step on, also in steps without its gradient.
        """
        return averages.average(self._layout, "swa")

    @property
    def averages(self) -> tuple[str, ...]:
        """The names of the averages that this optimizer keeps, for `swapped`."""
        return averages.averages_of(self._layout)

    @checks_arguments
    def swapped(self, average: str) -> AbstractContextManager[None]:
        """Put an average in the place of the parameters within a ``with`` block; the parameters return to the bit.

        ::

            with opt.swapped("ema"):
                accuracy = evaluate(params)

        Parameters
        ----------
        average : str
            "ema" with `ema_decay`, "swa" with `swa` after its first step, or the average of a rule: "x" of the
            schedule-free rules, "ax" of `ASGD`.

        Raises
        ------
        ValueError
            For an average that does not exist, and within another `swapped`.  Then nothing has changed.

        Notes
        -----
        Within the block, steps and copies of the optimizer are refused, and values that you write to the parameters are
        lost.  `state_dict` and `fastopt.save` without parameters work as usual.  A copy holds the parameters meanwhile.
        """
        return averages.swapped(self._layout, f"{type(self).__name__}.swapped", average)

    def _rates(self) -> float | tuple[float, ...]:
        label, step_count = type(self).__name__, self.step_count
        rates = tuple(
            scheduled(label, "lr", lr, step_count) if is_schedule(lr := group["lr"]) else lr for group in self.groups
        )
        return rates if any(lr != rates[0] for lr in rates) else rates[0]

    def _set_rates(self, value: Number | Sequence[Number]) -> None:
        set_hyper(self._table, rates_of(type(self).__name__, self.groups, value))

    # Save and load.

    @checks_arguments
    def state_dict(self) -> dict[str, Any]:
        """Return everything but the parameters, as plain data: copies of the state arrays, numbers and strings."""
        return saving.state_dict(self._layout)

    @checks_arguments
    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        *,
        strict: bool = True,
        hyperparameters: Literal["saved", "current"] = "saved",
        convert: bool = False,
    ) -> Loaded:
        """Restore the result of `state_dict`, to the bit: state, hyperparameters and counts.

        Parameters
        ----------
        state_dict : mapping
            The result of `state_dict` of an optimizer of the same class.
        strict : bool, default True
            Raise unless everything fits.  With False, a parameter keeps its state and count if its saved state is
            missing, or has another shape, dtype or other buffers.  States of unknown parameters are ignored.  A group
            takes the hyperparameters of the saved group that has its parameters, if there is exactly one.
        hyperparameters : {"saved", "current"}, default "saved"
            "saved": take the saved ones; schedules must be equal to the saved schedules, and take their states.
            "current": keep the hyperparameters, schedules and their states of this optimizer, such as a new learning
            rate.
        convert : bool, default False
            Accept state in other formats, or of a parameter with another dtype; each element is rounded once, to
            nearest.  The parameters stay as they are: bits of a `master` for another dtype are ignored.

        Returns
        -------
        Loaded
            The names that were missing, unexpected or of another shape; none with ``strict=True``.

        Raises
        ------
        TypeError, ValueError
            If the state is damaged, of another rule or, with `strict`, of other parameters.  Also if a schedule differs
            from the saved one, or cannot be compared with it, such as a lambda of another process.  Then nothing has
            changed.
        """
        return self._prepared_load(state_dict, strict, hyperparameters, convert)()

    def _prepared_load(
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,
        hyperparameters: str = "saved",
        convert: bool = False,
        parameters: Mapping[Name, Array] | None = None,
    ) -> Callable[[], Loaded]:
        """Return a function that restores a state, and parameters if given, once all is known to be valid; or raise."""
        return saving.prepared_load(self._layout, state_dict, strict, hyperparameters, convert, parameters)

    def __getstate__(self) -> dict[str, Any]:
        return saving.copied(self._layout)

    def __setstate__(self, copy: dict[str, Any]) -> None:
        self._set_up(saving.layout_of_copy(self._declaration, copy))
        self.load_state_dict(copy["state_dict"])
        self._table.runner.skipped_steps = copy["skipped_steps"]
        self._table.runner.skips(copy["skips"])

    def __repr__(self) -> str:
        size = f"{len(self._layout.names)} parameters, {self.nbytes:,} bytes"
        lines = [f"{type(self).__name__}({size}, {self.step_count} steps"]
        for group in self.groups:
            lines.append("  " + ", ".join(f"{key}={value!r}" for key, value in group.items() if key != "params"))
        return "\n".join(lines) + ")"
