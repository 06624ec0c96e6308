"""What every way to open things beneath a directory does, whatever is asked of it and whatever changes meanwhile."""

import errno
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.mesh import beneath
from services.mesh.beneath import Opener, open_by_openat2, open_by_steps, safest_opener
from tests.hostile_paths import laid
from tests.openers import OPENERS

SECRET = b"what no import may see"

pytestmark = pytest.mark.parametrize("opener", OPENERS)


@pytest.fixture
def top(tmp_path: Path) -> Iterator[int]:
    """A descriptor of a folder; a secret lies beside it, and links lead there from within."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.txt").write_bytes(SECRET)
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "c.txt").write_bytes(b"fine")
    (root / "a" / "..." / "x ").mkdir(parents=True)
    (root / "out").symlink_to("../secret")
    (root / "out.txt").symlink_to("../secret/key.txt")
    (root / "absolute").symlink_to(tmp_path / "secret")
    (root / "inside").symlink_to("a/b")
    (root / "loop").symlink_to("loop")
    (root / "nowhere").symlink_to("gone")
    (root / "magic").symlink_to("/proc/self/root")
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def content(opener: Opener, top: int, path: str) -> bytes:
    descriptor = opener(top, path, os.O_RDONLY)
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("path", ["a/b/c.txt", "./a/./b//c.txt", "a//b/c.txt/"])
def test_a_file_beneath_is_opened(opener: Opener, top: int, path: str) -> None:
    assert content(opener, top, path) == b"fine"


def test_no_path_is_the_directory_itself(opener: Opener, top: int) -> None:
    descriptor = opener(top, "", os.O_RDONLY | os.O_DIRECTORY)
    assert os.path.samestat(os.fstat(descriptor), os.fstat(top))
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("path", ["gone", "a/gone", "a/gone/c.txt", "a/b/gone"])
def test_what_is_missing_is_not_found(opener: Opener, top: int, path: str) -> None:
    with pytest.raises(FileNotFoundError):
        opener(top, path, os.O_RDONLY)


@pytest.mark.parametrize(
    "path",
    [
        *("out", "out/key.txt", "out.txt", "absolute", "absolute/key.txt", "inside", "inside/c.txt", "loop", "nowhere"),
        *("nowhere/x", "magic", "magic/etc/passwd", "..", "../secret/key.txt", "a/../../secret/key.txt", "a/.."),
        *("/", "/etc/passwd", "//etc/passwd", "a/b/c.txt/d", "a/b/c.txt/..", "a\0/../../secret", "\0", "x" * 300),
    ],
)
def test_what_leads_out_or_through_a_link_is_refused(opener: Opener, top: int, path: str) -> None:
    before = descriptors()
    with pytest.raises(OSError) as caught:
        opener(top, path, os.O_RDONLY)
    assert not isinstance(caught.value, FileNotFoundError)
    assert descriptors() == before


def test_a_pipe_is_opened_without_waiting_for_its_other_end(opener: Opener, top: int) -> None:
    os.mkfifo("pipe", dir_fd=top)
    os.close(opener(top, "pipe", os.O_RDONLY))


def test_a_folder_renamed_meanwhile_is_still_the_one_that_was_opened(opener: Opener, top: int) -> None:
    folder = opener(top, "a", os.O_RDONLY | os.O_DIRECTORY)
    os.rename("a", "moved", src_dir_fd=top, dst_dir_fd=top)
    os.symlink("../secret", "a", dir_fd=top)
    try:
        assert content(opener, folder, "b/c.txt") == b"fine"
        with pytest.raises(OSError):
            content(opener, top, "a/key.txt")
    finally:
        os.close(folder)


def test_no_path_opens_what_lies_outside(opener: Opener, tmp_path: Path) -> None:
    """What lies behind the checks that tests/unit/test_hostile_paths.py drives ten thousand paths through."""
    trap = laid(tmp_path / "trap")
    top = os.open(trap.root, os.O_RDONLY | os.O_DIRECTORY)
    opened, before = 0, descriptors()
    for path in trap.hostile(seed=1, count=5_000):
        try:
            descriptor = opener(top, path, os.O_RDONLY)
        except (OSError, UnicodeEncodeError):
            continue
        opened += 1
        real = os.readlink(f"/proc/self/fd/{descriptor}")
        os.close(descriptor)
        assert f"{real}/".startswith(f"{trap.root}/"), path
    assert opened > 50, "paths that cannot be opened prove little"
    assert descriptors() == before
    os.close(top)


def test_links_swapped_in_while_paths_are_opened_lead_nowhere(opener: Opener, top: int, tmp_path: Path) -> None:
    """One thread swaps a folder for a link to the secret and back, as fast as it can, while others open through it."""
    root = tmp_path / "root"
    (root / "swapped").mkdir()
    (root / "swapped" / "key.txt").write_bytes(b"fine")
    (root / "link").symlink_to("../secret")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(root / "swapped", root / "aside")
            os.rename(root / "link", root / "swapped")
            os.rename(root / "swapped", root / "link")
            os.rename(root / "aside", root / "swapped")

    swapping = threading.Thread(target=swap)
    swapping.start()
    read, refused = 0, set[int | None]()
    try:
        # Until both have been met often: the swap before the open, and after it.
        while read < 5_000 or not refused & {errno.ELOOP, errno.ENOTDIR}:
            try:
                assert content(opener, top, "swapped/key.txt") == b"fine"
                read += 1
            except OSError as error:
                refused.add(error.errno)
    finally:
        stop.set()
        swapping.join()


def test_a_kernel_without_openat2_is_found_out_once(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = safest_opener()
    assert chosen in (open_by_openat2, open_by_steps)

    def forbidden() -> object:
        def syscall(*arguments: object) -> int:
            beneath.ctypes.set_errno(random.choice([errno.ENOSYS, errno.EPERM]))
            return -1

        return syscall

    monkeypatch.setattr(beneath, "_syscall", forbidden)
    safest_opener.cache_clear()
    try:
        assert safest_opener() is open_by_steps
    finally:
        safest_opener.cache_clear()
