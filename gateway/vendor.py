"""Vendors Scalar's script for the documentation: `python -m gateway.vendor [VERSION]`, of npm's package.

Without a version the one in scalar/vendored.json is fetched again, and must be the same bytes.
"""

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent / "scalar"
RECORD = FOLDER / "vendored.json"


def vendor(version: str = "") -> str:
    """Replaces the script, and the record of it where another version is asked for; returns its SHA-256.

    Raises:
        SystemExit: The same version has other bytes than were vendored.
    """
    record = json.loads(RECORD.read_text())
    wanted = version or record["version"]
    with tempfile.TemporaryDirectory() as folder:
        package = f"{record['package']}@{wanted}"
        packed = subprocess.run(
            ["npm", "pack", "--silent", "--pack-destination", folder, package],
            check=True,
            capture_output=True,
            text=True,
        )
        with tarfile.open(Path(folder) / packed.stdout.strip()) as archive:
            member = archive.extractfile(f"package/{record['file']}")
            assert member, f"{package} has no {record['file']}"
            script = member.read()
    sha256 = hashlib.sha256(script).hexdigest()
    if wanted == record["version"] and sha256 != record["sha256"]:
        raise SystemExit(f"{package}: SHA-256 is {sha256}, not the {record['sha256']} that was vendored")
    (FOLDER / Path(record["file"]).name).write_bytes(script)
    RECORD.write_text(json.dumps({**record, "version": wanted, "sha256": sha256}, indent=1) + "\n")
    return sha256


if __name__ == "__main__":
    print(vendor(*sys.argv[1:]))
