"""An export holds all of one tenant, in order and in bounded memory, and always says how it ended."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from services.mesh.audit import AuditEvent
from services.mesh.errors import DependencyUnavailable, TenantNotFound, UploadNotFound
from services.mesh.identity import Caller, caller
from services.mesh.quotas import Amounts
from services.system.adapters.memory import (
    MemoryAuditLog,
    MemoryQuotaStore,
    MemoryRevocationStore,
    MemoryTenantStore,
    MemoryUsageStore,
)
from services.system.audit import Audit
from services.system.export import Ended, Exported, Exports, OriginalPart
from services.system.operators import Operators
from services.system.ports import Archived
from services.system.quotas import Quotas
from services.system.records import Figures, Granularity, Quota, Revocation, UsageRow
from services.system.revocations import Revocations
from services.system.usage import SearchUsage
from tests.system_records import event
from tests.unit.test_system_quotas import FakeUsage
from tests.unit.test_system_revocations import FakePublisher

ANN = Caller("acme", "ann", frozenset({"admin"}))
OPERATOR = Caller("operator", "olga", frozenset({"admin"}))


@dataclass
class FakeArchive:
    """Collections with documents, by tenant; originals by hash; `fails_at` breaks a listing."""

    kept: dict[str, dict[str, list[tuple[str, str]]]] = field(
        default_factory=lambda: {
            "acme": {"one": [("a", "h1"), ("b", "h2"), ("c", "")], "two": [("d", "h1"), ("e", "gone")]},
            "globex": {"theirs": [("x", "h9")]},
        }
    )
    originals: dict[str, list[bytes]] = field(
        default_factory=lambda: {"h1": [b"12", b"3"], "h2": [], "h9": [b"secret"]}
    )
    read: list[str] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)
    fails_at: str = ""

    async def collections(self) -> AsyncIterator[Archived]:
        self.callers.append(caller())
        for name in self.kept.get(caller().tenant, {}):
            yield Archived("collection", f"collections/{name}", b"")

    async def documents(self, collection: str) -> AsyncIterator[Archived]:
        for name, content_hash in self.kept[caller().tenant][collection.rpartition("/")[2]]:
            if name == self.fails_at:
                raise DependencyUnavailable("collections is unavailable")
            yield Archived("document", f"{collection}/documents/{name}", b"", content_hash)

    async def original(self, content_hash: str) -> AsyncIterator[bytes]:
        self.read.append(content_hash)
        if content_hash not in self.originals:
            raise UploadNotFound("not kept")
        for part in self.originals[content_hash]:
            yield part

    async def jobs(self) -> AsyncIterator[Archived]:
        yield Archived("job", f"jobs/{caller().tenant}", b"")

    async def webhooks(self) -> AsyncIterator[Archived]:
        yield Archived("webhook", f"webhooks/of-{caller().tenant}", b"")


@pytest.fixture
def archive() -> FakeArchive:
    return FakeArchive()


@pytest.fixture
async def exports(archive: FakeArchive) -> Exports:
    operators = Operators("operator")
    log, revoked = MemoryAuditLog(), MemoryRevocationStore()
    await log.record([event(number, code="OK") for number in range(250)])
    await log.record([event(999, tenant="globex", code="OK")])
    made = Revocation("acme", "r1", "leaver", "", "left", "ann", event().event_time, '"e"')
    await revoked.add(made)
    quotas = Quotas(MemoryQuotaStore(), FakeUsage(), operators, defaults=Amounts(1, 2, 3, 4))
    usage = SearchUsage(MemoryUsageStore(), MemoryTenantStore(), retention=timedelta(days=1))
    await usage.add("one", [searched("acme", 0), searched("globex", 0), searched("acme", 1)])
    return Exports(archive, quotas, Revocations(revoked, FakePublisher()), usage, Audit(log), operators)


def searched(tenant: str, hours_ago: int) -> UsageRow:
    begin = Granularity.HOUR.begin(datetime.now(UTC) - timedelta(hours=hours_ago))
    return UsageRow(tenant, Granularity.HOUR, begin, "u", "one", Figures(1))


async def exported(exports: Exports, who: Caller = ANN, tenant: str = "acme", **asked: bool) -> list[Exported]:
    return [each async for each in exports.export(tenant, who, originals=asked.get("originals", True))]


def named(records: list[Exported]) -> list[str]:
    """What records of other services are, parts of originals by their hash."""
    told = []
    for each in records:
        if isinstance(each, Archived):
            told.append(each.name.rpartition("/")[2])
        elif isinstance(each, OriginalPart):
            told.append(f"{each.content_hash}@{each.offset_bytes}{'.' if each.final else ''}")
    return told


async def test_everything_comes_in_order_and_each_original_once(exports: Exports) -> None:
    records = await exported(exports)
    assert isinstance(records[0], Quota)
    assert named(records) == ["one", "a", "h1@0", "h1@2.", "b", "h2@0.", "c", "two", "d", "e", "acme", "of-acme"]
    assert [type(each) for each in records[13:17]] == [Revocation, UsageRow, UsageRow, AuditEvent]
    rows = [each for each in records if isinstance(each, UsageRow)]
    assert [each.tenant for each in rows] == ["acme", "acme"]
    assert rows[0].start_time < rows[1].start_time
    events = [each for each in records if isinstance(each, AuditEvent)]
    assert [each.event_id for each in events] == [event(number).event_id for number in range(250)]
    assert records[-1] == Ended()
    parts = [each.data for each in records if isinstance(each, OriginalPart)]
    assert parts == [b"12", b"3", b""]


async def test_originals_are_left_out_where_asked(exports: Exports, archive: FakeArchive) -> None:
    records = await exported(exports, originals=False)
    assert named(records) == ["one", "a", "b", "c", "two", "d", "e", "acme", "of-acme"]
    assert archive.read == []


async def test_a_failure_half_way_is_the_last_record(exports: Exports, archive: FakeArchive) -> None:
    archive.fails_at = "b"
    records = await exported(exports)
    assert named(records) == ["one", "a", "h1@0", "h1@2."]
    assert isinstance(records[-1], Ended)
    assert isinstance(records[-1].error, DependencyUnavailable)


async def test_another_tenant_is_not_found_but_by_an_operator(exports: Exports, archive: FakeArchive) -> None:
    with pytest.raises(TenantNotFound):
        await exported(exports, tenant="globex")
    assert archive.callers == []
    assert named(await exported(exports, OPERATOR)) == named(await exported(exports))
    assert {each.tenant for each in archive.callers} == {"acme"}
    assert archive.callers[0].subject == "olga"


async def test_documents_are_read_whatever_their_acl_and_whatever_else_the_token_allows(
    exports: Exports, archive: FakeArchive
) -> None:
    await exported(exports)
    assert "documents.write" in archive.callers[0].scopes


async def test_a_stream_out_of_time_says_so_before_it_is_cut_off(exports: Exports) -> None:
    records = [each async for each in exports.export("acme", ANN, originals=True, timeout_s=5.0)]
    assert len(records) == 2
    assert isinstance(records[-1], Ended)
    assert records[-1].error is not None
