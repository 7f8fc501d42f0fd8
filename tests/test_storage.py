"""Parameters and state that are stored in other formats: a step is that of float32 between load and store."""

import copy
import pickle
import re
import subprocess
import sys
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory

import ml_dtypes
import numpy as np
import pytest

import fastopt
from support import formats
from support.asserts import assert_same_bits, ids
from support.cases import RULES_AND_STAGES
from support.covering import all_pairs
from support.registry import RULES

N = 1000  # of the elements, several groups of codes and a part of one
WORDS = ("bfloat16", "float16", "8bit")
BFLOAT16 = ml_dtypes.bfloat16
# How parameters of 16 bits are kept: dtype, master, and the format in the C core.
PARAMETERS = {
    "split16": (BFLOAT16, "split16", "split16"),
    "split8": (BFLOAT16, "split8", "split8"),
    "bfloat16 and float32": (BFLOAT16, "float32", "master_bfloat16"),
    "bfloat16": (BFLOAT16, None, "bfloat16"),
    "float16 and float32": (np.float16, "auto", "master_float16"),
    "float16": (np.float16, None, "float16"),
}
SEED = 3


def assert_same(actual, expected, what=""):
    """To the bit, whatever the dtype."""
    if actual.dtype.kind == "f":
        assert_same_bits(actual, expected, what)
    else:
        differ = np.flatnonzero(np.ravel(actual != expected))
        assert not differ.size, f"{what}: {differ.size} of {actual.size} differ, the first is {differ[:1]}"


def normal(seed, n=N, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32).astype(dtype)


class Oracle:
    """An optimizer of float32 with the formats of another one around its steps."""

    def __init__(self, case, opt, p, form):
        self.opt, self.p, self.form = opt, p, form and formats.FORMATS[form]
        self.native = np.ones(len(p), np.float32)
        self.like = case.make([self.native])
        self.stored = {
            letter: formats.FORMATS[buffer.format]
            for letter, buffer in opt.state[0].items()
            if type(buffer).__name__ == "Stored"
        }
        self.t = 0
        # Rules that gather may store their state before they update the parameter from it: tests/storage.c has these.
        self.reads_stored_state = bool(self.stored) and RULES[case.rule].gathers in ("alone", "together")

    def rest(self):
        return next((self.opt.state[0][letter] for letter in ("low", "master") if letter in self.opt.state[0]), None)

    def load(self):
        """Give the parameter and the state to the optimizer of float32."""
        bits = self.p.view(np.uint16) if self.form else None
        self.native[:] = self.form.load(bits, self.rest()) if self.form else self.p
        for letter, array in self.like.state[0].items():
            here = self.opt.state[0][letter]
            values = here
            if letter in self.stored:
                values = self.stored[letter].load(here.codes.view(self.stored[letter].data), here.scales)
            array[...] = values

    def expected(self):
        """What a step of it leaves: the parameter and its rest, and the two parts of each buffer."""
        self.t += 1
        key = fastopt.storage.key_of(0)
        rounding = formats.Rounding(self.opt.groups[0]["rounding"], SEED, key, self.t)
        with np.errstate(all="ignore"):
            p = self.form.store(self.native, rounding.bits(self.form, N)) if self.form else (self.native.copy(), None)
            state = {
                letter: self.stored[letter].store(array, rounding.bits(self.stored[letter], N))
                if letter in self.stored
                else (array.copy(), None)
                for letter, array in self.like.state[0].items()
            }
        return p, state

    def compare(self):
        (data, rest), state = self.expected()
        if self.reads_stored_state:
            assert np.isfinite(self.p.astype(np.float32)).all()
        else:
            assert_same(self.p.view(data.dtype), data, "the parameter")
            if rest is not None:
                assert_same(self.rest(), rest, "the rest of the parameter")
        for letter, (data, rest) in state.items():
            here = self.opt.state[0][letter]
            if letter in self.stored:
                assert_same(here.codes.view(data.dtype), data, letter)
                if rest is not None:
                    assert_same(here.scales, rest, f"scales of {letter}")
            else:
                assert_same_bits(here, data, letter)


def run(case, p, form, gradient_dtype=np.float32, **options):
    opt = case.make([p], seed=SEED, **options)
    oracle = Oracle(case, opt, p, form)
    for t in range(3):
        g = normal(t, dtype=gradient_dtype)
        oracle.load()
        opt.step([g])
        oracle.like.step([g.astype(np.float32)])
        oracle.compare()


@pytest.mark.parametrize(
    ("case", "word", "rounding"), all_pairs(RULES_AND_STAGES, WORDS, ["stochastic", "nearest"]), ids=ids
)
def test_state(case, word, rounding):
    run(case, normal(9), None, state_dtype=word, rounding=rounding)


@pytest.mark.parametrize(
    ("case", "parameter", "gradient"),
    all_pairs(RULES_AND_STAGES, [*PARAMETERS], [np.float16, BFLOAT16, np.float32]),
    ids=ids,
)
def test_parameters_of_16_bits(case, parameter, gradient):
    dtype, master, form = PARAMETERS[parameter]
    run(case, normal(9, dtype=dtype), form, gradient, master=master, state_dtype="8bit")


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("word", WORDS)
def test_threads_leave_the_bits(word, threads):
    n = 100_003
    of_both = []
    for number in (1, threads):
        p = normal(1, n, BFLOAT16)
        opt = fastopt.AdamW([p], state_dtype=word, master="split8", num_threads=number)
        for t in range(3):
            opt.step([normal(t, n, BFLOAT16)])
        of_both.append((p, opt.state[0]["m"].codes, opt.state[0]["v"].codes, opt.state[0]["low"]))
    for one, several in zip(*of_both, strict=True):
        assert_same(one.view(np.uint8), several.view(np.uint8))


def test_every_format_has_its_dtypes():
    """Those of the C core, of the same sizes, but for the formats of gradients alone."""
    own = {form.name: form for form in fastopt._core.formats() if form.name not in ("native", "float64")}
    assert own.keys() == fastopt.storage.DTYPES.keys()
    for name, (data, rest) in fastopt.storage.DTYPES.items():
        assert np.dtype(data).itemsize == own[name].bytes, name
        assert (np.dtype(rest).itemsize if rest else 0) == own[name].rest_bytes, name


def test_bytes_of_a_parameter():
    """AdamW of bfloat16 in 7.2 bytes, with the gradient; small arrays take no more than with float32."""
    n = 1 << 20
    p = np.ones(n, BFLOAT16)
    opt = fastopt.AdamW({"w": p}, master="split8", state_dtype="8bit")
    assert (opt.nbytes + np.ones(n, BFLOAT16).nbytes) / n <= 7.2
    assert f"{opt.nbytes:,} bytes" in repr(opt)
    for size in (0, 1, 2, 10, 63, 64, 65):
        small = np.ones(size, np.float32)
        assert fastopt.AdamW([small], state_dtype="8bit").nbytes <= fastopt.AdamW([small.copy()]).nbytes, size


def test_values_of_a_buffer():
    opt = fastopt.AdamW({"w": normal(1)}, state_dtype={"m": "8bit", "v": "bfloat16"})
    opt.step({"w": normal(2)})
    m, v = opt.state["w"]["m"], opt.state["w"]["v"]
    assert np.asarray(m).dtype == np.float32
    assert_same_bits(np.asarray(m), formats.FORMATS["codes_signed"].load(m.codes, m.scales))
    assert_same_bits(np.asarray(v), formats.FORMATS["bfloat16"].load(v.codes, None))
    assert abs(np.asarray(m) - 0.1 * normal(2)).max() < 0.01


@pytest.mark.parametrize("word", WORDS)
def test_resumed_runs_go_on_to_the_bit(word, tmp_path):
    def make(p):
        return fastopt.AdamW({"w": p}, state_dtype=word, master="split16", seed=7)

    p = normal(1, dtype=BFLOAT16)
    opt = make(p)
    for t in range(3):
        opt.step({"w": normal(t)})
    fastopt.save(tmp_path / "state", opt)
    pickled, copied = pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt)
    q = p.copy()
    loaded = make(q)
    fastopt.load(tmp_path / "state", loaded)
    for t in range(3, 6):
        for one in (opt, pickled, copied, loaded):
            one.step({"w": normal(t)})
    for one in (pickled, copied, loaded):
        assert_same(one.groups[0]["params"][0].view(np.uint16), p.view(np.uint16))
        for letter in ("m", "v"):
            assert_same(one.state["w"][letter].codes, opt.state["w"][letter].codes, letter)


@pytest.mark.parametrize("axes", [(2, 0, 1), (1, 2, 0), (2, 1, 0)], ids=str)
@pytest.mark.parametrize("word", WORDS)
def test_copies_that_lie_otherwise_go_on_to_the_bit(word, axes):
    """A pickled array lies in C order: elements keep the groups and the random numbers of the order before."""
    p = normal(1, (6, 10, 20), BFLOAT16).transpose(axes)
    opt = fastopt.AdamW({"w": p}, state_dtype=word, master="split8")
    opt.step({"w": normal(2, p.shape)})
    twice = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(opt))))
    for one in (opt, twice):
        one.step({"w": normal(3, p.shape)})
    q = twice.groups[0]["params"][0]
    assert_same(np.ascontiguousarray(q).view(np.uint16), np.ascontiguousarray(p).view(np.uint16))
    for letter in ("m", "v"):
        assert_same_bits(np.asarray(twice.state["w"][letter]), np.asarray(opt.state["w"][letter]))


@pytest.mark.parametrize("before", [None, *WORDS])
@pytest.mark.parametrize("now", [None, *WORDS])
def test_a_state_is_converted_where_that_is_asked_for(before, now, tmp_path):
    opt = fastopt.AdamW({"w": normal(1)}, state_dtype=before)
    opt.step({"w": normal(2)})
    other = fastopt.AdamW({"w": normal(1)}, state_dtype=now)
    if before != now:
        with pytest.raises(ValueError, match=r"must be stored as .*, got .*convert=True"):
            other.load_state_dict(opt.state_dict())
        assert other.step_count == 0
    other.load_state_dict(opt.state_dict(), convert=True)
    assert other.step_count == 1
    for letter in ("m", "v"):
        values = np.asarray(opt.state["w"][letter])
        here = other.state["w"][letter]
        if now is None:
            assert_same_bits(here, values, letter)
        else:
            assert_same(here.codes.view(np.uint8), here.encoded(values)[0].view(np.uint8), letter)


@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray], ids=["C", "Fortran"])
@pytest.mark.parametrize("master", ["split16", "split8", "float32"])
def test_elements_that_are_rebound_count_as_they_are(master, layout):
    p = layout(normal(1, (20, 50), BFLOAT16))
    opt = fastopt.AdamW({"w": p}, master=master, lr=0.01)
    for t in range(3):
        opt.step({"w": normal(t, (20, 50))})
    before = fastopt.storage.values_of(p, opt.state["w"]).copy()
    other = np.array(p, order="C")
    other[3:5] = normal(7, (2, 50), BFLOAT16)
    changed = other != p
    assert changed[3:5].any()
    assert not np.array_equal(before, p.astype(np.float32))
    opt.rebind({"w": other})
    after = fastopt.storage.values_of(other, opt.state["w"])
    assert_same_bits(after, np.where(changed, other.astype(np.float32), before))


LOAD_WITHOUT_ML_DTYPES = """
import sys, numpy, fastopt
opt = fastopt.AdamW({"w": numpy.ones(3, numpy.float32)}, state_dtype="bfloat16")
assert "ml_dtypes" not in sys.modules
fastopt.load(sys.argv[1], opt)
print(opt.step_count, opt.state["w"]["m"].codes.tolist())
"""


def test_a_file_with_bfloat16_is_loaded_by_a_process_that_has_not_met_it(tmp_path):
    opt = fastopt.AdamW({"w": np.ones(3, np.float32)}, state_dtype="bfloat16")
    opt.step({"w": np.ones(3, np.float32)})
    fastopt.save(tmp_path / "state", opt)
    output = subprocess.check_output([sys.executable, "-c", LOAD_WITHOUT_ML_DTYPES, tmp_path / "state"], text=True)
    assert output.split(maxsplit=1) == ["1", f"{opt.state['w']['m'].codes.tolist()}\n"]


def test_words_of_state_dtype_cannot_be_changed_from_outside():
    opt = fastopt.AdamW({"w": normal(1)}, state_dtype={"m": "bfloat16"})
    opt.state_dict()["groups"][0]["state_dtype"]["v"] = "8bit"
    assert opt.groups[0]["state_dtype"] == {"m": "bfloat16"}
    with pytest.raises(TypeError, match="state_dtype must stay"):
        opt.groups[0]["state_dtype"]["v"] = "8bit"
    copy.deepcopy(opt).step({"w": normal(2)})


def test_a_master_without_effect_is_refused():
    w, half = np.ones(3, np.float32), np.ones(3, BFLOAT16)
    for master in ("split16", "split8", "float32"):
        message = f"master must be auto or None for parameters of float32, since .*, got '{master}'"
        with pytest.raises(ValueError, match=f"AdamW: {message}"):
            fastopt.AdamW([w], master=master)
        with pytest.raises(ValueError, match=rf"AdamW: params\[0\].*: {message}"):
            fastopt.AdamW([{"params": w, "master": master}, {"params": half}])
        fastopt.AdamW([w, half], master=master)
        opt = fastopt.AdamW([{"params": w}, {"params": half}], master=master)
        assert opt.state[0].keys() == {"m", "v"}
        copy.deepcopy(opt).add_param_group({"params": w.copy()})
    fastopt.AdamW([w], master=None)


def test_skipped_steps_leave_codes():
    p, g = normal(1, dtype=BFLOAT16), normal(2)
    opt = fastopt.AdamW([p], state_dtype="8bit", nonfinite="skip")
    opt.step([g])
    before = [p.copy(), opt.state[0]["m"].codes.copy(), opt.state[0]["m"].scales.copy(), opt.state[0]["low"].copy()]
    g[5] = np.nan
    opt.step([g])
    assert opt.skipped_steps == 1
    after = [p, opt.state[0]["m"].codes, opt.state[0]["m"].scales, opt.state[0]["low"]]
    for one, other in zip(before, after, strict=True):
        assert_same(one.view(np.uint8), other.view(np.uint8))


@pytest.mark.parametrize("shape", [(), (40, 25)])
def test_masters_are_converted_where_that_is_asked_for(shape):
    """A state with one master loads into an optimizer with another: both keep the same float32 values."""
    kept = {"split16": 2**-24, "split8": 2**-16, "float32": 2**-24, None: 2**-8}
    for before in kept:
        p = normal(1, shape, dtype=BFLOAT16)
        opt = fastopt.AdamW({"w": p}, master=before, lr=0.01)
        for t in range(3):
            opt.step({"w": normal(t, shape)})
        values = fastopt.storage.values_of(p, opt.state["w"])
        for now in kept:
            other = fastopt.AdamW({"w": p.copy()}, master=now, lr=0.01)
            if before != now:
                with pytest.raises(ValueError, match=r"parameter of .* must be stored as .*, got .*convert=True"):
                    other.load_state_dict(opt.state_dict())
            other.load_state_dict(opt.state_dict(), convert=True)
            assert_same(other.groups[0]["params"][0].view(np.uint16), p.view(np.uint16))
            here = fastopt.storage.values_of(other.groups[0]["params"][0], other.state["w"])
            assert (abs(here.astype(np.float32) - values) <= abs(values) * max(kept[before], kept[now])).all(), now


DTYPES = (np.float16, BFLOAT16, np.float32, np.float64)


def is_nearest(array, exact):
    """Whether no number of the dtype is nearer to the exact values than those of an array."""
    unsigned = np.dtype(f"u{array.itemsize}")
    error = abs(array.astype(np.float64) - exact)
    beside = [(array.view(unsigned) + np.array(k).astype(unsigned)).view(array.dtype) for k in (-1, 1)]
    return all((error <= abs(one.astype(np.float64) - exact)).all() for one in beside)


@pytest.mark.parametrize(("before", "now"), [*permutations(DTYPES, 2)])
@pytest.mark.parametrize("master", ["auto", None])
def test_parameters_of_another_dtype_are_converted_where_that_is_asked_for(before, now, master, tmp_path):
    """Parameters with their masters, state and averages, each rounded once; refused otherwise."""
    # The last is nearer to the bfloat16 above than to the one below, but not once it has been rounded to float32.
    p = np.append(normal(1), [1 + 2**-8 + 2**-30]).astype(before)
    opt = fastopt.AdamW({"w": p}, lr=0.01, master=master, ema_decay=0.9)
    for t in range(3):
        opt.step({"w": normal(t, N + 1)})
    p[-1] = 1 + 2**-8 + 2**-30
    exact = fastopt.storage.values_of(p, opt.state["w"]).astype(np.float64)
    fastopt.save(tmp_path / "state", opt, parameters=True)
    q = np.ones(N + 1, now)
    other = fastopt.AdamW({"w": q}, lr=0.01, master=master, ema_decay=0.9)
    saved = repr((other.state_dict(), q))
    message = f"'w' must have dtype {np.dtype(now).name}.*, got {np.dtype(before).name}.*convert=True"
    with pytest.raises(ValueError, match=message):
        fastopt.load(tmp_path / "state", other, parameters=True)
    message = f"parameter of the state of 'w' must have dtype {np.dtype(now).name}, got {np.dtype(before).name};"
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(opt.state_dict())
    assert saved == repr((other.state_dict(), q))
    assert other.load_state_dict(opt.state_dict(), strict=False).mismatched == ("w",)
    assert not other.state["w"]["m"].any()

    fastopt.load(tmp_path / "state", other, parameters=True, convert=True)
    assert is_nearest(q, exact) or master == "auto"  # a half of split16 is rounded up where two numbers are as near
    kept = fastopt.storage.values_of(q, other.state["w"])
    if master == "auto" or now in (np.float32, np.float64):
        assert_same_bits(kept, exact.astype(kept.dtype))
    for letter in ("m", "v", "ema"):
        assert_same_bits(other.state["w"][letter], opt.state["w"][letter].astype(kept.dtype), letter)

    alone = fastopt.AdamW({"w": q.copy()}, lr=0.01, master=master, ema_decay=0.9)
    alone.load_state_dict(opt.state_dict(), convert=True)  # has no parameters: those that are here stay
    assert_same(alone.groups[0]["params"][0].view(f"u{q.itemsize}"), q.view(f"u{q.itemsize}"))
    assert (fastopt.storage.values_of(alone.groups[0]["params"][0], alone.state["w"]) == q.astype(kept.dtype)).all()
    assert_same_bits(alone.state["w"]["m"], other.state["w"]["m"])
    assert other.step_count == alone.step_count == 3


def test_a_converted_run_goes_on():
    """float32 to bfloat16 with a master and back is the same run, to the bit."""
    p = {"w": normal(1)}
    there = fastopt.AdamW(p, lr=0.01)
    there.step({"w": normal(2)})
    with TemporaryDirectory() as folder:
        path = Path(folder, "state")
        fastopt.save(path, there, parameters=True)
        half = fastopt.AdamW({"w": np.zeros(N, BFLOAT16)}, lr=0.01)
        fastopt.load(path, half, parameters=True, convert=True)
        fastopt.save(path, half, parameters=True)
        back = fastopt.AdamW({"w": np.zeros(N, np.float32)}, lr=0.01)
        fastopt.load(path, back, parameters=True, convert=True)
    for opt in (there, back):
        opt.step({"w": normal(3)})
    assert_same_bits(back.groups[0]["params"][0], p["w"])
    for letter in ("m", "v"):
        assert_same_bits(back.state["w"][letter], there.state["w"][letter])


@pytest.mark.parametrize("word", ["bfloat16", "float16"])
def test_state_of_float64_is_rounded_once(word):
    values = np.array([1 + 2**-8 + 2**-30, 1 + 2**-11 + 2**-30, 1 / 3, -1 - 2**-8 + 2**-30, 1e300, np.inf])
    opt = fastopt.SGD({"w": np.ones(6)}, momentum=0.9)
    opt.step({"w": values})
    other = fastopt.SGD({"w": np.ones(6)}, momentum=0.9, state_dtype=word)
    other.load_state_dict(opt.state_dict(), convert=True)
    stored = other.state["w"]["b"].codes.view(BFLOAT16 if word == "bfloat16" else np.float16)
    assert is_nearest(stored[:4], values[:4])
    assert (stored[4:] == np.inf).all()


def test_second_parts_of_no_parameter_are_not_converted():
    opt = fastopt.AdamW({"w": normal(1, dtype=BFLOAT16)})
    state = opt.state_dict()
    other = fastopt.AdamW({"w": normal(1)})
    state["state"]["w"]["low"] = state["state"]["w"]["low"][:3]
    with pytest.raises(ValueError, match="parameter of the state of 'w' must have a second part of bfloat16"):
        other.load_state_dict(state, convert=True)
    for dtype in ("int8", 3, None, ["float32"]):
        state["state"]["w"]["dtype"] = dtype
        with pytest.raises(ValueError, match=r"dtype in the state of 'w' must be a dtype of parameters, got"):
            other.load_state_dict(state, convert=True)


@pytest.mark.parametrize("master", ["split16", "split8", "float32", None])
def test_averages_are_of_the_values_that_are_kept(master):
    """An average is float32, also of a parameter that no step has changed, and is swapped to the bit."""
    p, q = normal(1, dtype=BFLOAT16), normal(2, dtype=BFLOAT16)
    opt = fastopt.AdamW({"p": p, "q": q}, master=master, ema_decay=0.9, swa=(1, 1))
    for t in range(3):
        opt.step({"p": normal(t), "q": None})
    opt.step({"p": None, "q": None})
    for average in (opt.ema, opt.swa):
        assert {values.dtype for values in average.values()} == {np.dtype(np.float32)}
        assert_same_bits(average["q"], q.astype(np.float32))
    before = [p.copy(), q.copy(), *(np.array(opt.state["p"][letter]) for letter in opt.state["p"])]
    with opt.swapped("ema"):
        assert_same(p.view(np.uint16), opt.ema["p"].astype(BFLOAT16).view(np.uint16))
    after = [p, q, *(np.array(opt.state["p"][letter]) for letter in opt.state["p"])]
    for one, other in zip(before, after, strict=True):
        assert_same(one.view(np.uint8), other.view(np.uint8))


def test_the_schedule_free_average_knows_the_low_parts():
    p, native = normal(1, dtype=BFLOAT16), normal(1, dtype=BFLOAT16).astype(np.float32)
    opt, other = fastopt.ScheduleFreeSGD([p], lr=0.1), fastopt.ScheduleFreeSGD([native], lr=0.1)
    for t in range(5):
        for one in (opt, other):
            one.step([normal(t)])
    assert_same_bits(opt.x[0], other.x[0])


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (1, 1), (64,), (65,), (3, 43)], ids=str)
@pytest.mark.parametrize("word", WORDS)
def test_any_shape_is_stepped_shown_and_saved(word, shape, tmp_path):
    p = np.ones(shape, BFLOAT16)
    opt = fastopt.AdamW({"w": p}, state_dtype=word)
    opt.step({"w": np.ones(shape, np.float32)})
    assert all(np.asarray(buffer).shape == shape for buffer in opt.state["w"].values())
    fastopt.save(tmp_path / "state", opt, parameters=True)
    other = fastopt.AdamW({"w": np.zeros(shape, BFLOAT16)}, state_dtype=word)
    fastopt.load(tmp_path / "state", other, parameters=True)
    for one in (other, copy.deepcopy(opt)):
        assert_same(one.groups[0]["params"][0].view(np.uint16), p.view(np.uint16))


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda a: a.T.copy().T, lambda a: np.repeat(a, 2, 1)[:, ::2]])
def test_codes_of_another_layout_are_converted(layout):
    opt = fastopt.AdamW({"w": layout(normal(1, (30, 70)))}, state_dtype="8bit")
    opt.step({"w": normal(2, (30, 70))})
    m = opt.state["w"]["m"]
    assert abs(np.asarray(m) - 0.1 * normal(2, (30, 70))).max() < 0.02
    other = fastopt.AdamW({"w": normal(1, (30, 70))}, state_dtype="8bit")
    if m.order != (0, 1):
        with pytest.raises(ValueError, match=r"codes of 'm' in .* order of axes \[0, 1\], got \[1, 0\]"):
            other.load_state_dict(opt.state_dict())
    other.load_state_dict(opt.state_dict(), convert=True)
    assert abs(np.asarray(other.state["w"]["m"]) - np.asarray(m)).max() < 0.02


def test_axes_of_one_element_make_no_other_layout():
    w = normal(1, (1, 30, 1, 70))
    spread = np.lib.stride_tricks.as_strided(np.repeat(w, 2, 3), w.shape, (4, 560, 8, 8))
    opt = fastopt.AdamW({"w": spread}, state_dtype="8bit")
    other = fastopt.AdamW({"w": w.copy()}, state_dtype="8bit")
    opt.step({"w": w.copy()})
    assert opt.state["w"]["m"].order != other.state["w"]["m"].order
    other.load_state_dict(opt.state_dict())
    assert_same_bits(np.asarray(other.state["w"]["m"]), np.asarray(opt.state["w"]["m"]))


def test_state_dtype_by_letter_is_copied_and_saved(tmp_path):
    opt = fastopt.AdamW({"w": normal(1)}, state_dtype={"m": "8bit"})
    opt.step({"w": normal(2)})
    fastopt.save(tmp_path / "state", opt)
    loaded = fastopt.AdamW({"w": normal(1)}, state_dtype={"m": "8bit"})
    fastopt.load(tmp_path / "state", loaded)
    for one in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt)), loaded):
        assert one.groups[0]["state_dtype"] == {"m": "8bit"}
        assert_same(one.state["w"]["m"].codes, opt.state["w"]["m"].codes)


def test_state_without_formats_is_loaded():
    """As it was written before there were any."""
    opt = fastopt.AdamW([normal(1)])
    opt.step([normal(2)])
    state = opt.__getstate__()
    state["options"] = {key: value for key, value in state["options"].items() if key != "seed"}
    for hyper in (*state["hyper"], state["defaults"], *state["state_dict"]["groups"]):
        for key in ("state_dtype", "master", "rounding"):
            del hyper[key]
    other = fastopt.AdamW.__new__(fastopt.AdamW)
    other.__setstate__(state)
    assert_same_bits(other.state[0]["m"], opt.state[0]["m"])


@pytest.mark.parametrize(
    "damage",
    [
        {"m": np.zeros(N, np.float16)},
        {"m": np.zeros(N // 2, np.int8)},
        {"m": None},
        {"m.scales": np.zeros(3, np.float32)},
        {"m.scales": None},
        {"m.scales": np.zeros(16, np.float16)},
        {"formats": {"m": "float16"}},
        {"formats": {"m": "split16"}},
        {"formats": {"m": 3}},
        {"formats": {"m": "codes_signed", "more": "float16"}},
        {"formats": {"m": ["float16"]}},
        {"formats": 3},
        {"order": [1]},
        {"order": 3},
        {"low": np.zeros(3, np.int16)},
    ],
    ids=str,
)
def test_damaged_formats_are_refused(damage):
    state = fastopt.AdamW([normal(1)], state_dtype={"m": "8bit"}).state_dict()
    state["state"][0] |= damage
    for word in (None, *WORDS):
        opt = fastopt.AdamW([normal(1)], state_dtype=word)
        with pytest.raises((TypeError, ValueError), match=r"AdamW\.load_state_dict: .*parameter 0"):
            opt.load_state_dict(state, convert=True)


def test_elements_of_a_buffer():
    opt = fastopt.AdamW({"w": normal(1, (10, 100))}, state_dtype="8bit")
    opt.step({"w": normal(2, (10, 100))})
    m = opt.state["w"]["m"]
    values = np.asarray(m)
    assert len(m) == 10
    assert_same_bits(m[3, 5:7], values[3, 5:7])
    assert_same_bits(np.array(list(m)), values)
    for other in (copy.copy(m), copy.deepcopy(m), pickle.loads(pickle.dumps(m)), m.copy()):
        assert_same_bits(np.asarray(other), values)
    m[0, 0] = 0.25
    assert abs(m[0, 0] - 0.25) < 0.01
    assert_same_bits(np.asarray(m)[1:], values[1:])
    with pytest.raises(AttributeError, match="codes cannot be replaced; its elements can be set"):
        m.codes = None
    with pytest.raises(ValueError, match="copy must not be False"):
        m.__array__(copy=False)


README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.mark.skipif(not README.exists(), reason="needs the source tree")
def test_the_readme_stores_fewer_bytes():
    text = README.read_text(encoding="utf-8")
    (block,) = (b for b in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if "split8" in b)
    names = {"fastopt": fastopt, "np": np, "ml_dtypes": ml_dtypes, "w": normal(1, 6400), "gradient": normal(2, 6400)}
    exec(block, names)
    assert (names["opt"].nbytes + 2 * 6400) / 6400 <= 7.2
    assert abs(names["m"] - 0.1 * normal(2, 6400)).max() < 0.01


def test_bad_formats():
    p = normal(1)
    with pytest.raises(ValueError, match=r"AdamW: state_dtype must be one of .*, got 'int8'"):
        fastopt.AdamW([p], state_dtype="int8")
    with pytest.raises(ValueError, match=r"state_dtype must have letters of the state as keys, m, v, got 'x'"):
        fastopt.AdamW([p], state_dtype={"x": "8bit"})
    with pytest.raises(ValueError, match="master must be float32 or None for a parameter of float16"):
        fastopt.AdamW([p.astype(np.float16)], master="split16")
    with pytest.raises(ValueError, match="the rule needs each of its bits"):
        fastopt.Rprop([p], state_dtype={"step_size": "bfloat16"})
    with pytest.raises(ValueError, match=r"seed must be an integer in \[0, 2\*\*64\), got -1"):
        fastopt.AdamW([p], seed=-1)
    opt = fastopt.AdamW([p], state_dtype="8bit")
    with pytest.raises(ValueError, match="state_dtype must stay '8bit', since the state was laid out for it"):
        opt.groups[0]["state_dtype"] = None
