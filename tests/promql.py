"""What PromQL looks at."""

import re

_STRINGS = re.compile(r'"[^"]*"')
_SELECTORS = re.compile(r"\{[^}]*\}|\[[^\]]*\]")
_SELECTORS_KEPT = re.compile(rf"({_SELECTORS.pattern})")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_NAMES = re.compile(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])")
_WORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring"}


def metrics_in(expression: str) -> set[str]:
    """Names of the series an expression selects, recorded ones included."""
    bare = _GROUPING.sub(" ", _SELECTORS.sub(" ", _STRINGS.sub("", expression)))
    return {name for name in _NAMES.findall(bare) if name not in _WORDS}


def unfiltered(alert: str) -> list[str]:
    """What an alert's expression looks at, whether or not it would fire: each has values where its data is there.

    Comparisons give 0 or 1 instead of leaving series out, `absent` and `unless` turn into what they look for; and the
    alternatives of `or` stand apart.
    """
    outside = _SELECTORS_KEPT.split(alert)
    for at in range(0, len(outside), 2):  # between these are selectors, which stay as they are
        text = re.sub(r"\babsent\s*\(", "(", outside[at])
        text = re.sub(r"\bunless\b", "and", text)
        outside[at] = re.sub(r"(==|!=|<=|>=|<|>)(?!\s*bool\b)", r"\1 bool", text)
    return [each.strip() for each in _alternatives("".join(outside))]


def _alternatives(expression: str) -> list[str]:
    """The operands of `or` outside parentheses."""
    found, depth = [""], 0
    for token in re.split(r"([()]|\bor\b)", expression):
        depth += (token == "(") - (token == ")")
        if token == "or" and not depth:
            found.append("")
        else:
            found[-1] += token
    return found
