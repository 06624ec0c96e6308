"""A backup of a mesh that works, restored beside it, holds what callers see of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ragweave.backups.manifest import Manifest
from ragweave.backups.shelf import Shelf
from services.mesh.filters import AllOf
from services.retrieval.adapters.edge import EdgeVectorStore
from services.retrieval.chunks import IndexId, VectorQuery
from tests.e2e.backups import QUIET, written
from tests.e2e.durability import chunks_of, collection_for, documents_of
from tests.e2e.stack import Mesh

_TOP = 10


@pytest.fixture(scope="module")
def backup(mesh: Mesh) -> Manifest:
    """Made while the mesh is written to."""
    with mesh.client(tenant="backup") as client:
        collection_for(client, "busy")
        with written(client, "busy") as rounds:
            mesh.ragweave("backup")
        assert rounds[0]
    return Shelf(mesh.layout.backups).manifest("latest")


@pytest.fixture(scope="module")
def restored(mesh: Mesh, backup: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("restored") / "data"
    mesh.ragweave("restore", backup.name, "--into", str(into))
    return into


def uid_of(backup: Manifest, collection: str) -> IndexId:
    return next(IndexId(c.uid) for c in backup.collections if (c.tenant, c.collection) == ("default", collection))


def last(name: str) -> str:
    """The last part of a resource's name."""
    return name.rpartition("/")[2]


@asynccontextmanager
async def index_in(restored: Path) -> AsyncIterator[EdgeVectorStore]:
    async with EdgeVectorStore.open(restored / "index") as store:
        yield store


async def test_a_restored_index_has_the_same_chunks_and_the_same_first_hits(
    mesh: Mesh, backup: Manifest, restored: Path
) -> None:
    index = uid_of(backup, QUIET)
    with mesh.client() as client:
        async with index_in(restored) as store:
            for document in documents_of(client, f"collections/{QUIET}"):
                live = [(last(c.name), c.ordinal, c.text) for c in chunks_of(client, document.name)]
                chunks = await store.list_chunks(index, last(document.name), 0, 10_000)
                assert [(c.chunk_id, c.ordinal, c.text) for c in chunks] == live
                assert {c.document.content_hash for c in chunks} == {document.content_hash}
            for vector in await store.vectors(index, AllOf(()), 10):
                found = await store.search(index, VectorQuery(vector, None, limit=_TOP))
                floats = memoryview(vector).cast("f").tolist()
                hits = client.search("", QUIET, vector=floats, mode="DENSE", top_k=_TOP).hits
                assert [last(hit.chunk) for hit in hits] == [hit.chunk.chunk_id for hit in found.hits]


def test_a_backup_counts_what_callers_count(mesh: Mesh, backup: Manifest) -> None:
    with mesh.client() as client:
        documents = list(documents_of(client, f"collections/{QUIET}"))
    (held,) = [c for c in backup.collections if (c.tenant, c.collection) == ("default", QUIET)]
    assert (held.documents, held.chunks) == (len(documents), sum(each.chunk_count for each in documents))
    assert held.index_revision > 0
    assert backup.left_out == {}


def test_a_second_backup_copies_little_and_is_listed_verified_and_not_restored_over_a_mesh_that_runs(
    mesh: Mesh, backup: Manifest
) -> None:
    mesh.ragweave("backup")
    second = Shelf(mesh.layout.backups).manifest("latest")
    originals = {path for path in backup.files if path.startswith("blobs/default/")}
    folder = Shelf(mesh.layout.backups).folder
    assert originals and all((folder / second.name / path).samefile(folder / backup.name / path) for path in originals)
    listed = mesh.ragweave("backup", "list").stdout
    assert backup.name in listed and second.name in listed
    assert "as they were written" in mesh.ragweave("backup", "verify", backup.name).stdout
    refused = mesh.ragweave("restore", backup.name, check=False)
    assert refused.returncode == 1 and "ragweave down" in refused.stderr
