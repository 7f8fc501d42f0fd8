"""Running means in float32 against float64, fastopt's and torch's: ``python -m bench.means [--long]``.

The first table has the largest error among 16 elements of a mean of squares, relative to it, and of a mean of
gradients, relative to their size, after 3 / (1 - beta) steps; torch's are made by the operations of its Adam. The
second has the error of a step, relative to the largest. ``--long`` adds a beta of 0.999999 to the first.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import fastopt
from fastopt import catalogue

from .peers.twins import has_torch

N = 16
BETAS = (0.9, 0.99, 0.999, 0.9999, 0.99999)
LONG = 0.999999
BLOCK = 1000
STEPS = 6000
MORE: tuple[dict[str, Any], ...] = ({"betas": (0.95, 0.9999)},)  # options of Adam

Gradients = NDArray[np.float32]
SOURCES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "noise": lambda noise: noise,
    "1 +- 0.01": lambda noise: 1 + 0.01 * noise,
    "1 +- 0.001": lambda noise: 1 + 0.001 * noise,
    "constant": lambda noise: np.broadcast_to(np.geomspace(0.5, 2, N), noise.shape),
}
OF_MEANS = ("noise", "1 +- 0.01", "constant")


def gradients(source: str, steps: int) -> Iterator[Gradients]:
    """Yield the gradients of so many steps."""
    rng = np.random.default_rng(1)
    for _ in range(-(-steps // BLOCK)):
        yield from SOURCES[source](rng.standard_normal((BLOCK, N))).astype(np.float32)


def means(source: str, beta: float) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return m and v of fastopt in both dtypes, and of torch."""
    steps = round(3 / (1 - beta))
    optimizers = [fastopt.Adam(np.zeros(N, dtype), betas=(beta, beta)) for dtype in (np.float32, np.float64)]
    m, v = torch.zeros(N), torch.zeros(N)
    for g in gradients(source, steps):
        optimizers[0].step(g)
        optimizers[1].step(g.astype(np.float64))
        h = torch.from_numpy(g)
        m.lerp_(h, 1 - beta)
        v.mul_(beta).addcmul_(h, h, value=1 - beta)
    found = {name: opt.state[0] for name, opt in zip(("fastopt", "true"), optimizers, strict=True)}
    return {name: (state["m"].astype(np.float64), state["v"].astype(np.float64)) for name, state in found.items()} | {
        "torch": (m.numpy().astype(np.float64), v.numpy().astype(np.float64))
    }


def last_steps(cls: str, options: dict[str, Any], source: str) -> dict[str, NDArray[np.float64]]:
    """Return the last step of fastopt and torch in float32, and of fastopt in float64."""
    found = {}
    for name, dtype in (("fastopt", np.float32), ("true", np.float64)):
        p = np.zeros(N, dtype)
        opt = getattr(fastopt, cls)(p, lr=0.01, **options)
        for g in gradients(source, STEPS):
            p[...] = 0
            opt.step(g.astype(dtype))
        found[name] = p.astype(np.float64)
    q = torch.zeros(N, requires_grad=True)
    peer = getattr(torch.optim, cls)([q], lr=0.01, **options)
    for g in gradients(source, STEPS):
        with torch.no_grad():
            q.zero_()
        q.grad = torch.from_numpy(g)
        peer.step()
    return found | {"torch": q.detach().numpy().astype(np.float64)}


def steps_compared() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every rule that torch has, with the options that select another row of rules.def."""
    for rule in catalogue.rules().values():
        if has_torch(rule.name) and not rule.by_matrices and not rule.calls_numpy:
            yield rule.optimizer.__name__, dict(rule.options)
    for options in MORE:
        yield "Adam", options


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.means", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--long", action="store_true", help=f"a beta of {LONG} too, which takes minutes")
    betas = (*BETAS, LONG) if parser.parse_args().long else BETAS
    console = Console(width=120)
    table = Table("beta", "gradients", "squares, fastopt", "squares, torch", "gradients, fastopt", "gradients, torch")
    for beta in betas:
        for source in OF_MEANS:
            found = means(source, beta)
            m, v = found["true"]
            errors = [
                f"{error:.1e}"
                for i, size in ((1, v), (0, np.sqrt(v)))
                for error in (np.max(abs(found[name][i] - (m, v)[i]) / size) for name in ("fastopt", "torch"))
            ]
            table.add_row(f"{beta}", source, *errors)
    console.print(table)
    table = Table("rule", "gradients", "a step, fastopt", "a step, torch")
    for cls, options in steps_compared():
        rule = ", ".join((cls, *(f"{name}={value}" for name, value in options.items())))
        for source in SOURCES:
            steps = last_steps(cls, options, source)
            size = abs(steps["true"]).max()
            errors = [f"{np.max(abs(steps[name] - steps['true'])) / size:.1e}" for name in ("fastopt", "torch")]
            table.add_row(rule, source, *errors)
    console.print(table)


if __name__ == "__main__":
    main()
