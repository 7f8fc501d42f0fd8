"""One function per update rule, for code that keeps its own buffers.

::

    fastopt.kernels.adam(p, g, m, v, step=t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8)

makes one step in place.  Nothing is allocated, and the GIL is released for arrays long enough to matter.

The positional arguments are the parameter, its gradient, the rule's state buffers by the paper's letters, and, for
rules that carry numbers from step to step, a float64 array of one element for each (``mu_product`` of ``nadam``; the
rule sets it on step 1).  State starts as zeros.  All buffers are C-contiguous float32 or float64 arrays of one shape
and dtype that share no memory; the gradient may be float16, bfloat16, float32 or float64.  Parameters and state of
fewer bytes are for optimizers, which keep what belongs to them.

The keywords are ``step`` (counted from 1), every hyperparameter of the rule, and optionally ``weight_decay`` (L2),
``decoupled_decay`` (as in AdamW), ``independent_decay``, ``cautious_decay``, ``peak_lr`` (the peak of the learning
rate, by which decay is corrected; 0: it is not), ``maximize`` and ``num_threads``.  Bias corrections use beta^t of the
beta that is given: these functions know no earlier ones, as optimizers do.  A wrong argument raises TypeError or
ValueError and changes nothing.  ``help(fastopt.kernels.adam)`` names a rule's buffers and hyperparameters.
"""

from __future__ import annotations

from . import _core

__all__ = []

for _name, *_ in _core.rules():
    globals()[_name] = _core.kernel(_name, "Make one step in place; see fastopt.kernels.")
    __all__.append(_name)
