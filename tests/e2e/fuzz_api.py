"""Holds a mesh to docs/openapi.json with schemathesis: `python -m tests.e2e.fuzz_api`; the suite has a bounded run."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ragweave.names import last_id
from tests.e2e.stack import BIN, PREFIX, ROOT, Mesh

CALLER = {"tenant": "fuzz", "subject": "fuzzer"}
CONFIG = Path(__file__).with_suffix(".toml")
DOCUMENT = ROOT / "docs" / "openapi.json"


def fuzz(mesh: Mesh, *options: str, timeout_s: float, one_in: int = 1) -> subprocess.CompletedProcess[str]:
    """One run of schemathesis against the edge of `mesh`, as an admin of a tenant of its own.

    Of the cases that try every bound of every schema, one in `one_in` is sent, the same ones in every run.
    """
    line = [BIN / "st", "--config-file", CONFIG, "run", DOCUMENT, "--url", mesh.layout.url]
    trust = ["--tls-verify", str(mesh.layout.edge_authority)] if mesh.layout.https else []
    return subprocess.run(
        [*line, *trust, *options],
        env={
            **os.environ,
            "FUZZ_TOKEN": mesh.token(**CALLER, lifetime_s=24 * 3600),
            "FUZZ_SELF": ",".join(CALLER.values()),
            "FUZZ_ONE_IN": str(one_in),
            "FUZZ_EXISTING": json.dumps(furnished(mesh)),
            "PYTHONPATH": str(ROOT),
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def furnished(mesh: Mesh) -> dict[str, str]:
    """Ids of a collection, a document in it, the job that made it, and its model, by path parameter."""
    with mesh.client(**CALLER) as client:
        collection = client.create_collection("")
        job = client.import_texts(collection.name, [{"document_id": "note", "text": "Cats eat fish. Dogs eat cats."}])
        client.wait(job.name)
    hook = mesh.rest("POST", f"{PREFIX}/webhooks", {"uri": "https://receiver.invalid/"}, token=mesh.token(**CALLER))
    return {
        "collection": last_id(collection.name),
        "document": "note",
        "job": last_id(job.name),
        "model": last_id(collection.embedding_model),
        "quota": CALLER["tenant"],
        "tenant": CALLER["tenant"],
        "webhook": last_id(hook.body["name"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.fuzz_api", description=__doc__)
    parser.add_argument("--examples", type=int, default=300, help="cases for each operation and phase")
    parser.add_argument("--seed", type=int, help="repeats a run")
    chosen = parser.parse_args()
    seed = [] if chosen.seed is None else ["--seed", str(chosen.seed)]
    with tempfile.TemporaryDirectory() as folder:
        mesh = Mesh(Path(folder))
        mesh.start()
        try:
            done = fuzz(mesh, "--max-examples", str(chosen.examples), *seed, timeout_s=6 * 3600)
        finally:
            mesh.stop()
    print(done.stdout, done.stderr, sep="\n")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
