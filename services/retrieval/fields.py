"""Fields of a passage that requests name outside of filters, and what a passage has there."""

from collections.abc import Collection, Mapping
from typing import Any

from services.mesh.errors import InvalidArgument, InvalidFilter, Violation
from services.mesh.filters import Filter, Path, parse
from services.mesh.filters.parser import path_of
from services.retrieval.chunks import Chunk
from services.retrieval.filterable import SCHEMA, by_document_id


def path_named(text: str, field: str, *, others: Collection[str] = ()) -> Path:
    """The path that `text` spells: below metadata, or one of `others`.

    Args:
        field: The request's field that it stands in.

    Raises:
        InvalidArgument: It names nothing, or something else.
    """
    try:
        target = SCHEMA.target(path_of(text))
    except ValueError as error:
        raise InvalidArgument.of(field, str(error)) from None
    if target.inside or target.path[0] in others:
        return target.path
    wanted = " or ".join(filter(None, (", ".join(others), "a path such as metadata.year")))
    raise InvalidArgument.of(field, f"takes {wanted}, found {text!r:.80}")


def condition(text: str, field: str) -> Filter:
    """As `parse` reads a search's filter, with another field of the request named where it is at fault.

    Raises:
        InvalidFilter: It does not parse.
    """
    try:
        return by_document_id(parse(text, SCHEMA))
    except InvalidFilter as error:
        (found,) = error.violations
        violation = Violation(field, found.description)
        column = error.metadata["column"]
        raise InvalidFilter(f"{field}: {found.description}", violations=[violation], column=column) from None


def resource_of(chunk: Chunk) -> Mapping[str, Any]:
    """The passage by the names of its fields, as filters and paths see it."""
    document = chunk.document
    return {
        "document": document.document_id,
        "title": document.title,
        "source_uri": document.source_uri,
        "mime_type": document.mime_type,
        "section": chunk.section,
        "page_number": chunk.page_number,
        "create_time": document.create_time,
        "metadata": document.metadata,
    }
