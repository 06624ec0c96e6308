"""What the folders of the server show of themselves, with each way of opening them; and what they never show."""

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from services.collections.adapters import folders as adapter
from services.collections.adapters.folders import ConfinedFolders
from services.collections.directories import Directories, check_source
from services.collections.entries import Entry, Kind
from services.collections.records import Source
from services.mesh.beneath import Opener
from services.mesh.errors import (
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    InvalidPageToken,
    PathNotAllowed,
    PathNotFound,
    TooManyRequests,
)
from services.mesh.folders import Folder
from services.mesh.identity import Caller
from services.mesh.roots import Root, Roots
from tests.hostile_paths import CANARY, laid
from tests.openers import OPENERS

ANN = Caller("acme", "ann")
BOB = Caller("globex", "bob")


@pytest.fixture(params=OPENERS)
def opener(request: pytest.FixtureRequest) -> Opener:
    opener: Opener = request.param
    return opener


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with some of everything; beside it a second one, and one of another tenant."""
    root = tmp_path / "root"
    (root / "docs" / "deep").mkdir(parents=True)
    (root / "docs" / "a.md").write_text("# A")
    (root / "docs" / "deep" / "b.txt").write_text("b")
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "t.md").write_text("team")
    (tmp_path / "globex").mkdir()
    (tmp_path / "globex" / f"{CANARY}.txt").write_text(CANARY)
    return root


@pytest.fixture
async def directories(root: Path, opener: Opener) -> AsyncIterator[Directories]:
    roots = Roots(
        [
            Root("acme", root),
            Root("acme", root.parent / "team", "team"),
            Root("acme", root.parent / "gone", "gone"),
            Root("globex", root.parent / "globex"),
        ]
    )
    async with ConfinedFolders.open(roots, max_file_bytes=1000, opener=opener) as folders:
        yield Directories(folders)


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        ("../globex", "'..' is not allowed"),
        ("docs/../../globex", "'..' is not allowed"),
        ("/etc", "not under a root"),
        ("nope", "there is no such file or directory"),
        ("docs/a.md", "it is not a directory"),
        ("link", "it is not a directory"),
    ],
)
async def test_only_a_directory_of_the_tenant_can_be_followed(
    root: Path, opener: Opener, path: str, refusal: str
) -> None:
    (root / "link").symlink_to("docs")
    async with ConfinedFolders.open(Roots([Root("acme", root)]), max_file_bytes=1000, opener=opener) as folders:
        for good in (".", "docs", str(root / "docs")):
            await check_source(folders, "acme", Source(good, auto_sync=True))
        with pytest.raises(InvalidArgument, match=f"collection.source.directory: .*{refusal}"):
            await check_source(folders, "acme", Source(path, auto_sync=True))
        with pytest.raises(InvalidArgument, match="RAGWEAVE_ROOTS"):
            await check_source(folders, "globex", Source("docs"))


async def listed(directories: Directories, path: str, **asked: Any) -> dict[str, Entry]:
    return {entry.path: entry for entry in (await directories.list(path, ANN, page_size=100, **asked)).items}


async def test_the_roots_of_the_tenant_are_listed_and_no_others(directories: Directories) -> None:
    page = await directories.roots(ANN)
    assert [(root.path, root.name) for root in page.items] == [(".", ""), ("gone:", "gone"), ("team:", "team")]
    assert [root.problem for root in page.items] == ["", "gone:: there is no such file or directory", ""]
    assert [root.path for root in (await directories.roots(BOB)).items] == ["."]
    assert (await directories.roots(Caller("nobody", "n"))).total_size == 0
    first = await directories.roots(ANN, page_size=2)
    rest = await directories.roots(ANN, page_size=2, page_token=first.next_page_token)
    assert [root.path for root in (*first.items, *rest.items)] == [".", "gone:", "team:"]


async def test_an_entry_says_what_it_is_and_whether_an_import_would_take_it(
    root: Path, directories: Directories
) -> None:
    files = {
        "doc.pdf": b"%PDF-1.7",
        "LICENSE": b"Permission is hereby granted",
        "photo.png": b"\x89PNG\r\n\x1a\n0000",
        "noise.bin": b"\x00\x01\x02",
        "wide": "wide".encode("utf-16"),
        "archive": b"PK\x03\x04....",
        "empty.md": b"",
        "large.txt": b"x" * 1001,
        ".env": b"SECRET=1",
    }
    for name, content in files.items():
        (root / name).write_bytes(content)
    os.utime(root / "doc.pdf", (1_700_000_000, 1_700_000_000))
    (root / "link.md").symlink_to("docs/a.md")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "sock"))
        found = await listed(directories, ".", hidden=True)
    problems = {path: entry.problem for path, entry in found.items()}
    assert problems == {
        "docs": "",
        "doc.pdf": "",
        "LICENSE": "",
        "wide": "",
        "photo.png": "a PNG image cannot be imported",
        "noise.bin": "it holds binary data, not text",
        "archive": "a zip archive cannot be imported",
        "empty.md": "it is empty",
        "large.txt": "1001 bytes are over the limit of 1000",
        ".env": "imports leave out what begins with a dot",
        "link.md": "it is a symbolic link, and none is followed",
        "pipe": "it is not a regular file",
        "sock": "it is not a regular file",
    }
    kinds = {path: entry.kind for path, entry in found.items() if entry.kind is not Kind.FILE}
    assert kinds == {"docs": Kind.DIRECTORY, "link.md": Kind.SYMLINK, "pipe": Kind.OTHER, "sock": Kind.OTHER}
    pdf = found["doc.pdf"]
    assert (pdf.mime_type, pdf.size_bytes) == ("application/pdf", 8)
    assert pdf.update_time == datetime.fromtimestamp(1_700_000_000, UTC)
    assert (found["docs"].size_bytes, found["docs"].mime_type) == (None, "")
    assert ".env" not in await listed(directories, ".")


async def test_validation_counts_what_a_listing_shows(root: Path, directories: Directories) -> None:
    found = await listed(directories, "docs")
    assert [path for path, entry in found.items() if not entry.problem] == ["docs/a.md", "docs/deep"]
    assert (await directories.validate("docs", ANN)).importable_files == 2
    (root / "docs" / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (root / "docs" / ".hidden").mkdir()
    (root / "docs" / ".hidden" / "c.md").write_text("c")
    (root / "docs" / "link").symlink_to("deep")
    assert (await directories.validate("docs", ANN)).importable_files == 2


@pytest.mark.parametrize("page_size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    "order_by", ["", "path desc", "size_bytes", "size_bytes desc, path desc", "update_time desc", "update_time"]
)
async def test_pages_and_numbered_pages_show_every_entry_once_in_order(
    root: Path, directories: Directories, order_by: str, page_size: int
) -> None:
    for number in range(7):
        name = os.fsdecode(b"docs/\xff%d" % number) if number % 2 else f"docs/n{number}"
        (root / name).write_bytes(b"x" * (number % 3))
        os.utime(root / name, (1000 + number // 2, 1000 + number // 2))
    whole = (await directories.list("docs", ANN, page_size=100, order_by=order_by)).items
    assert len(whole) == 9
    found, token, number = [], "", 1
    while True:
        page = await directories.list("docs", ANN, page_size=page_size, page_token=token, order_by=order_by)
        by_number = await directories.list("docs", ANN, page_size=page_size, page=number, order_by=order_by)
        assert (page.items, page.total_size) == (by_number.items, 9)
        found += page.items
        token, number = page.next_page_token, number + 1
        if not token:
            break
    assert tuple(found) == whole
    key = [entry.path for entry in whole]
    if order_by == "path desc":
        assert key == sorted(key, reverse=True)
    elif not order_by:
        assert key == sorted(key)


async def test_a_page_token_is_good_for_its_folder_order_and_tenant_alone(root: Path, directories: Directories) -> None:
    token = (await directories.list("docs", ANN, page_size=1)).next_page_token
    for path, who, asked in (("docs/deep", ANN, {}), ("docs", ANN, {"order_by": "size_bytes"}), (".", BOB, {})):
        with pytest.raises(InvalidPageToken):
            await directories.list(path, who, page_token=token, **asked)
    with pytest.raises(InvalidArgument, match="supported: path, size_bytes, update_time"):
        await directories.list("docs", ANN, order_by="kind")


async def test_names_that_cannot_be_shown_are_shown_escaped_and_lead_back(root: Path, directories: Directories) -> None:
    names = [b"\xff\xfe", b"two\nlines", b"back\\slash", "\u202egpj.md".encode(), b"\xff\\", b"n" * 255]
    for name in names:
        folder = root / os.fsdecode(name)
        folder.mkdir()
        (folder / os.fsdecode(name)).write_bytes(name)
    shown = [path for path in await listed(directories, ".") if path != "docs"]
    assert len(shown) == len(names)
    for path in shown:
        (inner,) = (await listed(directories, path)).values()
        assert inner.path == f"{path}/{path}"
        finding = await directories.validate(inner.path, ANN)
        assert finding.entry is not None
        assert finding.entry.size_bytes in map(len, names)


async def test_what_is_nested_too_deep_to_be_named_is_shown_with_the_reason(
    root: Path, directories: Directories
) -> None:
    path, here = "", os.open(root, os.O_RDONLY)
    for _ in range(16):
        os.mkdir("d" * 240, dir_fd=here)
        below = os.open("d" * 240, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here, path = below, f"{path}/{'d' * 240}"
    os.close(os.open("f" * 240, os.O_CREAT, dir_fd=here))
    os.close(here)
    (entry,) = (await listed(directories, path[1:])).values()
    assert entry.problem == "its path is longer than 3900 bytes"
    with pytest.raises(PathNotAllowed, match="at most 3900 bytes"):
        await directories.validate(entry.path, ANN)


async def test_times_no_message_can_hold_become_the_nearest_that_one_can(root: Path, directories: Directories) -> None:
    for at, seconds in enumerate((-(2**31), 2**33, 2**40, 2**62)):
        try:
            os.utime(root / "docs" / "a.md", (seconds, seconds))
        except (OSError, OverflowError):
            continue
        assert "docs/a.md" in await listed(directories, "docs"), at


@pytest.mark.parametrize(
    ("path", "valid", "count", "problem"),
    [
        (".", True, 2, ""),
        ("docs", True, 2, ""),
        ("docs/", True, 2, ""),
        ("docs/a.md", True, 1, ""),
        ("team:", True, 1, ""),
        ("team:t.md", True, 1, ""),
        ("empty", False, 0, "there is no file in it that an import would take"),
        ("docs/nope", False, 0, "docs/nope: there is no such file or directory"),
        ("gone:x", False, 0, "gone:x: there is no such file or directory"),
        ("link", False, 0, "it is a symbolic link, and none is followed"),
        ("dangling", False, 0, "it is a symbolic link, and none is followed"),
        (".env", True, 1, ""),
    ],
)
async def test_a_path_is_valid_where_an_import_would_find_something(
    root: Path, directories: Directories, path: str, valid: bool, count: int, problem: str
) -> None:
    (root / "empty").mkdir()
    (root / ".env").write_text("named, it is taken")
    (root / "link").symlink_to("../globex")
    (root / "dangling").symlink_to("../nothing")
    finding = await directories.validate(path, ANN)
    assert (not finding.problem, finding.importable_files, finding.problem) == (valid, count, problem)
    assert (finding.entry is None) is ("there is no such" in problem)


@pytest.mark.parametrize(
    "path",
    [
        *("..", "../globex", "docs/../../globex", "/etc", "/etc/passwd", "/", "~root/../..", "link", "link/deep/x"),
        *("team:../root", "docs/a.md/x", "docs\0", "docs\n", "..\\globex", "\\x2e\\x2e/globex", "/proc/self/root/etc"),
    ],
)
async def test_a_path_that_leads_out_is_refused_by_name_of_the_field(
    root: Path, directories: Directories, path: str
) -> None:
    (root / "link").symlink_to("../globex")
    with pytest.raises(DomainError) as refused:
        await directories.list(path, ANN)
    if path.startswith("~"):
        assert isinstance(refused.value, PathNotFound | PathNotAllowed)
        return
    assert isinstance(refused.value, PathNotAllowed)
    assert [violation.field for violation in refused.value.violations] == ["path"]


async def test_a_folder_that_is_not_there_is_not_found(directories: Directories) -> None:
    for path in ("nope", "docs/nope", "gone:"):
        with pytest.raises(PathNotFound):
            await directories.list(path, ANN)


async def test_the_roots_of_another_tenant_are_neither_shown_nor_told_of(root: Path, directories: Directories) -> None:
    for path in (str(root.parent / "globex"), f"{root.parent}/globex/{CANARY}.txt", f"{root.parent}/globex/none.txt"):
        with pytest.raises(PathNotAllowed, match="not under a root this tenant may import from"):
            await directories.validate(path, ANN)
    assert f"{CANARY}.txt" in {entry.path for entry in (await directories.list(".", BOB)).items}
    with pytest.raises(PathNotFound):
        await directories.list("docs", BOB)
    with pytest.raises(PathNotFound):
        await directories.list("team:", BOB)


async def test_no_hostile_path_shows_what_lies_outside(tmp_path: Path, opener: Opener) -> None:
    trap = laid(tmp_path / "trap")
    roots = Roots([Root("acme", trap.root), Root("acme", trap.team, "team"), Root("globex", trap.outside)])
    shown = 0
    async with ConfinedFolders.open(roots, max_file_bytes=1000, opener=opener) as folders:
        directories = Directories(folders)
        for path in trap.hostile(seed=9, count=4_000):
            for ask in (directories.validate, directories.list):
                try:
                    told = repr(await ask(path, ANN))
                except DomainError as error:
                    told = error.message
                else:
                    shown += 1
                assert CANARY in path or CANARY not in told, path
                assert "passwd" in path or "passwd" not in told, path
    assert shown > 100, "paths that lead nowhere prove little"


async def test_a_folder_too_large_to_list_is_refused_saying_so(
    root: Path, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        (root / "docs" / "deep" / f"{number}").touch()
    monkeypatch.setattr(adapter, "_MAX_MEASURED", 15)
    assert (await directories.list("docs/deep", ANN)).total_size == 21
    with pytest.raises(FailedPrecondition, match="can be ordered by path only"):
        await directories.list("docs/deep", ANN, order_by="size_bytes")
    monkeypatch.setattr(adapter, "_MAX_NAMES", 15)
    with pytest.raises(FailedPrecondition, match="docs/deep: it has more than 15 entries"):
        await directories.list("docs/deep", ANN)
    monkeypatch.setattr(adapter, "_MAX_COUNTED", 1)
    assert (await directories.validate("docs", ANN)).importable_files == 1
    monkeypatch.setattr(adapter, "_COUNT_S", -1.0)
    (root / "docs" / "a.md").write_bytes(b"")
    assert (await directories.validate("docs", ANN)).problem.startswith("it holds so much")
    with pytest.raises(InvalidArgument, match="page: numbered pages reach 10,000 entries far"):
        await directories.list("docs", ANN, page_size=100, page=102)


async def test_what_looks_into_folders_is_bounded_and_leaves_the_event_loop_alone(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that hangs holds a few threads, then callers are turned away; the loop goes on."""
    release, looking = threading.Event(), threading.Semaphore(0)
    opened = Folder.at

    def hanging(*arguments: Any, **options: Any) -> Any:
        looking.release()
        release.wait(60)
        return opened(*arguments, **options)

    monkeypatch.setattr(Folder, "at", hanging)
    waiting = [asyncio.create_task(directories.list("docs", ANN)) for _ in range(36)]
    for _ in range(4):
        await asyncio.to_thread(looking.acquire)
    with pytest.raises(TooManyRequests):
        await directories.list("docs", ANN)
    waiting[0].cancel()  # its thread is not free for that
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    with pytest.raises(TooManyRequests):
        await directories.list("docs", ANN)
    release.set()
    pages = await asyncio.gather(*waiting[1:])
    assert {page.total_size for page in pages} == {2}
    assert (await directories.list("docs", ANN)).total_size == 2
