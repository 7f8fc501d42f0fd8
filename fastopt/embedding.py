"""Where programs in C, C++ and Cython find the header and the static library of the C core."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from .calls import checks_arguments

PACKAGE = Path(__file__).resolve().parent
PKG_CONFIG_DIR = PACKAGE / "lib" / "pkgconfig"
CMAKE_DIR = PACKAGE / "lib" / "cmake" / "fastopt"


@checks_arguments
def get_include() -> str:
    """Return the folder of ``fastopt.h``, for the compiler's ``-I``.

    Returns
    -------
    str
        An absolute path within the package.
    """
    return str(PACKAGE / "include")


@checks_arguments
def get_library() -> str:
    """Return the static library of the C core, which a program in C or C++ links.

    Returns
    -------
    str
        The absolute path of a file within the package.  On Unix the program also needs ``-pthread -lm``;
        ``python -m fastopt config --libs`` prints all of these.

    Raises
    ------
    FileNotFoundError
        If the package was built without it.
    """
    found = [*(PACKAGE / "lib").glob("*fastopt_core.*")]
    if not found:
        raise FileNotFoundError(f"get_library: {PACKAGE / 'lib'} must have a library fastopt_core, but it has none")
    return str(found[0])


def flags(kind: str) -> str:
    """Return the "Cflags" or "Libs" of this package's file for pkg-config, quoted for a shell."""
    text = (PKG_CONFIG_DIR / "fastopt.pc").read_text()
    values = {**dict(re.findall(r"^(\w+)(?:=|: )(.*)$", text, re.MULTILINE)), "prefix": str(PACKAGE)}

    def expanded(word: str) -> str:
        return re.sub(r"\$\{(\w+)\}", lambda name: expanded(values[name[1]]), word)

    return shlex.join(expanded(word) for word in values[kind].split())
