"""What system publishes, every process knows; and what it knew, it goes on knowing."""

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
import structlog

from services.mesh.deny_list import KEY, LIST, Denial, DenyList, Kind, packed, unpacked
from services.mesh.errors import DependencyUnavailable
from services.mesh.identity import Caller
from services.mesh.redis import open_redis
from services.system.adapters.redis_deny_list import RedisDenyList
from tests.jobs_store import Store, store_in

ANN = Caller(tenant="acme", subject="ann", token_id="t-ann")
BOB = Caller(tenant="acme", subject="bob", token_id="t-bob")
SUBJECT = Denial("acme", Kind.SUBJECT, "ann")
TOKEN = Denial("acme", Kind.TOKEN, "t-ann")
TENANT = Denial("acme", Kind.TENANT)


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("r")) as running:
        yield running


@pytest.fixture
async def client(store: Store) -> AsyncIterator[Any]:
    async with open_redis(store.url, connections=2) as opened:
        yield opened


def deny_list(client: Any, **given: Any) -> DenyList:
    return DenyList(client, refresh_s=0.05, **given)


async def knowing(client: Any, *denials: Denial, **given: Any) -> DenyList:
    await RedisDenyList(client).publish(denials)
    made = deny_list(client, **given)
    await made.refresh()
    return made


@pytest.mark.parametrize(
    ("denial", "denied", "let_in"),
    [
        (SUBJECT, [ANN, replace(ANN, token_id="another"), replace(ANN, service="jobs")], [BOB]),
        (TOKEN, [ANN, replace(ANN, subject="whoever"), replace(ANN, service="jobs")], [BOB, replace(ANN, token_id="")]),
        (TENANT, [ANN, BOB, Caller("acme", "anonymous", anonymous=True), replace(ANN, service="jobs")], []),
    ],
    ids=["subject", "token", "tenant"],
)
async def test_a_denial_refuses_whom_it_names_and_nobody_else(
    client: Any, denial: Denial, denied: list[Caller], let_in: list[Caller]
) -> None:
    known = await knowing(client, denial)
    assert all(known.denies(each) for each in denied)
    others = [replace(each, tenant="other") for each in (*denied, *let_in)]
    assert not any(known.denies(each) for each in (*let_in, *others))
    assert not any(known.denies(replace(each, by_itself=True)) for each in denied)


async def test_nobody_is_denied_by_being_like_another(client: Any) -> None:
    known = await knowing(client, Denial("acme", Kind.SUBJECT, "t-bob"), Denial("acme", Kind.TOKEN, "ann"))
    assert not known.denies(ANN)
    assert not known.denies(BOB)
    named_so = await knowing(client, Denial("acme", Kind.SUBJECT, "anonymous"))
    assert not named_so.denies(Caller("acme", "anonymous", anonymous=True))


async def test_a_denial_ends_at_its_time_without_anybody_publishing(client: Any) -> None:
    now = [time.time()]
    known = await knowing(client, replace(SUBJECT, until=now[0] + 5), clock=lambda: now[0])
    assert known.denies(ANN)
    now[0] += 5
    assert not known.denies(ANN)


async def test_of_two_for_one_the_later_end_counts(client: Any) -> None:
    now = time.time()
    for denials in ([SUBJECT, replace(SUBJECT, until=now - 1)], [replace(SUBJECT, until=now - 1), SUBJECT]):
        assert (await knowing(client, *denials)).denies(ANN)


async def test_what_is_published_anew_replaces_what_was(client: Any) -> None:
    known = await knowing(client, SUBJECT)
    await RedisDenyList(client).publish([TOKEN])
    await known.refresh()
    assert known.denies(ANN)
    assert not known.denies(replace(ANN, token_id=""))
    await RedisDenyList(client).publish([])
    await known.refresh()
    assert not known.denies(ANN)


async def test_until_the_list_was_read_nobody_is_let_in_and_the_process_is_not_ready(client: Any) -> None:
    unread = deny_list(client)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            await unread.refresh()
    assert [(line["event"], line["known"]) for line in lines] == [("the deny list is not current", False)]
    for who in (ANN, Caller("public", "anonymous", anonymous=True)):
        with pytest.raises(DependencyUnavailable):
            unread.denies(who)
    assert not unread.denies(Caller.of_service("retrieval", "public")), "or nothing could ever start"
    with pytest.raises(DependencyUnavailable, match="system service publishes"):
        await unread.check()
    await RedisDenyList(client).publish([])
    await unread.refresh()
    await unread.check()
    assert not unread.denies(ANN)


async def test_while_the_store_is_away_or_has_lost_the_list_the_last_copy_counts(client: Any, store: Store) -> None:
    known = await knowing(client, SUBJECT)
    await client.delete(KEY)
    await known.refresh()
    assert known.denies(ANN)
    await client.hset(KEY, mapping={LIST: b"garbage", "digest": b"x"})
    await known.refresh()
    assert known.denies(ANN)
    store.kill()
    await known.refresh()
    await known.check()
    assert known.denies(ANN)
    store.start()
    await RedisDenyList(client).publish([])
    await known.refresh()
    assert not known.denies(ANN)


async def test_whoever_is_watched_is_told_once_denied(client: Any) -> None:
    known = await knowing(client)
    told: list[str] = []
    with known.watching(ANN, lambda: told.append("ann")), known.watching(BOB, lambda: told.append("bob")):
        await RedisDenyList(client).publish([SUBJECT])
        await known.refresh()
        assert told == ["ann"]
    await RedisDenyList(client).publish([SUBJECT, replace(SUBJECT, value="bob")])
    await known.refresh()
    assert told == ["ann"]


async def test_a_list_of_another_version_is_not_guessed_at(client: Any) -> None:
    content, _ = packed([SUBJECT])
    with pytest.raises(ValueError, match="version 2"):
        unpacked(content.replace(b"[1,", b"[2,", 1))


def test_a_list_is_the_same_whatever_its_order() -> None:
    assert packed([SUBJECT, TOKEN, TENANT]) == packed([TENANT, TOKEN, SUBJECT])
    assert set(unpacked(packed([SUBJECT, TOKEN, TENANT])[0])) == {SUBJECT, TOKEN, TENANT}


async def test_a_store_that_is_away_cannot_be_published_to(client: Any, store: Store) -> None:
    store.kill()
    with pytest.raises(DependencyUnavailable):
        await RedisDenyList(client).publish([])
    with pytest.raises(DependencyUnavailable):
        await RedisDenyList(client).check()
