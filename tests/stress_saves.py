"""Kill a process that saves in a loop, at random moments: the last good state always loads.

python -m tests.stress_saves --saves 200 --seconds 120
"""

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import fastopt
from fastopt.checkpoint import load, save

ELEMENTS = 200_000  # enough for a save to be hit in all its parts


@dataclass
class Counts:
    """The counts of a run."""

    kills: int = 0
    saves: int = 0  # whole ones, whether or not the process lived to say so
    inside: int = 0  # kills in the middle of a save
    replaced: int = 0  # of these, after the new file had taken the old one's place
    leftovers: int = 0  # kills that left a temporary folder

    def __str__(self):
        return (
            f"{self.kills} kills survived over {self.saves} saves: {self.inside} in the middle of a save,"
            f" {self.replaced} of them once the file was replaced; {self.leftovers} left a temporary folder"
        )


def make():
    return fastopt.Adam({"w": np.zeros(ELEMENTS, np.float32), "b": np.zeros(7)}, num_threads=1)


def step(opt):
    """A step whose gradient follows from its number alone, so that any process can repeat it."""
    t = opt.step_count + 1
    opt.step({"w": np.full(ELEMENTS, np.cos(t), np.float32), "b": np.sin(np.arange(7.0) * t)})


def save_for_ever(path, progress):
    """Step and save, and write down before and after each save which step it is."""
    opt = make()
    load(path, opt)
    while True:
        step(opt)
        progress[0] = opt.step_count
        save(path, opt)
        progress[1] = opt.step_count


def state_of(opt):
    return {name: {key: array.tobytes() for key, array in entry.items()} for name, entry in opt.state.items()}


def run(folder, saves, seconds, seed=0):
    """Kill and check until so many saves were made, or the time is over; return the counts."""
    fork = sys.platform == "linux"  # starts faster; macOS and Windows cannot rely on it
    context = multiprocessing.get_context("fork" if fork else "spawn")
    path, chance = Path(folder, "state.safetensors"), random.Random(seed)
    counts, progress, expected = Counts(), context.RawArray("q", 2), make()
    save(path, expected)
    begin = time.perf_counter()
    save(path, expected)
    one_save = time.perf_counter() - begin
    end = time.monotonic() + seconds
    while counts.saves < saves and time.monotonic() < end:
        process = context.Process(target=save_for_ever, args=(path, progress), daemon=True)
        process.start()
        while progress[0] == expected.step_count and process.is_alive():
            time.sleep(one_save / 100)
        time.sleep(chance.uniform(0, 3 * one_save))
        assert process.is_alive(), f"the saving process ended by itself, with {process.exitcode}"
        process.kill()
        process.join()

        begun, saved = progress
        leftovers = list(path.parent.glob(".*"))
        loaded = make()
        load(path, loaded)
        assert saved <= loaded.step_count <= begun, f"step {loaded.step_count} loads, but step {saved} was saved"
        while expected.step_count < loaded.step_count:
            step(expected)
        assert state_of(loaded) == state_of(expected), f"step {loaded.step_count} loads with another state"
        assert len(leftovers) <= 1, f"temporary folders pile up: {leftovers}"
        counts.kills += 1
        counts.saves = loaded.step_count
        counts.inside += begun > saved
        counts.replaced += loaded.step_count > saved
        counts.leftovers += len(leftovers)
        progress[0] = progress[1] = loaded.step_count
    save(path, expected)
    assert list(path.parent.iterdir()) == [path], "the next save must remove what a killed one left"
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saves", type=int, default=200, help="whole saves, default 200")
    parser.add_argument("--seconds", type=float, default=300, help="most time, default 300")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = run(folder, args.saves, args.seconds, args.seed)
    print(counts)
    return 0 if counts.saves >= args.saves else "too slow: not as many saves as asked for"


if __name__ == "__main__":
    sys.exit(main())
