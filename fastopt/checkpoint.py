"""Optimizers on disk: a safetensors file, replaced only by a whole one, and checked whole before anything is loaded."""

# Saving and loading import their own modules when they are called: importing fastopt stays fast.
from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from reprlib import repr as brief
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .calls import checks_arguments
from .combined import Combined
from .nest import Array, Name, describe
from .optimizer import Optimizer
from .saving import Loaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from tempfile import TemporaryDirectory

    from .mpi.sharded import Sharded

PARAMETER = "p"  # the letter of a parameter among those of its state
CHUNK = 1 << 26  # bytes between two calls of `progress`


@checks_arguments
def save(
    path: str | os.PathLike[str],
    optimizer: Optimizer | Combined | Sharded,
    *,
    parameters: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Write the state, hyperparameters and counts of an optimizer to a file, and its parameters on request.

    If the process is killed or the machine stops, `path` is the complete old file or the complete new file.

    Parameters
    ----------
    path : str or path-like
        The file, in the safetensors format.
    optimizer : Optimizer, Combined or mpi.Sharded
        An optimizer of any rule, or several that step together, in one file.  The processes of a `fastopt.mpi.Sharded`
        call together.  Process 0 writes the file that one process would write, and errors are raised on all.
    parameters : bool, default False
        Write the parameters too.
    progress : callable, optional
        Called as ``progress(done, total)`` with numbers of bytes.  Each byte counts twice: for the checksum, and when
        it is on the disk.  The last call has `done` equal to `total`, and comes before the file is replaced.  An error
        in `progress` ends the save and leaves `path` unchanged.  Of several processes, process 0 calls it.

    Raises
    ------
    OSError
        If the operating system reports an error.  Then `path` is unchanged.
    ValueError
        For parameters within `Optimizer.swapped`, where they hold an average.
    ImportError
        Without the safetensors library.

    Notes
    -----
    State arrays are tensors.  Their names are the name of the parameter as JSON and the letter of the paper, such as
    ``"w"/m`` or ``0/m``.  For a `Combined` the index of the optimizer comes first, as in ``1/"w"/m``.  Parameters have
    the letter p.  Everything else is JSON in the metadata, after a SHA-256 of both.

    The file is written in a temporary folder beside it, ``.NAME.XXXXXXXX.saving``.  If the process is killed, the
    folder stays until the next save to the same path removes it.  If two processes save to one path at the same time,
    one of them may get an OSError.
    """
    work, with_parameters = Work("save", progress), _flag("save", "parameters", parameters)
    if isinstance(optimizer, (Optimizer, Combined)):
        with optimizer._table:  # so that the parameters are of the same step as the state
            packed = _pack(optimizer, optimizer.state_dict(), with_parameters)
        _write(path, *packed, work)
    else:
        content: Any = optimizer.state_dict()
        optimizer._on_one("save", lambda: _write(path, *_pack(optimizer, content, with_parameters), work))


def _write(path: str | os.PathLike[str], text: str, tensors: dict[str, Array], work: Work) -> None:
    """Write a file of `save`."""
    from glob import escape
    from shutil import copymode, rmtree

    safetensors = _safetensors()
    path = Path(os.path.realpath(path))
    work.total = 2 * sum(array.nbytes for array in tensors.values())
    metadata = {"fastopt": f"{_checksum(text, tensors, work)} {text}"}

    # The random part has eight characters, which distinguishes leftovers of "a" from leftovers of "a.b".
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
        work.end()
        os.replace(whole, path)
    if os.name == "posix":
        with suppress(OSError):  # not every file system can
            _sync(path.parent)


@checks_arguments
def check_save(path: str | os.PathLike[str]) -> None:
    """Raise now any error that `save` to this path would raise later, at the end of a long run.

    Parameters
    ----------
    path : str or path-like
        The file to save to later; an existing file does not change.

    Raises
    ------
    ImportError
        Without the safetensors library.
    OSError
        If no file can be made there, or a folder has that name.  Free space on the disk is not checked.
    """
    _safetensors()
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(f"check_save: path must be that of a file, got the folder {path}")
    with _folder_beside(path) as folder:
        Path(folder, "whole").touch()


@checks_arguments
def load(
    path: str | os.PathLike[str],
    optimizer: Optimizer | Combined | Sharded,
    *,
    strict: bool = True,
    hyperparameters: Literal["saved", "current"] = "saved",
    convert: bool = False,
    parameters: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Loaded | tuple[Loaded, ...]:
    """Restore an optimizer to the bit from a file of `save`.

    Parameters
    ----------
    path : str or path-like
        The file.
    optimizer : Optimizer, Combined or mpi.Sharded
        An optimizer of the saved class, with parameters of the same names, shapes and groups, and of the same dtypes
        unless `convert`; or a combination of such optimizers in the same order.  The processes of a
        `fastopt.mpi.Sharded`, of any number, call together.  Process 0 reads the file, and errors are raised on all.
    strict : bool, default True
        Raise unless everything fits.  With False, load the matching part; see `Optimizer.load_state_dict`.
    hyperparameters : {"saved", "current"}, default "saved"
        Take the saved hyperparameters, or keep those of `optimizer`; see `Optimizer.load_state_dict`.
    convert : bool, default False
        Accept state in other formats, and parameters of another dtype; each element is rounded once, to nearest.  See
        `Optimizer.load_state_dict`.
    parameters : bool, default False
        Restore the parameters too, in place, from a file that has them.  With ``strict=False``, only those whose state
        fits.
    progress : callable, optional
        Called as ``progress(done, total)`` with numbers of bytes.  Each byte counts twice: when it is read, and for the
        checksum.  The last call has `done` equal to `total`, and comes before anything changes.  An error in `progress`
        ends the load.  Of several processes, process 0 calls it.

    Returns
    -------
    Loaded
        The names that were missing, unexpected or of another shape; none with ``strict=True``.  For a `Combined`, a
        tuple with one `Loaded` per optimizer.

    Raises
    ------
    ValueError
        If the file is damaged, of another model, not of fastopt, or without the requested parameters.  Then nothing has
        changed.
    OSError
        If the operating system reports an error.
    ImportError
        Without the safetensors library, and without ml_dtypes for a file with bfloat16.
    """
    work, with_parameters = Work("load", progress), _flag("load", "parameters", parameters)

    def contents() -> tuple[dict[str, Any], Any, list[list[Name]]]:
        text, tensors, _ = read(path, work)
        with _about(path):
            content, found, others = _unpack(text, tensors, optimizer, strict, convert)
            if with_parameters and not any(found):
                raise ValueError(
                    "must hold the parameters, as save(..., parameters=True) writes them, but it holds none"
                )
        given = found if isinstance(optimizer, Combined) else found[0]
        return content, given if with_parameters else None, others

    content: Any
    if isinstance(optimizer, (Optimizer, Combined)):
        content, given, others = contents()
    else:
        content, given, others = optimizer._on_one("load", contents) or (None, None, [])
        others = optimizer._of_one(others)
    with _about(path):
        load = optimizer._prepared_load(content, strict, hyperparameters, convert, given)
    loaded = load()
    results = tuple(
        of_one._replace(
            missing=tuple(name for name in of_one.missing if name not in left_out),
            mismatched=(*of_one.mismatched, *left_out),
        )
        for of_one, left_out in zip([loaded] if isinstance(loaded, Loaded) else loaded, others, strict=True)
    )
    return results if isinstance(optimizer, Combined) else results[0]


@contextmanager
def _about(path: str | os.PathLike[str]) -> Iterator[None]:
    """Have errors of content say which file has it."""
    try:
        yield
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def read(path: str | os.PathLike[str], work: Work) -> tuple[str, dict[str, Array], str]:
    """Return what a file of `save` holds: JSON, tensors, and the checksum, which is right."""
    safetensors = _safetensors()
    with open(path, "rb") as opened:  # or an OSError that names the file; not all of the library's do
        work.total = 2 * os.fstat(opened.fileno()).st_size
    required = f"{path}: must be a whole file that fastopt.save has written"

    def attempt(call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except (safetensors.SafetensorError, AttributeError, TypeError) as error:  # the last two: no dtype of NumPy's
            raise ValueError(f"{required}, got {error}") from None

    tensors = {}
    with attempt(safetensors.safe_open, path, "numpy") as file:
        metadata = file.metadata() or {}
        if metadata.keys() != {"fastopt"}:
            raise ValueError(f"{required}, got one with the metadata {list(metadata)!r:.80}")
        names = list(file.keys())
        if any(attempt(file.get_slice, name).get_dtype() == "BF16" for name in names):
            _know_bfloat16(str(path))
        for name in names:
            tensors[name] = attempt(file.get_tensor, name)
            work.add(tensors[name].nbytes)
    saved, _, text = metadata["fastopt"].partition(" ")
    checksum = _checksum(text, tensors, work)
    if checksum != saved:
        raise ValueError(f"{required}, got a damaged one: its SHA-256 is {checksum}, not {saved:.80}")
    work.end()
    return text, tensors, checksum


class Work:
    """Bytes that are done, of all, and who is told of them."""

    def __init__(self, function: str, progress: Callable[[int, int], object] | None) -> None:
        if progress is not None and not callable(progress):
            raise TypeError(f"{function}: progress must be a function of two integers or None, got {brief(progress)}")
        self.progress, self.done, self.total = progress, 0, 0

    def add(self, nbytes: int) -> None:
        """Count some bytes."""
        self.done += nbytes
        if self.progress is not None:
            self.progress(self.done, self.total)

    def end(self) -> None:
        """Count the rest."""
        self.add(self.total - self.done)


def _flag(function: str, name: str, value: Any) -> bool:
    """Return True or False, or raise."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{function}: {name} must be True or False, got {brief(value)}")
    return bool(value)


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


def _know_bfloat16(path: str) -> None:
    """Import the library that gives NumPy a bfloat16, or say how to get it."""
    try:
        import ml_dtypes  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{path} holds bfloat16, which needs ml_dtypes: pip install 'fastopt[bfloat16]'") from error


def _pack(
    optimizer: Optimizer | Combined | Sharded, content: dict[str, Any], parameters: bool
) -> tuple[str, dict[str, Array]]:
    """Return all that is saved, as JSON and tensors, from an optimizer's state dict."""
    import json

    tensors: dict[str, Array] = {}
    if isinstance(optimizer, Combined):
        content["optimizers"] = [
            _pack_one(part, state, parameters, tensors, f"{i}/")
            for i, (part, state) in enumerate(zip(optimizer.optimizers, content["optimizers"], strict=True))
        ]
    else:
        content = _pack_one(optimizer, content, parameters, tensors)
    return json.dumps(content, default=_plain), tensors


def _pack_one(
    optimizer: Optimizer | Sharded,
    content: dict[str, Any],
    parameters: bool,
    tensors: dict[str, Array],
    place: str = "",
) -> dict[str, Any]:
    """Return an optimizer's state without arrays, which become tensors whose names begin with its place."""
    import json

    if parameters:
        optimizer._table.check_own("save: parameters")
        for name, array in zip(optimizer._layout.names, optimizer._layout.arrays, strict=True):
            content["state"][name][PARAMETER] = array.copy()
    rows = []
    kinds = _kinds(optimizer)
    for name, entry in content["state"].items():
        (dtype, shape), numbers = kinds[name], {}
        for key, value in entry.items():
            if isinstance(value, np.ndarray):
                is_bfloat16 = entry.get("formats", {}).get(key) == "bfloat16"
                tensors[f"{place}{json.dumps(name)}/{key}"] = as_bfloat16(value) if is_bfloat16 else value
            elif key != "dtype":
                numbers[key] = value
        rows.append({"name": name, "dtype": dtype, "shape": shape, "numbers": numbers})
    return {**content, "state": rows}


def _unpack(
    text: str, tensors: dict[str, Array], optimizer: Optimizer | Combined | Sharded, strict: bool, convert: bool
) -> tuple[dict[str, Any], list[dict[Name, Array]], list[list[Name]]]:
    """Return the state dict of a file, or raise if it is of other parameters; and of each optimizer two things more.

    These are the parameters, if they are there, and if not `strict` the names of those that are left out, since they
    have other shapes here, or other dtypes where these are not converted.
    """
    import json

    content: dict[str, Any] = json.loads(text)
    if not isinstance(optimizer, Combined):
        content, found, others = _unpack_one(content, tensors, optimizer, strict, convert)
        return content, [found], [others]
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
    unpacked = [_unpack_one(*part, strict, convert) for part in parts]
    states, found_of, others_of = (list(column) for column in zip(*unpacked, strict=True))
    return {**content, "optimizers": states}, found_of, others_of


def _unpack_one(
    content: dict[str, Any], tensors: dict[str, Array], optimizer: Optimizer | Sharded, strict: bool, convert: bool
) -> tuple[dict[str, Any], dict[Name, Array], list[Name]]:
    """Return the same of one optimizer."""
    import json

    if "optimizers" in content:
        raise ValueError(f"rule must be {optimizer._declaration.name!r}, got {content['rule']!r}")
    kinds, state = _kinds(optimizer), {}
    others: list[Name] = []
    for row in content["state"]:
        name, kind = row["name"], (row["dtype"], row["shape"])
        dtype, shape = kinds.get(name, kind)
        if kind[1] != shape or (kind[0] != dtype and not convert):
            if strict:
                what = f"must have dtype {dtype} and shape {shape}, got {kind[0]} and {kind[1]}"
                hint = "; convert=True rounds it once" if kind[1] == shape else ""
                raise ValueError(f"{describe(name)} {what}{hint}")
            others.append(name)
        state[name] = {"dtype": row["dtype"], **row["numbers"]}
    for tensor, array in tensors.items():
        name, _, letter = tensor.rpartition("/")
        as_bits = array.dtype.name == "bfloat16" and letter != PARAMETER
        state[json.loads(name)][letter] = array.view(np.uint16) if as_bits else array
    for name in others:
        del state[name]
    parameters = {name: entry.pop(PARAMETER) for name, entry in state.items() if PARAMETER in entry}
    several = {key for key, parts in optimizer._declaration.parts.items() if len(parts) > 1}  # which JSON has as lists
    groups = [
        {key: tuple(value) if key in several and isinstance(value, list) else value for key, value in group.items()}
        for group in content["groups"]
    ]
    return {**content, "groups": groups, "state": state}, parameters, others


def as_bfloat16(bits: Array) -> Array:
    """Return the bits of bfloat16 as such where NumPy can have it, so that other programs read them right."""
    try:
        import ml_dtypes
    except ImportError:
        return bits
    return bits.view(ml_dtypes.bfloat16)


def _kinds(optimizer: Optimizer | Sharded) -> dict[Name, tuple[str, list[int]]]:
    """Return each parameter's dtype and shape: not every rule has state that shows them."""
    arrays = zip(optimizer._layout.names, optimizer._layout.arrays, strict=True)
    return {name: (str(array.dtype), list(array.shape)) for name, array in arrays}


def _plain(value: np.generic) -> bool | float:
    """Return a NumPy scalar among the hyperparameters as JSON knows it."""
    return bool(value) if isinstance(value, np.bool_) else float(value)


def _checksum(text: str, tensors: dict[str, Array], work: Work) -> str:
    """Return the SHA-256 of all that is saved."""
    from hashlib import sha256

    total = sha256(text.encode())
    for name in sorted(tensors):
        total.update(f"\n{name} {tensors[name].dtype} {tensors[name].shape} ".encode())
        data = tensors[name].reshape(-1).view(np.uint8)
        for first in range(0, len(data), CHUNK):
            chunk = data[first : first + CHUNK]
            total.update(chunk.data)
            work.add(len(chunk))
    return total.hexdigest()


def _sync(path: Path) -> None:
    """Have the operating system write a file, or a folder's list of files, to the disk."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
