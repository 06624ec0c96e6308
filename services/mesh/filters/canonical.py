"""One form for trees that differ in order and repetition only: for keys of caches, and to show."""

from services.mesh.filters.text import unparse
from services.mesh.filters.tree import AllOf, AnyOf, Filter, Not, all_of, any_of, negate


def canonical(tree: Filter) -> Filter:
    """The tree with what AND and OR join in alphabetical order and each part once; selects the same."""
    match tree:
        case AllOf(parts):
            merged = all_of(*map(canonical, parts))
            return all_of(*_ordered(merged.parts)) if isinstance(merged, AllOf) else merged
        case AnyOf(parts):
            merged = any_of(*map(canonical, parts))
            return any_of(*_ordered(merged.parts)) if isinstance(merged, AnyOf) else merged
        case Not(part):
            return negate(canonical(part))
    return tree


def _ordered(parts: tuple[Filter, ...]) -> list[Filter]:
    # By text: True and 1.0 are equal to Python.
    spelt = {unparse(part): part for part in parts}
    return [spelt[text] for text in sorted(spelt)]
