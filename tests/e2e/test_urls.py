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


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


@pytest.fixture(scope="module")
def intranet(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Mesh]:
    """A mesh whose operator lists this machine's own server."""
    settings = {"RAGWEAVE_JOBS_WEB_ALLOW": "127.0.0.0/8", "RAGWEAVE_JOBS_WEB_PORTS": str(port)}
    made = Mesh(tmp_path_factory.mktemp("intranet"), **settings)
    made.start()
    try:
        yield made
    finally:
        made.stop()


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


def test_a_page_of_this_machine_is_refused_unless_the_operator_lists_it(mesh: Mesh, port: int) -> None:
    job, told = imported(
        mesh, f"http://127.0.0.1:{port}/bears", "http://127.0.0.1/bears2", "http://169.254.169.254/meta"
    )
    assert job.state == job_pb2.Job.FAILED
    assert told == {
        "bears": f"http://127.0.0.1:{port}/bears: port {port} is not allowed",
        "bears2": "127.0.0.1 is not a public address",
        "meta": "169.254.169.254 is not a public address",
    }


def test_a_listed_server_is_imported_from_and_its_page_is_found(intranet: Mesh, port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    job, told = imported(intranet, f"{url}/bears", f"{url}/gone", f"http://10.0.0.1:{port}/inner")
    assert job.state == job_pb2.Job.PARTIALLY_SUCCEEDED
    assert told == {"bears": "", "gone": f"{url}/gone answered 404", "inner": "10.0.0.1 is not a public address"}
    with intranet.client() as client:
        (hit,) = client.search("what do bears do in winter", C, top_k=1).hits
    assert (hit.source_uri, hit.title) == (f"{url}/bears", "Bears")
