"""Ten thousand hostile paths, with each way of opening files: nothing outside a root is read, listed or told of."""

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from services.jobs.sources import Sources
from services.mesh.beneath import Opener
from services.mesh.errors import DomainError
from services.mesh.roots import Root, Roots
from tests.hostile_paths import CANARY, Trap, laid
from tests.openers import OPENERS

PATHS = 14_000

pytestmark = pytest.mark.parametrize("opener", OPENERS)


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return laid(tmp_path)


@pytest.fixture
def sources(trap: Trap, opener: Opener) -> Sources:
    roots = Roots([Root("acme", trap.root), Root("acme", trap.team, "team"), Root("globex", trap.outside)])
    return Sources(roots, opener=opener)


def _escapes(root: Path, path: str) -> bool:
    """Whether the path joined to the root, as one would without further thought, leads to something outside."""
    try:
        real = os.path.realpath(os.path.join(root, path), strict=True)
    except (OSError, ValueError):
        return False
    return not f"{real}/".startswith(f"{root}/")


def test_no_hostile_path_leads_out_of_the_roots(trap: Trap, sources: Sources) -> None:
    tried, found, naive = set[str](), 0, 0
    descriptors = len(os.listdir("/proc/self/fd"))
    for path in trap.hostile(seed=5, count=PATHS):
        tried.add(path)
        naive += _escapes(trap.root, path)
        try:
            place, file = sources.resolve("acme", path)
            told = sources.read(place, file) if file else repr(sources.list(place, limit=5)).encode()
        except DomainError as error:
            # What a refusal tells is no more than what was asked.
            assert CANARY in path or CANARY not in error.message, path
            continue
        found += 1
        assert CANARY.encode() not in told, path
        assert place.root.path in (trap.root, trap.team), path
        real = os.path.realpath(place.root.path / "/".join(place.names))
        assert f"{real}/".startswith((f"{trap.root}/", f"{trap.team}/")), path
    assert len(tried) > 10_000
    assert found > 150, "paths that lead nowhere prove little"
    assert naive > 500, "paths that would not get anybody out prove little"
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_the_answer_is_the_same_whether_what_lies_outside_exists_or_not(trap: Trap, sources: Sources) -> None:
    there, gone = f"{CANARY}.txt", "gone.txt"

    def answer(path: str) -> str:
        with pytest.raises(DomainError) as refused:
            sources.resolve("acme", path)
        return f"{refused.value.reason} {refused.value.message.replace(there, '*').replace(gone, '*')}"

    for way in ("out/{}", "../outside/{}", "absolute/{}", f"{trap.outside}/{{}}", "up/outside/{}", "team:../{}", "/{}"):
        assert answer(way.format(there)) == answer(way.format(gone)), way
    (trap.root / "dangling.txt").symlink_to(trap.outside / gone)
    assert answer("out.txt") == answer("dangling.txt").replace("dangling", "out")


def test_a_walk_never_leaves_while_another_thread_swaps_folders_for_links(trap: Trap, sources: Sources) -> None:
    """The classic race: a folder is checked, becomes a link, and is then opened."""
    deep = trap.root / "deep"
    for name in ("x", "y"):
        (deep / name / "sub").mkdir(parents=True)
        (deep / name / "sub" / "fine.txt").write_text("fine")
    (trap.outside / "sub").mkdir()
    (trap.outside / "sub" / "fine.txt").write_text(CANARY)
    (trap.root / "link").symlink_to(trap.outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for name in ("x", "y"):
                os.rename(deep / name, trap.root / "aside")
                os.rename(trap.root / "link", deep / name)
                os.rename(deep / name, trap.root / "link")
                os.rename(trap.root / "aside", deep / name)

    swapping = threading.Thread(target=swap)
    swapping.start()
    whole = refused = 0
    try:
        # Until both have been met often: a walk between two swaps, and one that came upon a link.
        while whole < 200 or refused < 50:
            with suppress(DomainError):
                place, _ = sources.resolve("acme", "deep")
                page = sources.list(place)
                assert {file.path for file in page.files} <= {"x/sub/fine.txt", "y/sub/fine.txt"}
                assert {skipped.path for skipped in page.skipped} <= {"x", "y"}
                whole += len(page.files) == 2
                refused += bool(page.skipped)
            for path in ("x/sub/fine.txt", "y/sub/fine.txt"):
                with suppress(DomainError):
                    assert sources.read(place, path) == b"fine"
    finally:
        stop.set()
        swapping.join()
