"""What becomes of the system's errors: the caller's fault, the file's, or the machine's."""

import errno
import os
from pathlib import Path

import pytest

from services.mesh.beneath import safest_opener
from services.mesh.errors import (
    DependencyUnavailable,
    DomainError,
    PathNotAllowed,
    PathNotFound,
    UnreadableDocument,
)
from services.mesh.folders import Folder, walk
from services.mesh.roots import Place, Root


class Failing:
    """Opens as the machine does, but fails at one path."""

    def __init__(self, path: str, reason: int) -> None:
        self._path = path
        self._reason = reason

    def __call__(self, top: int, path: str, flags: int) -> int:
        if path == self._path:
            raise OSError(self._reason, os.strerror(self._reason), path)
        return safest_opener()(top, path, flags)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / "a.md").write_text("a")
    return Place(Root("acme", tmp_path), "docs")


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (errno.ENOENT, PathNotFound),
        (errno.EACCES, PathNotAllowed),
        (errno.EPERM, PathNotAllowed),
        (errno.ELOOP, PathNotAllowed),
        (errno.ENOTDIR, PathNotAllowed),
        (errno.EXDEV, PathNotAllowed),
        (errno.ENAMETOOLONG, PathNotAllowed),
        (errno.EMFILE, DependencyUnavailable),
        (errno.EIO, DependencyUnavailable),
        (errno.ESTALE, DependencyUnavailable),
    ],
)
def test_a_folder_that_cannot_be_opened(place: Place, reason: int, kind: type[DomainError]) -> None:
    with pytest.raises(kind, match=r"^docs: ") as raised:
        Folder.at(place, Failing("docs", reason))
    assert str(place.root.path) not in raised.value.message


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (errno.ENOENT, UnreadableDocument),
        (errno.EACCES, UnreadableDocument),
        (errno.ELOOP, PathNotAllowed),
        (errno.ENXIO, PathNotAllowed),
        (errno.EMFILE, DependencyUnavailable),
    ],
)
def test_a_file_that_cannot_be_opened(place: Place, reason: int, kind: type[DomainError]) -> None:
    with Folder.at(place, Failing("a.md", reason)) as folder, pytest.raises(kind, match=r"^docs/a\.md: "):
        folder.read("a.md", "docs/a.md", 10)


def test_a_walk_names_a_folder_it_may_not_enter_and_goes_on(place: Place) -> None:
    (place.root.path / "docs" / "z.md").write_text("z")
    with Folder.at(place, Failing("deep", errno.EACCES)) as top:
        assert [(seen.path, seen.refused, seen.barred) for seen in walk(top)] == [
            ("a.md", "", False),
            ("deep", "the directory cannot be entered", True),
            ("z.md", "", False),
        ]


def test_a_walk_ends_where_the_machine_fails_instead_of_leaving_files_out(place: Place) -> None:
    with Folder.at(place, Failing("deep", errno.EMFILE)) as top, pytest.raises(DependencyUnavailable):
        list(walk(top))


def test_a_walk_closes_what_it_opened_however_it_ends(place: Place) -> None:
    (place.root.path / "docs" / "deep" / "b.md").write_text("b")
    before = len(os.listdir("/proc/self/fd"))
    with Folder.at(place) as top:
        found = walk(top)
        assert [next(found).path for _ in range(2)] == ["a.md", "deep/b.md"]
        found.close()
    assert len(os.listdir("/proc/self/fd")) == before
