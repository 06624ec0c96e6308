"""Whole tenants behind the edge: what they may keep, what they take with them, and that nothing of one is left."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from google.protobuf import json_format

from ragweave.v1 import job_pb2, quota_pb2
from tests.e2e.stack import PREFIX, Answer, Mesh


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh of these tests' own: they look at all that it keeps."""
    made = Mesh(tmp_path_factory.mktemp("tenants"))
    made.start()
    try:
        yield made
    finally:
        made.stop()


def limit(mesh: Mesh, tenant: str, **limits: int) -> Answer:
    """Limits set as an operator does."""
    mask = ",".join(f"limits.{name}" for name in limits)
    return mesh.rest(
        "PATCH",
        f"{PREFIX}/quotas/{tenant}?updateMask={mask}",
        {"limits": limits},
        token=mesh.token(tenant="operator"),
    )


def test_a_tenant_is_filled_up_to_its_quota_refused_beyond_and_goes_on_when_it_is_raised(mesh: Mesh) -> None:
    token = mesh.token(tenant="filled")
    assert limit(mesh, "filled", documents=2).status == 200
    assert mesh.rest("POST", f"{PREFIX}/collections?collectionId=docs", {}, token=token).status == 200
    documents = f"{PREFIX}/collections/docs/documents"
    for name in ("a", "b"):
        made = mesh.rest("POST", documents, {"documentId": name, "text": f"text {name}"}, token=token)
        assert made.status == 200, made
    refused = mesh.rest("POST", documents, {"documentId": "c", "text": "text c"}, token=token)
    assert (refused.status, refused.body["code"]) == (429, 8), refused
    assert "retry-after" not in refused.headers
    info, quota = refused.body["details"]
    assert (info["reason"], info["metadata"]["quota"]) == ("QUOTA_EXCEEDED", "documents")
    (violation,) = quota["violations"]
    assert violation["subject"] == "tenants/filled"
    assert violation["description"] == "documents: 2 of 2 are used, 1 more do not fit"
    over = {"documents": [{"documentId": n, "text": f"text {n}"} for n in ("a", "c")]}
    with mesh.client(tenant="filled") as client:
        queued = mesh.rest("POST", f"{documents}:import", {"inline": over}, token=token)
        ended = client.wait(queued.body["name"])
    assert ended.state == job_pb2.Job.PARTIALLY_SUCCEEDED
    assert ended.error.message.startswith("c: documents: 2 of 2 are used")

    assert limit(mesh, "filled", documents=3).status == 200
    made = mesh.rest("POST", documents, {"documentId": "c", "text": "text c"}, token=token)
    assert made.status == 200, made


def test_collections_created_at_once_are_as_many_as_fit(mesh: Mesh) -> None:
    assert limit(mesh, "crowd", collections=10).status == 200
    token = mesh.token(tenant="crowd")

    def create(number: int) -> int:
        return mesh.rest("POST", f"{PREFIX}/collections?collectionId=c{number}", {}, token=token).status

    with ThreadPoolExecutor(16) as threads:
        statuses = list(threads.map(create, range(50)))
    assert (statuses.count(200), statuses.count(429)) == (10, 40)


def test_a_quota_reads_the_same_everywhere_and_only_for_its_tenant_and_operators(mesh: Mesh) -> None:
    assert limit(mesh, "read", collections=7).status == 200
    own, other, operator = (mesh.token(tenant=tenant) for tenant in ("read", "else", "operator"))
    rest = mesh.rest("GET", f"{PREFIX}/quotas/read", token=own)
    assert rest.status == 200, rest
    told = json_format.ParseDict(rest.body, quota_pb2.Quota())
    assert (told.limits.collections, told.usage.collections) == (7, 0)
    for target in (mesh.edge, mesh.layout.address("system")):
        for token in (own, operator):
            status, answer = mesh.grpcurl(
                target, "ragweave.v1.SystemService/GetQuota", {"name": "quotas/read"}, token=token
            )
            assert status == 0, answer
            assert json_format.ParseDict(answer, quota_pb2.Quota()) == told
    assert mesh.rest("GET", f"{PREFIX}/quotas/read", token=other).status == 404
    assert mesh.rest("PATCH", f"{PREFIX}/quotas/read", {"limits": {"collections": 9}}, token=other).status == 404
    assert mesh.rest("PATCH", f"{PREFIX}/quotas/read", {"limits": {"collections": 9}}, token=own).status == 403


def test_an_estimate_says_that_not_all_of_it_fits(mesh: Mesh) -> None:
    assert limit(mesh, "estimated", documents=1).status == 200
    token = mesh.token(tenant="estimated")
    assert mesh.rest("POST", f"{PREFIX}/collections?collectionId=docs", {}, token=token).status == 200
    body: dict[str, Any] = {
        "inline": {"documents": [{"documentId": n, "text": f"text {n}"} for n in ("a", "b")]},
        "validateOnly": True,
    }
    told = mesh.rest("POST", f"{PREFIX}/collections/docs/documents:import", body, token=token)
    assert told.status == 200, told
    assert told.body["estimate"]["documents"] == 2
    assert told.body["error"]["details"][0]["reason"] == "QUOTA_EXCEEDED", json.dumps(told.body)
