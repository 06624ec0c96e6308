"""Fixtures of the tests that run real servers."""

from pathlib import Path

import pytest

from tests import ports
from tests.mesh.harness import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Throwaway keys and settings that trust them."""
    return World.in_folder(tmp_path)


@pytest.fixture
def free_port() -> int:
    """A port that nobody else listens on."""
    return ports.free_port()
