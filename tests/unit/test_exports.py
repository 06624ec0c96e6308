"""An export on disk is whole, or is told apart from one that is."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragweave import exports
from ragweave.errors import RagweaveError
from ragweave.exports import BadExport
from ragweave.v1 import system_service_pb2 as pb

CONTENT = b"the original's own bytes"
HASH = hashlib.sha256(CONTENT).hexdigest()
EMPTY = hashlib.sha256(b"").hexdigest()


def record(**fields: object) -> pb.ExportTenantResponse:
    return pb.ExportTenantResponse(**fields)


def part(data: bytes, offset: int, *, final: bool, content_hash: str = HASH) -> pb.ExportTenantResponse:
    made = record()
    made.original_part.content_hash = content_hash
    made.original_part.data = data
    made.original_part.offset_bytes = offset
    made.original_part.final = final
    return made


def end(code: int = 0, message: str = "") -> pb.ExportTenantResponse:
    made = record()
    made.final_status.code = code
    made.final_status.message = message
    made.final_status.SetInParent()
    return made


def records() -> Iterator[pb.ExportTenantResponse]:
    yield record(quota={"name": "quotas/acme"})
    yield record(collection={"name": "collections/docs", "description": "büro ☃"})
    yield record(document={"name": "collections/docs/documents/a", "content_hash": HASH})
    yield part(CONTENT[:10], 0, final=False)
    yield part(CONTENT[10:], 10, final=True)
    yield record(document={"name": "collections/docs/documents/b", "content_hash": EMPTY})
    yield part(b"", 0, final=True, content_hash=EMPTY)
    yield end()


COUNTS = {"quotas": 1, "collections": 1, "documents": 2, "originals": 2}


def test_a_file_holds_every_record_and_reads_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "acme.jsonl"
    assert exports.write(records(), path) == COUNTS
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 8
    assert lines[1]["collection"]["description"] == "büro ☃"
    assert lines[-1] == {"finalStatus": {}}
    assert path.stat().st_mode & 0o777 == 0o600
    assert exports.verify(path) == COUNTS


def test_a_folder_holds_originals_as_files_named_by_their_hash(tmp_path: Path) -> None:
    folder = tmp_path / "acme"
    assert exports.write(records(), folder) == COUNTS
    assert (folder / "originals" / HASH).read_bytes() == CONTENT
    assert {path.name for path in (folder / "originals").iterdir()} == {HASH, EMPTY}
    assert len((folder / "records.jsonl").read_text().splitlines()) == 5
    assert exports.verify(folder) == COUNTS


def test_an_original_that_comes_again_is_the_same_file(tmp_path: Path) -> None:
    twice = [*list(records())[:-1], *list(records())]
    assert exports.write(iter(twice), tmp_path / "acme")["originals"] == 4
    assert exports.verify(tmp_path / "acme")["originals"] == 2


def without(position: int) -> list[pb.ExportTenantResponse]:
    kept = list(records())
    del kept[position]
    return kept


@pytest.mark.parametrize("name", ["acme.jsonl", "acme"])
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (without(-1), "does not end"),
        (without(3), "lacks a part at byte 0"),
        ([*without(4)[:4], part(b"other", 10, final=True), end()], "has another content"),
        ([*without(4)[:4], part(CONTENT[11:], 11, final=True), end()], "lacks a part at byte 10"),
    ],
)
def test_what_is_not_whole_is_refused_and_keeps_its_partial_name(
    tmp_path: Path, name: str, broken: list[pb.ExportTenantResponse], said: str
) -> None:
    with pytest.raises(BadExport, match=said):
        exports.write(iter(broken), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.partial"]


def test_an_export_that_failed_says_why(tmp_path: Path) -> None:
    with pytest.raises(RagweaveError, match="UNAVAILABLE: collections is unavailable"):
        exports.write(iter([end(14, "collections is unavailable")]), tmp_path / "acme.jsonl")


def test_a_hash_that_is_none_never_becomes_a_path(tmp_path: Path) -> None:
    hostile = [part(b"x", 0, final=True, content_hash="../../etc/passwd"), end()]
    with pytest.raises(BadExport, match="is no SHA-256"):
        exports.write(iter(hostile), tmp_path / "acme")
    assert list(tmp_path.rglob("passwd*")) == []


@pytest.mark.parametrize("name", ["acme.jsonl", "acme"])
def test_nothing_that_is_there_is_overwritten(tmp_path: Path, name: str) -> None:
    exports.write(records(), tmp_path / name)
    with pytest.raises(FileExistsError):
        exports.write(records(), tmp_path / name)


def test_what_was_changed_on_disk_is_found(tmp_path: Path) -> None:
    exports.write(records(), tmp_path / "acme")
    (tmp_path / "acme" / "originals" / HASH).write_bytes(b"changed")
    with pytest.raises(BadExport, match=HASH):
        exports.verify(tmp_path / "acme")
    path = tmp_path / "acme.jsonl"
    exports.write(records(), path)
    path.write_text(path.read_text().replace('"final": true', '"final": false'))
    with pytest.raises(BadExport, match="lacks its end"):
        exports.verify(path)
    path.write_text("{")
    with pytest.raises(BadExport, match="line 1 is no record"):
        exports.verify(path)
