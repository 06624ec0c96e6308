"""A file on its way to a collection, which goes on where it was cut off."""

import hashlib
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
from google.api import httpbody_pb2
from google.protobuf import json_format

from ragweave.names import collection_name
from ragweave.v1 import document_service_pb2

_PART_BYTES = 256 * 1024
# What a server says of an upload that begins anew; the last is one that knows of no other.
_BEGINS_ANEW = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED}


class Sending:
    """One upload: its messages from any offset on, under one request_id.

    Attributes:
        offset: Where the next call begins.
    """

    def __init__(self, collection: str, filename: str, content: bytes, fields: dict[str, Any]) -> None:
        head = {"parent": collection_name(collection), "filename": filename, **fields}
        self._head = json_format.ParseDict(head, document_service_pb2.UploadDocumentRequest())
        self._head.request_id = self._head.request_id or uuid.uuid4().hex
        self._head.sha256 = self._head.sha256 or hashlib.sha256(content).hexdigest()
        self._content = content
        self.offset = 0

    def messages(self) -> Iterator[document_service_pb2.UploadDocumentRequest]:
        """What is left to send; one message at least, since the first says what it is."""
        named = document_service_pb2.UploadDocumentRequest()
        named.CopyFrom(self._head)
        named.offset = self.offset
        named.file.data = self._content[self.offset : self.offset + _PART_BYTES]
        yield named
        for at in range(self.offset + _PART_BYTES, len(self._content), _PART_BYTES):
            body = httpbody_pb2.HttpBody(data=self._content[at : at + _PART_BYTES])
            yield document_service_pb2.UploadDocumentRequest(file=body)

    def question(self) -> document_service_pb2.GetUploadRequest:
        """How much has arrived."""
        return document_service_pb2.GetUploadRequest(parent=self._head.parent, request_id=self._head.request_id)

    def may_go_on(self, error: grpc.RpcError) -> bool:
        """After nobody answered, the call's time was up, or less had arrived than it took for granted."""
        return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED) or (
            error.code() is grpc.StatusCode.OUT_OF_RANGE and self.offset > 0
        )

    def go_on(self, error: grpc.RpcError, answer: document_service_pb2.Upload | grpc.RpcError) -> bool:
        """Takes the answer to `question`; whether more has arrived than before. An error says nothing, or: all anew.

        Raises:
            grpc.RpcError: that very one, where the call's time was up and nothing had arrived in it.
        """
        before = self.offset
        if isinstance(answer, document_service_pb2.Upload):
            self.offset = answer.received_bytes
        elif answer.code() in _BEGINS_ANEW:
            self.offset = 0
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and self.offset <= before:
            raise error
        return self.offset > before
