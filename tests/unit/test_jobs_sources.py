"""Directories to import from: what may be named, what is listed, what is read."""

import os
import socket
from pathlib import Path

import pytest

from services.jobs.sources import Directory, Selection, SourceFile, SourceRoots
from services.mesh.errors import DocumentTooLarge, InvalidArgument, PathNotAllowed, UnreadableDocument


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


def paths(roots: SourceRoots, directory: Directory, selection: Selection | None = None, **options: bool) -> list[str]:
    return [file.path for file in roots.list(directory, selection or Selection(), **options).files]


@pytest.mark.parametrize("path", ["", ".", "docs", "docs/", "./docs/deep", "docs//deep"])
def test_a_relative_path_under_a_root_is_resolved(root: Path, path: str) -> None:
    assert SourceRoots([root]).resolve(path).root == root


def test_an_absolute_path_under_a_root_is_resolved(root: Path) -> None:
    assert SourceRoots([root]).resolve(str(root / "docs")) == Directory(root, "docs")
    assert SourceRoots([root]).resolve(str(root)) == Directory(root, "")


def test_a_relative_path_belongs_to_the_first_root_that_has_it(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "more").mkdir(parents=True)
    (other / "docs").mkdir()
    roots = SourceRoots([root, other])
    assert roots.resolve("more") == Directory(other, "more")
    assert roots.resolve("docs") == Directory(root, "docs")


@pytest.mark.parametrize(
    "path", ["..", "../secret", "docs/../../secret", "/etc", "/", "absent", "docs/a.md", "docs\0", "a\nb", "~"]
)
def test_anything_else_is_not_allowed_and_named(root: Path, path: str) -> None:
    with pytest.raises(PathNotAllowed):
        SourceRoots([root]).resolve(path)


def test_a_sibling_whose_name_begins_like_the_root_is_not_allowed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "root2").mkdir()
    with pytest.raises(PathNotAllowed, match="root2: not under an allowed root"):
        SourceRoots([root]).resolve(str(tmp_path / "root2"))


def test_no_root_allows_nothing() -> None:
    with pytest.raises(PathNotAllowed):
        SourceRoots([]).resolve("/tmp")


@pytest.mark.parametrize("target", ["../secret", "docs", "/etc"])
def test_a_link_is_never_followed_wherever_it_leads(root: Path, target: str) -> None:
    (root / "link").symlink_to(target)
    roots = SourceRoots([root])
    with pytest.raises(PathNotAllowed):
        roots.resolve("link")
    with pytest.raises(PathNotAllowed):
        roots.resolve("link/deep")
    page = roots.list(roots.resolve(""))
    assert [file.path for file in page.files] == ["docs/a.md", "docs/deep/b.txt", "docs/z.md"]
    assert [(skipped.path, skipped.reason) for skipped in page.skipped] == [("link", "it is a symbolic link")]


def test_a_directory_swapped_for_a_link_after_it_was_resolved_leads_nowhere(root: Path) -> None:
    roots = SourceRoots([root])
    directory = roots.resolve("docs")
    (root / "docs").rename(root / "moved")
    (root / "docs").symlink_to("../secret")
    with pytest.raises(PathNotAllowed):
        roots.list(directory)
    with pytest.raises(PathNotAllowed):
        roots.read(directory, "key.txt")


def test_a_file_swapped_for_a_link_after_it_was_listed_is_refused(root: Path) -> None:
    roots = SourceRoots([root])
    directory = roots.resolve("docs")
    (root / "docs" / "a.md").unlink()
    (root / "docs" / "a.md").symlink_to("../../secret/key.txt")
    with pytest.raises(PathNotAllowed, match=r"a\.md: not a regular file"):
        roots.read(directory, "a.md")


@pytest.mark.parametrize("path", ["../../secret/key.txt", "/etc/passwd", "", "deep"])
def test_only_files_of_the_directory_are_read(root: Path, path: str) -> None:
    roots = SourceRoots([root])
    with pytest.raises((PathNotAllowed, UnreadableDocument)):
        roots.read(roots.resolve("docs"), path)


def test_pipes_sockets_and_devices_are_skipped_and_refused_without_waiting(root: Path) -> None:
    os.mkfifo(root / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "sock.txt"))
        roots = SourceRoots([root])
        directory = roots.resolve("")
        skipped = {skipped.path: skipped.reason for skipped in roots.list(directory).skipped}
        assert skipped == dict.fromkeys(("pipe.txt", "sock.txt"), "it is not a regular file")
        for name in skipped:
            with pytest.raises(PathNotAllowed):
                roots.read(directory, name)


def test_a_device_is_refused() -> None:
    roots = SourceRoots([Path("/dev")])
    with pytest.raises(PathNotAllowed, match="zero: not a regular file"):
        roots.read(roots.resolve(""), "zero")


def test_files_are_read_up_to_the_limit(root: Path) -> None:
    roots = SourceRoots([root], max_file_bytes=4)
    directory = roots.resolve("docs")
    (root / "docs" / "a.md").write_text("1234")
    assert roots.read(directory, "a.md") == b"1234"
    (root / "docs" / "a.md").write_text("12345")
    with pytest.raises(DocumentTooLarge, match=r"a\.md: over the limit of 4 bytes"):
        roots.read(directory, "a.md")
    assert [skipped.path for skipped in roots.list(directory).skipped] == ["a.md"]


def test_a_file_that_is_gone_is_unreadable_by_name(root: Path) -> None:
    roots = SourceRoots([root])
    with pytest.raises(UnreadableDocument, match=r"deep/gone\.md: the file is gone"):
        roots.read(roots.resolve("docs"), "deep/gone.md")


def test_files_are_listed_in_order_with_size_and_time(root: Path) -> None:
    roots = SourceRoots([root])
    page = roots.list(roots.resolve("docs"))
    assert [file.path for file in page.files] == ["a.md", "deep/b.txt", "z.md"]
    assert page.files[0] == SourceFile("a.md", 1, (root / "docs" / "a.md").stat().st_mtime_ns)
    assert page.after is None


def test_hidden_files_are_listed_only_when_asked(root: Path) -> None:
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("x")
    (root / ".env").write_text("x")
    roots = SourceRoots([root])
    assert not any(path.startswith(".") for path in paths(roots, roots.resolve("")))
    assert {".git/config", ".env"} < set(paths(roots, roots.resolve(""), hidden=True))


def test_names_that_cannot_be_shown_are_skipped_with_the_reason(root: Path) -> None:
    for name in (b"bad\xff.txt", b"line\nbreak.txt"):
        (Path(os.fsdecode(bytes(root) + b"/" + name))).write_text("x")
    roots = SourceRoots([root])
    skipped = roots.list(roots.resolve("")).skipped
    assert [entry.path for entry in skipped] == ["bad\\xff.txt", "line\\x0abreak.txt"]
    assert {entry.reason for entry in skipped} == {"its name is not valid UTF-8 or holds control characters"}


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_pages_go_on_where_the_last_one_ended(root: Path, limit: int) -> None:
    for name in ("docs.txt", "docs/deep.md", "docs/deep/c/x.txt", "docs/deep-er.md", "a/b/c.md", "docs/b\\x", "zz"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "docs" / "link").symlink_to("a.md")
    (Path(os.fsdecode(bytes(root) + b"/docs/\xff"))).write_text("x")
    roots = SourceRoots([root])
    directory = roots.resolve("")
    whole = roots.list(directory, limit=1000)
    assert len(whole.files) == 10
    assert len(whole.skipped) == 2
    files, skipped, after = [], [], ""
    while True:
        page = roots.list(directory, after=after, limit=limit)
        files += page.files
        skipped += page.skipped
        if page.after is None:
            break
        after = page.after
    assert (files, skipped) == (whole.files, whole.skipped)


def test_a_checkpoint_that_has_vanished_meanwhile_loses_nothing(root: Path) -> None:
    roots = SourceRoots([root])
    directory = roots.resolve("docs")
    assert [file.path for file in roots.list(directory, after="deep/gone.txt").files] == ["z.md"]
    assert [file.path for file in roots.list(directory, after="b/c/d").files] == ["deep/b.txt", "z.md"]


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


def test_excluded_files_and_directories_win_over_included_ones(root: Path) -> None:
    roots = SourceRoots([root])
    directory = roots.resolve("")
    assert paths(roots, directory, Selection(["**/*.md", "*.txt"], ["z.md"])) == ["docs/a.md", "docs/deep/b.txt"]
    assert paths(roots, directory, Selection([], ["docs/deep"])) == ["docs/a.md", "docs/z.md"]
    assert paths(roots, directory, Selection([], ["deep/"])) == ["docs/a.md", "docs/z.md"]


@pytest.mark.parametrize("glob", ["", "/", "../x", "a/../b"])
def test_a_glob_that_is_none_is_refused(glob: str) -> None:
    with pytest.raises(InvalidArgument):
        Selection([glob])


def test_a_glob_full_of_stars_takes_no_longer_than_another() -> None:
    path = "/".join(["a" * 200] * 60)
    assert not Selection(["/".join(["**", "*a" * 60 + "b"] * 4)]).wants(path)
