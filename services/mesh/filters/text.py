"""A tree back to AIP-160 text, in one canonical spelling: `parse(unparse(tree), schema) == tree`."""

from datetime import datetime

from services.mesh.filters.timestamps import timestamp
from services.mesh.filters.tree import AllOf, AnyOf, Comparison, Filter, Has, Not, Operator, Path, Value

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "*": "\\*", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def unparse(tree: Filter) -> str:
    """The canonical text of `tree`; EVERYTHING is the empty text."""
    match tree:
        case AllOf(parts):
            return " AND ".join(map(_grouped, parts))
        case AnyOf(parts):
            return " OR ".join(map(_grouped, parts))
        case Not(Comparison(path, operator, value)) if operator in (Operator.EQ, Operator.PREFIX, Operator.SUBSTRING):
            return f"{spelled(path)} != {_value(operator, value)}"
        case Not(Has(path)):
            return f"{spelled(path)} = null"
        case Not(Comparison() as part):
            return f"NOT {unparse(part)}"
        case Not(part):
            return f"NOT ({unparse(part)})"
        case Comparison(path, operator, value):
            sign = "=" if operator in (Operator.PREFIX, Operator.SUBSTRING) else operator.value
            return f"{spelled(path)} {sign} {_value(operator, value)}"
        case Has(path):
            return f"{spelled(path)}:*"


def _grouped(part: Filter) -> str:
    return f"({unparse(part)})" if isinstance(part, AllOf | AnyOf) else unparse(part)


def spelled(path: Path) -> str:
    """`path` in its canonical spelling: keys joined by dots, quoted where they are no plain words."""
    return ".".join(key if _plain(key) else _quoted(key) for key in path)


def _plain(key: str) -> bool:
    word = key.replace("-", "_")
    return word.isascii() and word.replace("_", "a").isalnum() and key[0] != "-" and key not in ("AND", "OR", "NOT")


def _value(operator: Operator, value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float() | int():
            return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
        case datetime():
            return _quoted(timestamp(value))
        case str():
            before, after = {Operator.PREFIX: ("", "*"), Operator.SUBSTRING: ("*", "*")}.get(operator, ("", ""))
            return f'"{before}{value.translate(_ESCAPES)}{after}"'


def _quoted(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'
