"""What a search's filter may name, and whom a document's ACL lets find it."""

from typing import Final

from services.mesh.errors import InvalidFilter, Violation
from services.mesh.filters import (
    EVERYTHING,
    MAX_COMPARISONS,
    MAX_DEPTH,
    AllOf,
    AnyOf,
    Comparison,
    Field,
    FieldType,
    Filter,
    Has,
    Not,
    Operator,
    Schema,
    all_of,
    any_of,
    depth,
    leaves,
    parse,
)
from services.mesh.identity import Caller

SCHEMA: Final = Schema(
    {
        "document": Field(FieldType.STRING),
        "title": Field(FieldType.STRING),
        "source_uri": Field(FieldType.STRING),
        "mime_type": Field(FieldType.STRING),
        "section": Field(FieldType.STRING),
        "page_number": Field(FieldType.NUMBER),
        "create_time": Field(FieldType.TIMESTAMP),
        "metadata": Field(FieldType.STRUCT),
    }
)

NOBODY: Final = "nobody:"
"""In an ACL: a principal no caller has, since those are `user:` and `group:`."""


def both(text: str, typed: Filter) -> Filter:
    """What a request's two filters let through, each where it is given.

    Raises:
        InvalidFilter: The text has no meaning; or the two exceed together what one may have.
    """
    written = parse(text, SCHEMA)
    if EVERYTHING in (written, typed):
        return all_of(written, typed)
    tree = all_of(written, typed)
    if sum(1 for _ in leaves(tree)) > MAX_COMPARISONS or depth(tree) > MAX_DEPTH:
        found = f"with filter it has more than {MAX_COMPARISONS} comparisons, or nests deeper than {MAX_DEPTH} levels"
        raise InvalidFilter(f"typed_filter: {found}", violations=[Violation("typed_filter", found)])
    return tree


def visible_to(who: Caller) -> Filter:
    """Chunks of documents that name nobody, or one of the caller's principals."""
    named = (Comparison(("acl",), Operator.EQ, principal) for principal in sorted(who.principals))
    return any_of(Not(Has(("acl",))), *named)


def by_document_id(tree: Filter) -> Filter:
    """The tree with documents' names cut to the ids that the index keeps: `collections/c/documents/d` is `d`."""
    match tree:
        case AllOf(parts):
            return AllOf(tuple(map(by_document_id, parts)))
        case AnyOf(parts):
            return AnyOf(tuple(map(by_document_id, parts)))
        case Not(part):
            return Not(by_document_id(part))
        case Comparison(("document",), operator, str(name)) if "/documents/" in name:
            return Comparison(("document",), operator, name.rpartition("/documents/")[2])
    return tree
