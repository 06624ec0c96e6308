"""The meshes of the end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import TLS, Mesh
from tests.e2e.tenancy import roots_in


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
def demo_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh with the demo's corpus in `python-reference`. Tests make collections of their own and kill nothing."""
    folder = tmp_path_factory.mktemp("mesh")
    roots = f"default={folder}/import,{roots_in(tmp_path_factory.mktemp('roots'))}"
    made = _started(folder, RAGWEAVE_ROOTS=roots)
    try:
        made.demo = made.ragweave("demo")  # type: ignore[attr-defined]
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def secure(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh with TLS on: `demo_mesh` where all have, else one without its corpus. Who kills a process waits for it."""
    if TLS:
        yield request.getfixturevalue("demo_mesh")
        return
    made = _started(tmp_path_factory.mktemp("secure"), RAGWEAVE_TLS="on")
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def doomed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh whose processes may be killed."""
    made = _started(tmp_path_factory.mktemp("doomed"))
    try:
        yield made
    finally:
        made.stop()


def _started(folder: Path, **settings: str) -> Mesh:
    made = Mesh(folder, **settings)
    made.start()
    return made
