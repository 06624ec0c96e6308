"""What a newcomer sees first: the demo, the status, an edge that answers the same over REST and gRPC."""

import re
from pathlib import Path
from textwrap import dedent

import pytest

from ragweave.cli.demo import COLLECTION, QUESTIONS
from tests.e2e.stack import BIN, PREFIX, ROOT, Mesh

# Topics of the language reference in which the answer stands.
RIGHT = {
    "how do I catch several exception types": {"try", "exceptions", "compound"},
    "what does a context manager's exit method receive": {"context-managers", "with", "specialnames", "compound"},
    "difference between is and ==": {"comparisons", "is", "objects", "in"},
    "format a float with two decimals": {"formatstrings", "string-methods"},
    "how are default arguments evaluated": {"function", "compound"},
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_first_hit_answers_the_question(mesh: Mesh, question: str) -> None:
    with mesh.client() as client:
        found = client.search(question, COLLECTION, top_k=3)
    topics = [hit.metadata["topic"] for hit in found.hits]
    assert topics[0] in RIGHT[question], topics
    assert not found.degraded_stages


def test_the_demo_prints_hits_sources_and_how_to_repeat_them(mesh: Mesh) -> None:
    printed = mesh.demo.stdout  # type: ignore[attr-defined]
    assert "SUCCEEDED: 7" in printed, printed
    assert re.search(r"1\. 0\.\d{4}  try: The \"try\" statement", printed), printed
    assert "pydoc:try" in printed
    assert f"{mesh.layout.url}/api" in printed
    assert "ragweave.v1.RetrievalService/Search" in printed


def test_the_lines_the_demo_prints_work(mesh: Mesh) -> None:
    printed = re.search(r"^T=.*?^(?=─)", mesh.demo.stdout, re.MULTILINE | re.DOTALL)  # type: ignore[attr-defined]
    assert printed
    done = mesh.shell(printed[0])
    assert done.returncode == 0, done
    assert done.stdout.count('"hits"') == 2, done.stdout


def test_the_worked_example_of_measuring_works(mesh: Mesh, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "search.md").read_text()
    found = re.search(r"^    cat > questions\.jsonl.*?(?=^\S)", page, re.MULTILINE | re.DOTALL)
    assert found
    done = mesh.shell(f"PATH={BIN}:$PATH\ncd {tmp_path}\n{dedent(found[0])}")
    assert done.returncode == 0, done
    assert re.search(r"answered +│ +5 │ +5 │", done.stdout), done.stdout
    assert re.search(r"lacking +│ +0 │ +0 │", done.stdout), done.stdout
    recalled = re.search(r"recall@100 +│ +(\S+) │ +(\S+) │", done.stdout)
    assert recalled and min(map(float, recalled.groups())) > 0.5, done.stdout
    assert done.stdout.index("query by query") < done.stdout.index("what does a context manager"), done.stdout
    assert mesh.rest("DELETE", f"{PREFIX}/sampleQuerySets/questions").status == 200


def test_status_lists_every_process_as_serving(mesh: Mesh) -> None:
    shown = mesh.ragweave("status").stdout
    for name in ("redis", "embedding", "retrieval", "collections", "jobs", "worker", "system", "envoy"):
        assert re.search(rf"^{name} +serving", shown, re.MULTILINE), shown


def test_every_hit_is_cited_exactly(mesh: Mesh) -> None:
    from ragweave.cli.demo import documents

    texts = {each["document_id"]: each["text"] for each in documents()}
    with mesh.client() as client:
        found = client.search("how are default arguments evaluated", COLLECTION, top_k=10)
    for hit in found.hits:
        source = texts[hit.document.rpartition("/")[2]]
        assert source[hit.start_offset : hit.end_offset] == hit.text


def test_importing_the_same_corpus_again_changes_nothing(mesh: Mesh) -> None:
    before = mesh.rest("GET", f"{PREFIX}/collections/{COLLECTION}/stats").body
    again = mesh.ragweave("demo").stdout
    assert re.search(r"SUCCEEDED: 0 imported, 7\d unchanged, 0 failed, 0 chunks", again), again
    assert mesh.rest("GET", f"{PREFIX}/collections/{COLLECTION}/stats").body == before
