"""Bad input: always a 4xx in the one shape, with a message that names the field or the file; nothing else is lost."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from ragweave.v1 import job_pb2
from tests.e2e.stack import PREFIX, Mesh

C = "bad-input"


@pytest.fixture(scope="module", autouse=True)
def collection(mesh: Mesh) -> Iterator[None]:
    assert mesh.rest("POST", f"{PREFIX}/collections?collectionId={C}", {}).status == 200
    with mesh.client() as client:
        job = client.import_texts(C, [{"document_id": "good", "text": "Cats eat fish."}])
        assert client.wait(job.name).state == job_pb2.Job.SUCCEEDED
    yield
    assert mesh.rest("DELETE", f"{PREFIX}/collections/{C}?force=true").status == 200


SEARCH = f"{PREFIX}/search"
GOOD: dict[str, Any] = {"query": "cats", "collection": C}
REFUSED = {
    "unknown field": ("POST", SEARCH, {**GOOD, "filtr": "x"}, 400, "filtr"),
    "unknown nested field": ("POST", SEARCH, {**GOOD, "fusion": {"rrf": {"kk": 1}}}, 400, "fusion.rrf.kk"),
    "unknown field of a resource": (
        "POST",
        f"{PREFIX}/collections?collectionId=x",
        {"descripton": "x"},
        400,
        "descripton",
    ),
    "wrapped resource": ("POST", f"{PREFIX}/collections?collectionId=x", {"collection": {}}, 400, "collection"),
    "unknown query parameter": ("GET", f"{PREFIX}/collections?pageSiz=3", None, 400, "pageSiz"),
    "unknown path": ("GET", f"{PREFIX}/nothing/here", None, 404, "/nothing/here"),
    "unknown verb": ("POST", f"{PREFIX}/collections/{C}:serch", {"query": "x"}, 404, ":serch"),
    "wrong type": ("POST", SEARCH, {**GOOD, "topK": "many"}, 400, "topK"),
    "wrong type of a list": ("POST", SEARCH, {**GOOD, "collections": "a"}, 400, "collections"),
    "wrong enum": ("POST", SEARCH, {**GOOD, "mode": "HYBRD"}, 400, "mode"),
    "malformed JSON": ("POST", SEARCH, b'{"query": ', 400, "JSON"),
    "empty query": ("POST", SEARCH, {"query": "", "collection": C}, 400, "query"),
    "blank query": ("POST", SEARCH, {"query": "  ", "collection": C}, 400, "query"),
    "no collection": ("POST", SEARCH, {"query": "cats"}, 400, "collection"),
    "negative top_k": ("POST", SEARCH, {**GOOD, "topK": -1}, 400, "topK"),
    "huge top_k": ("POST", SEARCH, {**GOOD, "topK": 10000}, 400, "topK"),
    "bad page token of a search": ("POST", SEARCH, {**GOOD, "pageToken": "x"}, 400, "pageToken"),
    "bad page token of a list": ("GET", f"{PREFIX}/collections?pageToken=x", None, 400, "pageToken"),
    "negative page size": ("GET", f"{PREFIX}/collections?pageSize=-1", None, 400, "pageSize"),
    "unknown order": ("GET", f"{PREFIX}/collections?orderBy=colour", None, 400, "colour"),
    "bad filter": ("POST", SEARCH, {**GOOD, "filter": "metadata.n >"}, 400, "filter"),
    "unknown field of a filter": ("POST", SEARCH, {**GOOD, "filter": 'titel = "x"'}, 400, "titel"),
    "bad filter of a list": ("GET", f"{PREFIX}/collections?filter=colour%3D1", None, 400, "colour"),
    "missing collection": ("POST", SEARCH, {"query": "cats", "collection": "nowhere"}, 404, "nowhere"),
    "missing collection to read": ("GET", f"{PREFIX}/collections/nowhere", None, 404, "nowhere"),
    "missing document": ("GET", f"{PREFIX}/collections/{C}/documents/nothing", None, 404, "nothing"),
    "missing job": ("GET", f"{PREFIX}/jobs/nothing", None, 404, "nothing"),
    "text over the limit": ("POST", f"{PREFIX}/embeddings", {"texts": ["ok", "word " * 2000]}, 400, "texts[1]"),
    "query over the limit": ("POST", SEARCH, {"query": "word " * 1000, "collection": C}, 400, "query"),
    "empty file": ("POST", f"{PREFIX}/collections/{C}/documents:upload?filename=empty.txt", b"", 400, "empty"),
    "bad id": ("POST", f"{PREFIX}/collections?collectionId=a%20b", {}, 400, "collectionId"),
    "URL with a password": (
        "POST",
        f"{PREFIX}/collections/{C}/documents:import",
        {"urls": {"urls": ["http://ann:secret@example.com/"]}},
        400,
        "urls.urls[0]",
    ),
    "rows without a format": (
        "POST",
        f"{PREFIX}/collections/{C}/documents:import",
        {"rows": {"text": "{}"}},
        400,
        "rows.format",
    ),
    "rows mapped to a field they lack": (
        "POST",
        f"{PREFIX}/collections/{C}/documents:import",
        {"rows": {"format": "CSV", "text": "a,b", "fields": {"idField": "c"}}},
        400,
        "rows.fields.idField",
    ),
    "path with ..": (
        "POST",
        f"{PREFIX}/collections/{C}/documents:import",
        {"directory": {"path": "../keys"}},
        400,
        "../keys",
    ),
    "absolute path": (
        "POST",
        f"{PREFIX}/collections/{C}/documents:import",
        {"directory": {"path": "/etc"}},
        400,
        "/etc",
    ),
    "missing path": (
        "POST",
        f"{PREFIX}/collections/{C}/documents:import",
        {"directory": {"path": "nope"}},
        400,
        "nope",
    ),
    "no source": ("POST", f"{PREFIX}/collections/{C}/documents:import", {}, 400, "source"),
    "made up consistency token": ("POST", SEARCH, {**GOOD, "consistencyToken": "x"}, 400, "consistency_token"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_by_name(mesh: Mesh, case: str) -> None:
    verb, path, body, status, named = REFUSED[case]
    answer = mesh.rest(verb, path, body)
    assert answer.status == status, answer
    assert set(answer.body) == {"code", "message", "details"}, answer
    assert named.lower().replace("_", "") in answer.body["message"].lower().replace("_", ""), answer.body
    assert answer.body["code"] == {400: 3, 404: 5}[status]


def test_a_symbolic_link_out_of_the_root_is_not_followed(mesh: Mesh) -> None:
    root = mesh.layout.import_root
    (root / "links").mkdir(parents=True)
    (root / "links" / "inside.md").write_text("# Fine\n\nInside the root.\n")
    os.symlink(mesh.layout.keys, root / "links" / "keys")
    os.symlink(mesh.layout.keys / "dev.pem", root / "links" / "secret.txt")
    os.symlink("/etc", root / "etc")
    straight = mesh.rest("POST", f"{PREFIX}/collections/{C}/documents:import", {"directory": {"path": "etc"}})
    assert (straight.status, straight.body["code"]) == (400, 3), straight
    assert "etc" in straight.body["message"]
    queued = mesh.rest("POST", f"{PREFIX}/collections/{C}/documents:import", {"directory": {"path": "links"}})
    assert queued.status == 200, queued
    with mesh.client() as client:
        client.wait(queued.body["name"])
        hits = client.search("BEGIN PRIVATE KEY", C, top_k=50).hits
    assert not [hit for hit in hits if "PRIVATE KEY" in hit.text]
    assert [hit for hit in hits if "Inside the root" in hit.text]


def test_bad_files_fail_alone_and_are_named_with_the_reason(mesh: Mesh) -> None:
    root = mesh.layout.import_root / "mixed"
    root.mkdir(parents=True)
    for n in range(5):
        (root / f"fine-{n}.txt").write_text(f"Fine text number {n}, about otters.")
    (root / "empty.txt").write_bytes(b"")
    (root / "corrupt.pdf").write_bytes(b"%PDF-1.7\n" + os.urandom(4000))
    (root / "noise.docx").write_bytes(os.urandom(4000))
    queued = mesh.rest("POST", f"{PREFIX}/collections/{C}/documents:import", {"directory": {"path": "mixed"}})
    assert queued.status == 200, queued
    with mesh.client() as client:
        ended = client.wait(queued.body["name"])
    assert ended.state == job_pb2.Job.PARTIALLY_SUCCEEDED
    assert (ended.progress.succeeded, ended.progress.failed) == (5, 3)
    items = mesh.rest("GET", f"{PREFIX}/{queued.body['name']}/items?filter=state%3D%22FAILED%22").body["jobItems"]
    reasons = {item["sourceUri"].rpartition("/")[2]: item["error"] for item in items}
    assert set(reasons) == {"empty.txt", "corrupt.pdf", "noise.docx"}
    for name, error in reasons.items():
        assert error["code"] == 3, error
        assert name in error["message"]
        assert error["details"][0]["reason"] in ("EMPTY_DOCUMENT", "UNREADABLE_DOCUMENT", "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    ("token", "status", "code"), [(None, 401, 16), ("garbage", 401, 16), ("reader", 403, 7)], ids=str
)
def test_who_may_not_is_told_so(mesh: Mesh, token: str | None, status: int, code: int) -> None:
    bearer = mesh.token("reader") if token == "reader" else token
    answer = mesh.rest("POST", f"{PREFIX}/collections?collectionId=never", {}, token=bearer)
    assert (answer.status, answer.body["code"]) == (status, code), answer
    assert answer.body["message"]


def test_another_tenant_sees_nothing(mesh: Mesh) -> None:
    stranger = mesh.token(tenant="other")
    assert mesh.rest("GET", f"{PREFIX}/collections/{C}", token=stranger).status == 404
    assert mesh.rest("POST", SEARCH, GOOD, token=stranger).status == 404
    assert mesh.rest("GET", f"{PREFIX}/collections", token=stranger).body["totalSize"] == 0
    assert mesh.rest("GET", f"{PREFIX}/jobs", token=stranger).body["totalSize"] == 0


def test_bad_input_ejects_no_backend(mesh: Mesh) -> None:
    for _ in range(40):
        assert mesh.rest("POST", SEARCH, {"query": "", "collection": C}).status == 400
    assert mesh.rest("POST", SEARCH, GOOD).status == 200
