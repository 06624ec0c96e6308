"""`ragweave demo`: the Python language reference, imported and searched."""

import pydoc_data.topics
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from ragweave.cli.calls import ensure_collection, follow, show
from ragweave.cli.console import command, connect, fail, layout, out
from ragweave.local.layout import Layout
from ragweave.v1 import job_pb2

COLLECTION = "python-reference"
QUESTIONS = (
    "how do I catch several exception types",
    "what does a context manager's exit method receive",
    "difference between is and ==",
    "format a float with two decimals",
    "how are default arguments evaluated",
)
# A heading of the topics: a line of text over a line of one punctuation character.
_HEADING = re.compile(r"^(\S.*)\n([*=\-~^\"])\2{2,}$", re.MULTILINE)


@command()
def demo() -> None:
    """Import the Python language reference and search it through the edge."""
    here = layout()
    with connect() as client:
        ensure_collection(
            client,
            COLLECTION,
            description="The language reference topics of pydoc, as they ship with Python",
            labels={"corpus": "pydoc"},
        )
        job = follow(client, client.import_texts(COLLECTION, documents()).name)
        if job.state != job_pb2.Job.SUCCEEDED:
            fail(f"{job.name}: {job.error.message or 'not every document was imported'}")
        for question in QUESTIONS:
            out.print(f"\n[bold green]? {question}[/bold green]")
            show(client.search(question, COLLECTION, top_k=3))
    _tell_how(here)


def documents() -> list[dict[str, Any]]:
    """The topics as inline documents: the topic's name and its sections are metadata."""
    made = []
    for topic, text in sorted(pydoc_data.topics.topics.items()):
        sections = [heading for heading, _ in _HEADING.findall(text)]
        made.append(
            {
                "document_id": topic,
                "text": text,
                "document": {
                    "title": f"{topic}: {sections[0]}" if sections else topic,
                    "source_uri": f"pydoc:{topic}",
                    "mime_type": "text/x-rst",
                    "metadata": {"topic": topic, "sections": sections},
                },
            }
        )
    return made


def _tell_how(here: Layout) -> None:
    ragweave, grpcurl, _ = _tools(here)
    out.rule("the same by hand")
    print(f"\n{by_hand(here)}")
    out.rule("next")
    print(f"""
{ragweave} import PATH --collection NAME      your own files
{ragweave} search "..." --collection NAME     search them
{grpcurl} {here.address("edge")} list    every service; `describe` shows its messages
make status | make logs | make down           the mesh goes on running until you stop it
""")


def by_hand(here: Layout) -> str:
    """Shell lines that ask the first question again, over REST and over gRPC."""
    ragweave, grpcurl, curl = _tools(here)
    body = shlex.quote(f'{{"query": "{QUESTIONS[0]}", "collection": "{COLLECTION}", "topK": 3}}')
    return f"""T=$({ragweave} token --role reader)
{curl} {here.url}/api/v1/rag/search -H "authorization: Bearer $T" -H 'content-type: application/json' \\
  -d {body}
{grpcurl} -H "authorization: Bearer $T" -d {body} \\
  {here.address("edge")} ragweave.v1.RetrievalService/Search
"""


def _tools(here: Layout) -> tuple[str, str, str]:
    """How ragweave, grpcurl and curl are called here, with the CA they must trust."""
    folder = _short(Path(sys.executable).parent)
    ragweave, grpcurl = (shlex.quote(str(folder / name)) for name in ("ragweave", "grpcurl"))
    curl = "curl -s"
    if not here.https:
        grpcurl += " -plaintext"
    elif here.edge_authority:
        authority = shlex.quote(str(_short(here.edge_authority)))
        grpcurl, curl = f"{grpcurl} -cacert {authority}", f"{curl} --cacert {authority}"
    return ragweave, grpcurl, curl


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
