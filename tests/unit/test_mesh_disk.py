"""What grows is refused while little room is left; deletions and reading go on."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ragweave import contract
from services.mesh.disk import Disk, disk_full, writing
from services.mesh.errors import DiskFull
from services.mesh.interceptors.room import adds
from services.mesh.status import retry_after_s, status_of

MOST = 2**62


def test_a_disk_with_less_than_its_reserve_takes_nothing_more(tmp_path: Path) -> None:
    Disk(tmp_path, "data", reserve_bytes=1).check()
    Disk(tmp_path, "data", reserve_bytes=1).check(needed_bytes=1)
    for reserve, needed in ((MOST, 0), (1, MOST)):
        with pytest.raises(DiskFull, match="the disk of data is full"):
            Disk(tmp_path, "data", reserve_bytes=reserve).check(needed)


def test_without_a_reserve_nothing_is_refused(tmp_path: Path) -> None:
    Disk(tmp_path, "data", reserve_bytes=0).check(needed_bytes=MOST)


def test_a_folder_that_is_yet_to_be_made_is_on_the_disk_of_its_parent(tmp_path: Path) -> None:
    assert Disk(tmp_path / "later" / "still", "data", reserve_bytes=0).free_bytes > 0
    with pytest.raises(DiskFull):
        Disk(tmp_path / "later" / "still", "data", reserve_bytes=MOST).check()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_write_without_room_says_which_disk_is_full_and_no_path(number: int) -> None:
    with pytest.raises(DiskFull) as full, writing("originals"):
        raise OSError(number, os.strerror(number), "/srv/secret/place")
    assert full.value.message == disk_full("originals").message
    assert "/srv" not in full.value.message
    assert retry_after_s(status_of(full.value)) == 10


def test_another_trouble_with_a_write_stays_what_it_is() -> None:
    with pytest.raises(PermissionError), writing("originals"):
        raise PermissionError(errno.EACCES, "denied")


def test_what_adds_is_refused_and_what_reads_deletes_or_changes_is_not() -> None:
    adding = {method.name for method in contract.methods().values() if adds(method)}
    assert {"CreateCollection", "CreateDocument", "UploadDocument", "ImportDocuments", "SyncCollection"} <= adding
    allowed = {
        "Search",
        "GetJob",
        "WatchJob",
        "DeleteDocument",
        "DeleteCollection",
        "CancelJob",
        "UpdateDocument",
        "PurgeDocuments",
    }
    assert not allowed & adding
    assert not any(method.internal and adds(method) for method in contract.methods().values())


def test_a_log_whose_disk_is_full_fails_no_call() -> None:
    code = (
        "import structlog\n"
        "from services.mesh.telemetry import configure_logs\n"
        "configure_logs('test', 'info', {})\n"
        "for _ in range(1000):\n"
        "    structlog.get_logger('mesh').info('a line')\n"
        "print('went on')\n"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stderr=full, stdout=subprocess.PIPE, check=False)
    assert done.stdout == b"went on\n"
