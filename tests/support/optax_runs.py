"""Trajectories of optax, in a process of its own: python -m support.optax_runs OUT.npz, from tests/.

JAX starts threads, keeps memory for itself and reads its precision once. `RUNS` has the optimizers and
`numbers` their arrays; the tests read both too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from support.registry import CLASSES

STEPS = 50
SHAPES = ((3, 4), (2, 3, 5), (301,))
DTYPES = ("float32", "float64")
RUNS = {
    "-".join(filter(None, (cls.name.lower(), name))): (cls, twin)
    for cls in CLASSES.values()
    for name, twin in cls.optax.items()
}


def numbers(dtype: str) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Parameters, and the gradients of every step."""
    rng = np.random.default_rng(3)
    draws = [[rng.standard_normal(shape).astype(dtype) for shape in SHAPES] for _ in range(1 + STEPS)]
    return draws[0], draws[1:]


def main(out: Path) -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    import optax

    found = {}
    for name, (_, twin) in RUNS.items():
        for dtype in DTYPES:
            start, grads = numbers(dtype)
            params, optimizer = [jax.numpy.asarray(p) for p in start], twin.peer(optax)
            state = optimizer.init(params)

            @jax.jit
            def step(g, state, params, optimizer=optimizer):
                updates, state = optimizer.update(g, state, params)
                return optax.apply_updates(params, updates), state

            for g in grads:
                params, state = step(g, state, params)
            found |= {f"{name} {dtype} {i}": np.asarray(p) for i, p in enumerate(params)}
            if twin.average:
                averages = twin.average(optax)(state, params)
                found |= {f"{name} {dtype} x {i}": np.asarray(x) for i, x in enumerate(averages)}
    np.savez(out, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
