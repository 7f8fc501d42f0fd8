"""An optimizer whose state is shared out among the processes of MPI."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from reprlib import repr as brief
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from mpi4py import MPI

from .. import _core
from .._core import RowGrad
from ..calls import checks_arguments
from ..declarations import Declaration
from ..layout import Parameters
from ..nest import (
    Array,
    Name,
    Part,
    Watched,
    can_be_copied,
    describe,
    holds,
    is_consumed,
    members,
    places,
    together,
    watched,
)
from ..optimizer import Optimizer
from ..options import OneStep, checked_for_one_step
from ..parameters import is_group
from ..saving import Loaded
from ..stepping import append_sums, new_accumulator
from ..stepping import gather as gather_further
from ..storage import computed_in
from .cuts import Cut, cut, share_out
from .messages import (
    Float,
    InFlight,
    Message,
    add_up_rows,
    duplicate_of,
    gather,
    gather_rows,
    messages_of,
    on_one,
    raise_alike,
)
from .states import gathered_state, prepared_load

if TYPE_CHECKING:
    from typing_extensions import Never, Self, Unpack

T = TypeVar("T")

NONE, ROWS, WHOLE = range(3)  # kinds of gradients; the largest one that a process has holds for all
# Values of a step that must be the same on all processes: otherwise they would wait for different messages.
ALIKE = ("the options that need all gradients at once", "step_count", "the number of micro-batches", "accumulated")
IN_TURN = 2  # sums of gradients that are under way or in use, where parameters are stepped in turn


class Sharded:
    r"""An optimizer whose state is shared out among the processes of a communicator (ZeRO, stage 1).

    ::

        comm = MPI.COMM_WORLD
        opt = fastopt.mpi.Sharded(fastopt.AdamW, params, comm, lr=3e-4, clip_norm=1.0)
        for batch in batches_of(comm.rank):
            opt.step(gradients(params, batch))    # of this process alone

    Each process has all parameters, and gradients of its own.  A step adds up the gradients.  Then each process updates
    its parts of the parameters and of the state, and all parameters are gathered::

        g = sum of g over the processes          divided by their number with gradients="mean"
        p[part] = rule(p[part], g[part])         one part of each parameter on each process
        p = parts of all processes

    All processes end with the same parameters.  For the same sum of gradients these have the bits of one optimizer in
    one process.  There are two exceptions: norms over all gradients, and sums of rules over a parameter that is cut.
    They are added up over the processes in another order, so that results with them agree to rounding.

    Parameters
    ----------
    rule : type
        The class of the rule, such as `fastopt.AdamW`.
    params : array, sequence, mapping, nest or sequence of groups
        As the rule takes them, but C-contiguous; with the same structure and the same values on all processes.
    comm : mpi4py.MPI.Comm
        The communicator of the processes.  Optimizers send their messages through a duplicate of it.
    gradients : {"mean", "sum"}, default "mean"
        How gradients of the processes are combined.
    **options
        Hyperparameters and options of the rule, the same on all processes.  `zero_grads` and `catch_up` are refused.

    Raises
    ------
    TypeError, ValueError
        For values out of range, and parameters that are not C-contiguous.

    Notes
    -----
    All methods except `accumulate` and `discard` are collective: all processes call them in the same order.  If a step,
    a save or a load fails on one process, all processes raise an error, and nothing has changed.  If a process is lost,
    ``mpiexec`` ends the others.

    Each process has the state of about 1/processes of the elements.  A parameter is cut between rows if it has a row
    for each process, or if the rule works row by row; else it is cut between elements.  Parameters of less than 16,384
    elements are not cut, nor are those of rules that use matrices or whole parameters, such as `Muon`.  Each of them
    belongs to one process, and all processes get about the same number of bytes.

    A copy shares the communicator, so all processes must make it.  Pickling is refused; `state_dict` and `fastopt.save`
    give the state of a whole optimizer.

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
        self._comm = duplicate_of(comm)
        self._accumulator: _core.Accumulator | None = None  # of gradients of this process
        self._loads = [0] * comm.size  # the bytes of each process's parts
        self._cuts: list[Cut] = []
        self._containers: list[Watched] = []
        groups = list(params) if is_consumed(params) else params
        grouped = _core.is_sequence(groups) and any(map(is_group, groups))
        self._layout = Parameters(grouped, [], [], [], [])  # of the whole parameters
        self._wholes = _core.Table("Sharded.step", (), None)  # of the same; it checks gradients and makes no steps
        given_groups = [one for one in groups if is_group(one)] if grouped else [{"params": groups}]

        def make(parts: list[Any]) -> None:
            of_groups = iter(parts)
            given: Any = parts[0]
            if grouped:
                given = [{**one, "params": next(of_groups)} if is_group(one) else one for one in groups]
            #: The optimizer of the parts of this process; its parameters are views of the whole parameters.
            self.optimizer: Optimizer = rule(given, **options)

        self._append("Sharded", rule, given_groups, options.get("state_dtype"), make)

    def _append(
        self,
        label: str,
        rule: type[Optimizer],
        groups: Sequence[Mapping[str, Any]],
        state_dtype: Any,
        make: Callable[[list[Any]], None],
    ) -> Parameters:
        """Cut the parameters of further groups, and return them; `make` gives the nests of parts to the optimizer."""
        added = Parameters(True, [], [], [], [])
        containers: list[Watched] = []
        state_dtypes: list[Any] = []
        for group in groups:
            nest = group["params"]
            structure, names, arrays = members(f"{label}: params", nest, len(self._cuts) + len(added.arrays))
            added.structure.append(structure)
            added.members.append(names)
            added.arrays += arrays
            found = nest.places if isinstance(nest, Part) else places(nest, structure, names)
            containers += watched(found)
            state_dtypes += [group.get("state_dtype", state_dtype)] * len(arrays)
        labels = [f"{label}: {describe(name)}" for name in added.names]
        for one, array in zip(labels, added.arrays, strict=True):
            _core.check_parameter(one, array)
            if not array.flags.c_contiguous:
                raise ValueError(f"{one} must be C-contiguous, got strides {array.strides} for shape {array.shape}")
        layout = self._layout
        described = [describe(name) for name in layout.names + added.names]
        _core.check_disjoint(label, described, layout.arrays + added.arrays)
        each = zip(added.arrays, state_dtypes, strict=True)
        cuts, loads = [cut(rule, array, self._comm.size, word) for array, word in each], list(self._loads)
        share_out(cuts, loads)
        make(self._nests(added.structure, cuts))
        self._loads, self._cuts, self._containers = loads, self._cuts + cuts, self._containers + containers
        layout.structure, layout.members = layout.structure + added.structure, layout.members + added.members
        layout.arrays = layout.arrays + added.arrays
        self._laid_out(added)
        return added

    def _nests(self, structures: list[Any], cuts: Sequence[Cut]) -> list[Any]:
        """Return the parts of this process in the structure of each group."""
        parts = iter([one.part(self._comm.rank, one.array) for one in cuts])
        return [together(structure, parts) for structure in structures]

    def _laid_out(self, added: Parameters) -> None:
        """Finish further parameters, of which the optimizer has parts now."""
        layout, before = self.optimizer._layout, len(self._layout.arenas)
        begins = [one.bounds[self._comm.rank] for one in self._cuts]
        self._table.set_parts(begins, [one.array.size for one in self._cuts], self._sum)
        self._by_element = all(settings.scope in ("element", "row") for settings in layout.all_settings())
        self._layout.grouped, self._layout.arenas = layout.grouped, layout.arenas
        added.grouped, added.arenas = layout.grouped, layout.arenas[before:]
        with self._wholes:
            append_sums(self._wholes, added, added.arrays)
        self._messages: tuple[Any, list[Message]] = None, []  # of the last step, and for which gradients they are

    @property
    def _table(self) -> _core.Table:
        return self.optimizer._table

    @property
    def _declaration(self) -> Declaration:
        return self.optimizer._declaration

    def _sum(self, values: Array) -> None:
        self._comm.Allreduce(MPI.IN_PLACE, values)

    # -- the step --

    @checks_arguments
    def step(self, grads: Any = None, **changes: Unpack[OneStep]) -> None:
        """Add up the gradients of all processes, update the parts, and gather the parameters on all processes.

        Parameters
        ----------
        grads : array, sequence or mapping
            Gradients of this process in the structure of the parameters, as the rule takes them.  A gradient of None
            counts as zeros if another process has one.  If processes give only `RowGrad` for a parameter, the step
            updates the rows of all of them and no others.  Without argument: the accumulated gradients.
        **changes
            grad_scale, clip_norm, clip_value and accumulated replace the optimizer's own for this step.  They must be
            the same on all processes.

        Raises
        ------
        TypeError, ValueError
            On all processes, if the gradients of one of them do not fit.  Then nothing has changed.
        FloatingPointError
            On all processes, as the rule raises it.

        Notes
        -----
        Parameters are stepped in turn if each needs only its own gradient: without `clip_norm`, with
        ``nonfinite="propagate"``, and for rules that work element by element or row by row.  Meanwhile the gradients of
        the next one and the parts of the last two are under way.  Otherwise all gradients are added up first.
        """
        label, comm = f"{type(self).__name__}.step", self._comm
        count, error = len(self._cuts), None
        found: list[Any] = [None] * count
        agreed = np.zeros(2 * count + 2 * len(ALIKE) + 1, np.int64)
        try:
            found, alike = self._checked(label, grads, changes)
            agreed[:count] = [NONE if g is None else ROWS if isinstance(g, RowGrad) else WHOLE for g in found]
            agreed[count : 2 * count] = [g is not None and dtype_of(g) == np.float64 for g in found]
            agreed[2 * count : -1] = [*alike, *(-value for value in alike)]
        except Exception as raised:  # whatever it is, the others wait
            error = raised
            agreed[-1] = True
        comm.Allreduce(MPI.IN_PLACE, agreed, MPI.MAX)
        if agreed[-1]:
            raise_alike(comm, label, error)
        most, least = agreed[2 * count : -1].reshape(2, -1)
        for what, high, low in zip(ALIKE, most.tolist(), (-least).tolist(), strict=True):
            if high != low:
                raise ValueError(f"{label}: {what} must be the same on all processes, got {low} and {high}")
        needs_all, _, micro_batches, is_mean = most.tolist()
        kinds, wide = agreed[:count].tolist(), agreed[count : 2 * count].tolist()
        dtypes: list[Float] = [np.float64 if is_wide else np.float32 for is_wide in wide]
        of_rows = self._add_up_rows({i for i in range(count) if kinds[i] == ROWS}, found, dtypes)
        each = zip(kinds, found, self._cuts, dtypes, strict=True)
        wholes = [whole(g, one, dtype) if kind == WHOLE else None for kind, g, one, dtype in each]
        of_wholes = [dtype if kind == WHOLE else None for kind, dtype in zip(kinds, dtypes, strict=True)]
        messages = self._messages_for(bool(needs_all), of_wholes)
        self.optimizer._step_with(
            self._step_at_once if needs_all else self._step_in_turn,
            (messages, wholes, of_rows),
            changes,
            divisor=(comm.size if self._mean else 1) * (micro_batches if micro_batches and is_mean else 1),
        )
        if micro_batches:
            self.discard()

    def _checked(self, label: str, grads: Any, changes: OneStep) -> tuple[list[Any], list[int]]:
        """Return the gradients of this process, and the values of ALIKE; or raise."""
        optimizer = self.optimizer
        given = checked_for_one_step(label, changes, optimizer._options["nonfinite"])
        if given.get("zero_grads"):
            raise ValueError(f"{label}: zero_grads must be False, got True")
        if _core.changed_container(self._containers) is not None:
            raise ValueError(
                f"{label}: parameters must stay the arrays that the optimizer updates, but a container holds another"
                f" array: assign to the array in place"
            )
        accumulator = self._accumulator
        micro_batches = accumulator.step_count if accumulator is not None else 0
        if micro_batches and grads is not None:
            raise ValueError(f"{label}: gradients must be None, since some have been accumulated, got others")
        if not micro_batches and grads is None:
            raise TypeError(f"{label}: gradients must be given or accumulated, got none")
        flat = accumulator.gradients() if accumulator and micro_batches else self._wholes.flatten(grads)
        self._wholes.check_gradients(flat)
        clips = given.get("clip_norm", optimizer._options["clip_norm"]) is not None
        needs_all = clips or optimizer._options["nonfinite"] != "propagate" or not self._by_element
        is_mean = changes.get("accumulated", "mean") == "mean"
        found = [self._as_added(label, i, g) for i, g in enumerate(flat)]
        return found, [needs_all, optimizer.step_count, micro_batches, is_mean]

    def _as_added(self, label: str, i: int, g: Any) -> Array | RowGrad | None:
        """Return a gradient in the dtype in which it is added up; or raise for rows that the parameter cannot take."""
        if g is None:
            return None
        one, is_of_rows = self._cuts[i], isinstance(g, RowGrad)
        what = f"{label}: gradient of {describe(self._layout.names[i])} must be an array, since"
        if is_of_rows and not self._table.takes_rows(i):
            raise ValueError(f"{what} the step needs all of it, got a RowGrad")
        if is_of_rows and not (one.is_whole or one.by_row or one.array.ndim == 1):
            cut_so = f"the parameter is cut within its {len(one.array)} rows for {self._comm.size} processes"
            raise ValueError(f"{what} {cut_so}, got a RowGrad: use fewer processes")
        values = np.asarray(g.values if is_of_rows else g)
        is_wide = values.dtype == np.float64 and computed_in(one.array) == np.float64
        values = values.astype(np.float64 if is_wide else np.float32, copy=False)
        return RowGrad(g.rows, values) if is_of_rows else values

    def _add_up_rows(self, those: set[int], found: list[Any], dtypes: Sequence[Float]) -> dict[int, Any]:
        """Return the gradients of rows of all processes for this process's parts of these parameters."""
        cuts, gradients = {i: self._cuts[i] for i in sorted(those)}, {}
        for i, one in cuts.items():
            none = RowGrad([], np.empty((0, *one.array.shape[1:])))
            g = none if found[i] is None else found[i]
            gradients[i] = RowGrad(g.rows, g.values.astype(dtypes[i], copy=False))
        return add_up_rows(self._comm, cuts, gradients) if cuts else {}

    def _messages_for(self, at_once: bool, dtypes: list[Float | None]) -> list[Message]:
        """Return the messages for gradients that are added up in these dtypes, with memory for the sums."""
        if self._messages[0] != (at_once, dtypes):
            messages = messages_of(self._comm, self._cuts, dtypes)
            turns = len(messages) if at_once else IN_TURN
            for k in range(turns):
                store = np.empty(max((message.nbytes for message in messages[k::turns]), default=0), np.uint8)
                for message in messages[k::turns]:
                    message.store = store
            self._messages = (at_once, dtypes), messages
        return self._messages[1]

    def _step_at_once(
        self, messages: list[Message], grads: list[Any], of_rows: dict[int, Any], given: dict[str, Any], divisor: float
    ) -> bool:
        """Add up all gradients, then step; return whether the step was made."""
        in_flight = InFlight()
        for message in messages:
            in_flight.add(partial(message.add_up, grads))
        in_flight.end()
        made = self._table.step_flat(self._flat(messages, of_rows), given, divisor=divisor)
        if made:
            gather(messages)
            gather_rows(self._comm, self._cuts, of_rows)
        return made

    def _step_in_turn(
        self, messages: list[Message], grads: list[Any], of_rows: dict[int, Any], given: dict[str, Any], divisor: float
    ) -> bool:
        """Step the parameters message by message, while the next gradients and the last parts are under way."""
        table = self._table
        table.begin_parts()
        sums = [message.add_up(grads) for message in messages[: IN_TURN - 1]]
        if of_rows:
            table.step_parts(self._flat([], of_rows), given, divisor)
        parts = InFlight()
        for k, message in enumerate(messages):
            sums[k].Wait()
            sums += [following.add_up(grads) for following in messages[k + IN_TURN - 1 : k + IN_TURN]]
            table.step_parts(self._flat([message], {}), given, divisor)
            parts.add(message.gather)
        table.end_parts()
        parts.end()
        for message in messages:
            message.end()
        gather_rows(self._comm, self._cuts, of_rows)
        return True

    def _flat(self, messages: Sequence[Message], of_rows: Mapping[int, Any]) -> tuple[Any, ...]:
        """Return the sums of gradients in the order of the parameters, None for those that are in no message."""
        found = dict(of_rows)
        for message in messages:
            found |= message.parts()
        return tuple(found.get(i) for i in range(len(self._cuts)))

    @checks_arguments
    def accumulate(self, grads: Any) -> None:
        """Add the gradients of a micro-batch of this process; the next ``step()`` uses those of all processes.

        Parameters
        ----------
        grads : array, sequence or mapping
            As `step` takes them.

        Raises
        ------
        TypeError, ValueError
            For gradients that do not fit, on this process.  Then nothing has been added.

        Notes
        -----
        As `Optimizer.accumulate`.  The call is not collective, but when they step, all processes must have added the
        same number of micro-batches.  The step uses their mean, or their sum with ``accumulated="sum"``, and combines
        processes as `gradients` of the constructor says.
        """
        if self._accumulator is None:
            label = f"{type(self).__name__}.accumulate"
            self._accumulator = new_accumulator(label, self._table, self._layout)
        self._accumulator.add(grads)

    @checks_arguments
    def discard(self) -> None:
        """Forget the gradients that `accumulate` has gathered on this process."""
        if self._accumulator is not None:
            self._accumulator.discard()

    # -- averages --

    @checks_arguments
    @contextmanager
    def swapped(self, average: str) -> Iterator[None]:
        """Put an average of the parameters in their place on all processes; see `Optimizer.swapped`."""
        try:
            with self.optimizer.swapped(average):
                self._gather_all()
                yield
        finally:
            self._gather_all()

    def _gather_all(self) -> None:
        """Gather all parameters on all processes."""
        gather(messages_of(self._comm, self._cuts, [np.float32] * len(self._cuts)))

    # -- groups, hyperparameters and counts --

    @property
    def groups(self) -> tuple[Any, ...]:
        """The groups: their hyperparameters, to be set alike on all processes, and the parts of their arrays."""
        return self.optimizer.groups

    @property
    def lr(self) -> float | tuple[float, ...]:
        """The learning rate of the next step, or a tuple of rates if groups differ; set it alike on all processes."""
        return self.optimizer.lr

    @lr.setter
    def lr(self, value: Any) -> None:
        self.optimizer.lr = value

    @checks_arguments
    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add a group of parameters, alike on all processes, with the same values; see `Optimizer.add_param_group`."""
        label = f"{type(self).__name__}.add_param_group"
        if not is_group(group):
            raise TypeError(f'{label}: group must be a mapping with "params", got {brief(group)}')
        added = self._append(
            label,
            type(self.optimizer),
            [group],
            self.optimizer._layout.defaults["state_dtype"],
            lambda parts: self.optimizer.add_param_group({**group, "params": parts[0]}),
        )
        if self._accumulator is not None:
            gather_further(self._accumulator, added)

    @checks_arguments
    def reset(self, names: Name | Iterable[Name] | None = None) -> None:
        """Forget the state of all parameters, or of some; see `Optimizer.reset`."""
        self.optimizer.reset(names)

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

    @checks_arguments
    def state_dict(self, root: int = 0) -> dict[str, Any] | None:
        """Return the state of all parts in one state dict, as an optimizer with whole parameters has it.

        Parameters
        ----------
        root : int, default 0
            The process that gets it; the others get None.

        Returns
        -------
        dict or None
            The state dict, which an optimizer of the rule in one process can load too.  It needs as much memory as the
            state of a whole optimizer.
        """
        return gathered_state(self._comm, self.optimizer, self._cuts, root)

    @checks_arguments
    def load_state_dict(
        self,
        state_dict: Mapping[str, Any] | None,
        root: int = 0,
        *,
        strict: bool = True,
        hyperparameters: Literal["saved", "current"] = "saved",
        convert: bool = False,
    ) -> Loaded:
        """Load the result of `state_dict`, from any number of processes or from an optimizer in one process.

        Parameters
        ----------
        state_dict : mapping
            The state, on the process `root`.  The argument of other processes is not read.
        root : int, default 0
            The process that has the state.
        strict, hyperparameters, convert
            As in `Optimizer.load_state_dict`, the same on all processes.

        Returns
        -------
        Loaded
            The names that were missing, unexpected or of another shape; none with ``strict=True``.

        Raises
        ------
        TypeError, ValueError
            As `Optimizer.load_state_dict`, on all processes.  Then nothing has changed.
        """
        return self._prepared_load(state_dict, strict, hyperparameters, convert, None, root)()

    def _prepared_load(
        self,
        state_dict: Mapping[str, Any] | None,
        strict: bool = True,
        hyperparameters: str = "saved",
        convert: bool = False,
        parameters: Mapping[Name, Array] | None = None,
        root: int = 0,
    ) -> Callable[[], Loaded]:
        """Check a state, and parameters if given, and return a function that restores them; or raise.

        The process `root` has them.
        """
        label = f"{type(self).__name__}.load_state_dict"
        given = state_dict, parameters
        load = prepared_load(
            label, self._comm, self.optimizer, self._cuts, given, root, strict, hyperparameters, convert
        )

        def load_and_gather() -> Loaded:
            loaded, with_parameters = load()
            if with_parameters:
                self._gather_all()
            return loaded

        return load_and_gather

    def _on_one(self, label: str, function: Callable[[], T], root: int = 0) -> T | None:
        """Call a function on one process, and return its result there and None on the others; all raise its error."""
        return on_one(self._comm, label, root, function)

    def _of_one(self, value: T) -> T:
        """Return the value of process 0 on all."""
        found: T = self._comm.bcast(value)
        return found

    # -- copies --

    def __copy__(self) -> Self:
        return self._copied(lambda value: value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._copied(partial(deepcopy, memo=memo))

    def _copied(self, copied: Callable[[Any], Any]) -> Self:
        """Return a copy; a function returns its parameters and options, given those of this optimizer."""
        state, layout, rule = self.optimizer.__getstate__(), self._layout, type(self.optimizer)
        made = type(self).__new__(type(self))
        made._mean, made._comm, made._loads = self._mean, self._comm, list(self._loads)
        parameters = {id(array) for array in layout.arrays}
        kept = [one for one in self._containers if holds(one) and can_be_copied(one[0], parameters)]
        arrays, made._containers = copied((layout.arrays, kept))
        made._layout = Parameters(layout.grouped, layout.structure, layout.members, arrays, [])
        made._wholes, made._accumulator = _core.Table("Sharded.step", (), None), None
        made._cuts = [one.of(array) for one, array in zip(self._cuts, arrays, strict=True)]
        own = {"params": made._nests(layout.structure, made._cuts), "containers": []}
        made.optimizer = rule.__new__(rule)
        made.optimizer.__setstate__({**copied({key: value for key, value in state.items() if key not in own}), **own})
        made._laid_out(Parameters(layout.grouped, layout.structure, layout.members, arrays, []))
        return made

    def __reduce__(self) -> Never:
        raise TypeError(
            f"{type(self).__name__}: an optimizer of several processes cannot be pickled, since its communicator"
            f" belongs to them: pickle the result of state_dict(), or use fastopt.save"
        )

    def __repr__(self) -> str:
        parts = f"{len(self._cuts)} parameters, part {self._comm.rank} of {self._comm.size}"
        return f"{type(self).__name__}({parts}, {self.optimizer!r})"


def dtype_of(g: Any) -> Any:
    """Return the dtype of a gradient."""
    return g.values.dtype if isinstance(g, RowGrad) else g.dtype


def whole(g: Array | RowGrad | None, one: Cut, dtype: Float) -> Array | None:
    """Return a gradient as a whole array: a RowGrad too, since another process has a whole gradient."""
    if not isinstance(g, RowGrad):
        return g
    found: Array = np.zeros(one.array.shape, dtype)
    np.add.at(found, g.rows, g.values)
    return found
