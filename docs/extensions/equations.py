r"""Equations of docstrings as mathematics.

Docstrings have their equations as plain text, in literal blocks that everybody can read in a terminal::

    v = beta2 * v + (1 - beta2) * g^2
    p = p - lr * m / (sqrt(v) + eps)            where g is not 0

On the site they are formulas.  A line is an equation and, after four blanks, a remark in words.  A block that is no
equation, such as code, stays as it is.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

if TYPE_CHECKING:
    from sphinx.application import Sphinx

TOKEN = re.compile(r"\s*(\d+\.?\d*(?:e-?\d+)?|[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*_?(?:'s)?|\.\.\.|[<>]=|\S)")
RELATIONS = {"=": "=", "<": "<", ">": ">", "<=": r"\le", ">=": r"\ge"}
OPERATORS = {*RELATIONS, *"+-*/"}
GREEK = {
    *("alpha", "beta", "gamma", "eta", "kappa", "lambda", "mu", "nu", "pi", "rho", "sigma", "tau"),
    *("eps", "lambd"),
}
SPELLED = {"eps": "varepsilon", "lambd": "lambda"}
FUNCTIONS = {"min": r"\min", "max": r"\max", "cos": r"\cos"}
ACCENTS = {"hat": r"\hat", "bar": r"\bar"}


class NoEquationError(ValueError):
    """The text is no equation."""


def letter(name: str) -> str:
    """Return a name without its index in TeX: a letter, or upright."""
    if name in GREEK:
        return "\\" + SPELLED.get(name, name)
    return name if len(name) == 1 else rf"\text{{{name}}}"


def symbol(name: str) -> str:
    """Return a name in TeX, with accent and index: m1_hat, rho_inf, beta2, weight_decay."""
    stem, _, ending = name.partition("_")
    base, digits = re.fullmatch(r"(.*?)(\d*)", stem).groups()  # type: ignore[union-attr]
    if ending in ACCENTS:
        base, ending = f"{ACCENTS[ending]}{{{letter(base)}}}", ""
    elif ending == "inf":
        base, ending = letter(base), r"\infty"
    elif len(ending) > 1 or not (ending or digits):
        return letter(name)
    else:
        base = letter(base)
    index = digits + ending
    return f"{base}_{{{index}}}" if index else base


def is_word(token: str) -> bool:
    """Return whether a token may be a word of English: small letters, and no Greek one."""
    return bool(re.fullmatch(r"[a-z]{2,}(?:'s)?|a", token)) and token not in GREEK and token not in FUNCTIONS


class Line:
    """The tokens of an expression, read from left to right into TeX."""

    def __init__(self, text: str) -> None:
        self.tokens = TOKEN.findall(text)
        self.place = 0
        if rejected := [token for token in self.tokens if token in '"#:`{}\\@.;']:
            raise NoEquationError(rejected[0])

    @property
    def next(self) -> str:
        """The token that comes, empty at the end."""
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def after(self, token: str) -> bool:
        """Read this token, if it comes."""
        found = self.next == token
        self.place += found
        return found

    def need(self, token: str) -> None:
        """Read this token, which must come."""
        if not self.after(token):
            raise NoEquationError(f"{token} must follow, got {self.next}")

    def read(self) -> str:
        """Return all of it: expressions, with relations and commas between them."""
        tex = self.list()
        if self.next:
            raise NoEquationError(self.next)
        return tex

    def list(self, end: str = "") -> str:
        """Return expressions up to a closing bracket."""
        tex: list[str] = []
        while self.next and self.next != end:
            if self.next in RELATIONS and (self.next != "<" or (tex and tex[-1].strip() not in RELATIONS.values())):
                tex.append(f" {RELATIONS[self.next]} ")
                self.place += 1
            elif self.after(","):
                tex.append(r",\; " if end else r",\quad ")
            else:
                tex.append(self.sum())
        return "".join(tex)

    def sum(self) -> str:
        """Return terms with plus and minus between them."""
        tex = "-" if self.after("-") else ""
        tex += self.product()
        while (sign := self.next) in ("+", "-"):
            self.place += 1
            tex += f" {sign} {self.product()}"
        return tex

    def product(self) -> str:
        """Return factors and fractions; a quotient takes the factors on its left as the numerator."""
        done: list[str] = []
        factors = [self.power()]
        while True:
            if self.after("*"):
                factors.append(self.power())
            elif self.after("/"):
                below = self.power()
                while self.after("/"):
                    below += r"\, " + self.power()
                done.append(rf"\frac{{{bare(times(factors))}}}{{{bare(below)}}}")
                factors = []
                if not self.after("*"):
                    break
                factors.append(self.power())
            elif self.next and (self.next[0].isalnum() or self.next in ("(", "...")):
                factors.append(self.power())
            else:
                break
        return times([*done, *factors])

    def power(self) -> str:
        """Return a factor with its exponent."""
        base = self.factor()
        if self.after("^"):
            base += f"^{{{bare(self.factor())}}}"
        return base

    def factor(self) -> str:
        """Return a number, a symbol, a call, words, or an expression in brackets."""
        token = self.next
        self.place += 1
        if token == "(":
            return bracketed(self.inside(")"))
        if token == "|":
            norm = rf"\left|{self.inside('|')}\right|"
            return f"{norm}_{{{self.factor()}}}" if self.after("_") else norm
        if token == "<":
            return rf"\langle {self.inside('>')} \rangle"
        if token == "...":
            return r"\cdots"
        if token[:1].isdigit():
            mantissa, _, exponent = token.partition("e")
            return rf"{mantissa} \cdot 10^{{{exponent}}}" if exponent else token
        if not re.match(r"[A-Za-z]", token):
            raise NoEquationError(token)
        if self.next == "(" and not token.endswith("_") and not self.is_text(token):
            return self.call(token)
        if self.is_text(token):
            words = [token]
            while is_word(self.next) and (self.is_text(self.next, 1) or self.ends(1)):
                words.append(self.next)
                self.place += 1
            return rf"\text{{ {' '.join(words)} }}"
        return self.indexed(token)

    def is_text(self, token: str, ahead: int = 0) -> bool:
        """Return whether a token, this many ahead of the next one, is a word: another name follows it."""
        follower = self.tokens[self.place + ahead] if self.place + ahead < len(self.tokens) else ""
        return is_word(token) and bool(re.match(r"[A-Za-z]", follower) or (token in ("of", "over") and follower))

    def ends(self, ahead: int) -> bool:
        """Return whether an expression ends this many tokens ahead."""
        return self.place + ahead >= len(self.tokens) or self.tokens[self.place + ahead] in {")", ",", *RELATIONS}

    def call(self, name: str) -> str:
        """Return a function of the bracket that follows."""
        self.need("(")
        inside = self.inside(")")
        if name in ("sqrt", "cbrt"):
            return rf"\sqrt{'[3]' if name == 'cbrt' else ''}{{{inside}}}"
        if name == "floor":
            return rf"\left\lfloor {inside} \right\rfloor"
        head = FUNCTIONS.get(name) or (symbol(name) if len(name) == 1 else rf"\operatorname{{{name}}}")
        return head + bracketed(inside)

    def indexed(self, name: str) -> str:
        """Return a symbol, with the index that follows in brackets: etas[1], mu_(t+1)."""
        if name.endswith("_"):
            self.need("(")
            return f"{letter(name[:-1])}_{{{self.inside(')')}}}"
        if self.after("["):
            return f"{letter(name)}_{{{self.inside(']')}}}"
        return symbol(name)

    def inside(self, end: str) -> str:
        """Return the expressions up to a closing bracket, and read it."""
        tex = self.list(end)
        self.need(end)
        return tex


def times(factors: list[str]) -> str:
    """Return a product, with a dot where two names or numbers would run together."""
    tex = factors[:1]
    for left, right in itertools.pairwise(factors):
        runs_together = right[0].isdigit() or (left.startswith(r"\text{") and right.startswith(r"\text{"))
        tex += [r" \cdot " if runs_together and "{ " not in left + right else r"\, ", right]
    return "".join(tex)


def bracketed(tex: str) -> str:
    """Return an expression in brackets, which grow around fractions alone."""
    return rf"\left({tex}\right)" if r"\frac" in tex else f"({tex})"


def bare(tex: str) -> str:
    """Return an expression without the brackets around all of it."""
    left, right = (r"\left(", r"\right)") if tex.startswith(r"\left(") else ("(", ")")
    if not (tex.startswith(left) and tex.endswith(right)):
        return tex
    depth = 0
    for i, character in enumerate(tex):
        depth += (character == "(") - (character == ")")
        if depth == 0 and character == ")":
            return tex[len(left) : -len(right)] if i == len(tex) - 1 else tex
    return tex


def remark(text: str) -> str:
    """Return a remark in TeX: words, and formulas where it has some."""
    words, parts, i = text.replace("`", "").split(), [""], 0
    while i < len(words):
        formula, end = formula_at(words, i)
        if formula:
            parts += [formula, ""]
        else:
            parts[-1] += f" {words[i]}"
        i = end
    parts[::2] = [rf"\text{{{words} }}" if words else "" for words in parts[::2]]
    return "".join(parts)


def formula_at(words: list[str], start: int) -> tuple[str, int]:
    """Return the formula that begins with this word, empty if it is a word of English, and the index after it."""
    follower = words[start + 1] if start + 1 < len(words) else ""
    if not (re.search(r"[\d_^|(\[<=]", words[start]) or words[start].rstrip(",") in GREEK or follower in OPERATORS):
        return "", start + 1
    end = start + 1
    while end < len(words) and (is_open(words[start:end]) or {words[end - 1], words[end]} & OPERATORS):
        end += 1
    text = " ".join(words[start:end])
    stripped = text.rstrip(",:;")
    try:
        return Line(stripped).read() + (rf"\text{{{text[len(stripped) :]}}}" if text != stripped else ""), end
    except NoEquationError:
        return "", start + 1


def is_open(words: list[str]) -> bool:
    """Return whether a bracket is open at the end of these words."""
    text = " ".join(words)
    return any(text.count(left) > text.count(right) for left, right in ("()", "[]"))


def row_of(line: str) -> str:
    """Return a line as a row of three columns in TeX: left side, relation and right side, remark."""
    equation, _, words = line.strip().partition("    ")
    if re.fullmatch(r"[\w\s,]+:", equation):  # such as "five times:"
        return f"& {remark(equation)} &"
    tex = Line(equation.strip().rstrip(",")).read()
    left, relation, right = tex.partition(" = ")
    if not relation:
        return f"{tex} & & {remark(words)}"
    is_update = re.search(rf"(?<![\w\\{{]){re.escape(left)}(?![\w{{])", right)  # the new value comes from the old one
    return rf"{left} & {chr(92) + 'leftarrow' if is_update else '='} {right} & {remark(words)}"


def to_tex(text: str) -> str:
    """Return a block of equations in TeX, or raise NoEquationError."""
    if "=" not in text:
        raise NoEquationError(text)
    rows = [row_of(line) for line in text.splitlines() if line.strip()]
    return "\\begin{aligned}" + " \\\\\n".join(rows) + "\\end{aligned}"


class Equations(SphinxTransform):
    """Put formulas in the place of literal blocks that are equations, in descriptions of Python's objects."""

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        """Change the tree."""
        for description in self.document.findall(addnodes.desc_content):
            for block in list(description.findall(nodes.literal_block)):
                try:
                    tex = to_tex(block.astext())
                except NoEquationError:
                    continue
                formula = nodes.math_block(tex, tex, nowrap=True, number=None, label=None)
                formula.source, formula.line = block.source, block.line
                block.replace_self(formula)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the transform."""
    app.add_transform(Equations)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
