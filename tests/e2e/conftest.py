"""The meshes of the end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import Mesh


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh with the demo's corpus in `python-reference`. Tests make collections of their own and kill nothing."""
    made = _started(tmp_path_factory.mktemp("mesh"))
    try:
        made.demo = made.ragweave("demo")  # type: ignore[attr-defined]
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


def _started(folder: Path) -> Mesh:
    made = Mesh(folder)
    made.start()
    return made
