"""fastopt: optimizer steps for NumPy training loops, as fast as memory allows.

>>> import numpy as np, fastopt
>>> w = np.zeros(3)
>>> opt = fastopt.Adam([w], lr=0.1)
>>> opt.step([np.array([1.0, -2.0, 3.0])])
>>> w
array([-0.1,  0.1, -0.1])
"""

import os as _os
from typing import TYPE_CHECKING as _TYPE_CHECKING

try:
    from . import _core
    from ._core import RowGrad
except ImportError as _error:
    from .unbuilt import explained as _explained

    raise _explained(_error) from None

if _core.isa() is None:
    raise ImportError(
        f"FASTOPT_ISA must be one of the instruction sets available here, {', '.join(_core.available_isas())},"
        f" got {_os.environ['FASTOPT_ISA']!r}"
    )

from .loss_scale import LossScale
from .optimizer import Optimizer
from .parameters import groups
from .threads import get_num_threads, initial_num_threads, set_num_threads

if _TYPE_CHECKING:
    from . import kernels, optimizers, own_rules, schedules
    from .checkpoint import check_save, load, save
    from .combined import Combined
    from .config import show_config
    from .embedding import get_include, get_library
    from .optimizers.adabelief import AdaBelief
    from .optimizers.adadelta import Adadelta
    from .optimizers.adafactor import Adafactor
    from .optimizers.adagrad import Adagrad
    from .optimizers.adam import Adam
    from .optimizers.adamax import Adamax
    from .optimizers.adamw import AdamW
    from .optimizers.adan import Adan
    from .optimizers.ademamix import AdEMAMix
    from .optimizers.adopt import ADOPT
    from .optimizers.asgd import ASGD
    from .optimizers.ftrl import FTRL
    from .optimizers.lamb import LAMB
    from .optimizers.laprop import LaProp
    from .optimizers.lars import LARS
    from .optimizers.lion import Lion
    from .optimizers.madgrad import MADGRAD
    from .optimizers.marsadamw import MARSAdamW
    from .optimizers.muon import Muon
    from .optimizers.nadam import NAdam
    from .optimizers.normuon import NorMuon
    from .optimizers.novograd import NovoGrad
    from .optimizers.prodigy import Prodigy
    from .optimizers.radam import RAdam
    from .optimizers.rmsprop import RMSprop
    from .optimizers.rowwiseadagrad import RowWiseAdagrad
    from .optimizers.rprop import Rprop
    from .optimizers.schedulefreeadamw import ScheduleFreeAdamW
    from .optimizers.schedulefreesgd import ScheduleFreeSGD
    from .optimizers.sgd import SGD
    from .optimizers.signum import Signum
    from .optimizers.simplifiedademamix import SimplifiedAdEMAMix
    from .optimizers.sm3 import SM3
    from .optimizers.stableadamw import StableAdamW
    from .optimizers.yogi import Yogi
    from .own_rules import Range, rule

set_num_threads(initial_num_threads())
__version__ = _core.build_info()[0]
__all__ = [
    "ADOPT",
    "ASGD",
    "FTRL",
    "LAMB",
    "LARS",
    "MADGRAD",
    "SGD",
    "SM3",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "Combined",
    "LaProp",
    "Lion",
    "LossScale",
    "MARSAdamW",
    "Muon",
    "NAdam",
    "NorMuon",
    "NovoGrad",
    "Optimizer",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "Range",
    "RowGrad",
    "RowWiseAdagrad",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Signum",
    "SimplifiedAdEMAMix",
    "StableAdamW",
    "Yogi",
    "check_save",
    "get_include",
    "get_library",
    "get_num_threads",
    "groups",
    "kernels",
    "load",
    "optimizers",
    "own_rules",
    "rule",
    "save",
    "schedules",
    "set_num_threads",
    "show_config",
]


# Names that are imported at their first use, and their files.  All other names of __all__ are optimizers.
_FILES = {
    "Combined": "combined",
    "Range": "own_rules",
    "check_save": "checkpoint",
    "get_include": "embedding",
    "get_library": "embedding",
    "load": "checkpoint",
    "rule": "own_rules",
    "save": "checkpoint",
    "show_config": "config",
}


def __getattr__(name: str) -> object:
    """Import a module, or the module of a name, when it is first used."""
    from importlib import import_module

    if name in ("kernels", "mpi", "numba", "optimizers", "own_rules", "schedules", "torch"):
        return import_module(f"fastopt.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'fastopt' has no attribute {name!r}")
    value: object = getattr(import_module(f"fastopt.{_FILES.get(name, f'optimizers.{name.lower()}')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
