"""Parameters and state that are stored in other formats: a step is that of float32 between load and store."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

import fastopt
from support import formats
from support.asserts import assert_same_bits, ids
from support.cases import CASES
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
        rounding = self.opt.groups[0]["rounding"]
        key = formats.random_key(SEED, fastopt.storage.key_of(0), self.t)
        count = 0

        def random(form):
            nonlocal count
            if rounding == "nearest" or not form.rounds:
                return None
            stream, half = divmod(count, 2)
            count += 1
            return formats.random_bits(key, stream, 0, N) >> 16 * half & 0xFFFF

        with np.errstate(all="ignore"):
            p = self.form.store(self.native, random(self.form)) if self.form else (self.native.copy(), None)
            state = {
                letter: self.stored[letter].store(array, random(self.stored[letter]))
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


@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_state(case, word, rounding):
    run(case, normal(9), None, state_dtype=word, rounding=rounding)


@pytest.mark.parametrize("gradient", [np.float16, BFLOAT16, np.float32])
@pytest.mark.parametrize("parameter", PARAMETERS)
@pytest.mark.parametrize("case", CASES, ids=ids)
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


def test_bad_formats():
    p = normal(1)
    with pytest.raises(ValueError, match=r"AdamW: state_dtype must be one of .*, got 'int8'"):
        fastopt.AdamW([p], state_dtype="int8")
    with pytest.raises(ValueError, match=r"state_dtype must be by letters of the state, m, v, got 'x'"):
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
