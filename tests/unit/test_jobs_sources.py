"""Directories to import from: what may be named, what is listed, what is read."""

import errno
import os
import socket
from pathlib import Path

import pytest

from services.jobs.adapters.folders import Folders
from services.jobs.job import DirectoryImport
from services.jobs.sources import Selection, SourceFile, Sources
from services.mesh import folders
from services.mesh.beneath import Opener
from services.mesh.errors import DocumentTooLarge, InvalidArgument, PathNotAllowed, PathNotFound, UnreadableDocument
from services.mesh.roots import Place, Root, Roots
from tests.openers import OPENERS
from tests.unit.test_mesh_folders import Failing


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An allowed root, and beside it what must never be reached."""
    root = tmp_path / "root"
    (root / "docs" / "deep").mkdir(parents=True)
    (root / "docs" / "a.md").write_text("a")
    (root / "docs" / "deep" / "b.txt").write_text("b")
    (root / "docs" / "z.md").write_text("z")
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.txt").write_text("secret")
    return root


@pytest.fixture(params=OPENERS)
def opener(request: pytest.FixtureRequest) -> Opener:
    opener: Opener = request.param
    return opener


@pytest.fixture
def sources(root: Path, opener: Opener) -> Sources:
    return Sources(Roots([Root("acme", root)]), opener=opener)


def resolved(sources: Sources, path: str) -> Place:
    """The directory of a path that is one."""
    place, file = sources.resolve("acme", path)
    assert not file
    return place


def paths(sources: Sources, directory: Place, selection: Selection | None = None, **options: bool) -> list[str]:
    return [file.path for file in sources.list(directory, selection or Selection(), **options).files]


@pytest.mark.parametrize("path", ["", ".", "docs", "docs/", "./docs/deep", "docs//deep"])
def test_a_relative_path_under_a_root_is_resolved(root: Path, sources: Sources, path: str) -> None:
    assert resolved(sources, path).root.path == root


def test_an_absolute_path_under_a_root_is_resolved(root: Path, sources: Sources) -> None:
    assert resolved(sources, str(root / "docs")).path == "docs"
    assert resolved(sources, str(root)).path == ""


def test_the_path_of_a_file_is_its_directory_and_its_name(sources: Sources) -> None:
    place, file = sources.resolve("acme", "docs/deep/b.txt")
    assert (place.path, file) == ("docs/deep", "b.txt")


def test_a_path_that_begins_with_the_name_of_a_root_is_in_that_root(root: Path, tmp_path: Path, opener: Opener) -> None:
    other = tmp_path / "other"
    (other / "docs").mkdir(parents=True)
    sources = Sources(Roots([Root("acme", root), Root("acme", other, "more")]), opener=opener)
    assert resolved(sources, "more:docs").root.path == other
    assert resolved(sources, "docs").root.path == root


@pytest.mark.parametrize("path", ["..", "../secret", "docs/../../secret", "/etc", "/", "docs\0", "a\nb", "docs/a.md/x"])
def test_what_leads_out_of_the_roots_or_is_no_path_is_not_allowed(sources: Sources, path: str) -> None:
    with pytest.raises(PathNotAllowed):
        sources.resolve("acme", path)


@pytest.mark.parametrize("path", ["absent", "docs/absent", "~"])
def test_what_is_not_there_is_not_found(sources: Sources, path: str) -> None:
    with pytest.raises(PathNotFound, match=f"{path}: there is no such file or directory"):
        sources.resolve("acme", path)


def test_a_sibling_whose_name_begins_like_the_root_is_not_allowed(tmp_path: Path, sources: Sources) -> None:
    (tmp_path / "root2").mkdir()
    with pytest.raises(PathNotAllowed, match="root2: not under a root"):
        sources.resolve("acme", str(tmp_path / "root2"))


def test_no_root_allows_nothing(opener: Opener) -> None:
    with pytest.raises(PathNotAllowed):
        Sources(Roots([]), opener=opener).resolve("acme", "/tmp")


@pytest.mark.parametrize("target", ["../secret", "docs", "/etc", "nowhere"])
def test_a_link_is_never_followed_wherever_it_leads(root: Path, sources: Sources, target: str) -> None:
    (root / "link").symlink_to(target)
    for path in ("link", "link/deep", "link/absent"):
        with pytest.raises(PathNotAllowed, match=f"{path}: not a directory that may be entered"):
            sources.resolve("acme", path)
    page = sources.list(resolved(sources, ""))
    assert [file.path for file in page.files] == ["docs/a.md", "docs/deep/b.txt", "docs/z.md"]
    assert [(skipped.path, skipped.reason) for skipped in page.skipped] == [("link", "it is a symbolic link")]


def test_a_directory_swapped_for_a_link_after_it_was_resolved_leads_nowhere(root: Path, sources: Sources) -> None:
    directory = resolved(sources, "docs")
    (root / "docs").rename(root / "moved")
    (root / "docs").symlink_to("../secret")
    with pytest.raises(PathNotAllowed):
        sources.list(directory)
    with pytest.raises(PathNotAllowed):
        sources.read(directory, "key.txt")


def test_a_file_swapped_for_a_link_after_it_was_listed_is_refused(root: Path, sources: Sources) -> None:
    directory = resolved(sources, "docs")
    (root / "docs" / "a.md").unlink()
    (root / "docs" / "a.md").symlink_to("../../secret/key.txt")
    with pytest.raises(PathNotAllowed, match=r"a\.md: not a regular file"):
        sources.read(directory, "a.md")


@pytest.mark.parametrize("path", ["../../secret/key.txt", "/etc/passwd", "", "deep"])
def test_only_files_of_the_directory_are_read(sources: Sources, path: str) -> None:
    with pytest.raises((PathNotAllowed, UnreadableDocument)):
        sources.read(resolved(sources, "docs"), path)


def test_pipes_sockets_and_devices_are_skipped_and_refused_without_waiting(root: Path, sources: Sources) -> None:
    os.mkfifo(root / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "sock.txt"))
        directory = resolved(sources, "")
        skipped = {skipped.path: skipped.reason for skipped in sources.list(directory).skipped}
        assert skipped == dict.fromkeys(("pipe.txt", "sock.txt"), "it is not a regular file")
        for name in skipped:
            with pytest.raises(PathNotAllowed):
                sources.read(directory, name)


def test_a_device_is_refused(opener: Opener) -> None:
    sources = Sources(Roots([Root("acme", Path("/dev"))]), opener=opener)
    with pytest.raises(PathNotAllowed, match="zero: not a regular file"):
        sources.read(resolved(sources, ""), "zero")


def test_files_are_read_up_to_the_limit(root: Path, opener: Opener) -> None:
    sources = Sources(Roots([Root("acme", root)]), max_file_bytes=4, opener=opener)
    directory = resolved(sources, "docs")
    (root / "docs" / "a.md").write_text("1234")
    assert sources.read(directory, "a.md") == b"1234"
    (root / "docs" / "a.md").write_text("12345")
    with pytest.raises(DocumentTooLarge, match=r"a\.md: over the limit of 4 bytes"):
        sources.read(directory, "a.md")
    assert [skipped.path for skipped in sources.list(directory).skipped] == ["a.md"]


def test_a_file_that_is_gone_is_unreadable_by_name(sources: Sources) -> None:
    with pytest.raises(UnreadableDocument, match=r"deep/gone\.md: the file is gone"):
        sources.read(resolved(sources, "docs"), "deep/gone.md")


def test_files_are_listed_in_order_with_size_and_time(root: Path, sources: Sources) -> None:
    page = sources.list(resolved(sources, "docs"))
    assert [file.path for file in page.files] == ["a.md", "deep/b.txt", "z.md"]
    assert page.files[0] == SourceFile("a.md", 1, (root / "docs" / "a.md").stat().st_mtime_ns)
    assert page.after is None


def test_hidden_files_are_listed_only_when_asked(root: Path, sources: Sources) -> None:
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("x")
    (root / ".env").write_text("x")
    assert not any(path.startswith(".") for path in paths(sources, resolved(sources, "")))
    assert {".git/config", ".env"} < set(paths(sources, resolved(sources, ""), hidden=True))


def test_names_that_cannot_be_shown_are_written_escaped_and_read_by_that(root: Path, sources: Sources) -> None:
    for name in (b"bad\xff.txt", b"line\nbreak.txt", b"back\\slash.txt"):
        Path(os.fsdecode(bytes(root / "docs" / "deep") + b"/" + name)).write_bytes(name)
    (root / os.fsdecode(b"d\xff")).mkdir()
    (root / os.fsdecode(b"d\xff") / "x.txt").write_text("below")
    directory = resolved(sources, "docs/deep")
    assert set(paths(sources, directory)) == {
        "b.txt",
        r"back\\slash.txt",
        r"bad\xff.txt",
        r"line\x0abreak.txt",
    }
    assert sources.read(directory, "bad\\xff.txt") == b"bad\xff.txt"
    assert sources.read(directory, "line\\x0abreak.txt") == b"line\nbreak.txt"
    assert sources.read(directory, "back\\\\slash.txt") == b"back\\slash.txt"
    assert paths(sources, resolved(sources, "d\\xff")) == ["x.txt"]
    assert sources.read(resolved(sources, ""), "d\\xff/x.txt") == b"below"


def test_what_is_too_long_to_be_named_is_skipped_with_the_reason(root: Path, sources: Sources) -> None:
    folder = os.open(root, os.O_RDONLY)
    for _ in range(17):
        os.mkdir("d" * 250, dir_fd=folder)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    (skipped,) = sources.list(resolved(sources, "")).skipped
    assert skipped.reason == "its path is longer than 3900 bytes"


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_pages_go_on_where_the_last_one_ended(root: Path, sources: Sources, limit: int) -> None:
    for name in ("docs.txt", "docs/deep.md", "docs/deep/c/x.txt", "docs/deep-er.md", "a/b/c.md", "docs/b\\x", "zz"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "docs" / "link").symlink_to("a.md")
    (Path(os.fsdecode(bytes(root) + b"/docs/\xff"))).write_text("x")
    directory = resolved(sources, "")
    whole = sources.list(directory, limit=1000)
    assert len(whole.files) == 11
    assert len(whole.skipped) == 1
    files, skipped, after = [], [], ""
    while True:
        page = sources.list(directory, after=after, limit=limit)
        files += page.files
        skipped += page.skipped
        if page.after is None:
            break
        after = page.after
    assert (files, skipped) == (whole.files, whole.skipped)


def test_a_checkpoint_that_has_vanished_meanwhile_loses_nothing(sources: Sources) -> None:
    directory = resolved(sources, "docs")
    assert [file.path for file in sources.list(directory, after="deep/gone.txt").files] == ["z.md"]
    assert [file.path for file in sources.list(directory, after="b/c/d").files] == ["deep/b.txt", "z.md"]


def test_a_folder_of_more_names_than_are_held_at_a_time_is_listed_whole(
    root: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_NAMES", 7)
    (root / "many").mkdir()
    for n in range(50):
        (root / "many" / f"{n:03}").touch()
    assert paths(sources, resolved(sources, "many")) == [f"{n:03}" for n in range(50)]


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("*.md", "a.md", True),
        ("*.md", "x/y/a.md", True),
        ("/*.md", "x/a.md", True),
        ("x/*.md", "x/a.md", True),
        ("x/*.md", "x/y/a.md", False),
        ("**/*.md", "a.md", True),
        ("**/*.md", "x/y/a.md", True),
        ("x/**", "x/y/z", True),
        ("x/**/z", "x/z", True),
        ("x/**/z", "x/a/b/z", True),
        ("x/**/y/**/z", "x/1/y/2/3/z", True),
        ("x/**/y/**/z", "x/1/2/3/z", False),
        ("a?.t[xy]t", "ab.txt", True),
        ("a?.t[!x]t", "ab.txt", False),
        ("**", "x/y", True),
        ("build", "src/build", True),
        ("A.md", "a.md", False),
        ("*", ".hidden", True),
    ],
)
def test_globs_match_paths_by_their_parts(glob: str, path: str, matches: bool) -> None:
    assert Selection([glob]).wants(path) is matches


def test_excluded_files_and_directories_win_over_included_ones(sources: Sources) -> None:
    directory = resolved(sources, "")
    assert paths(sources, directory, Selection(["**/*.md", "*.txt"], ["z.md"])) == ["docs/a.md", "docs/deep/b.txt"]
    assert paths(sources, directory, Selection([], ["docs/deep"])) == ["docs/a.md", "docs/z.md"]
    assert paths(sources, directory, Selection([], ["deep/"])) == ["docs/a.md", "docs/z.md"]


@pytest.mark.parametrize("glob", ["", "/", "../x", "a/../b"])
def test_a_glob_that_is_none_is_refused(glob: str) -> None:
    with pytest.raises(InvalidArgument):
        Selection([glob])


def test_a_glob_full_of_stars_takes_no_longer_than_another() -> None:
    path = "/".join(["a" * 200] * 60)
    assert not Selection(["/".join(["**", "*a" * 60 + "b"] * 4)]).wants(path)


async def test_a_directory_that_cannot_be_entered_is_listed_as_no_document(root: Path) -> None:
    (root / "barred").mkdir()
    folders = Folders(Sources(Roots([Root("acme", root)]), opener=Failing("barred", errno.EACCES)))
    specs, _ = await folders.page("acme", DirectoryImport("", ""), "", 100)
    assert [(spec.document_id, spec.path, spec.refused) for spec in specs if spec.refused and not spec.document_id] == [
        ("", "barred", "the directory cannot be entered")
    ]
