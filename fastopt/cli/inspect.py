"""``python -m fastopt inspect FILE``: what a file of `fastopt.save` holds, as tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastopt.checkpoint import PARAMETER, Work, read
from fastopt.cli import Parser, console

__all__ = ["main"]

HELP = """examples:
  python -m fastopt inspect state.safetensors
  python -m fastopt inspect state.safetensors --no-parameters   only totals and hyperparameters"""


def size(nbytes: int) -> str:
    """Return a number of bytes in the unit that suits it."""
    value, units = float(nbytes), ["GiB", "MiB", "KiB"]
    if nbytes < 1024:
        return f"{nbytes} bytes"
    while (value := value / 1024) >= 1024 and len(units) > 1:
        units.pop()
    return f"{value:.1f} {units[-1]}"


def word(value: Any) -> str:
    """Return a hyperparameter as a user writes it."""
    if isinstance(value, Mapping) and "schedule" in value:
        schedule = dict(value["schedule"])
        name = schedule.pop("name")
        return f"{name}({', '.join(f'{key}={word(entry)}' for key, entry in schedule.items())})"
    if isinstance(value, list):
        return f"({', '.join(map(word, value))})"
    return f"{value:g}" if isinstance(value, float) else repr(value)


def counted(parameters: int) -> str:
    """Return a number of parameters with its noun."""
    return f"{parameters:,} parameter{'s' * (parameters != 1)}"


def hyperparameters(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield lines: values that all groups have, then those of each group."""
    words = [{key: word(value) for key, value in group.items() if key != "params"} for group in groups]
    shared = dict(set.intersection(*(set(of_group.items()) for of_group in words)))
    in_order = [f"{key}={value}" for key, value in words[0].items() if key in shared]
    yield f"all groups: {', '.join(in_order)}" if len(groups) > 1 else ", ".join(in_order)
    if len(groups) > 1:
        for i, (group, of_group) in enumerate(zip(groups, words, strict=True)):
            own = [f"{key}={value}" for key, value in of_group.items() if key not in shared]
            yield ": ".join(filter(None, (f"groups[{i}], {counted(len(group['params']))}", ", ".join(own))))


def optimizers(content: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each optimizer of a file, with the beginning of the names of its tensors."""
    if "optimizers" not in content:
        yield "", content
    for i, one in enumerate(content.get("optimizers", ())):
        yield f"{i}/", one


def formats(entry: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """Return the letters of a parameter's tensors, each with how it is stored."""
    stored = entry["numbers"].get("formats", {})
    dtypes: dict[str, list[str]] = {}
    for letter, array in tensors.items():
        if letter != PARAMETER:
            dtypes.setdefault(stored.get(letter, str(array.dtype)), []).append(letter)
    return "; ".join(f"{', '.join(letters)}: {dtype}" for dtype, letters in dtypes.items())


def show(path: Path, content: Mapping[str, Any], tensors: Mapping[str, np.ndarray], checksum: str, whole: bool) -> None:
    """Print the tables."""
    from rich.markup import escape
    from rich.table import Table

    screen = console()
    has_parameters = any(name.rpartition("/")[2] == PARAMETER for name in tensors)
    facts = Table.grid(padding=(0, 2))
    facts.add_row("file", escape(f"{path}, {size(path.stat().st_size)}"))
    facts.add_row("rule", escape(content["rule"]))
    facts.add_row("parameters", "in the file" if has_parameters else "not in the file, which has their state")
    facts.add_row("SHA-256", f"{checksum}, as it must be")
    screen.print(facts)
    for place, one in optimizers(content):
        states = {row["name"]: row for row in one["state"]}
        arrays: dict[Any, dict[str, np.ndarray]] = {name: {} for name in states}
        for tensor, array in tensors.items():
            if tensor.startswith(place):
                name, _, letter = tensor.removeprefix(place).rpartition("/")
                arrays[json.loads(name)][letter] = array
        elements = sum(math.prod(row["shape"]) for row in states.values())
        nbytes = {name: sum(array.nbytes for array in found.values()) for name, found in arrays.items()}
        screen.print(
            f"\n[bold]{escape(place + one['rule'])}[/bold], step {one['step_count']:,}: {counted(len(states))} with"
            f" {elements:,} elements, {size(sum(nbytes.values()))} in the file"
        )
        for line in hyperparameters(one["groups"]):
            screen.print(escape(line))
        if whole:
            table = Table("parameter", "dtype", "shape", "steps", "state", "bytes")
            for name, row in states.items():
                words = (repr(name), row["dtype"], str(tuple(row["shape"])), f"{row['numbers']['step']:,}")
                table.add_row(*map(escape, (*words, formats(row, arrays[name]), f"{nbytes[name]:,}")))
            screen.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    parser = Parser("inspect", description="Print and check the content of a file of fastopt.save.", epilog=HELP)
    parser.add_argument("file", type=Path, help="the file")
    parser.add_argument("--no-parameters", action="store_true", help="leave out the table of parameters")
    given = parser.parse_args(arguments)
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError as error:
        parser.error(f"needs rich ({error}): pip install 'fastopt[demo]'")
    try:
        errors = Console(stderr=True)
        with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
            task = bar.add_task("reading")
            work = Work("inspect", lambda done, total: bar.update(task, completed=done, total=total))
            text, tensors, checksum = read(given.file, work)
    except (OSError, ImportError, ValueError) as error:
        parser.error(str(error))
    try:
        show(given.file, json.loads(text), tensors, checksum, not given.no_parameters)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        parser.error(f"{given.file}: must be a file that fastopt.save has written, got another one ({error!r:.80})")
    return 0
