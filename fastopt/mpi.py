"""Optimizers of NumPy arrays on several processes of MPI, each of which keeps a part of the state.

``pip install 'fastopt[mpi]'`` brings mpi4py, which needs an MPI library; ``pip install mpich`` is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from reprlib import repr as brief
from typing import Any, Literal, cast

import numpy as np
from mpi4py import MPI

from . import _core
from .declarations import ROWS, VECTOR
from .nest import Array, Name, Part, Watched, describe, is_consumed, members, places, together, watched
from .optimizer import Optimizer
from .parameters import is_group
from .saving import Loaded
from .storage import DESCRIPTIONS, computed_in

__all__ = ["Sharded"]

GROUP = max(one.group for one in _core.formats())  # elements that share a scale: parts begin at multiples
# The codes by which processes agree on the gradients of a step; the largest one holds.
ABSENT, FLOAT32, FLOAT64, BAD = range(4)


class Sharded:
    r"""An optimizer whose state is shared out among the processes of a communicator (ZeRO, stage 1).

    ::

        comm = MPI.COMM_WORLD
        opt = fastopt.mpi.Sharded(fastopt.AdamW, params, comm, lr=3e-4, clip_norm=1.0)
        for batch in batches_of(comm.rank):
            opt.step(gradients(params, batch))    # of this process alone

    Each process has all parameters, and gradients of its own.  A step adds up the gradients, updates on each process
    its part of every parameter and of the state, and gathers the parameters::

        g = sum of g over the processes          divided by their number with gradients="mean"
        p[part] = rule(p[part], g[part])         one part of each parameter on each process
        p = parts of all processes

    All processes end with the same parameters.  For the same sum of gradients these have the bits of one optimizer in
    one process, for rules that work element by element; norms and sums of rules over whole parameters are added up
    over the processes, in another order, so that results with them agree to rounding.

    Parameters
    ----------
    rule : type
        The class of the rule, such as `fastopt.AdamW`: one that works element by element, or by sums over a parameter
        or a group, such as `fastopt.LAMB`.
    params : array, sequence, mapping, nest or sequence of groups
        As the rule takes them, alike on all processes, with the same values; C-contiguous.
    comm : mpi4py.MPI.Comm
        The processes.  Messages of the optimizer go through a duplicate of it.
    gradients : {"mean", "sum"}, default "mean"
        How gradients of the processes are combined.
    **options
        Hyperparameters and options of the rule, alike on all processes; `zero_grads` and `catch_up` must be left out.

    Raises
    ------
    TypeError, ValueError
        For values out of range, parameters that are not C-contiguous, and rules that look at rows, matrices or whole
        parameters.

    Notes
    -----
    All methods but the properties are collective: all processes call them in the same order.  Where a gradient does not
    fit on one process, all raise and nothing has changed.  A process that is lost ends the others by MPI's error.

    A process has the state of about 1/processes of the elements.  Parts begin at multiples of 64 elements.

    References
    ----------
    Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter models", 2020,
    https://arxiv.org/abs/1910.02054.
    """

    def __init__(
        self,
        rule: type[Optimizer],
        params: Any,
        comm: MPI.Comm,
        *,
        gradients: Literal["mean", "sum"] = "mean",
        **options: Any,
    ) -> None:
        if not (isinstance(rule, type) and issubclass(rule, Optimizer) and rule is not Optimizer):
            raise TypeError(f"Sharded: rule must be a class of fastopt such as AdamW, got {brief(rule)}")
        if not isinstance(comm, MPI.Comm):
            raise TypeError(f"Sharded: comm must be a communicator of mpi4py, got {brief(comm)}")
        if gradients not in ("mean", "sum"):
            raise ValueError(f"Sharded: gradients must be mean or sum, got {brief(gradients)}")
        for option in ("zero_grads", "catch_up"):
            if options.get(option):
                raise ValueError(f"Sharded: {option} must be False, got {brief(options[option])}")
        self._mean = gradients == "mean"
        self._arrays: list[Array] = []
        self._containers: list[Watched] = []
        self._comm = comm.Dup()
        groups = list(params) if is_consumed(params) else params
        if _core.is_sequence(groups) and any(map(is_group, groups)):
            given: Any = [{**group, "params": self._shards(rule, group["params"])} for group in groups]
        else:
            given = self._shards(rule, groups)
        #: The optimizer of the parts of this process, whose parameters are views of the parameters.
        self.optimizer: Optimizer = rule(given, **options)
        begins = [self._bounds(array.size)[self._comm.rank] for array in self._arrays]
        self.optimizer._table.set_parts(begins, [array.size for array in self._arrays], self._sum)

    # -- parts --

    def _bounds(self, size: int) -> list[int]:
        """Return where the parts of so many elements begin, and where the last one ends."""
        chunk = -(-size // (self._comm.size * GROUP)) * GROUP
        begins = [min(rank * chunk, size) for rank in range(self._comm.size)]
        # No part has one element, which would be stored otherwise than in the whole.
        return [begin if begin == 0 or size - begin > 1 else size for begin in begins] + [size]

    def _part(self, array: Array) -> Array:
        """Return the part of this process of an array that has an entry for each element of a parameter."""
        bounds = self._bounds(array.size)
        return array.reshape(-1)[bounds[self._comm.rank] : bounds[self._comm.rank + 1]]

    def _shards(self, rule: type[Optimizer], params: Any) -> Any:
        """Return the parts of this process of the arrays of a nest, in its structure."""
        structure, names, arrays = members("Sharded: params", params, len(self._arrays))
        for name, array in zip(names, arrays, strict=True):
            if not scopes_of(rule, array) <= {"element", "sums"}:
                raise ValueError(
                    f"Sharded: {describe(name)} must be of a rule that works element by element or by sums, got shape"
                    f" {array.shape} for {rule.__name__}, which looks at rows, matrices or whole parameters"
                )
            if not array.flags.c_contiguous:
                raise ValueError(
                    f"Sharded: {describe(name)} must be C-contiguous, got strides {array.strides} for shape"
                    f" {array.shape}"
                )
        self._arrays += arrays
        self._containers += watched(params.places if isinstance(params, Part) else places(params, structure, names))
        return together(structure, iter([self._part(array) for array in arrays]))

    # -- the step --

    def step(self, grads: Any, **changes: Any) -> None:
        """Add up the gradients of all processes, update the parameters, and have them on all processes.

        Parameters
        ----------
        grads : array, sequence or mapping
            Gradients of this process in the structure of the parameters, as the rule takes them; but not `RowGrad`.
            A gradient of None counts as zeros where other processes have one.
        **changes
            grad_scale, clip_norm, clip_value in place of the optimizer's own, for this step.

        Raises
        ------
        TypeError, ValueError
            For gradients that do not fit on some process.  Nothing has been changed then.
        FloatingPointError
            As of the rule, on all processes.
        """
        found = self._summed(grads)
        self.optimizer._step_with(self.optimizer._table.step_flat, (found,), cast("Any", changes))
        self._gather([g is not None for g in found])

    def _summed(self, grads: Any) -> tuple[Array | None, ...]:
        """Return this process's parts of the gradients, added up over the processes."""
        comm, label = self._comm, f"{type(self).__name__}.step"
        error: Exception | None = None
        codes = np.zeros(len(self._arrays) + 1, np.int8)  # the last one: whether some process has an error
        flat: list[Array | None] = []
        try:
            if _core.changed_container(self._containers) is not None:
                raise ValueError(
                    f"{label}: parameters must stay the arrays that the optimizer updates, but a container holds"
                    f" another one: assign to the array in place"
                )
            flat = checked_gradients(label, self.optimizer._table.flatten(grads), self._arrays)
            codes[:-1] = [ABSENT if g is None else FLOAT32 + (g.dtype == np.float64) for g in flat]
        except (TypeError, ValueError) as found:
            error = found
            codes[-1] = BAD
        comm.Allreduce(MPI.IN_PLACE, codes, MPI.MAX)
        if error is not None:
            raise error
        if codes[-1]:
            raise ValueError(f"{label}: gradients must fit on all processes, but another one has refused its own")
        requests: list[MPI.Request] = []
        found_parts: list[Array | None] = []
        for code, g, array in zip(codes, flat, self._arrays, strict=False):
            if code == ABSENT:
                found_parts.append(None)
                continue
            dtype = np.dtype(np.float64 if code == FLOAT64 else np.float32)
            whole = np.zeros(array.size, dtype) if g is None else np.ascontiguousarray(g, dtype).reshape(-1)
            counts = np.diff(self._bounds(array.size)).tolist()
            part = np.empty(counts[comm.rank], dtype)
            requests.append(comm.Ireduce_scatter(whole, part, counts))
            found_parts.append(part)
        MPI.Request.Waitall(requests)
        for one in found_parts:
            if self._mean and one is not None:
                one /= comm.size
        return tuple(found_parts)

    def _gather(self, which: Sequence[bool]) -> None:
        """Have these parameters on all processes as the parts are."""
        requests = []
        for changed, array in zip(which, self._arrays, strict=True):
            if changed:
                sizes = np.diff(self._bounds(array.size)) * array.itemsize
                whole = array.reshape(-1).view(np.uint8)
                requests.append(self._comm.Iallgatherv(MPI.IN_PLACE, [whole, sizes.tolist()]))
        MPI.Request.Waitall(requests)

    def _sum(self, values: Array) -> None:
        self._comm.Allreduce(MPI.IN_PLACE, values)

    @contextmanager
    def swapped(self, average: str) -> Iterator[None]:
        """Put an average of the parameters in their place on all processes; see `Optimizer.swapped`."""
        everything = [True] * len(self._arrays)
        try:
            with self.optimizer.swapped(average):
                self._gather(everything)
                yield
        finally:
            self._gather(everything)

    # -- hyperparameters and counts --

    @property
    def groups(self) -> tuple[Any, ...]:
        """The groups' hyperparameters, which can be set here, alike on all processes; their arrays are parts."""
        return self.optimizer.groups

    @property
    def lr(self) -> float | tuple[float, ...]:
        """The learning rate of the next step, or a tuple of those of groups; set it alike on all processes."""
        return self.optimizer.lr

    @lr.setter
    def lr(self, value: Any) -> None:
        self.optimizer.lr = value

    @property
    def step_count(self) -> int:
        """How many steps have been made."""
        return self.optimizer.step_count

    @property
    def skipped_steps(self) -> int:
        """How many steps ``nonfinite="skip"`` has left out."""
        return self.optimizer.skipped_steps

    @property
    def grad_norm(self) -> float | None:
        """The norm of all gradients of the last step, added up over processes, before clipping, with `clip_norm`."""
        return self.optimizer.grad_norm

    @property
    def nbytes(self) -> int:
        """The bytes of this process's parts of the parameters and of their state."""
        return self.optimizer.nbytes

    # -- saving --

    def state_dict(self, root: int = 0) -> dict[str, Any] | None:
        """Return the state of all parts as one: that of an optimizer of the rule with whole parameters.

        Parameters
        ----------
        root : int, default 0
            The process that gets it; the others get None.

        Returns
        -------
        dict or None
            What ``rule(params, ...).load_state_dict`` takes too.  It is as large as the state of a whole optimizer.
        """
        own = self.optimizer.state_dict()
        whole: dict[Name, dict[str, Any]] = {}
        for (name, entry), array in zip(own["state"].items(), self._arrays, strict=True):
            parts = self._comm.gather(entry, root)
            if parts is not None:
                sizes = np.diff(self._bounds(array.size))
                whole[name] = joined(
                    [part for part, size in zip(parts, sizes, strict=True) if size] or parts[:1], array
                )
        return {**own, "state": whole} if self._comm.rank == root else None

    def load_state_dict(self, state_dict: Mapping[str, Any] | None, root: int = 0, **options: Any) -> Loaded:
        """Take over the result of `state_dict`, of any number of processes, or of an optimizer in one process.

        Parameters
        ----------
        state_dict : mapping
            On the process `root`; the others' is not read.
        root : int, default 0
            The process that has it.
        **options
            strict, hyperparameters and convert, as in `Optimizer.load_state_dict`.

        Returns
        -------
        Loaded
            The parts that did not fit; all are empty with ``strict=True``.

        Raises
        ------
        TypeError, ValueError
            As `Optimizer.load_state_dict`, on all processes.  Nothing has been changed then.
        """
        label, comm = f"{type(self).__name__}.load_state_dict", self._comm
        is_root = comm.rank == root
        fits = isinstance(state_dict, Mapping) and isinstance(state_dict.get("state"), Mapping)
        if not comm.bcast(fits, root):
            got = f", got {brief(state_dict)}" if is_root else ""
            raise TypeError(f"{label}: the state must be a mapping, the result of state_dict(){got}")
        given: Any = state_dict if is_root else {}
        head = comm.bcast({**given, "state": list(given["state"])} if is_root else None, root)
        own = self.optimizer.state_dict()["state"]
        arrays = dict(zip(own, self._arrays, strict=True))
        state: dict[Any, Any] = {}
        for name in head["state"]:
            entry = comm.bcast(given["state"][name] if is_root else None, root)
            array = arrays.get(name)
            fits_array = array is not None and isinstance(entry, Mapping)
            state[name] = self._part_of_entry(entry, array, own[name]) if fits_array else entry
        loads, error = None, None
        try:
            loads = self.optimizer._prepared_load({**head, "state": state}, **options)
        except (TypeError, ValueError) as found:
            error = found
        refused = comm.allreduce(error is not None, MPI.LOR)
        if error is not None:
            raise error
        if refused or loads is None:
            raise ValueError(f"{label}: the state must fit on all processes, but another one has refused its part")
        return loads()

    def _part_of_entry(self, entry: Mapping[str, Any], array: Any, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entry of a parameter for its part here, from that of the whole."""
        bounds = self._bounds(array.size)
        begin, end = bounds[self._comm.rank], bounds[self._comm.rank + 1]
        if begin == end:  # how nothing is stored does not matter
            kept = {key: value for key, value in own.items() if isinstance(value, np.ndarray) or key in DESCRIPTIONS}
            given = {k: v for k, v in entry.items() if not isinstance(v, np.ndarray) and k not in DESCRIPTIONS}
            return {**given, **kept}
        found = {key: value for key, value in entry.items() if key != "order"}
        for key, value in entry.items():
            if isinstance(value, np.ndarray) and value.shape == array.shape and key not in ("begun", "averaged"):
                found[key] = np.ascontiguousarray(value).reshape(-1)[begin:end]
            elif isinstance(value, np.ndarray) and value.shape == (-(-array.size // GROUP),):
                found[key] = value[begin // GROUP : -(-end // GROUP)]
        return found


def joined(parts: Sequence[Mapping[str, Any]], array: Array) -> dict[str, Any]:
    """Return the entry of a parameter in a state, from those of its parts."""
    found = dict(parts[0])
    for key, value in found.items():
        if isinstance(value, np.ndarray):
            whole = np.concatenate([part[key] for part in parts])
            found[key] = whole.reshape(array.shape) if whole.size == array.size else whole
    return found


def checked_gradients(label: str, flat: Sequence[Any], arrays: Sequence[Array]) -> list[Array | None]:
    """Return gradients as arrays of the dtypes in which they are added up, or raise."""
    found: list[Array | None] = []
    for i, (g, array) in enumerate(zip(flat, arrays, strict=True)):
        if g is None:
            found.append(None)
            continue
        if isinstance(g, _core.RowGrad):
            raise TypeError(f"{label}: the gradient of parameter {i} must be an array or None, got a RowGrad")
        values = np.asarray(g)
        if values.shape != array.shape:
            raise ValueError(
                f"{label}: the gradient of parameter {i} must have its parameter's shape {array.shape}, got"
                f" {values.shape}"
            )
        if values.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
            raise TypeError(f"{label}: the gradient of parameter {i} must be of floats, got {values.dtype}")
        wide = values.dtype == np.float64 and computed_in(array) == np.float64
        found.append(values.astype(np.float64 if wide else np.float32, copy=False))
    return found


def scopes_of(rule: type[Optimizer], array: Array) -> set[str]:
    """Return what rows of a class look at to update one element of an array."""
    rows = {row + VECTOR if array.ndim < 2 and row + VECTOR in ROWS else row for row in rule._rules}
    return {_core.Settings(row).scope for row in rows}
