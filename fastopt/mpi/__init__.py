"""Optimizers of NumPy arrays on several processes of MPI, each of which keeps a part of the state.

``pip install 'fastopt[mpi]'`` brings mpi4py, which needs an MPI library; ``pip install mpich`` is one.
"""

from .sharded import Sharded

__all__ = ["Sharded"]
