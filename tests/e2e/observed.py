"""Prometheus and Alertmanager as compose/ configures them watch a mesh that works, is troubled and loses a process.

    python -m tests.e2e.observed      (`make observe-test`)

Every process has to be scraped; every graph of the dashboards, every recorded series and every part of an alert has to
have values and the labels that it is shown by, while what it tells of goes on; a mesh that works has to be silent. Then
retrieval is killed and kept down: its alerts have to fire, the one that explains the others has to mute them, and they
have to end once it is back. Takes some ten minutes, most of them waiting as long as the alerts do.
"""

import http.server
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import grpc
import yaml

from compose.observability.boards import BOARDS
from ragweave import Client
from ragweave.v1 import search_pb2
from tests.e2e.stack import PREFIX, Mesh
from tests.e2e.steady_load import COLLECTION, SteadyLoad
from tests.e2e.troubles import RERANKER, SMALL_GRAPHS, black_hole, down, reranking_into
from tests.ports import free_port
from tests.prometheus import COMPOSE, Alert, Watch, until, watching
from tests.promql import unfiltered

QUIET: Final[Mapping[str, str]] = {
    "ragweave-overview: Maintenance done": "counts what was due, and nothing was",
    "ragweave-vector-store: Failed": "counts failures of the engine, and it did not fail",
    "VectorStoreFails": "as the graph",
}
"""Graphs and alerts that may be empty, and why; whatever else is empty looks at something that is not there."""
RUNNING: Final = 32
"""Calls that a service of the mesh runs at a time, so that few are too many."""
SLOW: Final = {"EventLoopLate", "SearchSlow"}
"""Alerts that are right where this machine has more to do than it can."""
_STEP_S: Final = 15.0
_SCRAPES_S: Final = 75.0
"""Five scrapes: enough for a rate over Grafana's shortest interval, which is four."""
_RATE_INTERVAL: Final = "1m"
_PATIENCE_S: Final = 120.0
_ALERTED_S: Final = 300.0
"""Twice what the slowest of the alerts takes: two minutes, a scrape, a look, and Alertmanager's group_wait."""


def main() -> None:
    """Prints what was found; ends with 1 where something is missing."""
    with tempfile.TemporaryDirectory() as folder, black_hole() as hole:
        edge, receiving = free_port(), free_port()
        mesh = Mesh(
            Path(folder) / "mesh",
            RAGWEAVE_EDGE_METRICS_PORT=str(edge),
            RAGWEAVE_MAX_RUNNING_CALLS=str(RUNNING),
            RAGWEAVE_MAX_WAITING_CALLS="0",
            RAGWEAVE_TLS="off",
            RAGWEAVE_JOBS_WEBHOOKS_ALLOW="127.0.0.1",
            RAGWEAVE_JOBS_WEBHOOKS_HTTP="127.0.0.1",
            RAGWEAVE_JOBS_WEBHOOKS_PORTS=str(receiving),
            **reranking_into(hole),
            **SMALL_GRAPHS,
        )
        try:
            mesh.start()
            watched = Path(folder) / "watched"
            watched.mkdir()
            with watching(watched, {**targets(mesh), "edge": f"127.0.0.1:{edge}"}) as watch:
                missing = observed(mesh, watch, receiving)
        finally:
            mesh.stop()
    print("\n".join(missing) or "everything that is looked at is there")
    sys.exit(bool(missing))


def targets(mesh: Mesh) -> dict[str, str]:
    """Where the processes of a mesh show their metrics, by the name of their job."""
    ports = {part: port for part, port in mesh.layout.ports.items() if part.endswith(" metrics")}
    return {part.removesuffix(" metrics"): f"127.0.0.1:{port}" for part, port in ports.items()}


def observed(mesh: Mesh, watch: Watch, receiving: int) -> list[str]:
    """What is missing, where webhooks may be received at that port.

    Raises:
        AssertionError: A process is not scraped, a mesh that works is complained of, or an alert does not come or go.
    """
    since = time.time()
    until(lambda: set(watch.health().values()) == {"up"}, f"all are scraped: {watch.health()}", _PATIENCE_S)
    print(f"scraped: {', '.join(sorted(watch.health()))}", flush=True)
    load = SteadyLoad.of(mesh, documents=150)
    with load.running():
        time.sleep(_SCRAPES_S)
        complaints = {each for each in watch.firing() if each[0] not in SLOW}
        assert not complaints, f"a mesh that works is complained of: {complaints}"
        with receivers(receiving):
            trouble(mesh, receiving)
            time.sleep(_SCRAPES_S)
    lost(mesh, watch)
    return [*graphs_without_values(watch, since), *rules_without_values(watch, since)]


def trouble(mesh: Mesh, receivers: int) -> None:
    """Has everything happen that is counted: pages, refusals, deliveries, failures, a backup."""
    mesh.ragweave("backup")
    for path in ("/docs", "/docs/nothing"):
        mesh.rest("GET", path)
    search = {"query": "river", "collection": COLLECTION}
    assert mesh.rest("POST", f"{PREFIX}/search", search, token="no token").status == 401
    assert mesh.rest("POST", f"{PREFIX}/collections?collectionId=no", {}, token=mesh.token("reader")).status == 403
    for path in ("well", "broken"):
        webhook = {"uri": f"http://127.0.0.1:{receivers}/{path}"}
        assert mesh.rest("POST", f"{PREFIX}/webhooks?webhookId={path}", webhook).status == 200
    with mesh.client() as client:
        client.wait(client.import_texts(COLLECTION, [{"document_id": "empty", "text": " "}]).name)
    overload(mesh)


def overload(mesh: Mesh) -> None:
    """More searches at a time than retrieval runs, past the edge, which would say no itself; they hang in reranking."""
    asked = search_pb2.SearchRequest(query="stone", collection=f"collections/{COLLECTION}", rerank={"model": RERANKER})

    def search() -> None:
        with suppress(grpc.RpcError):
            client.retrieval.Search(asked, timeout=_PATIENCE_S)

    with (
        Client(mesh.layout.address("retrieval"), token=mesh.token()) as client,
        ThreadPoolExecutor(3 * RUNNING) as pool,
    ):
        for _ in range(3 * RUNNING):
            pool.submit(search)


def lost(mesh: Mesh, watch: Watch) -> None:
    """Retrieval is killed and kept down, until its alerts have fired, and comes back, until they have ended."""
    expected = {("ProcessDown", "retrieval"), ("UpstreamUnhealthy", "edge"), ("BreakerOpen", "collections")}
    stats = f"{PREFIX}/collections/{COLLECTION}/stats"
    began = time.monotonic()
    with down(mesh, "retrieval"):

        def asked_and_fires() -> bool:
            mesh.rest("GET", stats)  # a breaker opens for who asks, and stays so while somebody does
            return expected <= watch.firing()

        until(asked_and_fires, f"of {expected} fire {watch.firing()}", _ALERTED_S)
        print(f"fired within {time.monotonic() - began:.0f} s of retrieval's end: {sorted(watch.firing())}", flush=True)
        if watch.alertmanager:
            told = {Alert(name, job, name != "ProcessDown") for name, job in expected}
            until(lambda: told <= set(watch.told()), f"Alertmanager has {told}", _ALERTED_S)
            print(f"Alertmanager: {sorted(watch.told())}", flush=True)
    began = time.monotonic()

    def asked_and_silent() -> bool:
        mesh.rest("GET", stats)
        return not expected & watch.firing()

    until(asked_and_silent, f"what fired ends: {watch.firing()}", _ALERTED_S)
    print(f"silent again {time.monotonic() - began:.0f} s after its return", flush=True)
    if watch.alertmanager:
        gone = {name for name, _ in expected}
        until(lambda: not gone & {each.name for each in watch.told()}, "Alertmanager hears that it is over", _ALERTED_S)


def graphs_without_values(watch: Watch, since: float) -> Iterator[str]:
    """Graphs that show nothing, or whose legend names a label that what they show does not have."""
    for board in BOARDS:
        for panels in board.rows.values():
            for panel in panels:
                for legend, query in panel.queries.items():
                    shown = query.replace("$__rate_interval", _RATE_INTERVAL).replace("$job", ".*")
                    wanted = set(re.findall(r"\{\{(\w+)\}\}", legend))
                    yield from without_values(watch, since, f"{board.uid}: {panel.title}", shown, wanted)


def rules_without_values(watch: Watch, since: float) -> Iterator[str]:
    """Recorded series and parts of alerts that look at nothing, or at what lacks a label that the alert names."""
    for path in (COMPOSE / "observability" / "rules").glob("*.yml"):
        for rule in (rule for group in yaml.safe_load(path.read_text("utf-8"))["groups"] for rule in group["rules"]):
            if "record" in rule:
                yield from without_values(watch, since, rule["record"], rule["record"], set())
                continue
            wanted = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
            for part in unfiltered(rule["expr"]):
                yield from without_values(watch, since, rule["alert"], part, wanted)


def without_values(watch: Watch, since: float, name: str, query: str, wanted: set[str]) -> Iterator[str]:
    found = watch.values(query, since, step_s=_STEP_S)
    if not found and name in QUIET:
        print(f"rightly empty: {name} ({QUIET[name]})")
    elif not found:
        yield f"{name}: empty: {query}"
    elif lacking := {label for label in wanted for each in found if label not in each.labels}:
        yield f"{name}: has no {', '.join(sorted(lacking))}: {query}"


@contextmanager
def receivers(port: int) -> Iterator[None]:
    """Receivers of webhooks at a port: /well takes what it is sent, all others fail."""

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(204 if self.path == "/well" else 500)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


if __name__ == "__main__":
    main()
