"""A revoked token is refused at every door, Envoy's memory and restarts notwithstanding, until it is let in again."""

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.e2e.stack import PATIENCE_S, PREFIX, Mesh

# A read at each service's own port.
READS: dict[str, tuple[str, dict[str, Any]]] = {
    "collections": ("CollectionService/ListCollections", {}),
    "retrieval": ("RetrievalService/Search", {"query": "x", "collection": "none"}),
    "embedding": ("EmbeddingService/CountTokens", {"texts": ["x"]}),
    "jobs": ("JobService/ListJobs", {}),
    "system": ("SystemService/ListRevocations", {}),
}


@pytest.fixture(scope="module")
def mesh(doomed: Mesh) -> Mesh:
    return doomed


def refused(mesh: Mesh, door: str, token: str) -> bool:
    """Whether the token is refused there as revoked; anything but that or an answer is a failure."""
    if door == "REST":
        answer = mesh.rest("GET", f"{PREFIX}/collections", token=token)
        if answer.status == 200:
            return False
        assert answer.status == 401, answer
        assert answer.body["details"][0]["reason"] == "TOKEN_REVOKED"
        return True
    owner = "collections" if door == "gRPC" else door
    method, request = READS[owner]
    target = mesh.edge if door == "gRPC" else mesh.layout.address(owner)
    status, answer = mesh.grpcurl(target, f"ragweave.v1.{method}", request, token=token)
    if status and "NotFound" not in answer:
        assert "Unauthenticated" in answer and "TOKEN_REVOKED" in answer, answer
        return True
    return False


def becomes(mesh: Mesh, expected: bool, door: str, token: str) -> None:
    """Waits until the token is refused there, or let in."""
    until = time.monotonic() + PATIENCE_S
    while refused(mesh, door, token) is not expected:
        assert time.monotonic() < until, f"{door}: refused is not {expected}"
        time.sleep(0.1)


DOORS = ("REST", "gRPC", *READS)


@pytest.mark.timeout(600)
def test_a_token_is_revoked_at_every_door_through_restarts_until_it_is_let_in_again(mesh: Mesh) -> None:
    leaked, another = (mesh.token(subject="leaver") for _ in range(2))
    for door in DOORS:  # now Envoy and every service remember it as verified
        assert not refused(mesh, door, leaked)
    said = mesh.ragweave("revoke", "--token", leaked, "--reason", "leaked").stdout
    (name,) = re.findall(r"revocations/\w+", said)
    for door in DOORS:
        becomes(mesh, True, door, leaked)
    assert not refused(mesh, "REST", another)
    mesh.kill_everything()
    mesh.start()
    for door in DOORS:
        assert refused(mesh, door, leaked), f"{door}: let in after a restart"
    listed = mesh.ragweave("revocations").stdout
    assert name in listed and "for good  by developer  leaked" in listed
    mesh.ragweave("unrevoke", name)
    for door in DOORS:
        becomes(mesh, False, door, leaked)
    assert mesh.ragweave("revocations").stdout == "no revocations\n"


def test_a_subject_is_revoked_with_all_its_tokens_for_a_while(mesh: Mesh) -> None:
    before, admin = mesh.token(subject="visitor"), mesh.token(subject="chief")
    assert not refused(mesh, "REST", before)
    ends = (datetime.now(UTC) + timedelta(seconds=10)).isoformat()
    made = mesh.rest("POST", f"{PREFIX}/revocations", {"subject": "visitor", "expireTime": ends}, token=admin)
    assert made.status == 200, made
    becomes(mesh, True, "REST", before)
    assert refused(mesh, "REST", mesh.token(subject="visitor")), "one that is made later is of the same subject"
    assert not refused(mesh, "REST", mesh.token(subject="visitor", tenant="elsewhere"))
    becomes(mesh, False, "REST", before)
    own = mesh.rest("POST", f"{PREFIX}/revocations", {"subject": "chief"}, token=admin)
    assert (own.status, own.body["code"]) == (400, 9), own


def test_what_was_asked_for_is_in_the_audit_log_refusals_included(mesh: Mesh) -> None:
    reader = mesh.token("reader", subject="reader")
    request = {"revocation": {"subject": "chief"}}  # at the service itself: the edge would refuse before it
    status, answer = mesh.grpcurl(
        mesh.layout.address("system"), "ragweave.v1.SystemService/CreateRevocation", request, token=reader
    )
    assert status and "PermissionDenied" in answer, answer
    until = time.monotonic() + PATIENCE_S
    asked = 'subject = "reader" AND outcome = "REFUSED"'
    while "CreateRevocation" not in (said := mesh.ragweave("audit", "-f", asked).stdout):
        assert time.monotonic() < until
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  reader  CreateRevocation  -  REFUSED \(PERMISSION_DENIED\)\n", said
    )
    assert "no events" in mesh.ragweave("audit", "-f", 'subject = "nobody"').stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["revoke"], "name one of"),
        (["revoke", "a", "--token", "b"], "name one of"),
        (["revoke", "--token", "a.b.c"], "no token"),
        (["revoke", "developer"], "yourself"),
        (["unrevoke", "nothing"], "nothing"),
        (["audit", "-f", "nonsense = 1"], "nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_mistake_is_told_in_one_sentence(mesh: Mesh, arguments: list[str], said: str) -> None:
    done = mesh.ragweave(*arguments, check=False)
    assert (done.returncode, done.stderr.startswith("error: ")) == (1, True)
    assert said in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
