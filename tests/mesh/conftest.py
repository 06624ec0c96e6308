"""Fixtures of the tests that run real servers."""

import socket
from pathlib import Path

import pytest

from tests.mesh.harness import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Throwaway keys and settings that trust them."""
    return World.in_folder(tmp_path)


@pytest.fixture
def free_port() -> int:
    """A port nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
