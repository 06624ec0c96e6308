"""A data folder as a mesh leaves it, small, and backups of it."""

import asyncio
import hashlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from ragweave.backups.manifest import Manifest
from ragweave.backups.places import Places
from ragweave.backups.redis import BASE, write_base
from ragweave.backups.shelf import Shelf
from ragweave.backups.taking import Taker

_REGISTRY = """
CREATE TABLE alembic_version (version_num TEXT);
INSERT INTO alembic_version VALUES ('0005');
CREATE TABLE collections (
    uid TEXT, tenant TEXT, collection_id TEXT, document_count INT, chunk_count INT, delete_time DATETIME
);
INSERT INTO collections VALUES ('uid-1', 'acme', 'handbook', 2, 7, NULL);
"""
_SYSTEM = """
CREATE TABLE system_version (version_num TEXT);
INSERT INTO system_version VALUES ('0004');
CREATE TABLE tenants (
    tenant TEXT PRIMARY KEY, state TEXT NOT NULL, parts JSON NOT NULL, subject TEXT NOT NULL,
    delete_time DATETIME NOT NULL, deny_time DATETIME, purge_time DATETIME
);
"""


def write_data(data: Path, text: str = "first") -> None:
    """Every part, each with something that says `text`."""
    for part, name, script in (("collections", "registry.db", _REGISTRY), ("system", "system.db", _SYSTEM)):
        (data / part).mkdir(parents=True)
        with closing(sqlite3.connect(data / part / name)) as connection:
            connection.executescript(f"PRAGMA journal_mode = WAL; {script}; CREATE TABLE said (text TEXT);")
            connection.execute("INSERT INTO said VALUES (?)", (text,))
            connection.commit()
    shard = data / "index" / "uid-1" / "g0"
    shard.mkdir(parents=True)
    (shard / "segment").write_text(text)
    with (shard / "wal").open("wb") as wal:
        wal.truncate(2**20)  # a hole
    (data / "index" / "lock").touch()
    (data / "blobs" / ".uploads").mkdir(parents=True)
    (data / "blobs" / ".uploads" / "acme.upload.0.x").write_text(text)
    add_content(data, text)
    (data / "redis").mkdir()
    write_base(data / "redis").write_text(text)
    os.chmod(data, 0o700)


def add_content(data: Path, text: str, tenant: str = "acme") -> Path:
    """Stored bytes, with what was extracted of them beside; the path of the first."""
    name = hashlib.sha256(text.encode()).hexdigest()
    path = data / "blobs" / tenant / name[:2] / name[2:4] / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.with_name(f"{name}.1").write_text(f"extracted {text}")
    return path


def delete_tenant(data: Path, tenant: str, when: str = "2026-11-21 03:00:00.000000") -> None:
    """As system records that a tenant is deleted."""
    with closing(sqlite3.connect(data / "system" / "system.db")) as connection:
        values = (tenant, "DELETED", "[]", "ann", when, None, None)
        connection.execute("INSERT INTO tenants VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        connection.commit()


def back_up(data: Path, shelf: Shelf) -> Manifest:
    """A backup while the mesh is down."""
    return asyncio.run(Taker(shelf, Places.read(data, {}), None).take())


def said(data: Path) -> list[str]:
    """What each part of a data folder says, in the order of the parts; "" where it is not there."""
    found = []
    for path in ("collections/registry.db", "system/system.db"):
        with closing(sqlite3.connect(data / path)) as connection:
            found.append(connection.execute("SELECT text FROM said").fetchone()[0])
    files = ("index/uid-1/g0/segment", "blobs/.uploads/acme.upload.0.x", f"redis/appendonlydir/{BASE}")
    return [*found, *((data / file).read_text() for file in files)]
