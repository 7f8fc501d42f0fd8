"""A short run of the fuzz test, the same on every machine; `make fuzz` goes on for longer."""

from collections import Counter

from fuzz.scenarios import report, scenario

SEED, SCENARIOS = 1, 4000


def test_random_calls():
    counts = Counter()
    for index in range(SCENARIOS):
        scenario(SEED, index, counts)
    print(report(counts))
    assert sum(counts[call, "right"] for call in ("step", "step_bound", "kernel")) > 500
    assert sum(counts[call, "refused"] for call in ("step_badly", "make badly", "kernel", "load_badly")) > 500
