"""What may be revoked, by whom, and when it holds."""

from collections.abc import Sequence

import pytest

from services.mesh.deny_list import Denial, Kind
from services.mesh.errors import (
    DependencyUnavailable,
    EtagMismatch,
    FailedPrecondition,
    InvalidArgument,
    RequestIdReused,
    RevocationNotFound,
)
from services.mesh.identity import Caller
from services.mesh.receipts import Receipt
from services.system.adapters.memory import MemoryRevocationStore
from services.system.revocations import NewRevocation, Revocations
from tests.system_records import LONG_AGO

ANN = Caller(tenant="acme", subject="ann", scopes=frozenset({"admin"}), token_id="t-ann")
EVE = Caller(tenant="globex", subject="eve", scopes=ANN.scopes)


class FakePublisher:
    """What every process was told last; may be down, or go down after it was asked."""

    def __init__(self) -> None:
        self.told: list[Denial] = []
        self.down = False
        self.goes_down = False

    async def check(self) -> None:
        if self.down:
            raise DependencyUnavailable("the deny list's store does not answer")

    async def publish(self, denials: Sequence[Denial]) -> None:
        if self.down or self.goes_down:
            raise DependencyUnavailable("the deny list's store does not answer")
        self.told = list(denials)


@pytest.fixture
def publisher() -> FakePublisher:
    return FakePublisher()


@pytest.fixture
def revocations(publisher: FakePublisher) -> Revocations:
    return Revocations(MemoryRevocationStore(), publisher, most=3)


def receipt(digest: str = "body", method: str = "CreateRevocation") -> Receipt:
    return Receipt("acme", method, "r1", digest)


async def listed(revocations: Revocations, who: Caller = ANN) -> list[str]:
    return [each.subject or each.token_id for each in (await revocations.list_revocations(who)).items]


async def test_what_is_revoked_is_recorded_and_told_before_it_is_acknowledged(
    revocations: Revocations, publisher: FakePublisher
) -> None:
    made = await revocations.create(NewRevocation(subject="bob", reason="left"), ANN)
    assert (made.tenant, made.subject, made.creator, made.reason) == ("acme", "bob", "ann", "left")
    assert publisher.told == [Denial("acme", Kind.SUBJECT, "bob")]
    assert await listed(revocations) == ["bob"]


async def test_a_tenant_revokes_within_itself_alone(revocations: Revocations, publisher: FakePublisher) -> None:
    await revocations.create(NewRevocation(subject="bob"), EVE)
    assert publisher.told == [Denial("globex", Kind.SUBJECT, "bob")]
    assert await listed(revocations) == []
    (made,) = (await revocations.list_revocations(EVE)).items
    with pytest.raises(RevocationNotFound):
        await revocations.delete(made.name, ANN)


async def test_nobody_locks_themselves_out_but_may_give_up_a_token(
    revocations: Revocations, publisher: FakePublisher
) -> None:
    with pytest.raises(FailedPrecondition, match="yourself"):
        await revocations.create(NewRevocation(subject="ann"), ANN)
    assert publisher.told == []
    await revocations.create(NewRevocation(token_id="t-ann"), ANN)
    assert publisher.told == [Denial("acme", Kind.TOKEN, "t-ann")]


@pytest.mark.parametrize(
    "given",
    [
        NewRevocation(),
        NewRevocation(subject="a", token_id="b"),
        NewRevocation(subject="a\0b"),
        NewRevocation(subject="a", reason="\0"),
        NewRevocation(subject="a", expire_time=LONG_AGO),
    ],
)
async def test_what_names_nobody_or_has_passed_is_refused(revocations: Revocations, given: NewRevocation) -> None:
    with pytest.raises(InvalidArgument):
        await revocations.create(given, ANN)


async def test_a_tenant_has_only_so_many(revocations: Revocations) -> None:
    for subject in "bcd":
        await revocations.create(NewRevocation(subject=subject), ANN)
    with pytest.raises(FailedPrecondition, match="has 3 revocations"):
        await revocations.create(NewRevocation(subject="e"), ANN)
    await revocations.create(NewRevocation(subject="b"), EVE)


async def test_what_ends_is_told(revocations: Revocations, publisher: FakePublisher) -> None:
    made = await revocations.create(NewRevocation(subject="bob"), ANN)
    with pytest.raises(EtagMismatch):
        await revocations.delete(made.name, ANN, etag='"stale"')
    assert await revocations.delete(made.name, ANN, etag=made.etag) == made
    assert publisher.told == []
    with pytest.raises(RevocationNotFound):
        await revocations.delete(made.name, ANN)
    with pytest.raises(InvalidArgument):
        await revocations.delete("bob", ANN)


async def test_validating_changes_nothing(revocations: Revocations, publisher: FakePublisher) -> None:
    await revocations.create(NewRevocation(subject="bob"), ANN, validate_only=True)
    assert (publisher.told, await listed(revocations)) == ([], [])
    made = await revocations.create(NewRevocation(subject="bob"), ANN)
    await revocations.delete(made.name, ANN, validate_only=True)
    assert len(publisher.told) == 1


async def test_while_nobody_can_be_told_nothing_is_recorded(revocations: Revocations, publisher: FakePublisher) -> None:
    publisher.down = True
    with pytest.raises(DependencyUnavailable):
        await revocations.create(NewRevocation(subject="bob"), ANN, receipt=receipt())
    assert await listed(revocations) == []
    publisher.down = False
    await revocations.create(NewRevocation(subject="bob"), ANN, receipt=receipt())
    assert len(publisher.told) == 1


async def test_what_was_recorded_and_not_told_is_when_the_request_comes_again(
    revocations: Revocations, publisher: FakePublisher
) -> None:
    publisher.goes_down = True
    with pytest.raises(DependencyUnavailable):
        await revocations.create(NewRevocation(subject="bob"), ANN, receipt=receipt())
    publisher.goes_down = False
    made = await revocations.create(NewRevocation(subject="bob"), ANN, receipt=receipt())
    assert publisher.told == [made.denial]
    assert await listed(revocations) == ["bob"]
    with pytest.raises(RequestIdReused):
        await revocations.create(NewRevocation(subject="eve"), ANN, receipt=receipt("another"))


async def test_a_sweep_tells_what_was_not_told_and_drops_what_has_expired(publisher: FakePublisher) -> None:
    store = MemoryRevocationStore()
    revocations = Revocations(store, publisher)
    publisher.goes_down = True
    with pytest.raises(DependencyUnavailable):
        await revocations.create(NewRevocation(subject="bob"), ANN)
    publisher.goes_down = False
    await revocations.publish()
    assert [each.value for each in publisher.told] == ["bob"]


async def test_a_whole_tenant_is_denied_and_let_in_again_as_often_as_it_is_said(
    revocations: Revocations, publisher: FakePublisher
) -> None:
    for _ in range(2):
        await revocations.deny_tenant("acme", creator="operator", reason="deleted")
        assert publisher.told == [Denial("acme", Kind.TENANT)]
    assert await listed(revocations) == []
    with pytest.raises(RevocationNotFound):
        await revocations.delete("revocations/tenant", ANN)
    for _ in range(2):
        await revocations.allow_tenant("acme")
        assert publisher.told == []


async def test_erasing_a_tenant_keeps_it_denied(revocations: Revocations, publisher: FakePublisher) -> None:
    await revocations.create(NewRevocation(subject="bob"), ANN)
    await revocations.deny_tenant("acme", creator="operator", reason="deleted")
    assert await revocations.erase("acme") == 1
    await revocations.publish()
    assert publisher.told == [Denial("acme", Kind.TENANT)]
