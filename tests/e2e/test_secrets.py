"""A mesh given known secrets: none of them shows in a log, a span, a process list, a file of its own, or an answer."""

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ragweave.local.processes import store_binary
from ragweave.v1 import job_pb2
from tests.e2e.stack import PATIENCE_S, PREFIX, UNASKED, Mesh
from tests.ports import free_port
from tests.spans import collecting

PASSWORD, API_KEY, CONTENT = "sw0rdfish-password", "sw0rdfish-api-key", "sw0rdfish-content"
# Header and first bytes of the payload of any JWT.
TOKEN = re.compile(rb"eyJ[\w-]{10,}\.")


@contextmanager
def store(folder: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A store that wants a password, told by its standard input; its port."""
    folder.mkdir()
    port = free_port()
    server = subprocess.Popen([store_binary(), "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert server.stdin
    server.stdin.write(f'port {port}\nrequirepass {PASSWORD}\ndir "{folder}"\nsave ""\n'.encode())
    server.stdin.close()
    until = time.monotonic() + PATIENCE_S
    try:
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < until and server.poll() is None
            time.sleep(0.01)
        yield port, server
    finally:
        server.kill()
        server.wait()


@pytest.mark.timeout(600)
def test_secrets_show_nowhere(tmp_path: Path) -> None:
    with store(tmp_path / "store") as (port, server), collecting() as (collector, endpoint):
        mesh = Mesh(
            tmp_path / "data",
            **UNASKED,
            RAGWEAVE_TLS="on",
            RAGWEAVE_REDIS_URL=f"redis://:{PASSWORD}@127.0.0.1:{port}/0",
            RAGWEAVE_RETRIEVAL_QDRANT_API_KEY=API_KEY,
            RAGWEAVE_LOG_LEVEL="debug",
            RAGWEAVE_OTLP_ENDPOINT=endpoint,
        )
        mesh.start()
        try:
            said = _used(mesh)
            server.kill()
            server.wait()
            said += _refused_for_want_of_the_store(mesh)
            said += [_told(mesh, "status"), _told(mesh, "doctor"), _told(mesh, "logs", "-n", "500")]
            command_lines = _command_lines(mesh)
            kept = _kept(mesh)
        finally:
            mesh.stop()
    secrets = [PASSWORD.encode(), API_KEY.encode(), CONTENT.encode(), *_private_keys(mesh)]
    places = {"answers": "\n".join(said).encode(), "command lines": command_lines, **kept}
    places["spans"] = b"".join(collector.raw)
    found = [(where, secret) for where, content in places.items() for secret in secrets if secret in content]
    found += [(where, match[0]) for where, content in places.items() for match in TOKEN.finditer(content)]
    assert found == []
    assert b"services.jobs" in command_lines
    assert len([name for name in kept if name.endswith(".log")]) >= 7
    assert len(secrets) > 10
    assert {"ragweave-edge", "ragweave-retrieval", "ragweave-worker"} <= {span.service for span in collector.spans}


def _used(mesh: Mesh) -> list[str]:
    """Calls that succeed and calls that are refused, with tokens wherever one might be put; every answer."""
    good, bad = mesh.token(), mesh.token()[:-8] + "AAAAAAAA"
    assert mesh.rest("POST", f"{PREFIX}/collections?collectionId=c", {}).status == 200
    with mesh.client() as client:
        job = client.import_texts("c", [{"document_id": "d", "text": f"All about {CONTENT}."}])
        assert client.wait(job.name).state == job_pb2.Job.SUCCEEDED
    search = {"query": CONTENT, "collection": "c"}
    assert mesh.rest("POST", f"{PREFIX}/search", search).body["hits"]
    answers = [
        mesh.rest("POST", f"{PREFIX}/search", search, token=bad),
        mesh.rest("GET", f"{PREFIX}/collections?access_token={good}", token=None),
        mesh.rest("GET", f"{PREFIX}/collections?filter={good}"),
        mesh.rest("GET", f"{PREFIX}/collections", headers={"x-ragweave-token": good}),
    ]
    assert [answer.status for answer in answers] == [401, 401, 400, 200]
    over_grpc = [
        mesh.grpcurl(target, "ragweave.v1.CollectionService/ListCollections", token=bad)
        for target in (mesh.edge, mesh.layout.address("collections"))
    ]
    assert all(status for status, _ in over_grpc)
    # What a caller sent in the query it may read in its own answer; what it showed as its token it may not.
    return [str(answer.body) for answer in (answers[0], answers[1], answers[3])] + [str(said) for _, said in over_grpc]


def _refused_for_want_of_the_store(mesh: Mesh) -> list[str]:
    """What is said once the store is gone: to callers, and in the logs."""
    until = time.monotonic() + PATIENCE_S
    while b"dependency fails" not in (mesh.layout.logs / "jobs.log").read_bytes():
        assert time.monotonic() < until
        time.sleep(0.1)
    answer = mesh.rest("GET", f"{PREFIX}/jobs")
    assert answer.status == 503
    return [str(answer.body)]


def _told(mesh: Mesh, *command: str) -> str:
    done = mesh.ragweave(*command, check=False)
    return done.stdout + done.stderr


def _command_lines(mesh: Mesh) -> bytes:
    """Those of everything that runs in a session of the mesh's, as `ps` shows them."""
    ours = set(mesh.pids())
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
            if session in ours:
                found.append((folder / "cmdline").read_bytes())
        except OSError:
            continue
    return b"\n".join(found)


def _kept(mesh: Mesh) -> dict[str, bytes]:
    """What the mesh writes for people and for Envoy: logs, its state, the edge's configuration."""
    folders = (mesh.layout.logs, mesh.layout.state_file.parent, mesh.layout.edge)
    return {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def _private_keys(mesh: Mesh) -> list[bytes]:
    """A line of each private key's body."""
    files = [
        Path(folder, name)
        for folder, _, names in os.walk(mesh.layout.data)  # which passes over a folder that goes meanwhile
        for name in names
        if name.endswith((".pem", ".key"))
    ]
    assert files
    return [path.read_bytes().splitlines()[1] for path in files]
