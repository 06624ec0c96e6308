"""What the protos' comments say of each message, field, enum, value, service and method."""

from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

_MESSAGES = FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER
_ENUMS = FileDescriptorProto.ENUM_TYPE_FIELD_NUMBER
_SERVICES = FileDescriptorProto.SERVICE_FIELD_NUMBER
_FIELDS = DescriptorProto.FIELD_FIELD_NUMBER
_NESTED_MESSAGES = DescriptorProto.NESTED_TYPE_FIELD_NUMBER
_NESTED_ENUMS = DescriptorProto.ENUM_TYPE_FIELD_NUMBER
_VALUES = EnumDescriptorProto.VALUE_FIELD_NUMBER
_METHODS = ServiceDescriptorProto.METHOD_FIELD_NUMBER

Place = tuple[int, ...]


class Comments:
    """Leading comments by full name, of descriptors compiled with their source info."""

    def __init__(self, descriptors: FileDescriptorSet) -> None:
        self._texts: dict[str, str] = {}
        for file in descriptors.file:
            written = {tuple(each.path): each.leading_comments for each in file.source_code_info.location}
            for name, place in _named(file):
                if text := _flowing(written.get(place, "")):
                    self._texts[name] = text

    def of(self, descriptor: Any) -> str:
        """The comment before a message, field, enum, service or method; "" without one."""
        return self._texts.get(descriptor.full_name, "")

    def of_value(self, enum: Any, value: str) -> str:
        """The comment before a value of an enum; "" without one."""
        return self._texts.get(f"{enum.full_name}.{value}", "")


def _named(file: FileDescriptorProto) -> Iterator[tuple[str, Place]]:
    """Full names with their places, as google.protobuf.SourceCodeInfo.Location.path gives them."""
    yield from _messages(file.message_type, file.package, (_MESSAGES,))
    yield from _enums(file.enum_type, file.package, (_ENUMS,))
    for at, service in enumerate(file.service):
        name = f"{file.package}.{service.name}"
        yield name, (_SERVICES, at)
        for n, method in enumerate(service.method):
            yield f"{name}.{method.name}", (_SERVICES, at, _METHODS, n)


def _messages(messages: Sequence[DescriptorProto], scope: str, place: Place) -> Iterator[tuple[str, Place]]:
    for at, message in enumerate(messages):
        name, here = f"{scope}.{message.name}", (*place, at)
        yield name, here
        for n, field in enumerate(message.field):
            yield f"{name}.{field.name}", (*here, _FIELDS, n)
        yield from _messages(message.nested_type, name, (*here, _NESTED_MESSAGES))
        yield from _enums(message.enum_type, name, (*here, _NESTED_ENUMS))


def _enums(enums: Sequence[EnumDescriptorProto], scope: str, place: Place) -> Iterator[tuple[str, Place]]:
    for at, enum in enumerate(enums):
        name, here = f"{scope}.{enum.name}", (*place, at)
        yield name, here
        for n, value in enumerate(enum.value):
            yield f"{name}.{value.name}", (*here, _VALUES, n)


def _flowing(comment: str) -> str:
    """A comment's lines as flowing text; an empty line begins a paragraph."""
    paragraphs = comment.strip().split("\n\n")
    return "\n\n".join(" ".join(line.strip() for line in each.splitlines()) for each in paragraphs)
