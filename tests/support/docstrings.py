"""The parameters in docstrings, and the words in which they must give their type and range."""

import inspect
import re

import fastopt
from fastopt.declarations import Choice, Flag, OtherName
from support.hyper import parts, range_of

SHARED = fastopt.Optimizer._declaration.arguments


def entries(documented):
    """The parameters of a docstring in its order: name or names, the rest of the line, the text below it."""
    doc = inspect.getdoc(documented)
    if "\nParameters\n----------\n" not in doc:
        return []
    section = doc.partition("\nParameters\n----------\n")[2]
    section = re.split(r"\n\n\w[^\n]*\n---", section)[0] + "\n"
    return re.findall(r"^(\S.*?)(?: : (.*))?\n((?:(?:    .*)?\n)*)", section, re.MULTILINE)


def is_refused(cls, name, part, value):
    """Whether a class refuses a number that is in the range of hyper.def, with the other defaults."""
    declaration = cls._declaration
    hyper = {key: one.default for key, one in declaration.hyper.items()}
    names, default = parts(cls.__name__, name), hyper[name]
    others = default if len(names) > 1 else (default,)
    changed = tuple(value if other == part else one for other, one in zip(names, others, strict=True))
    hyper |= {"weight_decay_form": declaration.decay_form, name: changed if len(names) > 1 else value}
    try:
        declaration.check(cls.__name__, hyper)
    except ValueError:
        return True
    return False


def range_in_words(cls, name, part):
    """A range as docstrings give it: of infinity they speak below, where it has a meaning."""
    words = re.sub(r" \([a-z].*\)$|^finite and |^an integer |^finite$", "", range_of(part).words)
    return words.replace("[0", "(0") if words.startswith("in [0") and is_refused(cls, name, part, 0.0) else words


def type_and_range(cls, name):
    """The words between the name of an argument of an optimizer and its default."""
    argument = cls._declaration.hyper.get(name) or cls._declaration.arguments[name]
    if isinstance(argument, (Flag, OtherName)):
        return "bool"
    if isinstance(argument, Choice):
        return "{" + ", ".join("None" if word is None else f'"{word}"' for word in argument.of) + "}"
    ranges = [range_in_words(cls, name, part) for part in argument.names]
    if len(ranges) == 1:
        of_one = "int" if "integer" in range_of(argument.names[0]).words else "float"
        return f"{of_one}{' or None' if argument.none is not None else ''}, {ranges[0]}"
    several = "pair of float" if len(ranges) == 2 else "three floats"
    together = f"each {ranges[0]}" if len(set(ranges)) == 1 else " and ".join(ranges)
    return f"{several}, {together}" if any(ranges) else several


def own(cls):
    """The arguments that a class declares itself, in the order of its signature, and decay where it is not L2."""
    arguments = cls._declaration.arguments
    decays = {"weight_decay"} if cls._declaration.decay_form != "l2" else set()
    return [name for name, one in arguments.items() if one is not SHARED.get(name) or name in decays]
