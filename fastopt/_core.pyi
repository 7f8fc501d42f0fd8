from collections.abc import Callable
from typing import Any, Protocol, final

from numpy.typing import NDArray

from .nest import Array, Name, Watched

class Settings:
    rule_name: str
    hyper_names: tuple[str, ...]
    state_names: tuple[str, ...]
    carry_names: tuple[str, ...]
    together: bool
    corrected: tuple[str, ...]
    catch_up: tuple[str, ...] | None
    def __init__(self, rule: str) -> None: ...
    def order(self, p: Array) -> tuple[int, ...]: ...
    def shapes(self, p: Array) -> list[tuple[int, ...]]: ...
    def set(self, hyper: dict[str, float], options: dict[str, Any]) -> bool: ...

@final
class RowGrad:
    rows: NDArray[Any]
    values: Array
    def __init__(self, rows: Any, values: Array) -> None: ...

@final
class Table:
    check_finite: bool
    skip_nonfinite: bool
    skipped_steps: int
    num_threads: int
    step_count: int
    schedules: dict[Settings, Callable[[int], tuple[dict[str, float], dict[str, Any]]]]
    grad_scale: float
    clip_norm: float
    clip_value: float
    zero_grads: bool
    grad_norm: float | None
    catches_up: bool
    containers: list[Watched]
    between: Callable[[], Callable[[list[int], int], None] | None] | None
    swapped: str | None
    def __init__(
        self,
        owner: str,
        names: list[Name],
        params: list[Array],
        settings: list[Settings],
        state: list[list[Array]],
        carry: list[NDArray[Any]],
        seen: list[NDArray[Any] | None],
        averages: tuple[str, ...],
        structure: list[Any],
        grouped: bool,
        arenas: list[Array],
        containers: list[Watched],
    ) -> None: ...
    def append(
        self,
        names: list[Name],
        params: list[Array],
        settings: list[Settings],
        state: list[list[Array]],
        carry: list[NDArray[Any]],
        seen: list[NDArray[Any] | None],
        structure: list[Any],
        grouped: bool,
        arenas: list[Array],
        containers: list[Watched],
    ) -> None: ...
    def step(
        self, grads: Any, changes: dict[str, Any] | None = None, gathered: Table | None = None, mean: bool = True
    ) -> bool: ...
    def step_one(self, name: Name, gradient: Any, changes: dict[str, Any] | None = None) -> bool: ...
    def bind(self, grads: Any) -> None: ...
    def discard(self) -> None: ...
    def catch_up(self) -> None: ...
    def catch_up_in_turn(self) -> None: ...
    def chosen_threads(self) -> int: ...
    def check_turn(self) -> None: ...
    def check_own(self, label: str) -> None: ...
    def check_containers(self, owner: str) -> None: ...
    def rebind(
        self,
        owner: str,
        arrays: list[Array],
        groups: list[tuple[Any, tuple[Array, ...]]],
        plain: list[Array],
        containers: list[Watched],
    ) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...
    def traffic(self, i: int, g: Array, num_threads: int) -> None: ...
    def steps(self) -> list[int]: ...
    def adopt(self, changes: list[tuple[Any, ...]]) -> None: ...
    def decays(self) -> list[dict[str, Any]]: ...
    def load(
        self,
        steps: list[int],
        step_count: int,
        changes: list[tuple[Any, ...]],
        values: list[tuple[Array, Any]],
        decays: list[Any],
    ) -> None: ...

class Kernel(Protocol):
    __name__: str
    def __call__(
        self,
        p: Array,
        g: Array,
        /,
        *state: Array,
        step: int,
        weight_decay: float = ...,
        decoupled_decay: float = ...,
        independent_decay: float = ...,
        maximize: bool = ...,
        num_threads: int | None = ...,
        **hyper: float,
    ) -> None: ...

def kernel(name: str, doc: str) -> Kernel: ...
def rules() -> list[tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]]: ...
def available_isas() -> list[str]: ...
def isa() -> str | None: ...
def use_isa(name: str) -> None: ...
def build_info() -> tuple[str, str, int]: ...
def forked() -> bool: ...
def check_range(label: str, name: str, value: float) -> None: ...
def still_holds(container: Any, keys: tuple[Any, ...], values: tuple[Any, ...]) -> bool: ...
def check_parameter(label: str, p: Any) -> None: ...
def check_disjoint(labels: list[str], arrays: list[Array]) -> None: ...
def order_of(a: Array) -> tuple[int, ...]: ...
def set_default_threads(n: int) -> None: ...
def get_default_threads() -> int: ...
