"""Optimizers on disk: a safetensors file, replaced only by a whole one, and checked whole before anything is loaded."""

# What only saving and loading need is imported there: importing fastopt is to stay fast.
from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from .combined import Combined
from .nest import Array, Name, describe
from .optimizer import Optimizer

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory


def save(path: str | os.PathLike[str], optimizer: Optimizer | Combined) -> None:
    """Write an optimizer's state, hyperparameters and counts to a file; the parameters are not in it.

    Whenever the process is killed or the machine stops, `path` is the file that was there before or the new one, whole.

    Parameters
    ----------
    path : str or path-like
        The file, in the safetensors format.
    optimizer : Optimizer or Combined
        Of any rule, with any parameters; or several that step as one, in one file.

    Raises
    ------
    OSError
        When the operating system refuses.  `path` is as it was before.
    ImportError
        Without the safetensors library.

    Notes
    -----
    State arrays are tensors named by their parameter's name as JSON and the paper's letter, like ``"w"/m`` or ``0/m``;
    those of a `Combined` after the place of their optimizer, like ``1/"w"/m``.
    All else is JSON in the metadata, after a SHA-256 of both.

    The file is made in a temporary folder beside it, ``.NAME.XXXXXXXX.saving``.  When the process is killed that stays
    until the next save to the same path removes it.  When two processes save to one path at the same time, one
    of them may get an OSError.
    """
    from glob import escape
    from shutil import copymode, rmtree

    safetensors = _safetensors()
    path = Path(os.path.realpath(path))
    text, tensors = _pack(optimizer)
    metadata = {"fastopt": f"{_checksum(text, tensors)} {text}"}

    # The random part has eight characters, so that leftovers of "a" are told from those of "a.b".
    for leftover in path.parent.glob(f".{escape(path.name)}.????????.saving"):
        rmtree(leftover, ignore_errors=True)
    with _folder_beside(path) as folder:
        whole, permissions = Path(folder, "whole"), Path(folder, "permissions")
        try:
            safetensors.numpy.save_file(tensors, whole, metadata)
        except safetensors.SafetensorError as error:
            raise OSError(f"{path}: cannot be saved: {error}") from None
        permissions.touch()  # with those of any new file; the library makes one that only its owner may read
        copymode(permissions, whole)
        _sync(whole)
        os.replace(whole, path)
    if os.name == "posix":
        with suppress(OSError):  # not every file system can
            _sync(path.parent)


def check_save(path: str | os.PathLike[str]) -> None:
    """Raise now what `save` to this path would raise later, for a run whose first save is hours away.

    Parameters
    ----------
    path : str or path-like
        The file that will be saved to; what is there stays as it is.

    Raises
    ------
    ImportError
        Without the safetensors library.
    OSError
        When no file can be made there, or a folder has that name.  Whether there will be room is not looked at.
    """
    _safetensors()
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(f"check_save: path must be that of a file, got the folder {path}")
    with _folder_beside(path) as folder:
        Path(folder, "whole").touch()


def load(path: str | os.PathLike[str], optimizer: Optimizer | Combined) -> None:
    """Restore, to the bit, what `save` has written of an optimizer with the same rule and parameters.

    Parameters
    ----------
    path : str or path-like
        The file.
    optimizer : Optimizer or Combined
        Of the same class, with parameters of the same names, shapes and dtypes, in the same groups; or a combination of
        such optimizers in the same order.

    Raises
    ------
    ValueError
        When the file is damaged, of another model, or not of fastopt.  Nothing has been changed then.
    OSError
        When the operating system refuses.
    ImportError
        Without the safetensors library.
    """
    safetensors = _safetensors()
    with open(path, "rb"):
        pass  # or an OSError that names the file; not all of the library's do
    required = f"{path}: must be a whole file that fastopt.save has written"
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.keys() != {"fastopt"}:
                raise ValueError(f"{required}, got one with the metadata {list(metadata)!r:.80}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, AttributeError, TypeError) as error:  # the last two: a dtype that NumPy lacks
        raise ValueError(f"{required}, got {error}") from None
    saved, _, text = metadata["fastopt"].partition(" ")
    checksum = _checksum(text, tensors)
    if checksum != saved:
        raise ValueError(f"{required}, got a damaged one: its SHA-256 is {checksum}, not {saved:.80}")
    try:
        optimizer.load_state_dict(_unpack(text, tensors, optimizer))
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _folder_beside(path: Path) -> TemporaryDirectory[str]:
    """Make the folder in which a file becomes whole before it takes its place."""
    from tempfile import TemporaryDirectory

    return TemporaryDirectory(prefix=f".{path.name}.", suffix=".saving", dir=path.parent, ignore_cleanup_errors=True)


def _safetensors() -> ModuleType:
    """Import the library, or say how to get it."""
    try:
        import safetensors.numpy
    except ImportError as error:
        message = "fastopt.save and fastopt.load need the safetensors library: pip install 'fastopt[checkpoint]'"
        raise ImportError(message) from error
    return safetensors


def _pack(optimizer: Optimizer | Combined) -> tuple[str, dict[str, Array]]:
    """Return all that is saved, as JSON and tensors."""
    import json

    content = optimizer.state_dict()
    tensors: dict[str, Array] = {}
    if isinstance(optimizer, Combined):
        parts = zip(optimizer.optimizers, content["optimizers"], strict=True)
        content["optimizers"] = [_pack_one(part, state, tensors, f"{i}/") for i, (part, state) in enumerate(parts)]
    else:
        content = _pack_one(optimizer, content, tensors)
    return json.dumps(content, default=_plain), tensors


def _pack_one(
    optimizer: Optimizer, content: dict[str, Any], tensors: dict[str, Array], place: str = ""
) -> dict[str, Any]:
    """Return an optimizer's state without arrays, which become tensors whose names begin with its place."""
    import json

    rows = []
    kinds = _kinds(optimizer)
    for name, entry in content["state"].items():
        (dtype, shape), numbers = kinds[name], {}
        for key, value in entry.items():
            if isinstance(value, np.ndarray):
                tensors[f"{place}{json.dumps(name)}/{key}"] = value
            else:
                numbers[key] = value
        rows.append({"name": name, "dtype": dtype, "shape": shape, "numbers": numbers})
    return {**content, "state": rows}


def _unpack(text: str, tensors: dict[str, Array], optimizer: Optimizer | Combined) -> dict[str, Any]:
    """Return what `state_dict` gave, or raise when it is of other parameters."""
    import json

    content: dict[str, Any] = json.loads(text)
    if not isinstance(optimizer, Combined):
        return _unpack_one(content, tensors, optimizer)
    if content["rule"] != "Combined" or len(content["optimizers"]) != len(optimizer.optimizers):
        raise ValueError(
            f"rule must be 'Combined' with {len(optimizer.optimizers)} optimizers, got {content['rule']!r} with"
            f" {len(content.get('optimizers', [0]))}"
        )
    of_part: list[dict[str, Array]] = [{} for _ in optimizer.optimizers]
    for tensor, array in tensors.items():
        place, _, name = tensor.partition("/")
        of_part[int(place)][name] = array
    parts = zip(content["optimizers"], of_part, optimizer.optimizers, strict=True)
    return {**content, "optimizers": [_unpack_one(*part) for part in parts]}


def _unpack_one(content: dict[str, Any], tensors: dict[str, Array], optimizer: Optimizer) -> dict[str, Any]:
    """Return what the `state_dict` of one optimizer gave."""
    import json

    if "optimizers" in content:
        raise ValueError(f"rule must be {type(optimizer).__name__!r}, got {content['rule']!r}")
    kinds, state = _kinds(optimizer), {}
    for row in content["state"]:
        name, kind = row["name"], (row["dtype"], row["shape"])
        dtype, shape = kinds.get(name, kind)
        if kind != (dtype, shape):
            raise ValueError(f"{describe(name)} must have dtype {dtype} and shape {shape}, got {kind[0]} and {kind[1]}")
        state[name] = row["numbers"]
    for tensor, array in tensors.items():
        name, _, letter = tensor.rpartition("/")
        state[json.loads(name)][letter] = array
    several = {key for key, parts in optimizer._parts.items() if len(parts) > 1}  # which JSON has as lists
    groups = [
        {key: tuple(value) if key in several and isinstance(value, list) else value for key, value in group.items()}
        for group in content["groups"]
    ]
    return {**content, "groups": groups, "state": state}


def _kinds(optimizer: Optimizer) -> dict[Name, tuple[str, list[int]]]:
    """Return each parameter's dtype and shape: not every rule has state that tells."""
    arrays = zip(optimizer.state, optimizer._arrays, strict=True)
    return {name: (str(array.dtype), list(array.shape)) for name, array in arrays}


def _plain(value: np.generic) -> bool | float:
    """Return a NumPy scalar among the hyperparameters as JSON knows it."""
    return bool(value) if isinstance(value, np.bool_) else float(value)


def _checksum(text: str, tensors: dict[str, Array]) -> str:
    """Return the SHA-256 of all that is saved."""
    from hashlib import sha256

    total = sha256(text.encode())
    for name in sorted(tensors):
        total.update(f"\n{name} {tensors[name].dtype} {tensors[name].shape} ".encode())
        total.update(tensors[name].reshape(-1).data)
    return total.hexdigest()


def _sync(path: Path) -> None:
    """Have the operating system write a file, or a folder's list of files, to the disk."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
