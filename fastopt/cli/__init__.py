"""The command line: ``python -m fastopt COMMAND``.

A command is one row of `COMMANDS`. Its function gets the arguments that follow its name, returns the exit code, and is
imported only when it is called, so that no command imports, or fails to import, modules of another.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["COMMANDS", "Parser", "console", "integer", "main", "names"]

PROG = "python -m fastopt"

# name: (module, function, description)
COMMANDS = {
    "demo": ("fastopt.cli.demo", "main", "train a network with every rule, next to plain NumPy"),
    "compare": ("fastopt.cli.compare.command", "main", "compare all rules on small tasks, at many learning rates"),
    "bench": ("fastopt.cli.bench", "main", "time a step of each rule; --roofline compares it with the memory limit"),
    "inspect": ("fastopt.cli.inspect", "main", "print and check the content of a file of fastopt.save"),
    "config": ("fastopt.cli", "config", "print version, compiler and threads; flags for C with --cflags --libs"),
}


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that reports an error in one line, and exits with 2."""

    def __init__(self, command: str = "", *, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=f"{PROG} {command}".rstrip(),
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Print the message, without the usage, and leave."""
        if message.startswith("argument "):  # "argument --epochs: must be" reads "--epochs must be"
            message = message.removeprefix("argument ").replace(": ", " ", 1)
        self.exit(2, f"{self.prog}: {message}\n")


def check_writable(file: Path) -> None:
    """Raise OSError unless the file can be written later; leaves everything as it is."""
    new = not file.exists()
    file.open("ab").close()
    if new:
        file.unlink()


def integer(low: int, high: int) -> Callable[[str], int]:
    """Return the argument type of a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, got {text!r}")
        return value

    return parse


def names(*known: str) -> Callable[[str], list[str]]:
    """Return the argument type of a list of known names, separated by commas."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if not set(chosen) <= set(known) or len(set(chosen)) < len(chosen):
            required = f"must be names from {', '.join(known)}, each at most once, with commas between them"
            raise argparse.ArgumentTypeError(f"{required}; got {text!r}")
        return chosen

    return parse


def console() -> Console:
    """Return where tables are printed: a terminal, or lines of 100 characters."""
    from rich.console import Console

    screen = Console(highlight=False)
    if not screen.is_terminal:
        screen.width = 100
    return screen


def config(arguments: Sequence[str]) -> int:
    """Print `fastopt.show_config()`, or what a build of a C or C++ program asks for."""
    import fastopt
    from fastopt import embedding

    asked = {  # in the order in which they are printed
        "--cflags": ("print the flags that compile a program in C or C++", partial(embedding.flags, "Cflags")),
        "--libs": ("print the flags that link it", partial(embedding.flags, "Libs")),
        "--cmake-dir": ("print the folder for CMake's fastopt_DIR", partial(str, embedding.CMAKE_DIR)),
        "--pkg-config-dir": ("print the folder for PKG_CONFIG_PATH", partial(str, embedding.PKG_CONFIG_DIR)),
    }
    parser = Parser(
        "config",
        description="Print version, compiler, instruction set and threads. With options, print the flags and folders\n"
        "for programs in C and C++, on one line.",
    )
    for option, (words, _) in asked.items():
        parser.add_argument(option, action="store_true", dest=option, help=words)
    chosen = vars(parser.parse_args(arguments))
    if not any(chosen.values()):
        fastopt.show_config()
        return 0
    print(*[answer() for option, (_, answer) in asked.items() if chosen[option]])
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name, and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = Parser(
        description="Optimizer steps for training on a CPU, as fast as memory allows.",
        epilog="commands:\n"
        + "\n".join(f"  {name:10}{summary}" for name, (_, _, summary) in COMMANDS.items())
        + f"\n\n{PROG} COMMAND --help describes a command.",
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    module, function, _ = COMMANDS[parser.parse_args(arguments[:1]).command]
    try:
        code: int = getattr(import_module(module), function)(arguments[1:])
    except KeyboardInterrupt:
        return 130
    return code
