from ._core import Kernel

__all__: list[str]

def __getattr__(name: str) -> Kernel: ...
