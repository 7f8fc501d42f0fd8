"""All rules and classes that the files of tests/rules/ declare, in the order of rules.def."""

from importlib import import_module
from pathlib import Path

import fastopt
from support.rule import Class, Rule

FILES = sorted((Path(__file__).parents[1] / "rules").glob("test_*.py"))
ROWS = [row[0] for row in fastopt._core.rules()]


def place(module: object) -> int:
    """Where the rules of a file stand in rules.def."""
    return min((ROWS.index(rule.name) for rule in module.RULES if rule.name in ROWS), default=len(ROWS))


MODULES = sorted((import_module(f"rules.{file.stem}") for file in FILES), key=place)
FILE_OF = {rule.name: Path(module.__file__).name for module in MODULES for rule in module.RULES}
_BY_NAME: dict[str, Rule] = {rule.name: rule for module in MODULES for rule in module.RULES}
RULES = {name: _BY_NAME[name] for name in [*filter(_BY_NAME.__contains__, ROWS), *(_BY_NAME.keys() - {*ROWS})]}
CLASSES: dict[str, Class] = {cls.name: cls for module in MODULES for cls in module.CLASSES}
