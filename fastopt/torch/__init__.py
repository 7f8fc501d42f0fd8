"""The rules of fastopt as optimizers of torch, for parameters on the CPU.

::

    opt = fastopt.torch.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1)      # was torch.optim.AdamW

Every rule of fastopt is here under the name of its class.  Arguments have the names, the order and the defaults of
torch.optim where torch has the rule; the options of fastopt follow by name, see `fastopt.Optimizer`.
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ImportError as _error:
    raise ImportError("fastopt.torch needs torch: pip install 'fastopt[torch]'") from _error

from ..catalogue import classes as _classes
from .optimizer import TorchOptimizer, of_rule, wrap

__all__ = ["TorchOptimizer", "wrap", *_classes()]


def __getattr__(name: str) -> type[TorchOptimizer]:
    """Make the class of a rule when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'fastopt.torch' has no attribute {name!r}")
    made = globals()[name] = of_rule(_classes()[name], __name__)
    return made


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
