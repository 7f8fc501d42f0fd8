"""How arguments are given: hyperparameters by name, and errors that say which name was meant."""

import copy
import inspect
import pickle
import re

import numpy as np
import pytest

import fastopt
from fastopt import schedules
from support.cases import DEFAULTS

CLASSES = [getattr(fastopt, name) for name in DEFAULTS]


def positional(cls):
    return [p.name for p in inspect.signature(cls).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]


@pytest.mark.parametrize("cls", CLASSES)
def test_hyperparameters_after_lr_are_given_by_name(cls):
    """A call by position means what it means in torch, or is refused: there, the third argument is often another."""
    by_position = ["params", "lr", "momentum"] if cls is fastopt.SGD else ["params", "lr"]
    assert positional(cls) == by_position
    cls(np.ones((2, 2)), *[0.5] * (len(by_position) - 1))
    names = f"{cls.__name__}: arguments after {', '.join(by_position)} must be given by name, one of "
    with pytest.raises(TypeError, match=rf"^{names}.*weight_decay.*, got 0\.25 by position$"):
        cls(np.ones((2, 2)), *[0.5] * (len(by_position) - 1), 0.25)


def test_a_call_of_torch_by_position():
    with pytest.raises(
        TypeError, match=r"RMSprop: arguments after params, lr must be given by name, one of alpha, eps"
    ):
        fastopt.RMSprop(np.ones(3), 0.01, 0.99, 1e-8, 0.1)  # 0.1 is torch's weight decay
    assert fastopt.SGD(np.ones(3), 0.1, 0.9).groups[0]["momentum"] == 0.9


@pytest.mark.parametrize("cls", CLASSES)
def test_a_mistyped_keyword(cls):
    for wrong, meant in (("weigth_decay", "weight_decay"), ("clipnorm", "clip_norm"), ("LR", "lr")):
        with pytest.raises(
            TypeError, match=rf"^{cls.__name__}: arguments are params, lr, .*, got '{wrong}'; did you mean '{meant}'\?$"
        ):
            cls(np.ones((2, 2)), **{wrong: 0.5})
    with pytest.raises(TypeError, match=rf"^{cls.__name__}: arguments are .*, got 'zzz'$"):
        cls(np.ones((2, 2)), zzz=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: fastopt.Adam(np.ones(3), wd=0.1),
            "Adam: arguments are params, lr, *'wd'; did you mean 'weight_decay'?",
        ),
        (
            lambda: fastopt.Adam(np.ones(3), learning_rate=0.1),
            "Adam: arguments are *'learning_rate'; did you mean 'lr'?",
        ),
        (
            lambda: fastopt.Combined([fastopt.SGD(np.ones(3))], clipnorm=1.0),
            "Combined: arguments are optimizers, nonfinite, *'clipnorm'; did you mean 'clip_norm'?",
        ),
        (
            lambda: fastopt.Combined([fastopt.SGD(np.ones(3))], lr=1.0),
            "Combined: arguments are optimizers, nonfinite, *, zero_grads, got 'lr'",
        ),
        (
            lambda: fastopt.LossScale(init_scale=4.0),
            "LossScale: arguments are value, growth, backoff, interval, got 'init_scale'; did you mean 'value'?",
        ),
        (lambda: fastopt.LossScale(growth_interval=4), "LossScale: *got 'growth_interval'; did you mean 'interval'?"),
    ],
)
def test_names_of_other_libraries(call, message):
    with pytest.raises(TypeError, match="^" + re.escape(message).replace(r"\*", ".*") + "$"):
        call()


STEPPED = fastopt.Adam({"w": np.ones(3)})


def public_calls():
    """Every public function, constructor and method, by the name that messages give it."""
    objects = [
        fastopt.ScheduleFreeSGD(np.ones(3)),
        fastopt.Combined([fastopt.SGD(np.ones(3))]),
        fastopt.LossScale(),
        schedules.reduce_on_plateau(0.1),
    ]
    for one in objects:
        for name in dir(type(one)):
            if not name.startswith("_") and inspect.isfunction(getattr(type(one), name)):
                yield f"{type(one).__name__}.{name}", getattr(one, name)
    of_package = [(name, getattr(fastopt, name)) for name in fastopt.__all__]
    for name, call in of_package + [(name, getattr(schedules, name)) for name in schedules.__all__]:
        if inspect.isfunction(call) or (inspect.isclass(call) and call is not fastopt.Optimizer):
            yield name, call


CALLS = dict(public_calls())


@pytest.mark.parametrize("name", CALLS)
def test_every_public_call_names_what_does_not_fit(name):
    for wrong in ({"zzz": 1}, {"zzz": 1, "aaa": 2}):
        with pytest.raises(TypeError, match=rf"^{name}: (arguments|options of one step) are .*, got '(zzz|aaa)'$"):
            CALLS[name](**wrong)
    beyond = rf"^{name}: (arguments after .* must be given by name|arguments are).* got 9"
    with pytest.raises(TypeError, match=beyond):
        CALLS[name](*[9] * 20)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedules.cosine(0.1), "cosine: decay_steps must be given, got none"),
        (lambda: schedules.cosine(0.1, init_value=1), "cosine: init_value must be given once, got it by"),
        (
            lambda: schedules.linear(0.1, endvalue=1),
            "linear: arguments are *, got 'endvalue'; did you mean 'end_value'",
        ),
        (
            lambda: STEPPED.step({"w": np.ones(3)}, 1.0),
            "Adam.step: arguments after grads must be given by name, on*",
        ),
        (lambda: STEPPED.step_one("w"), "Adam.step_one: grad must be given, got none"),
        (
            lambda: STEPPED.load_state_dict({}, True),
            "Adam.load_state_dict: arguments after state_dict must be given *",
        ),
        (lambda: STEPPED.reset("w", "v"), "Adam.reset: arguments are names, got 'v' beyond them"),
        (lambda: STEPPED.discard(1), "Adam.discard: arguments are none, got 1 beyond them"),
        (lambda: fastopt.Adam.discard(), "Stepping.discard: the object must be given, got none"),
        (lambda: fastopt.groups(), "groups: params must be given, got none"),
        (lambda: fastopt.Combined(), "Combined: optimizers must be given, got none"),
        (lambda: fastopt.LossScale(1.0, 2.0, 0.5, 9, 9), "LossScale: arguments are *, interval, got 9 beyond them"),
    ],
)
def test_arguments_that_do_not_fit(call, message):
    with pytest.raises(TypeError, match="^" + re.escape(message).replace(r"\*", ".*")):
        call()
    assert STEPPED.step_count == 0


def test_the_base_of_all_has_no_rule():
    with pytest.raises(TypeError, match=r"^Optimizer: the class of a rule must be used, such as Adam"):
        fastopt.Optimizer(np.ones(3))


def test_errors_of_calls_that_fit_stay_as_they_are():
    with pytest.raises(TypeError, match=r"^groups: patterns must be a mapping"):
        fastopt.groups({"w": np.ones(3)}, 3)
    assert str(inspect.signature(schedules.cosine)).startswith("(init_value: ")
    assert "unknown" not in inspect.signature(fastopt.Combined).parameters


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fastopt.Adam([{"params": np.ones(3), "Lr": 1}]), "params[0] can override lr, betas, eps, "),
        (lambda: fastopt.Adam([{"params": np.ones(3), "beta": 1}]), "got 'beta'; did you mean 'betas'?"),
        (lambda: STEPPED.step({"w": np.ones(3)}, clipnorm=1), "step: options of one step are grad_scale, clip_norm, "),
        (lambda: STEPPED.step({"w": np.ones(3)}, clipnorm=1), "got 'clipnorm'; did you mean 'clip_norm'?"),
        (lambda: STEPPED.step_one("w", np.ones(3), clipvalue=1), "got 'clipvalue'; did you mean 'clip_value'?"),
        (lambda: STEPPED.groups[0].update(amsgrd=True), "keys must be among lr, betas, eps, amsgrad, "),
        (lambda: STEPPED.groups[0].update(amsgrd=True), "got 'amsgrd'; did you mean 'amsgrad'?"),
        (
            lambda: fastopt.kernels.sgd(np.ones(1), np.ones(1), step=1, lr=1.0, maximise=True),
            "sgd: keywords must be among",
        ),
        (
            lambda: fastopt.kernels.sgd(np.ones(1), np.ones(1), step=1, lr=1.0, maximise=True),
            "did you mean 'maximize'?",
        ),
        (
            lambda: fastopt.kernels.sgd(np.ones(1), np.ones(1), 0.1),
            "buffers must be p, g, got 3 of them (all other arguments",
        ),
    ],
)
def test_other_names(call, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call()
    assert STEPPED.step_count == 0


class Boosted(fastopt.Adam):
    """A class as a user may derive it."""

    def __init__(self, params, boost=1.0, **others):
        super().__init__(params, lr=0.1 * boost, **others)


class AsTheyCome(fastopt.SGD):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


def test_a_class_of_the_user():
    """It takes its own arguments, hands on the others, and errors name it."""
    opt = Boosted(np.ones(3), 2.0, betas=(0.5, 0.5), clip_norm=1.0)
    opt.step(np.ones(3))
    assert opt.groups[0]["betas"] == (0.5, 0.5)
    assert {"params", "boost", "betas", "clip_norm"} <= set(inspect.signature(Boosted).parameters)
    with pytest.raises(
        TypeError, match=r"^Boosted: arguments are params, boost, .*, got 'beta'; did you mean 'betas'\?$"
    ):
        Boosted(np.ones(3), beta=1)
    with pytest.raises(TypeError, match=r"^Boosted: arguments after params, boost must be given by name"):
        Boosted(np.ones(3), 1.0, 0.9)
    assert AsTheyCome(np.ones(3), 0.1, 0.9).groups[0]["momentum"] == 0.9
    for other in (copy.copy(opt), copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert other.groups[0]["lr"] == opt.groups[0]["lr"]


@pytest.mark.parametrize("value", [[], (), np.zeros(0)], ids=["list", "tuple", "array"])
@pytest.mark.parametrize("cls", [cls for cls in CLASSES if "betas" in inspect.signature(cls).parameters])
def test_a_pair_of_nothing(cls, value):
    required = rf"^{cls.__name__}: betas must be (a pair of|three) numbers, got"
    with pytest.raises(TypeError, match=required):
        cls(np.zeros((2, 2)), betas=value)
    opt = cls(np.zeros((2, 2)))
    with pytest.raises(TypeError, match=required):
        opt.groups[0]["betas"] = value
