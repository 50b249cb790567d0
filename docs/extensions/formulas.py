"""Formulas of docstrings in LaTeX: ``dL/dx_k = (g_k - 1/P sum_j g_j) / sqrt(var + eps)`` is typed as plain text.

A docstring is often read in a terminal, so its formulas are plain text. The notation:

- ``x_i``, ``x[n,c]`` and ``sum_{n,i}`` have a subscript, ``x^2`` and ``x^(a + b)`` a power, ``f'(0)`` a prime.
- Neighbouring terms are a product. Names of one letter are variables; longer names are one symbol each, or words:
  both are set upright. Greek letters are written as names: ``gamma``.
- ``a/b`` without blanks divides only a by b; with blanks, ``a b / c`` divides the whole product before it.
- ``dL/dx`` is a partial derivative, ``sqrt(...)`` a root, ``|x|`` a size, ``[i = k]`` is 1 if this holds and else 0.
- ``v <- a v`` gives v a new value. Three blanks separate formulas; each gets a line of its own.
- A part in brackets without a relation is a remark; so is a part with a comma before its first relation.
"""

import re
import textwrap
from itertools import pairwise
from typing import NamedTuple

GREEK = {"alpha", "beta", "gamma", "delta", "eta", "lambda", "mu", "pi", "sigma", "theta", "rho"}
SYMBOLS = {**{name: "\\" + name for name in GREEK}, "eps": r"\varepsilon", "sum": r"\sum"}
PREPOSITIONS = {"about", "of", "over", "with"}
RELATIONS = {"=": "=", "<-": r"\leftarrow", "->": r"\to", "<=": r"\le", ">=": r"\ge", "!=": r"\ne", "<": "<", ">": ">"}
FENCES = {"(": ")", "[": "]", "{": "}"}
LONG = 62  # characters: in a longer formula, each further = begins a line

TOKEN = re.compile(
    r"(?P<number>\d+(?:\.\d+)?)|(?P<name>[A-Za-z]+(?:_[A-Za-z]{2,})*)"
    r"|(?P<sign><-|->|<=|>=|!=|\|\||'+|[-+*/^_=<>|,.:()\[\]{}])|(?P<blank>\s+)"
)


class Token(NamedTuple):
    """A name, number or sign; `apart`: whether there is a blank before it."""

    kind: str
    text: str
    apart: bool


class Operand(NamedTuple):
    """LaTeX and its kind; `inner` is the text in brackets, which a fraction does not need."""

    latex: str
    kind: str
    inner: str = ""


def with_formulas(lines):
    r"""The lines of a docstring, with each formula as a ``math`` directive.

    An indented paragraph of its text, or of its notes, is a formula. After ``::`` it is code.

    Examples
    --------
    >>> with_formulas(["The root,", "", "    y = sqrt(x),", "", "or::", "", "    y = x ** 0.5"])
    ['The root,', '', '.. math::', '', '   y = \\sqrt{x},', '', 'or::', '', '    y = x ** 0.5']
    """
    written, text, above, formula = [], True, "", []  # `above`: the last line that is not blank
    for line, below in zip([*lines, ""], [*lines[1:], "", ""], strict=False):
        if below and set(below) == {"-"}:
            text = line == "Notes"  # in other sections, descriptions are indented
        begins = line.startswith(" ") and not above.startswith(" ") and written and not written[-1]
        if formula and line:
            formula.append(line)
        elif formula:
            latex = to_latex("\n".join(formula)).splitlines()
            written += [".. math::", "", *textwrap.indent("\n".join(latex), "   ").splitlines(), line]
            formula = []
        elif text and begins and not above.endswith("::"):
            formula = [line]
        else:
            written.append(line)
        above = line or above
    return written[:-1]


def to_latex(text: str) -> str:
    r"""All formulas of a paragraph, one below the other.

    Parameters
    ----------
    text : str
        Lines of formulas.

    Returns
    -------
    str
        LaTeX for a displayed formula.

    Raises
    ------
    ValueError
        For a text that is not a formula in this notation.

    Examples
    --------
    >>> to_latex("dL/db[o] = sum_{n,i} dy[n,o,i].")
    '\\frac{\\partial L}{\\partial b_{o}} = \\sum_{n,i} dy_{n,o,i}.'
    >>> to_latex("v <- a v,   p <- p - v.").count("&")
    2
    """
    rows = []
    for line in text.splitlines():
        for formula in re.split(r"\s{3,}(?![=<\s])", line.strip()):
            if rows and re.fullmatch(r"\([^=<>]*\)[,.]?", formula):
                rows[-1] += rf"\qquad\text{{{formula}}}"
            else:
                rows += _rows(formula)
    if len(rows) == 1:
        return rows[0].replace("&", "", 1).strip()
    return "\\begin{split}\n" + " \\\\\n".join(rows) + "\n\\end{split}"


def _rows(formula):
    """A formula in LaTeX, with & before the relation where it is aligned, if it has one."""
    parts = _Parser(formula).whole()  # alternately LaTeX and a relation
    if len(parts) == 1:
        return [f"& {parts[0]}"]
    if ", " in parts[0]:
        return [rf"& \quad {' '.join(parts)}"]
    first, rest = f"{parts[0]} &{parts[1]} {parts[2]}", list(zip(parts[3::2], parts[4::2], strict=True))
    if len(formula) > LONG and "," not in formula.rstrip(","):
        return [first, *(f"&{relation} {right}" for relation, right in rest)]
    return [first + "".join(f" {relation} {right}" for relation, right in rest)]


class _Parser:
    def __init__(self, text):
        self.text, self.at, self.bars = text, 0, []
        self.tokens, apart, end = [], True, 0
        for match in TOKEN.finditer(text):
            if match.start() != end:
                break
            end = match.end()
            if match.lastgroup != "blank":
                self.tokens.append(Token(match.lastgroup, match[0], apart))
            apart = match.lastgroup == "blank"
        if end != len(text):
            raise ValueError(f"formula: got {text[end]!r} in {text!r}, expected a name, a number or a sign")
        self.tokens += [Token("end", "", True)] * 3

    def whole(self):
        parts = self.relations({""})
        if self.token.kind != "end":
            self.fail()
        return parts

    # ------------------------------------------------------------ tokens
    @property
    def token(self):
        return self.tokens[self.at]

    @property
    def following(self):
        return self.tokens[self.at + 1]

    def take(self, text=None):
        token = self.token
        if text is not None and token.text != text:
            self.fail(text)
        self.at += 1
        return token.text

    def fail(self, expected="an operand"):
        raise ValueError(f"formula: got {self.token.text or 'its end'!r} in {self.text!r}, expected {expected}")

    # ------------------------------------------------------------ from the weakest binding to the strongest
    def relations(self, ends):
        """Sums, with the relations between them; commas, full stops and colons belong to the term before them."""
        parts = [""]
        while self.token.text not in ends:
            text = self.token.text
            if text in RELATIONS:
                parts += [RELATIONS[self.take()], ""]
            elif text in {",", ".", ":"}:
                self.take()
                last = self.token.kind == "end" or (self.token.text in ends)
                parts[-1] += (r"\text{:}" if text == ":" else text) + ("" if last else " ")
            elif self.token.kind == "end":
                self.fail(" or ".join(sorted(ends)))
            else:
                parts[-1] += self.sum()
        return parts

    def sum(self):
        if self.token.text in {"+", "-"}:
            latex = f"{{{self.take()}{self.product()}}}"  # at the start of a group, it is not an operator
        else:
            latex = self.product()
        while self.token.text in {"+", "-"}:
            latex += f" {self.take()} {self.product()}"
        return latex

    def product(self):
        """Factors side by side; ``/`` with blanks around it makes a fraction of all factors before it."""
        done, factors = "", [self.factor()]
        while True:
            if self.token.text == "*":
                self.take()
                done += _product(factors) + " * "
                factors = [self.factor()]
            elif self.token.text == "/":
                self.take()
                keep = max(
                    (i + 1 for i, factor in enumerate(factors) if factor.kind in {"sum", "preposition"}), default=0
                )
                factors[keep:] = [_fraction(factors[keep:], self.factor())]
            elif self.begins_a_factor():
                factors.append(self.factor())
            elif self.hyphen():
                word = self.take() + self.take()
                factors[-1] = Operand(factors[-1].latex + rf"\text{{{word}}}", "word")
            else:
                return done + _product(factors)

    def begins_a_factor(self):
        token = self.token
        if token.text in {"|", "||"}:
            return not (self.bars and self.bars[-1] == token.text and not token.apart)  # else it closes the size
        return token.kind in {"name", "number"} or token.text in {"(", "["}

    def hyphen(self):
        """As in ``round-off``: no blank on either side."""
        near = not (self.token.apart or self.following.apart) and self.tokens[self.at - 1].kind == "name"
        return near and self.token.text == "-" and len(self.following.text) > 1

    def factor(self):
        """An operand; ``a/b``; ``dL/dx``."""
        name = self.token.text
        above = self.operand()
        if self.token.text != "/" or self.token.apart or self.following.apart:
            return above
        self.take()
        below = self.token.text
        under = self.operand()
        if name.startswith("d") and below.startswith("d") and len(name) > 1 and len(below) > 1:
            return Operand(rf"\frac{{{_partial(name, above.latex)}}}{{{_partial(below, under.latex)}}}", "derivative")
        return _fraction([above], under)

    def operand(self):
        """An atom with everything attached to it: subscript, power, prime, argument."""
        token = self.token
        name, atom = token.text, self.atom()
        if name == "sqrt":
            self.take("(")
            atom = Operand(rf"\sqrt{{{self.closed(')')}}}", "root")
        latex, kind, inner = atom
        while not self.token.apart:
            text = self.token.text
            if text == "_" or (text == "[" and token.kind == "name"):
                self.take()
                index = self.closed("]", ",") if text == "[" else self.script()
                latex, inner = f"{latex}_{{{index}}}", ""
            elif text == "^":
                self.take()
                latex, inner = f"{latex}^{{{self.script()}}}", ""
            elif text.startswith("'"):
                latex += self.take()
            elif text == "(" and token.kind == "name" and name != "sqrt":
                self.take()
                latex += rf"\left({self.closed(')')}\right)"
                kind = "call" if kind != "sum" else kind
            elif token.kind == "number" and self.token.kind == "name":  # 2h
                latex += self.operand().latex
            else:
                break
        return Operand(latex, kind, inner)

    def script(self):
        """A subscript or a power: in brackets, or one atom, which may have a sign."""
        if self.token.text in {"{", "("}:
            return self.closed(FENCES[self.take()], ",")
        sign = self.take() if self.token.text == "-" else ""
        return sign + self.atom().latex

    def atom(self):
        kind, text = self.token.kind, self.token.text
        if kind == "number":
            return Operand(self.take(), "number")
        if kind == "name":
            self.take()
            if len(text) == 1 and self.token.kind == "number" and not self.token.apart:  # b1
                return Operand(f"{text}_{{{self.take()}}}", "letter")
            return _name(text)
        if text in {"|", "||"}:
            self.bars.append(self.take())
            inner = self.closed(text)
            self.bars.pop()
            left, right = (r"\left|", r"\right|") if text == "|" else (r"\left\|", r"\right\|")
            return Operand(f"{left}{inner}{right}", "size")
        if text in {"(", "["}:
            self.take()
            outside, self.bars = self.bars, []
            inner = self.closed(FENCES[text])
            self.bars = outside
            return Operand(rf"\left{text}{inner}\right{FENCES[text]}", "brackets", inner if text == "(" else "")
        return self.fail()

    def closed(self, end, comma=None):
        """The text before a closing bracket; the bracket is removed."""
        latex = " ".join(self.relations({end}))
        self.take(end)
        return latex.replace(", ", comma) if comma else latex


def _name(text):
    if text in SYMBOLS:
        return Operand(SYMBOLS[text], "sum" if text == "sum" else "letter")
    if len(text) == 1 or (len(text) == 2 and text[0] == "d"):  # dy: the gradient of a letter
        return Operand(text, "letter")
    kind = "preposition" if text in PREPOSITIONS else "word"
    return Operand(rf"\text{{{text}}}", kind)


def _partial(name, latex):
    """``dlogits_j``: its half of a partial derivative."""
    whole, rest = _name(name).latex, _name(name[1:]).latex
    return r"\partial " + rest + latex.removeprefix(whole)


def _product(factors):
    """A small space beside words, and beside fractions and sums, which only look like letters."""
    latex = factors[0].latex
    for before, factor in pairwise(factors):
        apart = {before.kind, factor.kind} & {"word", "preposition", "call", "derivative", "size"}
        latex += (r"\;" if apart else " ") + factor.latex
    return latex


def _fraction(above, below):
    """A fraction. If a factor is a derivative, use a slash, since fractions in fractions are hard to read."""
    if not above:
        raise ValueError("formula: got nothing before a /, expected a product")
    under = below.inner or below.latex
    if any(factor.kind == "derivative" for factor in above):
        return Operand(f"{_product(above)} / {below.latex}", "fraction")
    over = above[0].inner if len(above) == 1 and above[0].inner else _product(above)
    return Operand(rf"\frac{{{over}}}{{{under}}}", "fraction")
