"""The mesh that benchmarks ask, with all that it promises switched on, and what they put beside it."""

import json
import os
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from benchmarks import promises
from benchmarks.processors import used_by_mesh_s
from ragweave import Client
from ragweave.cli.demo import documents
from ragweave.v1 import collection_service_pb2, job_pb2
from services.mesh.edge_limits import CLASSES
from tests.e2e.stack import PATIENCE_S, ROOT, Mesh
from tests.ports import free_port
from tests.spans import Collector, collecting

COLLECTION: Final = "topics"
TIER: Final = "load"
# Calls a minute of that tier: counted like any other's, and never too many.
_LIMIT: Final = 10_000_000
_SAMPLED: Final = 0.01
# Of as many expected traces, none is as good as impossible: e^-20.
_SURELY: Final = 20
# Longer than all benchmarks together take.
_TOKEN_S: Final = 12 * 3600


@dataclass
class Rig:
    """One mesh on free ports, started when it is first asked for. Inside `with`, what it started runs; then it ends.

    Callers are authenticated, their requests validated and counted by tier `load`, changes audited, and 1 % of the
    traces that begin here are recorded and sent to a collector, all as in production.

    Attributes:
        documents: How many of the demo's corpus are imported; all where None.
    """

    folder: Path
    documents: int | None = None
    seed: int = field(default_factory=lambda: random.SystemRandom().randrange(2**32))
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "Rig":
        return self

    def __exit__(self, *raised: object) -> None:
        self._open.close()

    @cached_property
    def collector(self) -> tuple[Collector, str]:
        """What gets the spans, and where."""
        return self._open.enter_context(collecting())

    @cached_property
    def mesh(self) -> Mesh:
        """The mesh, serving."""
        mesh = Mesh(self.folder / "mesh", **self.settings())
        self._open.callback(mesh.stop)  # also of one that does not come up whole
        mesh.start()
        return mesh

    @cached_property
    def collection(self) -> str:
        """The demo's corpus, imported into the mesh, which is seen to keep its promises."""
        with self.client() as client:
            client.create_collection(COLLECTION)
            ended = client.wait(client.import_texts(COLLECTION, documents()[: self.documents]).name)
        if ended.state != job_pb2.Job.SUCCEEDED:
            raise RuntimeError(f"the corpus was not imported: {ended}")
        promises.check(self.mesh, self.token("admin"), COLLECTION, _LIMIT)
        return COLLECTION

    @cached_property
    def index(self) -> Path:
        """The folder of its index."""
        with self.client() as client:
            request = collection_service_pb2.GetCollectionRequest(name=f"collections/{self.collection}")
            return self.mesh.layout.data / "index" / client.collections.GetCollection(request).uid

    @cached_property
    def words(self) -> Sequence[str]:
        """The words of that corpus."""
        return sorted({word for each in documents() for word in re.findall(r"[a-z]{4,}", each["text"])})

    def token(self, role: str = "reader") -> str:
        """A token of the tier that is made for load."""
        return self.mesh.token(role, tier=TIER, lifetime_s=_TOKEN_S)

    def client(self) -> Client:
        """A client of the edge that may do anything."""
        return Client(self.mesh.edge, token=self.token("admin"))

    def port(self, part: str) -> int:
        """Where a part of the mesh listens."""
        return self.mesh.layout.ports[part]

    def check_traced(self, calls: int) -> None:
        """So many calls have left traces with the collector; of few there may be none.

        Raises:
            AssertionError: They have not, after a while.
        """
        if calls * _SAMPLED >= _SURELY:
            self.collector[0].until(bool)

    def processor_s(self) -> Mapping[str, float]:
        """Processor time of each process of the mesh so far."""
        return used_by_mesh_s(self.mesh)

    @contextmanager
    def edge_to(self, port: int) -> Iterator["Edge"]:
        """Another Envoy of the same configuration, which sends what is retrieval's to a port."""
        ports = {"RAGWEAVE_EDGE_PORT": free_port(), "RAGWEAVE_EDGE_ADMIN_PORT": free_port()}
        own = {**ports, "RAGWEAVE_EDGE_RETRIEVAL_ENDPOINTS": f"127.0.0.1:{port}"}
        environment = {
            **os.environ,
            **self.mesh.settings,
            **self.mesh.layout.environment(),
            **{name: str(value) for name, value in own.items()},
            "RAGWEAVE_EDGE_ACCESS_LOG": str(self.folder / f"edge-to-{port}.log"),
        }
        out = self.folder / f"edge-to-{port}"
        render = [sys.executable, "-m", "services.mesh.edge", "--out", str(out)]
        subprocess.run(render, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        command = json.loads((out / "run.json").read_text())["command"]
        with (
            (out / "envoy.log").open("wb") as log,
            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log) as process,
        ):
            try:
                _healthy(ports["RAGWEAVE_EDGE_ADMIN_PORT"], process, out / "envoy.log")
                yield Edge(ports["RAGWEAVE_EDGE_PORT"], process.pid)
            finally:
                process.terminate()

    def settings(self) -> dict[str, str]:
        """Of a mesh with all that it promises switched on."""
        return {
            "RAGWEAVE_TLS": "off",  # the load generators speak none
            "RAGWEAVE_EDGE_RATE_LIMITS": json.dumps({name: {TIER: _LIMIT} for name in CLASSES}),
            "RAGWEAVE_OTLP_ENDPOINT": self.collector[1],
            "RAGWEAVE_TRACE_SAMPLE_RATIO": str(_SAMPLED),
            "RAGWEAVE_RETRIEVAL_USAGE_INTERVAL_S": "10",
        }


@dataclass(frozen=True)
class Edge:
    """An Envoy that runs."""

    port: int
    pid: int


def _healthy(admin: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Waits until Envoy serves and finds retrieval healthy."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        if process.poll() is not None:
            break
        stats = _stats(admin)
        if stats.get("server.state") == 0 and stats.get("cluster.retrieval.membership_healthy"):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the edge before the echo does not serve:\n{log.read_text()}")


def _stats(admin: int) -> Mapping[str, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/stats?format=json", timeout=5) as answer:
            found = json.load(answer)["stats"]
    except OSError:
        return {}
    return {each["name"]: each["value"] for each in found if "name" in each}
