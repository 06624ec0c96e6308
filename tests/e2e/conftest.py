"""The meshes of the end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cross_encoders import write_cross_encoder
from tests.e2e.kill_points import LEASE
from tests.e2e.stack import TLS, UNASKED, Mesh
from tests.e2e.tenancy import roots_in
from tests.e2e.traces import ON_REQUEST
from tests.e2e.troubles import SMALL_GRAPHS, black_hole, reranking_into
from tests.ports import free_port
from tests.spans import Collector, collecting


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that asks for a mesh waits for its start and its corpus as well, on a busy machine for minutes."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def mesh(demo_mesh: Mesh) -> Mesh:
    """`demo_mesh`, by the name a test module may give to another."""
    return demo_mesh


@pytest.fixture(scope="session")
def intranet() -> str:
    """`host:port` of a server of this machine that the operator of `mesh` lists; others of it are not."""
    return f"127.0.0.2:{free_port()}"


@pytest.fixture(scope="session")
def rerank_models(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The reranking model of the meshes: `tiny`, which counts words of the query."""
    folder = write_cross_encoder(tmp_path_factory.mktemp("tiny"), ["who", "eats", "fish", "the", "cat", "dogs"])
    return f"tiny={folder}"


@pytest.fixture(scope="session")
def collecting_spans() -> Iterator[tuple[Collector, str]]:
    """Where `mesh` and `doomed` send spans of calls whose callers ask for it, and the endpoint of that."""
    with collecting() as found:
        yield found


@pytest.fixture(scope="session")
def collector(collecting_spans: tuple[Collector, str]) -> Collector:
    return collecting_spans[0]


@pytest.fixture(scope="session")
def traced(collecting_spans: tuple[Collector, str]) -> dict[str, str]:
    """Settings of a mesh that sends spans there."""
    return {"RAGWEAVE_OTLP_ENDPOINT": collecting_spans[1], **ON_REQUEST}


@pytest.fixture(scope="session")
def demo_mesh(
    tmp_path_factory: pytest.TempPathFactory, intranet: str, rerank_models: str, traced: dict[str, str]
) -> Iterator[Mesh]:
    """A mesh with the demo's corpus in `python-reference`. Tests make collections of their own and kill nothing."""
    folder = tmp_path_factory.mktemp("mesh")
    host, _, port = intranet.partition(":")
    settings = {
        "RAGWEAVE_ROOTS": f"default={folder}/import,{roots_in(tmp_path_factory.mktemp('roots'))}",
        "RAGWEAVE_JOBS_WEB_ALLOW": f"{host}/32",
        "RAGWEAVE_JOBS_WEB_PORTS": port,
        "RAGWEAVE_EMBEDDING_RERANK_MODELS": rerank_models,
        "RAGWEAVE_EDGE_METRICS_PORT": str(free_port()),
        **traced,
    }
    made = _started(folder, **settings)
    try:
        made.demo = made.ragweave("demo")  # type: ignore[attr-defined]
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def secure(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, rerank_models: str
) -> Iterator[Mesh]:
    """A mesh with TLS on: `demo_mesh` where all have, else one without its corpus. Who kills a process waits for it."""
    if TLS:
        yield request.getfixturevalue("demo_mesh")
        return
    settings = {"RAGWEAVE_TLS": "on", "RAGWEAVE_EMBEDDING_RERANK_MODELS": rerank_models}
    made = _started(tmp_path_factory.mktemp("secure"), **settings)
    try:
        yield made
    finally:
        made.stop()


# What takes minutes in earnest, so that nobody can be late any more.
QUICKLY = {
    "RAGWEAVE_DENY_LIST_REFRESH_S": "0.2",
    "RAGWEAVE_SYSTEM_PUBLISH_INTERVAL_S": "0.5",
    "RAGWEAVE_SYSTEM_ERASE_SETTLE_S": "4",
    "RAGWEAVE_COLLECTIONS_EVENTS_HEARD_S": "3",
}


@pytest.fixture(scope="session")
def doomed(tmp_path_factory: pytest.TempPathFactory, traced: dict[str, str]) -> Iterator[Mesh]:
    """A mesh whose processes may be killed: who kills one waits until all serve again. It hears and forgets quickly.

    Its reranking models do not answer.
    """
    with black_hole() as hole:
        reranking = reranking_into(hole)
        made = _started(tmp_path_factory.mktemp("doomed"), **QUICKLY, **LEASE, **SMALL_GRAPHS, **reranking, **traced)
        try:
            yield made
        finally:
            made.stop()


def _started(folder: Path, **settings: str) -> Mesh:
    made = Mesh(folder, **UNASKED, **settings)
    made.start()
    return made
