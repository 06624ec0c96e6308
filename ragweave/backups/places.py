"""What a backup holds, and where each part is on this machine."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

# Each a folder of the backup; and of the data folder, unless a setting puts it elsewhere.
REGISTRY: Final = "collections"
SYSTEM: Final = "system"
INDEX: Final = "index"
BLOBS: Final = "blobs"
REDIS: Final = "redis"
DATABASES: Final = {REGISTRY: "registry.db", SYSTEM: "system.db"}
# Where each database keeps the step its schema is at.
VERSION_TABLES: Final = {REGISTRY: "alembic_version", SYSTEM: "system_version"}
_ELSEWHERE: Final = {
    REGISTRY: "RAGWEAVE_COLLECTIONS_DATABASE_URL",
    SYSTEM: "RAGWEAVE_SYSTEM_DATABASE_URL",
}


@dataclass(frozen=True)
class Places:
    """Where the parts are.

    Attributes:
        data: The data folder.
        parts: The folder of each part that is files of this machine, whether it is there yet or not.
        left_out: The others, each with why.
        socket: Of the embedded Redis, where that runs.
    """

    data: Path
    parts: Mapping[str, Path]
    left_out: Mapping[str, str] = field(default_factory=dict)
    socket: Path | None = None

    @classmethod
    def read(cls, data: Path, environment: Mapping[str, str] | None = None) -> "Places":
        """From RAGWEAVE_* as the services read them."""
        given = os.environ if environment is None else environment
        parts, left_out = {}, {}
        for part, variable in _ELSEWHERE.items():
            if given.get(variable):
                left_out[part] = f"{variable} is set: that database's own backup has it"
            else:
                parts[part] = data / part
        if given.get("RAGWEAVE_RETRIEVAL_STORE", "edge") == "edge":
            parts[INDEX] = Path(given.get("RAGWEAVE_RETRIEVAL_INDEX_DIR") or data / INDEX).absolute()
        else:
            left_out[INDEX] = "a Qdrant server has it: its own snapshots have it"
        parts[BLOBS] = Path(given.get("RAGWEAVE_JOBS_BLOBS") or data / BLOBS).absolute()
        url = given.get("RAGWEAVE_REDIS_URL") or f"unix://{data / REDIS / 'redis.sock'}"
        socket = Path(url.removeprefix("unix://").partition("?")[0])
        # The socket is elsewhere where the data folder's path is too long for one (ragweave.local.layout).
        if url.startswith("unix://") and (socket.parent == data / REDIS or socket.parent.name.startswith("ragweave-")):
            parts[REDIS] = data / REDIS
            return cls(data, parts, left_out, socket)
        left_out[REDIS] = "RAGWEAVE_REDIS_URL is set: that store's own backup has it"
        return cls(data, parts, left_out)

    def database(self, part: str) -> Path:
        """The SQLite file of a part."""
        return self.parts[part] / DATABASES[part]
