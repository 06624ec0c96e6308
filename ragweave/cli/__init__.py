"""The `ragweave` command: the local mesh, and the calls people make by hand."""

from ragweave.cli import (  # noqa: F401 - importing them registers their commands
    backups,
    cache,
    calls,
    collections,
    demo,
    doctor,
    evaluations,
    guard,
    health,
    imports,
    mesh,
    tenants,
    usage,
)
from ragweave.cli.console import app

__all__ = ["app"]
