"""Optimizers of NumPy arrays on several processes of MPI.  Each process keeps a part of the state.

``pip install 'fastopt[mpi]'`` installs mpi4py, which needs an MPI library; ``pip install mpich`` installs one.
"""

from .sharded import Sharded

__all__ = ["Sharded"]
