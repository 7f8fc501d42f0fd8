"""One function per update rule, for code that keeps its own buffers.

::

    fastopt.kernels.adam(p, g, m, v, step=t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8)

makes one step in place.  Nothing is allocated, and the GIL is released for arrays long enough to matter.

The positional arguments are the parameter, its gradient, the rule's state buffers by the paper's letters, and, for
rules that carry numbers from step to step, a float64 array of one element for each (``mu_product`` of ``nadam``; the
rule sets it on step 1).  State starts as zeros.  All buffers are C-contiguous, of one shape, and share no memory.  A
rule computes in float64 for a parameter of float64, else in float32.  The parameter, the gradient and each state buffer
may be float16 or bfloat16 (of ml_dtypes), too, each for itself; state also in 8 bits, as a `fastopt.stored.Stored`.
State that the rule needs exactly, or that has not the parameter's shape, has the dtype in which the rule computes.  A
parameter of 16 bits has no master here.

The keywords are ``step`` (counted from 1), every hyperparameter of the rule, and optionally ``weight_decay`` (L2),
``decoupled_decay`` (as in AdamW), ``independent_decay``, ``cautious_decay``, ``peak_lr`` (the peak of the learning
rate, by which decay is corrected; 0: it is not), ``maximize`` and ``num_threads``.  ``rounding`` ("stochastic" or
"nearest") is how elements are rounded to fewer bits, as by an optimizer with this ``seed`` (0 by default) whose
parameter has this ``name`` (a string or number, 0 by default).  Bias corrections use beta^t of the
beta that is given: these functions know no earlier ones, as optimizers do.  A wrong argument raises TypeError or
ValueError and changes nothing.  ``help(fastopt.kernels.adam)`` names a rule's buffers and hyperparameters.
"""

from __future__ import annotations

from . import _core

__all__ = []

for _name, *_ in _core.rules():
    globals()[_name] = _core.kernel(_name, "Make one step in place; see fastopt.kernels.")
    __all__.append(_name)
