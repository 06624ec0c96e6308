"""The ways to open what lies beneath a directory; every test of paths runs with each."""

import pytest

from services.mesh.beneath import open_by_openat2, open_by_steps, safest_opener

OPENERS = [
    pytest.param(
        open_by_openat2,
        id="openat2",
        marks=pytest.mark.skipif(safest_opener() is open_by_steps, reason="this kernel has no openat2"),
    ),
    pytest.param(open_by_steps, id="steps"),
]
