"""The metrics that PromQL names."""

import re

_STRINGS = re.compile(r'"[^"]*"')
_SELECTORS = re.compile(r"\{[^}]*\}|\[[^\]]*\]")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_NAMES = re.compile(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])")
_WORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring"}


def metrics_in(expression: str) -> set[str]:
    """Names of the series an expression selects, recorded ones included."""
    bare = _GROUPING.sub(" ", _SELECTORS.sub(" ", _STRINGS.sub("", expression)))
    return {name for name in _NAMES.findall(bare) if name not in _WORDS}
