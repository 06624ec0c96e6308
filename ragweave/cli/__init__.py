"""The `ragweave` command: the local mesh, and the calls people make by hand."""

from ragweave.cli import calls, collections, demo, guard, mesh, tenants  # noqa: F401 - importing them registers their commands
from ragweave.cli.console import app

__all__ = ["app"]
