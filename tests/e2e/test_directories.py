"""Folders on the server through every door: whose they are, what they hold, and that no path leads out of them."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlencode

import grpc
import pytest

from ragweave import RagweaveError
from ragweave.v1 import directory_service_pb2 as pb
from ragweave.v1 import job_pb2
from ragweave.v1.job_service_pb2 import ImportDocumentsRequest
from tests.e2e.stack import PREFIX, UNASKED, Answer, Mesh
from tests.hostile_paths import CANARY, Trap, laid

C = "folders"
PATHS = 100


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Trap:
    return laid(tmp_path_factory.mktemp("trap"))


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory, trap: Trap) -> Iterator[Mesh]:
    """A mesh in which `default` has two roots, `globex` the folder that `default` must not see."""
    given = f"default={trap.root},default=team:{trap.team},globex={trap.outside}"
    settings = {"RAGWEAVE_ROOTS": given, "RAGWEAVE_JOBS_AUTO_SYNC_REST_S": "0.1"}
    made = Mesh(tmp_path_factory.mktemp("roots"), **UNASKED, **settings)
    made.start()
    try:
        assert made.rest("POST", f"{PREFIX}/collections?collectionId={C}", {}).status == 200
        yield made
    finally:
        made.stop()


def listed(mesh: Mesh, path: str, **options: str) -> Answer:
    return mesh.rest("GET", f"{PREFIX}/directories:list?{urlencode({'path': path, **options})}")


def validated(mesh: Mesh, path: str) -> Answer:
    return mesh.rest("POST", f"{PREFIX}/directories:validate", {"path": path})


def estimated(mesh: Mesh, path: str) -> Answer:
    return mesh.rest(
        "POST", f"{PREFIX}/collections/{C}/documents:import", {"directory": {"path": path}, "validateOnly": True}
    )


def importing(path: str, **fields: bool) -> ImportDocumentsRequest:
    return ImportDocumentsRequest(parent=C, directory=ImportDocumentsRequest.DirectorySource(path=path), **fields)


def test_each_tenant_sees_its_own_roots(roots: Mesh) -> None:
    def paths(tenant: str) -> list[str]:
        answer = roots.rest("GET", f"{PREFIX}/directories", token=roots.token(tenant=tenant))
        return [root["path"] for root in answer.body["roots"] if root["available"]]

    assert (paths("default"), paths("globex"), paths("nobody")) == ([".", "team:"], ["."], [])


def test_who_may_not_write_documents_may_not_look_either(roots: Mesh) -> None:
    for token, status in ((None, 401), (roots.token("reader"), 403)):
        for verb, path, body in (
            ("GET", "/directories", None),
            ("GET", "/directories:list?path=.", None),
            ("POST", "/directories:validate", {"path": "."}),
        ):
            assert roots.rest(verb, PREFIX + path, body, token=token).status == status, path


def test_a_collection_follows_its_directory_by_itself(roots: Mesh, trap: Trap) -> None:
    folder = trap.team / "followed"
    folder.mkdir()
    (folder / "bears.md").write_text("Bears sleep in winter.")
    (folder / "cranes.md").write_text("Cranes fly south.")
    bound = {"source": {"directory": "team:followed", "autoSync": True}}
    for wrong in ("nope", "../etc"):
        asked = {"source": {"directory": wrong, "autoSync": True}}
        refused = roots.rest("POST", f"{PREFIX}/collections?collectionId=followed", asked)
        assert (refused.status, "source.directory" in refused.body["message"]) == (400, True), refused
    assert roots.rest("POST", f"{PREFIX}/collections?collectionId=followed", bound).status == 200

    def follows(*titles: str) -> None:
        """Waits until the documents are these."""
        with roots.client() as client:
            for event in client.watch_events(topics=["ingestion.completed"], collection="followed"):
                assert event.job.type == job_pb2.Job.Type.SYNC
                listed = roots.rest("GET", f"{PREFIX}/collections/followed/documents").body.get("documents", [])
                if sorted(document["title"] for document in listed) == sorted(titles):
                    return

    follows("bears.md", "cranes.md")
    (folder / "dogs.md").write_text("Dogs run.")
    follows("bears.md", "cranes.md", "dogs.md")
    (folder / "bears.md").unlink()
    follows("cranes.md", "dogs.md")


def test_what_validation_counts_is_what_an_import_takes(roots: Mesh, trap: Trap) -> None:
    """Every kind of file and name there is; the job agrees with the answer to the last one."""
    folder = trap.team / "mixed"
    (folder / "sub").mkdir(parents=True)
    for name, content in {
        b"a.md": b"# Bears\n\nBears sleep in winter.",
        b"LICENSE": b"Permission is granted to read this.",
        b"sub/latin-\xfc.txt": b"A name that is not UTF-8.",
        b"two\nlines.txt": b"A name with a line feed.",
        b"back\\slash.txt": b"A name with a backslash.",
        b"100%.txt": b"A name with a percent sign.",
        b"photo.png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"noise": bytes(range(256)),
        b".hidden.md": b"Hidden.",
    }.items():
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(content)
    (folder / "link.md").symlink_to(trap.outside / f"{CANARY}.txt")
    answer = validated(roots, "team:mixed")
    assert (answer.status, answer.body["valid"], answer.body["importableFiles"]) == (200, True, 6)
    shown = {entry["path"]: entry["importable"] for entry in listed(roots, "team:mixed").body["entries"]}
    assert shown == {
        "team:mixed/100%.txt": True,
        "team:mixed/LICENSE": True,
        "team:mixed/a.md": True,
        r"team:mixed/back\\slash.txt": True,
        "team:mixed/link.md": False,
        "team:mixed/noise": False,
        "team:mixed/photo.png": False,
        "team:mixed/sub": True,
        r"team:mixed/two\x0alines.txt": True,
    }
    with roots.client() as client:
        ended = client.wait(client.jobs.ImportDocuments(importing("team:mixed")).name)
        assert (ended.progress.succeeded, ended.progress.skipped, ended.progress.failed) == (6, 2, 1)
        found = client.search("a name that is not UTF-8", C, top_k=50).hits
        assert r"team:mixed/sub/latin-\xfc.txt" in {hit.source_uri for hit in found}
        assert not [hit for hit in found if CANARY in hit.text]
        # And each can be named alone, as it is shown.
        for path in (r"team:mixed/sub/latin-\xfc.txt", r"team:mixed/two\x0alines.txt", r"team:mixed/back\\slash.txt"):
            ended = client.wait(client.jobs.ImportDocuments(importing(path)).name)
            assert (ended.state, ended.progress.total) == (job_pb2.Job.SUCCEEDED, 1), path


def test_the_same_path_in_two_roots_is_two_documents(roots: Mesh, trap: Trap) -> None:
    for root in (trap.root, trap.team):
        (root / "twin.md").write_text(f"Twins: {root.name}.")
    with roots.client() as client:
        for path in ("twin.md", "team:twin.md"):
            assert client.wait(client.jobs.ImportDocuments(importing(path)).name).state == job_pb2.Job.SUCCEEDED
        found = {hit.source_uri: hit.document for hit in client.search("twins", C, top_k=10).hits}
    assert {"twin.md", "team:twin.md"} <= set(found)
    assert found["twin.md"] == f"collections/{C}/documents/twin.md"
    assert found["team:twin.md"] != found["twin.md"]


def test_no_hostile_path_leads_out_over_rest(roots: Mesh, trap: Trap) -> None:
    answers = 0
    for path in trap.hostile(seed=21, count=PATHS):
        for answer in (
            listed(roots, path) if len(path) < 4000 else validated(roots, path),
            validated(roots, path),
            estimated(roots, path),
            # As an address has it, escaped by nobody but for what an address cannot hold.
            roots.rest("GET", f"{PREFIX}/directories:list?path={quote(path[:4000], safe='/%:.;~')}"),
        ):
            assert answer.status in (200, 400, 404), (path, answer)
            told = str(answer.body)
            assert CANARY in unquote(path) or CANARY not in told, (path, answer)
            assert "root:x:0" not in told, (path, answer)
            answers += answer.status == 200
    assert answers > 20, "paths that lead nowhere prove little"


def test_no_hostile_path_leads_out_over_grpc(roots: Mesh, trap: Trap) -> None:
    answers = 0
    with roots.client() as client:
        calls = (
            lambda path: client.directories.ListDirectoryEntries(pb.ListDirectoryEntriesRequest(path=path)),
            lambda path: client.directories.ValidatePath(pb.ValidatePathRequest(path=path)),
            lambda path: client.jobs.ImportDocuments(importing(path, validate_only=True)),
        )
        for path in trap.hostile(seed=22, count=PATHS):
            for call in calls:
                try:
                    told = str(call(path))
                    answers += 1
                except (grpc.RpcError, RagweaveError) as error:
                    refused = RagweaveError.of(error) if isinstance(error, grpc.RpcError) else error
                    assert refused.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND), (path, error)
                    told = str(refused)
                assert CANARY in path or CANARY not in told, path
    assert answers > 20, "paths that lead nowhere prove little"


def test_an_answer_does_not_tell_what_exists_outside(roots: Mesh, trap: Trap) -> None:
    def told(answer: Answer, name: str) -> str:
        return f"{answer.status} {answer.body}".replace(name, "*")

    there, gone = f"{CANARY}.txt", "nothing.txt"
    (trap.root / "dangling").symlink_to(trap.outside / "nowhere")
    for way in ("../outside/{}", "out/{}", f"{trap.outside}/{{}}", "absolute/{}", "up/outside/{}", "/etc/{}"):
        for ask in (listed, validated, estimated):
            assert told(ask(roots, way.format(there)), there) == told(ask(roots, way.format(gone)), gone), way
    for ask in (listed, validated, estimated):
        # Another tenant's root, and a folder that is nobody's.
        assert told(ask(roots, str(trap.outside)), "outside") == told(ask(roots, f"{trap.outside}2"), "outside2")
        leads, dangles = ask(roots, "out.txt"), ask(roots, "dangling")
        assert leads.status == dangles.status
    for name in ("out.txt", "dangling", "absolute"):
        assert validated(roots, name).body["problem"] == "it is a symbolic link, and none is followed"


def test_names_of_uploads_are_data_and_never_paths(roots: Mesh, trap: Trap) -> None:
    before = set(_files(roots.layout.data.parent))
    for number, name in enumerate(trap.hostile(seed=23, count=30)):
        name = name[:250] or "x"
        content = f"Upload {number}.".encode()
        answer = roots.rest(
            "POST",
            f"{PREFIX}/collections/{C}/documents:upload?{urlencode({'filename': name})}",
            content,
            content_type="text/plain",
        )
        assert answer.status in (200, 400, 409), (name, answer)
        if answer.status == 200:
            assert re.fullmatch(
                rf"collections/{C}/documents/[A-Za-z0-9_][\w.-]{{0,127}}", answer.body["document"]["name"]
            )
        named = roots.rest(
            "POST",
            f"{PREFIX}/collections/{C}/documents:upload?{urlencode({'documentId': name})}",
            content,
            content_type="text/plain",
        )
        plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", name, re.ASCII)
        assert named.status in ((200, 409) if plain else (400,)), (name, named)
    blobs = re.compile(r"blobs/default/[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{64}(\.~?[\w-]+)?")
    made = {path for path in _files(roots.layout.data.parent) - before if "/blobs/" in f"/{path}"}
    assert made
    for path in made:
        assert blobs.search(path) or ".incoming/" in path, path
    assert not [path for path in _files(roots.layout.data) if CANARY in path]


def test_the_command_line_lists_roots_and_folders(roots: Mesh) -> None:
    assert re.search(r"^team: +available$", roots.ragweave("dirs").stdout, re.MULTILINE)
    shown = roots.ragweave("dirs", ".").stdout
    assert "directory  a\n" in shown
    assert "symlink  out  it is a symbolic link" in shown
    refused = roots.ragweave("dirs", "../outside", check=False)
    assert refused.returncode == 1
    assert "'..' is not allowed in a path" in refused.stderr


def _files(folder: Path) -> set[str]:
    return {str(Path(top) / name) for top, _, names in os.walk(folder) for name in names}
