"""The races: of Adam on many shapes, and of every rule that another library has, on large arrays."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastopt import _core, catalogue

from .twins import has_torch, twin
from .workloads import Rule, Shape, Workload, dense, gpt2_small, stack

# The rules that numpy_out and numba_rules have, each written by hand.
BY_HAND = (*catalogue.LECTURE, "adamw")


def described(rule: catalogue.Rule) -> Rule:
    """Return a rule of the catalogue as contenders need it, with the defaults of its class."""
    declared = rule.optimizer._declaration.hyper
    taken = inspect.signature(rule.plain).parameters  # by those who know nothing of our options
    hyper = {
        name: declared[name].default
        for name in rule.optimizer._declaration.arguments
        if name in declared and name in taken and name != "maximize"
    }
    p = np.empty((2, 3))
    whole = [shape for shape in _core.Settings(rule.row).shapes(p) if shape == p.shape]
    own = rule.name == rule.optimizer.__name__.lower()
    label = rule.optimizer.__name__ if own else f"{rule.name.capitalize()} {rule.optimizer.__name__}"
    return Rule(
        name=rule.name,
        label=label,
        optimizer=rule.optimizer.__name__,
        states=len(whole),
        hyper={**hyper, **rule.options},
        streams=sum(rule.streams) or None,
    )


def is_raced(rule: catalogue.Rule) -> bool:
    """Return whether a race of a rule says something: another library has it, and memory limits it."""
    if rule.name in BY_HAND:
        return True
    own = rule.name == rule.optimizer.__name__.lower()
    return own and not rule.calls_numpy and (has_torch(rule.name) or twin(rule.name) is not None)


RULES: Mapping[str, Rule] = {name: described(rule) for name, rule in catalogue.rules().items() if is_raced(rule)}

PEERS = (
    "numpy",
    "numpy-out",
    "numba",
    "numba-serial",
    "torch",
    "torch-foreach",
    "torch-fused",
    "optax",
    "deepspeed",
)
TORCH_PEERS = ("torch", "torch-foreach", "torch-fused")
CLIPPING_PEERS = ("fastopt-torch", "numpy", "numpy-out", *TORCH_PEERS, "optax")
STEP_PEERS = ("numpy", "numpy-out", *TORCH_PEERS)  # whole steps, gradients set to zero
ROW_PEERS = ("numpy-rows", "torch-sparse")
LOOP_PEERS = (
    *("fastopt-1", "fastopt-all"),
    *("numpy", "numpy-out", "numba", "numba-serial"),
    *("torch-shared", "torch-shared-1"),
)
PEERS_8BIT = ("bitsandbytes", "torchao-8bit")
PEERS_BF16 = ("torch-bf16", "torchao-bf16")
TORCH_LOOP_PEERS = (
    "fastopt-torch",
    "fastopt-1",
    "fastopt-all",
    "torch-shared",
)  # all on the memory of the network's tensors
BLOCKS = 8


def adam(name: str, title: str, shapes: tuple[Shape, ...], **options: Any) -> Workload:
    return Workload(f"adam-{name}", f"Adam, {title}", RULES["adam"], shapes, **{"peers": PEERS, **options})


def training_step(name: str, title: str, **options: Any) -> Workload:
    return Workload(
        f"adamw-32M-{name}", f"AdamW, {title}, 32M", RULES["adamw"], ONE_LARGE, peers=STEP_PEERS, zero=True, **options
    )


def rows(name: str, count: int) -> Workload:
    # torch's SparseAdam adds eps before it corrects the root's bias: where eps is small that is the same answer.
    return adam(
        f"rows-{name}",
        f"4096 rows of {name} x 64",
        ((count, 64),),
        peers=ROW_PEERS,
        rows=4096,
        hyper={"eps": 1e-12},
    )


def inside_loop(name: str, title: str, layers: tuple[int, ...]) -> Workload:
    # A small learning rate keeps the loss, and so the size of the gradients, where it starts.
    return Workload(
        f"loop-{name}",
        f"Adam in a training loop, {title}",
        RULES["adam"],
        dense(layers),
        peers=LOOP_PEERS,
        layers=layers,
        hyper={"lr": 1e-5},
    )


def inside_torch_loop(width: int) -> Workload:
    return Workload(
        f"torch-loop-{width}",
        f"AdamW in a torch training loop, {BLOCKS} x (Linear({width}), GELU, LayerNorm)",
        RULES["adamw"],
        stack(width, BLOCKS),
        peers=TORCH_LOOP_PEERS,
        blocks=BLOCKS,
        hyper={"lr": 1e-5},
    )


def stored(name: str, title: str, shapes: tuple[Shape, ...], peers: tuple[str, ...], **options: Any) -> Workload:
    """Return a race of AdamW with state, and parameters, in fewer bytes."""
    peers = ("fastopt-float32", *peers)
    return Workload(f"adamw-{name}", f"AdamW, {title}", RULES["adamw"], shapes, peers=peers, **options)


POWER_OF_TWO = 2**25
ONE_LARGE: tuple[Shape, ...] = ((POWER_OF_TWO,),)
MANY: tuple[Shape, ...] = ((1024,),) * 1000
EIGHT_BITS: Mapping[str, Any] = {"state_dtype": "8bit"}
SPLIT16: Mapping[str, Any] = {"master": "split16", "state_dtype": "bfloat16"}
SPLIT8: Mapping[str, Any] = {"master": "split8", "state_dtype": "8bit"}
PURE: Mapping[str, Any] = {"master": None, "state_dtype": "bfloat16", "rounding": "nearest"}  # as torch rounds
ODD_SIZE = 31_234_567
ALONE: tuple[str, ...] = ()  # only fastopt, against the memory limit
CLIP: Mapping[str, Any] = {"peers": CLIPPING_PEERS, "clip_norm": 1.0}
EMA = 0.99  # an average with more memory would not show within the checked steps that it is wrong
LARGE = (ONE_LARGE, "one array of 32M")
LOOKS_AT_ROWS = (((2048, 2048),) * 8, "8 arrays of 2048x2048")  # of one of 32M numbers torch's float32 norm is another


def of_rule(name: str) -> Workload:
    """Return the race of a rule on large arrays against all that have it."""
    rule = RULES[name]
    shapes, size = LOOKS_AT_ROWS if catalogue.rules()[name].by_matrices else LARGE
    peers = (
        *("numpy",),
        *(("numpy-out", "numba", "numba-serial") if name in BY_HAND else ()),
        *(("fastopt-torch", *TORCH_PEERS) if has_torch(name) else ()),
        *(("optax",) if twin(name) else ()),
        *(("deepspeed",) if name in BY_HAND else ()),
    )
    return Workload(f"{name}-32M", f"{rule.label}, {size}", rule, shapes, peers=peers)


WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (
        adam("1024", "one array of 1024", ((1024,),), peers=("fastopt-bound", "fastopt-kernel", *PEERS)),
        adam("16k", "one array of 16k", ((2**14,),)),
        adam("32k", "one array of 32k", ((2**15,),)),
        adam("64k", "one array of 64k", ((2**16,),)),
        adam("1M", "one array of 1M", ((2**20,),)),
        adam("32M", "one array of 32M", ONE_LARGE),
        adam("31M", "one array of 31,234,567", ((ODD_SIZE,),)),
        adam("1000x1024", "1000 arrays of 1024", ((1024,),) * 1000, peers=("fastopt-bound", "fastopt-torch", *PEERS)),
        adam("64x512x512", "64 arrays of 512x512", ((512, 512),) * 64),
        adam("gpt2", "GPT-2 small, 148 arrays, 124M", gpt2_small(), peers=("fastopt-torch", *PEERS)),
        adam("1000x1024-clip", "clipped, 1000 arrays of 1024", ((1024,),) * 1000, **CLIP),
        adam("32M-clip", "clipped, one array of 32M", ONE_LARGE, **CLIP),
        adam("64x512x512-clip", "clipped, 64 arrays of 512x512", ((512, 512),) * 64, **CLIP),
        adam("gpt2-clip", "clipped, GPT-2 small", gpt2_small(), **CLIP),
        training_step("clip-zero", "clipped, zeroing", clip_norm=1.0),
        training_step("clip-zero-ema", "clipped, zeroing, EMA", clip_norm=1.0, ema=EMA),
        stored("32M-bf16-state", "bf16 m and v, 32M", ONE_LARGE, (), storage={"state_dtype": "bfloat16"}),
        stored("32M-8bit", "8-bit m and v, 32M", ONE_LARGE, PEERS_8BIT, storage=EIGHT_BITS),
        stored("1000x1024-8bit", "8-bit m and v, 1000 arrays of 1024", MANY, PEERS_8BIT, storage=EIGHT_BITS),
        stored("32M-split16", "split16, bf16 m and v, 32M", ONE_LARGE, PEERS_BF16, dtype="bfloat16", storage=SPLIT16),
        stored(
            "32M-split8-8bit", "split8, 8-bit m and v, 32M", ONE_LARGE, PEERS_8BIT, dtype="bfloat16", storage=SPLIT8
        ),
        stored("32M-bf16", "pure bf16, 32M", ONE_LARGE, PEERS_BF16, dtype="bfloat16", storage=PURE),
        rows("10k", 10_000),
        rows("100k", 100_000),
        rows("1M", 1_000_000),
        *(of_rule(name) for name in RULES if name != "adam"),
        *(
            Workload(f"{name}-31M", f"{RULES[name].label}, one array of 31,234,567", RULES[name], ((ODD_SIZE,),), ALONE)
            for name in catalogue.LECTURE
            if name != "adam"
        ),
        inside_loop("100k", "100k", (256, 192, 192, 64)),
        inside_loop("1M", "1M", (784, 640, 640, 128)),
        inside_loop("10M", "10M", (1024, 2048, 2048, 1792)),
        *(inside_torch_loop(width) for width in (64, 256, 512)),
    )
}

QUICK = (
    "adam-1024",
    "adam-32M",
    "adam-1000x1024",
    "adam-64x512x512",
    "adamw-32M-clip-zero-ema",
    "adam-rows-1M",
    "loop-1M",
    "torch-loop-256",
)
# Peers that another of the same library stands for, or that take long to load.
NOT_QUICK = ("torch", "deepspeed")

IMPORT, MEMORY, SWEEP = "import", "memory", "sweep"
EXTRAS = {  # what is measured besides races
    IMPORT: "importing fastopt, beyond NumPy, in fresh processes",
    MEMORY: "memory beyond parameters, gradients and state",
    SWEEP: "throughput of Adam against size",
}

SWEEP_PEERS = ("numpy", "numpy-out", "numba", "torch-fused", "optax")


def sweep(largest: float, per_decade: int) -> list[Workload]:
    """Make the races of throughput against size: Adam on one array of 1e2 to `largest` elements."""
    count = round(math.log10(largest / 100) * per_decade) + 1
    sizes = [round(100 * 10 ** (i / per_decade)) for i in range(count)]
    return [adam(f"size-{size}", f"one array of {size:,}", ((size,),), peers=SWEEP_PEERS) for size in sizes]
