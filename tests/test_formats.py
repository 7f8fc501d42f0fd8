"""Storage formats: bits that every compiler and instruction set stores and loads, and how exact they are."""

import ctypes
import re
import shutil
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import fastopt
from support import disassembly, formats
from support.builds import CSRC, INCLUDE, OPTIMISED, WARNINGS, X86, built
from support.formats import CODES, FORMATS, GROUP, Format

SOURCE = Path(__file__).with_name("formats.c")
DEFINITIONS = CSRC / "storage/formats.def"
ISAS = {
    "baseline": [],
    "avx2": ["-mavx2"],
    "avx512wide": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"],
}
FLOAT32 = np.finfo(np.float32)
TINY = FLOAT32.tiny
FORMAT = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
ROUNDINGS = ["nearest", "stochastic"]
ROUNDING = pytest.mark.parametrize("rounding", ROUNDINGS)
SIGNED, NONNEGATIVE = CODES[True], CODES[False]
CODED = pytest.mark.parametrize("form", CODES.values(), ids=[form.name for form in CODES.values()])

pytestmark = pytest.mark.skipif(not INCLUDE.is_dir(), reason="needs the source tree")


def library(builds: Path, compiler: str, isa: str, *flags: str) -> Path:
    """The library of tests/formats.c."""
    flags = (*OPTIMISED, *WARNINGS, *ISAS[isa], *flags, f"-I{INCLUDE}", "-shared", "-fPIC")
    return built(builds, compiler, *flags, SOURCE, suffix=".so")


class Native:
    """The C formats of one compiler and instruction set."""

    def __init__(self, file: Path, isa: str) -> None:
        self.file, self.isa = file, isa
        self.library = ctypes.CDLL(str(file))
        self.flushes = ctypes.c_int.in_dll(self.library, "flushes")
        self.library.test_key.restype = ctypes.c_uint64

    def call(self, function, dtype, *arguments):
        """Run a function; None is a null pointer."""
        function = getattr(self.library, f"test_{function}_{'f32' if dtype == np.float32 else 'f64'}")
        function.restype = None
        function(*(address(x) if x is None or isinstance(x, np.ndarray) else ctypes.c_ssize_t(x) for x in arguments))

    def store(self, form: Format, x, random=None, shift=0, *, into=None, offset=0):
        """What is stored of x; random is the 16 bits of each element."""
        data, rest = form.empty(len(x)) if into is None else into
        words = None if random is None else (random << shift).astype(np.uint32)
        self.call(f"store_{form.name}", x.dtype, x, data, rest, offset, len(x), words, ctypes.c_int(shift).value)
        return data, rest

    def load(self, form: Format, data, rest, dtype=np.float32):
        out = np.empty(len(data), dtype)
        self.call(f"load_{form.name}", out.dtype, out, data, rest, 0, len(data))
        return out

    def random(self, key, stream, offset, n):
        out = np.empty(n, np.uint32)
        function = self.library.test_random_f32
        function.restype = None
        function(address(out), ctypes.c_uint64(key), stream, ctypes.c_ssize_t(offset), ctypes.c_ssize_t(n))
        return out


def address(x):
    return None if x is None else ctypes.c_void_p(x.ctypes.data)


@pytest.fixture(scope="module", params=product(["gcc", "clang"], ISAS), ids="-".join)
def native(request, builds):
    """Every compiler and instruction set that is here."""
    compiler, isa = request.param
    if shutil.which(compiler) is None or isa not in fastopt._core.available_isas():
        pytest.skip(f"no {compiler}, or no {isa}")
    return Native(library(builds, compiler, isa), isa)


@pytest.fixture(scope="module")
def one(builds):
    """One of them, for what all have in common."""
    compiler = next(filter(shutil.which, ("gcc", "clang")), None)
    if compiler is None:
        pytest.skip("no compiler")
    isa = [isa for isa in fastopt._core.available_isas() if isa in ISAS][-1]
    return Native(library(builds, compiler, isa), isa)


# ---- Elements ----


@cache
def elements(dtype=np.float32, every=16) -> np.ndarray:
    """Every sign and exponent, subnormals, infinity and NaN among them, with fractions around the places where formats
    cut; and one in `every` of all float16, of numbers around the middle of two, of random bits; and groups of all
    magnitudes with elements down to 2^-40 of the largest.
    """
    rng = np.random.default_rng(1)
    cuts = [
        b + d for b in (0, 1 << 7, 1 << 8, 1 << 12, 1 << 13, 1 << 15, 1 << 16, 1 << 22, 0x7FC000) for d in (-1, 0, 1)
    ]
    fractions = np.array([*cuts, 0x7F8000, 0x7FEFFF, 0x7FF000, 0x7FFF7F, 0x7FFF80, 0x7FFFFE, 0x3F8000]) & 0x7FFFFF
    exact = (np.arange(512)[:, None] << 23 | fractions).ravel()
    halves = formats.bits(np.arange(0, 65536, every, np.uint16).view(np.float16).astype(np.float32))
    between = (halves[:, None] + np.array([0x0FFF, 0x1000, 0x1001]) & 0xFFFFFFFF).ravel()
    middles = np.arange(0, 65536, every) << 16 | 0x8000  # of bfloat16
    x = formats.floats(np.concatenate([exact, halves, between, middles, rng.integers(0, 2**32, 1_000_000 // every)]))
    per_exponent = 16 // every + 1
    groups = rng.standard_normal((254 * per_exponent, GROUP)) * np.exp2(
        -rng.uniform(0, 40, (254 * per_exponent, GROUP))
    )
    groups *= np.exp2(np.repeat(np.arange(-126, 128), per_exponent))[:, None]
    with np.errstate(over="ignore", under="ignore"):
        x = np.concatenate([x[: len(x) // GROUP * GROUP], groups.astype(np.float32).ravel(), x[: GROUP - 1]])
    if dtype == np.float32:
        return x
    with np.errstate(invalid="ignore"):
        return x.astype(np.float64) * (1 + rng.uniform(-1, 1, len(x)) * np.exp2(-rng.uniform(20, 50, len(x))))


@cache
def random_bits(n: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 65536, n)


def bits_for(rounding: str, n: int):
    return random_bits(n) if rounding == "stochastic" else None


@cache
def oracle(name: str, rounding: str, dtype=np.float32, every=16) -> formats.Stored:
    with np.errstate(all="ignore"):
        x = formats.narrow(elements(dtype, every))
        return FORMATS[name].store(x, bits_for(rounding, len(x)))


def group(*values, fill=0.0):
    """A group that starts with these values."""
    x = np.full(GROUP, fill, np.float32)
    x[: len(values)] = values
    return x


def same(found, right, what=""):
    """To the bit, NaN by payload and sign too."""
    for a, b in zip(found, right, strict=True):
        if b is None:
            assert a is None
            continue
        assert a.dtype == b.dtype
        unequal = np.flatnonzero(a.view(f"u{a.itemsize}") != b.view(f"u{b.itemsize}"))
        assert unequal.size == 0, f"{what}: {unequal.size} differ, first {unequal[0]}: {a[unequal[0]]} {b[unequal[0]]}"


# ---- Bits ----


def test_every_format_has_an_oracle():
    """But float32 and float64, which the compiler converts. Its row agrees with it."""
    rows = re.findall(r"^FORMAT\((\w+), \w+, (\d), (\d), (\w+), (\d),", DEFINITIONS.read_text(), re.MULTILINE)
    found = {name: row for name, *row in rows if name not in ("float32", "float64")}
    assert found == {
        form.name: [
            str(np.dtype(form.data).itemsize),
            str(np.dtype(form.rest).itemsize if form.rest else 0),
            "GROUP" if form.group > 1 else "1",
            str(int(form.rounds)),
        ]
        for form in FORMATS.values()
    }


@pytest.fixture(params=[0, 1], ids=["subnormals", "flushed"])
def flushes(request, native):
    """Whether subnormals are flushed, as they are while kernels run: they are not computed with."""
    native.flushes.value = request.param
    yield request.param
    native.flushes.value = 0


@FORMAT
def test_stored_like_the_oracle(native, flushes, form):
    for dtype, rounding in product((np.float32, np.float64), ROUNDINGS):
        x = elements(dtype)
        found = native.store(form, x, bits_for(rounding, len(x)), 16)
        same(found, oracle(form.name, rounding, dtype), f"{dtype.__name__}, {rounding}")


@FORMAT
@ROUNDING
def test_many_are_stored_like_the_oracle(one, form, rounding):
    """A million random ones, every float16 and every middle among them."""
    x = elements(every=1)
    same(one.store(form, x, bits_for(rounding, len(x))), oracle(form.name, rounding, every=1))


@FORMAT
def test_loaded_like_the_oracle(native, flushes, form):
    data, rest = oracle(form.name, "stochastic")
    with np.errstate(under="ignore"):
        right = form.load(data, rest)
    same([native.load(form, data, rest)], [right])
    wide = native.load(form, data, rest, np.float64)
    if flushes:  # the conversion flushes them
        right = np.where(abs(right) < TINY, np.copysign(np.float32(0), right), right)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(wide, right.astype(np.float64))


@FORMAT
def test_all_that_can_be_stored_is_loaded(native, form):
    """Any bits in data and rest, also those that no store writes."""
    rng = np.random.default_rng(3)
    n = 1 << 17
    data, rest = form.empty(n)
    data[:] = np.arange(n).astype(data.dtype)
    if rest is not None:
        size = np.dtype(form.rest).itemsize
        rest[:] = rng.integers(0, 256, len(rest) * size).astype(np.uint8).view(form.rest)
        if form.group > 1:  # a scale
            rest[:] = np.where(rest == rest, np.clip(abs(rest), 2.0**-100, 2.0**80), 1)
            data[:] = np.where(data == -128, 0, data)
    np.testing.assert_array_equal(native.load(form, data, rest), form.load(data, rest))


def test_float16_and_bfloat16_keep_all_their_values(one):
    values = np.arange(65536, dtype=np.uint16)
    for name, quiet in (("float16", 0x7E00), ("bfloat16", 0x7FC0)):
        form = FORMATS[name]
        x = one.load(form, values, None)
        stored, _ = one.store(form, x)
        nan = np.isnan(x)
        np.testing.assert_array_equal(stored[~nan], values[~nan])
        assert (stored[nan] & 0x7FFF == quiet).all()
        assert nan.sum() == 2 * (2 ** (10 if name == "float16" else 7) - 1)
    np.testing.assert_array_equal(one.load(FORMATS["float16"], values, None), values.view(np.float16))


def test_nearest_bfloat16_is_that_of_ml_dtypes(one):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = elements(every=1)[~np.isnan(elements(every=1))]
    stored, _ = one.store(FORMATS["bfloat16"], x)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(stored, x.astype(ml_dtypes.bfloat16).view(np.uint16))


# ---- Split and master ----


def test_split_into_16_and_16_bits_is_exact(native):
    """For every exponent, subnormals and infinity among them; NaN stays one, in the bfloat16 alone too."""
    form, x = FORMATS["split16"], elements()
    data, rest = native.store(form, x)
    nan = np.isnan(x)
    same([native.load(form, data, rest)[~nan]], [x[~nan]])
    for kept in (native.load(form, data, rest), native.load(FORMATS["bfloat16"], data, None)):
        assert np.isnan(kept[nan]).all()


def test_split_into_16_and_8_bits_is_a_float_of_24_bits(one):
    """The error is at most half of the last place, the lower part never saturates, and the upper one is nearest."""
    form, x = FORMATS["split8"], elements()
    data, rest = one.store(form, x)
    kept = one.load(form, data, rest)
    nan = np.isnan(x)
    finite = np.isfinite(kept) & (abs(x) >= TINY)
    wrong = abs(formats.bits(kept) - formats.bits(x))[finite]
    assert wrong.max() == 128
    assert np.isnan(kept[nan]).all()
    assert np.isinf(kept[np.isinf(x)]).all()
    assert (abs(x[np.isinf(kept)]) >= FLOAT32.max * (1 - 2.0**-16)).all()
    assert set(np.unique(rest)) == set(range(-128, 128))
    upper = formats.floats(data.astype(np.int64) << 16)
    with np.errstate(invalid="ignore"):
        distance = abs(upper.astype(np.float64) - kept)[finite & np.isfinite(upper)]
    assert (distance <= np.spacing(abs(kept[finite & np.isfinite(upper)])) * 2.0**15).all()


@pytest.mark.parametrize("name", ["master_float16", "master_bfloat16"])
def test_a_parameter_that_was_overwritten_counts_more_than_its_master(one, name):
    form, short = FORMATS[name], FORMATS[name.removeprefix("master_")]
    x = np.random.default_rng(4).standard_normal(1000).astype(np.float32)
    data, master = one.store(form, x)
    same([master, one.load(form, data, master)], [x, x])
    same([data], [one.store(short, x)[0]])
    data[::3] = one.store(short, np.full(334, 7, np.float32))[0]
    right = x.copy()
    right[::3] = 7
    same([one.load(form, data, master)], [right])


# ---- Slices ----


@FORMAT
@ROUNDING
def test_parts_are_stored_like_the_whole(native, form, rounding):
    """Cut at multiples of 64, at any alignment of the elements, and nothing beyond is written."""
    x = np.resize(elements()[-8000:], 1001)
    random = bits_for(rounding, len(x))
    whole = native.store(form, x, random)
    for n in (0, 1, 2, 63, 64, 65, 127, 128, 300, 319, 1001):
        part = native.store(form, x[:n], random if random is None else random[:n])
        whole_of_n = form.store(x[:n], random if random is None else random[:n])
        same(part, whole_of_n, n)
    pieces = form.empty(len(x))
    for begin, end in ((640, 1001), (0, 64), (64, 320), (320, 640)):
        moved = np.empty(end - begin + 1, np.float32)[1:]
        moved[:] = x[begin:end]
        bits = random if random is None else random[begin:end]
        native.store(form, moved, bits, 16, into=pieces, offset=begin)
    same(pieces, whole)


@FORMAT
@pytest.mark.parametrize("n", [1, 10, 63, 65, 100])
def test_nothing_is_written_beyond_the_last_element(native, form, n):
    data, rest = form.empty(n + 64)
    data[:], x = 77, np.linspace(-1, 2, n, dtype=np.float32)
    native.store(form, x, into=(data, rest))
    assert (data[n:] == 77).all()
    if rest is not None:
        assert not rest[-(-n // form.group) :].any()


# ---- Groups ----


@CODED
@ROUNDING
def test_groups_of_zeros(one, form, rounding):
    """Subnormals count as zeros. The smallest normal number does so only where a sign takes its place."""
    for x in (np.zeros(GROUP, np.float32), np.full(GROUP, TINY / 2, np.float32), -np.zeros(GROUP, np.float32)):
        data, scale = one.store(form, x, bits_for(rounding, GROUP))
        assert not data.any()
        assert not scale.any()
        assert not one.load(form, data, scale).any()
    data, _ = one.store(form, group(TINY, TINY / 2, -TINY / 2), bits_for(rounding, GROUP))
    assert bool(data[0]) == (form is NONNEGATIVE)
    assert not data[1:].any()


@CODED
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf, FLOAT32.max], ids=str)
def test_nonfinite_elements_stay_in_their_group(native, form, bad):
    x = np.random.default_rng(5).standard_normal(5 * GROUP).astype(np.float32)
    random = random_bits(len(x))
    clean = native.store(form, x, random)
    x[2 * GROUP + 17] = bad
    data, rest = native.store(form, x, random)
    elsewhere = np.arange(len(x)) // GROUP != 2
    same([data[elsewhere], rest[[0, 1, 3, 4]]], [clean[0][elsewhere], clean[1][[0, 1, 3, 4]]])
    there = native.load(form, data, rest)[~elsewhere]
    assert (np.isnan(there) if np.isnan(bad) else np.isinf(there)).all()
    if form is SIGNED and not np.isnan(bad):
        np.testing.assert_array_equal(np.signbit(there), np.signbit(x[~elsewhere]))
    again = native.store(form, native.load(form, data, rest), random)
    same(again, (data, rest))


@CODED
def test_what_is_loaded_is_stored_as_it_was(native, form):
    """For any scale, and any random bits: an element that does not change keeps its code."""
    rng = np.random.default_rng(6)
    scales = np.concatenate([np.exp2(np.arange(-100, 80)), np.exp2(rng.uniform(-100, 80, 1000))]).astype(np.float32)
    scales = formats.floats(formats.bits(scales) & ~63)
    codes = rng.integers(-127 if form is SIGNED else 0, 128 if form is SIGNED else 256, (len(scales), GROUP))
    codes[:, 0] = 127 if form is SIGNED else 255  # the largest
    data = codes.ravel().astype(form.data)
    x = native.load(form, data, scales)
    n = len(x)
    for random in (None, np.zeros(n, int), np.full(n, 65535), random_bits(n)):
        same(native.store(form, x, random), (data, scales))


@FORMAT
@ROUNDING
def test_storing_twice_changes_nothing(one, form, rounding):
    x = elements()
    random = bits_for(rounding, len(x))
    first = one.store(form, x, random)
    again = one.store(form, one.load(form, *first), None if random is None else random[::-1])
    if form.group == 1:
        same(again, first)
        return
    kept = np.repeat(again[1] == first[1], GROUP)[: len(x)]  # the largest code may have been rounded down
    np.testing.assert_array_equal(again[0][kept], first[0][kept])
    assert kept.mean() > 0.5


@ROUNDING
def test_an_element_that_is_not_zero_has_a_code_that_is_not_zero(native, rounding):
    """And its value is normal: what divides by it may."""
    rng = np.random.default_rng(7)
    x = np.exp2(rng.uniform(-126, 127, 100 * GROUP)).astype(np.float32)
    for y in (x, np.sort(x), x * (np.arange(len(x)) % 3 > 0)):
        data, rest = native.store(NONNEGATIVE, y, bits_for(rounding, len(y)))
        np.testing.assert_array_equal(data > 0, y > 0)
        assert (native.load(NONNEGATIVE, data, rest)[y > 0] >= TINY).all()


@CODED
def test_levels(one, form):
    """With a scale of 1: the codes themselves up to 2^k, then a power; linear with steps of powers of two between."""
    k = 1 if form is SIGNED else 3
    data = np.arange(128 if form is SIGNED else 256).astype(form.data)
    level = one.load(form, data, np.ones(-(-len(data) // GROUP), np.float32)).astype(np.float64)
    np.testing.assert_array_equal(level, formats.levels(k, len(data)))
    np.testing.assert_array_equal(level[: 2**k + 1], np.arange(2**k + 1))
    steps = np.diff(level)
    assert (np.frexp(steps)[0] == 0.5).all(), "all differences are powers of two"
    powers = 2 ** np.arange(k, 8 if form is NONNEGATIVE else 7)
    np.testing.assert_array_equal(np.log2(level[powers]) - k, 2**k * (np.log2(powers) - k))


# ---- Rounding at random ----


def every_rounding(one, form, x):
    """What is loaded of one element, for each of the 65,536 random numbers; the largest of its group is 1."""
    numbers, alike = np.arange(65536), form.group - 1 or 1  # elements of a group that are x
    many = np.ones((-(-len(numbers) // alike), form.group), np.float32)
    many[:, :alike] = x
    random = np.full(many.shape, 32768)
    places = np.flatnonzero(np.arange(many.size) % form.group < alike)[: len(numbers)]
    random.ravel()[places] = numbers
    data, rest = one.store(form, many.ravel(), random.ravel())
    return one.load(form, data, rest)[places].astype(np.float64)


@pytest.mark.parametrize("form", [form for form in FORMATS.values() if form.rounds], ids=lambda form: form.name)
def test_the_mean_of_all_roundings_is_the_element(one, form):
    """Exactly, to what the random bits can tell apart; and only the two neighbours occur."""
    rng = np.random.default_rng(8)
    for _ in range(16):
        # Codes: beside a largest element of 1, from far below the first level on; of v those above the first level.
        size = np.exp2(rng.uniform(-18 if form is not NONNEGATIVE else -42, 0))
        x = np.float32(size * (rng.choice([-1, 1]) if form is not NONNEGATIVE else 1))
        found = every_rounding(one, form, x)
        values = np.unique(found)
        assert len(values) <= 2
        assert values[0] <= x <= values[-1]
        step = values[-1] - values[0]
        assert abs(found.mean() - x) <= step * 2.0**-13 if step else found[0] == x


def test_random_bits_are_those_of_the_oracle(native):
    """At any place, also beyond 2^32, whatever the pieces."""
    for key, stream, offset in ((0, 0, 0), (2**64 - 1, 1, 12345), (formats.random_key(1, 2, 3), 3, 2**32 - 640)):
        whole = native.random(key, stream, offset, 1300)
        np.testing.assert_array_equal(whole, formats.random_bits(key, stream, offset, 1300))
        for begin, n in ((0, 1), (1, 700), (639, 3), (900, 400)):
            np.testing.assert_array_equal(native.random(key, stream, offset + begin, n), whole[begin : begin + n])
    function = native.library.test_key
    for words in ((0, 0, 0), (1, 2, 3), (2**64 - 1, 2**63, 12345)):
        assert function(*map(ctypes.c_uint64, words)) == formats.random_key(*words)


def halves(one, seed, parameter, step, n, stream=0):
    """Both 16-bit halves of n places, as numbers of mean 0 and variance 1."""
    word = one.random(formats.random_key(seed, parameter, step), stream, 0, n)
    return [(half - 32767.5) / (65536 / np.sqrt(12)) for half in (word & 0xFFFF, word >> 16)]


LIMIT = 4.9  # standard deviations: one of 10^6


def test_random_bits_have_no_bias(one):
    """Neither all together, nor those of a place over steps, nor those of a step over places, nor single bits."""
    steps, n = 1000, 4096
    all_words = np.stack([one.random(formats.random_key(9, 1, step), 0, 0, n) for step in range(1, steps + 1)])
    for shift in (0, 16):
        x = ((all_words >> shift & 0xFFFF) - 32767.5) / (65536 / np.sqrt(12))
        assert abs(x.mean()) * np.sqrt(x.size) < LIMIT
        for axis, count in ((0, steps), (1, n)):
            z = x.mean(axis=axis) * np.sqrt(count)
            assert abs(z).max() < LIMIT
            assert abs((z**2).mean() - 1) < LIMIT * np.sqrt(2 / len(z))
        counts = np.bincount((all_words >> shift & 0xFFFF).ravel(), minlength=65536)
        expected = all_words.size / 65536
        assert abs(((counts - expected) ** 2 / expected).sum() - 65535) < LIMIT * np.sqrt(2 * 65535)
    for bit in range(32):
        assert abs((all_words >> bit & 1).mean() - 0.5) * 2 * np.sqrt(all_words.size) < LIMIT


def test_random_bits_are_uncorrelated(one):
    """Of neighbours, halves, streams, successive steps, parameters and seeds."""
    n = 1 << 20
    low, high = halves(one, 9, 1, 1, n)
    pairs = {f"{name} {lag}": (x[:-lag], x[lag:]) for name, x in (("low", low), ("high", high)) for lag in range(1, 66)}
    pairs["halves"] = low, high
    pairs["halves of neighbours"] = low[1:], high[:-1]
    for name, others in {
        "steps": halves(one, 9, 1, 2, n),
        "parameters": halves(one, 9, 2, 1, n),
        "seeds": halves(one, 10, 1, 1, n),
        "streams": halves(one, 9, 1, 1, n, stream=1),
    }.items():
        for half, other in zip((low, high, low), (*others, others[1]), strict=True):
            pairs[f"{name} {len(pairs)}"] = half, other
    for name, (x, y) in pairs.items():
        assert abs((x * y).mean()) * np.sqrt(len(x)) < LIMIT, name


def decayed(one, form, rounding, steps=3000, rate=0.999, n=64 * GROUP):
    """Elements beside a largest one of 1 that stays, after steps of decay; each starts as 0.5."""
    x = np.full(n, 0.5, np.float32)
    x[::GROUP] = 1
    for step in range(1, steps + 1):
        words = one.random(formats.random_key(0, 0, step), 0, 0, n).astype(np.int64)
        stored = one.store(form, x, words & 0xFFFF if rounding == "stochastic" else None)
        x = one.load(form, *stored) * np.float32(rate)
        x[::GROUP] = 1
    return np.delete(x, np.s_[::GROUP])


@pytest.mark.parametrize("name", ["codes_signed", "codes_nonnegative", "bfloat16"])
def test_what_decays_slowly_stays_where_it_is_but_for_random_rounding(one, name):
    right = 0.5 * 0.999**3000
    assert decayed(one, FORMATS[name], "nearest").min() > 5 * right
    found = decayed(one, FORMATS[name], "stochastic")
    assert abs(found.mean() - right) < LIMIT * found.std() / np.sqrt(len(found))


# ---- How exact codes are ----


SAMPLES = {
    "Gaussian": lambda rng, n: rng.standard_normal(n),
    "Student t3": lambda rng, n: rng.standard_t(3, n),
    "wide scales": lambda rng, n: rng.standard_normal(n) * np.exp(2 * rng.standard_normal(n)),
}


def coded(x, root, power, codes):
    """What codes make of x that are uniform in the true root of |x| over the largest one of its group."""
    groups = x.reshape(-1, GROUP).astype(np.float64)
    largest = abs(groups).max(axis=1, keepdims=True)
    return (np.sign(groups) * power(np.rint(root(abs(groups) / largest) * codes) / codes) * largest).ravel()


@pytest.mark.parametrize(
    ("kind", "square", "quantile"),
    [("Gaussian", 4.8e-5, 0.05), ("Student t3", 5.7e-5, 0.06), ("wide scales", 9e-6, 0.2)],
)
def test_codes_are_nearly_as_exact_as_true_roots(one, kind, square, quantile):
    """Signed: the mean square of errors over that of elements. Never negative: the 99th percentile of relative errors,
    where codes uniform in the square root have zeros."""
    x = SAMPLES[kind](np.random.default_rng(0), 1 << 18).astype(np.float32)

    def error(found):
        return ((found - x.astype(np.float64)) ** 2).mean() / (x.astype(np.float64) ** 2).mean()

    signed = error(one.load(SIGNED, *one.store(SIGNED, x)))
    assert signed < square
    assert signed < 1.15 * error(coded(x, np.sqrt, np.square, 127))
    if kind != "Gaussian":
        assert signed < 0.6 * error(coded(x, np.copy, np.copy, 127)), "than linear codes"
    v = x * x

    def relative(found):
        return np.quantile(abs(found / v.astype(np.float64) - 1), 0.99)

    nonnegative = one.load(NONNEGATIVE, *one.store(NONNEGATIVE, v))
    assert (nonnegative > 0).all()
    assert relative(nonnegative) < quantile
    assert relative(nonnegative) < 1.2 * relative(coded(v, lambda u: u**0.125, lambda u: u**8, 255))
    assert relative(coded(v, np.sqrt, np.square, 255)) > 5 * quantile


# ---- Loops ----

LOOPS = [f"{way}_{name}" for way, name in product(("load", "store"), FORMATS)] + ["random"]


@pytest.mark.skipif(not X86 or shutil.which("objdump") is None, reason="knows the instructions of x86-64")
def test_loops_are_vectorised(native):
    """On the widest registers; those of double hold half as many integers."""
    packed = disassembly.packed_integers(native.file)
    widest = {"baseline": "xmm", "avx2": "ymm", "avx512wide": "zmm"}[native.isa]
    assert [loop for loop in LOOPS if widest not in packed[f"test_{loop}_f32"]] == []
    assert [loop for loop in LOOPS if not packed[f"test_{loop}_f64"]] == []


@pytest.mark.skipif(not X86 or shutil.which("objdump") is None, reason="knows the instructions of x86-64")
def test_scalar_loops_are_found(builds):
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    packed = disassembly.packed_integers(library(builds, "gcc", "avx2", "-fno-tree-vectorize"))
    assert [loop for loop in LOOPS if "ymm" in packed[f"test_{loop}_f32"]] == []
