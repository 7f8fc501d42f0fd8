"""The base class of all optimizers: their public methods, and the options that every rule takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """Parameters, their state, and one fused pass over both per step.

    Users make the classes of the rules (`fastopt.Adam` and the others); this class has their shared part.

    Parameters
    ----------
    params : array, sequence of arrays, mapping of name to array, nest of these, or sequence of groups
        The arrays that `step` updates in place: float32, float64, float16 or bfloat16 (of ml_dtypes), writable, any
        shape, any strides.  A sequence may be consumed (a generator, ``dict.values()``).  In a nest, the name of
        ``params["block"][0]`` is "block.0".  A group is a mapping with "params" and any hyperparameter in which it
        differs; its learning rate is lr times its "lr_scale", 1 by default; keys of your own, such as "name", hold
        plain values and must be unlike options.  An array that takes the place of one in a mapping or a list is noticed
        by the next step; see `rebind`.
    weight_decay : float, >= 0, default 0
        Decay, in the form of `weight_decay_form`.
    weight_decay_form : {"l2", "decoupled", "independent", "own"}, optional
        "l2": the rule sees g + weight_decay * p.  "decoupled": p = p * (1 - lr * weight_decay) before the rule.
        "independent": p = p * (1 - weight_decay) before the rule, for any learning rate.  The default is the
        form of the authors: "l2" for most, "decoupled" for `AdamW`, "own" if decay is a part of the rule (`LAMB`).
    cautious_decay : bool, default False
        Decay only elements that the step of the rule moves towards 0, or leaves: p = p - lr * (u + weight_decay * p)
        where u * p >= 0, else p = p - lr * u, with u the step of the rule from p (Chen et al. 2025,
        https://arxiv.org/abs/2510.12402).  For decay that is "decoupled" or "independent", and the "own" of `Adafactor`
        and `Prodigy`; not for rules that keep an average of their own.
    corrected_decay : bool, default False
        Scale decay by lr / largest lr once more: a step takes lr * weight_decay * lr / (largest lr) of p, so that the
        size of weights before a normalisation stays in proportion as lr falls (Defazio 2025,
        https://arxiv.org/abs/2506.02285).  The largest lr is the largest of the parameter's steps so far, the coming
        one included, or the peak of the schedule from `fastopt.schedules` if that is larger; it counts with lr_scale.
        `state` then has ``largest_lr``.  For decay that is "decoupled" or "own"; fixed once the optimizer is made.
    maximize : bool, default False
        Step along the gradient instead of against it.
    state_dtype : {"float32", "bfloat16", "float16", "8bit"} or mapping of letter to these, optional
        How state is stored: a quarter or half of the bytes makes a step at the limit of memory faster.  By default as
        the rule computes, in float32, or float64 for parameters of it.  "8bit" are codes with a scale for every 64
        elements.  Buffers that the rule needs exactly, sums over rows, and averages are never stored otherwise.
    master : {"auto", "split16", "split8", "float32"} or None, default "auto"
        The full value of a 16-bit parameter, so that small updates are not lost.  "split16": a float32, whose
        other 16 bits are stored separately, for bfloat16; "split8": 8 of these bits; "float32": a copy, which
        follows elements that others overwrite; None: nothing.  "auto" is "split16" for bfloat16, "float32" for float16.
        Another word than "auto" and None is refused where no parameter has 16 bits.
    rounding : {"stochastic", "nearest"}, default "stochastic"
        How state, and parameters that keep fewer bits, are rounded: up or down at random so that the mean is right,
        or to the nearest number, with which running means stop before the value that they decay to.
    seed : int, default 0
        Of the random numbers, >= 0, < 2**64.  They depend on the seed, the parameter's name, its step and the element.
    nonfinite : {"propagate", "raise", "skip"}, default "propagate"
        How a step treats NaN or infinity in a gradient: like other numbers, raise FloatingPointError, or return and
        count in `skipped_steps`.  With the last two, gradients are read once before anything is written, and such a
        step leaves parameters, state and step counts as they were.
    num_threads : int, optional
        Threads of a step, at least 1.  By default the optimizer chooses by measured times of steps, up to
        `fastopt.get_num_threads()`.
    grad_scale : float or LossScale, > 0, optional
        Factor by which the loss was multiplied: gradients are divided by it before all else.  A `LossScale` is a number
        that adapts itself, and needs ``nonfinite="skip"``; where optimizers share it, call its ``update()`` once per
        iteration.
    clip_norm : float or schedule, > 0, optional
        Scale all gradients by min(1, clip_norm / (norm + 1e-6)), where norm is the norm of all of them together, as
        torch's ``clip_grad_norm_`` does; infinity measures alone.  A schedule is asked as one of a hyperparameter is.
        `grad_norm` is then the norm before clipping.  The gradients are read once more for it.  A NaN makes the norm
        NaN, and with it every gradient that is clipped by it; `nonfinite` keeps it out.  No square overflows or
        underflows: the norm is exact to rounding wherever float64 has it.
    clip_norm_per : {"all", "group", "parameter"}, default "all"
        Clip by one norm of all gradients, by one norm of each group, or by one norm of each parameter, each with the
        limit `clip_norm`; see `grad_norms`.
    clip_value : float, > 0, optional
        Clip each element to +-clip_value, infinity for none, after `clip_norm`.
    max_skips : int, optional
        With ``nonfinite="skip"``, how many steps in a row are skipped at the most, at least 1: the next one whose
        gradients are not finite raises FloatingPointError, as with "raise", until one is made.
    zero_grads : bool, default False
        Set the gradients to zero once they have been used, also by a skipped step; they must be writable and not
        overlap.  The values of a `RowGrad` stay.
    ema_decay : float or schedule, in [0, 1), optional
        Keep an exponential moving average of the parameters, updated in the same pass:
        ema = ema + (1 - ema_decay) * (p - ema), from p as it is before its first step; see `ema`.  A schedule, such as
        `fastopt.schedules.ema_warmup`, is asked for its value on each step; as an option of the step it is not saved.
    swa : pair of int, optional
        Keep the mean of the parameters as they are after steps start, start + every, start + 2 * every, ... of the
        optimizer for ``swa=(start, every)`` (stochastic weight averaging, Izmailov et al. 2018,
        https://arxiv.org/abs/1803.05407); see `swa`.
    lookahead : pair of int and float, optional
        ``lookahead=(every, rate)``: after every so many steps of a parameter slow = slow + rate * (p - slow) and
        p = slow (Lookahead, Zhang et al. 2019, https://arxiv.org/abs/1907.08610, where every = 5 and rate = 0.5 are
        common), from p as it is before its first step.  Not for rules that keep an average of their own.
    catch_up : bool, default False
        For gradients that are `RowGrad`: a row that a step meets first makes up for the steps since it was last met, as
        if each had been made with a gradient of zero, to rounding.  For `SGD`, `Adagrad`, `RMSprop` and `Adadelta`,
        whose steps without a gradient have a closed form; Adam's have none, since m and v decay at different rates
        under a root.  With momentum such a row moves on, so call `catch_up()` before the table is read.  Setting a
        hyperparameter does so by itself; schedules of those that the form needs, weight decay and averages are refused.
        `state` then has ``last_step``, the last step that met each row.

    Raises
    ------
    TypeError, ValueError
        For parameters that cannot be updated in place (another type, read-only, overlapping) and hyperparameters out
        of range.  The message names the requirement and the value found.

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
            raise TypeError("Optimizer: a class with a rule must be made, such as Adam, got the base of all")
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
    ) -> Layout:
        """Lay out parameters for these arguments, those that have an order of their walk in this one."""
        label, declaration = cls.__name__, cls._declaration
        given = declaration.given(label, by_position, by_name, cls.__signature__.parameters)
        hyper = {key: given.get(key, declared.default) for key, declared in declaration.hyper.items()}
        if hyper["weight_decay_form"] is None:
            hyper["weight_decay_form"] = declaration.decay_form
        options = {key: given[key] for key in declaration.options}
        if not options.keys().isdisjoint(by_name):  # those that are left out are valid
            options = all_options(label, options, cls._averages)
        grouped, groups_given = split_groups(label, given["params"], hyper)
        return Layout(declaration, grouped, groups_given, options, hyper, orders=orders)

    @classmethod
    def _walked(cls, orders: Mapping[Name, tuple[int, ...]], *by_position: Any, **by_name: Any) -> Self:
        """Make an optimizer whose elements keep their places in a walk, in whatever order its parameters lie."""
        made = cls.__new__(cls)
        made._set_up(cls._layout_of(by_position, by_name, orders))
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
        """The groups' parameters and hyperparameters, which can be set here."""
        return self._layout.groups

    @property
    def state(self) -> dict[Name, dict[str, Array]]:
        """Each parameter's state arrays, by its name and by the letter of the paper."""
        return self._layout.state

    @property
    def nbytes(self) -> int:
        """The bytes of the parameters and of their state: codes, scales, averages and second parts, not gradients."""
        return sum(self.nbytes_of(name) for name in self.state)

    @checks_arguments
    def nbytes_of(self, name: Name) -> int:
        """Return the bytes of one parameter and of its state."""
        return self._layout.nbytes_of(name)

    @checks_arguments
    def rebind(self, params: Params) -> None:
        """Take other arrays in place of the parameters; state, counts, averages and bound gradients stay.

        For code that cannot assign in place, ``params["w"][...] = values``.

        Parameters
        ----------
        params : array, sequence, mapping, or sequence of groups
            Arrays in the structure and with the names, shapes and dtypes of the parameters they replace, in any memory
            that neither the state nor a bound gradient uses.  Of groups, only "params" is read.  An element of 16 bits
            that is another one than before loses the bits that its `master` has kept beside it.

        Raises
        ------
        TypeError, ValueError
            For arrays that do not fit, and within `swapped`.  Nothing has been changed then.
        """
        self._layout.rebind(f"{type(self).__name__}.rebind", params)

    @checks_arguments
    def catch_up(self) -> None:
        """Have all rows make up for the steps that they have missed, with the option `catch_up`; see `Optimizer`."""
        if not self._options["catch_up"]:
            raise ValueError(f"{type(self).__name__}: catch_up() is there with the option catch_up=True, got False")
        self._table.catch_up()

    @checks_arguments
    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add a group of parameters: they are stepped with the others from now on.

        ::

            opt.add_param_group({"params": {"head.w": w}, "lr": 1e-2})

        Parameters
        ----------
        group : mapping
            "params" and any hyperparameter in which the group differs from the values that the optimizer was made with.

        Raises
        ------
        TypeError, ValueError
            For values that are not a group, and for parameters with the name or memory of another parameter.
            Nothing has been changed then.

        Notes
        -----
        Its parameters begin with their own step 1, while schedules go by `step_count`, as those of all groups:
        ``fastopt.schedules.shift(schedule, opt.step_count)`` is one that begins now.  Parameters without names are
        numbered on.  From now on gradients come as a sequence with one entry per group, or in one mapping where all
        groups are mappings; arrays given to `bind` before are let go.  Micro-batches that were accumulated are kept.
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
        """Forget the state of all parameters, or of some: moments, averages and steps are as before the first one.

        Parameters
        ----------
        names : name or iterable of names, optional
            Which parameters; by default all of them, and `step_count` then is 0, so that schedules begin anew.  With
            names it stays, and so do schedules.

        Raises
        ------
        ValueError
            For a name that no parameter has, and for some parameters of a group of all of which a rule (`Prodigy`)
            makes one estimate.  Nothing has been changed then.

        Notes
        -----
        Parameters, hyperparameters and accumulated gradients stay as they are.
        """
        self._layout.reset(f"{type(self).__name__}.reset", names)

    @property
    def ema(self) -> dict[Name, Array]:
        """The exponential moving average of each parameter, by name, with `ema_decay`.

        A parameter that was never stepped has itself as its average, and so has a row that no `RowGrad` has named.
        Arrays are those of the state where these are up to date, else copies.
        """
        return averages.average(self._layout, "ema")

    @property
    def swa(self) -> dict[Name, Array]:
        """The mean of each parameter over the steps that `swa` asks for, by name, as `ema`; an error before the first.

        Each parameter counts from its first step, with its value after each step, also of steps without its gradient.
        """
        return averages.average(self._layout, "swa")

    @property
    def averages(self) -> tuple[str, ...]:
        """The averages of the parameters that are kept, as `swapped` takes them."""
        return averages.averages_of(self._layout)

    @checks_arguments
    def swapped(self, average: str) -> AbstractContextManager[None]:
        """Put an average of the parameters in their place, and the parameters back at the end, to the bit.

        ::

            with opt.swapped("ema"):
                accuracy = evaluate(params)

        Parameters
        ----------
        average : str
            "ema" with `ema_decay`, "swa" with `swa` once its first step has been made, or the average of a rule:
            "x" of the schedule-free rules, "ax" of `ASGD`.

        Raises
        ------
        ValueError
            For an average that is not there, and within another `swapped`.  Nothing has been changed then.

        Notes
        -----
        Values that are written to the parameters within are lost.  Steps and copies of the optimizer are refused
        within; `state_dict` and `fastopt.save`, which hold no parameters, work as outside.  The parameters
        are kept in a copy meanwhile.
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
            Raise unless all of it fits.  Otherwise parameters whose state is missing, or is of another shape or dtype,
            or of other buffers, keep the state and count that they have, and states of other parameters are left out.
            A group takes the hyperparameters of the one saved group that has parameters of it, or keeps its own.
        hyperparameters : {"saved", "current"}, default "saved"
            "saved": take the saved ones; schedules must be the same here as there, and take their states.
            "current": keep those that are here, schedules and their states too, such as a learning rate that was chosen
            anew.
        convert : bool, default False
            Take state that was stored in other formats than those here, or is of a parameter that had another dtype,
            each element rounded once, to nearest.  The parameters stay as they are: bits that the `master` of another
            dtype has kept are left out.

        Returns
        -------
        Loaded
            The parts that were missing, unexpected or of another shape; all are empty with ``strict=True``.

        Raises
        ------
        TypeError, ValueError
            When it is of another rule or, if `strict`, of other parameters, when it is damaged, and for a schedule that
            is another one here, or that cannot be compared with the one that was saved, as a lambda of another process.
            Nothing has been changed then.
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
