"""Random filters of searches, each as text, as a message and as what it means; the meaning is written anew here.

Nothing of services.mesh.filters is used: what agrees with this was not agreed upon beforehand.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from operator import eq, ge, gt, le, lt
from typing import Any

from ragweave.v1 import filter_pb2 as pb

Path = tuple[str, ...]

# What is a timestamp inside metadata, and when that is.
MOMENTS: dict[str, datetime] = {
    "2024-05-01": datetime(2024, 5, 1, tzinfo=UTC),
    "2024-05-01T00:00:00Z": datetime(2024, 5, 1, tzinfo=UTC),
    "2024-05-01t00:00:00z": datetime(2024, 5, 1, tzinfo=UTC),
    "2024-05-01t00:00:00": datetime(2024, 5, 1, tzinfo=UTC),
    "2024-05-01 00:00:00": datetime(2024, 5, 1, tzinfo=UTC),
    "2024-05-01T00:00:00.000001Z": datetime(2024, 5, 1, 0, 0, 0, 1, tzinfo=UTC),
    "2024-05-01T00:00:00.0000019Z": datetime(2024, 5, 1, 0, 0, 0, 1, tzinfo=UTC),
    "2024-05-01T05:30:00+05:30": datetime(2024, 5, 1, tzinfo=UTC),
    "2024-04-30T16:00:00-08:00": datetime(2024, 5, 1, tzinfo=UTC),
    "2024-05-01T12:00:00.5+14:00": datetime(2024, 4, 30, 22, 0, 0, 500_000, tzinfo=UTC),
    "2024-02-29T23:59:59.999999Z": datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC),
    "1969-12-31T23:59:59Z": datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
    "0001-01-01T00:00:00Z": datetime(1, 1, 1, tzinfo=UTC),
    "9999-12-31T23:59:59Z": datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
}
# What looks like one and is none: some store or other would read it as a date.
NO_MOMENTS = [
    *("2024-5-1", "2024-05-1", " 2024-05-01", "2024-05-01 ", "2024-05-01T10:00", "2024-05-01 10:00", "2024-05-01T10"),
    *("2024-05-01T10:00:00+0100", "2024-05-01T10:00:00+01", "2024-05-01 10:00:00 +01:00", "2024-05-01T10:00:00 UTC"),
    *("2024-05-01T10:00:00.1234567890Z", "2024-05-01T1:0:0Z", "2024-05-01T23:59:60Z", "2024-05-01T24:00:00Z"),
    *("2024-05-01T10:00:00+15:00", "2024-05-01T10:00:00\u221201:00", "2024-02-30", "0000-01-01", "+2024-05-01"),
    *("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "-2024-05-01", "24-05-01", "\uff12024-05-01"),
    *("2024-05-01\t10:00:00", "2024-05-01T 10:00:00", "2024-05-01T10:00:00Z ", "20240501", "yesterday"),
]
TEXTS = [
    "",
    "a",
    "ab",
    "abc",
    "ABC",
    "Straße",
    "stra",
    "日本",
    "日本語",
    "🦊",
    "e\u0301",
    "\u00e9",
    "*",
    "a*",
    "a b",
    " ",
]
ODD = ['"', "\\", "'", "a\nb", "\t", "null", "true", "1", "1.0", "-0", "AND", "a%", "_", "(", ")", "\u2028", "\x7f"]
NUMBERS = [0.0, -0.0, 1.0, -1.0, 2.5, 0.1, 1e21, -1e-9, 1e308, 5e-324, float(2**53), float(2**53 + 2)]
INTEGERS = [0, 1, -1, 2, 2**31, 2**53, 2**53 + 1, -(2**53) - 1, 2**62]
KEYS = [
    *("k", "k", "k", "k", "n", "n", "n", "due", "due", "due", "tags", "author", "name"),
    *("two words", "é", "a.b", "x[0]", "[]", "0", "AND", "a*", "🦊", "a'b"),
]
TIMES = [
    datetime(2024, 5, 1, tzinfo=UTC),
    datetime(2024, 5, 1, 0, 0, 0, 1, tzinfo=UTC),
    datetime(1999, 1, 1, tzinfo=UTC),
]
TEXT_FIELDS = ("document", "title", "source_uri", "mime_type", "section")
_COMPARED = {"=": eq, "<": lt, "<=": le, ">": gt, ">=": ge}
_NAMES = {
    "=": pb.Comparison.EQUAL,
    "<": pb.Comparison.LESS,
    "<=": pb.Comparison.LESS_OR_EQUAL,
    ">": pb.Comparison.GREATER,
    ">=": pb.Comparison.GREATER_OR_EQUAL,
    "prefix": pb.Comparison.PREFIX,
    "contains": pb.Comparison.CONTAINS,
}


@dataclass(frozen=True)
class Moment:
    """A timestamp as it is written."""

    text: str
    instant: datetime


@dataclass(frozen=True)
class Asked:
    """`path kind value`; the kind "exists" has no value."""

    path: Path
    kind: str
    value: Any = None


@dataclass(frozen=True)
class Joined:
    """Parts of which all hold, some, or (of one) none."""

    how: str
    parts: tuple["Meaning", ...]


Meaning = Asked | Joined


def holds(meaning: Meaning, document: Mapping[str, Any]) -> bool:
    """Whether a document is meant."""
    if isinstance(meaning, Joined):
        each = [holds(part, document) for part in meaning.parts]
        return {"and": all(each), "or": any(each), "not": not each[0]}[meaning.how]
    found: Any = document
    for key in meaning.path:
        found = found[key] if isinstance(found, dict) and key in found else None
    if meaning.kind == "exists":
        unset = {"page_number": 0}.get(meaning.path[0], "") if len(meaning.path) == 1 else None
        return not (found is None or found == [] or (unset is not None and found == unset))
    return any(_meets(each, meaning) for each in (found if isinstance(found, list) else [found]))


def _meets(found: Any, asked: Asked) -> bool:
    wanted = asked.value
    if isinstance(wanted, Moment):
        moment = MOMENTS.get(found) if isinstance(found, str) else found
        return isinstance(moment, datetime) and bool(_COMPARED[asked.kind](moment, wanted.instant))
    if isinstance(wanted, bool):
        return isinstance(found, bool) and found == wanted
    if isinstance(wanted, str):
        if not isinstance(found, str):
            return False
        return {"=": found == wanted, "prefix": found.startswith(wanted), "contains": wanted in found}[asked.kind]
    number = isinstance(found, int | float) and not isinstance(found, bool)
    return number and bool(_COMPARED[asked.kind](float(found), float(wanted)))


def documents(count: int, seed: int) -> list[dict[str, Any]]:
    """Searched documents with every kind of value in every kind of place, and with gaps."""
    chance = random.Random(seed)
    return [_document(chance, f"d{number}") for number in range(count)]


def _document(chance: random.Random, name: str) -> dict[str, Any]:
    zone = timezone(timedelta(minutes=chance.choice([0, 90, -480])))
    return {
        "document": name,
        **{field: chance.choice(TEXTS) for field in TEXT_FIELDS[1:]},
        "page_number": chance.choice([0, 0, 1, 2, 3]),
        "create_time": chance.choice([None, *(moment.astimezone(zone) for moment in TIMES)]),
        "metadata": _object(chance, 0),
    }


def _object(chance: random.Random, depth: int) -> dict[str, Any]:
    return {chance.choice(KEYS): _value(chance, depth) for _ in range(chance.randrange(12))}


def _value(chance: random.Random, depth: int) -> Any:
    kind = chance.randrange(12)
    if kind < 2 and depth < 2:
        return _object(chance, depth + 1)
    if kind < 4 and depth < 3:
        # Texts and numbers mostly; objects and lists too.
        return [_value(chance, chance.choice([1, 3, 3])) for _ in range(chance.randrange(4))]
    if kind < 6:
        return chance.choice([*MOMENTS, *NO_MOMENTS])
    if kind < 8:
        return chance.choice([*NUMBERS, *INTEGERS])
    return chance.choice([*TEXTS, *ODD, True, False, None])


class Asker:
    """Makes up filters: what they mean, and how somebody might write that."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def meaning(self, depth: int = 3) -> Meaning:
        roll = self._chance.random()
        if depth == 0 or roll < 0.35:
            return self._asked()
        if roll < 0.5:
            return Joined("not", (self.meaning(depth - 1),))
        parts = tuple(self.meaning(depth - 1) for _ in range(self._chance.randint(2, 3)))
        return Joined(self._chance.choice(["and", "or"]), parts)

    def _asked(self) -> Asked:
        pick = self._chance.choice
        roll = self._chance.random()
        if roll < 0.2:
            return self._of_text((pick(TEXT_FIELDS),))
        if roll < 0.3:
            return pick([Asked(("page_number",), pick(list(_COMPARED)), float(pick([0, 1, 2, 3]))), self._present()])
        if roll < 0.4:
            return Asked(("create_time",), pick(list(_COMPARED)), self._moment())
        path = ("metadata", *(pick(KEYS) for _ in range(pick([1, 1, 1, 2, 3]))))
        match pick(["text", "number", "moment", "bool", "exists"]):
            case "text":
                return self._of_text(path)
            case "number":
                return Asked(path, pick(list(_COMPARED)), pick([*NUMBERS, *map(float, INTEGERS)]))
            case "moment":
                return Asked(path, pick(["<", "<=", ">", ">="]), self._moment())
            case "bool":
                return Asked(path, "=", pick([True, False]))
        return Asked(path, "exists")

    def _present(self) -> Asked:
        return Asked((self._chance.choice([*TEXT_FIELDS, "page_number", "create_time"]),), "exists")

    def _moment(self) -> Moment:
        text = self._chance.choice(list(MOMENTS))
        return Moment(text, MOMENTS[text])

    def _of_text(self, path: Path) -> Asked:
        text = self._chance.choice([*TEXTS, *ODD, *MOMENTS, *NO_MOMENTS, "d1", "d2"])
        kind = self._chance.choice(["=", "=", "prefix", "contains"])
        return Asked(path, kind if text else "=", text)

    def text(self, meaning: Meaning) -> str:
        """The meaning in words: one spelling of many."""
        if isinstance(meaning, Asked):
            return self._spaced(self._comparison(meaning))
        parts = [self.text(part) for part in meaning.parts]
        match meaning.how:
            case "not":
                return self._negated(meaning.parts[0], parts[0])
            case "or":
                return " OR ".join(self._grouped(part, text) for part, text in zip(meaning.parts, parts, strict=True))
        # OR binds tighter than AND: what it joins needs no parentheses here.
        kept = [
            text if isinstance(part, Joined) and part.how == "or" and self._coin() else self._grouped(part, text)
            for part, text in zip(meaning.parts, parts, strict=True)
        ]
        return self._chance.choice([" AND ", " ", "\n"]).join(kept)

    def _negated(self, part: Meaning, text: str) -> str:
        if isinstance(part, Asked) and self._coin():
            match part.kind:
                case "exists":
                    return f"{_path(part.path)} = null"
                case "=":
                    return f"{_path(part.path)} != {self._literal(part.value)}"
                case "prefix":
                    return f"{_path(part.path)} != {quoted(part.value, after='*')}"
        # A NOT of a NOT needs parentheses.
        inner = f"({text})" if isinstance(part, Joined) or self._coin() else text
        return self._chance.choice(["NOT ", "-"]) + inner

    def _grouped(self, part: Meaning, text: str) -> str:
        return f"({text})" if (isinstance(part, Joined) and part.how != "not") or self._chance.random() < 0.1 else text

    def _comparison(self, asked: Asked) -> str:
        path, coin = _path(asked.path), self._coin()
        match asked.kind:
            case "exists":
                return f"exists({path})" if coin else f"{path}:*"
            case "prefix":
                return (
                    f"prefix({path}, {quoted(asked.value)})" if coin else f"{path} = {quoted(asked.value, after='*')}"
                )
            case "contains":
                if coin:
                    return f"contains({path}, {quoted(asked.value)})"
                return f"{path} = {quoted(asked.value, before='*', after='*')}"
        sign = ":" if asked.kind == "=" and coin else asked.kind
        return f"{path}{sign}{self._literal(asked.value)}"

    def _literal(self, value: Any) -> str:
        match value:
            case bool():
                return str(value).lower()
            case float():
                whole = abs(value) < 1e15 and value == int(value) and self._coin()
                return str(int(value)) if whole else repr(value)
            case Moment():
                return value.text if self._coin() and " " not in value.text else f"'{value.text}'"
        return quoted(value)

    def _spaced(self, text: str) -> str:
        return f" {text} " if self._chance.random() < 0.2 else text

    def _coin(self) -> bool:
        return self._chance.random() < 0.5

    def message(self, meaning: Meaning) -> pb.TypedFilter:
        """The meaning as a message: one form of many."""
        if isinstance(meaning, Asked):
            return pb.TypedFilter(comparisons=[_compared(meaning)])
        if meaning.how == "not":
            part = meaning.parts[0]
            if isinstance(part, Asked) and part.kind in ("=", "exists") and self._coin():
                negated = _compared(part)
                negated.operator = pb.Comparison.NOT_EQUAL if part.kind == "=" else pb.Comparison.EQUAL
                if part.kind == "exists":
                    negated.value.null_value = 0  # type: ignore[assignment]
                return pb.TypedFilter(comparisons=[negated])
            return pb.TypedFilter(none_of=[self.message(part)])
        if meaning.how == "or":
            return pb.TypedFilter(any_of=map(self.message, meaning.parts))
        made = pb.TypedFilter()
        for part in meaning.parts:
            if isinstance(part, Asked) and self._coin():
                made.comparisons.append(_compared(part))
            else:
                made.all_of.append(self.message(part))
        return made


def _compared(asked: Asked) -> pb.Comparison:
    operator = pb.Comparison.HAS if asked.kind == "exists" else _NAMES[asked.kind]
    made = pb.Comparison(field=_path(asked.path), operator=operator)
    match asked.value:
        case None:
            made.value.string_value = "*"
        case bool():
            made.value.bool_value = asked.value
        case float():
            made.value.number_value = asked.value
        case Moment():
            made.value.string_value = asked.value.text
        case _:
            made.value.string_value = asked.value
    return made


def _path(path: Path) -> str:
    return ".".join(map(_key, path))


def _key(key: str) -> str:
    return key if key.replace("_", "a").isalnum() and key != "AND" else f'"{key}"'


def quoted(text: str, before: str = "", after: str = "") -> str:
    """The text in double quotes, whatever it holds."""
    escapes: Sequence[tuple[str, str]] = (("\\", "\\\\"), ('"', '\\"'), ("*", "\\*"), ("\n", "\\n"), ("\t", "\\t"))
    for plain, escaped in escapes:
        text = text.replace(plain, escaped)
    return f'"{before}{text}{after}"'
