"""AIP-160 filter text to a tree: hand-written recursive descent, bounded in length, depth and size.

The grammar is https://google.aip.dev/assets/misc/ebnf-filtering.txt: OR binds tighter than AND, parts side by side are
ANDed, `-` and NOT negate, a right-hand side may be a parenthesis (`state = (ACTIVE OR FAILED)`), functions.py has the
functions. Bare values are refused. A trailing * asks for a prefix, one at both ends for a substring; `\\*` is a plain
star.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from services.mesh.errors import InvalidFilter, Violation
from services.mesh.filters.functions import Function, function_of
from services.mesh.filters.schema import Literal, Schema, Target, Wildcard, shown
from services.mesh.filters.text import spelled
from services.mesh.filters.tree import EVERYTHING, Filter, Path, all_of, any_of, depth, negate

# As the contract bounds every `filter`. Longer text is generated, not written; the typed filter serves programs.
MAX_LENGTH: Final = 8192
# Comparisons in one filter. Each becomes a bound SQL expression or a store condition; SQLite stops at 1,000 in a chain.
MAX_COMPARISONS: Final = 256
# Parentheses within one another, and AND, OR and NOT in the tree: far below Python's recursion limit and protobuf's 100
# levels, far above need.
MAX_DEPTH: Final = 32

_SPACE = re.compile(r"\s*")
_KEYWORD = re.compile(r"(AND|OR|NOT)(?![\w.:=!<>-])")
_KEY = re.compile(r"\w[\w-]*")
_COMPARATOR = re.compile(r"<=|>=|!=|=|<|>|:")
_BARE = re.compile(r"[^\s(),\"'=<>!]+")
_WORD = re.compile(r"\S+")
# What other languages write, and what means it here.
_FOREIGN = {"&&": "AND", "||": "OR", "==": "a single =", "!": "NOT"}
_FOREIGN_OPERATORS = {"in": '{} = ("a" OR "b")', "like": '{} = "text*"'}
_ESCAPES = {"\\": "\\", '"': '"', "'": "'", "*": "*", "n": "\n", "r": "\r", "t": "\t"}


def parse(text: str, schema: Schema) -> Filter:
    """The tree that `text` means for a resource of `schema`; text without content is EVERYTHING.

    Raises:
        InvalidFilter: with the 1-based column, what was found there, and what would do.
    """
    if len(text) > MAX_LENGTH:
        raise _refusal(f"longer than {MAX_LENGTH} characters", MAX_LENGTH)
    return _Parser(text, schema).filter()


def path_of(text: str) -> Path:
    """The path that `text` spells alone, such as `metadata."two words".name`.

    Raises:
        ValueError: it spells none.
    """
    try:
        return _Parser(text, Schema({})).path()
    except InvalidFilter as error:
        raise ValueError(error.violations[0].description) from None


class _Parser:
    """One pass over one text. The position only moves forward, so the work is linear in the length."""

    def __init__(self, text: str, schema: Schema) -> None:
        self._text = text
        self._schema = schema
        self._at = 0
        self._depth = 0
        self._comparisons = 0

    def filter(self) -> Filter:
        self._space()
        if self._ended():
            return EVERYTHING
        tree = self._expression(self._restriction)
        if not self._ended():
            raise self._unexpected("AND, OR or the end")
        if depth(tree) > MAX_DEPTH:
            raise self._refused(f"AND, OR and NOT nest deeper than {MAX_DEPTH} levels", 0)
        return tree

    def _expression(self, leaf: Callable[[], Filter]) -> Filter:
        parts = [self._factor(leaf)]
        while not self._ended() and self._peek() != ")":
            self._take_keyword("AND")
            parts.append(self._factor(leaf))
        return all_of(*parts)

    def _factor(self, leaf: Callable[[], Filter]) -> Filter:
        parts = [self._term(leaf)]
        while self._take_keyword("OR"):
            parts.append(self._term(leaf))
        return any_of(*parts)

    def _term(self, leaf: Callable[[], Filter]) -> Filter:
        minus = leaf == self._restriction and self._take("-")
        if minus or self._take_keyword("NOT"):
            return negate(self._simple(leaf))
        return self._simple(leaf)

    def _simple(self, leaf: Callable[[], Filter]) -> Filter:
        if self._peek() != "(":
            return leaf()
        if self._depth == MAX_DEPTH:
            raise self._refused(f"parentheses nest deeper than {MAX_DEPTH} levels")
        self._depth += 1
        self._take("(")
        inner = self._expression(leaf)
        if not self._take(")"):
            raise self._unexpected("AND, OR or )")
        self._depth -= 1
        return inner

    def path(self) -> Path:
        path = self._path()
        if not self._ended():
            raise self._unexpected("a dot or the end")
        return path

    def _path(self) -> Path:
        path = [self._key()]
        while self._peek() == ".":
            self._at += 1
            path.append(self._key())
        return tuple(path)

    def _restriction(self) -> Filter:
        start = self._at
        path = self._path()
        self._space()
        if self._peek() == "(":
            return self._called(start, path)
        operator = _COMPARATOR.match(self._text, self._at)
        if operator is None:
            raise self._bare(start, path)
        with self._refusing(start):
            target = self._schema.target(path)
        self._at = operator.end()
        self._space()
        return self._argument(target, operator[0])

    def _called(self, start: int, path: Path) -> Filter:
        with self._refusing(start):
            function = function_of(spelled(path))
        self._count()
        self._take("(")
        at = self._at
        target = self._field(function)
        text = None
        if function.takes_text:
            self._next(function, ",", "a comma")
            at = self._at
            text = self._plain_text(function)
        self._next(function, ")", ")")
        with self._refusing(at):
            return function.of(target, text)

    def _field(self, function: Function) -> Target:
        start = self._at
        if self._peek() in (")", ","):
            raise self._arguments(function)
        path = self._path()
        self._space()
        with self._refusing(start):
            return self._schema.target(path)

    def _plain_text(self, function: Function) -> Literal:
        start = self._at
        literal = self._literal()
        self._space()
        if literal.wildcard is not Wildcard.NONE:
            raise self._refused(f'{function.name} takes its text without a star; a plain star is "\\*"', start)
        return literal

    def _next(self, function: Function, character: str, name: str) -> None:
        """Takes what comes between arguments or after the last one."""
        if self._peek() != character and self._peek() in (")", ","):
            raise self._arguments(function)
        if not self._take(character):
            raise self._unexpected(name)

    def _arguments(self, function: Function) -> InvalidFilter:
        wanted = "two arguments" if function.takes_text else "one argument"
        return self._refused(f"{function.name} takes {wanted}: {function.usage}")

    def _argument(self, target: Target, operator: str) -> Filter:
        if self._peek() != "(":
            return self._comparison(target, operator)
        meant = "=" if operator == "!=" else operator
        found = self._simple(lambda: self._comparison(target, meant))
        return negate(found) if operator == "!=" else found

    def _comparison(self, target: Target, operator: str) -> Filter:
        start = self._at
        self._count()
        literal = self._literal()
        if not literal.quoted and self._peek() == "(":
            raise self._refused("a function is no value; it stands alone, such as exists(field)", start)
        self._space()
        with self._refusing(start):
            return target.compare(operator, literal)

    def _count(self) -> None:
        if self._comparisons == MAX_COMPARISONS:
            raise self._refused(f"more than {MAX_COMPARISONS} comparisons")
        self._comparisons += 1

    def _key(self) -> str:
        if self._peek() in ('"', "'"):
            return "".join(character for character, _ in self._string())
        key = _KEY.match(self._text, self._at)
        if key is None or _KEYWORD.match(self._text, self._at):
            raise self._unexpected("a field")
        self._at = key.end()
        return key[0]

    def _literal(self) -> Literal:
        start = self._at
        if self._peek() in ('"', "'"):
            characters = self._string()
            with self._refusing(start):
                return _starred(characters, quoted=True)
        bare = _BARE.match(self._text, self._at)
        if bare is None or _KEYWORD.match(self._text, self._at):
            raise self._unexpected("a value")
        self._at = bare.end()
        with self._refusing(start):
            return _starred([(character, character == "*") for character in bare[0]], quoted=False)

    def _string(self) -> list[tuple[str, bool]]:
        """The characters of a quoted string, and for each whether it is an unescaped star."""
        start = self._at
        quote = self._text[start]
        self._at += 1
        characters: list[tuple[str, bool]] = []
        while not self._ended() and self._text[self._at] != quote:
            characters.append(self._character())
        if self._ended():
            raise self._refused(f"the string that begins here has no closing {quote}", start)
        self._at += 1
        return characters

    def _character(self) -> tuple[str, bool]:
        character = self._text[self._at]
        if character != "\\":
            self._at += 1
            return character, character == "*"
        escaped = self._text[self._at + 1 : self._at + 2]
        if escaped not in _ESCAPES or not escaped:
            known = " ".join(f"\\{name}" for name in _ESCAPES)
            raise self._refused(f"unknown escape {shown(self._text[self._at : self._at + 2])}; known: {known}")
        self._at += 2
        return _ESCAPES[escaped], False

    def _take_keyword(self, word: str) -> bool:
        found = _KEYWORD.match(self._text, self._at)
        if found is None or found[0] != word:
            return False
        self._at = found.end()
        self._space()
        return True

    def _take(self, character: str) -> bool:
        if self._peek() != character:
            return False
        self._at += 1
        self._space()
        return True

    def _space(self) -> None:
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _ended(self) -> bool:
        return self._at >= len(self._text)

    def _bare(self, start: int, path: Path) -> InvalidFilter:
        written = ".".join(path)
        if written.upper() in ("AND", "OR", "NOT"):
            return self._refused(f"write {written.upper()} in capitals", start)
        after = _KEY.match(self._text, self._at)
        example = _FOREIGN_OPERATORS.get(after[0].lower()) if after else None
        meant = example.format(shown(spelled(path))[1:-1]) if example else self._example()
        return self._refused(f"{shown(written)} stands alone; write field operator value, such as {meant}", start)

    def _example(self) -> str:
        return f'{next(iter(self._schema.fields), "field")} = "value"'

    def _unexpected(self, wanted: str) -> InvalidFilter:
        # An operator may have been taken for the first half of another language's.
        found = self._text[self._at - 1 : self._at + 1] if wanted == "a value" else self._text[self._at : self._at + 2]
        foreign = _FOREIGN.get(found) or _FOREIGN.get(found[:1])
        hint = f"; write {foreign}" if foreign else ""
        word = _WORD.match(self._text, self._at)
        return self._refused(f"expected {wanted}, found {shown(word[0]) if word else 'the end'}{hint}")

    def _refused(self, description: str, at: int | None = None) -> InvalidFilter:
        return _refusal(description, self._at if at is None else at)

    @contextmanager
    def _refusing(self, at: int) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise self._refused(str(error), at) from None


def _refusal(description: str, at: int) -> InvalidFilter:
    message = f"column {at + 1}: {description}"
    return InvalidFilter(f"filter: {message}", violations=[Violation("filter", message)], column=str(at + 1))


def _starred(characters: list[tuple[str, bool]], *, quoted: bool) -> Literal:
    """The literal, its unescaped stars understood: `characters` are pairs of character and whether it is a wildcard."""
    text = "".join(character for character, _ in characters)
    stars = [index for index, (_, star) in enumerate(characters) if star]
    last = len(characters) - 1
    if not stars:
        return Literal(text, quoted)
    if len(stars) == len(characters):
        return Literal("", quoted, Wildcard.ANYTHING)
    if stars == [last]:
        return Literal(text[:-1], quoted, Wildcard.PREFIX)
    if stars == [0, last]:
        return Literal(text[1:-1], quoted, Wildcard.SUBSTRING)
    raise ValueError(f'{shown(text)}: a * may end a value ("x*") or stand at both ends ("*x*"); a plain star is "\\*"')
