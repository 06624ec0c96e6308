"""Makes a backup of the mesh that runs on this machine: `python -m services.system.backup`, for `ragweave backup`.

Prints a line of JSON for each thing it does: `{"doing": ...}`, at the end `{"made": name}` or `{"failed": why}`.
"""

import asyncio
import json
import sys

from ragweave.backups.errors import BackupError
from services.mesh.channels import opening_as
from services.mesh.settings import MeshSettings, read
from services.mesh.telemetry import configure_logs
from services.system.adapters.taker import open_taker


async def make(mesh: MeshSettings) -> int:
    """The exit status."""
    with opening_as("system"):
        async with open_taker(mesh, say=lambda doing: _print(doing=doing)) as (_, taker):
            try:
                _print(made=(await taker.take()).name)
            except BackupError as error:
                _print(failed=str(error))
                return 1
    return 0


def _print(**line: str) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    settings = read(MeshSettings)
    configure_logs("backup", settings.log_level, settings.log_levels)
    sys.exit(asyncio.run(make(settings)))
