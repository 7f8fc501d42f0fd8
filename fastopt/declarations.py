"""Declarations of arguments, once per class: signatures, checks and the values for the C core follow from them.

::

    class Adam(Optimizer):
        lr: Rate = rate(default=1e-3, kw_only=False)
        betas: tuple[Number, Number] = numbers(default=(0.9, 0.999), names=("beta1", "beta2"))
        eps: Number = number(default=1e-8)
        amsgrad: bool = flag(default=False, fixed="layout")

A hyperparameter has the range that hyper.def gives its name there.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from reprlib import repr as brief
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np

from . import _core
from .calls import dataclass_transform, refuse_unknown
from .fixed import FixedDict
from .scalars import PLAIN, each_unwrapped, is_number, unwrapped

if TYPE_CHECKING:
    from numpy.typing import NDArray

Number: TypeAlias = float | Callable[[int], float]  # a hyperparameter: a number or a schedule

# When a hyperparameter becomes fixed.  "layout": always, since it decides which state exists, or its meaning.
# "start": never, since state starts from it.  "steps": once a step has been made, since the average that the rule keeps
# is computed by it, by the first of several.
Fixed: TypeAlias = Literal["", "layout", "start", "steps"]

# The meaning of None for a hyperparameter: a number, or another hyperparameter by its name in rules.def.
Unset: TypeAlias = float | Callable[[Mapping[str, Any]], float] | None

# The forms of weight decay around a rule, each with its field of fastopt_options.
DECAYS = {"l2": "weight_decay", "decoupled": "decoupled_decay", "independent": "independent_decay"}
ROWS = frozenset(name for name, *_ in _core.rules())
# Hyperparameters that were added after 0.1.0, and the values with which earlier versions computed.
_ADDED: dict[str, Any] = {
    "lr_scale": 1.0,
    "cautious_decay": False,
    "corrected_decay": False,
    "state_dtype": None,
    "master": "auto",
    "rounding": "stochastic",
}
VECTOR = "_vector"  # ends the name of the rule that stands for one of rows and columns where a parameter is a vector


def is_schedule(value: Any) -> bool:
    """Return whether a value is a schedule: a function of the steps made so far."""
    if not callable(value) or isinstance(value, type):
        return False
    # Those who have no schedule do not import it. It comes with the first schedule, not with the first use: a signal
    # handler that saves could interrupt that import, and find half of the module.
    if "fastopt.schedules" not in sys.modules:
        import_module("fastopt.schedules")
    return True


def first_of(value: Any) -> Any:
    """Return the first of several numbers, or the only one."""
    return value[0] if isinstance(value, (tuple, list)) and value else value


def as_float(label: str, value: Any) -> float:
    """Return a real number as a float, or raise TypeError or ValueError."""
    if type(value) is not float and not is_number(value := unwrapped(value)):
        raise TypeError(f"{label} must be a number, got {brief(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{label} must be a number that a float can hold, got {brief(value)}") from None


def check_number(label: str, name: str, value: Any) -> float:
    """Return a real number in the range of a hyperparameter as a float, or raise TypeError or ValueError."""
    number = as_float(label, value)
    _core.check_range(label, name, number)
    return number


STATE_DTYPES = ("float32", "bfloat16", "float16", "8bit")


class Words(FixedDict):
    """A `state_dtype` by letter."""

    what = "state_dtype must stay, since the state was laid out for it"


def word_of(label: str, value: Any) -> Any:
    """Return a `state_dtype` as words: None, one, or one by letter; or raise TypeError or ValueError."""
    if isinstance(value, Mapping):
        for letter in value:
            if not isinstance(letter, str):
                raise TypeError(f"{label} must have letters of the state as keys, got {brief(letter)}")
        return Words({letter: one_word_of(f"{label}[{letter!r}]", word) for letter, word in value.items()})
    return one_word_of(label, value)


def one_word_of(label: str, value: Any) -> str | None:
    """Return the word for how buffers are stored, or None; or raise ValueError."""
    if value is None or (isinstance(value, str) and value in STATE_DTYPES):
        return value
    word = ""
    if isinstance(value, (type, np.dtype)):  # of other objects NumPy takes the repr, which can fail
        with suppress(TypeError):
            word = np.dtype(value).name
    if word not in STATE_DTYPES:
        raise ValueError(f"{label} must be one of {', '.join(STATE_DTYPES)} or None, got {brief(value)}")
    return word


# ---- Arguments ----


class Argument:
    """An argument of a constructor."""

    def __init__(
        self, *, default: Any = inspect.Parameter.empty, kw_only: bool = True, init: bool = True, alias: str = ""
    ) -> None:
        self.default, self.kw_only, self.init, self.name = default, kw_only, init, alias

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name


class OtherName(Argument):
    """A truth value that stands for one value of another argument."""

    def __init__(self, of: str, value: str, **argument: Any) -> None:
        super().__init__(**argument)
        self.of, self.value = of, value

    def put(self, label: str, values: dict[str, Any], given: Any) -> None:
        """Put the value among those of arguments where it is meant, or raise TypeError or ValueError."""
        if not isinstance(given := unwrapped(given), (bool, np.bool_)):
            raise TypeError(f"{label}: {self.name} must be True or False, got {brief(given)}")
        if given and values[self.of] not in (None, self.value):
            raise ValueError(
                f"{label}: {self.of} must be None or {self.value} with {self.name}, got {brief(values[self.of])}"
            )
        if given:
            values[self.of] = self.value


class Hyperparameter(Argument):
    """An argument that groups hold: a number, or a schedule."""

    scheduled: ClassVar[bool] = True  # it may be a schedule

    def __init__(self, names: tuple[str, ...] = (), fixed: Fixed = "", none: Unset = None, **argument: Any) -> None:
        super().__init__(**argument)
        self.names = names  # of its numbers in rules.def
        self.fixed = fixed
        self.none = none  # None itself where it must not be None

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        self.names = self.names or (name,)

    def unwrapped(self, value: Any) -> Any:
        """Return a value without the arrays of one element around its numbers."""
        return unwrapped(value)

    def check(self, label: str, value: Any) -> None:
        """Raise TypeError or ValueError unless the value is of the right type and in its range."""
        if value is not None or self.none is None:
            check_number(label, self.names[0], value)

    def plain(self, value: Any) -> Any:
        """Return a valid value as Python's own, which nobody else can change."""
        return value if value is None else float(value)


class Rate:
    """The learning rate of the next step, or where groups differ a tuple of theirs.

    Setting it, to a number or a schedule, sets the rate of every group; a tuple or list has one for each.
    """

    def __get__(self, optimizer: Any, owner: type | None = None) -> float | tuple[float, ...]:
        rates: Any = self if optimizer is None else optimizer._rates()
        return rates  # type: ignore[no-any-return]

    def __set__(self, optimizer: Any, value: Number | Sequence[Number]) -> None:
        optimizer._set_rates(value)


class RateArgument(Hyperparameter):
    """The learning rate, which optimizers have as an attribute too."""


class Several(Hyperparameter):
    """A hyperparameter of several numbers, of which the first may be None."""

    def unwrapped(self, value: Any) -> Any:
        """Return the numbers without the arrays of one element around them."""
        return each_unwrapped(value)

    def check(self, label: str, value: Any) -> None:
        """Raise TypeError or ValueError unless these are so many numbers, each in its range."""
        if not isinstance(value, (tuple, list)) or len(value) != len(self.names):
            words = "a pair of" if len(self.names) == 2 else "three"
            raise TypeError(f"{label} must be {words} numbers, got {brief(value)}")
        for i, (name, part) in enumerate(zip(self.names, value, strict=True)):
            if part is not None or i > 0 or self.none is None:
                check_number(f"{label}[{i}]", name, part)

    def plain(self, value: Any) -> tuple[float | None, ...]:
        """Return the numbers as Python's own."""
        return tuple(part if part is None else float(part) for part in value)


class Flag(Hyperparameter):
    """A hyperparameter that is a truth value."""

    scheduled = False

    def check(self, label: str, value: Any) -> None:
        """Raise TypeError unless the value is a truth value."""
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{label} must be True or False, got {brief(value)}")

    def plain(self, value: Any) -> bool:
        """Return the truth value as Python's own."""
        return bool(value)


class Choice(Hyperparameter):
    """A hyperparameter that is one of some words, or None."""

    scheduled = False

    def __init__(self, of: tuple[str | None, ...], **hyper: Any) -> None:
        super().__init__(**hyper)
        self.of = of

    def check(self, label: str, value: Any) -> None:
        """Raise ValueError unless the value is one of these."""
        if not (value is None or isinstance(value, str)) or value not in self.of:
            raise ValueError(f"{label} must be one of {', '.join(map(str, self.of))}, got {brief(value)}")

    def plain(self, value: Any) -> Any:
        """Return the word."""
        return value


class StateDtype(Hyperparameter):
    """How state is stored: a word or None, for all buffers or by letter."""

    scheduled = False

    def unwrapped(self, value: Any) -> Any:
        """Return the value as it is."""
        return value

    def check(self, label: str, value: Any) -> None:
        """Raise TypeError or ValueError unless these are words."""
        word_of(label, value)

    def plain(self, value: Any) -> Any:
        """Return the words."""
        return word_of("state_dtype", value)


def argument(*, default: Any = inspect.Parameter.empty, kw_only: bool = True, alias: str = "") -> Any:
    """Declare an argument that is no hyperparameter."""
    return Argument(default=default, kw_only=kw_only, alias=alias)


def other_name(*, default: bool, of: str, value: str, init: bool = True) -> Any:
    """Declare an argument that is torch's name for a value of another; without `init` a class has it no more."""
    return OtherName(of, value, default=default, init=init)


def rate(*, default: float, kw_only: bool) -> Any:
    """Declare the learning rate."""
    return RateArgument(default=default, kw_only=kw_only)


def number(
    *,
    default: float | None,
    name: str = "",
    fixed: Fixed = "",
    none: Unset = None,
    kw_only: bool = True,
    init: bool = True,
) -> Any:
    """Declare a number, by its name in rules.def where that is another, and the value of None where it may be None.

    Without `init` it is one of groups alone.
    """
    names = (name,) if name else ()
    return Hyperparameter(names, fixed, none, default=default, kw_only=kw_only, init=init)


def numbers(*, default: tuple[Any, ...], names: tuple[str, ...], fixed: Fixed = "", none: Unset = None) -> Any:
    """Declare several numbers, by their names in rules.def."""
    return Several(names, fixed, none, default=default)


def flag(*, default: bool, fixed: Fixed = "") -> Any:
    """Declare a truth value."""
    return Flag(fixed=fixed, default=default)


def choice(*, default: str | None, of: tuple[str | None, ...], fixed: Fixed = "") -> Any:
    """Declare a word."""
    return Choice(of, fixed=fixed, default=default)


def state_dtype(*, default: None) -> Any:
    """Declare how state is stored."""
    return StateDtype(fixed="layout", default=default)


# ---- Classes ----


@dataclass_transform(
    kw_only_default=True, field_specifiers=(argument, other_name, rate, number, numbers, flag, choice, state_dtype)
)
class Declaring:
    """A class whose constructor takes its declared arguments."""

    _declared: ClassVar[dict[str, Argument]] = {}
    _shared: ClassVar[frozenset[str]] = frozenset()  # the declarations of all classes; they come last
    _declaration: ClassVar[Declaration]
    _rules: ClassVar[
        Mapping[str, Mapping[str, Any]]
    ] = {}  # the rows of rules.def that it runs, and the options that select each
    _own_rule: ClassVar[Callable[[], _core.OwnRule] | None] = None  # makes the record of a rule of the user's own
    _decay_form: ClassVar[str] = "l2"  # the default form of weight_decay
    _averages: ClassVar[tuple[str, ...]] = ()  # averages of the parameters that the rule itself keeps
    _torch_names: ClassVar[Mapping[str, str]] = {}  # of state in torch.optim, by letter

    @classmethod
    def _to_torch(cls, state: Mapping[str, Any], t: int, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """Return the state of a parameter after t steps as torch.optim has it, by torch's names, from that by letter.

        Letters that torch does not have stay beside it.  Buffers are arrays or tensors.
        """
        return {cls._torch_names.get(letter, letter): value for letter, value in state.items()}

    @classmethod
    def _from_torch(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return the state of a parameter by letter, from that of torch.optim or of `_to_torch`."""
        letters = {name: letter for letter, name in cls._torch_names.items()}
        return {letters.get(name, name): value for name, value in state.items()}

    def __init_subclass__(cls) -> None:
        """Collect the declarations of the class and remove them from its attributes, which optimizers must not have."""
        own = {key: value for key, value in vars(cls).items() if isinstance(value, Argument)}
        cls._declared = cls._declared | {value.name: value for value in own.values()}
        for key, value in own.items():
            if isinstance(value, RateArgument):
                cls.lr = Rate()  # type: ignore[attr-defined]
            else:
                delattr(cls, key)
        cls._shared = cls._shared or frozenset(cls._declared)
        order = sorted(
            cls._declared.items(), key=lambda item: item[1].kw_only + (item[1].kw_only and item[0] in cls._shared)
        )
        cls._declaration = Declaration(cls, dict(order))

    @classmethod
    def _check_together(cls, label: str, hyper: Mapping[str, Any]) -> None:
        """Raise ValueError unless these hyperparameters, each of which is valid, go together.

        lr and weight_decay are alone: no rule asks more of them than their ranges.
        """

    @classmethod
    def _check_array(cls, label: str, array: NDArray[Any]) -> None:
        """Raise ValueError unless this array is one that the rule is for."""

    @classmethod
    def _initial_state(cls, hyper: Mapping[str, Any]) -> dict[str, float]:
        """Return the initial values of state buffers that do not start from 0."""
        return {}

    @classmethod
    def _average_of(cls, p: NDArray[Any], state: Mapping[str, NDArray[Any]], hyper: Mapping[str, Any]) -> NDArray[Any]:
        """Return the average, one of `_averages`, of a parameter that has made a step."""
        raise NotImplementedError


class Declaration:
    """The declarations of a class: arguments, hyperparameters, the rows of rules.def that it runs, and checks."""

    def __init__(self, of: type[Declaring], declared: Mapping[str, Argument]) -> None:
        self.name, self.rows, self.decay_form, self.averages = of.__name__, of._rules, of._decay_form, of._averages
        self.check_array, self.initial_state, self.average_of = of._check_array, of._initial_state, of._average_of
        self._check_together, self._own_rule = of._check_together, of._own_rule
        #: The arguments of the constructor, in this order.
        self.arguments = {key: argument for key, argument in declared.items() if argument.init}
        #: The hyperparameters of a group, in this order.
        self.hyper = {key: value for key, value in declared.items() if isinstance(value, Hyperparameter)}
        #: Those that select the row.
        self.selecting = {key for options in self.rows.values() for key in options}
        #: For a row that a number other than 0 selects: its name in rules.def, and the row that steps while it is 0.
        self._at_zero = {
            row: (self.hyper[key].names[0], other)
            for row, options in self.rows.items()
            for key in options
            for other, of_other in self.rows.items()
            if of_other.keys() == options.keys() - {key} and not self.hyper[key].fixed and not self.hyper[key].default
        }
        if "weight_decay_form" in self.hyper:
            forms = (*DECAYS, "own") if self.decay_form == "own" else tuple(DECAYS)
            self.hyper["weight_decay_form"] = Choice(forms, names=("weight_decay_form",))
        #: Hyperparameters that files of earlier versions may not have, and their values there.
        self.added = _ADDED | {"weight_decay_form": self.decay_form}
        #: The names in rules.def of hyperparameters that have others there, or that are several numbers.
        self.parts = {key: value.names for key, value in self.hyper.items() if value.names != (key,)}
        #: The arguments that are no hyperparameters, but for the parameters: options of the step and of averages.
        self.options = [
            key
            for key, value in self.arguments.items()
            if not isinstance(value, (Hyperparameter, OtherName)) and key != "params"
        ]
        self._positional = [key for key, value in self.arguments.items() if not value.kw_only]
        self._defaults = {key: value.default for key, value in self.arguments.items()}
        #: Those that stand for a value of another.
        self.other_names = [value for value in self.arguments.values() if isinstance(value, OtherName)]
        self._unset = {value.names[0]: value.none for value in self.hyper.values() if value.none is not None}

    def given(
        self, label: str, by_position: Sequence[Any], by_name: Mapping[str, Any], takes: Collection[str]
    ) -> dict[str, Any]:
        """Return the value of each argument, or raise TypeError or ValueError for those that the class does not take.

        `takes` are the arguments by which the user's class is known.
        """
        positional = self._positional
        given = dict(zip(positional, by_position, strict=False))
        refuse_unknown(label, takes, [key for key in by_name if key not in self.arguments])
        for key in by_name:
            if key in given:
                raise TypeError(f"{label}: {key} must be given once, got it by position and by name")
        if len(by_position) > len(positional):
            value = brief(by_position[len(positional)])
            raise TypeError(f"{label}: arguments after {', '.join(positional)} must be given by name, got {value}")
        given |= by_name
        if "params" not in given:
            raise TypeError(f"{label}: params must be given, got none")
        values = self._defaults | given
        for other in self.other_names:
            other.put(label, values, values.pop(other.name))
        return values

    def unwrapped(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """Return hyperparameters without the arrays of one element around their numbers."""
        return {
            key: value if type(value) in PLAIN else self.hyper[key].unwrapped(value) for key, value in hyper.items()
        }

    def check_schedules(self, label: str, hyper: Mapping[str, Any]) -> None:
        """Raise TypeError or ValueError for schedules of hyperparameters that cannot change from step to step."""
        for key, value in hyper.items():
            declared = self.hyper[key]
            if is_schedule(value) and (not declared.scheduled or declared.fixed == "start"):
                declared.check(f"{label}: {key}", value)
            if declared.fixed == "steps" and is_schedule(first_of(value)):
                name = f"{key}[0]" if isinstance(value, tuple) else key
                raise ValueError(
                    f"{label}: {name} must not be a schedule, since x is computed with it, got {first_of(value)!r}"
                )

    def check(self, label: str, hyper: Mapping[str, Any]) -> None:
        """Raise TypeError or ValueError unless these hyperparameters are valid, alone and together."""
        for key, value in hyper.items():
            declared = self.hyper[key]
            if value is not declared.default:  # which is valid
                declared.check(f"{label}: {key}", value)
        scaled(label, hyper)
        self._check_together(label, hyper)
        self._check_decay(label, hyper)

    def _check_decay(self, label: str, hyper: Mapping[str, Any]) -> None:
        """Raise ValueError unless the options of weight decay go with its form, and with the rule."""
        form, own = hyper["weight_decay_form"], self.decay_form == "own"
        if hyper["cautious_decay"]:
            if self.averages:
                raise ValueError(
                    f"{label}: cautious_decay must be False for a rule that keeps an average of the parameters, got"
                    f" True"
                )
            apart = own and all(row.separate_decay for row in self.settings_of_rows())
            if form not in (forms := ("decoupled", "independent", *(("own",) if apart else ()))):
                raise ValueError(
                    f"{label}: weight_decay_form must be {' or '.join(forms)} with cautious_decay, since other decay is"
                    f" mixed into the step, got {form!r}"
                )
        if hyper["corrected_decay"] and form not in (forms := ("decoupled", *(("own",) if own else ()))):
            raise ValueError(
                f"{label}: weight_decay_form must be {' or '.join(forms)} with corrected_decay, which is for a share of"
                f" p that lr scales, got {form!r}"
            )

    def plain(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """Return valid hyperparameters as Python's own values, which nobody else can change."""
        return {key: value if type(value) in PLAIN else self.hyper[key].plain(value) for key, value in hyper.items()}

    def row(self, hyper: Mapping[str, Any], kept: Collection[str] = ()) -> str:
        """Return the row of rules.def that these hyperparameters select: by those that are not the defaults.

        Where one of them is 0 that selects a row with more state, and `kept` has letters of that state: that row.
        """
        if not self.selecting:
            return next(iter(self.rows))
        given = {key for key in self.selecting if hyper[key] != self.hyper[key].default}
        row = next(row for row, options in self.rows.items() if options.keys() == given)
        for larger, (_, smaller) in self._at_zero.items():
            letters = set(_core.Settings(larger).state_names) - set(_core.Settings(smaller).state_names)
            if smaller == row and not letters.isdisjoint(kept):
                return larger
        return row

    def settings(self, row: str, corrects_decay: bool) -> tuple[_core.Settings, _core.Settings]:
        """Return what the C core reads of a group that runs this row, for matrices and for vectors."""
        rule = self._own_rule() if self._own_rule else row
        of_matrices = _core.Settings(rule, corrects_decay, self._at_zero.get(row))
        own_row = row + VECTOR in ROWS and self._own_rule is None
        return of_matrices, _core.Settings(row + VECTOR, corrects_decay) if own_row else of_matrices

    def settings_of_rows(self) -> list[_core.Settings]:
        """Return what the C core reads of each row that the class runs, for matrices."""
        return [self.settings(row, False)[0] for row in self.rows]

    def by_names(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """Return valid hyperparameters by their names in rules.def."""
        values: dict[str, Any] = {}
        for key, declared in self.hyper.items():
            if isinstance(declared, Several):
                values.update(zip(declared.names, hyper[key], strict=True))
            else:
                values[declared.names[0]] = hyper[key]
        for name, none in self._unset.items():
            if values[name] is None:
                values[name] = none(values) if callable(none) else none
        return values


def scaled(label: str, hyper: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return hyperparameters with lr * lr_scale in the place of lr, or raise ValueError where that is too large."""
    if hyper["lr_scale"] == 1 and type(hyper["lr"]) is float:
        return hyper
    lr = float(hyper["lr"]) * float(hyper["lr_scale"])
    _core.check_range(f"{label}: lr * lr_scale", "lr", lr)
    return {**hyper, "lr": lr}
