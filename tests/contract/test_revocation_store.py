"""Every store of revocations keeps the same promises."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.mesh.errors import RequestIdReused, RevocationNotFound
from services.mesh.receipts import Receipt
from services.system.adapters.memory import MemoryRevocationStore
from services.system.adapters.sql_revocations import SqlRevocationStore
from services.system.ports import RevocationStore
from services.system.records import Revocation
from services.system.revocations import REVOCATIONS
from tests.system_records import LONG_AGO, revocation, system_database

NOW = datetime.now(UTC)
WHOLE = revocation(9, revocation_id="tenant", subject="")


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RevocationStore]:
    if request.param == "memory":
        yield MemoryRevocationStore()
    else:
        async with system_database(request.param, request, tmp_path) as database:
            yield SqlRevocationStore(database)


def receipt(digest: str = "body", *, method: str = "CreateRevocation") -> Receipt:
    return Receipt("acme", method, "r1", digest)


async def listed(store: RevocationStore, filter: str = "", *, tenant: str = "acme", at: datetime = NOW) -> list[str]:
    page = await store.list_revocations(tenant, REVOCATIONS.query(filter=filter, page_size=100), at)
    assert page.total_size == len(page.items)
    return [each.revocation_id for each in page.items]


async def held(store: RevocationStore, at: datetime = NOW) -> set[str]:
    return {each.revocation_id for each in await store.holding(at)}


async def test_one_reads_back_as_it_was_added(store: RevocationStore) -> None:
    for each in (
        revocation(1, expire_time=NOW + timedelta(hours=1)),
        revocation(2, subject="", token_id="jti/büro ☃", reason=""),
    ):
        assert await store.add(each) == each
        assert await store.find("acme", each.revocation_id, NOW) == each
    assert await store.find("other", "r1", NOW) is None
    assert await store.find("acme", "r3", NOW) is None


async def test_the_newest_come_first_and_pages_follow_one_another(store: RevocationStore) -> None:
    for number in range(5):
        await store.add(revocation(number))
    first = await store.list_revocations("acme", REVOCATIONS.query(page_size=2), NOW)
    rest = REVOCATIONS.query(page_size=10, page_token=first.next_page_token)
    found = [*first.items, *(await store.list_revocations("acme", rest, NOW)).items]
    assert [each.revocation_id for each in found] == ["r4", "r3", "r2", "r1", "r0"]
    assert first.total_size == 5


async def test_those_that_have_expired_and_those_of_others_do_not_exist(store: RevocationStore) -> None:
    await store.add(revocation(1, expire_time=NOW))
    await store.add(revocation(2, expire_time=NOW + timedelta(seconds=1)))
    await store.add(revocation(3, tenant="other"))
    assert await listed(store) == ["r2"]
    assert await store.find("acme", "r1", NOW) is None
    assert await held(store) == {"r2", "r3"}
    assert await store.count("acme") == 2
    await store.prune(NOW)
    assert await store.count("acme") == 1
    assert await held(store) == {"r2", "r3"}


@pytest.mark.parametrize(
    ("filter", "found"),
    [
        ('subject = "s1"', ["r1"]),
        ('token_id = "t2"', ["r2"]),
        ("token_id : *", ["r2"]),
        ('reason : "*stolen*"', ["r2"]),
        ('creator = "bob"', ["r3"]),
        ('create_time > "2024-05-01T12:00:02Z"', ["r3", "r2"]),
        ("expire_time : *", ["r3"]),
        ('name = "revocations/r1"', ["r1"]),
    ],
)
async def test_filters_find_by_field(store: RevocationStore, filter: str, found: list[str]) -> None:
    await store.add(revocation(1))
    await store.add(revocation(2, subject="", token_id="t2", reason="laptop stolen"))
    await store.add(revocation(3, creator="bob", expire_time=NOW + timedelta(days=1)))
    assert await listed(store, filter) == found


async def test_answers_to_requests_are_dropped_a_day_later(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    async with system_database("sqlite", request, tmp_path) as database:
        store = SqlRevocationStore(database)
        await store.add(revocation(1), receipt())
        await store.prune(NOW + timedelta(hours=23))
        assert await store.recall(receipt())
        await store.prune(NOW + timedelta(hours=25))
        assert await store.recall(receipt()) is None


async def test_one_of_a_whole_tenant_holds_is_never_listed_and_outlives_what_is_erased(store: RevocationStore) -> None:
    for each in (WHOLE, revocation(1), revocation(2, subject="", token_id="t"), revocation(3, tenant="other")):
        await store.add(each)
    assert await listed(store) == ["r2", "r1"]
    assert await store.find("acme", "tenant", NOW) == WHOLE
    assert await store.erase("acme") == 2
    assert await store.erase("acme") == 0
    assert await held(store) == {"tenant", "r3"}


async def test_adding_again_takes_the_place_of_the_one_before(store: RevocationStore) -> None:
    await store.add(WHOLE)
    again = revocation(10, revocation_id="tenant", subject="")
    await store.add(again)
    assert await store.find("acme", "tenant", NOW) == again
    assert await store.count("acme") == 1


async def test_what_is_removed_is_gone_and_cannot_be_removed_twice(store: RevocationStore) -> None:
    await store.add(revocation(1))
    assert await store.remove(revocation(1)) == revocation(1)
    assert await held(store) == set()
    with pytest.raises(RevocationNotFound):
        await store.remove(revocation(1))


async def test_one_that_changed_meanwhile_is_not_removed(store: RevocationStore) -> None:
    await store.add(revocation(1, etag='"other"'))
    with pytest.raises(RevocationNotFound):
        await store.remove(revocation(1))


async def test_a_receipt_gives_the_same_answer_and_does_nothing_again(store: RevocationStore) -> None:
    first = await store.add(revocation(1), receipt())
    assert await store.add(revocation(2), receipt()) == first
    assert await store.recall(receipt()) == first
    assert await held(store) == {"r1"}
    with pytest.raises(RequestIdReused):
        await store.add(revocation(3), receipt("another body"))
    removing = receipt(method="DeleteRevocation")
    removed = await store.remove(first, removing)
    assert await store.remove(revocation(5), removing) == removed
    assert await store.recall(removing) == removed
    assert await held(store) == set()


async def test_of_two_with_one_receipt_at_once_one_is_done(store: RevocationStore) -> None:
    made = await asyncio.gather(*(store.add(revocation(number), receipt()) for number in range(5)))
    assert len({each.revocation_id for each in made}) == 1
    assert await held(store) == {made[0].revocation_id}


async def test_what_was_refused_leaves_no_receipt(store: RevocationStore) -> None:
    removing = receipt(method="DeleteRevocation")
    with pytest.raises(RevocationNotFound):
        await store.remove(revocation(1), removing)
    assert await store.recall(removing) is None


def test_a_revocation_says_what_every_process_is_told() -> None:
    ends = LONG_AGO + timedelta(days=1)
    told: list[Revocation] = [revocation(1, expire_time=ends), revocation(2, subject="", token_id="t"), WHOLE]
    assert [(each.denial.kind.name, each.denial.value, each.denial.until) for each in told] == [
        ("SUBJECT", "s1", ends.timestamp()),
        ("TOKEN", "t", float("inf")),
        ("TENANT", "", float("inf")),
    ]
