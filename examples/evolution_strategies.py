"""Evolution strategies in several processes.

How do processes share parameters that fastopt updates?  Parameters and an array of noise are in shared memory.  Workers
only read it: each adds slices of the noise to the parameters, subtracts them, plays with both, and returns the
differences of the rewards.  The first process makes the steps.  The policy learns to swing up a pendulum whose motor is
too weak to lift it at once.  The method is from Salimans et al., "Evolution strategies as a scalable alternative to
reinforcement learning", 2017, https://arxiv.org/abs/1703.03864.
"""

import multiprocessing
import os
from multiprocessing.shared_memory import SharedMemory

import numpy as np

import fastopt

HIDDEN, PAIRS, GENERATIONS, MOVES, SIGMA = 16, 64, 60, 200, 0.1
SIZE, NOISE = 5 * HIDDEN, 500_000
STARTS = np.linspace(-3, 3, 8, dtype=np.float32)  # angles of pendulums; 0 is upright


def arrays_of(memory):
    """The parameters and the noise in the shared memory."""
    return np.split(np.ndarray(SIZE + NOISE, np.float32, memory.buf), [SIZE])


def attach(name):
    """Make the arrays of a worker, which cannot write to them."""
    global memory, params, noise
    memory = SharedMemory(name)
    params, noise = arrays_of(memory)
    params.flags.writeable = noise.flags.writeable = False


def rewards(policies):
    """The mean height of the pendulums of each policy, from -1 (hanging) to 1, minus a penalty for speed."""
    w1, b1, w2 = np.split(policies[:, None], [3 * HIDDEN, 4 * HIDDEN], axis=2)
    w1, w2 = w1.reshape(-1, 3, HIDDEN), w2.reshape(-1, HIDDEN, 1)
    angle = np.tile(STARTS, (len(policies), 1))
    speed, reward = np.zeros_like(angle), np.zeros(len(policies))
    for _ in range(MOVES):
        seen = np.stack([np.cos(angle), np.sin(angle), speed / 8], axis=2)
        motor = 12 * np.tanh(np.tanh(seen @ w1 + b1) @ w2)[:, :, 0]  # weaker than the weight
        speed = np.clip(speed + 0.05 * (15 * np.sin(angle) + motor), -8, 8)
        angle = angle + 0.05 * speed
        reward += (np.cos(angle) - 0.03 * speed**2).mean(axis=1) / MOVES
    return reward


def play(places):
    """The rewards with the noise added minus the rewards with it subtracted, for the noise from each place on."""
    change = SIGMA * noise[places[:, None] + np.arange(SIZE)]
    return rewards(params + change) - rewards(params - change)


def train(memory, pool, workers):
    """Make the steps."""
    rng = np.random.default_rng(0)
    params, noise = arrays_of(memory)
    params[:], noise[:] = rng.normal(0, 0.5, SIZE), rng.standard_normal(NOISE)
    opt = fastopt.Adam(params, lr=0.05, maximize=True)
    print("generation   reward")
    for generation in range(GENERATIONS + 1):
        if generation % 10 == 0:
            print(f"{generation:10} {rewards(params[None])[0]:8.2f}")
        places = rng.integers(0, NOISE - SIZE, PAIRS)
        gain = np.concatenate(pool.map(play, np.array_split(places, workers)))
        opt.step(gain.astype(np.float32) @ noise[places[:, None] + np.arange(SIZE)] / (2 * SIGMA * PAIRS))


if __name__ == "__main__":
    workers = min(4, os.cpu_count() or 1)
    memory = SharedMemory(create=True, size=4 * (SIZE + NOISE))
    try:
        with multiprocessing.Pool(workers, attach, [memory.name]) as pool:
            train(memory, pool, workers)
    finally:
        memory.close()
        memory.unlink()
