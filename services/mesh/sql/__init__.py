"""What services with a database of their own stand on: where work runs, the schema's steps, lists, receipts.

A store is opened like this: `store = database(url, pool_size=5)`, then `await store.run(SCHEMA.upgrade, Mode.WRITE)`.
"""

from services.mesh.sql.columns import OBJECT, TEXT, Instant
from services.mesh.sql.databases import Database, Mode, database, sqlite_url
from services.mesh.sql.filters import Columns
from services.mesh.sql.lists import paged
from services.mesh.sql.receipts import Receipts
from services.mesh.sql.schema import Schema

__all__ = [
    "OBJECT",
    "TEXT",
    "Columns",
    "Database",
    "Instant",
    "Mode",
    "Receipts",
    "Schema",
    "database",
    "paged",
    "sqlite_url",
]
