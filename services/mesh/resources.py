"""The resource a request is about, by the fields the contract gives it (AIP-131 to AIP-135, AIP-231)."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, TypeAlias

from google.api import resource_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import Message

MAX_LENGTH: Final = 1024

Finder: TypeAlias = Callable[[Any], str]


def named_in(request: Message) -> str:
    """The name of what the request is about, as the caller wrote it; "" where it names nothing.

    An update's is its resource's, a creation's is that of what is to be made, else of where. Control characters are
    replaced, and what is too long is cut: the request may not have been checked yet.
    """
    return plain(_finder(request.DESCRIPTOR)(request), MAX_LENGTH)


def named_by(response: Message, asked: str) -> str:
    """`asked`, or what the response names instead where the request left that open: the child that was made of it."""
    found = plain(_answer_finder(response.DESCRIPTOR)(response), MAX_LENGTH)
    return found if not asked or found.startswith(f"{asked}/") else asked


def plain(text: str, length: int) -> str:
    """`text` for logs and databases: printable, and so long at most."""
    cut = text if len(text) <= length else text[: length - 1] + "…"
    return cut if cut.isprintable() else "".join(each if each.isprintable() else "�" for each in cut)


@cache
def _finder(request: Descriptor) -> Finder:
    fields = request.fields_by_name
    if "name" in fields:
        return lambda message: str(message.name)
    if "update_mask" in fields:
        for field in request.fields:
            if _is_resource(field):
                return _nested(field.name)
    plurals = _plurals(request.file)
    made = next(((f"{kind}_id", plural) for kind, plural in plurals.items() if f"{kind}_id" in fields), None)
    within: Finder = (lambda message: str(message.parent)) if "parent" in fields else lambda message: ""
    if "names" in fields:
        return lambda message: _several(message.names) or within(message)
    return lambda message: _child(within(message), message, made)


@cache
def _answer_finder(response: Descriptor) -> Finder:
    if "name" in response.fields_by_name:
        return lambda message: str(message.name)
    return next((_nested(field.name) for field in response.fields if _is_resource(field)), lambda message: "")


def _nested(field: str) -> Finder:
    return lambda message: str(getattr(message, field).name)


def _child(parent: str, message: Any, made: tuple[str, str] | None) -> str:
    """The resource to be made under `parent`; `parent` itself where its id is left to the service."""
    if made is None or not (given := str(getattr(message, made[0]))):
        return parent
    child = f"{made[1]}/{given}"
    return f"{parent}/{child}" if parent else child


def _several(names: Any) -> str:
    """As many names as fit, and how many did not."""
    shown: list[str] = []
    length = 0
    for name in names:
        length += len(name) + 1
        if length > MAX_LENGTH - 16:
            return f"{','.join(shown)} (+{len(names) - len(shown)})"
        shown.append(name)
    return ",".join(shown)


def _is_resource(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and not field.is_repeated and kind.GetOptions().HasExtension(resource_pb2.resource)


@cache
def _plurals(file: FileDescriptor) -> Mapping[str, str]:
    """The collection ids of the resources that a file knows, by how fields name one: "dead_letter" to "deadLetters"."""
    found: dict[str, str] = {}
    for each in (file, *file.dependencies):
        for message in each.message_types_by_name.values():
            if message.GetOptions().HasExtension(resource_pb2.resource):
                declared = message.GetOptions().Extensions[resource_pb2.resource]
                found[re.sub("([A-Z])", r"_\1", declared.singular).lower()] = declared.plural
    return found
