"""The registry's schema, one step a file, in the order of their down_revision; applied on start."""

from pathlib import Path
from typing import Final

from services.mesh.sql import Schema

REGISTRY: Final = Schema("the registry's database", Path(__file__).parent, version_table="alembic_version")
