"""What doctor finds wrong with settings, and with what they lead to: each made wrong here, over the real thing."""

import asyncio
import os
import re
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from ragweave.findings import Finding, Severity
from services.collections.migrations import REGISTRY
from services.doctor.__main__ import examine
from services.doctor.answers import Dependency, http, look_at, port, redis
from services.doctor.databases import look_at as look_at_database
from services.doctor.variables import is_known, known_variables, unknown_variables
from services.mesh.redis import open_redis
from tests.jobs_store import Store, store_in
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("r")) as running:
        yield running


@asynccontextmanager
async def dated(ahead_s: float) -> AsyncIterator[str]:
    """The URL of a server that answers 404, by a clock that is so far ahead."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        date = formatdate(time.time() + ahead_s, usegmt=True)
        writer.write(
            f"HTTP/1.1 404 Not Found\r\ndate: {date}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def found(*dependencies: Dependency) -> list[Finding]:
    return await look_at([*dependencies], skew_s=30)


async def test_what_does_not_answer_is_an_error_unless_the_mesh_does_without_it() -> None:
    url = f"http://user:hunter2@127.0.0.1:{free_port()}/?key=hunter2"
    vital = http("the Qdrant server", "RAGWEAVE_RETRIEVAL_QDRANT_URL", url, "nothing can be searched")
    (gone,) = await found(vital)
    assert (gone.severity, gone.why) == (Severity.ERROR, "nothing can be searched")
    assert gone.what.startswith("the Qdrant server at http://***@127.0.0.1:") and "hunter2" not in str(gone)
    assert "RAGWEAVE_RETRIEVAL_QDRANT_URL" in gone.mend
    (late,) = await found(
        port("the OTLP collector", "RAGWEAVE_OTLP_ENDPOINT", url, 4317, "traces are lost", vital=False)
    )
    assert late.severity is Severity.WARNING
    (away,) = await found(redis("the store", "X", "unix:///nowhere.sock", "jobs wait", durable=True))
    assert away.severity is Severity.ERROR


async def test_what_hangs_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.doctor.answers._TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections and never reads from them
        number = server.getsockname()[1]
        (hung,) = await found(http("it", "X", f"http://127.0.0.1:{number}", "so"))
        assert hung.severity is Severity.ERROR and "does not answer" in hung.what
        (open_,) = await found(port("it", "X", f"http://127.0.0.1:{number}", 1, "so"))
        assert open_.severity is Severity.OK


@pytest.mark.parametrize(
    ("ahead_s", "severity", "said"),
    [
        (0, None, ""),
        (20, Severity.WARNING, "behind"),
        (-20, Severity.WARNING, "ahead of"),
        (90, Severity.ERROR, "behind"),
    ],
)
async def test_a_clock_that_differs_from_another_machine_s_is_told(
    ahead_s: float, severity: Severity | None, said: str
) -> None:
    async with dated(ahead_s) as url:
        answered, *skew = await found(http("the key server", "RAGWEAVE_JWKS", url, "so"))
    assert answered.severity is Severity.OK
    assert [each.severity for each in skew] == ([severity] if severity else [])
    for each in skew:
        assert said in each.what and "timedatectl" in each.mend


async def test_a_store_that_may_forget_is_told(store: Store) -> None:
    at = redis("the Redis store", "RAGWEAVE_REDIS_URL", store.url, "so", durable=True)
    assert [each.severity for each in await found(at)] == [Severity.OK]
    async with open_redis(store.url, connections=1) as client:
        for setting, value in (("appendfsync", "everysec"), ("maxmemory-policy", "allkeys-lru")):
            await client.config_set(setting, value)
        _, policy, sync = await found(at)
        assert (policy.mend, sync.mend) == (
            "`CONFIG SET maxmemory-policy noeviction`",
            "`CONFIG SET appendfsync always`",
        )
        await client.config_set("appendonly", "no")
        assert "appendonly no" in (await found(at))[2].what
    cache = redis("the Redis store of answers", "X", store.url, "so", durable=False)
    assert [each.severity for each in await found(cache)] == [Severity.OK]


def test_a_database_that_is_behind_ahead_or_damaged_is_told(tmp_path: Path) -> None:
    file = tmp_path / "registry.db"
    assert look_at_database(REGISTRY, "", file, "X") == [], "it is made when its service first starts"
    with create_engine(f"sqlite:///{file}").begin() as connection:
        REGISTRY.upgrade(connection)
    (fine,) = look_at_database(REGISTRY, "", file, "X")
    assert fine.severity is Severity.OK
    for revision, severity, mend in (
        ("0001", Severity.WARNING, "`ragweave down && ragweave up`"),
        ("9999", Severity.ERROR, "start the version that wrote it"),
    ):
        with sqlite3.connect(file) as changed:
            changed.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        changed.close()
        (told,) = look_at_database(REGISTRY, "", file, "X")
        assert told.severity is severity and revision in told.what and told.mend.startswith(mend)
    file.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    (damaged,) = look_at_database(REGISTRY, "", file, "X")
    assert damaged.severity is Severity.ERROR and "cannot be read" in damaged.what
    unreachable = f"postgresql+psycopg://ann:hunter2@127.0.0.1:{free_port()}/registry"
    (gone,) = look_at_database(REGISTRY, unreachable, file, "RAGWEAVE_COLLECTIONS_DATABASE_URL")
    assert "RAGWEAVE_COLLECTIONS_DATABASE_URL" in gone.mend and "hunter2" not in str(gone)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RAGWEAVE_RETREIVAL_STORE", "did you mean RAGWEAVE_RETRIEVAL_STORE?"),
        ("RAGWEAVE_LOG_LEVLE", "did you mean RAGWEAVE_LOG_LEVEL?"),
        ("RAGWEAVE_WORKER_METRIC_PORT", "did you mean RAGWEAVE_WORKER_METRICS_PORT?"),
        ("ragweave_brand_new", "unset ragweave_brand_new"),
    ],
)
def test_a_variable_that_nothing_reads_is_told_with_the_one_that_was_meant(name: str, meant: str) -> None:
    right = {"RAGWEAVE_PROFILE": "x", "RAGWEAVE_JOBS_2_PORT": "1", "ragweave_tls": "on", "PATH": "/"}
    (told,) = unknown_variables({name: "1", **right})
    assert (told.severity, told.what.split()[0]) == (Severity.WARNING, name) and told.mend.startswith(meant)


def test_every_variable_that_the_code_names_is_known() -> None:
    named = set()
    for folder in ("ragweave", "services"):
        for path in (ROOT / folder).rglob("*.py"):
            named |= set(re.findall(r"\bRAGWEAVE_[A-Z0-9_]*", path.read_text()))
    known = known_variables()
    assert sorted(each for each in named if not is_known(each, known) and not each.endswith("_")) == []


def test_settings_that_nothing_starts_with_are_told_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("RAGWEAVE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAGWEAVE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("RAGWEAVE_JOBS_SLOTS", "none")
    told = [*examine(stopped=True)]
    assert {each.severity for each in told} == {Severity.ERROR}
    assert all(each.what.startswith("RAGWEAVE_JOBS_SLOTS: ") for each in told)


def test_what_is_weak_is_a_warning_in_development_and_an_error_in_production(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("RAGWEAVE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAGWEAVE_DATA_DIR", str(tmp_path))
    for profile, severity in (("development", Severity.WARNING), ("production", Severity.ERROR)):
        monkeypatch.setenv("RAGWEAVE_PROFILE", profile)
        told = [each for each in examine(stopped=True) if "key of service tokens" in each.what]
        assert [each.severity for each in told] == [severity]
