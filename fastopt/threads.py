"""How many threads a step may use: the one place that decides."""

from __future__ import annotations

import os
from reprlib import repr as brief
from typing import Any

from . import _core
from .calls import checks_arguments
from .scalars import is_integer, unwrapped

MOST = 1 << 30  # of the numbers of threads that can be asked for; a step uses 256 at most


@checks_arguments
def set_num_threads(n: int) -> None:
    """Set the largest number of threads of later steps.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    ValueError
        For anything but an integer of at least 1.
    """
    check_threads("set_num_threads: n", n)
    _core.set_default_threads(unwrapped(n))


def check_threads(label: str, n: Any, alternative: str = "") -> None:
    """Raise ValueError unless n is a number of threads; `alternative` names other values that the caller takes."""
    if not is_integer(n := unwrapped(n)) or n < 1:
        raise ValueError(f"{label} must be an integer >= 1{alternative}, got {brief(n)}")
    if n > MOST:
        raise ValueError(f"{label} must be <= {MOST}{alternative}, got {brief(n)}")


@checks_arguments
def get_num_threads() -> int:
    """Return the largest number of threads of a step.

    At import it is FASTOPT_NUM_THREADS, else OMP_NUM_THREADS, else the number of CPUs that this process may use, by its
    affinity and the quota of its cgroup.
    """
    return _core.get_default_threads()


def initial_num_threads() -> int:
    """Return the number of threads the environment asks for."""
    asked = os.environ.get("FASTOPT_NUM_THREADS")
    if asked:
        if not asked.strip().isdecimal() or not 1 <= int(asked) <= MOST:
            raise ValueError(f"FASTOPT_NUM_THREADS must be an integer in [1, {MOST}], got {brief(asked)}")
        return int(asked)
    # OMP_NUM_THREADS may be a list, one number per nesting level.
    outermost = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if outermost.isdecimal() and 1 <= int(outermost) <= MOST:
        return int(outermost)
    return usable_cpus()


def usable_cpus() -> int:
    """Return the number of CPUs this process may use: its affinity, and its cgroup's quota rounded up."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, cgroup_quota() or cpus))


def cgroup_quota() -> int | None:
    """Return the CPUs that the cgroup (version 2 or 1) grants, rounded up, or None without a limit."""
    root = "/sys/fs/cgroup"
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            groups = dict(line.split(":", 2)[1:] for line in file.read().splitlines())
    except (OSError, ValueError):
        return None
    limits = []
    for controllers, path in groups.items():
        if controllers == "":
            places = [f"{root}/{path.lstrip('/')}", root]
            limits += [_quota(_numbers(f"{place}/cpu.max")) for place in places]
        elif "cpu" in controllers.split(","):
            places = [f"{root}/cpu/{path.lstrip('/')}", f"{root}/cpu"]
            limits += [
                _quota(_numbers(f"{place}/cpu.cfs_quota_us") + _numbers(f"{place}/cpu.cfs_period_us"))
                for place in places
            ]
    return min((limit for limit in limits if limit), default=None)


def _numbers(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().split()
    except OSError:
        return []


def _quota(numbers: list[str]) -> int | None:
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers) or int(numbers[1]) == 0:
        return None
    return -(-int(numbers[0]) // int(numbers[1])) or None
