"""The whole mesh with TLS on: who gets no answer, what people type, a process killed, certificates changed."""

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ragweave.certificates import OPERATOR, CertificateFiles
from ragweave.cli.demo import COLLECTION, by_hand
from ragweave.local.authority import ensure_certificates
from ragweave.local.processes import processes
from ragweave.v1 import job_pb2
from tests.e2e.stack import PATIENCE_S, Mesh


def listening(mesh: Mesh) -> dict[str, str]:
    """host:port by role of every service's own port."""
    return {each.role: each.address for each in processes(mesh.layout) if each.address and each.name != "envoy"}


def answers(channel: grpc.Channel) -> bool:
    with channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            return False
        return True


def answers_http(address: str, trust: ssl.SSLContext | None = None) -> bool:
    opened = HTTPSConnection(address, context=trust, timeout=5) if trust else HTTPConnection(address, timeout=5)
    with closing(opened):
        try:
            opened.request("GET", "/healthz")
            return opened.getresponse().status == 200
        except (OSError, HTTPException):
            return False


def test_no_service_answers_a_process_without_a_certificate(
    secure: Mesh, tmp_path_factory: pytest.TempPathFactory
) -> None:
    others = tmp_path_factory.mktemp("others")
    ensure_certificates(others, ["jobs"])
    ours, theirs = secure.layout.certificate(OPERATOR), CertificateFiles.local(others, "jobs")
    authority = ours.authority.read_bytes()
    credentials = {
        "ours": (authority, ours.key.read_bytes(), ours.certificate.read_bytes()),
        "none": (authority, None, None),
        "of another CA": (authority, theirs.key.read_bytes(), theirs.certificate.read_bytes()),
    }
    services = listening(secure)
    gateway = services.pop("gateway")
    assert len(services) >= 5
    for role, address in services.items():
        assert not answers(grpc.insecure_channel(address)), f"{role} speaks plain text"
        for kind, shown in credentials.items():
            channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(*shown))
            assert answers(channel) is (kind == "ours"), f"{role}, certificate: {kind}"
    assert not answers_http(gateway)
    for kind, files in {"ours": ours, "none": None, "of another CA": theirs}.items():
        trust = ssl.create_default_context(cafile=ours.authority)
        if files:
            trust.load_cert_chain(files.certificate, files.key)
        assert answers_http(gateway, trust) is (kind == "ours"), f"gateway, certificate: {kind}"


def test_what_people_type_works_over_tls(secure: Mesh) -> None:
    if secure.rest("GET", f"/api/v1/rag/collections/{COLLECTION}").status == 404:
        with secure.client() as client:
            client.create_collection(COLLECTION)
            text = "The except clause may name several exception types as a tuple."
            client.wait(client.import_texts(COLLECTION, [{"document_id": "try", "text": text}]).name)
    done = secure.shell(by_hand(secure.layout))
    assert done.returncode == 0, done
    assert done.stdout.count('"hits"') == 2, done.stdout
    assert "exception" in secure.ragweave("search", "several exceptions", "-c", COLLECTION).stdout
    assert "ready after" in secure.ragweave("up").stdout
    plain = secure.shell(f"curl -sS http://{secure.edge}/api/v1/rag/collections")
    assert plain.returncode != 0
    strange = secure.shell(f"curl -sS https://{secure.edge}/api/v1/rag/collections")
    assert "certificate" in strange.stderr, "the local CA is trusted by those alone who are told to"


@pytest.mark.timeout(600)
def test_a_service_killed_during_an_import_is_found_again_over_tls(secure: Mesh) -> None:
    texts = [{"document_id": f"d{n}", "text": f"Otter number {n} eats fish. " * 40} for n in range(12)]
    with secure.client() as client:
        client.create_collection("killed-over-tls")
        job = client.import_texts("killed-over-tls", texts).name
        for event in client.watch(job):
            if event.job.progress.processed >= 2:
                break
        secure.kill("retrieval")
        assert client.wait(job).state == job_pb2.Job.SUCCEEDED
        secure.wait_ready()
        assert client.search("otters", "killed-over-tls").hits


@pytest.mark.timeout(600)
def test_certificates_are_renewed_while_the_mesh_runs(secure: Mesh) -> None:
    roles = [each.role for each in processes(secure.layout) if each.role]
    trust = secure.layout.certificate(OPERATOR)
    ports = {**listening(secure), "edge": secure.edge}
    shown = {role: _shown(address, trust) for role, address in ports.items()}
    pids = secure.pids()
    renewed = ensure_certificates(secure.layout.certificates, roles, ["renewed.example"])
    assert set(renewed) == set(roles)
    for role, address in ports.items():
        _until(partial(_differs, address, trust, shown[role]), f"{role} shows its new certificate")
    secure.wait_ready()
    assert secure.rest("GET", "/api/v1/rag/jobs").status == 200
    assert secure.pids() == pids, "nothing was restarted"


def _shown(address: str, files: CertificateFiles) -> bytes:
    """The certificate a port shows, DER."""
    trust = ssl.create_default_context(cafile=files.authority)
    trust.set_alpn_protocols(["h2", "http/1.1"])
    trust.load_cert_chain(files.certificate, files.key)
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        trust.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        return wrapped.getpeercert(binary_form=True) or b""


def _differs(address: str, files: CertificateFiles, before: bytes) -> bool:
    return _shown(address, files) != before


def _until(holds: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.1)
