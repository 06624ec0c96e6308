"""A server that dies of its first mutation, after doing it: `python -m tests.mesh.crashing PORT FOLDER`.

Any number may listen on one port. Calls are written down in FOLDER/calls, what was done in FOLDER/done-<id>; whoever is
first to have done something is killed before it answers.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from ragweave.v1 import collection_pb2, collection_service_pb2_grpc, document_service_pb2, document_service_pb2_grpc


class Crashing(
    collection_service_pb2_grpc.CollectionServiceServicer, document_service_pb2_grpc.DocumentServiceServicer
):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def CreateCollection(self, request: Any, context: Any) -> collection_pb2.Collection:
        return collection_pb2.Collection(uid=self._once(request.request_id))

    async def UploadDocument(
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> document_service_pb2.UploadDocumentResponse:
        parts = [each async for each in request_iterator]
        content = b"".join(part.file.data for part in parts)
        answer = document_service_pb2.UploadDocumentResponse()
        answer.job.name = f"jobs/{self._once(parts[0].request_id)}"
        answer.document.size_bytes = len(content)
        return answer

    def _once(self, request_id: str) -> str:
        """What stands for the doing of the request; kept, as an owner keeps it beside a receipt."""
        with (self._folder / "calls").open("a") as calls:
            calls.write(f"{request_id}\n")
        done = self._folder / f"done-{request_id}"
        if not done.exists():
            done.write_text(f"by-{os.getpid()}")
            try:
                (self._folder / "killed").touch(exist_ok=False)
            except FileExistsError:
                return done.read_text()
            os.kill(os.getpid(), signal.SIGKILL)
        return done.read_text()


async def main(port: int, folder: Path) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
    servicer = Crashing(folder)
    collection_service_pb2_grpc.add_CollectionServiceServicer_to_server(servicer, server)
    document_service_pb2_grpc.add_DocumentServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print("serving", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
