"""Extraction of files made to cost whoever opens them: each is bounded, says by what, and costs no other document."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from services.jobs.adapters.xberg import ExtractionLimits, XbergExtractor
from services.jobs.confinement import _libc
from services.jobs.extraction import ExtractedText, Syntax
from services.jobs.structure import boundaries_of, headline_of, sections_of
from services.mesh.errors import DomainError
from services.mesh.media_types import media_type_of
from tests import sample_files as samples
from tests.hostile_files import PACKED, Hostile, external, hostile_files, packed, with_prolog

GOOD = samples.docx([(0, "still fine")])
_LANDLOCK = _libc.syscall(444, None, 0, 1) > 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def extractor() -> AsyncIterator[XbergExtractor]:
    """One for all, so that whatever a file leaves behind meets the next one."""
    async with XbergExtractor.open(ExtractionLimits(memory_bytes=512 << 20)) as extractor:
        yield extractor


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("hostile", hostile_files(slow=False), ids=str)
async def test_a_hostile_file_costs_itself_at_most_and_is_told_why(extractor: XbergExtractor, hostile: Hostile) -> None:
    found = await outcome(extractor, hostile.name, hostile.make())
    if hostile.reason:
        assert isinstance(found, DomainError), found
        assert (found.reason, found.message.partition(": ")[0]) == (hostile.reason, hostile.name)
        assert hostile.told in found.message
    else:
        assert isinstance(found, ExtractedText), found
        assert hostile.told in found.text
        assert "root:" not in found.text
    assert (await extractor.extract(GOOD, name="good.docx")).text == "still fine\n"


async def outcome(extractor: XbergExtractor, name: str, content: bytes) -> ExtractedText | DomainError:
    try:
        return await extractor.extract(content, name=name)
    except DomainError as refused:
        return refused


async def test_a_file_that_works_for_ever_is_stopped_in_time_and_the_next_finds_a_process_that_is_up() -> None:
    slow = [each for each in hostile_files() if each.slow]
    assert len(slow) > 1
    async with XbergExtractor.open(ExtractionLimits(timeout_s=0.5)) as extractor:
        for hostile in slow:
            found = await outcome(extractor, hostile.name, hostile.make())
            assert isinstance(found, DomainError), found
            assert (found.reason, hostile.told in found.message) == (hostile.reason, True)
            [standing_by] = extractor._idle
            assert standing_by._process.poll() is None


async def test_a_process_that_a_document_leaves_short_of_memory_is_not_used_again() -> None:
    async with XbergExtractor.open(ExtractionLimits(memory_bytes=200 << 20)) as extractor:
        await extractor.extract(b"plain", name="a.txt")
        [plain] = extractor._children
        await extractor.extract(GOOD, name="good.docx")  # the parser alone takes more than three quarters of that
        assert plain not in extractor._children


@pytest.mark.parametrize("kind", PACKED)
async def test_no_entity_makes_the_parser_ask_the_network(kind: str) -> None:
    asked = asyncio.Event()
    server = await asyncio.start_server(lambda reader, writer: asked.set(), "127.0.0.1", 0)
    uri = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/e.dtd"
    async with server, XbergExtractor.open() as extractor:
        await outcome(extractor, f"a.{kind}", packed(kind, with_prolog(external(uri), b"victim")))
    assert not asked.is_set()


_TRIES = """
import ctypes, json, os, signal, socket, subprocess, sys, threading
from services.jobs.confinement import confine

def tried(what):
    try:
        what()
    except BaseException as error:
        return type(error).__name__
    return "done"

def signalled():
    if ctypes.CDLL(None, use_errno=True).kill(os.getppid(), 0):
        raise PermissionError

def in_thread():
    thread = threading.Thread(target=lambda: found.append(tried(socket.socket)))
    thread.start()
    thread.join()

found = []
confine(1 << 30, os.getppid())
answers = {
    "read": tried(lambda: open(sys.argv[1]).read()),
    "list": tried(lambda: os.listdir(os.path.dirname(sys.argv[1]))),
    "environment of the parent": tried(lambda: open(f"/proc/{os.getppid()}/environ").read()),
    "write": tried(lambda: open(sys.argv[1], "a").write("x" * 9)),
    "remove": tried(lambda: os.unlink(sys.argv[1])),
    "internet": tried(socket.socket),
    "unix": tried(lambda: socket.socket(socket.AF_UNIX)),
    "fork": tried(os.fork),
    "run": tried(lambda: subprocess.run(["/bin/true"])),
    "signal": tried(signalled),
    "thread": tried(in_thread),
    "import": tried(lambda: __import__("encodings.shift_jis") and __import__("xml.dom.minidom")),
    "memory": tried(lambda: bytearray(2 << 30)),
}
print(json.dumps(answers | {"socket of a thread": found[0]}))
"""


def tries(path: Path) -> Mapping[str, Any]:
    done = subprocess.run([sys.executable, "-c", _TRIES, str(path)], capture_output=True, text=True, check=True)
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


def test_a_confined_process_reaches_nothing_but_its_own_code(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    found = tries(secret)
    refused = ["internet", "unix", "socket of a thread", "fork", "run", "signal"]
    if _LANDLOCK:
        refused += ["read", "list", "environment of the parent", "write", "remove"]
    assert {name: found[name] for name in refused} == dict.fromkeys(refused, "PermissionError")
    assert (found["memory"], found["thread"], found["import"]) == ("MemoryError", "done", "done")
    assert secret.read_text() == "secret"


def test_a_process_that_runs_as_root_cannot_raise_its_limits_again() -> None:
    code = (
        "import os, resource; from services.jobs.confinement import confine; confine(1 << 30, os.getppid())\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "not allowed to raise maximum limit" in done.stderr


@pytest.mark.parametrize(
    ("work", "text"),
    [
        (lambda text: media_type_of(text.encode(), "a"), "<!---->" * 600),
        (lambda text: headline_of(text, Syntax.MARKDOWN), "# " + "[" * 16_000),
        (lambda text: sections_of(text, Syntax.MARKDOWN), "# " + "[" * 1_000_000),
        (lambda text: sections_of(text, Syntax.CODE), "public " * 50_000),
        (lambda text: boundaries_of(text, Syntax.PLAIN), "." + " " * 200_000 + "a"),
        (lambda text: boundaries_of(text, Syntax.MARKDOWN), "\n \t" * 100_000 + "|" * 100_000),
    ],
)
def test_what_a_worker_does_itself_with_a_text_takes_no_time_to_speak_of(work: Callable[[str], Any], text: str) -> None:
    """It holds the interpreter meanwhile, heartbeats and all; the pytest timeout ends what backtracks."""
    work(text)
