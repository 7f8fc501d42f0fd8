"""The parts that all optimizers share: parameters, groups, state, the step, save and load."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from reprlib import repr as brief
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias, TypedDict

import numpy as np

from . import _core
from .arena import lay_out_state
from .decays import restored_decays, saved_decays
from .declarations import (
    Declaring,
    Number,
    Rate,
    argument,
    check_number,
    choice,
    flag,
    is_schedule,
    nearest,
    number,
    rate,
    scaled,
)
from .loss_scale import LossScale
from .nest import Array, Name, Watched, can_be_copied, describe, holds, members, together, watched
from .parameters import (
    Fixed,
    Given,
    Group,
    Params,
    at,
    check_names,
    group_hyper,
    places_of,
    rates_of,
    restored,
    saved,
    scheduled,
    set_hyper,
    split_groups,
    warn_of_passed,
)
from .scalars import each_unwrapped, is_integer, is_number, unwrapped
from .threads import check_threads

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

Grads: TypeAlias = Array | Sequence[Any] | Mapping[Name, Any] | Iterable[Any] | None

FORMAT = 1  # of state_dict()
NONFINITE = ("propagate", "raise", "skip")
CLIP_NORM_PER = ("all", "group", "parameter")
PER_STEP = ("grad_scale", "clip_norm", "clip_value")  # numbers that a step can be given


class OneStep(TypedDict, total=False):
    """The options that one step can be given."""

    grad_scale: float | LossScale | None
    clip_norm: float | None
    clip_value: float | None
    zero_grads: bool | None
    accumulated: Literal["mean", "sum"]


_NO_OPTIONS = {
    "weight_decay": 0.0,
    "decoupled_decay": 0.0,
    "independent_decay": 0.0,
    "maximize": False,
    "ema_decay": 0.0,
    "swa_start": 0,
    "swa_every": 0,
    "lookahead_every": 0,
    "lookahead_rate": 0.0,
}
# The averages of a parameter, and the option that asks for each.
AVERAGES = {"ema": "ema_decay", "swa": "swa", "slow": "lookahead"}


def check_averages(label: str, ema_decay: Any, swa: Any, lookahead: Any) -> None:
    """Raise TypeError or ValueError unless these options are valid."""
    if ema_decay is not None:
        decay_at(label, ema_decay, 0)
    for name, pair, words in (("swa", swa, "(start, every)"), ("lookahead", lookahead, "(every, rate)")):
        if pair is not None and (not isinstance(pair, (tuple, list)) or len(pair) != 2):
            raise TypeError(f"{label}: {name} must be a pair {words} or None, got {brief(pair)}")
    if swa is not None:
        check_count(f"{label}: swa[0]", swa[0])
        check_count(f"{label}: swa[1]", swa[1])
    if lookahead is not None:
        check_count(f"{label}: lookahead[0]", lookahead[0])
        check_number(f"{label}: lookahead[1]", "lookahead_rate", lookahead[1])


def decay_at(label: str, ema_decay: Any, step_count: int) -> float:
    """Return the decay of the average in the step after so many, or raise TypeError or ValueError."""
    if is_schedule(ema_decay):
        return check_number(f"{label} after {step_count} steps: ema_decay", "ema_decay", ema_decay(step_count))
    return check_number(f"{label}: ema_decay", "ema_decay", ema_decay)


def check_count(label: str, value: Any) -> None:
    """Raise ValueError unless a value is a number of steps above 0."""
    if not is_integer(value) or not 1 <= value < 1 << 62:
        raise ValueError(f"{label} must be an integer >= 1, got {brief(value)}")


class Loaded(NamedTuple):
    """The parts of a state that did not fit when it was loaded with ``strict=False``."""

    #: Parameters without state in it.
    missing: tuple[Name, ...]
    #: Parameters in it that the optimizer does not have.
    unexpected: tuple[Name, ...]
    #: Parameters whose state in it is of another shape or dtype, or of other buffers.
    mismatched: tuple[Name, ...]
    #: Indices of groups that kept their hyperparameters, since no saved group, or several, have parameters of theirs.
    groups: tuple[int, ...]


class Stepping:
    """The calls that make steps: of the parameters of an optimizer, or of several that step as one."""

    _table: _core.Table
    _options: dict[str, Any]  # of the step, as they were given
    _arrays: list[Array]
    _names: list[Name]
    _members: list[list[Name]]  # the names of each group's parameters
    _structure: list[Any]
    _grouped: bool
    _arenas: list[Array]
    _accumulator: _core.Table | None

    def _configure(self, options: dict[str, Any]) -> None:
        """Have the table make its steps with these options, which are known to be valid."""
        self._options = options
        self._accumulator = None
        self._table.num_threads = options["num_threads"] or 0
        self._table.check_finite = options["nonfinite"] != "propagate"
        self._table.skip_nonfinite = options["nonfinite"] == "skip"
        self._scale = options["grad_scale"] if isinstance(options["grad_scale"], LossScale) else None
        if self._scale is not None:
            self._scale._held_by(self)
        self._plain = self._scale is None  # a step without options of its own is one call
        self._table.grad_scale = 0.0 if self._scale else options["grad_scale"] or 0.0
        clip_norm = options["clip_norm"]
        if is_schedule(clip_norm):
            self._table.clip_schedule = partial(scheduled, type(self).__name__, "clip_norm", clip_norm)
        else:
            self._table.clip_norm = clip_norm or 0.0
        self._table.clip_norm_per = options["clip_norm_per"]
        self._table.max_skips = options["max_skips"] or 0
        self._table.clip_value = options["clip_value"] or 0.0
        self._table.zero_grads = options["zero_grads"]

    def step(self, grads: Grads = None, **changes: Unpack[OneStep]) -> None:
        """Update every parameter that has a gradient, in place.

        Parameters
        ----------
        grads : array, sequence or mapping
            Gradients in the structure of the parameters (for groups: a sequence with one entry per group), each with
            its parameter's shape, any strides, never written unless zeroing is asked for; or a `RowGrad`.  They may be
            float16, float32 or float64, which is converted, rounded once; for a parameter without axes, numbers.  A
            gradient of None leaves its parameter, its state and its count of steps alone; `ema` and `swa` take the
            parameter in as it is, once it has made a step.  Without argument: what `accumulate` has gathered, else the
            arrays given to `bind`.
        **changes
            grad_scale, clip_norm, clip_value, zero_grads in place of the optimizer's own, for this step; see
            `Optimizer`.  None is as left out; a clip of infinity does not clip.  accumulated="mean" (the default) or
            "sum" is what to make of the gradients that `accumulate` has gathered.

        Raises
        ------
        TypeError, ValueError
            For gradients that do not fit.  Nothing has been changed then.
        FloatingPointError
            With ``nonfinite="raise"``, for NaN or infinity in a gradient, and with `max_skips`, when so many steps in
            a row have been skipped for it.  Nothing has been changed then.
        """
        if self._plain and not changes:
            self._table.step(grads)
        elif self._accumulator is not None and self._accumulator.step_count:
            self._step_accumulated(grads, changes)
        else:
            self._step_with(self._table.step, (grads,), changes)

    def step_one(self, name: Name, grad: Array | _core.RowGrad, **changes: Unpack[OneStep]) -> None:
        """Update one parameter, as soon as its gradient is ready and still in the cache.

        For loops that make and release gradients layer by layer.  Parameters stepped in this way, each once, end with
        the bits that one `step` would have given them.  `step_count` is then the largest count of any parameter.

        Parameters
        ----------
        name : str or int
            The parameter's name: its key, or its index.
        grad : array or RowGrad
            Its gradient, as `step` takes it.
        **changes
            grad_scale, clip_norm, clip_value, zero_grads in place of the optimizer's own, for this step; see
            `Optimizer`.

        Raises
        ------
        TypeError, ValueError
            As `step`; also with `clip_norm`, which needs all gradients at once (but not with
            ``clip_norm_per="parameter"``), for a rule that does, and with a `LossScale`, which adapts to whole steps:
            give its value as the `grad_scale`.

        Notes
        -----
        A parameter that has missed steps counts as one that comes later in a round: schedules give it the value of the
        others' last step, so begin a round with one that has missed none.  What `ema` and `swa` have missed of a
        parameter that was left out, they take in when it is stepped again, or at once with a gradient of None: in
        closed form, to rounding, with the ``ema_decay`` of that step.  NaN with ``nonfinite="skip"`` leaves out this
        parameter alone, and `max_skips` counts the skips of each parameter.
        """
        label = f"{type(self).__name__}.step_one"
        if "accumulated" in changes:
            raise TypeError(f"{label}: accumulated is an option of step(), got {brief(changes['accumulated'])}")
        scale = changes.get("grad_scale")
        if isinstance(self._options["grad_scale"] if scale is None else scale, LossScale):
            raise ValueError(f"{label}: grad_scale must be a number, since a LossScale adapts to whole steps, got one")
        self._step_with(self._table.step_one, (name, grad), changes)

    def accumulate(self, grads: Grads) -> None:
        """Add the gradients of a micro-batch; the next ``step()`` uses the mean of what has come, or the sum.

        Parameters
        ----------
        grads : array, sequence or mapping
            As `step` takes them.  A parameter whose gradient is None in every micro-batch is left alone by the step.

        Raises
        ------
        TypeError, ValueError
            For gradients that do not fit.  Nothing has been added then.

        Notes
        -----
        One micro-batch is the step with its gradients.  Where only `RowGrad` come for a parameter they are kept as
        rows, those of one row summed in the order in which they come: the step meets their union, and no other row of
        parameter and state.  Once a whole gradient comes too, or where the step of the rule takes no rows, the step is
        one with a whole gradient.  The mean is over all micro-batches, also those that have no gradient for a parameter
        or a row.

        Whole gradients are added to a buffer of the parameter's size and dtype, which takes memory from the first one
        on and is set to zero by the step, in its pass; rows take the memory of at most twice their union and of the
        last micro-batch, until the step.  What has been gathered and not used is neither saved nor copied with the
        optimizer; after an error of the step it is still there, until `discard` is called.  The gradients given stay as
        they are, also with zero_grads.
        """
        with self._table:  # threads that come first at once gather in one buffer
            if self._accumulator is None:
                self._accumulator = self._new_accumulator()
        self._plain = False
        self._accumulator.accumulate(grads)

    def discard(self) -> None:
        """Forget the gradients that `accumulate` has gathered."""
        if self._accumulator is not None:
            self._accumulator.discard()

    def _new_accumulator(self) -> _core.Table:
        table = _core.Table(
            f"{type(self).__name__}.accumulate", [], [], [], [], [], [], (), None, [], self._grouped, [], []
        )
        self._gather(table, self._names, self._arrays, self._structure, self._grouped)
        table.gather_for(self._table)
        return table

    def _gather(
        self, accumulator: _core.Table, names: list[Name], arrays: list[Array], structure: list[Any], grouped: bool
    ) -> None:
        """Have an accumulator gather the gradients of these parameters too."""
        orders = [_core.order_of(array) for array in arrays]
        _, buffers = lay_out_state(arrays, [[array.shape] for array in arrays], orders)
        # sum = sum + g is a step of SGD along the gradient.
        adding = _core.Settings("sgd")
        adding.set({"lr": 1.0}, {**_NO_OPTIONS, "maximize": True})
        none = np.zeros(0)
        with accumulator:
            accumulator.append(
                names,
                [buffer for (buffer,) in buffers],
                [adding] * len(arrays),
                [[] for _ in arrays],
                [none] * len(arrays),
                [None] * len(arrays),
                structure,
                grouped,
                self._arenas,
                [],
            )

    def _step_accumulated(self, grads: Grads, changes: OneStep) -> None:
        label = f"{type(self).__name__}.step"
        if grads is not None:
            raise ValueError(f"{label}: gradients must be None, since some have been accumulated, got others")
        mean = changes.get("accumulated", "mean") == "mean"
        self._step_with(
            self._table.step, (None,), {**changes, "zero_grads": True}, gathered=self._accumulator, mean=mean
        )

    def _step_with(
        self,
        step: Callable[..., bool],
        arguments: tuple[Any, ...],
        changes: OneStep,
        **more: Any,
    ) -> None:
        """Step with options of its own or a scale that adapts itself."""
        given = self._checked_call(f"{type(self).__name__}.step", changes, self._options["nonfinite"])
        scale: Any = given.get("grad_scale", self._options["grad_scale"])
        if scale is not None:
            given["grad_scale"] = scale.value if isinstance(scale, LossScale) else scale
        made = step(*arguments, given, **more)
        if isinstance(scale, LossScale):
            scale._record(self, made)

    def _checked_options(self, label: str, options: dict[str, Any]) -> dict[str, Any]:
        """Return options with those of all steps as Python's own values, or raise."""
        nonfinite, num_threads = options["nonfinite"], options["num_threads"]
        if nonfinite not in NONFINITE:
            raise ValueError(f"{label}: nonfinite must be one of {', '.join(NONFINITE)}, got {brief(nonfinite)}")
        if num_threads is not None:
            check_threads(f"{label}: num_threads", num_threads, " or None")
        per, max_skips, clip_norm = options["clip_norm_per"], options["max_skips"], options["clip_norm"]
        if not isinstance(per, str) or per not in CLIP_NORM_PER:
            raise ValueError(f"{label}: clip_norm_per must be one of {', '.join(CLIP_NORM_PER)}, got {brief(per)}")
        if max_skips is not None:
            check_count(f"{label}: max_skips", max_skips)
            if nonfinite != "skip":
                raise ValueError(f'{label}: max_skips must be None unless nonfinite is "skip", got {max_skips!r}')
        of_one_step = {key: options[key] for key in (*PER_STEP, "zero_grads")}
        if is_schedule(clip_norm):
            of_one_step["clip_norm"] = scheduled(label, "clip_norm", clip_norm, 0)
        checked = options | self._checked_call(label, of_one_step, nonfinite)
        return checked | {"clip_norm": clip_norm} if is_schedule(clip_norm) else checked

    def _checked_call(self, label: str, changes: Mapping[str, Any], nonfinite: str) -> dict[str, Any]:
        """Return those of these options of a step that are given, as Python's own values, or raise."""
        unknown = set(changes) - set(OneStep.__annotations__)
        if unknown:
            known, first = list(OneStep.__annotations__), min(unknown)
            raise TypeError(
                f"{label}: options of one step are {', '.join(known)}, got {first!r}{nearest(first, known)}"
            )
        given: dict[str, Any] = {}
        for key in PER_STEP:
            value = changes.get(key)
            if isinstance(value, LossScale):
                if key != "grad_scale" or nonfinite != "skip":
                    raise ValueError(f'{label}: a LossScale must be the grad_scale with nonfinite="skip", got {key}')
                given[key] = value
            elif value is not None:
                given[key] = check_number(f"{label}: {key}", key, value)
        accumulated = changes.get("accumulated", "mean")
        if not isinstance(accumulated, str) or accumulated not in ("mean", "sum"):
            raise ValueError(f"{label}: accumulated must be mean or sum, got {brief(accumulated)}")
        zero_grads = unwrapped(changes.get("zero_grads"))
        if zero_grads is not None:
            if not isinstance(zero_grads, (bool, np.bool_)):
                raise TypeError(f"{label}: zero_grads must be True or False, got {brief(zero_grads)}")
            given["zero_grads"] = bool(zero_grads)
        return given

    def bind(self, grads: Grads) -> None:
        """Take these arrays as the gradients of every later `step()` without argument.

        For loops whose gradient buffers never move: the structure is read once, and a step only checks that no buffer
        has been replaced where it came from, or been changed in place to another shape or memory.
        """
        self._table.bind(grads)

    @property
    def grad_norm(self) -> float | None:
        """The norm of all gradients of the last step, before clipping (but divided by the scale), with `clip_norm`.

        That of its own gradient after `step_one`, and None after a step that did not clip.
        """
        return self._table.grad_norm

    @property
    def grad_norms(self) -> dict[Name, float] | tuple[float, ...] | None:
        """The norms by which the last step clipped, like `grad_norm`, with `clip_norm_per`.

        One for each group with ``clip_norm_per="group"``, by name with "parameter" (0 for a gradient of None; after
        `step_one` the others are those of their own last step), and None with "all" and after a step that did not clip.
        """
        per = self._table.clip_norm_per
        if per == "all" or self._table.grad_norm is None:
            return None
        norms = dict(zip(self._names, self._table.grad_norms(), strict=True))
        return norms if per == "parameter" else tuple(norms[names[0]] for names in self._members)

    @property
    def step_count(self) -> int:
        """How many steps have been made."""
        return self._table.step_count

    @property
    def skipped_steps(self) -> int:
        """How many steps ``nonfinite="skip"`` has left out."""
        return self._table.skipped_steps

    @property
    def num_threads(self) -> int | None:
        """Threads of a step, or None where the optimizer chooses."""
        return self._table.num_threads or None


def groups_of(members: list[list[Name]]) -> list[int]:
    """Return the number of the group of each parameter."""
    return [i for i, names in enumerate(members) for _ in names]


def is_handed_on(parameter: inspect.Parameter, own: Mapping[str, Any]) -> bool:
    """Return whether an argument of a base class is an option that is handed on to it."""
    by_name = parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    return by_name and parameter.name not in own and parameter.name != "params"


class Optimizer(Stepping, Declaring):
    """Parameters, their state, and one fused pass over both per step.

    The classes of the rules (`fastopt.Adam` and the others) are what users make; this one holds what they share.

    Parameters
    ----------
    params : array, sequence of arrays, mapping of name to array, nest of these, or sequence of groups
        The arrays that `step` updates in place: float32 or float64, writable, any shape, any strides.  A sequence may
        be consumed (a generator, ``dict.values()``).  In a nest, the name of ``params["block"][0]`` is "block.0".  A
        group is a mapping with "params" and any hyperparameter in which it differs; its learning rate is lr times its
        "lr_scale", 1 by default; keys of your own, such as "name", hold plain values and must be unlike options.  An
        array that takes the place of one in a mapping or a list is noticed by the next step; see `rebind`.
    weight_decay : float, default 0
        Decay, >= 0; what it does is told by `weight_decay_form`.
    weight_decay_form : {"l2", "decoupled", "independent", "own"}, optional
        "l2": the rule sees g + weight_decay * p.  "decoupled": p = p * (1 - lr * weight_decay) before the rule.
        "independent": p = p * (1 - weight_decay) before the rule, whatever the learning rate.  By default what the
        rule's authors meant: "l2" for most, "decoupled" for `AdamW`, "own" where decay is a part of the rule (`LAMB`).
    maximize : bool, default False
        Step along the gradient instead of against it.
    nonfinite : {"propagate", "raise", "skip"}, default "propagate"
        What a step does with NaN or infinity in a gradient: nothing special, raise FloatingPointError, or return and
        count in `skipped_steps`.  With the last two, gradients are read once before anything is written, and such a
        step leaves parameters, state and step counts as they were.
    max_skips : int, optional
        With ``nonfinite="skip"``, how many steps in a row are skipped at the most, at least 1: the next one whose
        gradients are not finite raises FloatingPointError, as with "raise", until one is made.
    num_threads : int, optional
        Threads of a step, at least 1.  By default the optimizer chooses from what its steps are measured to take, up to
        `fastopt.get_num_threads()`.
    grad_scale : float or LossScale, optional
        What the loss was multiplied by, > 0: gradients are divided by it before all else.  A `LossScale` is a number
        that adapts itself, and needs ``nonfinite="skip"``; where optimizers share it, call its ``update()`` once per
        iteration.
    clip_norm : float or schedule, optional
        Scale all gradients by min(1, clip_norm / (norm + 1e-6)), where norm is that of all of them together, as torch's
        ``clip_grad_norm_`` does; > 0, infinity measures alone.  A schedule is asked as one of a hyperparameter is.
        `grad_norm` then tells the norm before clipping.  The gradients are read once more for it.  A NaN makes the norm
        NaN, and with it every gradient that is clipped by it; `nonfinite` keeps it out.  No square overflows or
        underflows: the norm is exact to rounding wherever float64 has it.
    clip_norm_per : {"all", "group", "parameter"}, default "all"
        Whose norm it is: that of all gradients, of those of each group, or of each parameter's, with `clip_norm` for
        each; see `grad_norms`.
    clip_value : float, optional
        Clip each element to +-clip_value, > 0, infinity for none, after `clip_norm`.
    zero_grads : bool, default False
        Set the gradients to zero once they have been used, also by a skipped step; they must be writable and not
        overlap.  The values of a `RowGrad` stay.
    ema_decay : float or schedule, optional
        Keep an exponential moving average of the parameters, updated in the same pass, in [0, 1):
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
        `state` then has ``seen``, the last step that met each row.

    Raises
    ------
    TypeError, ValueError
        For parameters that cannot be updated in place (another type, read-only, overlapping) and hyperparameters out
        of range.  The message names what is required and what came.
    """

    _streams: ClassVar[Mapping[str, tuple[int, ...]]] = {}  # arrays read and written by each pass, of rules of several
    _calls_numpy: ClassVar[bool] = False  # for a part of its steps
    _averages: ClassVar[tuple[str, ...]] = ()  # averages of the parameters that the rule itself keeps

    params: Params = argument(kw_only=False)
    lr: Rate = rate(default=0.0, kw_only=False)
    lr_scale: Number = number(default=1.0, init=False)
    weight_decay: Number = number(default=0.0)
    weight_decay_form: Literal["l2", "decoupled", "independent", "own"] | None = choice(default=None, of=())
    maximize: bool = flag(default=False)
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

    def __init_subclass__(cls) -> None:
        """Show in the signature what the class declares, or what a user's own constructor takes and hands on."""
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

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Raise TypeError for hyperparameters that are given by position."""
        takes = cls.__signature__.parameters.values()
        positional = [p.name for p in takes if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if len(args) > len(positional) and not any(p.kind is p.VAR_POSITIONAL for p in takes):
            by_name = ", ".join(p.name for p in takes if p.name not in positional)
            raise TypeError(
                f"{cls.__name__}: what comes after {', '.join(positional)} must be given by name, one of {by_name}, got"
                f" {brief(args[len(positional)])} by position"
            )
        return super().__new__(cls)

    def __init__(self, *by_position: Any, **by_name: Any) -> None:
        label, declaration = type(self).__name__, self._declaration
        given = declaration.given(label, by_position, by_name, type(self).__signature__.parameters)
        num_threads, ema_decay = map(unwrapped, (given["num_threads"], given["ema_decay"]))
        swa, lookahead = map(each_unwrapped, (given["swa"], given["lookahead"]))
        hyper = {key: given.get(key, declared.default) for key, declared in declaration.hyper.items()}
        if hyper["weight_decay_form"] is None:
            hyper["weight_decay_form"] = declaration.decay_form
        options = {key: value for key, value in given.items() if key not in declaration.hyper and key != "params"} | {
            "num_threads": num_threads,
            "ema_decay": ema_decay,
            "swa": swa,
            "lookahead": lookahead,
        }
        options = self._checked_options(label, options)
        check_averages(label, ema_decay, swa, lookahead)
        if not isinstance(catch_up := unwrapped(given["catch_up"]), (bool, np.bool_)):
            raise TypeError(f"{label}: catch_up must be True or False, got {brief(catch_up)}")
        if catch_up and any(option is not None for option in (ema_decay, swa, lookahead)):
            raise ValueError(
                f"{label}: catch_up must be False with averages of the parameters, which would miss how a row moves on"
                f" between its steps, got True"
            )
        if lookahead is not None and self._averages:
            raise ValueError(
                f"{label}: lookahead must be None for a rule that keeps an average of its own, which would not follow,"
                f" got {brief(lookahead)}"
            )
        grouped, groups_given = split_groups(label, given["params"], hyper)
        self._lay_out(grouped, groups_given, [None] * len(groups_given), options, hyper)

    def _lay_out(
        self,
        grouped: bool,
        given: list[Given],
        rules: list[str | None],
        options: dict[str, Any],
        defaults: dict[str, Any],
        step_count: int = 0,
        containers: list[Watched] | None = None,
    ) -> None:
        """Make groups, state and table.

        `rules` names those that the hyperparameters no longer tell, and `containers` are those in which the user has
        the arrays, where they are not those in which the arrays are given.
        """
        start, every = options["swa"] or (0, 0)
        steps, rate = options["lookahead"] or (0, 0)
        decay = options["ema_decay"]
        scheduled = decay if is_schedule(decay) else None
        in_c = {**_NO_OPTIONS, "ema_decay": 0.0 if scheduled else decay or 0.0, "swa_start": start, "swa_every": every}
        self._in_c = in_c | {"lookahead_every": steps, "lookahead_rate": rate}
        self._options = options
        self._defaults = defaults  # of groups that are added
        self._accumulator = None
        self._structure: list[Any] = []
        self._names: list[Name] = []
        self._members: list[list[Name]] = []
        self._arrays: list[Array] = []
        self._arenas: list[Array] = []
        #: The groups' parameters and hyperparameters, which can be set here.
        self.groups: tuple[Group, ...] = ()
        #: Each parameter's state arrays, by its name and by the letter of the paper.
        self.state: dict[Name, dict[str, Array]] = Fixed()
        label = type(self).__name__
        averages = self._averages_kept()
        follow = (lambda step_count: decay_at(label, scheduled, step_count)) if scheduled else None
        self._table = _core.Table(f"{label}.step", [], [], [], [], [], [], averages, follow, [], grouped, [], [])
        wheres = [f"{label}: params" + (f'[{i}]["params"]' if grouped else "") for i in range(len(given))]
        self._append(label, grouped, wheres, given, rules, step_count, containers)
        if not self._arrays:
            raise ValueError(f"{label}: params must hold at least one array, got none")
        self._configure(options)

    def _averages_kept(self) -> tuple[str, ...]:
        """Return the averages that state has room for, whatever the rule."""
        return tuple(name for name, option in AVERAGES.items() if self._options[option] is not None)

    def _append(
        self,
        label: str,
        grouped: bool,
        wheres: list[str],
        given: list[Given],
        rules: list[str | None],
        step_count: int,
        containers: list[Watched] | None = None,
    ) -> None:
        """Check further groups, then lay out their state and have the table step them too; an error changes nothing."""
        averages = self._averages_kept()
        all_structures: list[Any] = []
        all_names: list[Name] = []
        all_members: list[list[Name]] = []
        groups: list[Group] = []
        arrays: list[Array] = []
        initial: list[dict[str, float]] = []
        for i, (where, (group_params, hyper, _), rule) in enumerate(zip(wheres, given, rules, strict=True)):
            structure, names, group_arrays = members(where, group_params, len(self._arrays) + len(arrays))
            group_label = _label_of_group(type(self), len(self.groups) + i, grouped)
            group = Group(self._declaration, group_label, group_arrays, hyper, self._in_c, rule, step_count)
            all_structures.append(structure)
            all_names += names
            all_members.append(names)
            groups.append(group)
            arrays += group_arrays
            initial += [self._initial_state(scaled(group_label, at(group, step_count)))] * len(names)

        names = self._names + all_names
        check_names(label, names)
        self._check_arrays(
            label, names, [array for group in self.groups for array in group["params"]] + arrays, len(self._names)
        )
        for group in groups:
            if self._options["catch_up"]:
                group.check_catch_up(group)
        if containers is None:
            containers = watched(places_of(given, all_structures, all_members))

        plain_arrays = [np.asarray(array) for array in arrays]  # whatever a subclass says of itself
        of_arrays = iter(plain_arrays)
        settings = [group.settings_of(next(of_arrays)) for group in groups for _ in group["params"]]
        orders = [s.order(array) for s, array in zip(settings, arrays, strict=True)]
        shapes = [
            s.shapes(array) + [array.shape] * len(averages) for s, array in zip(settings, plain_arrays, strict=True)
        ]
        arena, state = lay_out_state(plain_arrays, shapes, orders)
        none = np.zeros(0)
        carry = [np.zeros(len(s.carry_names)) if s.carry_names else none for s in settings]
        by_name: dict[Name, dict[str, Array]] = {}
        rows = zip(all_names, plain_arrays, settings, state, carry, initial, strict=True)
        for name, array, s, buffers, numbers, values in rows:
            letters = dict(zip((*s.state_names, *averages), buffers, strict=True))
            letters |= {key: numbers[i, ...] for i, key in enumerate(s.carry_names)}
            if self._options["catch_up"]:
                letters["seen"] = np.zeros(len(array), np.int64)
            for letter, value in values.items():
                letters[letter][...] = value
            by_name[name] = Fixed(letters)
        seen = [by_name[name].get("seen") for name in all_names]
        self._table.append(
            all_names, arrays, settings, state, carry, seen, all_structures, grouped, [arena], containers
        )
        if self._accumulator is not None:
            self._gather(self._accumulator, all_names, plain_arrays, all_structures, grouped)
        self._grouped = grouped
        dict.update(self.state, by_name)
        self._structure = self._structure + all_structures
        self._members = self._members + all_members
        self._table.group_of = groups_of(self._members)
        self._names = self._names + all_names
        self._arrays += plain_arrays
        self._arenas = [*self._arenas, arena]
        self.groups = (*self.groups, *groups)
        for group in groups:
            group.attach(self._table)

    def _is_state(self, value: Array) -> bool:
        """Return whether an array may be of the state of this optimizer."""
        return any(np.may_share_memory(value, arena) for arena in self._arenas)

    def _check_arrays(self, label: str, names: list[Name], arrays: list[Array], kept: int = 0) -> None:
        """Raise TypeError or ValueError unless these can be the parameters; the first, so many, already are."""
        labels = [f"{label}: {describe(name)}" for name in names]
        for text, array in list(zip(labels, arrays, strict=True))[kept:]:
            _core.check_parameter(text, array)
            self._check_array(text, array)
        _core.check_disjoint(labels, arrays)

    # Methods that a subclass defines.

    @classmethod
    def _check_array(cls, label: str, array: Array) -> None:
        """Raise ValueError unless this array is one that the rule is for."""

    @classmethod
    def _initial_state(cls, hyper: Mapping[str, Any]) -> dict[str, float]:
        """Return what state buffers start from, where that is not 0."""
        return {}

    @classmethod
    def _average_of(cls, p: Array, state: Mapping[str, Array], hyper: Mapping[str, Any]) -> Array:
        """Return the average, one of `_averages`, of a parameter that has made a step."""
        raise NotImplementedError

    def rebind(self, params: Params) -> None:
        """Take other arrays in place of the parameters; state, counts, averages and bound gradients stay.

        For code that cannot assign in place, ``params["w"][...] = values``.

        Parameters
        ----------
        params : array, sequence, mapping, or sequence of groups
            Arrays in the structure and with the names, shapes and dtypes of the parameters they replace, in any memory
            that is neither that of the state nor of a bound gradient.  Of groups, only "params" is read.

        Raises
        ------
        TypeError, ValueError
            For arrays that do not fit, and within `swapped`.  Nothing has been changed then.
        """
        label = f"{type(self).__name__}.rebind"
        hyper = {key: None for group in self.groups for key in group if key != "params"}
        grouped, given = split_groups(label, params, hyper)
        if (grouped, len(given)) != (self._grouped, len(self.groups)):
            has = f"{len(self.groups)} groups" if self._grouped else "no groups"
            raise ValueError(f"{label}: params must have {has}, got {len(given) if grouped else 'none'}")
        arrays: list[Array] = []
        for i, (group_params, _, _) in enumerate(given):
            where = f"{label}: params" + (f'[{i}]["params"]' if grouped else "")
            structure, names, group_arrays = members(where, group_params, len(arrays))
            if names != self._members[i] or structure != self._structure[i]:
                raise ValueError(f"{where} must be nested and named like {self._members[i]!r:.200}, got {names!r:.200}")
            arrays += group_arrays
        for name, array, new in zip(self._names, self._arrays, map(np.asarray, arrays), strict=True):
            if (new.shape, new.dtype) != (array.shape, array.dtype):
                raise ValueError(
                    f"{label}: {describe(name)} must have shape {array.shape} and dtype {array.dtype}, got"
                    f" {new.shape} and {new.dtype}"
                )
        self._check_arrays(label, self._names, arrays)
        of_groups = iter(arrays)
        changes = [(group, tuple(next(of_groups) for _ in group["params"])) for group in self.groups]
        if self._options["catch_up"]:
            for group, of_group in changes:
                group.check_rows(of_group)
        containers = watched(places_of(given, self._structure, self._members))
        self._table.rebind(label, arrays, changes, self._arrays, containers)

    def catch_up(self) -> None:
        """Have all rows make up for the steps that they have missed, with the option `catch_up`; see `Optimizer`."""
        if not self._options["catch_up"]:
            raise ValueError(f"{type(self).__name__}: catch_up() is there with the option catch_up=True, got False")
        self._table.catch_up()

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
            For what a group cannot be made of, and for parameters that have a name or memory of one that is there.
            Nothing has been changed then.

        Notes
        -----
        Its parameters begin with their own step 1, while schedules go by `step_count`, as those of all groups:
        ``fastopt.schedules.shift(schedule, opt.step_count)`` is one that begins now.  Parameters without names are
        numbered on.  From now on gradients come as a sequence with one entry per group, or in one mapping where all
        groups are mappings; arrays given to `bind` before are let go.  Micro-batches that were accumulated are kept.
        """
        label = f"{type(self).__name__}.add_param_group"
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f'{label}: group must be a mapping with "params", got {brief(group)}')
        given: list[Given] = [(group["params"], group_hyper(f"{label}: group", group, self._defaults), group)]
        self._table.check_turn()
        warn_of_passed([(type(self).__name__, given[0][1])], self._table.step_count, level=3)
        with self._table:
            self._table.check_own(label)
            self._append(label, True, [f'{label}: group["params"]'], given, [None], self._table.step_count)
            self.groups[0].rename(_label_of_group(type(self), 0, True))
            self.groups[0].attach(self._table)

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
        Parameters and hyperparameters stay as they are, as does what `accumulate` has gathered.
        """
        label = f"{type(self).__name__}.reset"
        chosen = set(self._names if names is None else [names] if isinstance(names, (str, int)) else names)
        if unknown := chosen - set(self._names):
            raise ValueError(f"{label}: names must be those of parameters, got {brief(next(iter(unknown)))}")
        self._table.check_turn()
        with self._table:
            self._table.check_own(label)
            step_count = 0 if names is None else self._table.step_count
            values: list[tuple[Array, Any]] = []
            for group, of_group in zip(self.groups, self._members, strict=True):
                left = [name for name in of_group if name not in chosen]
                if group.settings.together and 0 < len(left) < len(of_group):
                    raise ValueError(
                        f"{label}: names must have all parameters of a group, of all of which this rule makes one"
                        f" estimate, but {describe(left[0])} is missing"
                    )
                initial = self._initial_state(scaled(label, at(group, step_count)))
                for name in of_group:
                    if name in chosen:
                        values += [(buffer, initial.get(letter, 0)) for letter, buffer in self.state[name].items()]
            if self._table.catches_up:
                self._table.catch_up_in_turn()  # what rows have missed is of steps that were made
            steps = [0 if name in chosen else t for name, t in zip(self._names, self._table.steps(), strict=True)]
            averaged = [
                (self._table.begun(i), self._table.averaged_up_to(i)) if made else (0, 0)
                for i, made in enumerate(steps)
            ]
            self._table.load(steps, averaged, step_count, [], values, self._table.decays())

    @property
    def ema(self) -> dict[Name, Array]:
        """The exponential moving average of each parameter, by name, with `ema_decay`.

        A parameter that was never stepped has itself as its average, and so has a row that no `RowGrad` has named.
        Arrays are those of the state where these are up to date, else copies.
        """
        return self._average("ema")

    @property
    def swa(self) -> dict[Name, Array]:
        """The mean of each parameter over the steps that `swa` asks for, by name, as `ema`; an error before the first.

        A parameter counts from its own first step on with what it was, whether these were steps of it or not.
        """
        return self._average("swa")

    def _average(self, name: str) -> dict[Name, Array]:
        label = type(self).__name__
        if name not in self._averages:
            if self._options[AVERAGES[name]] is None:
                raise ValueError(f"{label}: {name} is there with the option {AVERAGES[name]}, got None")
            with self._table:
                start, _ = self._options["swa"] or (0, 0)
                if name == "swa" and self.step_count < start:
                    raise ValueError(f"{label}: swa must have begun, after step {start}, got {self.step_count} steps")
                decay = decay_at(label, self._options["ema_decay"] or 0.0, max(self.step_count - 1, 0))
                states = enumerate(self.state.items())
                return {key: self._table.average(i, name, arrays[name], decay) for i, (key, arrays) in states}
        found: dict[Name, Array] = {}
        steps = iter(self._table.steps())
        for group, names in zip(self.groups, self._members, strict=True):
            hyper = at(group, max(self.step_count - 1, 0))
            for parameter, p in zip(names, group["params"], strict=True):
                found[parameter] = self._average_of(p, self.state[parameter], hyper) if next(steps) else p.copy()
        return found

    @property
    def averages(self) -> tuple[str, ...]:
        """The averages of the parameters that are kept, as `swapped` takes them."""
        return (*(name for name in ("ema", "swa") if self._options[AVERAGES[name]] is not None), *self._averages)

    @contextmanager
    def swapped(self, average: str) -> Iterator[None]:
        """Put an average of the parameters in their place, and the parameters back at the end, to the bit.

        ::

            with opt.swapped("ema"):
                accuracy = evaluate(params)

        Parameters
        ----------
        average : str
            "ema" with `ema_decay`, "swa" with `swa` once its first step has been made, or what the rule itself keeps:
            "x" of the schedule-free rules, "ax" of `ASGD`.

        Raises
        ------
        ValueError
            For an average that is not there, and within another `swapped`.  Nothing has been changed then.

        Notes
        -----
        What is written to the parameters within is lost.  Steps and copies of the optimizer are refused within;
        `state_dict` and `fastopt.save`, which hold no parameters, are what they are outside.  The parameters are kept
        in a copy meanwhile.
        """
        label = f"{type(self).__name__}.swapped"
        if not isinstance(average, str) or average not in self.averages:
            there = ", ".join(self.averages) or "there, but this optimizer keeps none"
            raise ValueError(f"{label}: average must be {there}, got {brief(average)}")
        names = self._names
        with self._table:
            self._table.check_own(label)
            self._table.check_containers(label)
            arrays = [array for group in self.groups for array in group["params"]]
            averages = self._average(average)
            before = [array.copy() for array in arrays]
            for name, array in zip(names, arrays, strict=True):
                if not array.flags.writeable:
                    raise ValueError(f"{label}: {describe(name)} must be writable, got a read-only array")
            self._table.swapped = average  # still in this turn: no step comes between the copy and this
        try:
            for name, array in zip(names, arrays, strict=True):
                array[...] = averages[name]
            yield
        finally:
            for array, values in zip(arrays, before, strict=True):
                array[...] = values
            self._table.swapped = None

    def _rates(self) -> float | tuple[float, ...]:
        label, step_count = type(self).__name__, self.step_count
        rates = tuple(
            scheduled(label, "lr", lr, step_count) if is_schedule(lr := group["lr"]) else lr for group in self.groups
        )
        return rates if any(lr != rates[0] for lr in rates) else rates[0]

    def _set_rates(self, value: Number | Sequence[Number]) -> None:
        set_hyper(self._table, rates_of(type(self).__name__, self.groups, value), level=5)

    # Save and load.

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the parameters, as plain data: copies of the state arrays, numbers and strings."""
        with self._table:
            groups = [
                {**saved(group), "params": list(names)} for group, names in zip(self.groups, self._members, strict=True)
            ]
            state = {
                name: counts
                | {key: float(value) if key in carry else value.copy() for key, value in self.state[name].items()}
                | ({"decays": decays} if decays else {})
                for name, counts, carry, decays in zip(
                    self._names, self._counts(), self._carry_names(), self._changed_decays(), strict=True
                )
            }
            step_count = self.step_count
        rule = type(self).__name__
        return {"format": FORMAT, "rule": rule, "step_count": step_count, "groups": groups, "state": state}

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        *,
        strict: bool = True,
        hyperparameters: Literal["saved", "current"] = "saved",
    ) -> Loaded:
        """Restore what `state_dict` gave, to the bit: state, hyperparameters and counts.

        Parameters
        ----------
        state_dict : mapping
            What `state_dict` gave, of an optimizer of the same class.
        strict : bool, default True
            Raise unless all of it fits.  Otherwise parameters whose state is missing, or is of another shape or dtype,
            or of other buffers, keep the state and count that they have, and states of other parameters are left out.
            A group takes the hyperparameters of the one saved group that has parameters of it, or keeps its own.
        hyperparameters : {"saved", "current"}, default "saved"
            "saved": take those that were saved; schedules must be the same here as there, and take their states.
            "current": keep those that are here, schedules and their states too, such as a learning rate that was chosen
            anew.

        Returns
        -------
        Loaded
            What was missing, unexpected or of another shape; all of it is empty with ``strict=True``.

        Raises
        ------
        TypeError, ValueError
            When it is of another rule or, if `strict`, of other parameters, when it is damaged, and for a schedule that
            is another one here, or that cannot be compared with the one that was saved, as a lambda of another process.
            Nothing has been changed then.
        """
        return self._prepared_load(state_dict, strict, hyperparameters)()

    def _prepared_load(
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,
        hyperparameters: str = "saved",
        parameters: Mapping[Name, Array] | None = None,
    ) -> Callable[[], Loaded]:
        """Return what restores a state, and parameters if they are given, once all is known to be valid; or raise."""
        label = f"{type(self).__name__}.load_state_dict"
        if not isinstance(strict, (bool, np.bool_)):
            raise TypeError(f"{label}: strict must be True or False, got {brief(strict)}")
        if not isinstance(hyperparameters, str) or hyperparameters not in ("saved", "current"):
            raise ValueError(f"{label}: hyperparameters must be saved or current, got {brief(hyperparameters)}")
        self._table.check_turn()
        given = check_entries(label, "the state", state_dict, ["format", "rule", "step_count", "groups", "state"])
        if not is_integer(version := unwrapped(given["format"])) or version != FORMAT:
            raise ValueError(f"{label}: format must be {FORMAT}, got {brief(given['format'])}")
        if not isinstance(given["rule"], str) or given["rule"] != type(self).__name__:
            raise ValueError(f"{label}: rule must be {type(self).__name__!r}, got {brief(given['rule'])}")
        step_count = _count(f"{label}: step_count", given["step_count"])

        matched = self._matched_groups(label, given["groups"], strict)
        changes: list[tuple[Any, ...]] = []
        restorers: list[Callable[[], None]] = []
        for i, (group, entry) in enumerate(zip(self.groups, matched, strict=True)):
            if entry is None:
                continue
            where = f"{label}: groups[{i}]"
            hyper, own = group.parted(entry)
            if strict:
                check_entries(label, f"groups[{i}]", hyper, [*group.names, "params"])
            del hyper["params"]
            if hyperparameters == "current":
                group.check_compatible(where, hyper)
                continue
            hyper, of_schedules = restored(where, group, hyper)
            restorers += of_schedules
            try:
                changes.append(group.change(group.checked(hyper | own, step_count)))
            except (TypeError, ValueError) as error:
                raise type(error)(f"{label}: {error}") from None

        entries = given["state"]
        if strict or not isinstance(entries, Mapping):
            entries = check_entries(label, "state", entries, self._names)
        if parameters is not None:
            self._table.check_own(label)
            self._table.check_containers(label)
        missing = [name for name in self._names if name not in entries]
        mismatched: list[Name] = []
        values: list[tuple[Array, Any]] = []
        steps: list[int] = []
        decays: list[Any] = []
        averaged: list[tuple[int, int | Array]] = []
        hyper_of = {name: entry for entry in given["groups"] for name in entry["params"]}
        rows = zip(
            self._names,
            ((group, array) for group in self.groups for array in group["params"]),
            self._carry_names(),
            self._corrected_names(),
            self._table.steps(),
            self._table.decays(),
            strict=True,
        )
        for i, (name, (group, array), carry, corrected, step, of_decays) in enumerate(rows):
            where = f"state of {describe(name)}"
            problem = None
            if name in entries:
                problem = self._misfit(label, where, name, entries[name], carry)
                if problem is None and parameters is not None:
                    problem = _misfit_of(describe(name), array, parameters.get(name))
                if problem is None and name not in hyper_of:
                    problem = f"the {where} must be of a parameter of a group, but none of groups has it"
                if problem is not None and strict:
                    raise ValueError(f"{label}: {problem}")
            if name in missing or problem is not None:
                mismatched += [name] if name in entries else []
                steps.append(step)
                decays.append(of_decays)
                averaged.append((self._table.begun(i), self._table.averaged_up_to(i)))
                continue
            entry = dict(entries[name])
            steps.append(_count(f"{label}: step in the {where}", entry["step"]))
            length = len(self._arrays[i]) if self._table.takes_rows(i) else None
            text, up_to = f"{label}: averaged in the {where}", entry.get("averaged", 0)
            begun = _count(f"{label}: begun in the {where}", entry.get("begun", 0))
            averaged.append((begun, _averaged(text, up_to, step_count, length)))
            text, changed = f"{label}: decays in the {where}", entry.get("decays", {})
            corrected = corrected if steps[-1] else ()
            hyper = {**group, **hyper_of[name]}
            decays.append(restored_decays(text, changed, hyper, self._declaration.parts, corrected, steps[-1]))
            values += self._new_values(label, where, name, entry, carry)
            if parameters is not None:
                if not array.flags.writeable:
                    raise ValueError(f"{label}: {describe(name)} must be writable, got a read-only array")
                values.append((array, parameters[name]))

        loaded = Loaded(
            missing=tuple(missing),
            unexpected=tuple(name for name in entries if name not in set(self._names)),
            mismatched=tuple(mismatched),
            groups=tuple(i for i, entry in enumerate(matched) if entry is None),
        )
        if hyperparameters == "current":
            warn_of_passed([(type(self).__name__, group) for group in self.groups], step_count)

        def load() -> Loaded:
            for restore in restorers:
                restore()
            with self._table:
                if parameters is not None:
                    self._table.check_own(label)
                if len(steps) != len(self._names):
                    raise RuntimeError(f"{label}: no parameters must be added while a load begins, but some have been")
                self._table.load(steps, averaged, step_count, changes, values, decays)
            return loaded

        return load

    def _counts(self) -> list[dict[str, Any]]:
        """Return the steps that each parameter has made, and from and up to which step of all its averages are."""
        steps = self._table.steps()
        if not self._is_averaged:
            return [{"step": made} for made in steps]
        return [
            {"step": made, "begun": self._table.begun(i), "averaged": self._table.averaged_up_to(i)}
            for i, made in enumerate(steps)
        ]

    @property
    def _is_averaged(self) -> bool:
        """Whether there are averages that move with every step, also without a gradient."""
        return self._options["ema_decay"] is not None or self._options["swa"] is not None

    def _matched_groups(self, label: str, groups: Any, strict: bool) -> list[Mapping[str, Any] | None]:
        """Return the saved group for each group, None where none can be told; or raise."""
        if not isinstance(groups, (list, tuple)) or (strict and len(groups) != len(self.groups)):
            raise ValueError(f"{label}: groups must be a list of {len(self.groups)}, got {brief(groups)}")
        for i, entry in enumerate(groups):
            if not isinstance(entry, Mapping):
                raise TypeError(f"{label}: groups[{i}] must be a mapping, got {type(entry).__name__}")
            names = entry.get("params")
            if not isinstance(names, (list, tuple)) or not all(isinstance(name, (str, int)) for name in names):
                raise ValueError(f"{label}: params of groups[{i}] must be a list of names, got {brief(names)}")
        if strict:
            for i, (names, entry) in enumerate(zip(self._members, groups, strict=True)):
                if set(entry["params"]) != set(names):
                    what = f"must be {names!r:.200}, got {brief(entry['params'])}"
                    raise ValueError(f"{label}: params of groups[{i}] {what}")
            return list(groups)
        with_some = [[entry for entry in groups if set(entry["params"]) & set(names)] for names in self._members]
        return [found[0] if len(found) == 1 else None for found in with_some]

    def _misfit(self, label: str, where: str, name: Name, entry: Any, carry: tuple[str, ...]) -> str | None:
        """Return why the state of a parameter cannot be its state here, or None; raise where it is not one at all."""
        if not isinstance(entry, Mapping):
            raise TypeError(f"{label}: {where} must be a mapping, got {type(entry).__name__}")
        counts = ["step", "begun", "averaged"] if self._is_averaged else ["step"]
        if problem := entries_problem(where, entry, [*counts, *self.state[name]], optional=["decays"]):
            return problem
        for key, array in self.state[name].items():
            value = entry[key]
            if key in carry:
                continue
            if not issubclass(type(value), np.ndarray) or isinstance(value, np.ma.MaskedArray):
                raise TypeError(f"{label}: {key!r} in the {where} must be an array, got {type(value).__name__}")
            if problem := _misfit_of(f"{key!r} in the {where}", array, value):
                return problem
        return None

    def _new_values(
        self, label: str, where: str, name: Name, entry: Mapping[str, Any], carry: tuple[str, ...]
    ) -> list[tuple[Array, Any]]:
        """Return the state arrays of a parameter with their values from an entry that fits, or raise."""
        values: list[tuple[Array, Any]] = []
        for key, array in self.state[name].items():
            value = entry[key]
            if key in carry:
                if not is_number(value := unwrapped(value)):
                    raise TypeError(f"{label}: {key!r} in the {where} must be a number, got {brief(value)}")
                try:
                    values.append((array, float(value)))
                except OverflowError:
                    what = f"must be a number that a float can hold, got {brief(value)}"
                    raise ValueError(f"{label}: {key!r} in the {where} {what}") from None
                continue
            value = np.asarray(value)  # whatever a subclass says of itself
            # The caller may give us our own state, in another order.
            values.append((array, value.copy() if self._is_state(value) else value))
            if key == "seen" and value.size and not 0 <= value.min() <= value.max() <= entry["step"]:
                what = f"must be in [0, {entry['step']}], its step, got {value.min()} to {value.max()}"
                raise ValueError(f"{label}: 'seen' in the {where} {what}")
        return values

    def _corrected_names(self) -> list[tuple[str, ...]]:
        """Return the names of the decays that bias corrections of each parameter use."""
        return [group.settings_of(array).corrected for group in self.groups for array in group["params"]]

    def _changed_decays(self) -> Iterator[dict[str, Any]]:
        """Yield for each parameter its decays that the hyperparameters do not tell."""
        of_parameters = iter(self._table.decays())
        for group in self.groups:
            for _ in group["params"]:
                yield saved_decays(next(of_parameters), group, self._declaration.parts)

    def _carry_names(self) -> list[tuple[str, ...]]:
        """Return the names of the carried numbers of each parameter."""
        return [group.settings_of(array).carry_names for group in self.groups for array in group["params"]]

    def __getstate__(self) -> dict[str, Any]:
        self._table.check_own(f"{type(self).__name__}: a copy")
        parameters = {id(array) for group in self.groups for array in group["params"]}
        return {
            "grouped": self._grouped,
            "params": [
                together(structure, iter(group["params"]))
                for structure, group in zip(self._structure, self.groups, strict=True)
            ],
            "containers": [one for one in self._table.containers if holds(one) and can_be_copied(one[0], parameters)],
            "rules": [group.settings.rule_name for group in self.groups],
            "hyper": [{key: value for key, value in group.items() if key != "params"} for group in self.groups],
            "options": {**self._options, "num_threads": self.num_threads},
            "defaults": self._defaults,
            "skipped_steps": self.skipped_steps,
            "skips": self._table.skips(),
            "state_dict": self.state_dict(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved_state = state["state_dict"]
        given: list[Given] = [
            (params, hyper, None) for params, hyper in zip(state["params"], state["hyper"], strict=True)
        ]
        containers = [one for one in state["containers"] if holds(one)]
        self._lay_out(
            state["grouped"],
            given,
            state["rules"],
            state["options"],
            state["defaults"],
            saved_state["step_count"],
            containers,
        )
        self.load_state_dict(saved_state)
        self._table.skipped_steps = state["skipped_steps"]
        self._table.skips(state["skips"])

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}({len(self._names)} parameters, {self.step_count} steps"]
        for group in self.groups:
            lines.append("  " + ", ".join(f"{key}={value!r}" for key, value in group.items() if key != "params"))
        return "\n".join(lines) + ")"


def _label_of_group(rule_class: type[Optimizer], i: int, grouped: bool) -> str:
    """Return the words by which messages name a group."""
    return f"{rule_class.__name__}: groups[{i}]" if grouped else rule_class.__name__


def _misfit_of(what: str, array: Array, value: Any) -> str | None:
    """Return why a value cannot be copied to an array, or None."""
    if value is None:
        return f"{what} must be there, but it is missing"
    value = np.asarray(value)  # whatever a subclass says of itself
    if value.shape != array.shape or value.dtype != array.dtype:
        return f"{what} must have shape {array.shape} and dtype {array.dtype}, got {value.shape} and {value.dtype}"
    return None


def check_entries(
    label: str, what: str, given: Any, names: Sequence[Any], optional: Sequence[Any] = ()
) -> dict[Any, Any]:
    """Return a mapping's entries as a dict, or raise unless their names are the ones asked for, all or the optional."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{label}: {what} must be a mapping, got {type(given).__name__}")
    if problem := entries_problem(what, given, names, optional):
        raise ValueError(f"{label}: {problem}")
    return dict(given)


def entries_problem(
    what: str, given: Mapping[Any, Any], names: Sequence[Any], optional: Sequence[Any] = ()
) -> str | None:
    """Return what is wrong with the names of a mapping's entries, or None."""
    missing = [name for name in names if name not in given]
    unknown = [name for name in given if name not in {*names, *optional}]
    if not missing and not unknown:
        return None
    lists = {"missing": missing, "unknown": unknown}
    problems = " and ".join(f"{word} {', '.join(map(repr, found))}" for word, found in lists.items() if found)
    return f"{what} must have exactly the entries {list(names)!r:.200}, got {problems:.200}"


def _averaged(label: str, value: Any, step_count: int, rows: int | None) -> int | Array:
    """Return the last step that averages have taken in, or an array of it for each of some rows, or raise."""
    # A parameter without a gradient that comes first in a round of step_one() is ahead of the count.
    least, most = -1, step_count + 1
    if type(value) is np.ndarray and rows is not None:
        if value.shape != (rows,) or value.dtype != np.int64:
            raise ValueError(
                f"{label} must be an integer, or one int64 for each of the {rows} rows, got shape {value.shape} and"
                f" dtype {value.dtype}"
            )
        if rows and not least <= value.min() <= value.max() <= most:
            raise ValueError(f"{label} must be in [{least}, {most}], got {value.min()} to {value.max()}")
        return value.copy()
    if not is_integer(value := unwrapped(value)) or not least <= value <= most:
        raise ValueError(f"{label} must be an integer in [{least}, {most}], got {brief(value)}")
    return int(value)


def _count(label: str, value: Any) -> int:
    """Return a number of steps, or raise."""
    if not is_integer(value := unwrapped(value)) or not 0 <= value < 1 << 62:
        raise ValueError(f"{label} must be an integer >= 0, got {brief(value)}")
    return int(value)
