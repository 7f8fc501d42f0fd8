"""Messages between the processes: sums of gradients, parts of parameters, and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
from mpi4py import MPI

from .._core import RowGrad
from ..nest import Array
from .cuts import SMALL, Cut

Float: TypeAlias = type[np.float32] | type[np.float64]  # in which gradients are added up
T = TypeVar("T")

BUCKET = 1 << 20  # bytes of gradients in a message of several small parameters, about
_DUPLICATE = MPI.Comm.Create_keyval()


def duplicate_of(comm: MPI.Comm) -> MPI.Comm:
    """Return the one duplicate of a communicator for messages of optimizers; MPI allows only some thousands."""
    found = comm.Get_attr(_DUPLICATE)
    if isinstance(found, MPI.Comm):
        return found
    made = comm.Dup()
    made.Set_errhandler(MPI.ERRORS_RETURN)  # mpi4py raises them
    comm.Set_attr(_DUPLICATE, made)
    return made


# ---- Errors ----

KINDS: tuple[type[Exception], ...] = (FloatingPointError, ImportError, OSError, TypeError, ValueError)


def raise_alike(comm: MPI.Comm, label: str, error: Exception | None) -> None:
    """Raise the error of this process, or an error of the same kind if another process has one."""
    kind = next((i for i, kind in enumerate(KINDS) if isinstance(error, kind)), len(KINDS))
    errors = comm.allgather(None if error is None else (kind, str(error)))
    if error is not None:
        raise error
    for rank, of_rank in enumerate(errors):
        if of_rank is not None:
            kind, text = of_rank
            raise (*KINDS, RuntimeError)[kind](f"{label}: process {rank} has failed: {text}")


def on_one(comm: MPI.Comm, label: str, root: int, function: Callable[[], T]) -> T | None:
    """Call a function on one process, and return its result there and None on the others; all raise its error."""
    found, error = None, None
    if comm.rank == root:
        try:
            found = function()
        except Exception as raised:  # whatever it is, the others wait
            error = raised
    raise_alike(comm, label, error)
    return found


# ---- Gradients and parameters ----


class InFlight:
    """Messages that are under way: a few at a time, so that the memory that MPI takes for them stays in the caches."""

    MOST = 2

    def __init__(self) -> None:
        self.requests: list[MPI.Request] = []

    def add(self, begin: Callable[[], MPI.Request]) -> None:
        """Begin one more message; if MOST are under way, wait first until the oldest one has ended."""
        if len(self.requests) == self.MOST:
            self.requests.pop(0).Wait()
        self.requests.append(begin())

    def end(self) -> None:
        """Wait for all of them."""
        MPI.Request.Waitall(self.requests)


class Message:
    """A message in which gradients of some parameters are added up, and one in which the parameters are gathered.

    `add_up` begins the first one.  When it has ended, `parts` are the sums of this process's parts.  `gather` begins
    the second one, and `end` writes the received parts to the parameters.
    """

    def __init__(self, comm: MPI.Comm, cuts: Mapping[int, Cut], dtype: Float) -> None:
        self.comm, self.cuts, self.dtype = comm, cuts, np.dtype(dtype)
        self.nbytes = sum(cut.counts[comm.rank] for cut in cuts.values()) * self.dtype.itemsize  # of the sums
        self.store: Array = np.empty(0, np.uint8)  # the memory of the sums, which the caller sets

    def flat_gradient(self, i: int, gradients: Sequence[Array | None]) -> Array:
        """Return the gradient of a parameter as a flat array; zeros where this process has none."""
        g = gradients[i]
        size = self.cuts[i].array.size
        return np.zeros(size, self.dtype) if g is None else np.ascontiguousarray(g, self.dtype).reshape(-1)

    @property
    def sums(self) -> Array:
        """The sums of this process's parts, one after another."""
        return self.store[: self.nbytes].view(self.dtype)

    def parts(self) -> dict[int, Array]:
        """Return the sums of this process's parts by the indices of their parameters."""
        found: dict[int, Array] = {}
        begin, rank = 0, self.comm.rank
        for i, cut in self.cuts.items():
            end = begin + cut.counts[rank]
            found[i] = self.sums[begin:end].reshape(cut.shape_of_part(rank))
            begin = end
        return found

    def add_up(self, gradients: Sequence[Array | None]) -> MPI.Request:
        """Begin to add up the gradients of all processes."""
        raise NotImplementedError

    def gather(self) -> MPI.Request:
        """Begin to gather the parts of the parameters on all processes."""
        raise NotImplementedError

    def end(self) -> None:
        """Write the received parts to the parameters; nothing is left to do if they were received there."""


class InParts(Message):
    """The messages of one parameter that is cut."""

    def __init__(self, comm: MPI.Comm, i: int, cut: Cut, dtype: Float) -> None:
        super().__init__(comm, {i: cut}, dtype)
        self.i, self.cut = i, cut

    def add_up(self, gradients: Sequence[Array | None]) -> MPI.Request:
        """Begin a reduce-scatter."""
        return self.comm.Ireduce_scatter(self.flat_gradient(self.i, gradients), self.sums, self.cut.counts)

    def gather(self) -> MPI.Request:
        """Begin an all-gather in the parameter."""
        return self.comm.Iallgatherv(MPI.IN_PLACE, [bits(self.cut.array), self.cut.counts])


class OfOne(InParts):
    """The messages of one parameter that is not cut."""

    def add_up(self, gradients: Sequence[Array | None]) -> MPI.Request:
        """Begin a reduction to the process that has the parameter."""
        sums = self.sums if self.comm.rank == self.cut.owner else None
        return self.comm.Ireduce(self.flat_gradient(self.i, gradients), sums, root=self.cut.owner)

    def gather(self) -> MPI.Request:
        """Begin a broadcast from the process that has the parameter."""
        return self.comm.Ibcast(bits(self.cut.array), self.cut.owner)


class Packed(Message):
    """The messages of several small parameters, none of which is cut, in the order of their owners."""

    def __init__(self, comm: MPI.Comm, cuts: Mapping[int, Cut], dtype: Float) -> None:
        super().__init__(comm, dict(sorted(cuts.items(), key=lambda item: item[1].owner)), dtype)
        self.received: Array = np.empty(sum(cut.array.nbytes for cut in cuts.values()), np.uint8)

    def add_up(self, gradients: Sequence[Array | None]) -> MPI.Request:
        """Begin a reduce-scatter of copies."""
        together = np.concatenate([self.flat_gradient(i, gradients) for i in self.cuts])
        counts = self.by_owner(cut.array.size for cut in self.cuts.values())
        return self.comm.Ireduce_scatter(together, self.sums, counts)

    def gather(self) -> MPI.Request:
        """Begin an all-gather of copies."""
        for cut, received in self.pieces():
            if cut.owner == self.comm.rank:
                received[...] = as_bytes(cut.array)
        counts = self.by_owner(cut.array.nbytes for cut in self.cuts.values())
        return self.comm.Iallgatherv(MPI.IN_PLACE, [self.received, counts])

    def end(self) -> None:
        """Write the received parameters of other processes."""
        for cut, received in self.pieces():
            if cut.owner != self.comm.rank:
                as_bytes(cut.array)[...] = received

    def by_owner(self, sizes: Iterable[int]) -> list[int]:
        """Return for each process the sum of the sizes of the parameters that it has."""
        totals = [0] * self.comm.size
        for cut, size in zip(self.cuts.values(), sizes, strict=True):
            totals[cut.owner] += size
        return totals

    def pieces(self) -> Iterator[tuple[Cut, Array]]:
        """Yield each parameter with its place in the message."""
        begin = 0
        for cut in self.cuts.values():
            yield cut, self.received[begin : begin + cut.array.nbytes]
            begin += cut.array.nbytes


def messages_of(comm: MPI.Comm, cuts: Sequence[Cut], dtypes: Sequence[Float | None]) -> list[Message]:
    """Return the messages for parameters whose gradients are added up in these dtypes, None without a gradient."""
    found: list[Message] = []
    small: dict[Float, dict[int, Cut]] = {}
    for i, (cut, dtype) in enumerate(zip(cuts, dtypes, strict=True)):
        if dtype is None:
            continue
        if not cut.is_whole or cut.array.size >= SMALL:
            found.append((OfOne if cut.is_whole else InParts)(comm, i, cut, dtype))
            continue
        together = small.setdefault(dtype, {})
        together[i] = cut
        if sum(one.array.size for one in together.values()) * np.dtype(dtype).itemsize >= BUCKET:
            found.append(Packed(comm, small.pop(dtype), dtype))
    return found + [Packed(comm, together, dtype) for dtype, together in small.items()]


def gather(messages: Sequence[Message]) -> None:
    """Gather the parameters of these messages on all processes."""
    in_flight = InFlight()
    for message in messages:
        in_flight.add(message.gather)
    in_flight.end()
    for message in messages:
        message.end()


def as_bytes(array: Array) -> Array:
    """Return the bytes of a contiguous array."""
    return array.reshape(-1).view(np.uint8)


def bits(array: Array) -> Array:
    """Return the elements of a contiguous array as integers of their size, since MPI has no bfloat16."""
    return array.reshape(-1).view(f"u{array.itemsize}")


# ---- Gradients of rows ----


def add_up_rows(comm: MPI.Comm, cuts: Mapping[int, Cut], gradients: Mapping[int, RowGrad]) -> dict[int, Any]:
    """Return the gradients of rows of all processes for this process's parts, one process after another."""
    sent: list[dict[int, tuple[Array, Array]]] = [{} for _ in range(comm.size)]
    for i, g in gradients.items():
        for to, begin, end in zip(sent, cuts[i].places, cuts[i].places[1:], strict=False):
            chosen = (g.rows >= begin) & (g.rows < end)
            to[i] = g.rows[chosen] - begin, g.values[chosen]
    received = comm.alltoall(sent)
    found: dict[int, Any] = {}
    for i, cut in cuts.items():
        rows, values = (np.concatenate(column) for column in zip(*(one[i] for one in received), strict=True))
        # An empty part has no rows, so its gradient is an empty array.
        found[i] = (
            RowGrad(rows, values) if cut.counts[comm.rank] else np.zeros(cut.shape_of_part(comm.rank), values.dtype)
        )
    return found


def gather_rows(comm: MPI.Comm, cuts: Sequence[Cut], gradients: Mapping[int, Any]) -> None:
    """Gather the rows of these gradients on all processes."""
    if not gradients:
        return
    own: dict[int, tuple[Array, Array]] = {}
    for i, g in gradients.items():
        if isinstance(g, RowGrad):
            rows = np.unique(g.rows) + cuts[i].places[comm.rank]
            own[i] = rows, bits_of_rows(cuts[i])[rows]
    for of_process in comm.allgather(own):
        for i, (rows, values) in of_process.items():
            bits_of_rows(cuts[i])[rows] = values


def bits_of_rows(cut: Cut) -> Array:
    """Return the elements of a parameter as integers, by row."""
    return bits(cut.array).reshape(len(cut.view), cut.entry_size)
