"""What a resource lets filters name: declared fields with their types, and free-form subtrees."""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from typing import Final

from services.mesh.filters.text import spelled
from services.mesh.filters.timestamps import instant
from services.mesh.filters.tree import Comparison, Filter, Has, Operator, Path, Value, negate

# A path longer than this is no field anybody has; it bounds the joins that one path costs in SQL.
MAX_PATH: Final = 8
# Characters of a path in its canonical spelling, as the contract bounds the field of a typed comparison.
MAX_PATH_LENGTH: Final = 512

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_EQUALITY = ("=", "!=", ":")
_ORDERING = (Operator.LT, Operator.LE, Operator.GT, Operator.GE)
_MATCHES = {Operator.PREFIX: "the beginning of a text", Operator.SUBSTRING: "a part of a text"}
# Longer names are not compared with the known ones, which takes time by their length.
_MAX_MEANT: Final = 80


class FieldType(StrEnum):
    STRING = auto()
    NUMBER = auto()
    BOOL = auto()
    TIMESTAMP = auto()
    ENUM = auto()
    STRING_LIST = auto()
    MAP = auto()  # one level of keys with text values, such as labels
    STRUCT = auto()  # any JSON object, such as metadata


_TEXTUAL = (FieldType.STRING, FieldType.STRING_LIST, FieldType.MAP, FieldType.STRUCT)
_DEFAULTS: dict[FieldType, str | float | bool] = {
    FieldType.STRING: "",
    FieldType.NUMBER: 0.0,
    FieldType.BOOL: False,
}


@dataclass(frozen=True, slots=True)
class Field:
    """One field that filters may name.

    Args:
        type: Decides how literals are read and which operators apply.
        values: An ENUM's names.
        ordered: Whether <, <=, >, >= apply to a STRING; vector stores cannot order text.
    """

    type: FieldType
    values: tuple[str, ...] = ()
    ordered: bool = False


class Wildcard(Enum):
    """What the stars of a literal ask for."""

    NONE = auto()
    PREFIX = auto()  # "x*"
    SUBSTRING = auto()  # "*x*"
    ANYTHING = auto()  # "*"


@dataclass(frozen=True, slots=True)
class Literal:
    """The right-hand side of a comparison as written; an unquoted one may be a number, true, false or null."""

    text: str
    quoted: bool = True
    wildcard: Wildcard = Wildcard.NONE

    @classmethod
    def of(cls, value: str | float | bool | None) -> "Literal":
        """The literal for a value that already has a type; its stars are plain characters."""
        if isinstance(value, str):
            return cls(value)
        if value is None or isinstance(value, bool):
            return cls({None: "null", True: "true", False: "false"}[value], quoted=False)
        if not math.isfinite(value):
            raise ValueError(f"{value} is no number to compare with")
        return cls(repr(float(value)), quoted=False)

    def __post_init__(self) -> None:
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in self.text):
            raise ValueError(f"{shown(self.text)} holds a character that is no text to a database")

    def is_word(self, *words: str) -> bool:
        return not self.quoted and self.text in words


@dataclass(frozen=True, slots=True)
class Target:
    """A path that the schema knows, and the field it is in."""

    path: Path
    field: Field
    inside: bool  # below the root of a MAP or STRUCT

    def compare(self, operator: str, literal: Literal) -> Filter:
        """The filter for `path operator literal`, the literal read as the field's type.

        Args:
            operator: One of = != < <= > >= and : (has).

        Raises:
            ValueError: the operator does not apply, or the literal is of another type; says what would do.
        """
        if self.field.type in (FieldType.MAP, FieldType.STRUCT) and not self.inside:
            return self._key(operator, literal)
        leaf = self._leaf(operator, literal)
        return negate(leaf) if operator == "!=" else leaf

    def present(self) -> Filter:
        """The filter that holds where the field is present, as `:*` does.

        Raises:
            ValueError: The path leads to a whole map or struct.
        """
        return self.compare(":", Literal("", wildcard=Wildcard.ANYTHING))

    def matches(self, wildcard: Wildcard, text: Literal) -> Filter:
        """The filter that holds where the field's text, or one in its list, begins with a text or has it in it.

        Args:
            wildcard: PREFIX or SUBSTRING.
            text: Stars in it are plain characters.

        Raises:
            ValueError: It is no text, or the field holds none.
        """
        if not text.quoted and (text.is_word("true", "false", "null") or _number(text.text) is not None):
            raise ValueError(f"takes text, found {text.text}; quote it to mean text")
        if not text.text:
            raise ValueError("takes text that is not empty; to ask for any value at all, ask whether the field exists")
        return self.compare("=", replace(text, wildcard=wildcard))

    def _key(self, operator: str, literal: Literal) -> Filter:
        name = spelled(self.path)
        if operator != ":" or literal.wildcard is not Wildcard.NONE:
            raise ValueError(
                f"{name} holds keys: write {name}.key = value, or {name}:key to ask whether it has the key"
            )
        return Has((*self.path, segment(literal.text)))

    def _leaf(self, operator: str, literal: Literal) -> Filter:
        if operator not in _EQUALITY:
            return self._compared(Operator(operator), literal)
        if literal.is_word("null"):
            return negate(self._has())
        match literal.wildcard:
            case Wildcard.ANYTHING:
                return self._has()
            case Wildcard.PREFIX:
                return self._compared(Operator.PREFIX, literal)
            case Wildcard.SUBSTRING:
                return self._compared(Operator.SUBSTRING, literal)
            case Wildcard.NONE:
                return self._compared(Operator.EQ, literal)

    def _has(self) -> Has:
        return Has(self.path, None if self.inside else _DEFAULTS.get(self.field.type))

    def _compared(self, operator: Operator, literal: Literal) -> Comparison:
        if operator in _MATCHES and self.field.type not in _TEXTUAL:
            raise ValueError(f"{_MATCHES[operator]} cannot be asked of {self._named()}")
        if operator in _ORDERING and (literal.wildcard is not Wildcard.NONE or literal.is_word("null")):
            raise ValueError(f"{operator} takes one value to compare with; stars and null go with = and !=")
        value = self._read(operator, literal)
        if operator in _ORDERING and not self._orders(value):
            found = f", found {shown(literal.text)}"
            raise ValueError(f"{operator} does not apply to {self._described(value)}{found}; use = or !=")
        return Comparison(self.path, operator, value)

    def _orders(self, value: Value) -> bool:
        return not isinstance(value, bool | str) or (self.field.type is FieldType.STRING and self.field.ordered)

    def _described(self, value: Value) -> str:
        if self.field.type is FieldType.STRUCT:
            kind = "true and false" if isinstance(value, bool) else "text that is no timestamp"
            return f"{kind} ({spelled(self.path)})"
        return self._named()

    def _named(self) -> str:
        return f"{spelled(self.path)}, a field of type {self.field.type.name}"

    def _read(self, operator: Operator, literal: Literal) -> Value:
        match self.field.type:
            case FieldType.STRUCT:
                return _read_free(operator, literal)
            case FieldType.NUMBER:
                return self._typed(_number(literal.text), literal, "a number such as 42 or 2.5")
            case FieldType.BOOL:
                return self._typed({"true": True, "false": False}.get(literal.text), literal, "true or false")
            case FieldType.TIMESTAMP:
                example = 'a timestamp such as "2024-05-01T12:00:00Z"'
                return self._typed(instant(literal.text), literal, example)
            case FieldType.ENUM:
                known = literal.text if literal.text in self.field.values else None
                return self._typed(known, literal, f"one of {', '.join(self.field.values)}", self.field.values)
            case FieldType.STRING | FieldType.STRING_LIST | FieldType.MAP:
                return literal.text

    def _typed(self, value: Value | None, literal: Literal, wanted: str, known: tuple[str, ...] = ()) -> Value:
        if value is None or literal.wildcard is not Wildcard.NONE:
            found = shown(literal.text)
            raise ValueError(f"{spelled(self.path)} takes {wanted}, found {found}{_meant(literal.text, known)}")
        return value


@dataclass(frozen=True)
class Schema:
    """The fields of one resource by dotted name, as its proto spells them (`create_time`; `createTime` works too)."""

    fields: Mapping[str, Field]

    def target(self, path: Path) -> Target:
        """Where `path` leads.

        Raises:
            ValueError: nowhere; names the supported fields and the likeliest one meant.
        """
        if len(path) > MAX_PATH:
            raise ValueError(f"a path has at most {MAX_PATH} parts")
        if len(spelled(path)) > MAX_PATH_LENGTH:
            raise ValueError(f"a path has at most {MAX_PATH_LENGTH} characters")
        for length in range(len(path), 0, -1):
            name = self.declared(".".join(path[:length]))
            if name is not None:
                return self._below(name, path[length:])
        supported = ", ".join(sorted(self.fields))
        raise ValueError(f"no field {shown(spelled(path))}{self._likely(path)}; supported fields: {supported}")

    def _likely(self, path: Path) -> str:
        """The field that was meant, as a question: one spelt alike, or a key of the first free-form field."""
        alike = _meant(_snake(".".join(path)), tuple(self.fields))
        keyed = [name for name, field in self.fields.items() if field.type in (FieldType.MAP, FieldType.STRUCT)]
        root = difflib.get_close_matches(_snake(path[0][:_MAX_MEANT]), keyed, n=1)
        free = [name for name in keyed if self.fields[name].type is FieldType.STRUCT]
        if len(path) > 1 and root:
            alike = f" (did you mean {spelled((root[0], *path[1:]))}?)"
        elif not alike and free:
            alike = f" (did you mean {spelled((free[0], *path))}?)"
        return alike if len(alike) < 2 * _MAX_MEANT else ""

    def declared(self, name: str) -> str | None:
        """The field that `name` spells, in snake_case or lowerCamelCase; None where there is none."""
        return next((spelled for spelled in (name, _snake(name)) if spelled in self.fields), None)

    def _below(self, name: str, keys: Path) -> Target:
        field = self.fields[name]
        root = tuple(name.split("."))
        if keys and field.type not in (FieldType.MAP, FieldType.STRUCT):
            raise ValueError(f"{name} is of type {field.type.name} and has no field {shown('.'.join(keys))}")
        if len(keys) > 1 and field.type is FieldType.MAP:
            dotted = ".".join(keys)
            raise ValueError(f'{name} has one level of keys; quote a key that holds dots: {name}."{dotted}"')
        return Target((*root, *map(segment, keys)), field, inside=bool(keys))


def segment(key: str) -> str:
    """`key`, once it is known to be a key that every backend can address.

    Raises:
        ValueError: it is empty or holds a double quote, a backslash or a control character.
    """
    if not key or any(character in '"\\' or not character.isprintable() for character in key):
        raise ValueError(
            f"{shown(key)} cannot be a key: keys are not empty and hold no quotes, backslashes or controls"
        )
    return key


def shown(text: str, limit: int = 40) -> str:
    """`text` quoted for an error message, cut to `limit` characters."""
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


def _read_free(operator: Operator, literal: Literal) -> Value:
    if not literal.quoted and literal.wildcard is Wildcard.NONE:
        if literal.text in ("true", "false"):
            return literal.text == "true"
        number = _number(literal.text)
        if number is not None:
            return number
    if operator in _ORDERING:
        return instant(literal.text) or literal.text
    return literal.text


def _number(text: str) -> float | None:
    if _NUMBER.fullmatch(text) is None:
        return None
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{shown(text)} is beyond the range of a double; quote it to mean text")
    return number + 0.0  # -0.0 equals 0.0, and is written like it


def _meant(written: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(written, known, n=1) if len(written) <= _MAX_MEANT else []
    return f" (did you mean {close[0]}?)" if close else ""


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])[A-Z]", lambda capital: "_" + capital[0].lower(), name)
