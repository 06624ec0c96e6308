"""The system's schema, one step a file, in the order of their down_revision; applied on start."""

from pathlib import Path
from typing import Final

from services.mesh.sql import Schema

SYSTEM: Final = Schema("the system's database", Path(__file__).parent, version_table="system_version")
