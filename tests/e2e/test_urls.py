"""Pages from the web, as a mesh imports them: a server on this machine only where the operator lists it."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from ragweave.v1 import job_pb2
from ragweave.v1.job_service_pb2 import ImportDocumentsRequest, ListJobItemsRequest
from tests.e2e.stack import PREFIX, Mesh

C = "pages"


class _Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path == "/bears"
        self.send_response(200 if found else 404)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(b"<h1>Bears</h1><p>Bears sleep through the winter.</p>" if found else b"none")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module", autouse=True)
def pages(intranet: str) -> Iterator[None]:
    host, _, port = intranet.partition(":")
    with http.server.ThreadingHTTPServer((host, int(port)), _Pages) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield
        finally:
            server.shutdown()


def imported(mesh: Mesh, *urls: str) -> tuple[job_pb2.Job, dict[str, str]]:
    """The job once it has ended, and the reasons of its items by their last path segment."""
    mesh.rest("POST", f"{PREFIX}/collections?collectionId={C}", {})
    with mesh.client() as client:
        source = ImportDocumentsRequest.UrlSource(urls=urls)
        job = client.wait(client.jobs.ImportDocuments(ImportDocumentsRequest(parent=C, urls=source)).name)
        items = client.jobs.ListJobItems(ListJobItemsRequest(parent=job.name)).job_items
        return job, {
            item.source_uri.rpartition("/")[2]: item.error.message if item.error.code else "" for item in items
        }


def test_a_page_of_this_machine_is_refused_unless_the_operator_lists_it(mesh: Mesh, intranet: str) -> None:
    port = intranet.partition(":")[2]
    job, told = imported(
        mesh, f"http://127.0.0.1:{port}/bears", "http://127.0.0.1/bears2", f"http://169.254.169.254:{port}/meta"
    )
    assert job.state == job_pb2.Job.FAILED
    assert told == {
        "bears": "127.0.0.1 is not a public address",
        "bears2": "http://127.0.0.1/bears2: port 80 is not allowed",
        "meta": "169.254.169.254 is not a public address",
    }


def test_a_listed_server_is_imported_from_and_its_page_is_found(mesh: Mesh, intranet: str) -> None:
    port, url = intranet.partition(":")[2], f"http://{intranet}"
    job, told = imported(mesh, f"{url}/bears", f"{url}/gone", f"http://10.0.0.1:{port}/inner")
    assert job.state == job_pb2.Job.PARTIALLY_SUCCEEDED
    assert told == {"bears": "", "gone": f"{url}/gone answered 404", "inner": "10.0.0.1 is not a public address"}
    with mesh.client() as client:
        (hit,) = client.search("what do bears do in winter", C, top_k=1).hits
    assert (hit.source_uri, hit.title) == (f"{url}/bears", "Bears")
