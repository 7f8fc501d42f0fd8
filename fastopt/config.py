"""A description of this build of fastopt and of the machine it runs on."""

from __future__ import annotations

import platform
from reprlib import repr as brief
from typing import Any, Literal

from . import _core
from .calls import checks_arguments
from .threads import get_num_threads, usable_cpus


@checks_arguments
def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> dict[str, Any] | None:
    """Print version, compiler, instruction sets and threads.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, default "stdout"
        Print, or return the same as a dict.

    Returns
    -------
    dict or None
        The configuration with ``mode="dicts"``, else None.
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"show_config: mode must be 'stdout' or 'dicts', got {brief(mode)}")
    version, compiler, openmp = _core.build_info()
    makers = f"OpenMP's ({openmp})" if openmp else "the system's"
    config = {
        "version": version,
        "compiler": compiler,
        "machine": f"{platform.system()} {platform.machine()}, {usable_cpus()} usable CPUs",
        "instruction sets": ", ".join(_core.available_isas()),
        "chosen": f"{_core.isa()} (FASTOPT_ISA overrides)",
        "threads": f"up to {get_num_threads()}, {makers} (FASTOPT_NUM_THREADS overrides)",
    }
    if mode == "dicts":
        return config
    for key, value in config.items():
        print(f"{key + ':':<18}{value}")
    return None
