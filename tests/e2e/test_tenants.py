"""Whole tenants behind the edge: what they may keep, what they take with them, and that nothing of one is left."""

import json
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from ragweave.v1 import job_pb2, quota_pb2
from tests.e2e.stack import PREFIX, Answer, Mesh


@pytest.fixture(scope="module")
def mesh(doomed: Mesh) -> Mesh:
    return doomed


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


CANARY = "qzcanaryqz"
KEEPER = "qzkeeperqz"


def content_of(word: str) -> str:
    """What stands in contents where `word` stands in names."""
    return word[::-1]


def file_of(word: str) -> bytes:
    """A file that is uploaded."""
    return f"# {content_of(word)} heading\n\n{content_of(word)} text of a file that was uploaded.\n".encode()


def settle_in(mesh: Mesh, tenant: str, word: str) -> None:
    """Something of every kind that a tenant can leave behind: `word` in all names, its reverse in all contents."""
    content = content_of(word)
    token = mesh.token(tenant=tenant, subject=f"{word}-subject")
    made = mesh.rest(
        "POST",
        f"{PREFIX}/collections?collectionId={word}-docs&requestId={word}-request",
        {"description": f"{content} description", "labels": {"team": f"{content}-label"}},
        token=token,
    )
    assert made.status == 200, made
    documents = f"{PREFIX}/collections/{word}-docs/documents"
    described = {
        "title": f"{content} title",
        "sourceUri": f"file:///{word}.txt",
        "metadata": {"tag": f"{content} metadata"},
        "acl": {"principals": [f"group:{word}"]},
    }
    text = f"The {content} fox jumps over the lazy dog, and says {content} again."
    inline = {"documents": [{"documentId": f"{word}-{n}", "text": f"{text} {n}", "document": described} for n in "ab"]}
    queued = mesh.rest("POST", f"{documents}:import", {"inline": inline, "requestId": f"{word}-import"}, token=token)
    assert queued.status == 200, queued
    uploaded = mesh.rest(
        "POST", f"{documents}:upload?filename={word}.md", file_of(word), token=token, content_type="text/markdown"
    )
    assert uploaded.status == 200, uploaded
    empty = {"documents": [{"documentId": f"{word}-empty", "text": "", "document": {"title": f"{content} empty"}}]}
    failing = mesh.rest("POST", f"{documents}:import", {"inline": empty}, token=token)
    with mesh.client(tenant=tenant) as client:
        for job in (queued.body["name"], uploaded.body["job"]["name"], failing.body["name"]):
            client.wait(job)
    renamed = mesh.rest("PATCH", f"{documents}/{word}-a?updateMask=title", {"title": f"{content} new"}, token=token)
    assert renamed.status == 200, renamed
    assert mesh.rest("DELETE", f"{documents}/{word}-b", token=token).status == 200
    found = mesh.rest(
        "POST", f"{PREFIX}/search", {"query": f"{content} fox", "collection": f"{word}-docs"}, token=token
    )
    assert found.status == 200, found
    revoked = mesh.rest(
        "POST", f"{PREFIX}/revocations", {"subject": f"{word}-leaver", "reason": f"{content} reason"}, token=token
    )
    assert revoked.status == 200, revoked


def import_much(mesh: Mesh, tenant: str, word: str) -> str:
    """A job that will be at work for a while; its name."""
    long = " ".join(f"{content_of(word)}{number}" for number in range(2_000))
    inline = {"documents": [{"documentId": f"{word}-{number}", "text": f"{number} {long}"} for number in range(20)]}
    queued = mesh.rest(
        "POST",
        f"{PREFIX}/collections/{word}-docs/documents:import",
        {"inline": inline},
        token=mesh.token(tenant=tenant),
    )
    assert queued.status == 200, queued
    return str(queued.body["name"])


def holding(mesh: Mesh, *words: str) -> list[set[str]]:
    """For each word, the files of all that the mesh keeps that hold it."""
    found: list[set[str]] = [set() for _ in words]
    for folder, _, names in os.walk(mesh.layout.data):  # which passes over a folder that goes meanwhile
        for path in (Path(folder, name) for name in names):
            with suppress(OSError):  # a socket, or gone meanwhile
                content = path.read_bytes() if path.is_file() else b""
                for word, files in zip(words, found, strict=True):
                    if word.encode() in content:
                        files.add(path.relative_to(mesh.layout.data).as_posix())
    return found


def deleted(mesh: Mesh, tenant: str) -> dict[str, Any]:
    """The tenant, once an operator is told that nothing of it is left."""
    operator = mesh.token(tenant="operator")
    until = time.monotonic() + 110
    while True:
        told = mesh.rest("GET", f"{PREFIX}/tenants/{tenant}", token=operator)
        if told.status == 200 and told.body["state"] == "DELETED":
            return dict(told.body)
        assert time.monotonic() < until, told
        time.sleep(0.5)


def admitted(mesh: Mesh, path: str, token: str) -> dict[str, Any]:
    """What is answered, once the service has heard that the token is taken again."""
    until = time.monotonic() + 30
    while (answer := mesh.rest("GET", f"{PREFIX}/{path}", token=token)).status != 200:
        assert time.monotonic() < until, answer
        time.sleep(0.2)
    return dict(answer.body)


def check_nothing_left(mesh: Mesh, word: str) -> None:
    """Of contents nothing anywhere; of names nothing but what the logs, which age by themselves, say of calls."""
    of_contents, of_names = holding(mesh, content_of(word), word)
    assert of_contents == set()
    assert {name for name in of_names if not name.startswith("logs/")} == set()


def test_nothing_of_a_deleted_tenant_is_left_anywhere_and_others_miss_nothing(mesh: Mesh) -> None:
    settle_in(mesh, "leaving", CANARY)
    settle_in(mesh, "staying", KEEPER)
    import_much(mesh, "leaving", CANARY)  # and its worker is at it when the tenant goes
    before = set[str]().union(*holding(mesh, CANARY, content_of(CANARY)))
    for part in ("collections/", "system/", "redis/", "blobs/", "index/"):
        assert any(name.startswith(part) for name in before), (part, before)
    token = mesh.token(tenant="leaving")
    asked = mesh.rest("DELETE", f"{PREFIX}/tenants/leaving", token=token)
    assert (asked.status, asked.body["state"]) == (200, "DELETING"), asked
    told = deleted(mesh, "leaving")
    assert {part["service"] for part in told["parts"] if part["erased"]} == {
        "collections",
        "embedding",
        "jobs",
        "retrieval",
        "system",
    }
    assert told["purgeTime"] > told["deleteTime"]
    assert mesh.rest("GET", f"{PREFIX}/collections", token=token).status in (401, 403)
    check_nothing_left(mesh, CANARY)
    with mesh.client(tenant="staying", groups=[KEEPER]) as client:
        found = client.search(f"{content_of(KEEPER)} fox", f"{KEEPER}-docs")
        assert len({hit.document for hit in found.hits}) == 2
    audit = mesh.rest("GET", f"{PREFIX}/auditEvents", token=mesh.token(tenant="staying"))
    assert audit.body["totalSize"] >= 6


def test_a_deletion_survives_the_death_of_every_service_and_the_tenant_returns_empty(mesh: Mesh) -> None:
    word = "qzdyingqz"
    settle_in(mesh, "dying", word)
    import_much(mesh, "dying", word)
    operator = mesh.token(tenant="operator")
    asked = mesh.rest("DELETE", f"{PREFIX}/tenants/dying?requestId=once", token=operator)
    assert asked.status == 200, asked
    for service in ("system", "collections", "jobs", "retrieval", "embedding", "worker", "redis", "system"):
        mesh.kill(service)
        time.sleep(0.7)  # so that each dies at another step
    mesh.wait_ready()
    deleted(mesh, "dying")
    check_nothing_left(mesh, word)

    token = mesh.token(tenant="dying")
    assert mesh.rest("POST", f"{PREFIX}/tenants/dying:restore", {}, token=token).status in (401, 403)
    assert mesh.rest("POST", f"{PREFIX}/tenants/dying:restore", {}, token=mesh.token(tenant="else")).status == 404
    restored = mesh.rest("POST", f"{PREFIX}/tenants/dying:restore", {}, token=operator)
    assert (restored.status, restored.body["state"]) == (200, "ACTIVE"), restored
    assert admitted(mesh, "collections", token)["totalSize"] == 0
    assert admitted(mesh, "jobs", token)["totalSize"] == 0
    admitted(mesh, "models", token)
    until = time.monotonic() + 30
    while (
        found := mesh.rest("POST", f"{PREFIX}/search", {"query": "x", "collection": "x"}, token=token)
    ).status == 401:
        assert time.monotonic() < until, found
        time.sleep(0.2)
    events = admitted(mesh, "auditEvents", token)["auditEvents"]
    kept = [(each["method"].rpartition("/")[2], each["outcome"]) for each in events]
    assert kept == [("RestoreTenant", "REFUSED"), ("DeleteTenant", "SUCCEEDED")]  # the first came after the deletion
    settle_in(mesh, "dying", word)


def test_an_export_holds_all_of_one_tenant_and_nothing_of_another(mesh: Mesh, tmp_path: Path) -> None:
    word = "qzmovingqz"
    settle_in(mesh, "moving", word)
    settle_in(mesh, "remaining", "qzremainingqz")
    over_rest = mesh.rest("GET", f"{PREFIX}/tenants/moving:export", token=mesh.token(tenant="moving"))
    assert over_rest.status == 200, over_rest
    text = over_rest.body if isinstance(over_rest.body, bytes) else json.dumps(over_rest.body).encode()
    records = [json.loads(line) for line in text.splitlines() if line.strip()]
    assert records[-1]["finalStatus"]["code"] == 0
    kinds = Counter(next(iter(record)) for record in records)
    assert (kinds["quota"], kinds["collection"], kinds["document"], kinds["revocation"]) == (1, 1, 3, 1)
    assert kinds["job"] == 3
    assert kinds["auditEvent"] >= 6
    assert b"qzremainingqz" not in text
    with mesh.client(tenant="operator") as client:
        over_grpc = [record.WhichOneof("record") for record in client.export_tenant("moving")]
    assert Counter(over_grpc)["document"] == 3
    assert over_grpc[-1] == "final_status"
    refused = mesh.rest("GET", f"{PREFIX}/tenants/moving:export", token=mesh.token(tenant="remaining"))
    assert refused.status == 404
    assert mesh.rest("GET", f"{PREFIX}/tenants/moving:export", token=mesh.token("editor", "moving")).status == 403

    for exported in ("all", "all.jsonl"):
        mesh.ragweave("tenant", "export", "moving", "--out", str(tmp_path / exported))
    for exported in ("all", "all.jsonl"):
        said = mesh.ragweave("tenant", "verify", str(tmp_path / exported)).stdout
        assert "whole" in said
        assert "3 originals" in said, said
    originals = {path.read_bytes() for path in (tmp_path / "all" / "originals").iterdir()}
    assert (
        f"# {content_of(word)} heading\n\n{content_of(word)} text of a file that was uploaded.\n".encode() in originals
    )


def test_deleting_a_tenant_is_one_command_and_so_is_changing_its_limits(mesh: Mesh) -> None:
    word = "qzcommandqz"
    settle_in(mesh, "commanded", word)
    said = mesh.ragweave("quota", "commanded", "--set", "documents=7", "--set", "storage_bytes=1000000").stdout
    assert "documents      3 of 7" in said
    assert "1,000,000" in said
    assert "quotas/commanded" in mesh.ragweave("tenant", "status", "commanded").stdout
    wrong = mesh.ragweave("quota", "--set", "pages=7", check=False)
    assert (wrong.returncode, "pages" in wrong.stderr) == (1, True)
    said = mesh.ragweave("tenant", "delete", "commanded", "--yes").stdout
    assert "tenants/commanded DELETED" in said
    check_nothing_left(mesh, word)
    assert "DELETED" in mesh.ragweave("tenant", "status", "commanded").stdout
    assert "ACTIVE" in mesh.ragweave("tenant", "restore", "commanded").stdout
