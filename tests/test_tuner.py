"""The choice of the number of threads, on times that are made up: what it costs against the best fixed number."""

import ctypes
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

CSRC = Path(__file__).parents[1] / "csrc"

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None or not CSRC.is_dir(), reason="needs gcc and the source tree"
)


@pytest.fixture(scope="module")
def tuner(tmp_path_factory):
    """tuner.c as a library of its own."""
    file = tmp_path_factory.mktemp("tuner") / "tuner.so"
    source = CSRC / "threads/tuner.c"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", str(source), "-o", str(file), "-lm"], check=True)
    library = ctypes.CDLL(str(file))
    library.fastopt_next_threads.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.fastopt_note_time.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_double, ctypes.c_ssize_t]
    return library


def spread(share):
    """A factor of mean 1 that varies by about this share, more often down than up."""
    return lambda random: np.exp(share * random.standard_normal() - share**2 / 2)


def late(chance, factor):
    """Mostly a little variation, but now and then a step that takes so many times as long."""
    return lambda random: factor * (0.5 + random.random()) if random.random() < chance else spread(0.2)(random)


def mean(step, random):
    return np.mean([step(random) for _ in range(20_000)])


def steps(tuner, time, limit, count, random):
    """Make steps; returns how many were made on each number of threads, and what they took together."""
    memory = ctypes.create_string_buffer(1024)
    used, total = Counter(), 0.0
    for t in range(count):
        threads = tuner.fastopt_next_threads(memory, limit)
        assert 1 <= threads <= limit
        seconds = time(threads, t, random)
        tuner.fastopt_note_time(memory, threads, seconds, 1)
        used[threads] += 1
        total += seconds
    return used, total


def relative(noise, level):
    return lambda random: level * noise(random)


TWO = {  # on one thread, on two
    "two are better": (relative(spread(0.3), 0.29), relative(spread(0.3), 0.24)),
    "two are twice as fast": (relative(spread(0.1), 0.5), relative(spread(0.1), 0.25)),
    "two are a tenth faster": (relative(spread(0.3), 0.3), relative(spread(0.3), 0.27)),
    "two are a tenth slower": (relative(spread(0.3), 0.27), relative(spread(0.3), 0.3)),
    "two have the lower median and the higher mean": (relative(spread(0.2), 0.29), relative(late(0.04, 17), 0.23)),
    "two are five times as slow": (relative(spread(0.1), 0.1), relative(late(0.1, 8), 0.5)),
    "both are equal": (relative(spread(0.3), 0.3), relative(spread(0.3), 0.3)),
}


@pytest.mark.parametrize("name", TWO)
def test_the_mean_is_near_that_of_the_best_number(tuner, name):
    """Trials included; the expectation of what was chosen, so that luck with the noise does not count."""
    times = TWO[name]
    means = [mean(time, np.random.default_rng(1)) for time in times]
    costs = []
    for seed in range(10):
        random = np.random.default_rng(seed)
        used, _ = steps(tuner, lambda threads, t, random: times[threads - 1](random), 2, 3000, random)
        costs.append(sum(means[threads - 1] * count for threads, count in used.items()) / 3000 / min(means))
    assert np.mean(costs) < 1.05
    assert max(costs) < 1.1


@pytest.mark.parametrize("best", [1, 2, 8, 64])
def test_many_threads(tuner, best):
    """It finds its way to a number in between."""

    def time(threads, t, random):
        return (1 / min(threads, best) + 0.05 * max(0, threads - best) / best) * spread(0.2)(random)

    random = np.random.default_rng(2)
    used, total = steps(tuner, time, 64, 3000, random)
    assert used.most_common(1)[0][0] == best
    assert total < 1.2 * 3000 / best


@pytest.mark.parametrize("limit", [3, 5, 6, 100])
def test_a_limit_that_is_no_power_of_two(tuner, limit):
    random = np.random.default_rng(3)
    used, _ = steps(tuner, lambda threads, t, random: spread(0.2)(random) / threads, limit, 2000, random)
    assert used.most_common(1)[0][0] == limit
    used, _ = steps(tuner, lambda threads, t, random: spread(0.2)(random) * threads, limit, 2000, random)
    assert used.most_common(1)[0][0] == 1


@pytest.mark.parametrize("after", [(0.1, 0.25), (0.23, 0.29)], ids=["much", "little"])
def test_a_loop_that_changes(tuner, after):
    """Training, evaluation, training: steps on two threads are better, then worse, then better again."""
    phases = [(0.29, 0.24), after] * 2

    def time(threads, t, random):
        return phases[t // 1500][threads - 1] * spread(0.3)(random)

    totals = [steps(tuner, time, 2, 6000, np.random.default_rng(seed))[1] for seed in range(5)]
    assert np.mean(totals) < 1.07 * 1500 * sum(map(min, phases))


def test_a_number_that_was_very_slow_is_tried_again(tuner):
    """Another process leaves the second CPU: steps on one thread take as long as before, on two they are faster."""

    def time(threads, t, random):
        return (1 if threads == 1 else 6 if t < 1500 else 0.6) * spread(0.2)(random)

    for seed in range(5):
        used, total = steps(tuner, time, 2, 10_000, np.random.default_rng(seed))
        assert used[2] > 5000
        assert total < 1.25 * (1500 + 8500 * 0.6)


def test_a_costly_direction_does_not_block_the_other(tuner):
    """Twice as many threads are far worse, and half as many become better, while the choice takes as long as before."""

    def time(threads, t, random):
        return {1: 1.2 if t < 2000 else 0.8, 2: 1, 4: 9}[threads] * spread(0.1)(random)

    used, _ = steps(tuner, time, 4, 10_000, np.random.default_rng(6))
    assert used[1] > 5000
    assert used[4] < 50


def test_a_trial_costs_little(tuner):
    """However slow what is tried, and however long the loop."""
    random = np.random.default_rng(4)
    for slow in (2, 10, 100):
        _, total = steps(tuner, lambda threads, t, random, slow=slow: slow if threads == 1 else 1, 2, 20_000, random)
        assert total < 1.03 * 20_000 + 8 * slow


def test_a_short_loop(tuner):
    """Trials at the beginning end when the choice is clear, although each of them costs little."""

    def time(threads, t, random):
        return (1.2 if threads == 1 else 1) * spread(0.02)(random)

    totals = [steps(tuner, time, 2, 70, np.random.default_rng(seed))[1] for seed in range(10)]
    assert np.mean(totals) < 1.04 * 70


def test_outliers_say_nothing(tuner):
    """One step of a thousand that the system held up for a thousand times as long, whatever it ran on."""

    def time(threads, t, random):
        return (1000 if t % 1000 == 500 else 1) * (0.8 if threads == 2 else 1) * spread(0.1)(random)

    used, _ = steps(tuner, time, 2, 10_000, np.random.default_rng(5))
    assert used[2] > 8000
