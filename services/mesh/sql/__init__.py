"""What services with a database of their own stand on: where work runs, the schema's steps, lists, receipts.

A service opens its database with `OpenDatabase.open(url, SCHEMA)` and hands it to its stores.
"""

from services.mesh.sql.columns import OBJECT, TEXT, Instant
from services.mesh.sql.databases import Database, Mode, database, sqlite_url
from services.mesh.sql.filters import Columns
from services.mesh.sql.lists import listed, paged
from services.mesh.sql.opened import OpenDatabase
from services.mesh.sql.receipts import Receipts
from services.mesh.sql.schema import Schema

__all__ = [
    "OBJECT",
    "TEXT",
    "Columns",
    "Database",
    "Instant",
    "Mode",
    "OpenDatabase",
    "Receipts",
    "Schema",
    "database",
    "listed",
    "paged",
    "sqlite_url",
]
