"""Hostile files among good ones, through the whole mesh: the good are found, the bad named, and no process restarts.

`HOSTILE_AMONG=1000` puts all of them among so many good ones.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragweave import Client
from ragweave.v1 import job_pb2
from ragweave.v1.job_service_pb2 import ImportDocumentsRequest, ListJobItemsRequest
from tests import sample_files as samples
from tests.e2e.stack import Mesh
from tests.hostile_files import Hostile, hostile_files

ALL = "HOSTILE_AMONG" in os.environ
GOOD = int(os.environ.get("HOSTILE_AMONG", "12"))
# The last is what an import of a folder passes over, since nobody named the file.
STATES = {
    True: job_pb2.JobItem.FAILED,
    False: job_pb2.JobItem.SUCCEEDED,
    "UNSUPPORTED_MEDIA_TYPE": job_pb2.JobItem.SKIPPED,
}


@pytest.fixture(scope="module")
def hostile() -> list[Hostile]:
    """Those that end by themselves and make no thousands of chunks; where time is short, small ones only."""
    ending = [each for each in hostile_files(slow=False) if each.name != "mail-in-mail.eml"]
    return ending if ALL else [each for each in ending if len(each.make()) < 200_000]


@pytest.fixture
def folder(mesh: Mesh) -> Path:
    made = Path(mesh.settings["RAGWEAVE_DATA_DIR"], "import", "hostile")
    made.mkdir(parents=True)
    return made


def test_hostile_files_among_good_ones_cost_nobody_else_anything_and_mended_ones_are_imported_by_a_retry(
    mesh: Mesh, folder: Path, hostile: list[Hostile]
) -> None:
    for at in range(GOOD):
        (folder / f"good-{at:04}.docx").write_bytes(samples.docx([(1, f"Good {at}"), (0, f"The owl {at} hunts.")]))
    for each in hostile:
        (folder / each.name).write_bytes(each.make())
    before = {name: mesh.pid(name) for name in ("worker", "jobs")}
    with mesh.client() as client:
        client.create_collection("hostile")
        source = ImportDocumentsRequest.DirectorySource(path="hostile")
        job = client.jobs.ImportDocuments(ImportDocumentsRequest(parent="hostile", directory=source)).name
        ended = client.wait(job)
        items = {item.source_uri.rpartition("/")[2]: item for item in items_of(client, job)}

        refused = [each for each in hostile if each.reason]
        for each in refused:
            item = items[each.name]
            assert (item.state, item.attempts) == (STATES.get(each.reason, STATES[True]), 1), item
            assert item.error.details, item
            assert each.name in item.error.message
            assert each.told in item.error.message
        assert {name for name, item in items.items() if item.state == STATES[False]} == (
            set(items) - {each.name for each in refused}
        )
        assert ended.state == job_pb2.Job.PARTIALLY_SUCCEEDED
        assert ended.progress.succeeded == len(items) - len(refused)
        found = client.search(f"the owl {GOOD - 1} hunts", "hostile").hits
        assert found[0].document.endswith(f"good-{GOOD - 1:04}.docx") or "owl" in found[0].text
        assert {name: mesh.pid(name) for name in before} == before

        for each in refused:
            (folder / each.name).write_bytes(_mended(each.name))
        client.retry(job)
        assert client.wait(job).state == job_pb2.Job.SUCCEEDED


def items_of(client: Client, job: str) -> Iterator[job_pb2.JobItem]:
    request = ListJobItemsRequest(parent=job, page_size=100)
    while True:
        page = client.jobs.ListJobItems(request)
        yield from page.job_items
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _mended(name: str) -> bytes:
    """A good file of that name."""
    kind = name.rpartition(".")[2]
    made = {
        "docx": lambda: samples.docx([(0, f"mended {name}")]),
        "pptx": lambda: samples.pptx([("Mended", name)]),
        "xlsx": lambda: samples.xlsx({"S": [["Name"], [f"mended {name}"]]}),
        "epub": lambda: samples.epub("Mended", [("One", f"mended {name}")]),
        "pdf": lambda: samples.pdf([f"mended {name}"]),
        "json": lambda: b'{"mended": "' + name.encode() + b'"}',
    }
    return made.get(kind, lambda: f"mended {name}".encode())()
