"""`make breaker-test` in short: dependencies that fail altogether get little, and are back soon."""

from pathlib import Path

import pytest

from services.mesh.breakers import Limits
from tests.failing import RIGS, measured


@pytest.mark.parametrize("made", RIGS, ids=lambda made: made.__name__)
async def test_what_fails_is_left_alone_and_found_again(made: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.mktemp("f")  # short: a socket's path has 107 bytes
    async with made(folder, Limits(open_s=0.5, look_s=0)) as rig:  # type: ignore[operator]
        figures = await measured(rig, 1.0)
    assert figures.good, figures
